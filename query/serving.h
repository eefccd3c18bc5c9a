/*
 * serving.h - which generation is served, and its replacement by the next one under load.
 *
 * A generation being served is a `struct served`: an index and an engine over it. Whoever asks it
 * something holds a reference from serving_acquire() until the answer is done, so that a swap
 * happens between two queries: those begun before it end where they began.
 *
 * One thread, the keeper, looks for the next generation when it is asked to, or when ROOT/current
 * changes (inotify); opens it, which verifies all that is held in memory, swaps, and frees the old
 * one after its last query. A generation that does not open is refused and nothing changes.
 */
#ifndef NIGHTJAR_QUERY_SERVING_H
#define NIGHTJAR_QUERY_SERVING_H

#include <limits.h>
#include <stdbool.h>
#include <stdint.h>

#include "common/error.h"
#include "query/engine.h"
#include "query/index.h"
#include "query/proof.h"

enum serving_swap {
    SERVING_OVERLAP, /* the next is opened beside the live one; each has half of the memory */
    SERVING_REPLACE, /* one has all the memory; between freeing it and opening the next there is
                      * nothing to answer from */
};

struct serving_params {
    const char *root;       /* serve what ROOT/current names; borrowed */
    const char *index;      /* or this generation and no other; borrowed. One of them is NULL */
    uint64_t memory_bytes;  /* for the memory tier of all generations held at a time */
    enum serving_swap swap; /* of a root */
    struct engine_params engine;
};

struct served {
    struct index *index;
    struct engine *engine;
    const struct manifest *manifest;
    char name[NAME_MAX + 1]; /* of its directory in the root; of a fixed index: its path's end */
    struct proof proof;      /* what it answered before it went live */
    /* serving.c's own */
    struct serving *serving;
    struct served *next;
    uint32_t references;    /* under serving.lock */
    uint64_t device, inode; /* of its directory */
};

struct serving;

/* Opens what is to be served, on the calling thread, with all CPUs. If the generation that
 * ROOT/current names is at fault, the newest good one takes its place, with an error in the log and
 * in serving_stats; STATUS_NOT_FOUND when nothing was ever published, STATUS_NO_MEMORY when the
 * budget does not suffice (which no other generation would mend), else the fault of `current` if
 * there is no other. The threads that it starts take no signals. */
NODISCARD enum status serving_create(const struct serving_params *params, struct serving **out,
                                     struct error *err);
/* Ends the keeper, then frees what is served, waiting for the last reference. NULL is fine. */
void serving_destroy(struct serving *serving);

/* The live generation, with a reference. NULL while SERVING_REPLACE has none: answer STATUS_BUSY.
 * It has none while it opens the next, and when that and all others of the root fail to open, until
 * one does. Any thread. */
struct served *serving_acquire(struct serving *serving);
/* Likewise, with the answer for when there is none. */
NODISCARD enum status serving_require(struct serving *serving, struct served **out,
                                      struct error *err);
/* Any thread, an engine's worker in complete() too. */
void served_release(struct served *served);

/* What came of a look at ROOT/current. */
struct serving_outcome {
    enum status status; /* OK: the generation below is live and is the one that current names */
    bool swapped;       /* it was not live before */
    struct digest128 generation;
    char name[NAME_MAX + 1];
    struct error error; /* when not OK: why it was refused */
};

/* A wish to be told; the asker's own memory, untouched by it until done() was called, once. */
struct serving_wish {
    void (*done)(struct serving_wish *wish, const struct serving_outcome *outcome);
    struct serving_wish *next;
};

/* Has the keeper look at ROOT/current now. wish->done() is called on the keeper's thread, or in
 * serving_destroy() with STATUS_CANCELLED; NULL: nobody waits. Looks asked for while one is under
 * way are one look after it. STATUS_INVALID for a fixed index. Any thread; does not block. */
NODISCARD enum status serving_reload(struct serving *serving, struct serving_wish *wish,
                                     struct error *err);

struct serving_stats {
    struct engine_stats engine; /* counters of all generations served, gauges of the live one */
    enum serving_swap swap;
    bool fixed;            /* --index: there is no swap */
    bool loading;          /* the next generation is being opened */
    bool fallback;         /* current was at fault when the daemon started, another is served;
                            * until what current names is live */
    uint64_t swaps;        /* generations that went live since the start, the first aside */
    uint64_t refused;      /* that did not */
    uint64_t load_ns;      /* from the look to the switch, of the last that went live; the start's
                            * from opening to ready */
    uint64_t live_ns;      /* since the live one went live */
    uint64_t memory_bytes; /* what one generation may take */
    /* The last refused; empty: none since what current named was live. */
    char refused_name[NAME_MAX + 1];
    char refused_reason[ERROR_TEXT_BYTES];
};
/* Any thread. */
void serving_stats_get(struct serving *serving, struct serving_stats *out);

const char *serving_swap_name(enum serving_swap swap);

#endif
