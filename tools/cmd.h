/*
 * cmd.h - what the subcommands of `nightjar` share.
 *
 * Each subcommand is a function in cmd_<name>.c that main() calls with argv[0] = the subcommand. It
 * writes results to stdout and reports a failure as an outcome and *err; only main() prints that.
 */
#ifndef NIGHTJAR_TOOLS_CMD_H
#define NIGHTJAR_TOOLS_CMD_H

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

#include "common/args.h"
#include "common/element.h"
#include "common/error.h"
#include "layout/manifest.h"
#include "query/engine.h"
#include "query/recall_choice.h"

/* The exit codes of the program. */
enum cmd_outcome {
    CMD_OK = 0,
    CMD_FAILED = 1,
    CMD_USAGE = 2,
};

enum cmd_outcome cmd_bench(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_codes(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_convert(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_doctor(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_generate(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_groundtruth(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_info(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_list(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_prune(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_publish(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_rollback(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_search(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_stats(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_reload(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_top(int argc, char **argv, struct error *err);
enum cmd_outcome cmd_verify(int argc, char **argv, struct error *err);

enum { CMD_THREADS_MAX = 1024 };

/* Parses the command line; true: go on. False: *outcome is what to return. */
NODISCARD bool cmd_parse(const struct args_spec *spec, int argc, char **argv,
                         struct args_positionals *rest, enum cmd_outcome *outcome,
                         struct error *err);

/* Formats a usage error into *err and returns CMD_USAGE. */
enum cmd_outcome cmd_usage(struct error *err, const char *format, ...) PRINTF_LIKE(2, 3);

/* STATUS_OK is CMD_OK, anything else CMD_FAILED. */
enum cmd_outcome cmd_outcome_of(enum status status);

/* What queries must look like. */
struct cmd_target {
    const char *name; /* path of the index or socket, for errors */
    uint64_t vector_count;
    uint32_t dim;
    enum element_type type;
    enum metric metric;
};

struct cmd_queries {
    const char *path;
    uint8_t *rows; /* packed */
    size_t row_bytes;
    uint32_t count;
};

/* Loads the first `limit` (0: all) rows of a query file and checks that they suit the target:
 * dimension, type, finite values, and a direction under cosine. */
NODISCARD enum status cmd_queries_load(const char *path, uint64_t limit,
                                       const struct cmd_target *target, struct cmd_queries *out,
                                       struct error *err);
void cmd_queries_free(struct cmd_queries *queries);

/* An index opened in this process, with its engine. */
struct cmd_local_params {
    const char *path;
    const char *memory; /* "codes", or a size as memory_parse() takes it */
    uint32_t threads;   /* 0: one a CPU */
    uint32_t in_flight; /* queries that will be in flight at once */
    enum block_io_kind io_kind;
};
struct cmd_local {
    struct index *index;
    struct engine *engine;
};
NODISCARD enum status cmd_local_open(const struct cmd_local_params *params, struct cmd_local *out,
                                     struct error *err);
void cmd_local_close(struct cmd_local *local);
struct cmd_target cmd_local_target(const struct cmd_local *local);

/* The options that search and bench have in common. */
struct cmd_search_options {
    const char *socket; /* one of socket, index */
    const char *index;
    const char *queries;
    const char *memory; /* with index, as are threads */
    uint32_t threads;
    uint32_t k;
    uint32_t beam_width;
};
enum { CMD_SEARCH_OPTIONS = 7 };

/* Sets the defaults of *self and describes its options in `table`. */
void cmd_search_options_init(struct cmd_search_options *self,
                             struct args_option table[CMD_SEARCH_OPTIONS]);

/* What can be checked before an index is opened: one source of answers, k, L and ratio within their
 * limits. CMD_OK or CMD_USAGE. */
enum cmd_outcome cmd_search_options_check(const struct cmd_search_options *self,
                                          uint32_t search_list, double ratio, struct error *err);

/* --recall R, in place of --search-list and --search-ratio. */
struct cmd_recall {
    double target;
    bool given;
};
struct args_option cmd_recall_option(struct cmd_recall *self);
/* One of --recall and --search-list; an index to pick by; a recall that there can be. CMD_OK or
 * CMD_USAGE. */
enum cmd_outcome cmd_recall_check(const struct cmd_recall *self,
                                  const struct cmd_search_options *common, bool list_given,
                                  bool ratio_given, struct error *err);
/* Picks by the curves of the generation that is open. */
NODISCARD enum status cmd_recall_choose(const struct cmd_recall *self, const struct index *index,
                                        uint32_t k, struct recall_choice *out, struct error *err);
/* "recall 0.95: list 30, ratio 1.075: expected 0.9500 for 17.3 blocks a query, by ..." */
void cmd_recall_print(FILE *out, const struct cmd_recall *self, const struct recall_choice *choice);

/* The rest, when the target is known: k <= vector_count. */
NODISCARD enum status cmd_target_check(const struct cmd_target *target, uint32_t k,
                                       struct error *err);

/* A digest in hexadecimal, as every command prints it. */
enum { CMD_DIGEST_BYTES = 33 };
void cmd_digest_format(const struct digest128 *digest, char text[CMD_DIGEST_BYTES]);

/* Writes `text` as a JSON string, quotes included. */
void cmd_json_string(FILE *out, const char *text);

#endif
