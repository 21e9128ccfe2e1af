/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One queue of the block driver (blk.h): its requests, and the thread that makes them.
 */
#ifndef SIM_BLK_QUEUE_H
#define SIM_BLK_QUEUE_H

#include <pthread.h>
#include <stdatomic.h>

#include "blk.h"

#define SIM_BLK_SEGMENTS 8 /* at most, of one request */

/* What a thread is to do, beside completing what is in flight. */
enum sim_blk_task { SIM_BLK_RANDOM, SIM_BLK_DRAIN, SIM_BLK_SCAN };

struct sim_blk_request {
    uint32_t type;
    uint64_t sector;
    uint32_t bytes;  /* of data */
    uint64_t data;   /* its gpa */
    unsigned buffer; /* which of the queue's buffers holds it */
    uint64_t start;  /* nanoseconds */
};

/* Numbers of buffers that are free. */
struct sim_blk_pool {
    uint16_t *free;
    unsigned count;
};

/* Counters: written by the queue's thread, read by anybody. */
struct sim_blk_counters {
    _Atomic uint64_t reads;
    _Atomic uint64_t writes;
    _Atomic uint64_t flushes;
    _Atomic uint64_t bytes;
    _Atomic uint64_t kicks;
    _Atomic uint64_t calls;
    _Atomic uint64_t longest;
};

struct sim_blk_queue {
    /* Fixed. */
    unsigned index;
    const struct sim_blk_config *config;
    struct sim_guest_queue *vq;
    struct sim_disk *disk;
    bool indirect;
    bool flush;
    uint64_t headers; /* gpas: 16 bytes for each request, */
    uint64_t states;  /* 1 byte each, */
    uint64_t tables;  /* SIM_BLK_SEGMENTS descriptors each */
    uint64_t buffers; /* one for each request to read into, and one to write from */
    uint64_t scratch;
    int wake; /* eventfd: look at `stop` */

    /* The thread's own; the control thread's while there is none. */
    pthread_t thread;
    bool running;
    enum sim_blk_task task;
    uint64_t first_sector; /* of the part it works on */
    uint64_t end_sector;
    uint64_t cursor; /* SIM_BLK_SCAN */
    uint64_t random;
    uint64_t progress; /* when something was last completed, nanoseconds */
    struct sim_blk_request *requests;
    uint16_t *free_requests;
    unsigned free_request_count;
    struct sim_blk_pool read_buffers;
    struct sim_blk_pool write_buffers;

    /* Shared. */
    atomic_bool stop;
    atomic_bool failed; /* `error` is complete */
    struct sim_blk_counters counters;
    char error[240];
};

/* Note the queue's failure; the first one stays. Return: false. */
bool sim_blk_fail(struct sim_blk_queue *queue, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Make requests for the task while there is room. Return: how many. */
unsigned sim_blk_issue(struct sim_blk_queue *queue);

/* Take what the device has completed, and check it. Return: how many; see `failed`. */
unsigned sim_blk_reap(struct sim_blk_queue *queue);

#endif
