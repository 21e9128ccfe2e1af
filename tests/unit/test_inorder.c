/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * IN_ORDER (virtio 1.3 sections 2.7.9 and 2.8.9). At the back-end: it may complete a batch with one
 * used entry, the last chain's, in the place of the batch's first. At the guest: completions come
 * in the order of its chains, also from a back-end that keeps none.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { RING = 16 };

/* Both sides have it. */
static const struct rig_sides split = {RING, IN_ORDER | INDIRECT, IN_ORDER | INDIRECT, 65530};
static const struct rig_sides split_shared = {RING, IN_ORDER | INDIRECT, IN_ORDER | INDIRECT, 65530,
                                              true};
static const struct rig_sides split_packed = {RING, IN_ORDER, IN_ORDER | PACKED, 0};
static const struct rig_sides packed_split = {RING - 1, IN_ORDER | PACKED, IN_ORDER, 0x800d};
static const struct rig_sides packed = {RING + 1, IN_ORDER | PACKED, IN_ORDER | PACKED, 15};

/* Only the back-end has it. */
static const struct rig_sides plain_split = {RING, 0, IN_ORDER, 65530};
static const struct rig_sides plain_split_packed = {RING, 0, IN_ORDER | PACKED, 0};
static const struct rig_sides plain_packed_split = {RING, PACKED, IN_ORDER, 13};
static const struct rig_sides plain_packed = {RING, PACKED, IN_ORDER | PACKED, 0x8000};

/* Only the guest has it. */
static const struct rig_sides strict_split = {RING, IN_ORDER, 0, 65530};
static const struct rig_sides strict_split_shared = {RING, IN_ORDER, 0, 65530, true};
static const struct rig_sides strict_split_packed = {RING, IN_ORDER, PACKED, 0};
static const struct rig_sides strict_packed_split = {RING, IN_ORDER | PACKED, 0, 13};
static const struct rig_sides strict_packed = {RING, IN_ORDER | PACKED, PACKED, 0x8000};

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
    rig->device->ops->complete(rig->device, last, len, batch);
    rig->device->ops->publish(rig->device);
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
    unsigned next = 0, done = 0, bytes = 0;

    for (unsigned round = 0; round < 500; round++) {
        unsigned batch = 1 + round % (RING / 2 - 1);

        while (next - done < RING / 2 - 1)
            rig_offer_simple(rig, next++);
        rig_settle(rig);
        complete_batch(rig, take_last(rig, batch), 33, batch);
        rig_settle(rig);
        assert_int_equal(rig_state(rig).in_flight, RING / 2 - 1 - batch);
        /* Those passed over must be looked into, the one with an entry need not be. */
        bytes += 128 * (batch - 1) + (svq_relay_shares(rig->relay) ? 33 : 128);
        while (batch--)
            rig_expect_done(rig, done++, batch ? 64 : 33);
        rig_expect_nothing_done(rig);
    }
    assert_int_equal(rig_stats(rig).chains, done);
    assert_int_equal(rig_stats(rig).bytes, bytes);
}

static void test_several_batches_in_a_turn(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < 7; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    complete_batch(rig, take_last(rig, 3), 3, 3);
    complete_batch(rig, take_last(rig, 1), 1, 1);
    complete_batch(rig, take_last(rig, 3), 64, 3);
    rig_settle(rig);
    assert_int_equal(rig_state(rig).in_flight, 0);
    for (unsigned i = 0; i < 7; i++)
        rig_expect_done(rig, i, i == 2 ? 3 : i == 3 ? 1 : 64);
}

