/*
 * nightjar.c - main() of the `nightjar` command: finds the subcommand and reports its failure.
 *
 * Thread rules: none; subcommands start threads of their own and join them before they return.
 */
#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "common/version.h"
#include "tools/cmd.h"

struct command {
    const char *name;
    enum cmd_outcome (*run)(int argc, char **argv, struct error *err);
    const char *summary;
};

static const struct command commands[] = {
    {"search", cmd_search, "find the nearest neighbours of queries"},
    {"get", cmd_get, "show the vectors that have some keys"},
    {"bench", cmd_bench, "measure recall, throughput and latency"},
    {"publish", cmd_publish, "make a generation the one that is served"},
    {"rollback", cmd_rollback, "go back to the generation that was served before"},
    {"list", cmd_list, "show the generations of a root"},
    {"prune", cmd_prune, "remove old generations"},
    {"info", cmd_info, "show what a generation is"},
    {"verify", cmd_verify, "check every byte of a generation"},
    {"stats", cmd_stats, "show the counters of a running daemon"},
    {"top", cmd_top, "show what a running daemon does, again and again"},
    {"reload", cmd_reload, "have a daemon serve what is published now"},
    {"doctor", cmd_doctor, "say whether this machine is ready to serve"},
    {"groundtruth", cmd_groundtruth, "compute exact nearest neighbours"},
    {"codes", cmd_codes, "compare codecs and code sizes on your vectors"},
    {"generate", cmd_generate, "make synthetic vectors and queries"},
    {"convert", cmd_convert, "change the format or element type of a vector file"},
};

static void print_help(FILE *out)
{
    fprintf(out, "usage: nightjar COMMAND [OPTION...]\n\n"
                 "Search for nearest neighbours in collections larger than memory.\n\n");
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++)
        fprintf(out, "  %-12s %s\n", commands[i].name, commands[i].summary);
    fprintf(out, "\n'nightjar COMMAND --help' shows the options of a command.\n");
}

/* Results that did not reach their file are a failure: a full disk shows only here. */
static enum cmd_outcome finish_output(enum cmd_outcome outcome, struct error *err)
{
    if (fflush(stdout) == 0 && !ferror(stdout))
        return outcome;
    if (outcome == CMD_OK)
        error_set_os(err, errno, "standard output");
    return outcome == CMD_OK ? CMD_FAILED : outcome;
}

static enum cmd_outcome dispatch(int argc, char **argv, struct error *err)
{
    if (argc < 2)
        return cmd_usage(err, "no command: try 'nightjar help'");
    const char *name = argv[1];
    if (strcmp(name, "help") == 0 || strcmp(name, "--help") == 0 || strcmp(name, "-h") == 0) {
        print_help(stdout);
        return CMD_OK;
    }
    if (strcmp(name, "--version") == 0 || strcmp(name, "version") == 0) {
        printf("nightjar %s\n", NIGHTJAR_VERSION);
        return CMD_OK;
    }
    for (size_t i = 0; i < ARRAY_LENGTH(commands); i++)
        if (strcmp(name, commands[i].name) == 0)
            return commands[i].run(argc - 1, argv + 1, err);
    return cmd_usage(err, "%s: no such command: try 'nightjar help'", name);
}

int main(int argc, char **argv)
{
    struct error err = {0};
    enum cmd_outcome outcome = finish_output(dispatch(argc, argv, &err), &err);
    if (outcome != CMD_OK)
        fprintf(stderr, "nightjar: %s\n", err.text);
    return (int)outcome;
}
