/* SPDX-License-Identifier: BSD-3-Clause */
/* Hurrying: with real-time priority where that is allowed, and as before afterwards. */
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <cmocka.h>

#include "event/prompt.h"

#define NOBODY 65534

static const struct sched_param usual = {0}, lowest = {.sched_priority = 1};

/* May this process have it? Asked of the system, not of what is tested. */
static bool allowed(void)
{
    if (sched_setscheduler(0, SCHED_RR, &lowest))
        return false;
    assert_int_equal(sched_setscheduler(0, SCHED_OTHER, &usual), 0);
    return true;
}

static void test_hurry(void **state)
{
    int first = allowed() ? SCHED_RR : SCHED_OTHER;

    (void)state;
    svq_prompt_start();
    assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
    for (int i = 0; i < 3; i++) {
        svq_prompt_hurry();
        assert_int_equal(sched_getscheduler(0), first);
        svq_prompt_relax();
        assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
    }
}

static void test_two_in_a_hurry(void **state)
{
    int first = allowed() ? SCHED_RR : SCHED_OTHER;

    (void)state;
    svq_prompt_hurry();
    svq_prompt_hurry();
    svq_prompt_relax();
    assert_int_equal(sched_getscheduler(0), first);
    svq_prompt_relax();
    assert_int_equal(sched_getscheduler(0), SCHED_OTHER);
}

/* One that may not has no harm of it. A process of its own gives up what root may do. */
static void test_not_allowed(void **state)
{
    const struct rlimit none = {0, 0};
    int status;
    pid_t child = fork();

    (void)state;
    assert_true(child >= 0);
    if (!child) {
        bool ok = !setrlimit(RLIMIT_RTPRIO, &none) && (geteuid() || !setuid(NOBODY)) && !allowed();

        svq_prompt_start();
        for (int i = 0; i < 2; i++) {
            svq_prompt_hurry();
            ok = ok && sched_getscheduler(0) == SCHED_OTHER;
            svq_prompt_relax();
            ok = ok && sched_getscheduler(0) == SCHED_OTHER;
        }
        _exit(ok ? 0 : 1);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    assert_int_equal(status, 0);
}

/* What somebody else has chosen stays. */
static void test_policy_from_outside(void **state)
{
    (void)state;
    assert_int_equal(sched_setscheduler(0, SCHED_BATCH, &usual), 0);
    svq_prompt_start();
    svq_prompt_hurry();
    assert_int_equal(sched_getscheduler(0), SCHED_BATCH);
    svq_prompt_relax();
    assert_int_equal(sched_getscheduler(0), SCHED_BATCH);
    assert_int_equal(sched_setscheduler(0, SCHED_OTHER, &usual), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_hurry),
        cmocka_unit_test(test_two_in_a_hurry),
        cmocka_unit_test(test_not_allowed),
        cmocka_unit_test(test_policy_from_outside),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