/* Those without an entry count as written in full, and are logged in full. */
static void test_a_batch_is_logged(void **state)
{
    struct rig *rig = *state;
    struct svq_relay_log where = {0};
    struct kit_log log;
    struct kit_buf buf, seen;
    uint16_t last = 0;

    kit_log_init(&log, RIG_END / RIG_PAGE);
    where.log = log.log;
    svq_relay_set_log(rig->relay, &where);
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

/*
 * Split descriptors of a chain follow one another in the table (virtio 1.3 section 2.7.5.1): a
 * back-end with IN_ORDER may rely on that, whatever the guest's look like.
 */
static void test_descriptors_in_table_order(void **state)
{
    struct rig *rig = *state;
    const struct kit_desc *desc = rig->device->ring.split.desc;
    unsigned at = 0, num = rig->shadow.num;

    for (unsigned round = 0; round < 100; round++) {
        unsigned count = 1 + round % 5;
        struct kit_buf bufs[5], seen[5];
        uint16_t id;

        for (unsigned i = 0; i < count; i++)
            bufs[i] = rig_buf(rig, 8, true);
        rig_offer(rig, bufs, count, round);
        rig_settle(rig);
        id = rig_take(rig, seen, (int)count);
        assert_int_equal(id, at);
        for (unsigned i = 0; i + 1 < count; i++)
            assert_int_equal(desc[(at + i) % num].next, (at + i + 1) % num);
        at = (at + count) % num;
        complete_batch(rig, id, 8, 1);
        rig_settle(rig);
        rig_expect_done(rig, round, 8);
    }
}

/* ---- The guest alone --------------------------------------------------------------------------
 */

static void take_each(struct rig *rig, uint16_t *ids, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        ids[i] = take_last(rig, 1);
}

/* What is completed early waits for what was offered before, and keeps its own length. */
static void test_order_is_restored(void **state)
{
    static const unsigned order[] = {2, 1, 0, 5, 3, 6, 4};
    static const unsigned given[] = {0, 0, 3, 3, 4, 4, 7};
    struct rig *rig = *state;
    uint16_t ids[7];

    for (unsigned round = 0; round < 50; round++) {
        for (unsigned i = 0; i < 7; i++)
            rig_offer_simple(rig, i);
        rig_settle(rig);
        take_each(rig, ids, 7);
        for (unsigned i = 0; i < 7; i++) {
            unsigned bits;

            rig_complete(rig, ids[order[i]], order[i] + 10);
            bits = rig_poll(rig);
            assert_true(bits & SVQ_RELAY_BUSY);
            assert_int_equal(rig_completed(rig), 7 * round + given[i]);
            if (i == 0 || i == 1)
                assert_false(bits & SVQ_RELAY_CALL_GUEST);
        }
        for (unsigned i = 0; i < 7; i++)
            rig_expect_done(rig, i, i + 10);
        rig_expect_nothing_done(rig);
        assert_int_equal(rig_state(rig).in_flight, 0);
    }
}

/* Each has a used entry of its own: the guest may not be left to guess lengths. */
static void test_no_batches(void **state)
{
    struct rig *rig = *state;
    struct kit_seen seen;
    uint16_t ids[4];

    for (unsigned i = 0; i < 4; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    take_each(rig, ids, 4);
    for (unsigned i = 4; i-- > 0;)
        rig_complete(rig, ids[i], i);
    rig_settle(rig);
    for (unsigned i = 0; i < 4; i++) {
        assert_int_equal(rig->driver->ops->peek(rig->driver, &seen), 1);
        assert_int_equal(seen.chains, 1);
        assert_int_equal((uintptr_t)seen.token, i);
    }
}

/* A chain that waits for its turn is not the back-end's any more: once is enough. */
static void test_twice_while_it_waits(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    take_each(rig, ids, 3);
    rig_complete(rig, ids[2], 1);
    rig_settle(rig);
    rig_complete(rig, ids[2], 1);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_int_equal(rig_completed(rig), 0);
    rig_expect_fault(rig, SVQ_SIDE_BACKEND);
}

/* Written, but the guest has not had it: its pages belong to the moment when it does. */
static void test_logged_when_the_guest_gets_it(void **state)
{
    struct rig *rig = *state;
    struct svq_relay_log where = {0};
    struct kit_log log;
    uint16_t ids[2];

    for (unsigned i = 0; i < 2; i++) {
        rig->next_data = RIG_DATA + i * 8 * RIG_PAGE;
        rig_offer_simple(rig, i);
    }
    rig_settle(rig);
    take_each(rig, ids, 2);
    rig_complete(rig, ids[1], 1);
    rig_settle(rig);
    kit_log_init(&log, RIG_END / RIG_PAGE);
    where.log = log.log;
    svq_relay_set_log(rig->relay, &where);
    rig_complete(rig, ids[0], 1);
    rig_settle(rig);
    assert_true(kit_log_test(&log, RIG_DATA / RIG_PAGE));
    assert_true(kit_log_test(&log, RIG_DATA / RIG_PAGE + 8));
    assert_int_equal(kit_log_count(&log), 2);
    kit_log_free(&log);
}

/* What waits is done: a back-end may stop, and what it never took stays with the guest. */
static void test_drained_with_a_chain_untaken(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];
    uint32_t base;

    for (unsigned i = 0; i < 4; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    take_each(rig, ids, 3);
    base = rig_stop(rig);
    rig_complete(rig, ids[2], 1);
    rig_complete(rig, ids[1], 1);
    rig_settle(rig);
    assert_int_equal(rig_completed(rig), 0);
    assert_int_equal(svq_relay_drained(rig->relay, base), 0);
    rig_complete(rig, ids[0], 1);
    rig_settle(rig);
    assert_int_equal(rig_completed(rig), 3);
    assert_int_equal(svq_relay_drained(rig->relay, base), 1);
    assert_int_equal(svq_relay_detach(rig->relay), rig_guest_base(rig, 3, 3));
}

/* ---- Broken rules ------------------------------------------------------------------------------
 */

static void expect_backend_fault(struct rig *rig)
{
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    /* The guest hears of no chain that the back-end did not complete. */
    assert_int_equal(rig_completed(rig), 0);
    rig_expect_fault(rig, SVQ_SIDE_BACKEND);
}

static void offer_some(struct rig *rig, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
}

/* The index moved by less than the batch that the entry names. */
static void test_an_entry_ahead_of_the_index(void **state)
{
    offer_some(*state, 4);
    complete_batch(*state, take_last(*state, 4), 1, 2);
    expect_backend_fault(*state);
}

static void test_completion_out_of_order(void **state)
{
    offer_some(*state, 2);
    complete_batch(*state, take_last(*state, 2), 1, 1);
    expect_backend_fault(*state);
}

static void test_the_index_ahead_of_all(void **state)
{
    offer_some(*state, 2);
    complete_batch(*state, take_last(*state, 2), 1, 3);
    expect_backend_fault(*state);
}

static void test_an_entry_not_outstanding(void **state)
{
    struct rig *rig = *state;

    offer_some(rig, 2);
    take_last(rig, 2);
    complete_batch(rig, (uint16_t)(rig->shadow.num - 1), 1, 2);
    expect_backend_fault(rig);
}

static void test_an_entry_out_of_range(void **state)
{
    struct rig *rig = *state;

    offer_some(rig, 2);
    take_last(rig, 2);
    complete_batch(rig, (uint16_t)rig->shadow.num, 1, 2);
    expect_backend_fault(rig);
}

/* Completed before: a stale entry may not complete what came after it. */
static void test_an_entry_of_an_older_batch(void **state)
{
    struct rig *rig = *state;
    uint16_t id;

    offer_some(rig, 4);
    id = take_last(rig, 2);
    complete_batch(rig, id, 1, 2);
    rig_settle(rig);
    assert_int_equal(rig_completed(rig), 2);
    take_last(rig, 2);
    complete_batch(rig, id, 1, 2);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_int_equal(rig_completed(rig), 2);
    rig_expect_fault(rig, SVQ_SIDE_BACKEND);
}

/*
 * The guest gets the first one of a batch, a log does not cover the second: the others are done as
 * well, and do not go back to where somebody would do them again. What the back-end never took
 * does.
 */
static void test_a_fault_within_a_batch(void **state)
{
    struct rig *rig = *state;
    struct svq_relay_log where = {0};
    uint32_t newest;
    struct kit_log log;

    for (unsigned i = 0; i < 5; i++) {
        rig->next_data = RIG_DATA + (i == 1 ? 64 : i) * RIG_PAGE;
        rig_offer_simple(rig, i);
    }
    rig_settle(rig);
    complete_batch(rig, take_last(rig, 4), 1, 4);
    kit_log_init(&log, RIG_DATA / RIG_PAGE + 32);
    where.log = log.log;
    svq_relay_set_log(rig->relay, &where);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
    assert_int_equal(rig_completed(rig), 1);
    newest = svq_relay_detach(rig->relay);
    assert_int_equal(newest, rig_guest_base(rig, 4, 1));
    kit_log_free(&log);
}

int main(void)
{
#define TO_SPLIT(name)                                                                 \
    RIG_TEST(name, split), RIG_TEST(name, split_shared), RIG_TEST(name, packed_split), \
        RIG_TEST(name, plain_split), RIG_TEST(name, plain_packed_split)
#define TO_PACKED(name)                                                                 \
    RIG_TEST(name, packed), RIG_TEST(name, split_packed), RIG_TEST(name, plain_packed), \
        RIG_TEST(name, plain_split_packed)
#define BACKEND(name) TO_SPLIT(name), TO_PACKED(name)
#define GUEST(name)                                                               \
    RIG_TEST(name, strict_split), RIG_TEST(name, strict_split_shared),            \
        RIG_TEST(name, strict_split_packed), RIG_TEST(name, strict_packed_split), \
        RIG_TEST(name, strict_packed)
    const struct CMUnitTest tests[] = {
        BACKEND(test_one_by_one),
        BACKEND(test_batches),
        BACKEND(test_several_batches_in_a_turn),
        BACKEND(test_a_batch_is_logged),
        TO_SPLIT(test_descriptors_in_table_order),
        GUEST(test_order_is_restored),
        GUEST(test_no_batches),
        GUEST(test_twice_while_it_waits),
        GUEST(test_logged_when_the_guest_gets_it),
        GUEST(test_drained_with_a_chain_untaken),
        BACKEND(test_a_fault_within_a_batch),
        TO_SPLIT(test_an_entry_ahead_of_the_index),
        TO_SPLIT(test_completion_out_of_order),
        TO_SPLIT(test_the_index_ahead_of_all),
        BACKEND(test_an_entry_not_outstanding),
        BACKEND(test_an_entry_out_of_range),
        BACKEND(test_an_entry_of_an_older_batch),
    };

    return cmocka_run_group_tests_name("inorder", tests, NULL, NULL);
}
