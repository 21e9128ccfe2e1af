/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtio-blk driver that never trusts the device: random requests on every queue, one thread per
 * queue, every byte read compared with what the disk must hold, every request accounted for. It
 * sleeps on the call eventfd and kicks only when asked, as a real driver does, so a notification
 * that gets lost shows as well.
 *
 *      sim_blk_new() -> run -> pause (CPUs stopped, requests stay in the rings) -> run ...
 *                    -> finish (everything completed) -> scan (the whole disk read back)
 *
 * Each queue works on a part of the disk of its own. All calls come from one thread.
 */
#ifndef SIM_BLK_H
#define SIM_BLK_H

#include <stdbool.h>
#include <stdint.h>

#include "disk_model.h"
#include "guest.h"

/* Features of the device that this driver makes use of (virtio 1.3 section 5.2.3). */
#define SIM_BLK_F_BLK_SIZE 6
#define SIM_BLK_F_FLUSH    9
#define SIM_BLK_F_MQ       12

struct sim_blk_config {
    unsigned depth;         /* requests in flight per queue */
    uint32_t max_bytes;     /* of a request's data, a multiple of SIM_PAGE */
    uint64_t scratch_bytes; /* per queue, of memory that the guest's CPUs write to beside I/O */
    unsigned stall_ms;      /* no completion for so long is a failure; 0: 10 seconds */
    uint64_t seed;
};

struct sim_blk_stats {
    uint64_t requests; /* completed and found right */
    uint64_t reads;
    uint64_t writes;
    uint64_t flushes;
    uint64_t bytes; /* of data, read and written */
    uint64_t kicks; /* sent */
    uint64_t calls; /* received */
};

struct sim_blk;

/* Takes memory from guest->mem. guest and disk stay the caller's. Return: 0 or -errno. */
int sim_blk_new(const struct sim_blk_config *config, struct sim_guest *guest, struct sim_disk *disk,
                struct sim_blk **out);
/* Paused or finished before. */
void sim_blk_free(struct sim_blk *blk);

/* Start the threads. Return: 0 or -errno. */
int sim_blk_run(struct sim_blk *blk);
/* Stop the threads as they stand. What is in flight stays there, for the next run. */
void sim_blk_pause(struct sim_blk *blk);
/* Let the threads complete what is in flight and then end. Return: 0, or -EIO: sim_blk_error(). */
int sim_blk_finish(struct sim_blk *blk);
/* After finish: read the whole disk, every part by another queue than wrote it. As above. */
int sim_blk_scan(struct sim_blk *blk);

/* What went wrong first, or NULL. A queue that failed has stopped. */
const char *sim_blk_error(struct sim_blk *blk);

/* Sums over all queues; at any time. */
void sim_blk_stats(const struct sim_blk *blk, struct sim_blk_stats *stats);
/* The longest that a request took since the last time, in microseconds. */
uint64_t sim_blk_take_longest(struct sim_blk *blk);
/* Requests in flight; while paused. */
unsigned sim_blk_in_flight(const struct sim_blk *blk);

#endif
