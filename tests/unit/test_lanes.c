/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Many lanes made, called and taken away at once, on several workers, asleep or not; and what is
 * left of one that could not be made, or moved.
 */
#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "kit/lane.h"

/* More than are put together at once. */
#define LANES   70u
#define WORKERS 3u

static struct queue queues[LANES];
static struct svq_lane *lanes[LANES];

static void make_queues(struct svq_lane_config *configs)
{
    for (unsigned i = 0; i < LANES; i++) {
        struct queue *q = &queues[i];

        queue_init(q, 16, EVENT_IDX, 1);
        queue_make_relay(q, q->base);
        configs[i] = (struct svq_lane_config){
            .poll_us = SVQ_POLL_DEFAULT,
            .relay = q->relay,
            .guest_kick = q->guest_kick,
            .guest_call = q->guest_call,
            .backend_kick = q->backend_kick,
            .backend_call = q->backend_call,
        };
    }
}

static void free_queues(void)
{
    for (unsigned i = 0; i < LANES; i++) {
        svq_relay_free(queues[i].relay);
        queues[i].relay = NULL;
        queue_free(&queues[i]);
    }
}

/* ---- Calls ----------------------------------------------------------------------------------- */

/* What each worker has run, in its order. */
struct seen {
    unsigned index;
    unsigned worker;
    pthread_t thread;
    bool in_flight; /* had the turn before it moved the chain? */
    unsigned calls;
};

static struct {
    pthread_mutex_t mutex;
    unsigned order[LANES];
    unsigned count;
} trail = {.mutex = PTHREAD_MUTEX_INITIALIZER};

static void look(struct svq_relay *relay, void *arg)
{
    struct svq_relay_state state;
    struct seen *seen = arg;

    svq_relay_state(relay, &state);
    seen->in_flight = state.in_flight;
    seen->thread = pthread_self();
    seen->calls++;
    pthread_mutex_lock(&trail.mutex);
    trail.order[trail.count++] = seen->index;
    pthread_mutex_unlock(&trail.mutex);
}

static void expect_order(const struct seen *seen)
{
    int last[WORKERS] = {-1, -1, -1};

    assert_int_equal(trail.count, LANES);
    for (unsigned i = 0; i < LANES; i++) {
        const struct seen *s = &seen[trail.order[i]];

        assert_true((int)s->index > last[s->worker]);
        last[s->worker] = s->index;
        /* All of a worker's lanes are on its thread, and no others. */
        for (unsigned k = 0; k < LANES; k++)
            assert_int_equal(pthread_equal(seen[k].thread, s->thread), seen[k].worker == s->worker);
    }
}

/* Workers sleep in the first round, and poll in the second. */
static void test_calls_to_many(void **state)
{
    struct svq_lane_config configs[LANES];
    struct svq_lane_call calls[LANES];
    struct seen seen[LANES] = {0};

    (void)state;
    for (int poll_us = 0; poll_us <= 1000000; poll_us += 1000000) {
        struct svq_engine *engine = queue_new_engine(WORKERS, poll_us);

        make_queues(configs);
        assert_int_equal(svq_lanes_new(engine, configs, LANES, lanes), 0);
        trail.count = 0;
        usleep(20000);
        for (unsigned i = 0; i < LANES; i++) {
            seen[i] = (struct seen){.index = i, .worker = svq_lane_worker(lanes[i])};
            calls[i] = (struct svq_lane_call){lanes[i], i % 2, look, &seen[i]};
            queue_offer(&queues[i]); /* without a kick */
        }
        svq_lanes_call(calls, LANES);
        for (unsigned i = 0; i < LANES; i++) {
            assert_int_equal(seen[i].calls, 1);
            if (i % 2 || !poll_us)
                assert_int_equal(seen[i].in_flight, i % 2);
        }
        expect_order(seen);
        svq_lanes_call(calls, 0);
        svq_lanes_free(lanes, LANES);
        free_queues();
        svq_engine_free(engine);
    }
}

static void count_call(struct svq_relay *relay, void *arg)
{
    (void)relay;
    ++*(unsigned *)arg;
}

