/*
 * topology.h - NUMA nodes and CPUs of this machine, threads bound to them, and who builds where.
 *
 * A NUMA node is named by its index here (0 .. topology_numa_count() - 1, ascending by the kernel's
 * number), never by the kernel's number, which may have gaps. Only what this process may use is
 * counted: CPUs of its affinity, nodes of its cpuset and of a memory policy it was started with
 * (numactl --membind).
 *
 * HWLOC_XMLFILE and HWLOC_SYNTHETIC put a made-up machine in the place of this one. Plans then
 * follow the made-up machine, but nothing is bound and no placement is asked for, unless
 * HWLOC_THISSYSTEM=1 says that the XML file describes this machine.
 *
 * Binding is advice that the kernel may refuse (containers often do), and a build without it is
 * slower, not wrong. So these functions do not fail: they report what was obtained, for the caller
 * to warn of.
 */
#ifndef NIGHTJAR_COMMON_TOPOLOGY_H
#define NIGHTJAR_COMMON_TOPOLOGY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "common/error.h"

struct topology;

/* In place of a NUMA index: no node in particular, nothing bound. */
#define TOPOLOGY_ANY UINT32_MAX

enum {
    TOPOLOGY_NUMA_MAX = 1024,   /* the largest CONFIG_NODES_SHIFT of x86 */
    TOPOLOGY_SAMPLE_MAX = 1024, /* pages one topology_place() asks about */
};

struct topology_numa_node {
    uint32_t os_index;  /* the kernel's number: /sys/devices/system/node/nodeN */
    uint32_t cpu_count; /* CPUs this process may use: of the node, or lent, see topology_load() */
    uint64_t memory_bytes;    /* in normal pages, free or not */
    uint64_t huge_page_bytes; /* reserved pool of 2 MB pages; transparent ones need none */
};

enum topology_memory {
    TOPOLOGY_MEMORY_UNBOUND,   /* the policy the thread had */
    TOPOLOGY_MEMORY_PREFERRED, /* the node, others when it is full */
    TOPOLOGY_MEMORY_STRICT,    /* the node alone (MPOL_BIND) */
};

/* ---- the machine ---- */

/* Asks hwloc for the machine. Call it before any thread is bound: the calling thread's affinity and
 * memory policy at this moment are what "this process may use" means and what
 * topology_unbind_thread() restores.
 *
 * A CPU belongs to the node with the lowest kernel number among those local to it; so memory
 * without CPUs of its own (HBM, CXL) gets none. Nodes without usable CPUs are left out, and nodes
 * without memory too unless all are such. CPUs of nodes that may not be used or have no memory are
 * lent to the nodes with the fewest CPUs. There is at least one node, and every node has at least
 * one CPU.
 *
 * Statuses: STATUS_INVALID: the environment names a machine that hwloc cannot make, or that has
 * more than TOPOLOGY_NUMA_MAX nodes; STATUS_UNSUPPORTED: no NUMA node or CPU is left;
 * STATUS_NO_MEMORY; STATUS_IO: hwloc failed. *out is written on success only; release with
 * topology_destroy().
 *
 * Reads the environment, /proc and /sys (tens of milliseconds), allocates. Not to be run beside
 * setenv(). */
NODISCARD enum status topology_load(struct topology **out, struct error *err);

/* Releases; threads stay bound as they are. NULL is fine. */
void topology_destroy(struct topology *topology);

/* Nodes, at least 1. It and the next two never change; any thread. */
uint32_t topology_numa_count(const struct topology *topology);

/* Node `index` < topology_numa_count(). It is an element of one array in order of index, so
 * topology_numa(t, 0) is what topology_plan_lanes() wants. Lives as long as the topology. */
const struct topology_numa_node *topology_numa(const struct topology *topology, uint32_t index);

/* False for a made-up machine: binding does nothing. */
bool topology_is_real(const struct topology *topology);

/* ---- binding ---- */

struct topology_binding {
    bool pinned;                 /* the thread runs on the one CPU */
    enum topology_memory memory; /* policy obtained: the wanted one or a weaker */
    int os_error;                /* errno of the first refusal; 0: none */
};

