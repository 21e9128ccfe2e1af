/* SPDX-License-Identifier: BSD-3-Clause */
#include "hop.h"
#include "clock.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>

#include "stats.h"

#define BATCHES 7u
#define TRIPS   60u       /* of a batch */
#define WAIT_NS 20000000u /* for the other side's answer: it may not have its processor */

#define SAME     1.5 /* times as long is the same distance */
#define PATIENCE 300 /* so often it is looked at before a round begins all the same */

struct court {
    _Alignas(64) _Atomic unsigned ball;
    _Alignas(64) _Atomic bool over;
    double ns;
};

static void go_back(int before)
{
    const struct sched_param usual = {0};

    if (before >= 0)
        sched_setscheduler(0, before, &usual);
}

/* The side that answers: it makes odd numbers even. Acquire and release pair with volley()'s. */
static void *answer(void *arg)
{
    struct court *court = arg;

    bench_go_first();
    while (!atomic_load_explicit(&court->over, memory_order_relaxed)) {
        unsigned ball = atomic_load_explicit(&court->ball, memory_order_acquire);

        if (ball & 1)
            atomic_store_explicit(&court->ball, ball + 1, memory_order_release);
    }
    return NULL;
}

/* Its release and acquire pair with answer()'s. Return: false: no answer. */
static bool volley(struct court *court)
{
    unsigned ball = atomic_load_explicit(&court->ball, memory_order_relaxed) + 1;
    uint64_t give_up = 0;

    atomic_store_explicit(&court->ball, ball, memory_order_release);
    for (unsigned tries = 1; atomic_load_explicit(&court->ball, memory_order_acquire) == ball;
         tries++) {
        if (tries % 4096)
            continue;
        if (!give_up)
            give_up = bench_now_ns() + WAIT_NS;
        else if (bench_now_ns() > give_up)
            return false;
    }
    return true;
}

/* The median of some batches, since either side may be disturbed. 0: no answer. */
static double play(struct court *court)
{
    double batches[BATCHES];

    if (!volley(court)) /* until the other side is there */
        return 0;
    for (unsigned i = 0; i < BATCHES; i++) {
        uint64_t start = bench_now_ns();

        for (unsigned k = 0; k < TRIPS; k++)
            if (!volley(court))
                return 0;
        batches[i] = (double)(bench_now_ns() - start) / TRIPS;
    }
    return bench_summary(batches, BATCHES).median;
}

/* The side that measures. */
static void measure(void *arg)
{
    struct court *court = arg;
    int before = bench_go_first();

    court->ns = play(court);
    go_back(before);
}

static void *measure_thread(void *arg)
{
    measure(arg);
    return NULL;
}

static bool spawn(pthread_t *thread, int cpu, void *(*fn)(void *), struct court *court)
{
    const struct sched_param first = {.sched_priority = 1};
    pthread_attr_t attr;
    cpu_set_t cpus;
    bool ok;

    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    pthread_attr_init(&attr);
    /* From the beginning, if we may: somebody may be polling there. */
    pthread_attr_setinheritsched(&attr, PTHREAD_EXPLICIT_SCHED);
    pthread_attr_setschedpolicy(&attr, SCHED_FIFO);
    pthread_attr_setschedparam(&attr, &first);
    ok = !pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
    if (ok && pthread_create(thread, &attr, fn, court)) {
        pthread_attr_setinheritsched(&attr, PTHREAD_INHERIT_SCHED);
        ok = !pthread_create(thread, &attr, fn, court);
    }
    pthread_attr_destroy(&attr);
    return ok;
}

double hop_measure(const struct hop *hop)
{
    struct court court = {0};
    pthread_t threads[2];

    if (hop->cpu < 0 || hop->other < 0 || !spawn(&threads[0], hop->other, answer, &court))
        return 0;
    if (hop->loop)
        bench_loop_call(hop->loop, measure, &court);
    else if (spawn(&threads[1], hop->cpu, measure_thread, &court))
        pthread_join(threads[1], NULL);
    atomic_store(&court.over, true);
    pthread_join(threads[0], NULL);
    return court.ns;
}

bool hop_same(double ns, double other_ns)
{
    return ns <= 0 || other_ns <= 0 || (ns <= SAME * other_ns && other_ns <= SAME * ns);
}

void hop_wait(const struct hop *hop)
{
    for (unsigned i = 0; i < PATIENCE && !hop_same(hop_measure(hop), hop->wanted); i++)
        bench_sleep_ms(10);
}
