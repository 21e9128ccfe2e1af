/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Requests that have been taken and not completed. A disk in RAM has none for long; told to take
 * its time, it has many, and completes them in any order, as real disks do.
 */
#ifndef RAMDISK_WORK_H
#define RAMDISK_WORK_H

#include "disk.h"
#include "queue.h"

struct rd_task;

struct rd_work {
    struct rd_task **tasks;
    unsigned count; /* under way */
    unsigned room;
};

/* How long requests take: a random time, delay_us on average; 0: none. */
struct rd_pace {
    unsigned delay_us;
    uint64_t random;
};

/* Take what the queue has and complete what is done. Return: whether there was anything. */
bool rd_work_serve(struct rd_work *work, struct rd_queue *queue, struct rd_disk *disk,
                   struct rd_pace *pace);

/* Complete everything that was taken, now. */
void rd_work_finish(struct rd_work *work, struct rd_queue *queue, struct rd_disk *disk);

/* Forget it all. */
void rd_work_drop(struct rd_work *work);

#endif
