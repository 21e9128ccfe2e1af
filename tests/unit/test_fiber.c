/* SPDX-License-Identifier: BSD-3-Clause */
/* Fibers: who runs when, what wakes whom, and that nothing waits longer than it must. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kit/fibers.h"

/* ---- Clock -------------------------------------------------------------------------------- */

static void test_deadlines_saturate(void **state)
{
    int64_t now = svq_now();

    (void)state;
    assert_true(now > 0);
    assert_in_range(svq_deadline(SVQ_SEC), now + SVQ_SEC, now + 2 * SVQ_SEC);
    assert_int_equal(svq_deadline(SVQ_FOREVER), SVQ_FOREVER);
    assert_int_equal(svq_deadline(SVQ_FOREVER - 1), SVQ_FOREVER);
    assert_in_range(svq_deadline(0), now, now + SVQ_SEC);
    assert_true(svq_now() >= now);
}

/* ---- Starting and ending ------------------------------------------------------------------- */

static void test_no_fibers(void **state)
{
    (void)state;
    fibers_run();
}

struct letter {
    char letter;
    struct svq_fiber *self;
};

static void leave_letter(void *arg)
{
    struct letter *l = arg;

    l->self = svq_fiber_self();
    fibers_mark(l->letter);
}

static void test_runs_in_order_of_birth(void **state)
{
    struct letter letters[3] = {{'a', NULL}, {'b', NULL}, {'c', NULL}};
    struct svq_fiber *fibers[3];

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        fibers[i] = fibers_spawn(leave_letter, &letters[i]);
    assert_string_equal(fibers_trail, ""); /* nobody runs outside of the fibers_loop */
    fibers_run();
    assert_string_equal(fibers_trail, "abc");
    for (unsigned i = 0; i < 3; i++)
        assert_ptr_equal(letters[i].self, fibers[i]);
}

static void spawn_children(void *arg)
{
    static struct letter letters[2] = {{'x', NULL}, {'y', NULL}};

    (void)arg;
    fibers_mark('(');
    fibers_spawn(leave_letter, &letters[0]);
    kit_require(svq_fiber_spawn(fibers_loop, "test", leave_letter, &letters[1], NULL) == 0);
    fibers_mark('.');
    /* The children run while the parent waits. */
    svq_fiber_sleep(SVQ_MSEC);
    fibers_mark(')');
}

static void test_a_fiber_spawns_others(void **state)
{
    (void)state;
    fibers_spawn(spawn_children, NULL);
    fibers_run();
    assert_string_equal(fibers_trail, "(.xy)");
}

static unsigned births;

static void spawn_one_more(void *arg)
{
    uintptr_t left = (uintptr_t)arg;

    births++;
    if (left)
        kit_require(
            !svq_fiber_spawn(fibers_loop, "test", spawn_one_more, (void *)(left - 1), NULL));
}

/* Generations: the dead must make room, or this takes 5 GiB of stacks. */
static void test_generations(void **state)
{
    (void)state;
    births = 0;
    fibers_spawn(spawn_one_more, (void *)20000);
    fibers_run();
    assert_int_equal(births, 20001);
}

static void use_stack(void *arg)
{
    volatile unsigned char big[64 * 1024];
    unsigned *sum = arg;

    for (size_t i = 0; i < sizeof(big); i++)
        big[i] = (unsigned char)i;
    svq_fiber_sleep(SVQ_MSEC);
    for (size_t i = 0; i < sizeof(big); i += 256)
        *sum += big[i + 255];
}

static void test_stacks_are_ones_own(void **state)
{
    unsigned sums[8] = {0};

    (void)state;
    for (unsigned i = 0; i < 8; i++)
        fibers_spawn(use_stack, &sums[i]);
    fibers_run();
    for (unsigned i = 0; i < 8; i++)
        assert_int_equal(sums[i], 256 * 255);
}

/* ---- Waiting -------------------------------------------------------------------------------- */

