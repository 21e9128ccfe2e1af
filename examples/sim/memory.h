/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory of a simulated guest: one or two regions of a memfd, low memory at guest-physical address
 * 0 and high memory at 4 GiB, as a PC has them.
 *
 * A VMM learns what its guest's CPUs wrote from the page tables. Here whoever plays the CPU says so
 * with sim_memory_mark(), after the write. While other threads copy pages (live migration) the
 * CPU's writes must be atomic; relaxed is enough and costs what a plain store costs.
 */
#ifndef SIM_MEMORY_H
#define SIM_MEMORY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "bitmap.h"

#define SIM_MEMORY_REGIONS 2
#define SIM_MEMORY_HIGH    (UINT64_C(4) << 30) /* where the second region starts */
#define SIM_NO_GPA         UINT64_MAX

struct sim_region {
    uint64_t gpa;
    uint64_t size;
    uint64_t offset; /* in the memfd */
    uint8_t *ptr;
    uint64_t taken; /* bytes handed out by sim_memory_alloc() */
};

struct sim_memory {
    int fd;
    unsigned count;
    struct sim_region regions[SIM_MEMORY_REGIONS];
    unsigned next;          /* region that sim_memory_alloc() tries first */
    struct sim_bitmap *cpu; /* pages the guest's own CPUs wrote */
};

/* Zeroed memory; sizes in bytes, whole pages; high may be 0. Return: 0 or -errno. */
int sim_memory_new(uint64_t low, uint64_t high, struct sim_memory **out);

/* Zeroed memory of the same shape, with the same parts handed out: a place to migrate to. */
int sim_memory_clone(const struct sim_memory *like, struct sim_memory **out);
void sim_memory_free(struct sim_memory *mem);

/* First address above all of it, and bytes in all. */
uint64_t sim_memory_end(const struct sim_memory *mem);
uint64_t sim_memory_size(const struct sim_memory *mem);

/* Hand out a part, never given back; regions take turns. Return: its gpa or SIM_NO_GPA. */
uint64_t sim_memory_alloc(struct sim_memory *mem, uint64_t size, uint64_t align);

/* Pointer to [gpa, gpa + len), which must lie in one region; NULL otherwise. */
void *sim_memory_ptr(const struct sim_memory *mem, uint64_t gpa, uint64_t len);

/* The guest's CPU has written this. Any thread. */
void sim_memory_mark(struct sim_memory *mem, uint64_t gpa, uint64_t len);

/* Does this page exist? */
bool sim_memory_has_page(const struct sim_memory *mem, uint64_t page);

/* Copy one page between two memories of one shape, whoever may be writing to the source. */
void sim_memory_copy_page(struct sim_memory *to, const struct sim_memory *from, uint64_t page);

/*
 * Number of pages that differ; the first one's address in *first. Nobody may be writing to either.
 */
uint64_t sim_memory_compare(const struct sim_memory *a, const struct sim_memory *b,
                            uint64_t *first);

#endif
