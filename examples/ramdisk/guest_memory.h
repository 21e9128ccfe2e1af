/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The guest's memory as SET_MEM_TABLE describes it. No address is used without its length.
 */
#ifndef RAMDISK_GUEST_MEMORY_H
#define RAMDISK_GUEST_MEMORY_H

#include <shadowvq/vhost_user.h>

struct rd_mapping {
    struct svq_vu_region region;
    void *base; /* of the file */
    size_t size;
};

struct rd_memory {
    unsigned count;
    struct rd_mapping mappings[SVQ_VU_MAX_TABLE_REGIONS];
};

/* Replace all memory; the fds stay the caller's. On failure there is none. Return: 0 or -errno. */
int rd_memory_set(struct rd_memory *mem, const struct svq_vu_mem_table *table, const int *fds);
void rd_memory_clear(struct rd_memory *mem);

/*
 * A pointer to guest-physical memory: buffers. They may go on in another region, so *len is
 * shortened to what lies at the pointer. Return: NULL when there is no memory.
 */
void *rd_memory_gpa(const struct rd_memory *mem, uint64_t gpa, uint64_t *len);

/* A pointer to memory by the front-end's own address: rings. All of it or NULL. */
void *rd_memory_uaddr(const struct rd_memory *mem, uint64_t uaddr, uint64_t len);

#endif
