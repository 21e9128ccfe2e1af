/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chains into a back-end's ring that may have another format, another size and no indirect tables:
 * kept, converted or flattened they are the same buffers in the same order; what finds no room
 * waits its turn, and what can never find any is a fault.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { RING = 8, ODD = 5 };

#define SPLIT_START  0u
#define PACKED_START 0x8000u

/* By what becomes of tables: in all pairs of formats, and where a pair of split rings is pooled. */
static const struct rig_sides kept[] = {
    {RING, INDIRECT, INDIRECT, SPLIT_START},
    {RING, PACKED | INDIRECT, PACKED | INDIRECT, PACKED_START},
    {RING, INDIRECT, INDIRECT | IN_ORDER, SPLIT_START},
};
static const struct rig_sides converted[] = {
    {RING, INDIRECT, PACKED | INDIRECT, SPLIT_START},
    {RING, PACKED | INDIRECT, INDIRECT, PACKED_START},
};
static const struct rig_sides flattened[] = {
    {RING, INDIRECT, 0, SPLIT_START},           {RING, INDIRECT, PACKED, SPLIT_START},
    {RING, PACKED | INDIRECT, 0, PACKED_START}, {RING, PACKED | INDIRECT, PACKED, PACKED_START},
    {RING, INDIRECT, IN_ORDER, SPLIT_START},
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

static struct kit_buf bufs[70000], seen[70000];

static void start(struct rig *rig, const struct rig_sides *sides, unsigned num)
{
    struct rig_sides with = *sides;

    with.num = num;
    rig_init(rig, &with);
    rig->device->mixed = true; /* what a guest mixes is passed on */
}

/* Buffers that can be told apart: readable ones first. */
static void make_bufs(unsigned count, uint64_t gpa)
{
    for (unsigned i = 0; i < count; i++)
        bufs[i] = (struct kit_buf){gpa + i, 1 + i % 7, i >= count / 2};
}

static bool try_offer(struct rig *rig, unsigned direct, unsigned in_table, uintptr_t token)
{
    struct kit_chain chain = {bufs,      direct + in_table, direct, RIG_TABLES + token * 0x8000,
                              token % 2, (void *)token};

    if (!rig->driver->ops->add(rig->driver, &chain))
        return false;
    rig->driver->ops->publish(rig->driver);
    return true;
}

static void offer(struct rig *rig, unsigned direct, unsigned in_table, uintptr_t token)
{
    make_bufs(direct + in_table, RIG_DATA + token * 0x10000);
    assert_true(try_offer(rig, direct, in_table, token));
}

/* The device finds the chain that offer() made. Return: its id. */
static uint16_t expect_chain(struct rig *rig, unsigned count, uintptr_t token)
{
    uint16_t id = 0;
    int taken = rig->device->ops->take(rig->device, &id, seen, COUNT(seen));

    if (taken < 0)
        fail_msg("the back-end's device says: %s", rig->device->broken);
    assert_int_equal(taken, count);
    make_bufs(count, RIG_DATA + token * 0x10000);
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(seen[i].gpa, bufs[i].gpa);
        assert_int_equal(seen[i].len, bufs[i].len);
        assert_int_equal(seen[i].write, bufs[i].write);
    }
    return id;
}

/* The relay waits: nothing to do now, and safe to sleep. */
static void expect_waiting(struct rig *rig)
{
    rig_settle(rig);
    assert_false(svq_relay_arm(rig->relay));
    rig_expect_idle_device(rig);
}

static void expect_fault(struct rig *rig, const char *part)
{
    const char *reason = NULL;

    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_int_equal(svq_relay_fault(rig->relay, &reason), SVQ_SIDE_GUEST);
    if (!strstr(reason, part))
        fail_msg("expected \"%s\", not \"%s\"", part, reason);
}

/* ---- Every shape in every pair --------------------------------------------------------------- */

/* Descriptors of the shadow ring between two states; packed only. */
static unsigned descs_written(const struct rig *rig, const struct svq_relay_state *from)
{
    struct svq_ring_index now = rig_state(rig).backend;
    struct kit_place was = {from->backend.avail, from->backend.avail_wrap};
    struct kit_place is = {now.avail, now.avail_wrap};

    return kit_place_distance(was, is, rig->shadow.num);
}

