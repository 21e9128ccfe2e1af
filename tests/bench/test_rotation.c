/* SPDX-License-Identifier: BSD-3-Clause */
/* svq-bench's rotation: every mode in every round, in an order that allows for it; and the sums. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>

#include <cmocka.h>

#include "bench/rotation.h"

static const enum path_mode all[PATH_MODES] = {MODE_DIRECT, MODE_PASS, MODE_SHADOW, MODE_LOG,
                                               MODE_RELAY,  MODE_SPIN, MODE_ALONE,  MODE_AMONG};

bool path_interrupted(void)
{
    return false;
}

bool path_fail(const char *part, const char *error)
{
    (void)part, (void)error;
    return false;
}

static unsigned refused;

void path_refuse(struct path_report *report, const char *format, ...)
{
    (void)report, (void)format;
    refused++;
}

static bool is_apart(enum path_mode mode)
{
    return mode == MODE_DIRECT || mode == MODE_RELAY;
}

/* svqd's modes follow each other, whatever the order, and every order comes up. */
static void test_shuffle(void **state)
{
    unsigned firsts[PATH_MODES] = {0};
    uint64_t random = 1;

    (void)state;
    for (unsigned i = 0; i < 2000; i++) {
        enum path_mode order[PATH_MODES];
        unsigned seen = 0, changes = 0;

        for (unsigned k = 0; k < PATH_MODES; k++)
            order[k] = all[k];
        path_shuffle(order, PATH_MODES, &random);
        for (unsigned k = 0; k < PATH_MODES; k++) {
            seen |= 1u << order[k];
            changes += k && is_apart(order[k]) != is_apart(order[k - 1]);
        }
        assert_int_equal(seen, (1u << PATH_MODES) - 1);
        assert_true(changes >= 1 && changes <= 2);
        firsts[order[0]]++;
    }
    for (unsigned k = 0; k < PATH_MODES; k++)
        assert_true(firsts[k] > 20);
}

struct script {
    unsigned calls;
    unsigned modes;     /* in a round */
    unsigned most;      /* calls, then it fails; 0: never */
    unsigned disturbed; /* so many of the next slots */
};

/* Shadow is always 0.9 of pass-through, though everything drifts; direct is 1 more. */
static bool slot(void *opaque, enum path_mode mode, struct rotation_sample *sample)
{
    struct script *script = opaque;
    unsigned round = script->calls++ / script->modes;
    double drift = 100 + 10.0 * round;

    sample->disturbed = script->disturbed > 0;
    script->disturbed -= sample->disturbed;
    sample->value = mode == MODE_SHADOW ? 0.9 * drift : mode == MODE_DIRECT ? drift + 1 : drift;
    sample->count = sample->value;
    sample->seconds = 1;
    sample->more[3] = round;
    return !script->most || script->calls <= script->most;
}

static bool close_to(double a, double b)
{
    return a - b < 1e-9 && b - a < 1e-9;
}

static void test_sums(void **state)
{
    struct script script = {.modes = 3};
    struct rotation r;
    uint64_t random = 2;

    (void)state;
    assert_true(rotation_init(&r, all, 3, 21, 0));
    assert_true(rotation_run(&r, &random, NULL, slot, &script));
    assert_true(rotation_sum(&r, MODE_PASS));
    assert_int_equal(script.calls, 3 * 21);
    assert_true(close_to(rotation_find(&r, MODE_PASS)->value.median, 200));
    assert_true(close_to(rotation_find(&r, MODE_SHADOW)->ratio.median, 0.9));
    assert_true(close_to(rotation_find(&r, MODE_SHADOW)->ratio.low, 0.9));
    assert_true(close_to(rotation_find(&r, MODE_SHADOW)->ratio.high, 0.9));
    assert_true(close_to(rotation_find(&r, MODE_SHADOW)->ratio.spread, 0));
    assert_true(close_to(rotation_find(&r, MODE_DIRECT)->differ.median, 1));
    assert_true(close_to(rotation_ratio(&r, MODE_PASS, MODE_SHADOW).median, 1 / 0.9));
    assert_null(rotation_find(&r, MODE_LOG));
    assert_true(close_to(rotation_more(&r, MODE_SHADOW, 3).median, 10));
    assert_true(close_to(r.hop.median, 0));
    rotation_release(&r);
}

static void test_repeats(void **state)
{
    struct script script = {.modes = 2, .disturbed = 7};
    struct rotation r;
    uint64_t random = 3;

    (void)state;
    assert_true(rotation_init(&r, all, 2, 5, 1));
    assert_true(rotation_run(&r, &random, NULL, slot, &script));
    assert_int_equal(r.repeated, 7);
    assert_int_equal(r.disturbed, 0);
    assert_int_equal(script.calls, 10 + 7);
    rotation_release(&r);

    script = (struct script){.modes = 2, .disturbed = 1000};
    assert_true(rotation_init(&r, all, 2, 5, 1));
    assert_true(rotation_run(&r, &random, NULL, slot, &script));
    assert_int_equal(r.repeated, 10);
    assert_int_equal(r.disturbed, 10);
    rotation_release(&r);
}

