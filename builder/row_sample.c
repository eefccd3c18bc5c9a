/*
 * row_sample.c - selection sampling over the rows. Stateless and thread-safe.
 *
 * Every row is visited once in order and taken with probability (still wanted) / (still to come),
 * which gives each subset the same chance. One random number a row costs a few ns, far less than
 * what the stages that ask for samples do with a row.
 */
#include "builder/row_sample.h"

#include <assert.h>

#include "common/random.h"

void row_sample(uint64_t seed, uint32_t count, uint32_t wanted, uint32_t *rows)
{
    assert(wanted <= count);
    uint32_t taken = 0;

    for (uint32_t row = 0; taken < wanted; row++)
        if (random_below(seed, row, count - row) < wanted - taken)
            rows[taken++] = row;
}
