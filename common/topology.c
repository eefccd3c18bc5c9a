/*
 * topology.c - the only file that knows hwloc and NUMA system calls: what the machine has, which
 * thread runs and allocates where, and the plan of a build over nodes.
 *
 * hwloc finds nodes and CPUs and binds. Three things it cannot say are asked of the kernel
 * directly: the nodes of the process' cpuset where no cgroup tree is mounted, the exact policy a
 * thread had (hwloc merges preferred and strict), and where pages lie in one call.
 *
 * A struct topology does not change after topology_load(); binding changes the calling thread only.
 */
#include "common/topology.h"

#include <assert.h>
#include <errno.h>
#include <hwloc.h>
#include <linux/mempolicy.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#include "common/topology_internal.h"

enum {
    PAGE_BYTES = 4096,
    HUGE_PAGE_BYTES = 2 * 1024 * 1024,
    WORD_BITS = 8 * sizeof(unsigned long),
    /* More than any kernel's node ids: get_mempolicy() refuses a shorter mask. */
    NODE_MASK_BITS = 4096,
    NODE_MASK_WORDS = NODE_MASK_BITS / WORD_BITS,
};

/* A memory policy as get_mempolicy() gives it and set_mempolicy() takes it. */
struct memory_policy {
    bool known; /* false: the kernel would not tell */
    int mode;   /* MPOL_*, with its flags */
    unsigned long nodes[NODE_MASK_WORDS];
};

struct topology {
    hwloc_topology_t hwloc;
    bool real;
    uint32_t numa_count;
    struct topology_numa_node *numa; /* [numa_count], ascending by os_index */
    uint32_t *cpu_starts;            /* [numa_count]: of the node's CPUs in `cpus` */
    unsigned *cpus;                  /* kernel's numbers; each node's in order of preference */
    /* Of the thread that loaded; only when real. */
    hwloc_bitmap_t affinity; /* NULL: it could not be told */
    struct memory_policy policy;
};

/* ---- loading ---- */

/* A processing unit and the node it was given to. */
struct cpu {
    uint32_t owner;   /* index of the node, or TOPOLOGY_ANY */
    unsigned rank;    /* among the hardware threads of its core */
    unsigned logical; /* hwloc's order, neighbours first */
    unsigned os;
};

/* What topology_load() works with, before nodes that own nothing are left out. */
struct census {
    hwloc_obj_t numa[TOPOLOGY_NUMA_MAX]; /* ascending by os_index */
    uint32_t owned[TOPOLOGY_NUMA_MAX];   /* CPUs given to numa[i] */
    uint32_t numa_count;
    uint32_t cpu_count;
    struct cpu *cpus; /* [cpu_count] */
};

static bool mask_has(const unsigned long *mask, unsigned bit)
{
    return bit < NODE_MASK_BITS && (mask[bit / WORD_BITS] >> (bit % WORD_BITS) & 1) != 0;
}

static void remember_thread(struct topology *t)
{
    t->affinity = hwloc_bitmap_alloc();
    if (t->affinity && hwloc_get_cpubind(t->hwloc, t->affinity, HWLOC_CPUBIND_THREAD) != 0) {
        hwloc_bitmap_free(t->affinity);
        t->affinity = NULL;
    }
    t->policy.known =
        syscall(SYS_get_mempolicy, &t->policy.mode, t->policy.nodes, NODE_MASK_BITS, NULL, 0) == 0;
}

/* The variable that names a machine for hwloc to make, or NULL. */
static const char *environment_machine(void)
{
    static const char *const names[] = {"HWLOC_SYNTHETIC", "HWLOC_XMLFILE"};
    for (size_t i = 0; i < ARRAY_LENGTH(names); i++) {
        const char *value = getenv(names[i]);
        if (value && *value)
            return names[i];
    }
    return NULL;
}

