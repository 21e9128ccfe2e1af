/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The workers. A worker's lanes are hot (polled in turn, notifications suppressed) or armed (both
 * sides asked to notify, waiting in the worker's epoll set). A lane that found nothing for its
 * poll-us is armed; a notification makes it hot again. A worker without hot lanes sleeps.
 *
 * Notification fds are watched edge-triggered and never read: an eventfd gives an edge for each
 * write, whatever it counts. That saves a system call, cannot block on an fd that another process
 * may have emptied, and leaves a pending kick in place for whoever serves the ring next.
 *
 * Each look at a ring takes a cache line away from a peer that is about to write it. So after a
 * round without work a worker waits a little before it looks again, twice as long each time. Too
 * long a wait would be worse: the peer's batches would not overlap with ours.
 *
 * A worker that polls in vain gives its processor to whoever waits for it: the control thread in
 * mid-switch, say. The scheduler would let it wait until the next tick, 4 ms, when it has had more
 * than its share just before.
 */
#include "engine/internal.h"
#include "base/notify.h"

#include <sched.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#include <shadowvq/relay.h>

#define EVENTS 64
/* Between looks at the epoll set while some lane is hot: what armed lanes may have to wait. */
#define LOOK_NS 20000
/* Nothing has moved for so long: it is not the moment between two batches. */
#define IN_VAIN_NS 20000

unsigned worker_pauses_in(int64_t ns)
{
    enum { TRIAL = 1000, TRIALS = 5 };
    int64_t best = INT64_MAX;

    for (unsigned trial = 0; trial < TRIALS; trial++) {
        int64_t began = engine_now(), took;

        for (unsigned i = 0; i < TRIAL; i++)
            worker_relax();
        took = engine_now() - began;
        if (took < best)
            best = took;
    }
    return best > 0 && ns * TRIAL > best ? (unsigned)(ns * TRIAL / best) : 1;
}

/* ---- Lanes ------------------------------------------------------------------------------------
 */

void worker_make_hot(struct worker *w, struct svq_lane *lane)
{
    if (lane->hot || lane->stopped)
        return;
    lane->hot = true;
    w->polled++;
    lane->hot_next = &w->hot;
    lane->hot_prev = w->hot.hot_prev;
    lane->hot_prev->hot_next = lane;
    w->hot.hot_prev = lane;
    lane->busy_at = engine_now();
    svq_relay_disarm(lane->relay);
}

void worker_make_cold(struct worker *w, struct svq_lane *lane)
{
    if (!lane->hot)
        return;
    lane->hot = false;
    w->polled--;
    lane->hot_prev->hot_next = lane->hot_next;
    lane->hot_next->hot_prev = lane->hot_prev;
}

static void lane_fault(struct worker *w, struct svq_lane *lane)
{
    worker_make_cold(w, lane);
    lane->stopped = true;
    /* Release: pairs with the control thread's acquire in svq_engine_faults(). */
    atomic_store_explicit(&lane->faulted, true, memory_order_release);
    svq_notify(w->engine->fault_event);
}

bool worker_turn(struct worker *w, struct svq_lane *lane)
{
    unsigned result = svq_relay_poll(lane->relay);

    if (result & SVQ_RELAY_KICK_BACKEND)
        svq_notify(lane->backend_kick);
    if (result & SVQ_RELAY_CALL_GUEST)
        svq_notify(lane->guest_call);
    if (result & SVQ_RELAY_FAULT) {
        lane_fault(w, lane);
        return true;
    }
    return result & SVQ_RELAY_BUSY;
}

/* A hot lane had nothing to do: let it sleep when its grace is over. */
static void lane_idle(struct worker *w, struct svq_lane *lane, int64_t now)
{
    if (lane->guest_kick < 0 || now - lane->busy_at < lane->poll_ns)
        return;
    if (svq_relay_arm(lane->relay)) {
        svq_relay_disarm(lane->relay);
        lane->busy_at = now;
    } else {
        worker_make_cold(w, lane);
    }
}

/* ---- Rounds -----------------------------------------------------------------------------------
 */

static void count_load(struct svq_lane *lane, int64_t began)
{
    uint64_t sum = atomic_load_explicit(&lane->load_ns, memory_order_relaxed);

    sum += (uint64_t)(engine_now() - began) * SAMPLE_ROUNDS;
    /* Relaxed: a figure by itself, and only we write it. */
    atomic_store_explicit(&lane->load_ns, sum, memory_order_relaxed);
}

/* One round over the hot lanes. Return: something moved. */
static bool round_of_turns(struct worker *w, int64_t now)
{
    bool sampled = ++w->rounds % SAMPLE_ROUNDS == 0;
    struct svq_lane *lane, *next;
    bool busy = false;

    for (lane = w->hot.hot_next; lane != &w->hot; lane = next) {
        int64_t began = sampled ? engine_now() : 0;

        next = lane->hot_next;
        if (worker_turn(w, lane)) {
            lane->busy_at = now;
            busy = true;
            if (sampled)
                count_load(lane, began);
        } else {
            lane_idle(w, lane, now);
        }
    }
    return busy;
}

static void wait_a_little(struct worker *w)
{
    for (unsigned i = 0; i < w->pause; i++)
        worker_relax();
    w->pause *= 2;
    if (w->pause > w->engine->longest_pause)
        w->pause = w->engine->longest_pause;
}

static void take_events(struct worker *w, int timeout)
{
    struct epoll_event events[EVENTS];
    int count = epoll_wait(w->epoll, events, EVENTS, timeout);

    for (int i = 0; i < count; i++) {
        struct svq_lane *lane = (void *)(uintptr_t)(events[i].data.u64 & ~UINT64_C(1));
        uint64_t drain;

        if (!lane) {
            /* Our own wake-up is level-triggered: empty it. */
            if (read(w->wake, &drain, sizeof(drain)) < 0)
                continue;
        } else if (lane->started) {
            if (events[i].data.u64 & 1)
                svq_relay_count_call(lane->relay);
            else
                svq_relay_count_kick(lane->relay);
            worker_make_hot(w, lane);
        }
    }
}

static void take_call(struct worker *w)
{
    /* Acquire: pairs with post()'s store; the calls' contents come with it. */
    struct call *call = atomic_load_explicit(&w->call, memory_order_acquire);

    if (!call)
        return;
    atomic_store_explicit(&w->call, NULL, memory_order_relaxed);
    for (; call; call = call->next)
        call->fn(w, call->lane, call->arg);
    sem_post(&w->done);
}

static void sleep_until_called(struct worker *w)
{
    /*
     * Sequentially consistent, as post()'s pair is: either it sees that we are asleep and wakes us,
     * or we see its call here.
     */
    atomic_store(&w->asleep, true);
    if (!atomic_load(&w->call))
        take_events(w, -1);
    atomic_store_explicit(&w->asleep, false, memory_order_relaxed);
}

void *worker_main(void *arg)
{
    struct worker *w = arg;

    while (!w->stop) {
        if (!w->polled) {
            sleep_until_called(w);
        } else {
            int64_t now = engine_now();

            if (round_of_turns(w, now)) {
                w->pause = 1;
                w->moved_at = now;
            } else {
                wait_a_little(w);
                if (now - w->moved_at >= IN_VAIN_NS)
                    sched_yield();
            }
            if (w->polled && w->polled < w->served && now - w->looked_at >= LOOK_NS) {
                take_events(w, 0);
                w->looked_at = now;
            }
        }
        take_call(w);
    }
    return NULL;
}
