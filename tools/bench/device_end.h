/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The back-end's end of a path: vhost-user devices whose queues are flows. One thread serves the
 * control messages of all of them; turns are taken by a loop, or by nobody (idle devices).
 *
 * They offer no dirty log, so that it is the shadow that writes one.
 */
#ifndef SVQ_BENCH_DEVICE_END_H
#define SVQ_BENCH_DEVICE_END_H

#include "flow.h"
#include "loop.h"

#define DEVICE_QUEUES_MAX 64u

struct device_end;
struct device_host; /* the thread */

int device_host_new(struct device_host **out);
/* Ends the devices' connections, and frees them. */
void device_host_free(struct device_host *host);

struct device_end_config {
    unsigned queues;
    unsigned batch; /* buffers per turn */
    unsigned spins; /* for each buffer; see spins_of_ns() */
};

/*
 * A device that listens there; one front-end at a time.
 * @loop: may be NULL. Return: 0 or -errno. It is the host's.
 */
int device_end_new(struct device_host *host, const char *path,
                   const struct device_end_config *config, struct bench_loop *loop,
                   struct device_end **out);

/* How long its front-end had to wait for it. */
struct device_spent {
    uint64_t drain_ns;   /* with GET_VRING_BASE */
    uint64_t handled_ns; /* with all messages, that one too */
};

/* Since it was last asked for. Any thread. */
struct device_spent device_end_take_spent(struct device_end *end);

/* What a queue has done; to be looked at in the loop's thread. */
const struct flow_device *device_end_flow(const struct device_end *end, unsigned queue);

#endif