static enum status hwloc_start(struct topology *t, struct error *err)
{
    if (hwloc_topology_init(&t->hwloc) != 0) {
        t->hwloc = NULL;
        return error_set_os(err, errno, "hwloc: cannot start");
    }
    unsigned long flags = 0;
#if HWLOC_API_VERSION >= 0x00020500
    /* Discovery by CPUID would have this thread hop over all CPUs. */
    flags |= HWLOC_TOPOLOGY_FLAG_DONT_CHANGE_BINDING;
#endif
    bool loaded =
        hwloc_topology_set_flags(t->hwloc, flags) == 0 && hwloc_topology_load(t->hwloc) == 0;
    int os_error = errno;
    t->real = loaded && hwloc_topology_is_thissystem(t->hwloc) != 0;
    /* Some faults hwloc reports; at others it takes this machine instead, without a word. */
    const char *named = environment_machine();
    const char *claimed = getenv("HWLOC_THISSYSTEM");
    if (named && (!loaded || (t->real && (!claimed || strcmp(claimed, "0") == 0))))
        return error_set(err, STATUS_INVALID, "%s: hwloc cannot make a machine of '%.200s'", named,
                         getenv(named));
    if (!loaded)
        return error_set_os(err, os_error, "hwloc: cannot find out about this machine");
    return STATUS_OK;
}

static int compare_numa(const void *left, const void *right)
{
    const hwloc_obj_t *a = left, *b = right;
    return ((*a)->os_index > (*b)->os_index) - ((*a)->os_index < (*b)->os_index);
}

static int compare_cpus(const void *left, const void *right)
{
    const struct cpu *a = left, *b = right;
    if (a->owner != b->owner)
        return a->owner < b->owner ? -1 : 1;
    if (a->rank != b->rank)
        return a->rank < b->rank ? -1 : 1;
    return (a->logical > b->logical) - (a->logical < b->logical);
}

/* Nodes without memory can hold nothing; their CPUs are lent. Kept only when no node has any, as in
 * descriptions that do not tell sizes. */
static void census_drop_memoryless(struct census *census)
{
    uint32_t kept = 0;
    for (uint32_t n = 0; n < census->numa_count; n++)
        if (census->numa[n]->attr->numanode.local_memory > 0)
            census->numa[kept++] = census->numa[n];
    if (kept > 0)
        census->numa_count = kept;
}

/* The nodes whose memory this process may use. */
static enum status census_numa(const struct topology *t, struct census *census, struct error *err)
{
    unsigned long cpuset[NODE_MASK_WORDS] = {0};
    bool asked = t->real && syscall(SYS_get_mempolicy, NULL, cpuset, NODE_MASK_BITS, NULL,
                                    MPOL_F_MEMS_ALLOWED) == 0;
    bool bound = t->real && t->policy.known && (t->policy.mode & ~MPOL_MODE_FLAGS) == MPOL_BIND;
    hwloc_obj_t numa = NULL;
    while ((numa = hwloc_get_next_obj_by_type(t->hwloc, HWLOC_OBJ_NUMANODE, numa)) != NULL) {
        if ((asked && !mask_has(cpuset, numa->os_index)) ||
            (bound && !mask_has(t->policy.nodes, numa->os_index)))
            continue;
        if (census->numa_count == TOPOLOGY_NUMA_MAX)
            return error_set(err, STATUS_INVALID, "hwloc: more than %d NUMA nodes",
                             TOPOLOGY_NUMA_MAX);
        census->numa[census->numa_count++] = numa;
    }
    qsort(census->numa, census->numa_count, sizeof(hwloc_obj_t), compare_numa);
    census_drop_memoryless(census);
    return STATUS_OK;
}

/* The CPUs this process may use, none of them given to a node. */
static enum status census_cpus(const struct topology *t, struct census *census, struct error *err)
{
    int count = hwloc_get_nbobjs_by_type(t->hwloc, HWLOC_OBJ_PU);
    census->cpus = count > 0 ? calloc((size_t)count, sizeof(*census->cpus)) : NULL;
    if (count > 0 && !census->cpus)
        return error_set(err, STATUS_NO_MEMORY, "topology: out of memory for %d CPUs", count);
    hwloc_obj_t pu = NULL;
    while ((pu = hwloc_get_next_obj_by_type(t->hwloc, HWLOC_OBJ_PU, pu)) != NULL) {
        if (t->affinity && !hwloc_bitmap_isset(t->affinity, pu->os_index))
            continue;
        bool in_core = pu->parent && pu->parent->type == HWLOC_OBJ_CORE;
        census->cpus[census->cpu_count++] = (struct cpu){
            .owner = TOPOLOGY_ANY,
            .rank = in_core ? pu->sibling_rank : 0,
            .logical = pu->logical_index,
            .os = pu->os_index,
        };
    }
    return STATUS_OK;
}