static void sleeper(void *arg)
{
    struct letter *l = arg;
    int64_t before = svq_now(), ns = (l->letter - 'a') * 10 * SVQ_MSEC;

    svq_fiber_sleep(ns);
    kit_require(svq_now() - before >= ns);
    fibers_mark(l->letter);
}

static void test_sleepers_wake_by_their_deadlines(void **state)
{
    struct letter letters[4] = {{'d', NULL}, {'b', NULL}, {'c', NULL}, {'a', NULL}};
    int64_t before = svq_now();

    (void)state;
    for (unsigned i = 0; i < 4; i++)
        fibers_spawn(sleeper, &letters[i]);
    fibers_run();
    assert_string_equal(fibers_trail, "abcd");
    assert_true(svq_now() - before < 2 * SVQ_SEC);
}

static void nap(void *arg)
{
    int64_t limit = svq_deadline(20 * SVQ_SEC), took;

    (void)arg;
    do {
        int64_t before = svq_now();

        kit_require(before < limit);
        svq_fiber_sleep(50 * SVQ_USEC);
        took = svq_now() - before;
        kit_require(took >= 50 * SVQ_USEC);
        /* Not the next whole millisecond, unless the machine is busy. */
    } while (took >= 500 * SVQ_USEC);
    fibers_mark('n');
}

static void test_short_sleeps(void **state)
{
    (void)state;
    fibers_spawn(nap, NULL);
    fibers_run();
    assert_string_equal(fibers_trail, "n");
}

static void sleep_long(void *arg)
{
    uint64_t before = kit_cpu_us();

    (void)arg;
    svq_fiber_sleep(300 * SVQ_MSEC);
    kit_require(kit_cpu_us() - before < 100000);
    fibers_mark('z');
}

static void test_sleep_costs_nothing(void **state)
{
    (void)state;
    fibers_spawn(sleep_long, NULL);
    fibers_run();
    assert_string_equal(fibers_trail, "z");
}

static void wait_for_event(void *arg)
{
    int fd = *(int *)arg;

    fibers_mark('w');
    kit_require(fibers_poll(fd, SVQ_FOREVER) == 1);
    kit_require(fibers_hush(fd));
    fibers_mark('r');
}

static void ring_later(void *arg)
{
    svq_fiber_sleep(2 * SVQ_MSEC);
    fibers_mark('!');
    fibers_ring(*(int *)arg);
}

static void test_an_fd_becomes_ready(void **state)
{
    int fd = fibers_event();

    (void)state;
    fibers_spawn(wait_for_event, &fd);
    fibers_spawn(ring_later, &fd);
    fibers_run();
    assert_string_equal(fibers_trail, "w!r");
    close(fd);
}

static void wait_for_many(void *arg)
{
    int *events = arg;
    struct pollfd fds[3] = {
        {.fd = events[0], .events = POLLIN},
        {.fd = -1, .events = POLLIN, .revents = POLLIN},
        {.fd = events[1], .events = POLLIN},
    };

    fibers_ring(events[0]);
    fibers_ring(events[1]);
    kit_require(svq_fiber_poll(fds, 3, SVQ_FOREVER) == 2);
    kit_require(fds[0].revents == POLLIN && fds[1].revents == 0 && fds[2].revents == POLLIN);
    kit_require(fibers_hush(events[0]));
    kit_require(svq_fiber_poll(fds, 3, SVQ_FOREVER) == 1);
    kit_require(fds[0].revents == 0 && fds[1].revents == 0 && fds[2].revents == POLLIN);
    kit_require(fibers_hush(events[1]));
    kit_require(svq_fiber_poll(fds, 3, svq_deadline(3 * SVQ_MSEC)) == -ETIMEDOUT);
    kit_require(fds[0].revents == 0 && fds[2].revents == 0);
    fds[2].events = POLLOUT;
    kit_require(svq_fiber_poll(fds, 3, SVQ_FOREVER) == 1);
    kit_require(fds[2].revents == POLLOUT);
    fibers_mark('k');
}

static void test_several_fds(void **state)
{
    int events[2] = {fibers_event(), fibers_event()};

    (void)state;
    fibers_spawn(wait_for_many, events);
    fibers_run();
    assert_string_equal(fibers_trail, "k");
    close(events[0]);
    close(events[1]);
}

