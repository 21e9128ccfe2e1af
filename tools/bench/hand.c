/* SPDX-License-Identifier: BSD-3-Clause */
#include "hand.h"
#include "clock.h"
#include "stats.h"

#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdlib.h>

#define BATCHES       7u
#define TRIPS         60u /* of a batch */
#define USUAL_SAMPLES 50u
#define USUAL_MOST    1.5 /* of what is usual, or the reverse */
#define PATIENCE      300u

struct bench_hand {
    pthread_t thread;
    double usual; /* distance; the caller's */
    /* What is to be done, until it is; in a line of its own. */
    _Alignas(64) _Atomic(struct svq_relay *) relay;
    bool stop;
    /* The answer. */
    _Alignas(64) unsigned result;
    uint64_t ticks;
};

/* Nobody but a test of the machine waits like this: without pause, for as short as possible. */
static void *run(void *opaque)
{
    struct bench_hand *hand = opaque;

    for (;;) {
        /* Acquire: pairs with bench_hand_poll()'s release; ours below with its acquire. */
        struct svq_relay *relay = atomic_load_explicit(&hand->relay, memory_order_acquire);
        uint64_t start;

        if (!relay)
            continue;
        if (hand->stop)
            return NULL;
        /* Ourselves: nothing. */
        if (relay != (struct svq_relay *)(void *)hand) {
            start = bench_ticks();
            hand->result = svq_relay_poll(relay);
            hand->ticks = bench_ticks() - start;
        }
        atomic_store_explicit(&hand->relay, NULL, memory_order_release);
    }
}

double bench_hand_distance(struct bench_hand *hand)
{
    double batches[BATCHES];
    uint64_t ticks;

    for (unsigned i = 0; i < BATCHES; i++) {
        uint64_t start = bench_now_ns();

        for (unsigned k = 0; k < TRIPS; k++)
            bench_hand_poll(hand, (struct svq_relay *)(void *)hand, &ticks);
        batches[i] = (double)(bench_now_ns() - start) / TRIPS;
    }
    return bench_summary(batches, BATCHES).median;
}

double bench_hand_usual(const struct bench_hand *hand)
{
    return hand->usual;
}

bool bench_hand_near(struct bench_hand *hand)
{
    double ns = bench_hand_distance(hand);

    return ns <= USUAL_MOST * hand->usual && hand->usual <= USUAL_MOST * ns;
}

void bench_hand_wait(struct bench_hand *hand)
{
    for (unsigned i = 0; i < PATIENCE && !bench_hand_near(hand); i++)
        bench_sleep_ms(10);
}

int bench_hand_new(int cpu, struct bench_hand **out)
{
    struct bench_hand *hand = aligned_alloc(64, sizeof(*hand));
    pthread_attr_t attr;
    cpu_set_t cpus;
    int err;

    if (!hand)
        return -ENOMEM;
    *hand = (struct bench_hand){.stop = false};
    CPU_ZERO(&cpus);
    CPU_SET(cpu, &cpus);
    pthread_attr_init(&attr);
    err = -pthread_attr_setaffinity_np(&attr, sizeof(cpus), &cpus);
    if (!err)
        err = -pthread_create(&hand->thread, &attr, run, hand);
    pthread_attr_destroy(&attr);
    if (err) {
        free(hand);
        return err;
    }
    for (unsigned i = 0; i < USUAL_SAMPLES; i++) {
        double ns = bench_hand_distance(hand);

        if (!i || ns < hand->usual)
            hand->usual = ns;
        bench_sleep_ms(10);
    }
    *out = hand;
    return 0;
}

void bench_hand_free(struct bench_hand *hand)
{
    if (!hand)
        return;
    hand->stop = true;
    /* Release: as in bench_hand_poll(). */
    atomic_store_explicit(&hand->relay, (struct svq_relay *)(void *)hand, memory_order_release);
    pthread_join(hand->thread, NULL);
    free(hand);
}

unsigned bench_hand_poll(struct bench_hand *hand, struct svq_relay *relay, uint64_t *ticks)
{
    /* Release: pairs with run()'s acquire; the rings as we left them. The answer comes likewise. */
    atomic_store_explicit(&hand->relay, relay, memory_order_release);
    while (atomic_load_explicit(&hand->relay, memory_order_acquire))
        ;
    *ticks = hand->ticks;
    return hand->result;
}