/* @slots: that each chain has in the back-end's ring; 0: as many as it has buffers */
static void check_shape(struct rig *rig, unsigned direct, unsigned in_table, unsigned slots)
{
    struct svq_relay_state from = rig_state(rig);
    unsigned count = direct + in_table;
    uint16_t id;

    offer(rig, direct, in_table, 1);
    rig_settle(rig);
    if (rig->shadow.format == SVQ_RING_PACKED)
        assert_int_equal(descs_written(rig, &from), slots ? slots : count);
    id = expect_chain(rig, count, 1);
    rig_complete(rig, id, 1);
    rig_settle(rig);
    rig_expect_done(rig, 1, 1);
    assert_int_equal(rig_state(rig).in_flight, 0);
}

static void check_kept(const struct rig_sides *sides)
{
    struct rig rig;

    start(&rig, sides, RING);
    for (unsigned direct = 0; direct < RING; direct++)
        for (unsigned in_table = 1; in_table < 20; in_table++)
            check_shape(&rig, direct, in_table, direct + 1);
    rig_free(&rig);
}

static void check_converted(const struct rig_sides *sides)
{
    struct rig rig;

    start(&rig, sides, RING);
    for (unsigned direct = 0; direct < RING; direct++)
        for (unsigned in_table = 1; in_table < 20; in_table++)
            check_shape(&rig, direct, in_table, 1);
    rig_free(&rig);
}

static void check_flattened(const struct rig_sides *sides)
{
    struct rig rig;

    start(&rig, sides, RING);
    for (unsigned direct = 0; direct < RING; direct++)
        for (unsigned in_table = 1; direct + in_table <= RING; in_table++)
            check_shape(&rig, direct, in_table, 0);
    rig_free(&rig);
}

static void test_every_shape(void **state)
{
    (void)state;
    check_kept(&(struct rig_sides){RING, INDIRECT, INDIRECT, SPLIT_START, true});
    for (unsigned i = 0; i < COUNT(kept); i++)
        check_kept(&kept[i]);
    for (unsigned i = 0; i < COUNT(converted); i++)
        check_converted(&converted[i]);
    for (unsigned i = 0; i < COUNT(flattened); i++)
        check_flattened(&flattened[i]);
}

/* Buffers without a byte, at addresses that need not exist. */
static void check_zero(const struct rig_sides *sides)
{
    struct rig rig;
    uint16_t id = 0;

    start(&rig, sides, RING);
    for (unsigned direct = 0; direct < 4; direct++) {
        for (unsigned i = 0; i < 6; i++)
            bufs[i] = (struct kit_buf){i % 2 ? UINT64_MAX - i : i, 0, i >= 3};
        assert_true(try_offer(&rig, direct, 6 - direct, 1));
        rig_settle(&rig);
        assert_int_equal(rig.device->ops->take(rig.device, &id, seen, COUNT(seen)), 6);
        for (unsigned i = 0; i < 6; i++) {
            assert_int_equal(seen[i].gpa, bufs[i].gpa);
            assert_int_equal(seen[i].len, 0);
            assert_int_equal(seen[i].write, bufs[i].write);
        }
        rig_complete(&rig, id, 100);
        rig_settle(&rig);
        rig_expect_done(&rig, 1, 0);
    }
    rig_free(&rig);
}

/* 2^32 bytes are allowed; what the device has written of them is told as far as 32 bits go. */
static void check_huge(const struct rig_sides *sides, unsigned num)
{
    struct rig rig;
    uint16_t id = 0;

    start(&rig, sides, num);
    for (unsigned i = 0; i < 256; i++)
        bufs[i] = (struct kit_buf){RIG_GPA, RIG_SIZE, true};
    assert_true(try_offer(&rig, 0, 256, 1));
    rig_settle(&rig);
    assert_int_equal(rig.device->ops->take(rig.device, &id, seen, COUNT(seen)), 256);
    rig_complete(&rig, id, UINT32_MAX);
    rig_settle(&rig);
    rig_expect_done(&rig, 1, UINT32_MAX);
    assert_int_equal(rig_stats(&rig).bytes, UINT64_C(1) << 32);
    rig_free(&rig);
}

static void test_zero_and_huge(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(kept); i++) {
        check_zero(&kept[i]);
        check_huge(&kept[i], RING);
    }
    for (unsigned i = 0; i < COUNT(converted); i++) {
        check_zero(&converted[i]);
        check_huge(&converted[i], RING);
    }
    for (unsigned i = 0; i < COUNT(flattened); i++) {
        check_zero(&flattened[i]);
        check_huge(&flattened[i], 256);
    }
}

/* ---- The largest ----------------------------------------------------------------------------- */

