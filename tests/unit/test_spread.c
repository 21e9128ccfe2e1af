/* SPDX-License-Identifier: BSD-3-Clause */
/* Which worker serves a queue, on which processor, and for how long it polls. */
#include <errno.h>
#include <poll.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "base/notify.h"
#include "kit/lane.h"
#include "kit/rng.h"

#define BUSY (200000 / SLOWER) /* chains: enough to be busy for some looks at the load */

static const uint64_t formats[4][2] = {{0, 0}, {0, PACKED}, {PACKED, 0}, {PACKED, PACKED}};

static struct svq_engine *new_engine(unsigned workers, int poll_us)
{
    const struct svq_engine_config config = {.workers = workers, .poll_us = poll_us};
    struct svq_engine *engine = NULL;

    assert_int_equal(svq_engine_new(&config, &engine), 0);
    return engine;
}

/* ---- Pins ---------------------------------------------------------------------------------- */

static void move_under_load(const uint64_t *format)
{
    struct svq_engine *engine = new_engine(3, 0);
    unsigned fds = kit_open_fds(), moves = 0;
    struct kit_rng rng = {7};
    struct queue q;

    queue_init_sides(&q, 64, EVENT_IDX | format[0], EVENT_IDX | format[1], 30000 / SLOWER);
    queue_start_shadow(&q, engine, q.base, true);
    traffic_guest_start(&q.guest);
    while (q.guest.done < q.guest.chains && !q.guest.stalled) {
        unsigned to = kit_below(&rng, 3);

        assert_int_equal(svq_lane_pin(q.lane, (int)to), 0);
        assert_int_equal(svq_lane_worker(q.lane), to);
        moves++;
    }
    traffic_guest_join(&q.guest);
    queue_expect_clean(&q);
    assert_true(moves > 10);
    traffic_backend_stop(&q.backend);
    queue_drop_lane(&q);
    queue_free(&q);
    assert_int_equal(kit_open_fds(), fds);
    svq_engine_free(engine);
}

static void test_moves_lose_nothing(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++)
        move_under_load(formats[i]);
}

static void test_no_such_worker(void **state)
{
    struct svq_engine *engine = new_engine(2, 0);
    struct svq_lane_config config = {.poll_us = SVQ_POLL_DEFAULT, .pinned = true, .worker = 2};
    struct svq_lane *lane = NULL;
    struct queue q;

    (void)state;
    queue_init(&q, 16, 0, 1);
    queue_make_relay(&q, q.base);
    config.relay = q.relay;
    assert_int_equal(svq_lane_new(engine, &config, &lane), -EINVAL);
    config.worker = 1;
    config.guest_kick = q.guest_kick;
    config.guest_call = config.backend_kick = config.backend_call = -1;
    assert_int_equal(svq_lane_new(engine, &config, &q.lane), 0);
    assert_int_equal(svq_lane_worker(q.lane), 1);
    assert_int_equal(svq_lane_pin(q.lane, 2), -EINVAL);
    assert_int_equal(svq_lane_worker(q.lane), 1);
    queue_drop_lane(&q);
    queue_free(&q);
    svq_engine_free(engine);
}

/* ---- Load ---------------------------------------------------------------------------------- */

/* Look until a lane has moved, or there is nothing more to do. */
static bool await_move(struct svq_engine *engine, const struct queue *busy)
{
    while (busy->guest.done < busy->guest.chains && !busy->guest.stalled) {
        poll(NULL, 0, 10);
        if (svq_engine_spread(engine))
            return true;
    }
    return false;
}

/* Two busy queues and two idle ones, all on one worker of two: a busy one moves. */
static void spread_busy(bool pinned)
{
    struct svq_engine *engine = new_engine(2, 0);
    struct queue queues[4];

    for (unsigned i = 0; i < 4; i++) {
        queue_init(&queues[i], 256, 0, i < 2 ? BUSY : 1);
        queue_start_shadow(&queues[i], engine, queues[i].base, true);
        assert_int_equal(svq_lane_pin(queues[i].lane, 0), 0);
        if (!pinned)
            assert_int_equal(svq_lane_pin(queues[i].lane, -1), 0);
    }
    for (unsigned i = 0; i < 2; i++)
        traffic_guest_start(&queues[i].guest);
    if (pinned) {
        assert_false(await_move(engine, &queues[0]));
    } else {
        assert_true(await_move(engine, &queues[0]));
        assert_int_not_equal(svq_lane_worker(queues[0].lane), svq_lane_worker(queues[1].lane));
        assert_int_equal(svq_lane_worker(queues[2].lane), 0);
        assert_int_equal(svq_lane_worker(queues[3].lane), 0);
    }
    for (unsigned i = 0; i < 4; i++) {
        if (i < 2) {
            traffic_guest_join(&queues[i].guest);
            queue_expect_clean(&queues[i]);
        }
        traffic_backend_stop(&queues[i].backend);
        queue_drop_lane(&queues[i]);
        queue_free(&queues[i]);
    }
    svq_engine_free(engine);
}

static void test_busy_queues_part(void **state)
{
    (void)state;
    spread_busy(false);
}

static void test_pinned_queues_stay(void **state)
{
    (void)state;
    spread_busy(true);
}

