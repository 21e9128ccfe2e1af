/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest_memory.h"

#include <errno.h>
#include <sys/mman.h>
#include <sys/stat.h>

static int map_region(struct rd_mapping *mapping, const struct svq_vu_region *region, int fd)
{
    uint64_t size = region->mmap_offset + region->size;
    struct stat st;
    void *base;

    if (!region->size || size < region->size || region->guest_addr + region->size < region->size ||
        region->user_addr + region->size < region->size)
        return -EINVAL;
    /* To touch what lies behind the end of a file is death by SIGBUS. */
    if (fstat(fd, &st))
        return -errno;
    if ((uint64_t)st.st_size < size)
        return -ERANGE;
    base = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (base == MAP_FAILED)
        return -errno;
    *mapping = (struct rd_mapping){.region = *region, .base = base, .size = size};
    return 0;
}

int rd_memory_set(struct rd_memory *mem, const struct svq_vu_mem_table *table, const int *fds)
{
    rd_memory_clear(mem);
    for (unsigned i = 0; i < table->count; i++) {
        int ret = map_region(&mem->mappings[i], &table->regions[i], fds[i]);

        if (ret) {
            rd_memory_clear(mem);
            return ret;
        }
        mem->count++;
    }
    return 0;
}

void rd_memory_clear(struct rd_memory *mem)
{
    while (mem->count) {
        struct rd_mapping *mapping = &mem->mappings[--mem->count];

        munmap(mapping->base, mapping->size);
    }
}

static void *at(const struct rd_mapping *mapping, uint64_t offset)
{
    return (char *)mapping->base + mapping->region.mmap_offset + offset;
}

void *rd_memory_gpa(const struct rd_memory *mem, uint64_t gpa, uint64_t *len)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct svq_vu_region *region = &mem->mappings[i].region;
        uint64_t offset = gpa - region->guest_addr;

        if (gpa < region->guest_addr || offset >= region->size)
            continue;
        if (*len > region->size - offset)
            *len = region->size - offset;
        return at(&mem->mappings[i], offset);
    }
    return NULL;
}

void *rd_memory_uaddr(const struct rd_memory *mem, uint64_t uaddr, uint64_t len)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct svq_vu_region *region = &mem->mappings[i].region;
        uint64_t offset = uaddr - region->user_addr;

        if (uaddr >= region->user_addr && offset < region->size)
            return len <= region->size - offset ? at(&mem->mappings[i], offset) : NULL;
    }
    return NULL;
}
