/*
 * cmd_top.c - `nightjar top`: a live view of a daemon.
 *
 * On a terminal the screen is drawn anew at each look, and a daemon that goes away is waited for;
 * elsewhere looks follow one another as text, and a daemon that goes away ends it.
 */
#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>

#include "common/clock.h"
#include "query/client.h"
#include "tools/cmd.h"
#include "tools/top.h"

enum { NS_PER_S = 1000000000 };

struct top {
    const char *socket;
    double interval_s;
    uint32_t count;
    bool terminal;
    struct client *client;
    struct top_sample *before;
};

static volatile sig_atomic_t interrupted;

static void on_interrupt(int number)
{
    (void)number;
    interrupted = 1;
}

/* The end of an interval, or false at an interrupt. */
static bool wait_until(uint64_t until_ns)
{
    const struct timespec until = {.tv_sec = (time_t)(until_ns / NS_PER_S),
                                   .tv_nsec = (long)(until_ns % NS_PER_S)};
    while (!interrupted && clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &until, NULL) == EINTR)
        ;
    return !interrupted;
}

static enum status sample_take(struct top *top, struct top_sample **out, struct error *err)
{
    enum status status = STATUS_OK;
    char *json = NULL;
    if (!top->client)
        status = client_connect(top->socket, &top->client, err);
    if (status == STATUS_OK)
        status = client_stats(top->client, CLIENT_STATS_JSON, &json, err);
    if (status == STATUS_OK)
        status = top_sample_create(json, clock_monotonic_ns(), out, err);
    free(json);
    if (status != STATUS_OK && status != STATUS_BUSY) {
        client_close(top->client);
        top->client = NULL;
    }
    return status;
}

static void clear_screen(const struct top *top)
{
    if (top->terminal)
        fputs("\033[H\033[2J", stdout);
}

/* One look; a failure ends everything, but on a terminal. */
static enum status look(struct top *top, struct error *err)
{
    struct top_sample *now = NULL;
    enum status status = sample_take(top, &now, err);
    clear_screen(top);
    if (status == STATUS_OK) {
        top_print(stdout, top->before, now);
        top_sample_destroy(top->before);
        top->before = now;
    } else if (top->terminal) {
        printf("%s\n", err->text);
        status = STATUS_OK;
    }
    if (!top->terminal && status == STATUS_OK)
        putchar('\n');
    fflush(stdout);
    return status;
}

static enum status top_run(struct top *top, struct error *err)
{
    const struct sigaction action = {.sa_handler = on_interrupt};
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    uint64_t next_ns = clock_monotonic_ns();
    enum status status = look(top, err);
    for (uint32_t looks = 1; status == STATUS_OK && (top->count == 0 || looks < top->count);
         looks++) {
        next_ns += (uint64_t)(top->interval_s * NS_PER_S);
        if (!wait_until(next_ns))
            break;
        status = look(top, err);
    }
    client_close(top->client);
    top_sample_destroy(top->before);
    return status;
}

enum cmd_outcome cmd_top(int argc, char **argv, struct error *err)
{
    struct top top = {.interval_s = 2};
    const struct args_option table[] = {
        {.name = "socket",
         .kind = ARGS_STRING,
         .target = &top.socket,
         .value_name = "PATH",
         .help = "where the daemon listens",
         .required = true},
        {.name = "interval",
         .kind = ARGS_DOUBLE,
         .target = &top.interval_s,
         .value_name = "SECONDS",
         .min = 0.1,
         .max = 3600,
         .help = "between two looks"},
        {.name = "count",
         .kind = ARGS_U32,
         .target = &top.count,
         .value_name = "N",
         .help = "end after so many looks (default: at an interrupt)"},
    };
    const struct args_spec spec = {
        .program = "nightjar top",
        .summary = "Show what a running daemon does, again and again.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "Rates and latencies are of the time between two looks; of the first, since the\n"
                  "daemon's start.",
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;
    top.terminal = isatty(STDOUT_FILENO);
    return cmd_outcome_of(top_run(&top, err));
}
