/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * IN_ORDER (virtio 1.3 section 2.7.9): a device may complete a batch with one used entry, the last
 * chain's, in the place of the batch's first.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { RING = 16 };

static int setup(void **state)
{
    struct rig *rig = malloc(sizeof(*rig));

    rig_init(rig, RING, IN_ORDER | INDIRECT, 65530);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    rig_free(*state);
    free(*state);
    return 0;
}

static uint16_t take_last(struct rig *rig, unsigned count)
{
    struct kit_buf bufs[2];
    uint16_t id = 0;

    while (count--)
        id = rig_take(rig, bufs, 2);
    return id;
}

static void complete_batch(struct rig *rig, uint16_t last, uint32_t len, unsigned batch)
{
    rig->device.device.ops->complete(&rig->device.device, last, len, batch);
    rig->device.device.ops->publish(&rig->device.device);
}

static void test_one_by_one(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < 100; i++) {
        rig_offer_simple(rig, i);
        rig_settle(rig);
        complete_batch(rig, take_last(rig, 1), i % 64, 1);
        rig_settle(rig);
        rig_expect_done(rig, i, i % 64);
    }
}

static void test_batches(void **state)
{
    struct rig *rig = *state;
    unsigned next = 0, done = 0;

    for (unsigned round = 0; round < 500; round++) {
        unsigned batch = 1 + round % (RING / 2);

        while (next - done < RING / 2)
            rig_offer_simple(rig, next++);
        rig_settle(rig);
        complete_batch(rig, take_last(rig, batch), 33, batch);
        rig_settle(rig);
        assert_int_equal(rig_state(rig).in_flight, RING / 2 - batch);
        while (batch--)
            rig_expect_done(rig, done++, batch ? 64 : 33);
        rig_expect_nothing_done(rig);
    }
    assert_int_equal(rig_stats(rig).chains, done);
    assert_int_equal(rig_stats(rig).bytes, done * 128);
}

static void test_several_batches_in_a_turn(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < 8; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    complete_batch(rig, take_last(rig, 3), 3, 3);
    complete_batch(rig, take_last(rig, 1), 1, 1);
    complete_batch(rig, take_last(rig, 4), 64, 4);
    rig_settle(rig);
    assert_int_equal(rig_state(rig).in_flight, 0);
    for (unsigned i = 0; i < 8; i++)
        rig_expect_done(rig, i, i == 2 ? 3 : i == 3 ? 1 : 64);
}

/* Those without an entry count as written in full, and are logged in full. */
static void test_a_batch_is_logged(void **state)
{
    struct rig *rig = *state;
    struct kit_log log;
    struct kit_buf buf, seen;
    uint16_t last = 0;

    kit_log_init(&log, RIG_END / RIG_PAGE);
    svq_relay_set_log(rig->relay, log.log, false, 0);
    for (unsigned i = 0; i < 4; i++) {
        buf = (struct kit_buf){RIG_DATA + i * 4 * RIG_PAGE, 4096, true};
        rig_offer(rig, &buf, 1, i);
    }
    rig_settle(rig);
    for (unsigned i = 0; i < 4; i++)
        last = rig_take(rig, &seen, 1);
    complete_batch(rig, last, 1, 4);
    rig_settle(rig);
    for (unsigned i = 0; i < 4; i++) {
        rig_expect_done(rig, i, i == 3 ? 1 : 4096);
        assert_true(kit_log_test(&log, RIG_DATA / RIG_PAGE + i * 4));
    }
    assert_int_equal(kit_log_count(&log), 4);
    kit_log_free(&log);
}

/* ---- Broken rules ------------------------------------------------------------------------------
 */

static void expect_backend_fault(struct rig *rig, uint16_t used_before)
{
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    /* The guest hears of no chain that the back-end did not complete. */
    assert_int_equal(rig->guest.used->idx, used_before);
    rig_expect_fault(rig, SVQ_SIDE_BACKEND);
}

/* The index moved by less than the batch that the entry names. */
static void test_an_entry_ahead_of_the_index(void **state)
{
    struct rig *rig = *state;
    uint16_t before = rig->guest.used->idx;

    for (unsigned i = 0; i < 4; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    complete_batch(rig, take_last(rig, 4), 1, 2);
    expect_backend_fault(rig, before);
}

static void test_completion_out_of_order(void **state)
{
    struct rig *rig = *state;
    uint16_t before = rig->guest.used->idx, second;

    rig_offer_simple(rig, 0);
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    second = take_last(rig, 2);
    complete_batch(rig, second, 1, 1);
    expect_backend_fault(rig, before);
}

static void test_an_entry_not_outstanding(void **state)
{
    struct rig *rig = *state;
    uint16_t before = rig->guest.used->idx;

    rig_offer_simple(rig, 0);
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    take_last(rig, 2);
    complete_batch(rig, RING - 1, 1, 2);
    expect_backend_fault(rig, before);
}

static void test_the_index_ahead_of_all(void **state)
{
    struct rig *rig = *state;
    uint16_t before = rig->guest.used->idx;

    rig_offer_simple(rig, 0);
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    complete_batch(rig, take_last(rig, 2), 1, 3);
    expect_backend_fault(rig, before);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_one_by_one),
        TEST(test_batches),
        TEST(test_several_batches_in_a_turn),
        TEST(test_a_batch_is_logged),
        TEST(test_an_entry_ahead_of_the_index),
        TEST(test_completion_out_of_order),
        TEST(test_an_entry_not_outstanding),
        TEST(test_the_index_ahead_of_all),
    };

    return cmocka_run_group_tests_name("inorder", tests, NULL, NULL);
}
