/*
 * partition_balance.c - weights of a power diagram whose cells hold equally many rows of a sample.
 *
 * Such weights are the prices at which an optimal transport of the rows to shards of equal room
 * clears (Aurenhammer, Hoffmann & Aronov, Algorithmica 1998). They are found in two phases:
 *
 *   soften  Entropic transport (Sinkhorn; Cuturi, NIPS'13) with falling temperature. A row is
 * spread over shards by exp(-power distance / temperature), and a shard that is given too much
 *           raises its weight by about the temperature. While it is hot, far clusters trade rows as
 *           readily as neighbours do.
 *   settle  Each shard finds the weight that would be right for it if no other changed, an order
 *           statistic of its rows' margins, and goes half of the way (neighbours meet), with
 *           momentum. Some rounds suffice for a cell among its neighbours, whatever the scale.
 *
 * Settling alone cannot move rows from cluster to cluster when a whole group of cells has to gain:
 * each cell of the group rather takes rows from the others. Softening alone stops short of the last
 * few percent. 100 clusters of Zipf's sizes cut into 128 shards: the largest cell held 4.3 times
 * its share at first, 2.1 settled, 1.15 softened and 1.06 with both; 65,536 rows of SIFT in 100
 * shards went from 1.77 to 1.08 in 40 rounds of softening.
 *
 * Departures from Sinkhorn's: the logarithm in its step and the exponential are replaced by
 * rational approximations, whose results are the same on every machine; what is sought is hard
 * cells, so rounds end as soon as those are even enough.
 *
 * Threads: the caller's team. Loads are sums of integers, and every other value is computed by one
 * thread in one order, so neither the team nor its schedule shows.
 */
#include <assert.h>
#include <float.h>
#include <math.h>
#include <omp.h>
#include <string.h>

#include "builder/partition_internal.h"
#include "common/memory.h"

enum {
    SOFTEN_ROUNDS = 90,
    SETTLE_ROUNDS = 64,
    SOFTEN_BLOCK_ROWS = 64, /* whose shares of all shards stay in the L2 */
    BLOCK_ROWS = 1024,      /* whose best distances stay in the L1 while the shards pass */
    SHARE_ONE = 1 << 20,    /* a row's share of a shard is an integer up to this */
    /* Power distances to look at before a team pays: some 100 us. A round wakes it three times at
     * most, and on a busy machine each may cost a time slice. */
    TEAM_WORK_MIN = 1 << 18,
};

/* A cell may hold so much more or less than its share. */
static const double TOLERANCE = 0.08;
/* In units of the mean distance to a centroid: wide enough for clusters to trade; after all rounds
 * at 1/3600 of it, well within a cell. */
static const double TEMPERATURE_FIRST = 0.5;
static const float TEMPERATURE_FALL = 0.92F;
static const float SETTLE_STEP = 0.5F;
static const float SETTLE_MOMENTUM = 0.5F;
/* Squared distances stop at f32's limit: a sum with a weight may become infinite, but no NaN. */
static const float WEIGHT_MAX = FLT_MAX / 4;

struct balance {
    const float *distances;
    uint32_t row_count;
    uint32_t shard_count;
    uint32_t thread_count;
    float *best;     /* of each row: its least power distance */
    float *second;   /* and the next to it */
    uint32_t *owner; /* and the shard of the first */
    uint32_t *counts;
    float *weights;   /* of this round */
    float *previous;  /* of the one before */
    float *next;      /* of the one after */
    float *kept;      /* of the best round so far */
    uint64_t *loads;  /* what the shards were given while soft, SHARE_ONE a row */
    uint8_t *scratch; /* scratch_bytes for each thread */
    size_t scratch_bytes;
    uint8_t *memory;
    size_t memory_bytes;
};

static bool team_pays(const struct balance *b)
{
    return (size_t)b->row_count * b->shard_count >= TEAM_WORK_MIN;
}

/* ---- order statistics ---- */

