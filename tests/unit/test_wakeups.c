/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The engine with real threads and eventfds on all sides, in every pair of ring formats: nothing
 * lost while everybody sleeps as often as possible, nor at switches under load.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>

#include <cmocka.h>

#include "kit/lane.h"

/* The formats of a queue's two sides. */
static const uint64_t formats[4][2] = {{0, 0}, {0, PACKED}, {PACKED, 0}, {PACKED, PACKED}};
/* After those: {0, 0} with a shared descriptor table. */
enum { SHARED = 4, PAIRS = 5 };

/* One chain at a time: everybody falls asleep in every round, many thousand times. */
static void ping_pong(unsigned pair, uint64_t features, unsigned poll_us, uint64_t rounds)
{
    struct svq_engine *engine = queue_new_engine(1, poll_us);
    struct svq_relay_stats stats;
    struct queue q;

    queue_init_sides(&q, 8, formats[pair % SHARED][0] | features,
                     formats[pair % SHARED][1] | features, rounds / SLOWER);
    q.share = pair == SHARED;
    q.guest.depth = 1;
    queue_start_shadow(&q, engine, q.base, true);
    traffic_guest_start(&q.guest);
    traffic_guest_join(&q.guest);
    queue_expect_clean(&q);
    traffic_backend_stop(&q.backend);
    stats = queue_drop_lane(&q);
    assert_int_equal(stats.chains, rounds / SLOWER);
    queue_free(&q);
    svq_engine_free(engine);
}

static void test_ping_pong_flags(void **state)
{
    (void)state;
    for (unsigned pair = 0; pair < PAIRS; pair++)
        ping_pong(pair, 0, 0, 6000);
}

static void test_ping_pong_events(void **state)
{
    (void)state;
    for (unsigned pair = 0; pair < PAIRS; pair++)
        ping_pong(pair, EVENT_IDX, 0, 6000);
}

static void test_ping_pong_with_polling(void **state)
{
    (void)state;
    /* About as long as a round takes: sleeps and notifications keep crossing. */
    for (unsigned pair = 0; pair < PAIRS; pair++) {
        ping_pong(pair, EVENT_IDX, 10, 3000);
        ping_pong(pair, 0, 20, 3000);
    }
}

/* Features of many kinds, each on one side, on the other, or on both. */
static const uint64_t load_features[7][2] = {
    {0, 0},
    {EVENT_IDX | INDIRECT, PACKED | INDIRECT},
    {PACKED | EVENT_IDX | INDIRECT, PACKED | EVENT_IDX},
    {PACKED | INDIRECT, EVENT_IDX | INDIRECT | IN_ORDER},
    {PACKED | EVENT_IDX | IN_ORDER, PACKED | EVENT_IDX},
    {IN_ORDER | EVENT_IDX | INDIRECT, 0},
    {IN_ORDER | EVENT_IDX | INDIRECT, INDIRECT}, /* shared */
};

/* Many queues, deep and shallow, on fewer workers; completions in any order. */
static void load(unsigned workers, unsigned poll_us, uint64_t chains)
{
    struct svq_engine *engine = queue_new_engine(workers, poll_us);
    struct queue queues[7];

    for (unsigned i = 0; i < 7; i++) {
        queue_init_sides(&queues[i], i % 3 ? 256 : 4, load_features[i][0], load_features[i][1],
                         chains / SLOWER);
        queues[i].guest.seed = i;
        queues[i].share = i == 6;
        queue_start_shadow(&queues[i], engine, queues[i].base, i % 3 < 2);
    }
    for (unsigned i = 0; i < 7; i++)
        traffic_guest_start(&queues[i].guest);
    for (unsigned i = 0; i < 7; i++) {
        struct svq_relay_stats stats;

        traffic_guest_join(&queues[i].guest);
        queue_expect_clean(&queues[i]);
        traffic_backend_stop(&queues[i].backend);
        stats = queue_drop_lane(&queues[i]);
        assert_int_equal(stats.chains, chains / SLOWER);
        if (!queues[i].shared)
            assert_int_equal(stats.bytes, 24 * (chains / SLOWER));
        queue_free(&queues[i]);
    }
    svq_engine_free(engine);
}

static void test_load_one_worker(void **state)
{
    (void)state;
    load(1, 0, 25000);
}

static void test_load_two_workers(void **state)
{
    (void)state;
    load(2, 50, 25000);
}

/* ---- Switches -------------------------------------------------------------------------------- */

struct drain {
    uint32_t base;
    int result;
};

static void hold(struct svq_relay *relay, void *arg)
{
    (void)arg;
    svq_relay_hold(relay, true);
}

static void ask_drained(struct svq_relay *relay, void *arg)
{
    struct drain *drain = arg;

    drain->result = svq_relay_drained(relay, drain->base);
}

/* From the shadow back to the guest's own ring, as the switch does it. Return: the guest's index.
 */
static uint32_t leave_shadow(struct queue *q)
{
    struct drain drain = {0};
    uint32_t base;

    svq_lane_call(q->lane, hold, NULL);
    drain.base = traffic_backend_stop(&q->backend);
    for (unsigned turn = 0; turn < 1000 && drain.result == 0; turn++) {
        svq_lane_turn(q->lane);
        svq_lane_call(q->lane, ask_drained, &drain);
    }
    assert_int_equal(drain.result, 1);
    svq_lane_free(q->lane);
    base = svq_relay_detach(q->relay);
    svq_relay_free(q->relay);
    /* What was notified to those who are gone. */
    traffic_ring(q->guest_kick);
    traffic_ring(q->guest_call);
    return base;
}

static void switch_under_load(uint64_t features, bool share, uint64_t chains)
{
    struct svq_engine *engine = queue_new_engine(1, 10);
    struct timespec pause = {0, 2000000};
    unsigned switches = 0;
    struct queue q;
    uint32_t base;

    queue_init(&q, 64, features, chains / SLOWER);
    q.share = share;
    base = q.base;
    queue_start_backend(&q, false, base, true);
    traffic_guest_start(&q.guest);
    while (q.guest.done < q.guest.chains && !q.guest.stalled) {
        nanosleep(&pause, NULL);
        base = traffic_backend_stop(&q.backend);
        queue_start_shadow(&q, engine, base, switches & 1);
        traffic_ring(q.guest_kick);
        traffic_ring(q.guest_call);
        nanosleep(&pause, NULL);
        base = leave_shadow(&q);
        queue_start_backend(&q, false, base, true);
        switches++;
    }
    traffic_guest_join(&q.guest);
    traffic_backend_stop(&q.backend);
    queue_expect_clean(&q);
    assert_true(switches > 2);
    queue_free(&q);
    svq_engine_free(engine);
}

static void test_switches_under_load(void **state)
{
    (void)state;
    switch_under_load(EVENT_IDX, false, 300000);
    switch_under_load(EVENT_IDX | INDIRECT, true, 300000);
    switch_under_load(IN_ORDER, true, 100000);
    switch_under_load(PACKED | EVENT_IDX, false, 300000);
    switch_under_load(PACKED | IN_ORDER | INDIRECT, false, 100000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_ping_pong_flags),        cmocka_unit_test(test_ping_pong_events),
        cmocka_unit_test(test_ping_pong_with_polling), cmocka_unit_test(test_load_one_worker),
        cmocka_unit_test(test_load_two_workers),       cmocka_unit_test(test_switches_under_load),
    };

    return cmocka_run_group_tests_name("wakeups", tests, NULL, NULL);
}