/* Whether a worker is just falling asleep or not, it is never called in vain. */
static void test_calls_to_one_that_falls_asleep(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    unsigned calls = 0;
    struct queue q;

    (void)state;
    queue_init(&q, 16, EVENT_IDX, 1);
    queue_make_relay(&q, q.base);
    queue_make_lane(&q, engine);
    for (unsigned i = 0; i < 100000 / SLOWER; i++) {
        svq_lane_turn(q.lane); /* it is hot now */
        for (volatile unsigned k = 0; k < i % 512; k++)
            ;
        svq_lane_call(q.lane, count_call, &calls);
        assert_int_equal(calls, i + 1);
    }
    queue_drop_lane(&q);
    queue_free(&q);
    svq_engine_free(engine);
}

/* ---- Life ------------------------------------------------------------------------------------ */

/* Some cannot be made; the others are there, and nothing is left of those. */
static void test_some_cannot_be_made(void **state)
{
    struct svq_engine *engine = queue_new_engine(WORKERS, 0);
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* cannot be waited for */
    struct svq_lane_config configs[LANES];
    unsigned on[WORKERS] = {0};

    (void)state;
    make_queues(configs);
    configs[3].guest_kick = file;
    configs[66].backend_call = file;
    configs[10].pinned = true;
    configs[10].worker = WORKERS;
    assert_true(svq_lanes_new(engine, configs, LANES, lanes) < 0);
    for (unsigned i = 0; i < LANES; i++)
        assert_int_equal(!lanes[i], i == 3 || i == 66 || i == 10);
    for (unsigned i = 0; i < LANES; i++) {
        if (!lanes[i])
            continue;
        on[svq_lane_worker(lanes[i])]++;
        queue_offer(&queues[i]);
        traffic_ring(queues[i].guest_kick);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        assert_in_range(on[i], LANES / WORKERS - 2, LANES / WORKERS + 2);
    usleep(50000);
    for (unsigned i = 0; i < LANES; i++)
        assert_int_equal(queue_arrived(&queues[i]), lanes[i] ? 1 : 0);
    svq_lanes_free(lanes, LANES); /* with gaps */
    /* They can be had again. */
    configs[3].guest_kick = queues[3].guest_kick;
    assert_int_equal(svq_lane_new(engine, &configs[3], &lanes[3]), 0);
    svq_lane_free(lanes[3]);
    svq_lane_free(NULL);
    free_queues();
    svq_engine_free(engine);
    close(file);
}

/* A lane of the queue, on that worker. */
static int make_pinned(struct svq_engine *engine, struct queue *q, int backend_call,
                       unsigned worker)
{
    const struct svq_lane_config config = {
        .relay = q->relay,
        .guest_kick = q->guest_kick,
        .guest_call = q->guest_call,
        .backend_kick = q->backend_kick,
        .backend_call = backend_call,
        .pinned = true,
        .worker = worker,
    };

    return svq_lane_new(engine, &config, &q->lane);
}

/* A worker that watched one fd of a lane that came to nothing has forgotten that one, too. */
static void test_nothing_is_left(void **state)
{
    int file = open("/proc/self/exe", O_RDONLY | O_CLOEXEC); /* cannot be waited for */
    struct svq_engine *engine = queue_new_engine(1, 0);
    struct queue q;

    (void)state;
    queue_init(&q, 16, 0, 1);
    queue_make_relay(&q, q.base);
    assert_true(make_pinned(engine, &q, file, 0) < 0);
    assert_null(q.lane);
    traffic_ring(q.guest_kick);
    assert_int_equal(make_pinned(engine, &q, q.backend_call, 0), 0);
    queue_drop_lane(&q);
    queue_free(&q);
    svq_engine_free(engine);
    close(file);
}

static void await_arrival(struct queue *q)
{
    queue_offer(q);
    traffic_ring(q->guest_kick);
    for (unsigned i = 0; i < 1000 && !queue_arrived(q); i++)
        usleep(5000);
    assert_int_equal(queue_arrived(q), 1);
}

/* A worker cannot watch an fd twice: what is to go where its twin is stays, and is served. */
static void test_a_move_that_fails(void **state)
{
    struct svq_engine *engine = queue_new_engine(2, 0);
    struct queue moved, twin;
    int own;

    (void)state;
    queue_init(&moved, 16, 0, 1);
    queue_init(&twin, 16, 0, 1);
    queue_make_relay(&moved, moved.base);
    queue_make_relay(&twin, twin.base);
    own = twin.guest_kick;
    twin.guest_kick = moved.guest_kick;
    assert_int_equal(make_pinned(engine, &moved, moved.backend_call, 0), 0);
    assert_int_equal(make_pinned(engine, &twin, twin.backend_call, 1), 0);
    assert_int_equal(svq_lane_pin(moved.lane, 1), -EEXIST);
    assert_int_equal(svq_lane_worker(moved.lane), 0);
    /* Not by what it finds on the way back: it sleeps by then. */
    for (unsigned i = 0; i < 1000 && !queue_wants_kicks(&moved); i++)
        usleep(5000);
    await_arrival(&moved);
    queue_drop_lane(&twin);
    twin.guest_kick = own;
    assert_int_equal(svq_lane_pin(moved.lane, 1), 0);
    queue_drop_lane(&moved);
    queue_free(&moved);
    queue_free(&twin);
    svq_engine_free(engine);
}

/* A new lane goes where there are fewest, wherever those were made. */
static void test_moved_lanes_count_where_they_are(void **state)
{
    struct svq_engine *engine = queue_new_engine(2, 0);
    struct queue q[4];

    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        queue_init(&q[i], 16, 0, 1);
        queue_make_relay(&q[i], q[i].base);
    }
    for (unsigned i = 0; i < 2; i++) {
        queue_make_lane(&q[i], engine);
        assert_int_equal(svq_lane_pin(q[i].lane, 0), 0);
    }
    for (unsigned i = 2; i < 4; i++) {
        queue_make_lane(&q[i], engine);
        assert_int_equal(svq_lane_worker(q[i].lane), 1);
    }
    for (unsigned i = 0; i < 4; i++) {
        queue_drop_lane(&q[i]);
        queue_free(&q[i]);
    }
    svq_engine_free(engine);
}

