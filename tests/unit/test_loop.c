/* SPDX-License-Identifier: BSD-3-Clause */
/* The loop that runs fibers: many at once, and how it ends. */
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "kit/fibers.h"

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
        kit_require(fibers_poll(r->from, SVQ_FOREVER) == 1);
        kit_require(fibers_hush(r->from));
        fibers_ring(r->to);
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
        events[i] = fibers_event();
    for (unsigned i = 0; i < CROWD; i++) {
        runners[i] = (struct runner){events[i], events[(i + 1) % CROWD], 0};
        fibers_spawn(run_laps, &runners[i]);
    }
    fibers_ring(events[0]);
    fibers_run();
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
        partners[i] = fibers_spawn(play, (void *)i);
    fibers_run();
    assert_int_equal(volleys, 100000);
}

/* ---- The fibers_loop's end
 * --------------------------------------------------------------------------- */

static void obey_quit(void *arg)
{
    (void)arg;
    fibers_mark('q');
    svq_loop_quit(fibers_loop);
}

static void test_quit_from_a_fiber(void **state)
{
    (void)state;
    fibers_spawn(obey_quit, NULL);
    fibers_run();
    assert_string_equal(fibers_trail, "q");
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
 * The fibers_loop returns although a fiber still waits. That fiber can never be freed: done in a
 * process of its own.
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

        fibers_spawn(wait_for_ever, NULL);
        kit_require(pthread_create(&thread, NULL, quit_from_thread, fibers_loop) == 0);
        kit_require(svq_loop_run(fibers_loop) == 0);
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
#define TEST(name) cmocka_unit_test_setup_teardown(name, fibers_setup, fibers_teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_a_crowd),
        TEST(test_ping_pong_by_wakes),
        TEST(test_quit_from_a_fiber),
        TEST(test_quit_from_another_thread),
    };

    return cmocka_run_group_tests_name("loop", tests, NULL, NULL);
}
