/*
 * args.h - the command line of every program, as a table.
 *
 * How a main uses it:
 *
 *   struct options options = {.degree = 64};               // defaults live in the targets
 *   const struct args_option table[] = {
 *       {.name = "input", .kind = ARGS_STRING, .target = &options.input, .value_name = "FILE",
 *        .help = "vectors to index", .required = true},
 *       {.name = "degree", .kind = ARGS_U32, .target = &options.degree, .value_name = "R",
 *        .help = "most neighbours a node keeps", .min = 4, .max = 255},
 *       {.name = "metric", .kind = ARGS_STRING, .target = &options.metric,
 *        .choices = "l2|ip|cosine", .help = "distance"},
 *       {.short_name = 'k', .kind = ARGS_U32, .target = &options.k, .min = 1, .help = "hits"},
 *   };
 *   const struct args_spec spec = {.program = "nightjar-build", .summary = "build an index",
 *                                  .options = table, .option_count = ARRAY_LENGTH(table)};
 *   struct args_positionals rest;
 *   struct error err;
 *   switch (args_parse(&spec, argc, argv, &rest, &err)) {
 *   case ARGS_RUN: break;
 *   case ARGS_DONE: return 0;                              // --help or --version went to stdout
 *   case ARGS_USAGE:
 *       fprintf(stderr, "%s: %s\n", spec.program, err.text);
 *       return 2;
 *   }
 *
 * A program with subcommands looks at argv[1] itself and passes (argc - 1, argv + 1) with
 * program = "nightjar search".
 *
 * Every spec also has --help, -h and --version. Options and positionals may come in any order; "--"
 * ends options; a repeated option's last value wins; a unique prefix of a long name is accepted, as
 * getopt_long does.
 *
 * Not thread-safe (getopt_long keeps static state): called by main before there are threads.
 * Allocates nothing. Prints only help and version, on stdout.
 */
#ifndef NIGHTJAR_COMMON_ARGS_H
#define NIGHTJAR_COMMON_ARGS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

enum {
    ARGS_OPTIONS_MAX = 64,
    ARGS_LIST_MAX = 64,
};

/* What `target` points to and how the value is written. */
enum args_kind {
    ARGS_FLAG,     /* bool, set to true; takes no value */
    ARGS_STRING,   /* const char *, borrowed from argv; never empty */
    ARGS_U32,      /* uint32_t, decimal */
    ARGS_U64,      /* uint64_t, decimal */
    ARGS_DOUBLE,   /* double, finite */
    ARGS_MEMORY,   /* uint64_t, bytes: "4G", "512M", "1.5G", "1048576" */
    ARGS_U32_LIST, /* struct args_u32_list: "10,20,40" */
};

struct args_u32_list {
    uint32_t items[ARGS_LIST_MAX];
    uint32_t count;
};

struct args_option {
    const char *name; /* long name without "--"; NULL: short only */
    char short_name;  /* 0: long only */
    enum args_kind kind;
    void *target;           /* holds the default; written only when the option is given */
    const char *value_name; /* in --help; NULL: one chosen by kind */
    const char *help;       /* one phrase; NULL: hidden from --help */
    double min;             /* least value of a number (each, in a list); -INFINITY: none */
    double max;             /* greatest value; 0: none. Integers: both below 2^53 */
    const char *choices;    /* ARGS_STRING: the words allowed, "l2|ip|cosine"; NULL: any */
    bool required;
    bool *given; /* set to true when the option is given; may be NULL */
};

struct args_spec {
    const char *program; /* as in error lines and --version: "nightjar search" */
    const char *summary; /* one sentence for --help */
    const struct args_option *options;
    size_t option_count;         /* <= ARGS_OPTIONS_MAX */
    const char *positional_name; /* "GEN" or "FILE..."; NULL with positional_max 0 */
    size_t positional_min;
    size_t positional_max;
    const char *epilog; /* further lines for --help; may be NULL */
};

/* Points into argv, which parsing has reordered. */
struct args_positionals {
    char *const *items;
    size_t count;
};

enum args_result {
    ARGS_RUN,   /* targets are filled: go on */
    ARGS_DONE,  /* help or version was printed to stdout: exit 0 */
    ARGS_USAGE, /* *err holds one line without the program name: print it and exit 2 */
};

/* Parses argv (argv[0] is skipped and reordered after it) into the targets. `positionals` may be
 * NULL when positional_max is 0. On ARGS_USAGE some targets may have been written. Numbers show a
 * default in
 * --help when it is not 0, strings when it is not NULL. */
NODISCARD enum args_result args_parse(const struct args_spec *spec, int argc, char **argv,
                                      struct args_positionals *positionals, struct error *err);

#endif
