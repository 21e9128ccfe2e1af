/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A thread on one processor that takes turns for those who want them: it polls, or it sleeps when
 * nobody has anything to do. Others have it run a function between two turns; so nothing that turns
 * touch needs a lock.
 */
#ifndef SVQ_BENCH_LOOP_H
#define SVQ_BENCH_LOOP_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

/* Who takes turns. Only `turn` is needed when the loop never sleeps. */
struct bench_party {
    /* Return: how much was done. */
    unsigned (*turn)(void *opaque);
    /* Before sleep: ask for notifications. Return: whether there is work, and no need to sleep. */
    bool (*arm)(void *opaque);
    /* Where notifications come from. Return: how many, at most `room`. */
    unsigned (*fds)(void *opaque, struct pollfd *fds, unsigned room);
    /* After sleep. */
    void (*awake)(void *opaque);
    void *opaque;
};

struct bench_loop;

/* @cpu: -1: any. Return: 0 or -errno; -EINVAL: there is no such processor for us. */
int bench_loop_new(int cpu, struct bench_loop **out);
void bench_loop_free(struct bench_loop *loop);

/* Run fn between two turns, and return when it has run. Any thread but the loop's own. */
void bench_loop_call(struct bench_loop *loop, void (*fn)(void *arg), void *arg);

/* The party must stay where it is until it is removed. Return: 0 or -ENOSPC. Through a call. */
int bench_loop_add(struct bench_loop *loop, const struct bench_party *party);
void bench_loop_remove(struct bench_loop *loop, const struct bench_party *party);

/* Sleep when there is nothing to do, or not, which is the default. */
void bench_loop_sleeps(struct bench_loop *loop, bool sleeps);

/*
 * The calling thread has little to do at a time: it gets that at once, even from a thread that
 * polls. With real-time priority if that is allowed, else as svq_prompt_start() can. Return: the
 * policy to go back to.
 */
int bench_go_first(void);

/* What a thread has had of its processor; see bench_thread_use(). */
struct bench_use {
    uint64_t ran;    /* nanoseconds */
    uint64_t waited; /* nanoseconds that it could have run and did not */
    uint64_t times;
};

/* A part of a slot; a thread that polls and waited for longer was disturbed. */
#define BENCH_WAITED_MAX 0.02

/* The loop's thread, for bench_thread_use(). */
int bench_loop_tid(const struct bench_loop *loop);
/* @pid, @tid: 0, 0 is not allowed; zeroes when it cannot be told. */
struct bench_use bench_thread_use(int pid, int tid);

#endif
