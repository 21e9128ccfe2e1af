/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A flow: numbered buffers through one virtqueue, as network frames go. The guest receives (the
 * device writes each buffer) or transmits (the guest does); the other side reads.
 *
 * Each buffer begins with a header that says which one of the flow it is. Whoever reads it checks
 * that it is the next one, that the length is right, and that its id was in flight: no buffer can
 * be lost, doubled, swapped or stale without being found out. What is wrong is in `fault`, and the
 * flow stands still.
 *
 * As between a network card's driver and a virtual switch, one of the two copies the whole of a
 * buffer (here the device), the other looks at its header only.
 *
 * A driver's and a device's state belong to the thread that takes their turns.
 */
#ifndef SVQ_BENCH_FLOW_H
#define SVQ_BENCH_FLOW_H

#include <stddef.h>

#include "clock.h"
#include "vq.h"

#define FLOW_SIZE_MIN 16u
#define FLOW_SIZE_MAX 65536u

struct flow_header {
    uint64_t number; /* in the flow, from 0 */
    uint32_t length;
    uint32_t unlike; /* ~length: no zeroed or foreign memory passes for a header */
};

_Static_assert(sizeof(struct flow_header) == FLOW_SIZE_MIN, "the least that a buffer holds");

struct flow_config {
    bool transmit;
    unsigned depth;  /* buffers in flight */
    unsigned batch;  /* buffers per turn, at most */
    unsigned size;   /* bytes of a buffer */
    unsigned stride; /* from one buffer to the next */
    unsigned spins;  /* for each buffer: what else a driver has to do */
    uint64_t gpa;    /* of the buffers, as the device knows them */
    uint8_t *memory; /* the same */
};

struct flow_driver {
    struct vq vq;
    struct flow_config config;
    bool offering; /* false: takes back only */
    bool timed;    /* ping-pong: how long each buffer takes; depth must be 1 */
    bool watched;  /* how long nothing comes back */
    int kick;

    uint64_t done;   /* buffers taken back and found right */
    uint64_t number; /* of the next one to send, or to receive */
    unsigned in_flight;
    uint64_t kicks;
    const char *fault; /* NULL: none */

    uint64_t offered_at; /* ticks */
    uint64_t *samples;   /* ticks each; `timed` */
    size_t sample_count;
    size_t sample_room;
    uint64_t last_at; /* ticks, when something came back; `watched` */
    uint64_t longest; /* ticks */

    unsigned pool_count;
    uint16_t *pool; /* free buffers; the last one given back is the next one taken */
    uint16_t *held; /* by id: its buffer; FLOW_NONE: not in flight */
    uint16_t *ids;  /* free ids, a ring in which each has its turn, as IN_ORDER wants */
    unsigned id_first;
    unsigned id_last;
};

#define FLOW_NONE UINT16_MAX

/* Return: 0 or -ENOMEM. The vq is the caller's to set up. */
int flow_driver_init(struct flow_driver *d, const struct flow_config *config, unsigned ids);
void flow_driver_release(struct flow_driver *d);

/* All that was in flight is forgotten; the flow begins at 0. The rings are zeroed by the caller. */
void flow_driver_restart(struct flow_driver *d);

/* Take back what is used, offer again. Return: how many buffers moved. */
unsigned flow_driver_turn(struct flow_driver *d);

struct flow_memory {
    uint64_t gpa;
    uint64_t size;
    uint8_t *memory;
};

#define FLOW_REGIONS 8u

struct flow_device {
    struct vq vq;
    bool running;
    int call; /* -1: none */
    unsigned batch;
    unsigned spins; /* for each buffer */
    unsigned region_count;
    struct flow_memory regions[FLOW_REGIONS];

    uint64_t done; /* buffers used */
    uint64_t sent; /* number of the next one that the guest receives, */
    uint64_t seen; /* and of the next one that it transmits */
    uint64_t calls;
    const char *fault;
    uint8_t *copy; /* FLOW_SIZE_MAX bytes: what is sent, and where what comes goes */
};

/* Take what is available, use it. Return: how many buffers moved. */
unsigned flow_device_turn(struct flow_device *d);

#endif
