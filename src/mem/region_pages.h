/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The pages below shadow rings: which size they have, and which NUMA node they come from.
 *
 * A huge page spares a worker that serves many rings its TLB misses, and costs 2 MiB, which is
 * twenty times what a usual device's rings take. So rings get one where they fill half of it, from
 * the system's transparent huge pages; and reserved ones (vm.nr_hugepages), which are usually meant
 * for guests, only on demand.
 */
#ifndef SVQ_MEM_REGION_PAGES_H
#define SVQ_MEM_REGION_PAGES_H

#include <stdbool.h>
#include <stdint.h>

#include "mem/numa.h"

#define SVQ_HUGE_PAGE (UINT64_C(2) << 20)

enum svq_huge_pages { SVQ_HUGE_PAGES_AUTO, SVQ_HUGE_PAGES_RESERVED, SVQ_HUGE_PAGES_OFF };

struct svq_region_policy {
    enum svq_huge_pages huge_pages;
    int node; /* or SVQ_NUMA_ANY */
};

/* For all files to come; svqd sets it once, before its first device. Default: auto, any node. */
void svq_region_pages_policy(const struct svq_region_policy *policy);

struct svq_region_pages {
    int fd;
    uint8_t *host; /* a multiple of SVQ_HUGE_PAGE */
    uint64_t size;
    bool reserved; /* of reserved huge pages */
};

/*
 * A file that nobody can cut short, and our mapping of it.
 * @size: a multiple of SVQ_HUGE_PAGE. Return: 0 or -errno.
 */
int svq_region_pages_new(uint64_t size, struct svq_region_pages *pages);
void svq_region_pages_release(struct svq_region_pages *pages);

/* So many bytes of the huge page at this offset are used now; what is not yet there may be huge. */
void svq_region_pages_used(const struct svq_region_pages *pages, uint64_t offset, uint64_t bytes);

#endif
