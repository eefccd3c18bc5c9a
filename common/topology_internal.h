/*
 * topology_internal.h - which CPU a thread is bound to, for tests on machines that are made up and
 * where nothing is bound.
 */
#ifndef NIGHTJAR_COMMON_TOPOLOGY_INTERNAL_H
#define NIGHTJAR_COMMON_TOPOLOGY_INTERNAL_H

#include "common/topology.h"

/* The kernel's number of the CPU that topology_bind_thread() takes for these two: CPU `cpu_index`
 * modulo the node's CPUs, numa_index < topology_numa_count(). */
uint32_t topology_cpu(const struct topology *topology, uint32_t numa_index, uint32_t cpu_index);

#endif
