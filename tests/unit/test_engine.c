/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The engine with real threads and eventfds on all sides: changes under load, faults that stay
 * where they happened, rest.
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

#include "kit/lane.h"

/* The formats of a queue's two sides. */
static const uint64_t formats[4][2] = {{0, 0}, {0, PACKED}, {PACKED, 0}, {PACKED, PACKED}};

/* ---- Life ---------------------------------------------------------------------------------- */

static void test_starts_and_stops(void **state)
{
    unsigned fds = kit_open_fds();

    (void)state;
    for (unsigned workers = 1; workers <= 4; workers++) {
        struct svq_engine *engine = queue_new_engine(workers, 50);

        assert_int_equal(svq_engine_workers(engine), workers);
        assert_true(svq_engine_fault_fd(engine) >= 0);
        svq_engine_free(engine);
    }
    assert_int_equal(kit_open_fds(), fds);
}

static void test_lanes_spread_over_workers(void **state)
{
    struct svq_engine *engine = queue_new_engine(2, 0);
    struct queue queues[4];
    unsigned fds, on_first = 0;

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        queue_init(&queues[i], 16, 0, 1);
        queue_make_relay(&queues[i], queues[i].base);
    }
    fds = kit_open_fds();
    for (unsigned i = 0; i < 4; i++) {
        queue_make_lane(&queues[i], engine);
        on_first += svq_lane_worker(queues[i].lane) == 0;
    }
    assert_int_equal(on_first, 2);
    /* The place that comes free is the next one's. */
    svq_lane_free(queues[1].lane);
    unsigned gap = svq_lane_worker(queues[0].lane) ^ 1;
    queue_make_lane(&queues[1], engine);
    assert_int_equal(svq_lane_worker(queues[1].lane), gap);
    for (unsigned i = 0; i < 4; i++)
        queue_drop_lane(&queues[i]);
    assert_int_equal(kit_open_fds(), fds);
    svq_engine_free(engine);
    for (unsigned i = 0; i < 4; i++)
        queue_free(&queues[i]);
}

/* ---- Changes under load ---------------------------------------------------------------------- */

struct seen {
    pthread_t thread;
    struct svq_relay_state state;
    unsigned calls;
};

static void look(struct svq_relay *relay, void *arg)
{
    struct seen *seen = arg;

    seen->thread = pthread_self();
    svq_relay_state(relay, &seen->state);
    seen->calls++;
}

static void test_calls_run_on_the_worker(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    struct seen seen = {0};
    struct queue q;
    pthread_t first;

    (void)state;
    queue_init(&q, 64, EVENT_IDX, 30000 / SLOWER);
    queue_start_shadow(&q, engine, q.base, true);
    svq_lane_call(q.lane, look, &seen);
    assert_int_equal(seen.calls, 1); /* when it returns, it has run */
    first = seen.thread;
    assert_false(pthread_equal(first, pthread_self()));
    traffic_guest_start(&q.guest);
    while (q.guest.done < q.guest.chains && !q.guest.stalled) {
        unsigned calls = seen.calls;

        svq_lane_call(q.lane, look, &seen);
        assert_int_equal(seen.calls, calls + 1);
        assert_true(pthread_equal(seen.thread, first));
        /* Between two turns: never in the middle of one. */
        assert_int_equal((uint16_t)(seen.state.guest.avail - seen.state.guest.used),
                         seen.state.in_flight);
        assert_int_equal((uint16_t)(seen.state.backend.avail - seen.state.backend.used),
                         seen.state.in_flight);
    }
    traffic_guest_join(&q.guest);
    queue_expect_clean(&q);
    assert_true(seen.calls > 10);
    traffic_backend_stop(&q.backend);
    queue_drop_lane(&q);
    queue_free(&q);
    svq_engine_free(engine);
}

