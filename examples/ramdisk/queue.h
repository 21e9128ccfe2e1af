/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtqueue as the device has it (virtio 1.3 sections 2.7 and 2.8): chains of buffers out of the
 * ring, completions into it.
 *
 * Everything in the rings is the guest's and may be nonsense: each descriptor is copied once and
 * the copy checked. Nonsense breaks the queue, and nothing else.
 */
#ifndef RAMDISK_QUEUE_H
#define RAMDISK_QUEUE_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/uio.h>

#include "guest_memory.h"
#include "inflight.h"

#define RD_MAX_SEGMENTS 1024

struct rd_desc;
struct rd_avail;
struct rd_used;
struct rd_event;

struct rd_split {
    struct rd_desc *desc;
    struct rd_avail *avail;
    struct rd_used *used;
    uint16_t avail_idx;  /* next entry to take */
    uint16_t used_idx;   /* next entry to write */
    uint16_t called_idx; /* used_idx as of the last decision to call or not */
};

struct rd_packed {
    struct rd_packed_desc *desc;
    const struct rd_event *driver; /* when the guest wants to be called */
    struct rd_event *device;       /* when we want to be kicked */
    struct rd_place avail;         /* next descriptor to take */
    struct rd_place used;          /* next one to write */
    unsigned uncalled;             /* descriptors used since the last decision to call or not */
};

struct rd_queue {
    unsigned index;

    /* What the front-end has said. */
    unsigned num;
    struct svq_vu_vring_addr addr;
    uint32_t base;
    bool enabled;
    int kick;              /* guest to us */
    int call;              /* us to guest */
    int err;               /* us to VMM, when the ring is broken */
    struct rd_track track; /* its part of the in-flight region */

    /* Live, from rd_queue_start() on. */
    bool started;
    const char *broken; /* why, static */
    bool event_idx;
    bool indirect;
    bool packed;
    const struct rd_memory *mem;
    struct rd_split s;  /* if it is a split ring */
    struct rd_packed p; /* if it is a packed one */
};

/* A request: what the device may read, and after that what it must write. */
struct rd_chain {
    uint16_t id;    /* the guest's name for it: its head, or its buffer id */
    uint16_t slots; /* descriptors that it takes in a packed ring */
    uint16_t entry; /* where the in-flight region has it */
    unsigned out;
    unsigned in;
    struct iovec iov[RD_MAX_SEGMENTS]; /* `out` and then `in` of them */
};

/* Find the rings in memory, now or after the memory has changed. Return: 0 or -EINVAL. */
int rd_queue_attach(struct rd_queue *queue, const struct rd_memory *mem);

/*
 * The ring runs: from its base, or, if the in-flight region tells of a predecessor, from where that
 * was, with its unfinished requests first. Return: 0, -EINVAL, -EBADMSG (the region), -ENOMEM.
 */
int rd_queue_start(struct rd_queue *queue, const struct rd_memory *mem, uint64_t features);

/* The ring's state for GET_VRING_BASE; everything taken has been completed. */
uint32_t rd_queue_base(const struct rd_queue *queue);

/* Does it run, and may it? */
bool rd_queue_ready(const struct rd_queue *queue);

/* Take a chain. Return: false when there is none, or the queue is (now) broken. */
bool rd_queue_pop(struct rd_queue *queue, struct rd_chain *chain);

/* Complete a chain, having written `len` bytes; the guest may not see it before the flush. */
void rd_queue_push(struct rd_queue *queue, const struct rd_chain *chain, uint32_t len);
void rd_queue_flush(struct rd_queue *queue);

/*
 * Ask to be kicked, or not to be. After asking look again: true says that there is work already,
 * for which no kick will come.
 */
bool rd_queue_arm(struct rd_queue *queue);
void rd_queue_disarm(struct rd_queue *queue);

#endif
