/* SPDX-License-Identifier: BSD-3-Clause */
/* Fibers: who runs when, what wakes whom, and that nothing waits longer than it must. */
#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "event/fiber.h"
#include "kit/memory.h"

static struct svq_loop *loop;
static char trail[256]; /* what happened, a letter each */
static unsigned fds_before;

static void mark(char letter)
{
    size_t len = strlen(trail);

    kit_require(len + 1 < sizeof(trail));
    trail[len] = letter;
    trail[len + 1] = '\0';
}

static int setup(void **state)
{
    (void)state;
    trail[0] = '\0';
    fds_before = kit_open_fds();
    return svq_loop_new(&loop);
}

static int teardown(void **state)
{
    (void)state;
    svq_loop_free(loop);
    assert_int_equal(kit_open_fds(), fds_before);
    return 0;
}

static struct svq_fiber *spawn(void (*fn)(void *arg), void *arg)
{
    struct svq_fiber *fiber = NULL;

    kit_require(svq_fiber_spawn(loop, "test", fn, arg, &fiber) == 0);
    kit_require(fiber != NULL);
    return fiber;
}

static void run(void)
{
    assert_null(svq_fiber_self());
    assert_int_equal(svq_loop_run(loop), 0);
    assert_null(svq_fiber_self());
}

static int new_event(void)
{
    int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);

    kit_require(fd >= 0);
    return fd;
}

static void ring(int fd)
{
    uint64_t one = 1;

    kit_require(write(fd, &one, sizeof(one)) == sizeof(one));
}

static bool hush(int fd)
{
    uint64_t count;

    return read(fd, &count, sizeof(count)) == sizeof(count);
}

static int poll_one(int fd, int64_t deadline)
{
    struct pollfd p = {.fd = fd, .events = POLLIN, .revents = 0x7fff};

    return svq_fiber_poll(&p, 1, deadline);
}

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
    run();
}

struct letter {
    char letter;
    struct svq_fiber *self;
};

static void leave_letter(void *arg)
{
    struct letter *l = arg;

    l->self = svq_fiber_self();
    mark(l->letter);
}

static void test_runs_in_order_of_birth(void **state)
{
    struct letter letters[3] = {{'a', NULL}, {'b', NULL}, {'c', NULL}};
    struct svq_fiber *fibers[3];

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        fibers[i] = spawn(leave_letter, &letters[i]);
    assert_string_equal(trail, ""); /* nobody runs outside of the loop */
    run();
    assert_string_equal(trail, "abc");
    for (unsigned i = 0; i < 3; i++)
        assert_ptr_equal(letters[i].self, fibers[i]);
}

static void spawn_children(void *arg)
{
    static struct letter letters[2] = {{'x', NULL}, {'y', NULL}};

    (void)arg;
    mark('(');
    spawn(leave_letter, &letters[0]);
    kit_require(svq_fiber_spawn(loop, "test", leave_letter, &letters[1], NULL) == 0);
    mark('.');
    /* The children run while the parent waits. */
    svq_fiber_sleep(SVQ_MSEC);
    mark(')');
}

static void test_a_fiber_spawns_others(void **state)
{
    (void)state;
    spawn(spawn_children, NULL);
    run();
    assert_string_equal(trail, "(.xy)");
}

static unsigned births;

static void spawn_one_more(void *arg)
{
    uintptr_t left = (uintptr_t)arg;

    births++;
    if (left)
        kit_require(!svq_fiber_spawn(loop, "test", spawn_one_more, (void *)(left - 1), NULL));
}

/* Generations: the dead must make room, or this takes 5 GiB of stacks. */
static void test_generations(void **state)
{
    (void)state;
    births = 0;
    spawn(spawn_one_more, (void *)20000);
    run();
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
        spawn(use_stack, &sums[i]);
    run();
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
    mark(l->letter);
}

static void test_sleepers_wake_by_their_deadlines(void **state)
{
    struct letter letters[4] = {{'d', NULL}, {'b', NULL}, {'c', NULL}, {'a', NULL}};
    int64_t before = svq_now();

    (void)state;
    for (unsigned i = 0; i < 4; i++)
        spawn(sleeper, &letters[i]);
    run();
    assert_string_equal(trail, "abcd");
    assert_true(svq_now() - before < 2 * SVQ_SEC);
}

static void wait_for_event(void *arg)
{
    int fd = *(int *)arg;

    mark('w');
    kit_require(poll_one(fd, SVQ_FOREVER) == 1);
    kit_require(hush(fd));
    mark('r');
}

static void ring_later(void *arg)
{
    svq_fiber_sleep(2 * SVQ_MSEC);
    mark('!');
    ring(*(int *)arg);
}