static void test_idle_queues_stay(void **state)
{
    struct svq_engine *engine = new_engine(2, 0);
    struct queue queues[3];

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        queue_init(&queues[i], 64, 0, 1);
        queue_start_shadow(&queues[i], engine, queues[i].base, true);
        assert_int_equal(svq_lane_pin(queues[i].lane, 1), 0);
        assert_int_equal(svq_lane_pin(queues[i].lane, -1), 0);
    }
    for (unsigned i = 0; i < 10; i++) {
        poll(NULL, 0, 5);
        assert_false(svq_engine_spread(engine));
    }
    for (unsigned i = 0; i < 3; i++) {
        assert_int_equal(svq_lane_worker(queues[i].lane), 1);
        traffic_backend_stop(&queues[i].backend);
        queue_drop_lane(&queues[i]);
        queue_free(&queues[i]);
    }
    svq_engine_free(engine);
}

/* ---- Polling ------------------------------------------------------------------------------- */

/* Nobody kicks, and what is offered arrives all the same; kicks are not wanted either. */
static void test_polls_always(void **state)
{
    struct svq_engine *engine = new_engine(1, SVQ_POLL_ALWAYS);
    struct queue q;

    (void)state;
    queue_init(&q, 16, 0, 1);
    queue_make_relay(&q, q.base);
    queue_make_lane(&q, engine);
    poll(NULL, 0, 20);
    assert_false(queue_wants_kicks(&q));
    queue_offer(&q);
    for (unsigned i = 0; i < 1000 && !queue_arrived(&q); i++)
        poll(NULL, 0, 5);
    assert_int_equal(queue_arrived(&q), 1);
    poll(NULL, 0, 20);
    assert_false(queue_wants_kicks(&q));
    queue_drop_lane(&q);
    queue_free(&q);
    svq_engine_free(engine);
}

/* One lane sleeps at once although the engine never does; another one on the same worker polls. */
static void test_grace_of_its_own(void **state)
{
    struct svq_engine *engine = new_engine(1, SVQ_POLL_ALWAYS);
    struct queue polled, sleeper;
    struct svq_lane_config config = {.poll_us = 0};

    (void)state;
    queue_init(&polled, 16, 0, 1);
    queue_make_relay(&polled, polled.base);
    queue_make_lane(&polled, engine);
    queue_init(&sleeper, 16, 0, 1);
    queue_make_relay(&sleeper, sleeper.base);
    config.relay = sleeper.relay;
    config.guest_kick = sleeper.guest_kick;
    config.guest_call = sleeper.guest_call;
    config.backend_kick = sleeper.backend_kick;
    config.backend_call = sleeper.backend_call;
    assert_int_equal(svq_lane_new(engine, &config, &sleeper.lane), 0);
    for (unsigned i = 0; i < 1000 && !queue_wants_kicks(&sleeper); i++)
        poll(NULL, 0, 5);
    assert_true(queue_wants_kicks(&sleeper));
    assert_false(queue_wants_kicks(&polled));
    /* The worker, which polls, hears the sleeper's kick. */
    queue_offer(&sleeper);
    svq_notify(sleeper.guest_kick);
    for (unsigned i = 0; i < 1000 && !queue_arrived(&sleeper); i++)
        poll(NULL, 0, 5);
    assert_int_equal(queue_arrived(&sleeper), 1);
    queue_drop_lane(&sleeper);
    queue_drop_lane(&polled);
    queue_free(&sleeper);
    queue_free(&polled);
    svq_engine_free(engine);
}

/* ---- Processors ---------------------------------------------------------------------------- */

static void ask_cpus(struct svq_relay *relay, void *arg)
{
    (void)relay;
    sched_getaffinity(0, sizeof(cpu_set_t), arg);
}

static void test_runs_where_it_is_told(void **state)
{
    struct svq_engine_config config = {.workers = 2, .cpu_count = 1};
    struct svq_engine *engine = NULL;
    cpu_set_t mine, theirs;
    uint16_t cpu = 0;
    struct queue q;

    (void)state;
    assert_int_equal(sched_getaffinity(0, sizeof(mine), &mine), 0);
    while (!CPU_ISSET(cpu, &mine))
        cpu++;
    config.cpus = &cpu;
    assert_int_equal(svq_engine_new(&config, &engine), 0);
    queue_init(&q, 16, 0, 1);
    queue_make_relay(&q, q.base);
    queue_make_lane(&q, engine);
    for (int worker = 0; worker < 2; worker++) {
        assert_int_equal(svq_lane_pin(q.lane, worker), 0);
        svq_lane_call(q.lane, ask_cpus, &theirs);
        assert_int_equal(CPU_COUNT(&theirs), 1);
        assert_true(CPU_ISSET(cpu, &theirs));
    }
    queue_drop_lane(&q);
    queue_free(&q);
    svq_engine_free(engine);
}

static void test_no_such_processor(void **state)
{
    const uint16_t cpu = SVQ_MAX_CPU - 1;
    const struct svq_engine_config config = {.workers = 1, .cpus = &cpu, .cpu_count = 1};
    struct svq_engine *engine = NULL;
    unsigned fds = kit_open_fds();

    (void)state;
    assert_int_equal(svq_engine_new(&config, &engine), -EINVAL);
    assert_null(engine);
    assert_int_equal(kit_open_fds(), fds);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_moves_lose_nothing), cmocka_unit_test(test_no_such_worker),
        cmocka_unit_test(test_busy_queues_part),   cmocka_unit_test(test_pinned_queues_stay),
        cmocka_unit_test(test_idle_queues_stay),   cmocka_unit_test(test_polls_always),
        cmocka_unit_test(test_grace_of_its_own),   cmocka_unit_test(test_runs_where_it_is_told),
        cmocka_unit_test(test_no_such_processor),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
