/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Which queue is moved when workers differ in load: the decision alone, of loads that are made up.
 * test_spread.c has real ones.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "engine/internal.h"
#include "kit/lane.h"

#define WORKERS 2u
#define MOST    4u

struct fleet {
    struct svq_engine *engine;
    struct queue queues[MOST];
    unsigned count;
};

/* A queue on that worker, free to move. */
static void add(struct fleet *f, int worker)
{
    struct queue *q = &f->queues[f->count++];

    queue_init(q, 16, 0, 1);
    queue_make_relay(q, q->base);
    queue_make_lane(q, f->engine);
    assert_int_equal(svq_lane_pin(q->lane, worker), 0);
    assert_int_equal(svq_lane_pin(q->lane, -1), 0);
}

static int setup(void **state)
{
    static struct fleet fleet;

    fleet = (struct fleet){.engine = queue_new_engine(WORKERS, 0)};
    *state = &fleet;
    return 0;
}

static int teardown(void **state)
{
    struct fleet *f = *state;

    for (unsigned i = 0; i < f->count; i++) {
        queue_drop_lane(&f->queues[i]);
        queue_free(&f->queues[i]);
    }
    svq_engine_free(f->engine);
    return 0;
}

/*
 * A second has passed in which each queue was busy for so many milliseconds. Return: the one that
 * was moved; -1: none was.
 */
static int second(struct fleet *f, const unsigned *busy_ms)
{
    unsigned before[MOST];
    int moved = -1;
    bool any;

    for (unsigned i = 0; i < f->count; i++) {
        before[i] = svq_lane_worker(f->queues[i].lane);
        atomic_fetch_add(&f->queues[i].lane->load_ns, busy_ms[i] * UINT64_C(1000000));
    }
    f->engine->spread_at = engine_now() - INT64_C(1000000000);
    any = svq_engine_spread(f->engine);
    for (unsigned i = 0; i < f->count; i++) {
        if (svq_lane_worker(f->queues[i].lane) == before[i])
            continue;
        assert_int_equal(moved, -1);
        moved = (int)i;
    }
    assert_int_equal(any, moved >= 0);
    return moved;
}

#define SECOND(f, ...) second(f, (const unsigned[MOST]){__VA_ARGS__})

/* Of two that could go, the one that leaves the workers most alike; then there is peace. */
static void test_the_best_goes(void **state)
{
    struct fleet *f = *state;

    add(f, 0);
    add(f, 0);
    add(f, 1);
    assert_int_equal(SECOND(f, 550, 400, 150), 1);
    assert_int_equal(SECOND(f, 550, 400, 150), -1);
}

static void test_small_gaps_stay(void **state)
{
    struct fleet *f = *state;

    add(f, 0);
    add(f, 0);
    assert_int_equal(SECOND(f, 80, 80), -1);
    assert_int_equal(SECOND(f, 300, 300) >= 0, true);
}

/* To move the one that makes all the load, or hardly any of it, would help nobody. */
static void test_nothing_to_gain(void **state)
{
    struct fleet *f = *state;

    add(f, 0);
    add(f, 0);
    add(f, 1);
    assert_int_equal(SECOND(f, 970, 30, 0), -1);
    assert_int_equal(SECOND(f, 900, 0, 0), -1);
    /* Nor the other worker's. */
    assert_int_equal(SECOND(f, 1000, 0, 100), -1);
}

/* What was long ago does not count. */
static void test_the_last_second_counts(void **state)
{
    struct fleet *f = *state;

    add(f, 0);
    add(f, 0);
    assert_int_equal(SECOND(f, 800, 0), -1);
    assert_int_equal(SECOND(f, 0, 300), -1);
    assert_int_equal(SECOND(f, 0, 0), -1);
}

static void test_pinned_ones_count_and_stay(void **state)
{
    struct fleet *f = *state;

    add(f, 0);
    add(f, 0);
    add(f, 0);
    assert_int_equal(svq_lane_pin(f->queues[0].lane, 0), 0);
    assert_int_equal(SECOND(f, 400, 150, 50), 1);
    assert_int_equal(svq_lane_worker(f->queues[0].lane), 0);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_the_best_goes),
        TEST(test_small_gaps_stay),
        TEST(test_nothing_to_gain),
        TEST(test_the_last_second_counts),
        TEST(test_pinned_ones_count_and_stay),
    };

    return cmocka_run_group_tests_name("balance", tests, NULL, NULL);
}
