/* SPDX-License-Identifier: BSD-3-Clause */
/* What a packed ring may hold although it looks wrong: tolerated, whoever wrote it. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/packed_bytes.h"

enum { RING = 8 };

/* Tables are kept, converted and flattened. */
static const struct rig_sides to_packed = {RING, ALL, ALL, START};
static const struct rig_sides to_split = {RING, ALL, EVENT_IDX | INDIRECT, START};
static const struct rig_sides flat_packed = {RING, ALL, PACKED, START};
static const struct rig_sides flat_split = {RING, ALL, 0, START};

static const struct rig_sides *const all_sides[] = {&to_packed, &to_split, &flat_packed,
                                                    &flat_split};
enum { SIDES = sizeof(all_sides) / sizeof(all_sides[0]) };

static void expect_used(const struct rig *rig, unsigned at, unsigned id, uint32_t len)
{
    const struct kit_pdesc *desc = &rig->guest.packed.desc[at];

    assert_int_equal(desc->flags, KIT_P_AVAIL | KIT_P_USED | (len ? KIT_P_WRITE : 0));
    assert_int_equal(desc->id, id);
    assert_int_equal(desc->len, len);
}

/* Ids are the driver's business: any number, any number of times. */
static void check_ids(const struct rig_sides *sides)
{
    static const uint16_t ids[RING] = {0xffff, RING, 7, 7, 7, 0x8000, RING, 0};
    struct rig rig;

    rig_init(&rig, sides);
    for (unsigned i = 0; i < RING; i++)
        put(&rig, i, RIG_DATA + i, 1, ids[i], WRITE);
    rig_settle(&rig);
    assert_int_equal(rig_serve(&rig, 1), RING);
    rig_settle(&rig);
    for (unsigned i = 0; i < RING; i++)
        expect_used(&rig, i, ids[i], 1);
    rig_free(&rig);
}

/* Only the last descriptor's id counts; flags that mean nothing may be set, NEXT excepted. */
static void check_garbage(const struct rig_sides *sides)
{
    const unsigned junk = 0x7f78;
    struct kit_buf bufs[4];
    struct kit_pdesc before;
    struct rig rig;
    uint16_t id;

    rig_init(&rig, sides);
    table(&rig)[0] = (struct kit_pdesc){RIG_DATA + 1, 1, 0x1111, 0x7fff & ~WRITE};
    table(&rig)[1] = (struct kit_pdesc){RIG_DATA + 2, 2, 0x2222, 0xfffd & ~NEXT};
    table(&rig)[2] = (struct kit_pdesc){RIG_DATA + 3, 3, 0x3333, WRITE | NEXT | 0xfff0};
    put(&rig, 1, RIG_TABLES, 48, 0x4444, junk | TABLE | WRITE);
    put(&rig, 0, UINT64_MAX, 0, 0x5555, junk | NEXT);
    rig.device->mixed = true; /* what the guest does here is passed on */
    before = rig.guest.packed.desc[1];
    rig_settle(&rig);
    id = rig_take(&rig, bufs, 4);
    assert_int_equal(bufs[0].len, 0);
    for (unsigned i = 1; i < 4; i++) {
        assert_int_equal(bufs[i].gpa, RIG_DATA + i);
        assert_int_equal(bufs[i].len, i);
        assert_int_equal(bufs[i].write, i == 3);
    }
    rig_complete(&rig, id, 3);
    rig_settle(&rig);
    expect_used(&rig, 0, 0x4444, 3);
    assert_int_equal(rig.guest.packed.desc[0].addr, UINT64_MAX);
    assert_memory_equal(&rig.guest.packed.desc[1], &before, sizeof(before));
    rig_free(&rig);
}

/* What lies behind the ring is none of it, whatever it looks like. */
static void check_end(const struct rig_sides *sides)
{
    struct rig rig;

    rig_init(&rig, sides);
    for (unsigned half = 0; half < 2; half++) {
        for (unsigned i = 0; i < RING / 2; i++)
            put(&rig, half * RING / 2 + i, RIG_DATA + i, 1, i, WRITE);
        put(&rig, RING, RIG_DATA, 1, 0, WRITE);
        rig_settle(&rig);
        assert_int_equal(rig_serve(&rig, 1), RING / 2);
        rig_settle(&rig);
    }
    assert_int_equal(rig.guest.packed.desc[RING].flags, WRITE | KIT_P_AVAIL);
    rig_free(&rig);
}

static void test_opaque_things(void **state)
{
    (void)state;
    for (unsigned s = 0; s < SIDES; s++) {
        check_ids(all_sides[s]);
        check_garbage(all_sides[s]);
        check_end(all_sides[s]);
    }
}