/* Interrupt masking: the guest's call fd changes all the time, and sometimes there is none. */
static void test_call_fd_changes(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    int other = traffic_event();
    struct queue q;

    (void)state;
    queue_init(&q, 16, 0, 20000 / SLOWER);
    q.guest.depth = 2;
    q.guest.call[1] = other;
    queue_start_shadow(&q, engine, q.base, true);
    traffic_guest_start(&q.guest);
    for (unsigned i = 0; q.guest.done < q.guest.chains && !q.guest.stalled; i++) {
        if (i % 3 == 2) {
            /* As a VMM unmasks: what came while there was no fd is made up for by one call. */
            svq_lane_set_guest_call(q.lane, -1);
            svq_lane_set_guest_call(q.lane, other);
            traffic_ring(other);
        } else {
            svq_lane_set_guest_call(q.lane, i % 3 ? other : q.guest_call);
        }
    }
    traffic_guest_join(&q.guest);
    queue_expect_clean(&q);
    traffic_backend_stop(&q.backend);
    queue_drop_lane(&q);
    queue_free(&q);
    svq_engine_free(engine);
    close(other);
}

static void test_kick_fd_changes(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    struct queue q;
    int kicks[2], at = 0;

    (void)state;
    queue_init(&q, 16, EVENT_IDX, 20000 / SLOWER);
    q.guest.depth = 2;
    kicks[0] = q.guest_kick;
    kicks[1] = traffic_event();
    queue_start_shadow(&q, engine, q.base, true);
    traffic_guest_start(&q.guest);
    while (q.guest.done < q.guest.chains && !q.guest.stalled) {
        at = !at;
        traffic_guest_set_kick(&q.guest, kicks[at]);
        assert_int_equal(svq_lane_set_guest_kick(q.lane, kicks[at]), 0);
    }
    traffic_guest_join(&q.guest);
    queue_expect_clean(&q);
    traffic_backend_stop(&q.backend);
    queue_drop_lane(&q);
    q.guest_kick = kicks[0];
    queue_free(&q);
    close(kicks[1]);
    svq_engine_free(engine);
}

/* A turn by hand, for a guest that never kicks. */
static void test_turn(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);

    (void)state;
    for (unsigned pair = 0; pair < 4; pair++) {
        struct queue q;

        queue_init_sides(&q, 8, formats[pair][0], formats[pair][1], 1);
        queue_make_relay(&q, q.base);
        queue_make_lane(&q, engine);
        usleep(20000); /* it falls asleep */
        queue_offer(&q);
        usleep(20000);
        assert_int_equal(queue_arrived(&q), 0);
        svq_lane_turn(q.lane);
        assert_int_equal(queue_arrived(&q), 1);
        queue_drop_lane(&q);
        queue_free(&q);
    }
    svq_engine_free(engine);
}

/* So many chains have reached the shadow ring. */
static bool comes_through(struct queue *q, unsigned chains)
{
    for (unsigned ms = 0; ms < TRAFFIC_STALL_MS; ms++) {
        if (queue_arrived(q) == chains)
            return true;
        usleep(1000);
    }
    return false;
}

/* A lane that was awake asks for kicks again. */
static bool falls_asleep(struct queue *q)
{
    for (unsigned ms = 0; ms < TRAFFIC_STALL_MS; ms++) {
        if (queue_wants_kicks(q))
            return true;
        usleep(1000);
    }
    return false;
}

static void test_a_new_kick_fd_wakes(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    int kick = traffic_event();
    struct queue q;

    (void)state;
    queue_init(&q, 8, 0, 2);
    queue_make_relay(&q, q.base);
    queue_make_lane(&q, engine);
    usleep(20000); /* it falls asleep */
    /* A kick that went nowhere, as the guest's fd changed just then. */
    queue_offer(&q);
    assert_int_equal(svq_lane_set_guest_kick(q.lane, kick), 0);
    assert_true(comes_through(&q, 1));
    usleep(20000);
    queue_offer(&q);
    traffic_ring(kick);
    assert_true(comes_through(&q, 2));
    queue_drop_lane(&q);
    queue_free(&q);
    close(kick);
    svq_engine_free(engine);
}

/* While a worker polls a queue, nobody has to notify it. */
static void test_polling_wants_no_notifications(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 60 * 1000 * 1000);

    (void)state;
    for (unsigned pair = 0; pair < 4; pair++) {
        struct queue q;

        queue_init_sides(&q, 8, formats[pair][0], formats[pair][1], 1);
        queue_make_relay(&q, q.base);
        queue_make_lane(&q, engine);
        queue_offer(&q);
        assert_true(comes_through(&q, 1));
        assert_false(queue_wants_kicks(&q));
        assert_false(queue_wants_calls(&q));
        queue_drop_lane(&q);
        queue_free(&q);
    }
    svq_engine_free(engine);
}