/* A ring full of direct descriptors, the last of which refers to the longest table. */
static void check_largest(const struct rig_sides *sides, unsigned num)
{
    unsigned longest = num > 1024 ? num : 1024, count = num - 1 + longest;
    struct rig rig;

    start(&rig, sides, num);
    for (unsigned round = 0; round < 3; round++) {
        make_bufs(count, RIG_DATA);
        assert_true(try_offer(&rig, num - 1, longest, 0));
        rig_settle(&rig);
        rig_complete(&rig, expect_chain(&rig, count, 0), 1);
        rig_settle(&rig);
        rig_expect_done(&rig, 0, 1);
    }
    /* One more than that. */
    make_bufs(longest + 1, RIG_DATA);
    assert_true(try_offer(&rig, 0, longest + 1, 0));
    expect_fault(&rig, "longer than any chain may be");
    rig_free(&rig);
}

static void test_largest(void **state)
{
    static const unsigned sizes[] = {1, 2, RING, 1024, 2048, SVQ_RING_MAX};

    (void)state;
    for (unsigned n = 0; n < COUNT(sizes); n++) {
        for (unsigned i = 0; i < COUNT(kept); i++)
            check_largest(&kept[i], sizes[n]);
        for (unsigned i = 0; i < COUNT(converted); i++)
            check_largest(&converted[i], sizes[n]);
    }
    for (unsigned num = 3; num < 8; num++)
        check_largest(&converted[1], num);
}

/* Flattened: as long as the back-end's ring, and one more. */
static void check_never(const struct rig_sides *sides, unsigned num, unsigned direct, bool busy)
{
    struct rig rig;
    unsigned most;

    start(&rig, sides, num);
    most = rig.shadow.num;
    if (direct < most)
        check_shape(&rig, direct, most - direct, 0);
    if (busy) {
        offer(&rig, 1, 0, 2);
        rig_settle(&rig);
    }
    offer(&rig, direct, most + 1 - direct, 1);
    expect_fault(&rig, "never fit");
    assert_int_equal(rig_state(&rig).in_flight, busy);
    rig_free(&rig);
}

static void test_never_fits(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(flattened); i++) {
        for (unsigned direct = 0; direct < RING - 1; direct++)
            check_never(&flattened[i], RING, direct, direct % 2);
        check_never(&flattened[i], 1, 0, false);
        if (flattened[i].guest & PACKED) {
            check_never(&flattened[i], ODD, 0, true);
            check_never(&flattened[i], ODD, ODD - 2, true);
        }
    }
}

/* ---- Waiting for slots ----------------------------------------------------------------------- */

/* 3 and 4 slots are out, 6 are wanted; a chain behind that one needs only 1, and waits as well. */
static void check_wait_for_slots(const struct rig_sides *sides)
{
    uint16_t first, second;
    struct rig rig;

    start(&rig, sides, RING);
    offer(&rig, 0, 3, 1);
    offer(&rig, 1, 3, 2);
    offer(&rig, 2, 4, 3);
    offer(&rig, 1, 0, 4);
    rig_settle(&rig);
    first = expect_chain(&rig, 3, 1);
    second = expect_chain(&rig, 4, 2);
    expect_waiting(&rig);
    assert_int_equal(rig_state(&rig).in_flight, 2);
    /* Completions go on, and what they free is not enough yet. */
    rig_complete(&rig, first, 1);
    assert_true(svq_relay_arm(rig.relay));
    rig_settle(&rig);
    rig_expect_done(&rig, 1, 1);
    expect_waiting(&rig);
    assert_int_equal(rig_state(&rig).in_flight, 1);
    rig_complete(&rig, second, 1);
    rig_settle(&rig);
    rig_expect_done(&rig, 2, 1);
    rig_complete(&rig, expect_chain(&rig, 6, 3), 1);
    rig_complete(&rig, expect_chain(&rig, 1, 4), 0);
    rig_settle(&rig);
    rig_expect_done(&rig, 3, 1);
    rig_expect_done(&rig, 4, 0);
    assert_int_equal(rig_state(&rig).in_flight, 0);
    rig_free(&rig);
}