/* ---- Notifications --------------------------------------------------------------------------- */

static int blocking_event(void)
{
    int fd = eventfd(0, EFD_CLOEXEC);

    kit_require(fd >= 0);
    return fd;
}

static bool blocks(int fd)
{
    return !(fcntl(fd, F_GETFL) & O_NONBLOCK);
}

/* A peer may hand over eventfds that block; no worker ever waits for one. */
static void test_no_eventfd_blocks(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    int call = blocking_event(), kick = blocking_event(), next = blocking_event();
    struct svq_lane_config config = {.guest_call = call, .backend_kick = kick, .backend_call = -1};
    struct queue q;

    (void)state;
    queue_init(&q, 16, 0, 1);
    queue_make_relay(&q, q.base);
    config.relay = q.relay;
    config.guest_kick = q.guest_kick;
    assert_int_equal(svq_lane_new(engine, &config, &q.lane), 0);
    assert_false(blocks(call));
    assert_false(blocks(kick));
    assert_true(blocks(next));
    svq_lane_set_guest_call(q.lane, next);
    assert_false(blocks(next));
    svq_lane_set_guest_call(q.lane, -1);
    queue_drop_lane(&q);
    queue_free(&q);
    close(call);
    close(kick);
    close(next);
    svq_engine_free(engine);
}

static void take_stats(struct svq_relay *relay, void *arg)
{
    svq_relay_stats(relay, arg);
}

/* Once the lane sleeps, a notification is told from one of the other side. */
static void expect_counted(struct queue *q, int fd, unsigned kicks, unsigned calls)
{
    struct svq_relay_stats stats;

    for (unsigned i = 0; i < 1000 && !queue_wants_kicks(q); i++)
        usleep(5000);
    assert_true(queue_wants_kicks(q));
    usleep(5000); /* from asking to sleeping */
    traffic_ring(fd);
    for (unsigned i = 0; i < 1000; i++) {
        svq_lane_call(q->lane, take_stats, &stats);
        if (stats.guest_kicks + stats.backend_calls == kicks + calls)
            break;
        usleep(5000);
    }
    assert_int_equal(stats.guest_kicks, kicks);
    assert_int_equal(stats.backend_calls, calls);
}

static void test_notifications_are_counted(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    struct queue q;

    (void)state;
    queue_init(&q, 16, 0, 1);
    queue_make_relay(&q, q.base);
    queue_make_lane(&q, engine);
    expect_counted(&q, q.guest_kick, 1, 0);
    expect_counted(&q, q.backend_call, 1, 1);
    expect_counted(&q, q.backend_call, 1, 2);
    queue_drop_lane(&q);
    queue_free(&q);
    svq_engine_free(engine);
}