/* Distances, one for each look, over and over; looks come before and after each slot. */
static const double *way;
static unsigned looks;

double hop_measure(const struct hop *hop)
{
    (void)hop;
    return way[looks++ % 64];
}

bool hop_same(double ns, double other_ns)
{
    return ns <= 0 || other_ns <= 0 || (ns < 2 * other_ns && other_ns < 2 * ns);
}

void hop_wait(const struct hop *hop)
{
    (void)hop;
}

/* Rounds that did not stay at one distance are done again; the most usual distance counts. */
static void test_distances(void **state)
{
    const struct hop hop = {.wanted = 0};
    struct script script = {.modes = 2};
    double ways[64];
    struct rotation r;
    uint64_t random = 6;

    (void)state;
    /* A round of two modes has four looks: 10 rounds near, the last of them broken, 6 far. */
    for (unsigned i = 0; i < 64; i++)
        ways[i] = i < 38 ? 100 : 400;
    way = ways;
    looks = 0;
    assert_true(rotation_init(&r, all, 2, 12, 0));
    assert_true(rotation_run(&r, &random, &hop, slot, &script));
    assert_true(rotation_sum(&r, MODE_PASS));
    assert_int_equal(r.round, 12);
    assert_true(r.broken >= 1);
    assert_int_equal(r.elsewhere, 6);
    assert_true(close_to(r.hop.median, 100) && close_to(r.hop.high, 100));
    rotation_release(&r);

    /* Never twice the same: nothing can be compared. */
    for (unsigned i = 0; i < 64; i++)
        ways[i] = i & 1 ? 100 : 400;
    looks = 0;
    assert_true(rotation_init(&r, all, 2, 12, 0));
    assert_true(rotation_run(&r, &random, &hop, slot, &script));
    assert_true(rotation_sum(&r, MODE_PASS));
    assert_int_equal(r.round, 0);
    assert_int_equal(r.broken, 36);
    rotation_release(&r);
}

/* Near and far are not the same only because something in between is like both. */
static void test_distances_between(void **state)
{
    const struct hop hop = {.wanted = 0};
    struct script script = {.modes = 2};
    double ways[64];
    struct rotation r;
    uint64_t random = 7;

    (void)state;
    for (unsigned i = 0; i < 64; i++)
        ways[i] = i < 4 ? 150 : i / 4 & 1 ? 100 : 220;
    way = ways;
    looks = 0;
    assert_true(rotation_init(&r, all, 2, 4, 0));
    assert_true(rotation_run(&r, &random, &hop, slot, &script));
    assert_true(rotation_sum(&r, MODE_PASS));
    assert_int_equal(r.round, 4);
    assert_int_equal(r.elsewhere, 2);
    assert_true(close_to(r.hop.low, 100) && close_to(r.hop.high, 150));
    rotation_release(&r);
}

/* What is refused, and what is not. */
static void test_judges(void **state)
{
    struct path_options options = {.max_spread = 0.2, .max_apart = 0.05};
    struct path_report report = {.options = &options};
    struct script script = {.modes = 3};
    struct rotation r;
    uint64_t random = 5;

    (void)state;
    assert_true(rotation_init(&r, all, 3, 20, 0));
    assert_true(rotation_run(&r, &random, NULL, slot, &script));
    assert_true(rotation_sum(&r, MODE_PASS));
    refused = 0;
    rotation_judge(&r, &report, "all is well");
    rotation_control(&r, &report, "all is well");
    assert_int_equal(refused, 0);

    options.max_apart = 0.001;
    rotation_control(&r, &report, "direct is 1 more");
    assert_int_equal(refused, 1);
    options.max_apart = 0.05;

    r.disturbed = 20 * 3 / 4 + 1;
    rotation_judge(&r, &report, "disturbed");
    assert_int_equal(refused, 2);
    r.disturbed = 0;

    r.rounds = 21;
    rotation_judge(&r, &report, "moved");
    assert_int_equal(refused, 3);
    r.rounds = 20;

    for (unsigned i = 0; i < 20; i += 2)
        r.modes[2].samples[i].value *= 2;
    assert_true(rotation_sum(&r, MODE_PASS));
    rotation_judge(&r, &report, "spread");
    assert_int_equal(refused, 4);
    rotation_release(&r);
}

static void test_stops(void **state)
{
    struct script script = {.modes = 3};
    struct rotation r;
    uint64_t random = 4;

    (void)state;
    assert_true(rotation_init(&r, all, 2, 40, 0));
    script.most = 25;
    assert_false(rotation_run(&r, &random, NULL, slot, &script));
    assert_int_equal(script.calls, 26);
    rotation_release(&r);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shuffle),
        cmocka_unit_test(test_sums),
        cmocka_unit_test(test_repeats),
        cmocka_unit_test(test_distances),
        cmocka_unit_test(test_judges),
        cmocka_unit_test(test_stops),
        cmocka_unit_test(test_distances_between),
    };

    return cmocka_run_group_tests_name("rotation", tests, NULL, NULL);
}