int32_t partition_order_key(float value)
{
    int32_t bits;
    memcpy(&bits, &value, sizeof(bits));
    return bits < 0 ? bits ^ INT32_MAX : bits;
}

static float order_value(int32_t key)
{
    int32_t bits = key < 0 ? key ^ INT32_MAX : key;
    float value;
    memcpy(&value, &bits, sizeof(value));
    return value;
}

/* Bisection of the integers: unlike quickselect it needs no copy, and no input makes it slow. */
float partition_kth_largest(const int32_t *keys, size_t count, size_t k)
{
    assert(k >= 1 && k <= count);
    int64_t low = INT32_MIN; /* at least k keys are >= low, and fewer than k are >= high */
    int64_t high = (int64_t)INT32_MAX + 1;
    while (high - low > 1) {
        int32_t middle = (int32_t)((low + high) >> 1);
        size_t above = 0;
        for (size_t i = 0; i < count; i++)
            above += keys[i] >= middle;
        if (above >= k)
            low = middle;
        else
            high = middle;
    }
    return order_value((int32_t)low);
}

/* ---- hard cells ---- */

static void block_assign(const struct balance *b, size_t first, size_t count)
{
    float *best = b->best + first;
    float *second = b->second + first;
    uint32_t *owner = b->owner + first;
    for (size_t i = 0; i < count; i++) {
        best[i] = INFINITY;
        second[i] = INFINITY;
        owner[i] = 0;
    }
    for (uint32_t shard = 0; shard < b->shard_count; shard++) {
        const float *distances = b->distances + (size_t)shard * b->row_count + first;
        float weight = b->weights[shard];
        for (size_t i = 0; i < count; i++) {
            float power = distances[i] + weight;
            float loser = power < best[i] ? best[i] : power;
            owner[i] = power < best[i] ? shard : owner[i];
            best[i] = power < best[i] ? power : best[i];
            second[i] = loser < second[i] ? loser : second[i];
        }
    }
}

/* Fills best, second, owner and counts. */
static void rows_assign(struct balance *b)
{
#pragma omp parallel for schedule(static) if (team_pays(b))
    for (size_t first = 0; first < b->row_count; first += BLOCK_ROWS)
        block_assign(b, first, MIN((size_t)BLOCK_ROWS, b->row_count - first));
    memset(b->counts, 0, b->shard_count * sizeof(*b->counts));
    for (size_t row = 0; row < b->row_count; row++)
        b->counts[b->owner[row]]++;
}

/* ---- soft cells ---- */

/* About exp(-256 x) for x >= 0: (1 + x)^-256. */
static inline float falling(float x)
{
    float power = 1.0F + x;
    for (int i = 0; i < 8; i++)
        power *= power;
    return 1.0F / power;
}

/* Adds what the block's rows give each shard to loads[shard_count]. */
static void block_soften(const struct balance *b, size_t first, float scale, float *parts,
                         uint64_t *loads)
{
    size_t count = MIN((size_t)SOFTEN_BLOCK_ROWS, b->row_count - first);
    const float *best = b->best + first;
    float sums[SOFTEN_BLOCK_ROWS] = {0};

    for (uint32_t shard = 0; shard < b->shard_count; shard++) {
        const float *distances = b->distances + (size_t)shard * b->row_count + first;
        float *part = parts + (size_t)shard * SOFTEN_BLOCK_ROWS;
        float weight = b->weights[shard];
        for (size_t i = 0; i < count; i++) {
            part[i] = falling((distances[i] + weight - best[i]) * scale);
            sums[i] += part[i];
        }
    }
    for (size_t i = 0; i < count; i++) /* >= 1: the best shard's part is 1 */
        sums[i] = (float)SHARE_ONE / sums[i];
    for (uint32_t shard = 0; shard < b->shard_count; shard++) {
        const float *part = parts + (size_t)shard * SOFTEN_BLOCK_ROWS;
        int32_t load = 0;
        for (size_t i = 0; i < count; i++)
            load += (int32_t)(part[i] * sums[i]);
        loads[shard] += (uint64_t)load;
    }
}

