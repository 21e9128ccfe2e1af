/* SPDX-License-Identifier: BSD-3-Clause */
#include "work.h"

#include <stdlib.h>
#include <time.h>

/* Requests to take from a queue before the next one gets its turn. */
#define BATCH 64

struct rd_task {
    uint64_t due; /* nanoseconds */
    struct rd_chain chain;
};

static uint64_t now_ns(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000000u + (uint64_t)ts.tv_nsec;
}

static uint64_t take_random(struct rd_pace *pace, uint64_t below)
{
    /* Knuth's constants; the upper half is the random one. */
    pace->random = pace->random * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
    return (pace->random >> 32) % below;
}

static bool has_room(struct rd_work *work)
{
    struct rd_task **tasks;
    struct rd_task *task;

    if (work->count < work->room)
        return true;
    if (work->room == BATCH)
        return false;
    tasks = realloc(work->tasks, (work->room + 1) * sizeof(struct rd_task *));
    if (!tasks)
        return false;
    work->tasks = tasks;
    task = malloc(sizeof(*task));
    if (!task)
        return false;
    work->tasks[work->room++] = task;
    return true;
}

static void complete(struct rd_task *task, struct rd_queue *queue, struct rd_disk *disk)
{
    rd_queue_push(queue, &task->chain, rd_disk_serve(disk, &task->chain));
}

void rd_work_finish(struct rd_work *work, struct rd_queue *queue, struct rd_disk *disk)
{
    for (unsigned i = 0; i < work->count; i++)
        complete(work->tasks[i], queue, disk);
    work->count = 0;
    if (queue->started)
        rd_queue_flush(queue);
}

static unsigned complete_due(struct rd_work *work, struct rd_queue *queue, struct rd_disk *disk)
{
    uint64_t now = now_ns();
    unsigned done = 0;

    for (unsigned i = 0; i < work->count;) {
        struct rd_task *task = work->tasks[i];

        if (task->due > now) {
            i++;
            continue;
        }
        complete(task, queue, disk);
        work->tasks[i] = work->tasks[--work->count];
        work->tasks[work->count] = task;
        done++;
    }
    rd_queue_flush(queue);
    return done;
}

bool rd_work_serve(struct rd_work *work, struct rd_queue *queue, struct rd_disk *disk,
                   struct rd_pace *pace)
{
    uint64_t now = pace->delay_us ? now_ns() : 0;
    unsigned taken = 0;

    while (has_room(work) && rd_queue_pop(queue, &work->tasks[work->count]->chain)) {
        if (!taken++)
            rd_queue_disarm(queue);
        if (pace->delay_us)
            work->tasks[work->count]->due = now + take_random(pace, 2000 * pace->delay_us);
        work->count++;
    }
    if (pace->delay_us)
        return complete_due(work, queue, disk) || taken;
    rd_work_finish(work, queue, disk);
    return taken;
}

void rd_work_drop(struct rd_work *work)
{
    for (unsigned i = 0; i < work->room; i++)
        free(work->tasks[i]);
    free(work->tasks);
    *work = (struct rd_work){.tasks = NULL};
}