static void test_an_fd_becomes_ready(void **state)
{
    int fd = new_event();

    (void)state;
    spawn(wait_for_event, &fd);
    spawn(ring_later, &fd);
    run();
    assert_string_equal(trail, "w!r");
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

    ring(events[0]);
    ring(events[1]);
    kit_require(svq_fiber_poll(fds, 3, SVQ_FOREVER) == 2);
    kit_require(fds[0].revents == POLLIN && fds[1].revents == 0 && fds[2].revents == POLLIN);
    kit_require(hush(events[0]));
    kit_require(svq_fiber_poll(fds, 3, SVQ_FOREVER) == 1);
    kit_require(fds[0].revents == 0 && fds[1].revents == 0 && fds[2].revents == POLLIN);
    kit_require(hush(events[1]));
    kit_require(svq_fiber_poll(fds, 3, svq_deadline(3 * SVQ_MSEC)) == -ETIMEDOUT);
    kit_require(fds[0].revents == 0 && fds[2].revents == 0);
    fds[2].events = POLLOUT;
    kit_require(svq_fiber_poll(fds, 3, SVQ_FOREVER) == 1);
    kit_require(fds[2].revents == POLLOUT);
    mark('k');
}

static void test_several_fds(void **state)
{
    int events[2] = {new_event(), new_event()};

    (void)state;
    spawn(wait_for_many, events);
    run();
    assert_string_equal(trail, "k");
    close(events[0]);
    close(events[1]);
}

static void see_hang_up(void *arg)
{
    int *ends = arg;
    struct pollfd p = {.fd = ends[0], .events = POLLIN};

    kit_require(svq_fiber_poll(&p, 1, SVQ_FOREVER) == 1);
    kit_require(p.revents & POLLHUP);
    mark('h');
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
    spawn(see_hang_up, ends);
    spawn(hang_up, ends);
    run();
    assert_string_equal(trail, "h");
    close(ends[0]);
}

static void time_out(void *arg)
{
    int fd = *(int *)arg;
    int64_t before = svq_now();

    kit_require(poll_one(fd, svq_deadline(20 * SVQ_MSEC)) == -ETIMEDOUT);
    kit_require(svq_now() - before >= 20 * SVQ_MSEC);
    kit_require(svq_now() - before < 2 * SVQ_SEC);
    /* A deadline that has passed is no wait at all, but what is ready still counts. */
    kit_require(poll_one(fd, 0) == -ETIMEDOUT);
    kit_require(svq_fiber_poll(NULL, 0, before) == -ETIMEDOUT);
    ring(fd);
    kit_require(poll_one(fd, 0) == 1);
    mark('k');
}

static void test_timeouts(void **state)
{
    int fd = new_event();

    (void)state;
    spawn(time_out, &fd);
    run();
    assert_string_equal(trail, "k");
    close(fd);
}

/* A fiber whose fd is always ready must let the others have their turn. */
static bool stop_spinning;

static void spin(void *arg)
{
    unsigned turns = 0;

    while (!stop_spinning) {
        kit_require(poll_one(*(int *)arg, SVQ_FOREVER) == 1);
        kit_require(++turns < 100 * 1000 * 1000);
    }
    mark('s');
}

static void stop_the_spinner(void *arg)
{
    (void)arg;
    svq_fiber_sleep(5 * SVQ_MSEC);
    stop_spinning = true;
}

static void test_a_busy_fiber_starves_nobody(void **state)
{
    int fd = new_event();

    (void)state;
    stop_spinning = false;
    ring(fd);
    spawn(spin, &fd);
    spawn(stop_the_spinner, NULL);
    run();
    assert_string_equal(trail, "s");
    close(fd);
}

/* ---- Wakes --------------------------------------------------------------------------------- */

static void wait_for_wake(void *arg)
{
    int fd = *(int *)arg;

    mark('w');
    kit_require(poll_one(fd, SVQ_FOREVER) == 0);
    mark('k');
    /* Used up. */
    kit_require(poll_one(fd, svq_deadline(2 * SVQ_MSEC)) == -ETIMEDOUT);
    mark('t');
}

static void wake_later(void *arg)
{
    svq_fiber_sleep(SVQ_MSEC);
    mark('!');
    svq_fiber_wake(arg);
}

static void test_a_wake_ends_a_poll(void **state)
{
    int fd = new_event();

    (void)state;
    spawn(wake_later, spawn(wait_for_wake, &fd));
    run();
    assert_string_equal(trail, "w!kt");
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
    mark('k');
}

static void test_an_early_wake_is_kept(void **state)
{
    (void)state;
    spawn(wake_twice_early, NULL);
    run();
    assert_string_equal(trail, "k");
}

static void sleep_through_wakes(void *arg)
{
    int64_t before = svq_now();

    (void)arg;
    svq_fiber_sleep(20 * SVQ_MSEC);
    kit_require(svq_now() - before >= 20 * SVQ_MSEC);
    mark('s');
    kit_require(svq_fiber_poll(NULL, 0, SVQ_FOREVER) == 0);
    mark('k');
}

static void test_sleep_keeps_wakes_for_later(void **state)
{
    (void)state;
    spawn(wake_later, spawn(sleep_through_wakes, NULL));
    run();
    assert_string_equal(trail, "!sk");
}