/* Pins the calling thread to CPU `cpu_index` modulo the node's CPUs and sets its memory policy, so
 * that pages which it touches first lie on the node. Indexes name one hardware thread of each core
 * before they name a second one of any. Pages touched before stay where they are; threads created
 * later inherit both, so each binds itself or unbinds.
 *
 * `wanted` STRICT falls back to PREFERRED where the kernel refuses, PREFERRED to UNBOUND.
 * numa_index < topology_numa_count(); for TOPOLOGY_ANY, or when the topology is not real, nothing
 * is done and {false, TOPOLOGY_MEMORY_UNBOUND, 0} returned. Strictly bound memory that runs out is
 * an out-of-memory kill, not a failed allocation: plan with memory_bytes first.
 *
 * Affects the calling thread alone; any number of threads may call at once. Allocates a few bytes.
 */
struct topology_binding topology_bind_thread(const struct topology *topology, uint32_t numa_index,
                                             uint32_t cpu_index, enum topology_memory wanted);

/* Gives the calling thread the affinity and memory policy that the thread which loaded the topology
 * had then, whether it was bound or not. Refusals are not reported: a thread that was not bound
 * cannot be unbound. Does nothing when the topology is not real. Threads as above. */
void topology_unbind_thread(const struct topology *topology);

/* ---- proof ---- */

struct topology_placement {
    uint32_t pages_sampled; /* of those asked about: present in memory */
    uint32_t pages_on_node; /* of the sampled: on the node */
    int os_error;           /* errno when the kernel would not tell; both counts are 0 then */
};

/* Where the pages of memory[0..bytes) lie: asks move_pages(2) about up to TOPOLOGY_SAMPLE_MAX of
 * them, evenly spaced. Pages never touched or swapped out lie nowhere and are not sampled. Nothing
 * is moved. For TOPOLOGY_ANY, no bytes, or a topology that is not real, nothing is asked and all is
 * 0. Any thread, whoever touched the memory; does not allocate; some hundred microseconds. */
struct topology_placement topology_place(const struct topology *topology, const void *memory,
                                         size_t bytes, uint32_t numa_index);

/* ---- planning ---- */

struct topology_lane_request {
    uint32_t threads;      /* of the whole build; 0 counts as 1 */
    uint32_t shard_count;  /* 0 counts as 1 */
    uint64_t shard_bytes;  /* most one shard needs while it is built */
    uint64_t memory_bytes; /* budget of the whole build */
    uint64_t fixed_bytes;  /* of it: what is held beside the shards, whatever the lanes */
};

/* A lane builds one shard at a time with threads of its own. */
struct topology_lane {
    uint32_t numa;    /* index of its node; TOPOLOGY_ANY: not bound */
    uint32_t threads; /* >= 1; more than the node's CPUs when the request has more than all lanes */
    uint64_t memory_bytes; /* its equal share of the budget less fixed_bytes, and no more than its
                              node has; >= shard_bytes wherever one shard fits the budget */
};

/* Who builds shards where. Writes lanes[0..count) and returns count; `lanes` has room for
 * max(1, node_count), node_count <= TOPOLOGY_NUMA_MAX.
 *
 * A node gets at most one lane, and none if it has no CPU or less memory than shard_bytes. There
 * are as many lanes as the budget can hold (count * shard_bytes + fixed_bytes <= memory_bytes), but
 * no more than shards or threads. Nodes with most CPUs come first, ties by index. There is always
 * one: on the first node even if the budget does not suffice (the caller refuses that), and where
 * no node can hold a shard, one with TOPOLOGY_ANY. The lanes' threads sum up to the request's and
 * are in proportion to CPUs: no lane has more threads than CPUs while another has CPUs to spare.
 *
 * A function of its arguments alone: any thread, no allocation, cost threads * lanes. */
uint32_t topology_plan_lanes(const struct topology_numa_node *nodes, uint32_t node_count,
                             const struct topology_lane_request *request,
                             struct topology_lane *lanes);

#endif
