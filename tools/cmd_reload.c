/*
 * cmd_reload.c - `nightjar reload`: has a daemon look at ROOT/current and tells what came of it.
 */
#include <inttypes.h>
#include <stdio.h>

#include "query/client.h"
#include "tools/cmd.h"

static enum status reload_run(const char *socket, bool json, struct error *err)
{
    struct client *client = NULL;
    struct client_reload reload;
    enum status status = client_connect(socket, &client, err);
    if (status != STATUS_OK)
        return status;
    status = client_reload(client, &reload, err);
    client_close(client);
    if (status != STATUS_OK)
        return status;
    if (!json) {
        printf("%s: %s\n", reload.name, reload.swapped ? "live now" : "live already");
        return STATUS_OK;
    }
    printf("{\"name\":");
    cmd_json_string(stdout, reload.name);
    printf(",\"generation\":\"%016" PRIx64 "%016" PRIx64 "\",\"swapped\":%s}\n",
           reload.generation_high, reload.generation_low, reload.swapped ? "true" : "false");
    return STATUS_OK;
}

enum cmd_outcome cmd_reload(int argc, char **argv, struct error *err)
{
    const char *socket = NULL;
    bool json = false;
    const struct args_option table[] = {
        {.name = "socket",
         .kind = ARGS_STRING,
         .target = &socket,
         .value_name = "PATH",
         .help = "where the daemon listens",
         .required = true},
        {.name = "json", .kind = ARGS_FLAG, .target = &json, .help = "one object"},
    };
    const struct args_spec spec = {
        .program = "nightjar reload",
        .summary = "Have a daemon serve what ROOT/current names, and wait until it does.",
        .options = table,
        .option_count = ARRAY_LENGTH(table),
        .epilog = "A daemon also sees a publish by itself. This waits for it, and says why a\n"
                  "generation was refused. Only the daemon's user and root may ask.",
    };
    enum cmd_outcome outcome;
    if (!cmd_parse(&spec, argc, argv, NULL, &outcome, err))
        return outcome;
    return cmd_outcome_of(reload_run(socket, json, err));
}
