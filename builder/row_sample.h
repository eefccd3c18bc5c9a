/*
 * row_sample.h - uniform samples of rows without replacement: for codec training, navigation nodes
 * and hot-list queries.
 */
#ifndef NIGHTJAR_BUILDER_ROW_SAMPLE_H
#define NIGHTJAR_BUILDER_ROW_SAMPLE_H

#include <stdint.h>

/* Fills rows[wanted] with distinct rows below `count`, ascending; wanted <= count. A function of
 * its arguments only. O(count) time, no memory: selection sampling, Knuth TAOCP vol. 2, 3.4.2, S.
 */
void row_sample(uint64_t seed, uint32_t count, uint32_t wanted, uint32_t *rows);

#endif
