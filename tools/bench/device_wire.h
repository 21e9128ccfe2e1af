/* SPDX-License-Identifier: BSD-3-Clause */
/* A device end's insides: what its two files, queues and messages, share. */
#ifndef SVQ_BENCH_DEVICE_WIRE_H
#define SVQ_BENCH_DEVICE_WIRE_H

#include <stdatomic.h>

#include "device_end.h"
#include "ramdisk/guest_memory.h"

struct device_queue {
    /* The control thread's. */
    unsigned num;
    uint32_t base;
    struct svq_vu_vring_addr addr;
    int kick; /* also listed by the loop, while running */
    int call;
    bool started; /* between SET_VRING_KICK and GET_VRING_BASE */
    bool enabled;

    struct flow_device flow; /* the loop's, if there is one */
};

/* What an epoll event is about. */
struct device_watch {
    struct device_end *end;
    bool listens; /* it is the listener, not the connection */
};

struct device_end {
    /* Fixed. */
    struct device_watch on_listener;
    struct device_watch on_sock;
    unsigned queue_count;
    struct bench_loop *loop;
    struct bench_party party;
    int listener;
    struct device_end *next; /* in the host's list */

    /* The control thread's. */
    int sock; /* -1: no front-end */
    uint64_t features;
    uint64_t protocol;
    struct rd_memory memory;

    /* See struct device_spent. */
    _Atomic uint64_t drain_ns;
    _Atomic uint64_t handled_ns;

    struct device_queue queues[];
};

void device_end_free(struct device_end *end);

/* Queues: the control thread calls, and returns when the loop acts on it. */
int device_queue_start(struct device_end *end, struct device_queue *queue);
void device_queue_stop(struct device_end *end, struct device_queue *queue);
void device_queue_set_call(struct device_end *end, struct device_queue *queue, int fd);
void device_queue_forget(struct device_end *end, struct device_queue *queue);

/* The control thread takes care of it from now on. */
int device_host_take(struct device_host *host, struct device_end *end);
void device_end_hang_up(struct device_end *end);

#endif