/* A guest without a kick fd is polled; with one it is not, until it kicks. */
static void test_no_kick_fd(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    struct queue q;

    (void)state;
    queue_init(&q, 8, 0, 1);
    queue_make_relay(&q, q.base);
    queue_make_lane(&q, engine);
    assert_int_equal(svq_lane_set_guest_kick(q.lane, -1), 0);
    usleep(20000);
    queue_offer(&q);
    assert_true(comes_through(&q, 1));
    assert_false(queue_wants_kicks(&q));
    assert_int_equal(svq_lane_set_guest_kick(q.lane, q.guest_kick), 0);
    assert_true(falls_asleep(&q));
    queue_drop_lane(&q);
    queue_free(&q);
    svq_engine_free(engine);
}

/* Not every fd can be waited for. The old one is let go, and its number may be another queue's. */
static void test_a_kick_fd_that_is_none(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    int nothing = open("/dev/null", O_RDWR), old, again;
    struct queue q, other;

    (void)state;
    queue_init(&q, 8, 0, 1);
    queue_make_relay(&q, q.base);
    queue_make_lane(&q, engine);
    queue_init(&other, 8, 0, 1);
    queue_make_relay(&other, other.base);
    queue_make_lane(&other, engine);
    assert_int_equal(svq_lane_set_guest_kick(q.lane, nothing), -EPERM);
    old = q.guest_kick;
    close(old);
    again = fcntl(other.guest_kick, F_DUPFD, old);
    assert_int_equal(again, old);
    assert_int_equal(svq_lane_set_guest_kick(other.lane, again), 0);
    queue_offer(&q);
    assert_true(comes_through(&q, 1)); /* it is polled */
    queue_drop_lane(&q);
    assert_true(falls_asleep(&other));
    queue_offer(&other);
    traffic_ring(again);
    assert_true(comes_through(&other, 1));
    queue_drop_lane(&other);
    queue_free(&q);
    queue_free(&other);
    close(nothing);
    svq_engine_free(engine);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

static bool readable(int fd, int ms)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, ms) == 1;
}

static void check_a_fault(uint64_t features)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    struct queue good, bad;
    const char *reason;

    queue_init(&good, 64, features, 50000 / SLOWER);
    queue_init(&bad, 64, features, 1);
    queue_start_shadow(&good, engine, good.base, true);
    queue_make_relay(&bad, bad.base);
    queue_make_lane(&bad, engine);
    traffic_guest_start(&good.guest);
    assert_false(readable(svq_engine_fault_fd(engine), 0));
    svq_engine_faults(engine);
    queue_break_guest(&bad);
    traffic_ring(bad.guest_kick);
    assert_true(readable(svq_engine_fault_fd(engine), TRAFFIC_STALL_MS));
    assert_int_equal(bad.faults, 0); /* not on the worker */
    svq_engine_faults(engine);
    assert_int_equal(bad.faults, 1);
    assert_int_equal(good.faults, 0);
    /* Told once; and the broken queue stays stopped, kicked or not. */
    traffic_ring(bad.guest_kick);
    traffic_ring(bad.backend_call);
    svq_lane_turn(bad.lane);
    assert_false(readable(svq_engine_fault_fd(engine), 50));
    svq_engine_faults(engine);
    assert_int_equal(bad.faults, 1);
    traffic_guest_join(&good.guest);
    queue_expect_clean(&good);
    traffic_backend_stop(&good.backend);
    svq_lane_free(bad.lane);
    assert_int_equal(svq_relay_fault(bad.relay, &reason), SVQ_SIDE_GUEST);
    svq_relay_free(bad.relay);
    queue_drop_lane(&good);
    queue_free(&good);
    queue_free(&bad);
    svq_engine_free(engine);
}

static void test_a_fault_stays_where_it_happened(void **state)
{
    (void)state;
    check_a_fault(EVENT_IDX);
    check_a_fault(EVENT_IDX | PACKED);
}

