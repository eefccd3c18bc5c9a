/*
 * searcher.h - asks queries, in batches, of a daemon or of an index opened in this process, with
 * answers that look the same.
 */
#ifndef NIGHTJAR_TOOLS_SEARCHER_H
#define NIGHTJAR_TOOLS_SEARCHER_H

#include <stdbool.h>
#include <stdint.h>

#include "query/client.h"
#include "query/question.h"
#include "tools/cmd.h"

enum { SEARCHER_BATCH = 256 }; /* queries held at once; in process, also how many are in flight */

/* Borrowed, as all it points to, while the searcher is open. */
struct searcher_params {
    const struct cmd_search_options *common;
    uint32_t search_list;
    float search_ratio;
    bool explain;
    uint32_t pages; /* that will be asked for; 0: no cursors */
    bool by_key;    /* queries are keys */
};

struct searcher_answer {
    uint32_t hit_count;
    uint32_t flags;            /* enum client_result_flags */
    struct search_stats stats; /* of a daemon without explain: reads and cache_hits only */
};

/* Some queries: the next page of each of them, where there are pages. */
struct searcher_batch {
    const void *vectors;  /* count rows, packed */
    const uint64_t *keys; /* or count keys */
    uint32_t count;       /* <= SEARCHER_BATCH */
    uint32_t first;       /* of all queries, for errors */
};

struct searcher {
    const struct searcher_params *params;
    size_t vector_bytes;
    struct client *client; /* or */
    struct cmd_local local;
    struct question question;   /* of local */
    struct search_query *batch; /* likewise */
    uint8_t *rooms;             /* likewise, of queries by key */
    struct client_cursor cursors[SEARCHER_BATCH];
    /* what came of the last batch */
    struct searcher_answer answers[SEARCHER_BATCH];
    struct search_hit *hits; /* k for each */
    struct client_chosen chosen;
};

/* Connects, or opens the index. *target is what is asked. On failure searcher_close() is due, too.
 */
NODISCARD enum status searcher_open(struct searcher *self, const struct searcher_params *params,
                                    struct cmd_target *target, struct error *err);
void searcher_close(struct searcher *self);

/* Back to the first page. */
void searcher_rewind(struct searcher *self);
/* Asks a batch, or its next page, and waits for all answers. */
NODISCARD enum status searcher_ask(struct searcher *self, const struct searcher_batch *batch,
                                   struct error *err);

#endif