/* While it waits, the chain is the guest's still: a device that starts anew finds it there. */
static void check_detach_while_waiting(const struct rig_sides *sides)
{
    struct rig rig;
    uint16_t id;
    uint32_t base;

    start(&rig, sides, RING);
    offer(&rig, 0, 5, 1);
    offer(&rig, 0, 4, 2);
    rig_settle(&rig);
    id = expect_chain(&rig, 5, 1);
    expect_waiting(&rig);
    svq_relay_hold(rig.relay, true);
    assert_int_equal(svq_relay_drained(rig.relay, rig_stop(&rig)), 0);
    rig_complete(&rig, id, 1);
    assert_false(rig_settle(&rig) & SVQ_RELAY_KICK_BACKEND);
    rig_expect_idle_device(&rig);
    assert_int_equal(svq_relay_drained(rig.relay, rig_stop(&rig)), 1);
    base = svq_relay_detach(rig.relay);
    rig_attach(&rig, false, base);
    expect_chain(&rig, 4, 2);
    rig_free(&rig);
}

/* The guest makes something else of a chain that waits. */
static void check_change_while_waiting(const struct rig_sides *sides)
{
    struct rig rig;
    uint16_t id;

    start(&rig, sides, RING);
    offer(&rig, 0, 5, 1);
    offer(&rig, 0, 4, 2);
    rig_settle(&rig);
    id = expect_chain(&rig, 5, 1);
    expect_waiting(&rig);
    if (rig.guest.format == SVQ_RING_PACKED)
        rig.guest.packed.desc[1].len = 16;
    else
        rig.guest.split.desc[1].len = 16;
    ((struct kit_desc *)kit_memory_at(&rig.memory, RIG_TABLES + 2 * 0x8000, 16))->flags = 0;
    expect_waiting(&rig);
    rig_complete(&rig, id, 1);
    rig_settle(&rig);
    assert_int_equal(rig.device->ops->take(rig.device, &id, seen, COUNT(seen)), 1);
    rig_expect_no_fault(&rig);
    rig_free(&rig);
}

static void test_wait_for_slots(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(flattened); i++) {
        check_wait_for_slots(&flattened[i]);
        check_detach_while_waiting(&flattened[i]);
        check_change_while_waiting(&flattened[i]);
    }
}

/* A chain that waits and then turns out bad is a fault, and nothing is lost over it. */
static void test_bad_after_waiting(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(flattened); i++) {
        struct kit_pdesc *entry;
        struct rig rig;
        uint16_t id;

        start(&rig, &flattened[i], RING);
        offer(&rig, 0, 5, 1);
        offer(&rig, 0, 4, 2);
        rig_settle(&rig);
        id = expect_chain(&rig, 5, 1);
        entry = kit_memory_at(&rig.memory, RIG_TABLES + 2 * 0x8000, 16);
        entry->addr = RIG_END;
        expect_waiting(&rig);
        rig_complete(&rig, id, 1);
        expect_fault(&rig, "outside guest memory");
        rig_expect_done(&rig, 1, 1);
        rig_expect_idle_device(&rig);
        assert_int_equal(rig_state(&rig).in_flight, 0);
        rig_free(&rig);
    }
}

/* Only the guest has IN_ORDER: what completes early keeps its slots until it is its turn. */
static void test_wait_in_order(void **state)
{
    static const struct rig_sides sides[] = {
        {RING, INDIRECT | IN_ORDER, 0, SPLIT_START},
        {RING, PACKED | INDIRECT | IN_ORDER, PACKED, PACKED_START},
        {RING, INDIRECT | IN_ORDER, PACKED, SPLIT_START},
        {RING, PACKED | INDIRECT | IN_ORDER, 0, PACKED_START},
    };

    (void)state;
    for (unsigned i = 0; i < COUNT(sides); i++) {
        uint16_t first, second;
        struct rig rig;

        start(&rig, &sides[i], RING);
        offer(&rig, 0, 2, 1);
        offer(&rig, 0, 5, 2);
        offer(&rig, 0, 5, 3);
        rig_settle(&rig);
        first = expect_chain(&rig, 2, 1);
        second = expect_chain(&rig, 5, 2);
        rig_complete(&rig, second, 1);
        expect_waiting(&rig);
        rig_expect_nothing_done(&rig);
        rig_complete(&rig, first, 1);
        rig_settle(&rig);
        rig_expect_done(&rig, 1, 1);
        rig_expect_done(&rig, 2, 1);
        rig_complete(&rig, expect_chain(&rig, 5, 3), 1);
        rig_settle(&rig);
        rig_expect_done(&rig, 3, 1);
        rig_free(&rig);
    }
}

/* ---- Waiting for tables ---------------------------------------------------------------------- */