static void see_hang_up(void *arg)
{
    int *ends = arg;
    struct pollfd p = {.fd = ends[0], .events = POLLIN};

    kit_require(svq_fiber_poll(&p, 1, SVQ_FOREVER) == 1);
    kit_require(p.revents & POLLHUP);
    fibers_mark('h');
}

static void hang_up(void *arg)
{
    int *ends = arg;

    svq_fiber_sleep(SVQ_MSEC);
    close(ends[1]);
}

static void test_a_peer_hangs_up(void **state)
{
    int ends[2];

    (void)state;
    kit_require(pipe(ends) == 0);
    fibers_spawn(see_hang_up, ends);
    fibers_spawn(hang_up, ends);
    fibers_run();
    assert_string_equal(fibers_trail, "h");
    close(ends[0]);
}

static void time_out(void *arg)
{
    int fd = *(int *)arg;
    int64_t before = svq_now();

    kit_require(fibers_poll(fd, svq_deadline(20 * SVQ_MSEC)) == -ETIMEDOUT);
    kit_require(svq_now() - before >= 20 * SVQ_MSEC);
    kit_require(svq_now() - before < 2 * SVQ_SEC);
    /* A deadline that has passed is no wait at all, but what is ready still counts. */
    kit_require(fibers_poll(fd, 0) == -ETIMEDOUT);
    kit_require(svq_fiber_poll(NULL, 0, before) == -ETIMEDOUT);
    fibers_ring(fd);
    kit_require(fibers_poll(fd, 0) == 1);
    fibers_mark('k');
}

static void test_timeouts(void **state)
{
    int fd = fibers_event();

    (void)state;
    fibers_spawn(time_out, &fd);
    fibers_run();
    assert_string_equal(fibers_trail, "k");
    close(fd);
}

static void await_it(void *arg)
{
    int fd = *(int *)arg;
    int64_t before = svq_now();

    kit_require(svq_fiber_await(fd, POLLIN, before) == -ETIMEDOUT);
    while (svq_fiber_await(fd, POLLIN, before + 10 * SVQ_MSEC) == 0)
        ;
    kit_require(svq_now() - before >= 10 * SVQ_MSEC);
    fibers_mark('l');
    while (!fibers_hush(fd))
        kit_require(svq_fiber_await(fd, POLLIN, svq_deadline(SVQ_SEC)) == 0);
    fibers_mark('k');
    /* Somebody woke us meanwhile: that is for the next poll. */
    kit_require(fibers_poll(fd, svq_deadline(SVQ_SEC)) == 0);
}

static void wake_and_ring(void *arg)
{
    void **both = arg;

    svq_fiber_sleep(20 * SVQ_MSEC);
    svq_fiber_wake(both[0]);
    svq_fiber_sleep(SVQ_MSEC);
    fibers_mark('r');
    fibers_ring(*(int *)both[1]);
}

static void test_awaiting_one_fd(void **state)
{
    int fd = fibers_event();
    void *both[] = {NULL, &fd};

    (void)state;
    both[0] = fibers_spawn(await_it, &fd);
    fibers_spawn(wake_and_ring, both);
    fibers_run();
    assert_string_equal(fibers_trail, "lrk");
    close(fd);
}

/* A fiber whose fd is always ready must let the others have their turn. */
static bool stop_spinning;

static void spin(void *arg)
{
    unsigned turns = 0;

    while (!stop_spinning) {
        kit_require(fibers_poll(*(int *)arg, SVQ_FOREVER) == 1);
        kit_require(++turns < 100 * 1000 * 1000);
    }
    fibers_mark('s');
}

static void stop_the_spinner(void *arg)
{
    (void)arg;
    svq_fiber_sleep(5 * SVQ_MSEC);
    stop_spinning = true;
}

static void test_a_busy_fiber_starves_nobody(void **state)
{
    int fd = fibers_event();

    (void)state;
    stop_spinning = false;
    fibers_ring(fd);
    fibers_spawn(spin, &fd);
    fibers_spawn(stop_the_spinner, NULL);
    fibers_run();
    assert_string_equal(fibers_trail, "s");
    close(fd);
}

