/* SPDX-License-Identifier: BSD-3-Clause */
#include "mem/numa.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <linux/mempolicy.h>
#include <stdbool.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <unistd.h>

/* As many as the kernel can be built for. */
#define NODES_MAX     1024
#define BITS_PER_LONG (sizeof(unsigned long) * CHAR_BIT)

/* The list of nodes is one number where there is one node only: "0", not "0-1" or "0,2". */
static bool has_nodes(const char *sysfs)
{
    char path[PATH_MAX], rest = '\n';
    unsigned first;
    FILE *file;
    int found;

    snprintf(path, sizeof(path), "%s/node/online", sysfs);
    file = fopen(path, "re");
    if (!file)
        return false;
    found = fscanf(file, "%u%c", &first, &rest);
    fclose(file);
    return found == 2 && rest != '\n';
}

/* A processor's folder has a link "nodeN". */
static int node_of(const char *sysfs, unsigned cpu)
{
    char path[PATH_MAX];
    const struct dirent *entry;
    int node = SVQ_NUMA_ANY, end;
    DIR *dir;

    snprintf(path, sizeof(path), "%s/cpu/cpu%u", sysfs, cpu);
    dir = opendir(path);
    if (!dir)
        return SVQ_NUMA_ANY;
    while (node == SVQ_NUMA_ANY && (entry = readdir(dir)) != NULL) {
        unsigned number;

        end = 0;
        if (sscanf(entry->d_name, "node%u%n", &number, &end) == 1 && !entry->d_name[end] &&
            number < NODES_MAX)
            node = (int)number;
    }
    closedir(dir);
    return node;
}

int svq_numa_node(const char *sysfs, const uint16_t *cpus, unsigned count)
{
    int node;

    if (!count || !has_nodes(sysfs))
        return SVQ_NUMA_ANY;
    node = node_of(sysfs, cpus[0]);
    for (unsigned i = 1; i < count; i++)
        if (node_of(sysfs, cpus[i]) != node)
            return SVQ_NUMA_ANY;
    return node;
}

int svq_numa_prefer(void *start, size_t size, int node)
{
    unsigned long mask[NODES_MAX / BITS_PER_LONG] = {0};

    if (node < 0 || node >= NODES_MAX)
        return -EINVAL;
    mask[(unsigned)node / BITS_PER_LONG] = 1UL << (unsigned)node % BITS_PER_LONG;
    /* The kernel takes one bit less than it is told. No libnuma for a single call. */
    return syscall(SYS_mbind, start, size, MPOL_PREFERRED, mask, NODES_MAX + 1, 0) < 0 ? -errno : 0;
}