/* Who gets a CPU without a node: the one with fewest CPUs among those that have some, so that
 * memory without CPUs of its own stays left out; the first where no node has any. */
static uint32_t census_borrower(const struct census *census)
{
    uint32_t least = 0;
    for (uint32_t n = 1; n < census->numa_count; n++)
        if (census->owned[n] > 0 &&
            (census->owned[least] == 0 || census->owned[n] < census->owned[least]))
            least = n;
    return least;
}

/* Gives every CPU to a node. Linux numbers nodes with CPUs before those without (processors come
 * first in its reading of the SRAT), so the lowest number names the CPU's own node, not the HBM or
 * CXL memory that hwloc finds as near. */
static void census_assign(struct census *census)
{
    for (uint32_t n = 0; n < census->numa_count; n++) {
        for (uint32_t c = 0; c < census->cpu_count; c++) {
            struct cpu *cpu = &census->cpus[c];
            if (cpu->owner == TOPOLOGY_ANY &&
                hwloc_bitmap_isset(census->numa[n]->cpuset, cpu->os)) {
                cpu->owner = n;
                census->owned[n]++;
            }
        }
    }
    for (uint32_t c = 0; c < census->cpu_count; c++) {
        if (census->cpus[c].owner != TOPOLOGY_ANY)
            continue;
        uint32_t borrower = census_borrower(census);
        census->cpus[c].owner = borrower;
        census->owned[borrower]++;
    }
    qsort(census->cpus, census->cpu_count, sizeof(census->cpus[0]), compare_cpus);
}

static struct topology_numa_node describe_numa(hwloc_obj_t numa, uint32_t cpu_count)
{
    uint64_t memory = numa->attr->numanode.local_memory;
    uint64_t huge = 0;
    for (unsigned i = 0; i < numa->attr->numanode.page_types_len; i++) {
        uint64_t page = numa->attr->numanode.page_types[i].size;
        uint64_t bytes = page * numa->attr->numanode.page_types[i].count;
        if (page == HUGE_PAGE_BYTES)
            huge = bytes;
        /* A reserved pool serves nobody who did not ask for it by name. */
        if (page > PAGE_BYTES)
            memory -= MIN(memory, bytes);
    }
    return (struct topology_numa_node){
        .os_index = numa->os_index,
        .cpu_count = cpu_count,
        .memory_bytes = memory,
        .huge_page_bytes = huge,
    };
}

/* Keeps the nodes of the census that have CPUs. */
static enum status census_keep(struct topology *t, const struct census *census, struct error *err)
{
    if (census->numa_count == 0 || census->cpu_count == 0)
        return error_set(
            err, STATUS_UNSUPPORTED,
            "topology: this process may use %u NUMA nodes and %u CPUs: want at least 1 each",
            census->numa_count, census->cpu_count);
    t->numa = calloc(census->numa_count, sizeof(*t->numa));
    t->cpu_starts = calloc(census->numa_count, sizeof(*t->cpu_starts));
    t->cpus = calloc(census->cpu_count, sizeof(*t->cpus));
    if (!t->numa || !t->cpu_starts || !t->cpus)
        return error_set(err, STATUS_NO_MEMORY, "topology: out of memory for %u CPUs",
                         census->cpu_count);
    uint32_t start = 0;
    for (uint32_t n = 0; n < census->numa_count; n++) {
        if (census->owned[n] == 0)
            continue;
        t->numa[t->numa_count] = describe_numa(census->numa[n], census->owned[n]);
        t->cpu_starts[t->numa_count] = start;
        t->numa_count++;
        start += census->owned[n];
    }
    /* The census is sorted by owner, so the nodes' CPUs follow one another. */
    for (uint32_t c = 0; c < census->cpu_count; c++)
        t->cpus[c] = census->cpus[c].os;
    return STATUS_OK;
}

