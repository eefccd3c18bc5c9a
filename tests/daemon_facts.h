/*
 * daemon_facts.h - what a running daemon tells of itself and the kernel tells of it.
 */
#ifndef NIGHTJAR_TESTS_DAEMON_FACTS_H
#define NIGHTJAR_TESTS_DAEMON_FACTS_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include "common/error.h"
#include "query/client.h"

struct daemon_facts {
    bool loading; /* the next generation is being opened */
    uint64_t swaps, refused;
    uint64_t connections;
    uint64_t resident_bytes;
};

/* Asks for STATS. */
NODISCARD enum status daemon_facts_get(struct client *client, struct daemon_facts *out,
                                       struct error *err);

/* The process behind the socket. Connects for a moment. */
NODISCARD enum status daemon_pid(const char *socket_path, pid_t *out, struct error *err);
/* Descriptors that it has open. Needs its user, or root. */
NODISCARD enum status daemon_descriptors(pid_t pid, uint32_t *out, struct error *err);

#endif