/* An fd that is ready is worth more than a wake: no result may be lost over it. */
static void ready_and_woken(void *arg)
{
    int fd = *(int *)arg;

    ring(fd);
    svq_fiber_wake(svq_fiber_self());
    kit_require(poll_one(fd, SVQ_FOREVER) == 1);
    kit_require(hush(fd));
    mark('k');
}

static void test_ready_and_woken_at_once(void **state)
{
    int fd = new_event();

    (void)state;
    spawn(ready_and_woken, &fd);
    run();
    assert_string_equal(trail, "k");
    close(fd);
}

/* ---- Many ----------------------------------------------------------------------------------- */

enum { CROWD = 1000, LAPS = 20 };

struct runner {
    int from;
    int to;
    unsigned laps;
};

static void run_laps(void *arg)
{
    struct runner *r = arg;

    for (; r->laps < LAPS; r->laps++) {
        kit_require(poll_one(r->from, SVQ_FOREVER) == 1);
        kit_require(hush(r->from));
        ring(r->to);
    }
}

/* A baton goes round a thousand fibers. */
static void test_a_crowd(void **state)
{
    struct runner *runners = calloc(CROWD, sizeof(*runners));
    int *events = calloc(CROWD, sizeof(*events));

    (void)state;
    kit_require(runners && events);
    for (unsigned i = 0; i < CROWD; i++)
        events[i] = new_event();
    for (unsigned i = 0; i < CROWD; i++) {
        runners[i] = (struct runner){events[i], events[(i + 1) % CROWD], 0};
        spawn(run_laps, &runners[i]);
    }
    ring(events[0]);
    run();
    for (unsigned i = 0; i < CROWD; i++) {
        assert_int_equal(runners[i].laps, LAPS);
        close(events[i]);
    }
    free(runners);
    free(events);
}

static struct svq_fiber *partners[2];
static unsigned volleys;

static void play(void *arg)
{
    unsigned me = (unsigned)(uintptr_t)arg;

    for (unsigned i = 0; i < 50000; i++) {
        if (me == 1 || i > 0)
            kit_require(svq_fiber_poll(NULL, 0, svq_deadline(10 * SVQ_SEC)) == 0);
        volleys++;
        if (me == 0 || i + 1 < 50000)
            svq_fiber_wake(partners[!me]);
    }
}

static void test_ping_pong_by_wakes(void **state)
{
    (void)state;
    volleys = 0;
    for (uintptr_t i = 0; i < 2; i++)
        partners[i] = spawn(play, (void *)i);
    run();
    assert_int_equal(volleys, 100000);
}

/* ---- The loop's end --------------------------------------------------------------------------- */

static void obey_quit(void *arg)
{
    (void)arg;
    mark('q');
    svq_loop_quit(loop);
}

static void test_quit_from_a_fiber(void **state)
{
    (void)state;
    spawn(obey_quit, NULL);
    run();
    assert_string_equal(trail, "q");
}

static void *quit_from_thread(void *arg)
{
    usleep(12000);
    svq_loop_quit(arg);
    return NULL;
}

static void wait_for_ever(void *arg)
{
    (void)arg;
    kit_require(svq_fiber_poll(NULL, 0, SVQ_FOREVER) == 0);
}

/*
 * The loop returns although a fiber still waits. That fiber can never be freed: done in a process of
 * its own.
 */
static void test_quit_from_another_thread(void **state)
{
    pid_t child;
    int status;

    (void)state;
    child = fork();
    kit_require(child >= 0);
    if (child == 0) {
        int64_t before = svq_now();
        pthread_t thread;

        spawn(wait_for_ever, NULL);
        kit_require(pthread_create(&thread, NULL, quit_from_thread, loop) == 0);
        kit_require(svq_loop_run(loop) == 0);
        kit_require(svq_now() - before >= 10 * SVQ_MSEC);
        pthread_join(thread, NULL);
        _exit(42);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_true(WIFEXITED(status));
    assert_int_equal(WEXITSTATUS(status), 42);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_deadlines_saturate),
        TEST(test_no_fibers),
        TEST(test_runs_in_order_of_birth),
        TEST(test_a_fiber_spawns_others),
        TEST(test_generations),
        TEST(test_stacks_are_ones_own),
        TEST(test_sleepers_wake_by_their_deadlines),
        TEST(test_an_fd_becomes_ready),
        TEST(test_several_fds),
        TEST(test_a_peer_hangs_up),
        TEST(test_timeouts),
        TEST(test_a_busy_fiber_starves_nobody),
        TEST(test_a_wake_ends_a_poll),
        TEST(test_an_early_wake_is_kept),
        TEST(test_sleep_keeps_wakes_for_later),
        TEST(test_ready_and_woken_at_once),
        TEST(test_a_crowd),
        TEST(test_ping_pong_by_wakes),
        TEST(test_quit_from_a_fiber),
        TEST(test_quit_from_another_thread),
    };

    return cmocka_run_group_tests_name("fiber", tests, NULL, NULL);
}
