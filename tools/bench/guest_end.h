/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A guest and its VMM: the front-end's end of a path. The simulator's guest speaks vhost-user (and
 * logs dirty pages, if asked to); the drivers are flows, one for each queue. Even queues receive,
 * odd ones transmit, as those of a network card do.
 *
 * Control calls come from one thread, and sleep; turns are taken by a loop.
 */
#ifndef SVQ_BENCH_GUEST_END_H
#define SVQ_BENCH_GUEST_END_H

#include "flow.h"
#include "loop.h"
#include "sim/guest.h"

struct guest_end_config {
    unsigned queues;
    unsigned ring_size; /* entries; a power of two */
    bool packed;
    bool in_order;
    bool event_idx;
    unsigned depth; /* buffers in flight of each queue */
    unsigned batch;
    unsigned size;  /* bytes of a buffer */
    bool polls;     /* never sleeps, and has no eventfds for it */
    unsigned spins; /* for each buffer; see spins_of_ns() */
};

struct guest_end {
    struct guest_end_config config;
    struct bench_loop *loop; /* NULL: nobody takes its turns */
    struct bench_party party;
    bool looped;
    struct sim_memory *mem;
    struct sim_guest *guest;
    struct flow_driver *drivers; /* the loop's */
    char error[240];
};

/* All below: 0, or -errno with end->error saying what went wrong. */

/* @loop: may be NULL, for a guest that only sits there. */
int guest_end_init(struct guest_end *end, const struct guest_end_config *config,
                   struct bench_loop *loop);
void guest_end_release(struct guest_end *end);

/* Connect to a device, with empty rings, and start; nothing is offered yet. */
int guest_end_connect(struct guest_end *end, const char *path);
/* Wait until all that is in flight has come back, then leave. */
int guest_end_disconnect(struct guest_end *end);

/* Offer buffers from now on, or no more. */
void guest_end_offer(struct guest_end *end, bool offer);

/* Log dirty pages (VHOST_F_LOG_ALL) into a clear log, or no more. Idempotent. */
int guest_end_log(struct guest_end *end, bool on);

/* A flow that stands still because something is wrong, or NULL. Through a call of the loop. */
const char *guest_end_fault(const struct guest_end *end);

#endif