enum status topology_load(struct topology **out, struct error *err)
{
    struct topology *t = calloc(1, sizeof(*t));
    struct census *census = calloc(1, sizeof(*census));
    enum status status = STATUS_OK;
    if (!t || !census) {
        status = error_set(err, STATUS_NO_MEMORY, "topology: out of memory");
        goto out;
    }
    status = hwloc_start(t, err);
    if (status != STATUS_OK)
        goto out;
    if (t->real)
        remember_thread(t);
    status = census_numa(t, census, err);
    if (status == STATUS_OK)
        status = census_cpus(t, census, err);
    if (status != STATUS_OK)
        goto out;
    if (census->numa_count > 0)
        census_assign(census);
    status = census_keep(t, census, err);
    if (status != STATUS_OK)
        goto out;
    *out = t;
    t = NULL;
out:
    if (census)
        free(census->cpus);
    free(census);
    topology_destroy(t);
    return status;
}

void topology_destroy(struct topology *topology)
{
    if (!topology)
        return;
    free(topology->numa);
    free(topology->cpu_starts);
    free(topology->cpus);
    hwloc_bitmap_free(topology->affinity);
    if (topology->hwloc)
        hwloc_topology_destroy(topology->hwloc);
    free(topology);
}

uint32_t topology_numa_count(const struct topology *topology)
{
    return topology->numa_count;
}

const struct topology_numa_node *topology_numa(const struct topology *topology, uint32_t index)
{
    assert(index < topology->numa_count);
    return &topology->numa[index];
}

uint32_t topology_cpu(const struct topology *topology, uint32_t numa_index, uint32_t cpu_index)
{
    uint32_t count = topology_numa(topology, numa_index)->cpu_count;
    return topology->cpus[topology->cpu_starts[numa_index] + cpu_index % count];
}

bool topology_is_real(const struct topology *topology)
{
    return topology->real;
}

/* ---- binding ---- */

/* The strongest policy up to `wanted` that the kernel grants; `nodes` is scratch. */
static void bind_memory(const struct topology *t, uint32_t os_index, enum topology_memory wanted,
                        hwloc_bitmap_t nodes, struct topology_binding *binding)
{
    hwloc_bitmap_only(nodes, os_index);
    for (; wanted > TOPOLOGY_MEMORY_UNBOUND; wanted--) {
        /* Without STRICT, hwloc's BIND is the kernel's preferred. */
        int flags = HWLOC_MEMBIND_THREAD | HWLOC_MEMBIND_BYNODESET |
                    (wanted == TOPOLOGY_MEMORY_STRICT ? (int)HWLOC_MEMBIND_STRICT : 0);
        if (hwloc_set_membind(t->hwloc, nodes, HWLOC_MEMBIND_BIND, flags) == 0)
            break;
        if (binding->os_error == 0)
            binding->os_error = errno;
    }
    binding->memory = wanted;
}

struct topology_binding topology_bind_thread(const struct topology *topology, uint32_t numa_index,
                                             uint32_t cpu_index, enum topology_memory wanted)
{
    struct topology_binding binding = {.memory = TOPOLOGY_MEMORY_UNBOUND};
    if (numa_index == TOPOLOGY_ANY || !topology->real)
        return binding;
    const struct topology_numa_node *numa = topology_numa(topology, numa_index);
    hwloc_bitmap_t set = hwloc_bitmap_alloc();
    if (!set) {
        binding.os_error = ENOMEM;
        return binding;
    }
    hwloc_bitmap_only(set, topology_cpu(topology, numa_index, cpu_index));
    binding.pinned = hwloc_set_cpubind(topology->hwloc, set, HWLOC_CPUBIND_THREAD) == 0;
    if (!binding.pinned)
        binding.os_error = errno;
    bind_memory(topology, numa->os_index, wanted, set, &binding);
    hwloc_bitmap_free(set);
    return binding;
}

void topology_unbind_thread(const struct topology *topology)
{
    if (!topology->real)
        return;
    if (topology->affinity)
        (void)hwloc_set_cpubind(topology->hwloc, topology->affinity, HWLOC_CPUBIND_THREAD);
    /* The default policy takes no nodes: an empty mask is refused as readily as a full one. */
    const struct memory_policy *policy = &topology->policy;
    bool named = policy->known && policy->mode != MPOL_DEFAULT;
    (void)syscall(SYS_set_mempolicy, named ? policy->mode : MPOL_DEFAULT,
                  named ? policy->nodes : NULL, named ? NODE_MASK_BITS : 0);
}

/* ---- proof ---- */

