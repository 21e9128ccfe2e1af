/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest with a vhost-user-blk disk that reads 4 KiB at random places, always so many requests at
 * a time. Each is checked: its id was in flight, its length and status are right, its buffer was
 * written, and with what.
 */
#ifndef SVQ_BENCH_BLK_END_H
#define SVQ_BENCH_BLK_END_H

#include "loop.h"
#include "sim/guest.h"
#include "vq.h"

struct blk_end {
    struct bench_loop *loop;
    struct bench_party party;
    bool looped;
    bool zeroes; /* the disk is known to be blank */
    struct sim_memory *mem;
    struct sim_guest *guest;
    char error[240];

    /* The loop's. */
    struct vq vq;
    unsigned depth;
    bool offering;
    unsigned in_flight;
    uint64_t sectors;
    uint64_t random;
    uint64_t done;
    uint64_t kicks;
    const char *fault;
    uint64_t heads_gpa; /* headers and states, a cache line for each request */
    uint8_t *heads;
    uint64_t data_gpa;
    uint8_t *data;
    uint16_t *free_ids;
    unsigned free_count;
    bool *flying; /* by id */
};

/* All below: 0, or -errno with end->error. */

int blk_end_init(struct blk_end *end, unsigned depth, bool zeroes, uint64_t seed,
                 struct bench_loop *loop);
void blk_end_release(struct blk_end *end);
/* Connect, with an empty ring, and read. */
int blk_end_connect(struct blk_end *end, const char *path);
/* Let what is in flight come back, then leave. */
int blk_end_disconnect(struct blk_end *end);

/* Requests that came back, and when that was counted. */
int blk_end_count(struct blk_end *end, uint64_t *done, uint64_t *ns);

#endif
