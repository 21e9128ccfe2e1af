/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory near the processors that use it, on machines with several NUMA nodes. */
#ifndef SVQ_MEM_NUMA_H
#define SVQ_MEM_NUMA_H

#include <stddef.h>
#include <stdint.h>

#define SVQ_NUMA_ANY   (-1)
#define SVQ_NUMA_SYSFS "/sys/devices/system"

/**
 * svq_numa_node() - the node that all these processors belong to.
 * @sysfs: SVQ_NUMA_SYSFS, or what a test has in its place
 *
 * Return: SVQ_NUMA_ANY when they belong to several, when the machine has one only, or when it does
 * not tell.
 */
int svq_numa_node(const char *sysfs, const uint16_t *cpus, unsigned count);

/*
 * Pages of this mapping that nobody has touched yet shall come from the node, if it has any left.
 * That goes for the file below a shared mapping, and so for whoever else maps it. Return: 0 or
 * -errno.
 */
int svq_numa_prefer(void *start, size_t size, int node);

#endif
