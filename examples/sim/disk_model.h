/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What every sector of a disk must hold. A sector's content follows from its number and its
 * generation, which counts the writes to it; generation 0 is a blank sector. So each read can be
 * checked, and a stale, misplaced or torn sector is told from a right one.
 *
 * Requests that could overtake each other must not overlap: take the range first.
 */
#ifndef SIM_DISK_MODEL_H
#define SIM_DISK_MODEL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define SIM_SECTOR 512u

struct sim_disk {
    uint64_t sectors;
    uint64_t seed;
    uint32_t *generation; /* as of the last completed write */
    int16_t *users;       /* requests under way: -1 is one write, n are n reads */
};

/* Return: 0 or -ENOMEM. Parts of the disk may belong to different threads. */
int sim_disk_new(uint64_t sectors, uint64_t seed, struct sim_disk **out);
void sim_disk_free(struct sim_disk *disk);

/* Take sectors for a read or a write. Return: false when requests under way forbid it. */
bool sim_disk_take(struct sim_disk *disk, uint64_t sector, uint64_t count, bool write);
/* Give them back; a write that took place makes a new generation of each. */
void sim_disk_give(struct sim_disk *disk, uint64_t sector, uint64_t count, bool write, bool done);

/* Write what the sectors hold after the next write. The stores are atomic: see memory.h. */
void sim_disk_fill(const struct sim_disk *disk, uint64_t sector, uint64_t count, void *data);

/*
 * Is this what the sectors hold? If not, a sentence that says what is wrong goes to `why`.
 */
bool sim_disk_check(const struct sim_disk *disk, uint64_t sector, uint64_t count, const void *data,
                    char *why, size_t why_size);

#endif
