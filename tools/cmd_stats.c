/*
 * cmd_stats.c - `nightjar stats`: the counters of a running daemon.
 */
#include <ctype.h>
#include <stdlib.h>

#include "query/client.h"
#include "tools/cmd.h"

/* Prints the daemon's JSON, one line of nested objects, as indented "key: value" lines. Text of any
 * other shape is printed too, only less well laid out. */
static void print_indented(const char *json)
{
    int depth = -1; /* the outermost braces are not shown */
    bool quoted = false;
    bool line_open = false;
    for (const char *at = json; *at != '\0'; at++) {
        if (quoted && *at == '\\' && at[1] != '\0') {
            putchar(*++at);
        } else if (*at == '"') {
            quoted = !quoted;
        } else if (quoted) {
            putchar(*at);
        } else if (*at == '{' || *at == '}' || *at == ',') {
            depth += (*at == '{') - (*at == '}');
            if (line_open)
                putchar('\n');
            line_open = false;
            continue;
        } else if (*at == ':') {
            fputs(at[1] == '{' ? ":" : ": ", stdout);
        } else if (!isspace((unsigned char)*at)) {
            putchar(*at);
        }
        if (*at == '"' && quoted && !line_open) {
            printf("%*s", depth > 0 ? 2 * depth : 0, "");
            line_open = true;
        }
    }
    if (line_open)
        putchar('\n');
}

enum cmd_outcome cmd_stats(int argc, char **argv, struct error *err)
{
    const char *socket = NULL;
    bool json = false, prometheus = false;
    const struct args_option table[] = {
        {.name = "socket",
         .kind = ARGS_STRING,
         .target = &socket,
         .value_name = "PATH",
         .help = "where the daemon listens",
         .required = true},
        {.name = "json", .kind = ARGS_FLAG, .target = &json, .help = "one object"},
        {.name = "prometheus",
         .kind = ARGS_FLAG,
         .target = &prometheus,
         .help = "Prometheus' text format"},
    };
    const struct args_spec spec = {
        .program = "nightjar stats",
        .summary = "Show the counters of a running daemon.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;
    struct client *client;
    if (client_connect(socket, &client, err) != STATUS_OK)
        return CMD_FAILED;
    char *text = NULL;
    const enum client_stats_format format =
        prometheus ? CLIENT_STATS_PROMETHEUS : CLIENT_STATS_JSON;
    enum status status = client_stats(client, format, &text, err);
    if (status == STATUS_OK && prometheus)
        fputs(text, stdout);
    else if (status == STATUS_OK && json)
        printf("%s\n", text);
    else if (status == STATUS_OK)
        print_indented(text);
    free(text);
    client_close(client);
    return cmd_outcome_of(status);
}
