/*
 * engine_pace.c - see engine_pace.h.
 */
#include "query/engine_pace.h"

#include "common/compiler.h"

enum {
    INTERVAL_SHIFT = 6, /* an average over some 64 completions: they come in bunches */
    WAIT_MARGIN = 4,    /* a quarter more, for the pace varies: better BUSY now than late */
    SERVICE_SHIFT = 4,
    OUTLIER = 4,         /* a stalled device, for one, says nothing of the next query */
    DEVIATIONS_KEPT = 2, /* above the mean; about 95 % of queries */
    GIVEN_UP_FACTOR = 2,
};

static uint64_t get(const atomic_uint_fast64_t *value)
{
    return atomic_load_explicit(value, memory_order_relaxed);
}

static void set(atomic_uint_fast64_t *value, uint64_t to)
{
    atomic_store_explicit(value, to, memory_order_relaxed);
}

/* Never down to 0, which means "not known". */
static uint64_t average(uint64_t before, uint64_t sample, uint32_t shift)
{
    uint64_t now = sample >= before ? before + ((sample - before) >> shift)
                                    : before - ((before - sample) >> shift);
    return MAX(now, UINT64_C(1));
}

void engine_pace_completed(struct engine_pace *pace, uint64_t now_ns, bool waiting)
{
    if (waiting && pace->last_ns != 0) {
        uint64_t sample = now_ns - pace->last_ns;
        uint64_t before = get(&pace->interval_ns);
        set(&pace->interval_ns,
            before ? average(before, sample, INTERVAL_SHIFT) : MAX(sample, UINT64_C(1)));
    }
    pace->last_ns = waiting ? now_ns : 0;
}

void engine_pace_took(struct engine_pace *pace, uint64_t duration_ns, uint32_t candidates,
                      bool given_up)
{
    /* How much longer it would have taken is not known. Without a guess the mean would be one of
     * those that were quick enough, and as many more be begun and given up. */
    uint64_t sample = duration_ns / candidates * (given_up ? GIVEN_UP_FACTOR : 1);
    uint64_t mean = get(&pace->candidate_ns);
    if (given_up && sample <= mean)
        return;
    if (mean == 0) {
        set(&pace->candidate_ns, MAX(sample, UINT64_C(1)));
        set(&pace->deviation_ns, sample / 2);
        return;
    }
    sample = MIN(sample, OUTLIER * mean);
    uint64_t off = sample > mean ? sample - mean : mean - sample;
    set(&pace->deviation_ns, average(get(&pace->deviation_ns), off, SERVICE_SHIFT));
    set(&pace->candidate_ns, average(mean, sample, SERVICE_SHIFT));
}

uint64_t engine_pace_service_ns(const struct engine_pace *pace, uint32_t candidates)
{
    return (get(&pace->candidate_ns) + DEVIATIONS_KEPT * get(&pace->deviation_ns)) * candidates;
}

uint64_t engine_pace_wait_ns(const struct engine_pace *pace, uint32_t ahead)
{
    uint64_t wait_ns = get(&pace->interval_ns) * ahead;
    return wait_ns + wait_ns / WAIT_MARGIN;
}