/* Flags of an earlier lap, or of a used descriptor, are no chain; a kick without one is nothing. */
static void test_stale_flags(void **state)
{
    static const uint16_t stale[] = {0, KIT_P_USED, KIT_P_AVAIL | KIT_P_USED, 0x7f7f,
                                     KIT_P_USED | NEXT | WRITE | TABLE};
    struct rig *rig = *state;

    for (unsigned i = 0; i < sizeof(stale) / sizeof(stale[0]); i++) {
        uint16_t flags = stale[i] == 0x7f7f ? 0x7f7f & ~KIT_P_AVAIL : stale[i];

        rig->guest.packed.desc[0] = (struct kit_pdesc){UINT64_MAX, 99, 9, flags};
        assert_int_equal(rig_poll(rig), 0);
        svq_relay_count_kick(rig->relay);
        assert_false(svq_relay_arm(rig->relay));
    }
    assert_int_equal(rig_state(rig).in_flight, 0);
}

/* The guest rewrites what it handed over; the back-end scribbles over what it was given. */
static void test_scribbling(void **state)
{
    struct rig *rig = *state;

    put(rig, 1, RIG_DATA, 8, 0x1111, WRITE);
    put(rig, 0, RIG_DATA, 8, 0x9999, NEXT);
    rig_settle(rig);
    for (unsigned i = 0; i < 2; i++)
        rig->guest.packed.desc[i] = (struct kit_pdesc){UINT64_MAX, UINT32_MAX, 0xeeee, 0x7fff};
    for (unsigned i = 0; i < RING; i++)
        rig->shadow.packed.desc[i] = (struct kit_pdesc){UINT64_MAX, UINT32_MAX, 0xeeee, KIT_P_USED};
    memset(rig->shadow.packed.driver, 0xee, 4);
    assert_int_equal(rig_poll(rig), 0);
    /* No WRITE flag, as QEMU's device leaves it out; more than there is room for. */
    use(rig, 0, 0, 4711, 0);
    rig_poll(rig);
    expect_used(rig, 0, 0x1111, 8);
    assert_int_equal(rig->guest.packed.desc[1].id, 0xeeee);
    assert_int_equal(rig_state(rig).in_flight, 0);
    rig_expect_no_fault(rig);
}

/*
 * DPDK's driver leaves WRITE at the first entry of the tables that it sends from, before readable
 * ones: it is meant to be read, and where we write the table it says so.
 */
static void test_false_write(void **state)
{
    (void)state;
    for (unsigned s = 0; s < SIDES; s++) {
        struct kit_buf bufs[3];
        struct rig rig;

        rig_init(&rig, all_sides[s]);
        table(&rig)[0] = (struct kit_pdesc){RIG_DATA, 12, 0, WRITE};
        table(&rig)[1] = (struct kit_pdesc){RIG_DATA + 64, 100, 0, NEXT};
        table(&rig)[2] = (struct kit_pdesc){RIG_DATA + 256, 100, 0, 0};
        put(&rig, 0, RIG_TABLES, 48, 5, TABLE);
        rig_settle(&rig);
        rig_complete(&rig, rig_take(&rig, bufs, 3), 99);
        if (all_sides[s] != &to_packed)
            assert_false(bufs[0].write);
        assert_false(bufs[1].write || bufs[2].write);
        rig_settle(&rig);
        /* Nothing of it can have been written. */
        expect_used(&rig, 0, 5, 0);
        rig_free(&rig);
    }
}

/* A table may begin at any byte. */
static void test_table_anywhere(void **state)
{
    static const struct kit_pdesc entries[2] = {{RIG_DATA, 1, 0, 0}, {RIG_DATA + 9, 2, 0, WRITE}};

    (void)state;
    for (unsigned s = 0; s < SIDES; s++)
        for (unsigned offset = 0; offset < 16; offset++) {
            struct kit_buf bufs[2];
            struct rig rig;

            rig_init(&rig, all_sides[s]);
            memcpy((uint8_t *)table(&rig) + offset, entries, sizeof(entries));
            put(&rig, 0, RIG_TABLES + offset, sizeof(entries), 5, TABLE);
            rig_settle(&rig);
            rig_complete(&rig, rig_take(&rig, bufs, 2), 2);
            assert_true(bufs[0].gpa == RIG_DATA && bufs[0].len == 1 && !bufs[0].write);
            assert_true(bufs[1].gpa == RIG_DATA + 9 && bufs[1].len == 2 && bufs[1].write);
            rig_settle(&rig);
            expect_used(&rig, 0, 5, 2);
            rig_free(&rig);
        }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_opaque_things), RIG_TEST(test_stale_flags, to_packed),
        RIG_TEST(test_stale_flags, to_split), RIG_TEST(test_scribbling, to_packed),
        cmocka_unit_test(test_false_write),   cmocka_unit_test(test_table_anywhere),
    };

    return cmocka_run_group_tests_name("odd_packed", tests, NULL, NULL);
}
