/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A bitmap of dirty pages that other threads and other processes set bits in while this one
 * fetches and clears them. Laid out as vhost wants a dirty log: bit (gpa / 4096), least significant
 * first, from guest-physical address 0; in a memfd, so that a back-end can map it.
 */
#ifndef SIM_BITMAP_H
#define SIM_BITMAP_H

#include <stddef.h>
#include <stdint.h>

#define SIM_PAGE 4096u

struct sim_bitmap {
    int fd;
    size_t words; /* 64 pages each */
    _Atomic uint64_t *bits;
};

/* A clear bitmap for [0, end). Return: 0 or -errno. */
int sim_bitmap_new(uint64_t end, struct sim_bitmap **out);
void sim_bitmap_free(struct sim_bitmap *bitmap);

/* Bytes, as SET_LOG_BASE wants them. */
size_t sim_bitmap_size(const struct sim_bitmap *bitmap);

/*
 * Mark every page that [gpa, gpa + len) touches. Call it after the write that it reports: whoever
 * fetches the bit then sees that write. Any thread.
 */
void sim_bitmap_mark(struct sim_bitmap *bitmap, uint64_t gpa, uint64_t len);

/*
 * Fetch and clear: what was set since the last time is ORed into `into` (`words` words; bits beyond
 * the shorter of the two stay). Whoever copies the pages afterwards sees what was written to them.
 */
void sim_bitmap_harvest(struct sim_bitmap *bitmap, uint64_t *into, size_t words);

#endif
