/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control thread's way to do many things at once: fibers over one epoll loop.
 *
 * Control work is a conversation (send, wait for the answer, send the next) with a dozen places
 * where it may fail. A fiber lets it be written straight down: it runs until it waits, and other
 * fibers run meanwhile. Nothing is preempted, so control state needs no locks.
 *
 * A loop and its fibers belong to the thread that runs svq_loop_run(). Only svq_loop_quit() may be
 * called from a signal handler.
 */
#ifndef SVQ_EVENT_FIBER_H
#define SVQ_EVENT_FIBER_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

#define SVQ_FOREVER INT64_MAX
#define SVQ_SEC     INT64_C(1000000000)
#define SVQ_MSEC    INT64_C(1000000)
#define SVQ_USEC    INT64_C(1000)

/* CLOCK_MONOTONIC, nanoseconds. */
int64_t svq_now(void);
/* The deadline `ns` from now; saturates, so that SVQ_FOREVER stays for ever. */
int64_t svq_deadline(int64_t ns);

struct svq_loop;
struct svq_fiber;

int svq_loop_new(struct svq_loop **out);
/* Every fiber must have ended. */
void svq_loop_free(struct svq_loop *loop);

/* Runs until svq_loop_quit() was called or no fiber is left. Return: 0 or epoll's -errno. */
int svq_loop_run(struct svq_loop *loop);
/* Async-signal-safe, any thread. */
void svq_loop_quit(struct svq_loop *loop);

/**
 * svq_fiber_spawn() - start fn(arg) on a stack of its own; it first runs when the caller waits or
 * returns to the loop. It ends by returning from fn; its stack is the loop's to free.
 * @name: for messages; must outlive the fiber
 * @out: the fiber, valid until it ends; may be NULL
 */
int svq_fiber_spawn(struct svq_loop *loop, const char *name, void (*fn)(void *arg), void *arg,
                    struct svq_fiber **out);

/* The running fiber, NULL outside of one. */
struct svq_fiber *svq_fiber_self(void);

/**
 * svq_fiber_poll() - poll(2) for fibers: wait until an fd is ready, somebody wakes this fiber or
 * the deadline passes. One fd may be waited for by one fiber at a time.
 * @fds: may be NULL with count 0; entries with a negative fd are passed over
 * @deadline: on svq_now()'s clock, or SVQ_FOREVER
 *
 * Return: how many fds are ready (their revents set); 0 after a wake; -ETIMEDOUT; or epoll's error.
 */
int svq_fiber_poll(struct pollfd *fds, unsigned count, int64_t deadline);

/**
 * svq_fiber_await() - wait for one fd that has just been found not ready, with fewer system calls;
 * it may return too early. Wakes are kept for the next poll.
 *
 * Return: 0: try again; -ETIMEDOUT; or epoll's error.
 */
int svq_fiber_await(int fd, short events, int64_t deadline);

/* Wait, ignoring wakes (they are kept for the next poll). */
void svq_fiber_sleep(int64_t ns);

/* Make the fiber's current or next svq_fiber_poll() return. From the loop's thread. */
void svq_fiber_wake(struct svq_fiber *fiber);

#endif
