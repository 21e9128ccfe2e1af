/* SPDX-License-Identifier: BSD-3-Clause */
#include "memory.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

/* A guest's firmware and kernel sit at the bottom; nothing of ours goes there. */
#define RESERVED (UINT64_C(64) * 1024)

static int map_regions(struct sim_memory *mem)
{
    uint64_t offset = 0;

    for (unsigned i = 0; i < mem->count; i++) {
        struct sim_region *region = &mem->regions[i];
        void *ptr =
            mmap(NULL, region->size, PROT_READ | PROT_WRITE, MAP_SHARED, mem->fd, (off_t)offset);

        if (ptr == MAP_FAILED)
            return -errno;
        region->ptr = ptr;
        region->offset = offset;
        offset += region->size;
    }
    return 0;
}

int sim_memory_new(uint64_t low, uint64_t high, struct sim_memory **out)
{
    struct sim_memory *mem = calloc(1, sizeof(*mem));
    int ret;

    if (!mem)
        return -ENOMEM;
    mem->count = high ? 2 : 1;
    mem->regions[0] = (struct sim_region){.gpa = 0, .size = low, .taken = RESERVED};
    mem->regions[1] = (struct sim_region){.gpa = SIM_MEMORY_HIGH, .size = high};
    mem->fd = memfd_create("sim-memory", MFD_CLOEXEC);
    if (mem->fd < 0) {
        ret = -errno;
        free(mem);
        return ret;
    }
    ret = ftruncate(mem->fd, (off_t)(low + high)) ? -errno : 0;
    if (!ret)
        ret = map_regions(mem);
    if (!ret)
        ret = sim_bitmap_new(sim_memory_end(mem), &mem->cpu);
    if (ret) {
        sim_memory_free(mem);
        return ret;
    }
    *out = mem;
    return 0;
}

int sim_memory_clone(const struct sim_memory *like, struct sim_memory **out)
{
    int ret = sim_memory_new(like->regions[0].size, like->regions[1].size, out);

    if (ret)
        return ret;
    for (unsigned i = 0; i < like->count; i++)
        (*out)->regions[i].taken = like->regions[i].taken;
    return 0;
}

void sim_memory_free(struct sim_memory *mem)
{
    if (!mem)
        return;
    for (unsigned i = 0; i < mem->count; i++) {
        if (mem->regions[i].ptr)
            munmap(mem->regions[i].ptr, mem->regions[i].size);
    }
    sim_bitmap_free(mem->cpu);
    close(mem->fd);
    free(mem);
}

uint64_t sim_memory_end(const struct sim_memory *mem)
{
    const struct sim_region *last = &mem->regions[mem->count - 1];

    return last->gpa + last->size;
}

uint64_t sim_memory_size(const struct sim_memory *mem)
{
    return mem->regions[0].size + mem->regions[1].size;
}

uint64_t sim_memory_alloc(struct sim_memory *mem, uint64_t size, uint64_t align)
{
    for (unsigned i = 0; i < mem->count; i++) {
        struct sim_region *region = &mem->regions[mem->next++ % mem->count];
        uint64_t start = (region->taken + align - 1) / align * align;

        if (start > region->size || size > region->size - start)
            continue;
        region->taken = start + size;
        return region->gpa + start;
    }
    return SIM_NO_GPA;
}

static const struct sim_region *region_of(const struct sim_memory *mem, uint64_t gpa, uint64_t len)
{
    for (unsigned i = 0; i < mem->count; i++) {
        const struct sim_region *region = &mem->regions[i];

        if (gpa >= region->gpa && gpa - region->gpa < region->size)
            return len <= region->size - (gpa - region->gpa) ? region : NULL;
    }
    return NULL;
}

void *sim_memory_ptr(const struct sim_memory *mem, uint64_t gpa, uint64_t len)
{
    const struct sim_region *region = region_of(mem, gpa, len);

    return region ? region->ptr + (gpa - region->gpa) : NULL;
}

void sim_memory_mark(struct sim_memory *mem, uint64_t gpa, uint64_t len)
{
    sim_bitmap_mark(mem->cpu, gpa, len);
}

bool sim_memory_has_page(const struct sim_memory *mem, uint64_t page)
{
    return region_of(mem, page * SIM_PAGE, SIM_PAGE);
}

void sim_memory_copy_page(struct sim_memory *to, const struct sim_memory *from, uint64_t page)
{
    const _Atomic uint64_t *src = sim_memory_ptr(from, page * SIM_PAGE, SIM_PAGE);
    uint64_t *dst = sim_memory_ptr(to, page * SIM_PAGE, SIM_PAGE);

    /* A page that changes meanwhile is copied torn, and once more in the next round. */
    for (size_t i = 0; i < SIM_PAGE / sizeof(*dst); i++)
        dst[i] = atomic_load_explicit(&src[i], memory_order_relaxed);
}

uint64_t sim_memory_compare(const struct sim_memory *a, const struct sim_memory *b, uint64_t *first)
{
    uint64_t differ = 0;

    for (unsigned i = 0; i < a->count; i++) {
        const struct sim_region *region = &a->regions[i];

        for (uint64_t offset = 0; offset < region->size; offset += SIM_PAGE) {
            if (!memcmp(region->ptr + offset, b->regions[i].ptr + offset, SIM_PAGE))
                continue;
            if (!differ++)
                *first = region->gpa + offset;
        }
    }
    return differ;
}
