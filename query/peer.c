/*
 * peer.c - see peer.h. Owns SO_PEERCRED, SO_PEERGROUPS and the user database.
 */
#include "query/peer.h"

#include <errno.h>
#include <grp.h>
#include <pwd.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

enum { ENTRY_BYTES = 256 }; /* of a name, with its terminator; Linux allows 32 */

static const char digits[] = "0123456789";

enum status peer_of(int fd, struct peer *out, struct error *err)
{
    struct ucred credentials = {0};
    socklen_t length = sizeof(credentials);
    int domain = 0;
    socklen_t domain_length = sizeof(domain);
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &domain_length) != 0 || domain != AF_UNIX)
        return error_set(err, STATUS_INVALID, "descriptor %d: not a Unix socket", fd);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &credentials, &length) != 0)
        return error_set_os(err, errno, "descriptor %d: cannot tell its peer", fd);
    if (credentials.uid == (uid_t)-1)
        return error_set(err, STATUS_INVALID, "descriptor %d: nobody is connected to it", fd);
    out->uid = credentials.uid;
    out->gid = credentials.gid;
    out->pid = credentials.pid;
    out->group_count = 0;
    length = sizeof(out->groups);
    if (getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, out->groups, &length) == 0)
        out->group_count = (uint32_t)(length / sizeof(out->groups[0]));
    return STATUS_OK;
}

/* The id that a word of digits is. -1 stands for none in every call that takes an id. */
static enum status id_parse(const char *word, uint32_t *out, struct error *err)
{
    uint64_t id = 0;
    for (const char *at = word; *at; at++) {
        id = id * 10 + (uint64_t)(*at - '0');
        if (id >= UINT32_MAX)
            return error_set(err, STATUS_INVALID, "%s: not a user or group id: at most %u", word,
                             UINT32_MAX - 1);
    }
    *out = (uint32_t)id;
    return STATUS_OK;
}

/* What a look-up that found nothing means: the databases differ in how they say it. */
static enum status name_missing(const char *kind, const char *name, int why, struct error *err)
{
    if (why == 0 || why == ENOENT || why == ESRCH || why == EBADF || why == EPERM)
        return error_set(err, STATUS_NOT_FOUND, "%s: no such %s", name, kind);
    return error_set_os(err, why, "%s: cannot look up the %s", name, kind);
}

static enum status user_find(const char *name, uint32_t *out, struct error *err)
{
    if (strspn(name, digits) == strlen(name))
        return id_parse(name, out, err);
    errno = 0;
    const struct passwd *found = getpwnam(name);
    if (!found)
        return name_missing("user", name, errno, err);
    *out = found->pw_uid;
    return STATUS_OK;
}

static enum status group_find(const char *name, uint32_t *out, struct error *err)
{
    if (strspn(name, digits) == strlen(name))
        return id_parse(name, out, err);
    errno = 0;
    const struct group *found = getgrnam(name);
    if (!found)
        return name_missing("group", name, errno, err);
    *out = found->gr_gid;
    return STATUS_OK;
}

/* One entry of the list: "alice" or "@search". */
static enum status policy_add(struct peer_policy *policy, const char *entry, struct error *err)
{
    bool group = entry[0] == '@';
    const char *name = entry + group;
    uint32_t *count = group ? &policy->group_count : &policy->user_count;
    uint32_t id = 0;
    if (!*name)
        return error_set(err, STATUS_INVALID, "a list of users has an empty entry");
    if (*count == PEER_POLICY_MAX)
        return error_set(err, STATUS_INVALID, "%s: more than %d %s in a list", name,
                         (int)PEER_POLICY_MAX, group ? "groups" : "users");
    enum status status = group ? group_find(name, &id, err) : user_find(name, &id, err);
    if (status != STATUS_OK)
        return status;
    (group ? policy->groups : policy->users)[(*count)++] = id;
    return STATUS_OK;
}

enum status peer_policy_parse(const char *list, struct peer_policy *out, struct error *err)
{
    struct peer_policy policy = {0};
    char entry[ENTRY_BYTES];
    for (const char *at = list;; at++) {
        size_t length = strcspn(at, ",");
        if (length >= sizeof(entry))
            return error_set(err, STATUS_NOT_FOUND, "%.*s: no such user or group", (int)length, at);
        memcpy(entry, at, length);
        entry[length] = '\0';
        enum status status = policy_add(&policy, entry, err);
        if (status != STATUS_OK)
            return status;
        at += length;
        if (!*at)
            break;
    }
    *out = policy;
    return STATUS_OK;
}

static bool has_group(const struct peer *peer, gid_t group)
{
    if (peer->gid == group)
        return true;
    for (uint32_t i = 0; i < peer->group_count; i++)
        if (peer->groups[i] == group)
            return true;
    return false;
}

bool peer_allowed(const struct peer_policy *policy, const struct peer *peer)
{
    if (peer_is_admin(peer) || (policy->user_count == 0 && policy->group_count == 0))
        return true;
    for (uint32_t i = 0; i < policy->user_count; i++)
        if (policy->users[i] == peer->uid)
            return true;
    for (uint32_t i = 0; i < policy->group_count; i++)
        if (has_group(peer, policy->groups[i]))
            return true;
    return false;
}

bool peer_is_admin(const struct peer *peer)
{
    return peer->uid == 0 || peer->uid == geteuid();
}