/* ---- Wakes --------------------------------------------------------------------------------- */

static void wait_for_wake(void *arg)
{
    int fd = *(int *)arg;

    fibers_mark('w');
    kit_require(fibers_poll(fd, SVQ_FOREVER) == 0);
    fibers_mark('k');
    /* Used up. */
    kit_require(fibers_poll(fd, svq_deadline(2 * SVQ_MSEC)) == -ETIMEDOUT);
    fibers_mark('t');
}

static void wake_later(void *arg)
{
    svq_fiber_sleep(SVQ_MSEC);
    fibers_mark('!');
    svq_fiber_wake(arg);
}

static void test_a_wake_ends_a_poll(void **state)
{
    int fd = fibers_event();

    (void)state;
    fibers_spawn(wake_later, fibers_spawn(wait_for_wake, &fd));
    fibers_run();
    assert_string_equal(fibers_trail, "w!kt");
    close(fd);
}

static void wake_twice_early(void *arg)
{
    struct svq_fiber *self = svq_fiber_self();

    (void)arg;
    svq_fiber_wake(self);
    svq_fiber_wake(self);
    kit_require(svq_fiber_poll(NULL, 0, SVQ_FOREVER) == 0);
    kit_require(svq_fiber_poll(NULL, 0, svq_deadline(SVQ_MSEC)) == -ETIMEDOUT);
    fibers_mark('k');
}

static void test_an_early_wake_is_kept(void **state)
{
    (void)state;
    fibers_spawn(wake_twice_early, NULL);
    fibers_run();
    assert_string_equal(fibers_trail, "k");
}

static void sleep_through_wakes(void *arg)
{
    int64_t before = svq_now();

    (void)arg;
    svq_fiber_sleep(20 * SVQ_MSEC);
    kit_require(svq_now() - before >= 20 * SVQ_MSEC);
    fibers_mark('s');
    kit_require(svq_fiber_poll(NULL, 0, SVQ_FOREVER) == 0);
    fibers_mark('k');
}

static void test_sleep_keeps_wakes_for_later(void **state)
{
    (void)state;
    fibers_spawn(wake_later, fibers_spawn(sleep_through_wakes, NULL));
    fibers_run();
    assert_string_equal(fibers_trail, "!sk");
}

/* An fd that is ready is worth more than a wake: no result may be lost over it. */
static void ready_and_woken(void *arg)
{
    int fd = *(int *)arg;

    fibers_ring(fd);
    svq_fiber_wake(svq_fiber_self());
    kit_require(fibers_poll(fd, SVQ_FOREVER) == 1);
    kit_require(fibers_hush(fd));
    fibers_mark('k');
}

static void test_ready_and_woken_at_once(void **state)
{
    int fd = fibers_event();

    (void)state;
    fibers_spawn(ready_and_woken, &fd);
    fibers_run();
    assert_string_equal(fibers_trail, "k");
    close(fd);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, fibers_setup, fibers_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_deadlines_saturate),
        TEST(test_no_fibers),
        TEST(test_runs_in_order_of_birth),
        TEST(test_a_fiber_spawns_others),
        TEST(test_generations),
        TEST(test_stacks_are_ones_own),
        TEST(test_sleepers_wake_by_their_deadlines),
        TEST(test_short_sleeps),
        TEST(test_sleep_costs_nothing),
        TEST(test_an_fd_becomes_ready),
        TEST(test_several_fds),
        TEST(test_a_peer_hangs_up),
        TEST(test_timeouts),
        TEST(test_awaiting_one_fd),
        TEST(test_a_busy_fiber_starves_nobody),
        TEST(test_a_wake_ends_a_poll),
        TEST(test_an_early_wake_is_kept),
        TEST(test_sleep_keeps_wakes_for_later),
        TEST(test_ready_and_woken_at_once),
    };

    return cmocka_run_group_tests_name("fiber", tests, NULL, NULL);
}