/* One round of softening at `temperature`, from what rows_assign() found. */
static void weights_soften(struct balance *b, float temperature)
{
    memset(b->loads, 0, b->shard_count * sizeof(*b->loads));
#pragma omp parallel if (team_pays(b))
    {
        uint8_t *scratch = b->scratch + (size_t)omp_get_thread_num() * b->scratch_bytes;
        uint64_t *loads = (uint64_t *)(void *)scratch;
        float *parts = (float *)(void *)(scratch + size_align(b->shard_count * sizeof(*loads), 64));
        memset(loads, 0, b->shard_count * sizeof(*loads));
#pragma omp for schedule(static)
        for (size_t first = 0; first < b->row_count; first += SOFTEN_BLOCK_ROWS)
            block_soften(b, first, 1.0F / (256.0F * temperature), parts, loads);
#pragma omp critical(partition_loads)
        for (uint32_t shard = 0; shard < b->shard_count; shard++)
            b->loads[shard] += loads[shard];
    }
    double fair = (double)SHARE_ONE * b->row_count / b->shard_count;
    for (uint32_t shard = 0; shard < b->shard_count; shard++) {
        double load = (double)b->loads[shard] / fair;
        /* log(load), which this is close to, has no bound at 0. */
        double step = 2.0 * (load - 1.0) / (load + 1.0);
        b->next[shard] = b->weights[shard] + temperature * (float)step;
    }
}

/* ---- settling ---- */

/* The weight at which the shard would hold `wanted` rows if no other weight changed. */
static float weight_wanted(const struct balance *b, uint32_t shard, uint32_t wanted, int32_t *keys)
{
    const float *distances = b->distances + (size_t)shard * b->row_count;
    for (size_t row = 0; row < b->row_count; row++) {
        /* Up to this weight the row is the shard's. */
        float rival = b->owner[row] == shard ? b->second[row] : b->best[row];
        keys[row] = partition_order_key(rival - distances[row]);
    }
    float weight = partition_kth_largest(keys, b->row_count, wanted);
    return fmaxf(-WEIGHT_MAX, fminf(weight, WEIGHT_MAX));
}

static void weights_settle(struct balance *b)
{
    uint32_t wanted = MAX(1U, (b->row_count + b->shard_count / 2) / b->shard_count);
#pragma omp parallel for schedule(dynamic, 1) if (team_pays(b))
    for (uint32_t shard = 0; shard < b->shard_count; shard++) {
        uint8_t *scratch = b->scratch + (size_t)omp_get_thread_num() * b->scratch_bytes;
        float goal = weight_wanted(b, shard, wanted, (int32_t *)(void *)scratch);
        float now = b->weights[shard];
        b->next[shard] =
            now + SETTLE_STEP * (goal - now) + SETTLE_MOMENTUM * (now - b->previous[shard]);
    }
}

/* ---- rounds ---- */

/* Makes `next` the weights, the least of them 0. */
static void weights_take(struct balance *b)
{
    float least = INFINITY;
    for (uint32_t shard = 0; shard < b->shard_count; shard++)
        least = fminf(least, b->next[shard]);
    for (uint32_t shard = 0; shard < b->shard_count; shard++) {
        b->previous[shard] = b->weights[shard] - least;
        b->weights[shard] = fminf(b->next[shard] - least, WEIGHT_MAX);
    }
}

/* How uneven the cells are: the largest and the least, as parts of an even one. */
static void evenness(const struct balance *b, double *most, double *least)
{
    uint32_t high = 0, low = UINT32_MAX;
    for (uint32_t shard = 0; shard < b->shard_count; shard++) {
        high = MAX(high, b->counts[shard]);
        low = MIN(low, b->counts[shard]);
    }
    double even = (double)b->row_count / b->shard_count;
    *most = high / even;
    *least = low / even;
}

static float temperature_first(const struct balance *b)
{
    double sum = 0;
    size_t count = (size_t)b->row_count * b->shard_count;
    for (size_t i = 0; i < count; i++)
        sum += (double)b->distances[i];
    return (float)(TEMPERATURE_FIRST * sum / (double)count);
}