struct topology_placement topology_place(const struct topology *topology, const void *memory,
                                         size_t bytes, uint32_t numa_index)
{
    struct topology_placement placement = {0};
    if (numa_index == TOPOLOGY_ANY || !topology->real || bytes == 0)
        return placement;
    uint32_t wanted = topology_numa(topology, numa_index)->os_index;
    uintptr_t first = (uintptr_t)memory / PAGE_BYTES;
    uintptr_t last = ((uintptr_t)memory + (bytes - 1)) / PAGE_BYTES;
    uintptr_t count = last - first + 1;
    size_t asked = MIN(count, TOPOLOGY_SAMPLE_MAX);
    void *pages[TOPOLOGY_SAMPLE_MAX];
    int nodes[TOPOLOGY_SAMPLE_MAX];
    for (size_t i = 0; i < asked; i++) {
        /* In two parts, as count * i may not fit. */
        uintptr_t page = first + count / asked * i + count % asked * i / asked;
        pages[i] = (void *)(page * PAGE_BYTES);
        nodes[i] = -ENOENT;
    }
    /* Without a list of targets the call only tells; a page that is not there has -errno. */
    if (syscall(SYS_move_pages, 0, asked, pages, NULL, nodes, 0) < 0) {
        placement.os_error = errno;
        return placement;
    }
    for (size_t i = 0; i < asked; i++) {
        if (nodes[i] < 0)
            continue;
        placement.pages_sampled++;
        if ((uint32_t)nodes[i] == wanted)
            placement.pages_on_node++;
    }
    return placement;
}

/* ---- planning ---- */

/* Writes the nodes that can build a shard, most CPUs first, as lanes; returns their number. */
static uint32_t lanes_rank(const struct topology_numa_node *nodes, uint32_t node_count,
                           uint64_t shard_bytes, struct topology_lane *lanes)
{
    uint32_t count = 0;
    for (uint32_t n = 0; n < node_count; n++) {
        if (nodes[n].cpu_count == 0 || nodes[n].memory_bytes < shard_bytes)
            continue;
        uint32_t at = count++;
        for (; at > 0 && nodes[lanes[at - 1].numa].cpu_count < nodes[n].cpu_count; at--)
            lanes[at] = lanes[at - 1];
        lanes[at] = (struct topology_lane){.numa = n};
    }
    return count;
}

/* One thread each, then one at a time to the lane that has most CPUs for each thread it would have
 * (D'Hondt): with as many threads as CPUs each lane gets exactly its own. */
static void lanes_share_threads(const struct topology_numa_node *nodes, uint32_t threads,
                                struct topology_lane *lanes, uint32_t count)
{
    for (uint32_t i = 0; i < count; i++)
        lanes[i].threads = 1;
    for (uint32_t left = threads - count; left > 0; left--) {
        uint32_t best = 0;
        for (uint32_t i = 1; i < count; i++)
            if ((uint64_t)nodes[lanes[i].numa].cpu_count * (lanes[best].threads + 1) >
                (uint64_t)nodes[lanes[best].numa].cpu_count * (lanes[i].threads + 1))
                best = i;
        lanes[best].threads++;
    }
}

uint32_t topology_plan_lanes(const struct topology_numa_node *nodes, uint32_t node_count,
                             const struct topology_lane_request *request,
                             struct topology_lane *lanes)
{
    assert(node_count <= TOPOLOGY_NUMA_MAX);
    uint32_t threads = MAX(request->threads, 1);
    uint64_t budget = request->memory_bytes - MIN(request->memory_bytes, request->fixed_bytes);
    uint32_t count = lanes_rank(nodes, node_count, request->shard_bytes, lanes);
    if (count == 0) {
        lanes[0] = (struct topology_lane){TOPOLOGY_ANY, threads, budget};
        return 1;
    }
    uint64_t limit = MIN(threads, MAX(request->shard_count, 1));
    if (request->fixed_bytes > request->memory_bytes)
        limit = 1;
    else if (request->shard_bytes > 0)
        limit = MIN(limit, budget / request->shard_bytes);
    count = (uint32_t)MIN(count, MAX(limit, 1));
    lanes_share_threads(nodes, threads, lanes, count);
    for (uint32_t i = 0; i < count; i++)
        lanes[i].memory_bytes = MIN(budget / count, nodes[lanes[i].numa].memory_bytes);
    return count;
}
