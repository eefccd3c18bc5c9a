/*
 * peer.h - who is at the other end of a Unix socket, and whether they are to be served.
 *
 * The kernel tells: uid, gid, pid and groups of the process that called connect(2), at that moment.
 * It cannot be forged. A process may pass its connection on, and then speaks for itself no more
 * than a password that was lent does. A peer from a user namespace whose ids are not mapped here
 * appears as the overflow ids (65534, often called nobody and nogroup): a policy that lets these in
 * lets in all such.
 *
 * Stateless. Everything but peer_policy_parse() may be called by any thread.
 */
#ifndef NIGHTJAR_QUERY_PEER_H
#define NIGHTJAR_QUERY_PEER_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"

enum {
    PEER_GROUPS_MAX = 1024, /* as many as directory services give a user */
    PEER_POLICY_MAX = 64,   /* users, and as many groups */
};

/* 4 KiB: for a stack, not for each connection to keep. */
struct peer {
    uid_t uid; /* effective ids */
    gid_t gid;
    pid_t pid;            /* 0: in a pid namespace that cannot be seen from here */
    uint32_t group_count; /* supplementary groups; 0 where the kernel does not tell them */
    gid_t groups[PEER_GROUPS_MAX];
};

/* Zeros: everyone whom the socket's mode lets in. */
struct peer_policy {
    uint32_t user_count, group_count;
    uid_t users[PEER_POLICY_MAX];
    gid_t groups[PEER_POLICY_MAX];
};

/* Fills *out for a connected Unix socket. Groups beyond PEER_GROUPS_MAX are as if there were none:
 * less is then allowed, not more. STATUS_INVALID: no Unix socket, or nobody is connected to it. */
NODISCARD enum status peer_of(int fd, struct peer *out, struct error *err);

/* Parses "alice,1001,@search,@2000": users, and groups after '@', by name or number; all digits are
 * a number. STATUS_NOT_FOUND: no such user or group, which is named; STATUS_INVALID: an empty list
 * or entry (it would let everyone in where somebody was meant), a number that is no id, more than
 * PEER_POLICY_MAX of a kind; STATUS_IO: the user database failed. *out is written on success only.
 * Reads the user database, which may ask the network, with functions that are not thread-safe:
 * called before there are threads. */
NODISCARD enum status peer_policy_parse(const char *list, struct peer_policy *out,
                                        struct error *err);

/* Root and the daemon's own user always are; others are when the policy is empty, names them, or
 * names a group of theirs. */
bool peer_allowed(const struct peer_policy *policy, const struct peer *peer);

/* Root or the daemon's own effective user: who could also stop the daemon. */
bool peer_is_admin(const struct peer *peer);

#endif
