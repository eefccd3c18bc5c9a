/*
 * daemon_facts.c - see daemon_facts.h. Stateless.
 */
#include "tests/daemon_facts.h"

#include <cjson/cJSON.h>
#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "query/socket_path.h"

static bool number(const cJSON *root, const char *object, const char *name, uint64_t *out)
{
    const cJSON *item = cJSON_GetObjectItem(cJSON_GetObjectItem(root, object), name);
    if (!cJSON_IsNumber(item))
        return false;
    *out = (uint64_t)cJSON_GetNumberValue(item);
    return true;
}

enum status daemon_facts_get(struct client *client, struct daemon_facts *out, struct error *err)
{
    char *text = NULL;
    enum status status = client_stats(client, CLIENT_STATS_JSON, &text, err);
    if (status != STATUS_OK)
        return status;
    cJSON *root = cJSON_Parse(text);
    bool complete = number(root, "swap", "swaps", &out->swaps) &&
                    number(root, "swap", "refused", &out->refused) &&
                    number(root, "server", "connections", &out->connections) &&
                    number(root, "process", "resident_bytes", &out->resident_bytes);
    out->loading = cJSON_IsTrue(cJSON_GetObjectItem(cJSON_GetObjectItem(root, "swap"), "loading"));
    cJSON_Delete(root);
    free(text);
    if (!complete)
        return error_set(err, STATUS_CORRUPT, "the daemon's statistics lack what is looked for");
    return STATUS_OK;
}

enum status daemon_pid(const char *socket_path, pid_t *out, struct error *err)
{
    struct sockaddr_un address;
    struct ucred peer;
    socklen_t length = sizeof(peer);
    enum status status = socket_path_address(socket_path, &address, err);
    if (status != STATUS_OK)
        return status;
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (const struct sockaddr *)&address, sizeof(address)) != 0 ||
        getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) != 0)
        status = error_set_os(err, errno, "%s: who listens there", socket_path);
    else
        *out = peer.pid;
    if (fd >= 0)
        close(fd);
    return status;
}

enum status daemon_descriptors(pid_t pid, uint32_t *out, struct error *err)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/fd", (int)pid);
    DIR *folder = opendir(path);
    if (!folder)
        return error_set_os(err, errno, "%s", path);
    *out = 0;
    while (readdir(folder) != NULL)
        ++*out;
    *out -= 2; /* . and .. */
    closedir(folder);
    return STATUS_OK;
}
