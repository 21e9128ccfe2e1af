/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Real traffic on one virtqueue: a guest thread that offers chains and checks what comes back, and
 * a back-end thread that serves them, with eventfds between. Either sleeps when it has nothing to
 * do and relies on being notified: whoever loses a notification is found out by a time limit.
 */
#ifndef SVQ_TESTS_KIT_TRAFFIC_H
#define SVQ_TESTS_KIT_TRAFFIC_H

#include <pthread.h>

#include "ring.h"

/* Nothing may take longer than this without being a hang, under any sanitizer. */
#define TRAFFIC_STALL_MS 20000

/* ---- The guest ----------------------------------------------------------------------------- */

struct traffic_guest {
    /* To be set before the start. */
    struct kit_memory *memory;
    struct kit_ring ring;
    uint64_t features;
    uint32_t base;
    uint64_t buffers; /* gpa of a page of buffers per descriptor */
    uint64_t chains;  /* to pass altogether */
    unsigned depth;   /* at most so many outstanding */
    unsigned batch;   /* at most so many per publish */
    int call[2];      /* eventfds; [1] may be -1 */
    uint64_t seed;

    /* The thread's. */
    struct kit_driver *driver;
    struct kit_rng rng;
    uint64_t offered;
    unsigned outstanding;
    unsigned *spare; /* buffers that no chain uses */
    unsigned spare_count;
    uint64_t *sequence; /* by buffer: number of the chain that uses it */
    pthread_t thread;

    /* Shared. */
    pthread_mutex_t kick_lock; /* held while kicking, so that a kick fd can be changed */
    int kick;
    _Atomic uint64_t done;
    _Atomic bool stalled;
    _Atomic unsigned errors; /* wrong bytes, lengths or ids */
};

void traffic_guest_init(struct traffic_guest *guest);
void traffic_guest_start(struct traffic_guest *guest);
/* Wait until all chains are through or the guest has given up. */
void traffic_guest_join(struct traffic_guest *guest);
void traffic_guest_free(struct traffic_guest *guest);
void traffic_guest_set_kick(struct traffic_guest *guest, int fd);

/* ---- The back-end -------------------------------------------------------------------------- */

struct traffic_backend {
    /* To be set before the start. */
    struct kit_memory *memory;
    struct kit_ring ring;
    uint64_t features;
    uint32_t base;
    struct svq_relay_tables tables; /* on a shadow ring: the relay's */
    int kick;
    int call;
    uint64_t seed;
    bool greedy; /* take all there is before completing, in any order unless IN_ORDER */

    /* The thread's. */
    struct kit_device *device;
    struct kit_rng rng;
    struct kit_buf *bufs;
    struct taken *taken;
    unsigned taken_count;
    pthread_t thread;

    /* Shared. */
    int stop_event;
    _Atomic bool stop;
    _Atomic unsigned errors;
};

void traffic_backend_start(struct traffic_backend *backend);
/* Complete what was taken and leave. Return: the base. */
uint32_t traffic_backend_stop(struct traffic_backend *backend);

int traffic_event(void);
void traffic_ring(int fd);

#endif