/* How many chains each of them has moved so far, in the end. */
static void expect_moved(unsigned chains)
{
    usleep(50000);
    for (unsigned i = 0; i < LANES; i++)
        assert_int_equal(queue_arrived(&queues[i]), chains);
}

static void offer_to_all(void)
{
    for (unsigned i = 0; i < LANES; i++) {
        queue_offer(&queues[i]);
        traffic_ring(queues[i].guest_kick);
        traffic_ring(queues[i].backend_call);
    }
}

/* Lanes that are ready move nothing before they start, and nothing after they stop. */
static void test_ready_before_and_after(void **state)
{
    struct svq_engine *engine = queue_new_engine(WORKERS, 0);
    struct svq_lane_config configs[LANES];
    struct svq_relay *relays[LANES];

    (void)state;
    make_queues(configs);
    for (unsigned i = 0; i < LANES; i++) {
        relays[i] = configs[i].relay;
        configs[i].relay = NULL;
    }
    assert_int_equal(svq_lanes_prepare(engine, configs, LANES, lanes), 0);
    offer_to_all();
    expect_moved(0);
    /* One moves elsewhere before it starts. */
    assert_int_equal(svq_lane_pin(lanes[5], (svq_lane_worker(lanes[5]) + 1) % WORKERS), 0);
    offer_to_all();
    svq_lanes_start(lanes, relays, LANES);
    expect_moved(2);
    svq_lanes_stop(lanes, LANES);
    offer_to_all();
    assert_int_equal(svq_lane_pin(lanes[6], (svq_lane_worker(lanes[6]) + 1) % WORKERS), 0);
    expect_moved(2);
    svq_lanes_start(lanes, relays, LANES);
    expect_moved(3);
    offer_to_all();
    expect_moved(4);
    svq_lanes_stop(lanes, LANES);
    svq_lanes_stop(lanes, LANES);
    svq_lanes_free(lanes, LANES);
    /* Or never start. */
    assert_int_equal(svq_lanes_prepare(engine, configs, LANES, lanes), 0);
    offer_to_all();
    svq_lanes_stop(lanes, LANES);
    svq_lanes_free(lanes, LANES);
    free_queues();
    svq_engine_free(engine);
}

static void count_fault(void *opaque)
{
    ++*(unsigned *)opaque;
}

/* A fault of one that has stopped is nobody's; with another relay it starts without. */
static void test_stopped_with_a_fault(void **state)
{
    struct svq_engine *engine = queue_new_engine(1, 0);
    struct svq_lane_config configs[LANES];
    unsigned faults = 0;
    const char *reason;

    (void)state;
    make_queues(configs);
    configs[0].fault = count_fault;
    configs[0].opaque = &faults;
    assert_int_equal(svq_lane_new(engine, &configs[0], &lanes[0]), 0);
    queue_break_guest(&queues[0]);
    svq_lane_turn(lanes[0]);
    svq_lanes_stop(lanes, 1);
    assert_int_equal(svq_relay_fault(queues[0].relay, &reason), SVQ_SIDE_GUEST);
    svq_engine_faults(engine);
    assert_int_equal(faults, 0);
    svq_lanes_start(lanes, &queues[1].relay, 1);
    queue_offer(&queues[1]);
    svq_lane_turn(lanes[0]);
    assert_int_equal(queue_arrived(&queues[1]), 1);
    queue_break_guest(&queues[1]);
    svq_lane_turn(lanes[0]);
    svq_engine_faults(engine);
    assert_int_equal(faults, 1);
    svq_lane_free(lanes[0]);
    free_queues();
    svq_engine_free(engine);
}

static int leaves_no_fds(void **state)
{
    static unsigned before;

    (void)state;
    if (before && kit_open_fds() != before)
        return -1;
    before = kit_open_fds();
    return 0;
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, leaves_no_fds, leaves_no_fds)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_calls_to_many),          TEST(test_calls_to_one_that_falls_asleep),
        TEST(test_some_cannot_be_made),    TEST(test_nothing_is_left),
        TEST(test_a_move_that_fails),      TEST(test_moved_lanes_count_where_they_are),
        TEST(test_no_eventfd_blocks),      TEST(test_notifications_are_counted),
        TEST(test_ready_before_and_after), TEST(test_stopped_with_a_fault),
    };

    return cmocka_run_group_tests_name("lanes", tests, NULL, NULL);
}