static void test_each_fault_is_told_once(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    struct queue queues[3];

    (void)state;
    for (unsigned i = 0; i < 3; i++) {
        queue_init_sides(&queues[i], 8, formats[i][0], formats[i][1], 1);
        queue_make_relay(&queues[i], queues[i].base);
        queue_make_lane(&queues[i], engine);
    }
    for (unsigned i = 0; i < 3; i++) {
        queue_break_backend(&queues[i]);
        traffic_ring(queues[i].backend_call);
        assert_true(readable(svq_engine_fault_fd(engine), TRAFFIC_STALL_MS));
        svq_engine_faults(engine);
        for (unsigned k = 0; k < 3; k++)
            assert_int_equal(queues[k].faults, k <= i);
    }
    for (unsigned i = 0; i < 3; i++) {
        queue_drop_lane(&queues[i]);
        queue_free(&queues[i]);
    }
    svq_engine_free(engine);
}

static void test_a_faulted_lane_goes_before_it_is_reported(void **state)
{
    struct svq_engine *engine = queue_new_engine(2, 0);
    struct queue bad;

    (void)state;
    queue_init(&bad, 64, 0, 1);
    queue_make_relay(&bad, bad.base);
    queue_make_lane(&bad, engine);
    queue_break_backend(&bad);
    traffic_ring(bad.backend_call);
    assert_true(readable(svq_engine_fault_fd(engine), TRAFFIC_STALL_MS));
    queue_drop_lane(&bad);
    svq_engine_faults(engine);
    assert_int_equal(bad.faults, 0);
    queue_free(&bad);
    svq_engine_free(engine);
}

/* ---- Rest ------------------------------------------------------------------------------------ */

/* Once poll-us is over an idle queue costs nothing, whatever it has in flight. */
static void test_idle_sleeps(void **state)
{
    struct svq_engine *engine = queue_new_engine(2, 50);
    struct queue queues[4];
    uint64_t before;

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        queue_init_sides(&queues[i], 64, formats[i][0] | EVENT_IDX, formats[i][1], 1);
        queue_make_relay(&queues[i], queues[i].base);
        queue_make_lane(&queues[i], engine);
        queue_offer(&queues[i]);
        traffic_ring(queues[i].guest_kick);
    }
    usleep(50000);
    before = kit_cpu_us();
    usleep(500000);
    assert_in_range(kit_cpu_us() - before, 0, 25000);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(queue_arrived(&queues[i]), 1);
        queue_drop_lane(&queues[i]);
        queue_free(&queues[i]);
    }
    svq_engine_free(engine);
}

/* With work that a hold keeps back there is nothing to do either. */
static void test_held_sleeps(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 50);
    struct queue q;
    uint64_t before;

    (void)state;
    queue_init(&q, 64, EVENT_IDX, 1);
    queue_make_relay(&q, q.base);
    svq_relay_hold(q.relay, true);
    queue_make_lane(&q, engine);
    queue_offer(&q);
    traffic_ring(q.guest_kick);
    usleep(50000);
    before = kit_cpu_us();
    usleep(300000);
    assert_in_range(kit_cpu_us() - before, 0, 20000);
    assert_int_equal(queue_arrived(&q), 0);
    queue_drop_lane(&q);
    queue_free(&q);
    svq_engine_free(engine);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_starts_and_stops),
        cmocka_unit_test(test_lanes_spread_over_workers),
        cmocka_unit_test(test_calls_run_on_the_worker),
        cmocka_unit_test(test_call_fd_changes),
        cmocka_unit_test(test_kick_fd_changes),
        cmocka_unit_test(test_turn),
        cmocka_unit_test(test_a_new_kick_fd_wakes),
        cmocka_unit_test(test_polling_wants_no_notifications),
        cmocka_unit_test(test_no_kick_fd),
        cmocka_unit_test(test_a_kick_fd_that_is_none),
        cmocka_unit_test(test_a_fault_stays_where_it_happened),
        cmocka_unit_test(test_each_fault_is_told_once),
        cmocka_unit_test(test_a_faulted_lane_goes_before_it_is_reported),
        cmocka_unit_test(test_idle_sleeps),
        cmocka_unit_test(test_held_sleeps),
    };

    return cmocka_run_group_tests_name("engine", tests, NULL, NULL);
}