/* Leaves the result in `kept`. */
static enum status rounds_run(struct balance *b, const struct build_monitor *monitor,
                              struct error *err)
{
    float temperature = temperature_first(b);
    double best = INFINITY;

    for (unsigned round = 0; round < SOFTEN_ROUNDS + SETTLE_ROUNDS; round++) {
        double most, least;
        enum status status = build_monitor_check(monitor, err);
        if (status != STATUS_OK)
            return status;
        rows_assign(b);
        evenness(b, &most, &least);
        bool done = most <= 1 + TOLERANCE && least >= 1 - TOLERANCE;
        if (most < best || done) {
            best = most;
            memcpy(b->kept, b->weights, b->shard_count * sizeof(*b->kept));
        }
        if (done)
            break;
        if (round == SOFTEN_ROUNDS) /* no momentum from the other phase */
            memcpy(b->previous, b->weights, b->shard_count * sizeof(*b->previous));
        /* Where distances are zero or nearly, there is nothing to divide by. */
        if (round < SOFTEN_ROUNDS && temperature >= FLT_MIN)
            weights_soften(b, temperature);
        else
            weights_settle(b);
        weights_take(b);
        temperature *= TEMPERATURE_FALL;
    }
    return STATUS_OK;
}

/* ---- memory ---- */

static void *carve(struct balance *b, size_t count, size_t item_bytes)
{
    void *part = b->memory ? b->memory + b->memory_bytes : NULL;
    b->memory_bytes += size_align(count * item_bytes, 64);
    return part;
}

/* Adds up sizes, and hands out parts of the memory once there is some. At most 2^16 rows, 1000
 * shards and the threads of a machine: nothing overflows. */
static void layout(struct balance *b)
{
    size_t rows = b->row_count, shards = b->shard_count;
    size_t soften =
        size_align(shards * sizeof(uint64_t), 64) + shards * SOFTEN_BLOCK_ROWS * sizeof(float);
    b->memory_bytes = 0;
    b->best = carve(b, rows, sizeof(*b->best));
    b->second = carve(b, rows, sizeof(*b->second));
    b->owner = carve(b, rows, sizeof(*b->owner));
    b->counts = carve(b, shards, sizeof(*b->counts));
    b->weights = carve(b, shards, sizeof(*b->weights));
    b->previous = carve(b, shards, sizeof(*b->previous));
    b->next = carve(b, shards, sizeof(*b->next));
    b->kept = carve(b, shards, sizeof(*b->kept));
    b->loads = carve(b, shards, sizeof(*b->loads));
    b->scratch_bytes = size_align(MAX(soften, rows * sizeof(int32_t)), 64);
    b->scratch = carve(b, b->thread_count, b->scratch_bytes);
}

uint64_t partition_balance_bytes(uint32_t row_count, uint32_t shard_count, uint32_t threads)
{
    struct balance b = {
        .row_count = row_count, .shard_count = shard_count, .thread_count = threads};
    layout(&b);
    return b.memory_bytes;
}

enum status partition_balance(const struct partition_balance_input *input, float *weights,
                              struct error *err)
{
    assert(input->shard_count >= 1 && input->row_count >= input->shard_count);
    struct balance b = {
        .distances = input->distances,
        .row_count = input->row_count,
        .shard_count = input->shard_count,
        .thread_count = (uint32_t)omp_get_max_threads(),
    };
    void *memory = NULL;
    layout(&b);
    enum status status = bulk_alloc(b.memory_bytes, 1, "balancing of shards", &memory, err);
    if (status != STATUS_OK)
        return status;
    b.memory = memory;
    layout(&b);
    status = rounds_run(&b, input->monitor, err);
    if (status == STATUS_OK)
        memcpy(weights, b.kept, b.shard_count * sizeof(*weights));
    bulk_free(memory, b.memory_bytes, 1);
    return status;
}