/* Four tables fill the area; the fifth chain waits, and one without a table behind it, too. */
static void check_wait_for_area(const struct rig_sides *sides)
{
    unsigned entries;
    uint16_t ids[4];
    struct rig rig;

    start(&rig, sides, RING);
    entries = rig.tables.size / 16 / 4;
    for (unsigned i = 0; i < 4; i++)
        offer(&rig, 0, entries, i);
    offer(&rig, 0, 2, 4);
    offer(&rig, 1, 0, 5);
    rig_settle(&rig);
    for (unsigned i = 0; i < 4; i++)
        ids[i] = expect_chain(&rig, entries, i);
    expect_waiting(&rig);
    assert_int_equal(rig_state(&rig).in_flight, 4);
    rig_complete(&rig, ids[2], 1);
    rig_settle(&rig);
    rig_expect_done(&rig, 2, 1);
    rig_complete(&rig, expect_chain(&rig, 2, 4), 1);
    rig_complete(&rig, expect_chain(&rig, 1, 5), 1);
    rig_complete(&rig, ids[0], 1);
    rig_complete(&rig, ids[3], 1);
    rig_complete(&rig, ids[1], 1);
    rig_settle(&rig);
    assert_int_equal(rig_state(&rig).in_flight, 0);
    /* All of it is one piece again. */
    offer(&rig, 1, 1024, 0);
    rig_settle(&rig);
    expect_chain(&rig, 1025, 0);
    rig_free(&rig);
}

static void test_wait_for_area(void **state)
{
    (void)state;
    for (unsigned i = 0; i < COUNT(converted); i++)
        check_wait_for_area(&converted[i]);
}

/* Tables in flight are bounded, whatever the back-end makes of them. */
static void test_limit(void **state)
{
    enum { MANY = 128, LONG = 1024, MOST = 65536 / LONG };

    (void)state;
    for (unsigned i = 0; i < COUNT(kept); i++) {
        struct rig rig;
        uint16_t id = 0, oldest = 0;

        start(&rig, &kept[i], MANY);
        make_bufs(LONG, RIG_DATA);
        for (unsigned n = 0; n < MANY; n++) {
            struct kit_chain chain = {bufs, LONG, 0, RIG_TABLES, false, NULL};

            rig_offer_chain(&rig, &chain);
        }
        rig_settle(&rig);
        assert_int_equal(rig_state(&rig).in_flight, MOST);
        for (unsigned n = 0; n < MOST; n++) {
            assert_int_equal(rig.device->ops->take(rig.device, &id, seen, COUNT(seen)), LONG);
            if (n == 0)
                oldest = id;
        }
        expect_waiting(&rig);
        rig_complete(&rig, oldest, 0);
        rig_settle(&rig);
        rig_expect_done(&rig, 0, 0);
        assert_int_equal(rig_state(&rig).in_flight, MOST);
        assert_int_equal(rig.device->ops->take(rig.device, &id, seen, COUNT(seen)), LONG);
        expect_waiting(&rig);
        rig_free(&rig);
    }
}

/* ---- More than the guest's ring holds -------------------------------------------------------- */

/* Slots are free still, but no ring of that size can have so many chains out (CVE-2016-5403). */
static void test_same_head_again(void **state)
{
    static const struct rig_sides pooled[] = {{RING, 0, PACKED, SPLIT_START},
                                              {RING, INDIRECT, 0, SPLIT_START},
                                              {RING, 0, IN_ORDER, SPLIT_START}};

    (void)state;
    for (unsigned i = 0; i < COUNT(pooled); i++) {
        struct kit_avail *avail;
        struct rig rig;

        start(&rig, &pooled[i], RING);
        avail = rig.guest.split.avail;
        rig.guest.split.desc[3] = (struct kit_desc){RIG_DATA, 1, 0, 0};
        for (unsigned n = 0; n < RING; n++) {
            avail->ring[n] = 3;
            kit_set16(&avail->idx, (uint16_t)(n + 1));
            rig_settle(&rig);
        }
        assert_int_equal(rig_state(&rig).in_flight, RING);
        kit_set16(&avail->idx, RING + 1);
        expect_fault(&rig, "more chains available");
        rig_expect_fault(&rig, SVQ_SIDE_GUEST);
        rig_free(&rig);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_shape),    cmocka_unit_test(test_zero_and_huge),
        cmocka_unit_test(test_largest),        cmocka_unit_test(test_never_fits),
        cmocka_unit_test(test_wait_for_slots), cmocka_unit_test(test_bad_after_waiting),
        cmocka_unit_test(test_wait_in_order),  cmocka_unit_test(test_wait_for_area),
        cmocka_unit_test(test_limit),          cmocka_unit_test(test_same_head_again),
    };

    return cmocka_run_group_tests_name("fit", tests, NULL, NULL);
}
