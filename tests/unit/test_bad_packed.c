/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Each rule of a packed ring, broken once by raw bytes in it: the relay says who broke which, and
 * stops; what was right before that stays right. For what only looks like a rule see
 * test_odd_packed.c.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/packed_bytes.h"

enum { RING = 8, GOOD_ID = 0xabcd };

/* Tables are kept, converted and flattened. */
static const struct rig_sides to_packed = {RING, ALL, ALL, START};
static const struct rig_sides to_split = {RING, ALL, EVENT_IDX | INDIRECT, START};
static const struct rig_sides flat_packed = {RING, ALL, PACKED, START};
static const struct rig_sides flat_split = {RING, ALL, 0, START};
static const struct rig_sides direct = {RING, PACKED, ALL, START};
static const struct rig_sides in_order = {RING, ALL, ALL | IN_ORDER, START};
static const struct rig_sides from_split = {RING, EVENT_IDX | INDIRECT, ALL, 0};

static const struct rig_sides *const all_sides[] = {&to_packed, &to_split, &flat_packed,
                                                    &flat_split};
enum { SIDES = sizeof(all_sides) / sizeof(all_sides[0]) };

static void expect_reason(const struct rig *rig, enum svq_side side, const char *part)
{
    const char *reason = NULL;

    if (svq_relay_fault(rig->relay, &reason) != side || !strstr(reason, part))
        fail_msg("expected \"%s\", not \"%s\"", part, reason ? reason : "no fault");
}

static void expect_guest_fault(struct rig *rig, const char *part)
{
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    expect_reason(rig, SVQ_SIDE_GUEST, part);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

/* ---- Chains that are refused ----------------------------------------------------------------- */

struct bad_chain {
    const char *reason;
    struct kit_pdesc descs[3]; /* flags 0 beyond those that are put; AVAIL is put in */
    struct kit_pdesc table[3];
};

#define PUT       0x100u /* not a flag that means anything: this one exists */
#define LAST_PAGE (RIG_END - RIG_PAGE)

static const struct bad_chain bad_chains[] = {
    {"readable descriptor after a writable",
     {{RIG_DATA, 8, 1, PUT | NEXT | WRITE}, {RIG_DATA, 8, 1, PUT}},
     {{0}}},
    {"outside guest memory", {{RIG_END, 1, 1, PUT}}, {{0}}},
    {"outside guest memory", {{RIG_GPA - 1, 1, 1, PUT}}, {{0}}},
    {"outside guest memory", {{LAST_PAGE, RIG_PAGE + 1, 1, PUT}}, {{0}}},
    {"outside guest memory", {{UINT64_MAX, 2, 1, PUT}}, {{0}}},
    {"outside guest memory", {{RIG_DATA, UINT32_MAX, 1, PUT | WRITE}}, {{0}}},
    {"outside guest memory",
     {{RIG_DATA, 8, 1, PUT | NEXT}, {0, 8, 1, PUT | NEXT}, {RIG_DATA, 8, 1, PUT}},
     {{0}}},
    {"not available", {{RIG_DATA, 8, 1, PUT | NEXT}}, {{0}}},
    {"INDIRECT descriptor with NEXT",
     {{RIG_TABLES, 16, 1, PUT | TABLE | NEXT}, {RIG_DATA, 8, 1, PUT}},
     {{RIG_DATA, 8, 0, 0}}},
    {"not a multiple of 16", {{RIG_TABLES, 0, 1, PUT | TABLE}}, {{0}}},
    {"not a multiple of 16", {{RIG_TABLES, 15, 1, PUT | TABLE}}, {{0}}},
    {"not a multiple of 16", {{RIG_TABLES, 24, 1, PUT | TABLE}}, {{0}}},
    {"longer than any chain may be", {{RIG_TABLES, 1025 * 16, 1, PUT | TABLE}}, {{0}}},
    {"longer than any chain may be", {{RIG_TABLES, UINT32_MAX - 15, 1, PUT | TABLE}}, {{0}}},
    {"table outside guest memory", {{RIG_END - 16, 32, 1, PUT | TABLE}}, {{0}}},
    {"table outside guest memory", {{UINT64_MAX - 15, 32, 1, PUT | TABLE}}, {{0}}},
    {"table outside guest memory", {{0, 16, 1, PUT | TABLE}}, {{0}}},
    {"readable descriptor after a writable",
     {{RIG_TABLES, 48, 1, PUT | TABLE}},
     {{RIG_DATA, 8, 0, 0}, {RIG_DATA, 8, 0, WRITE}, {RIG_DATA, 8, 0, 0}}},
    {"readable descriptor after a writable",
     {{RIG_TABLES, 48, 1, PUT | TABLE}},
     {{RIG_DATA, 8, 0, WRITE}, {RIG_DATA, 8, 0, WRITE}, {RIG_DATA, 8, 0, 0}}},
    {"readable descriptor after a writable",
     {{RIG_DATA, 8, 1, PUT | NEXT | WRITE}, {RIG_TABLES, 16, 1, PUT | TABLE}},
     {{RIG_DATA, 8, 0, 0}}},
    {"outside guest memory",
     {{RIG_TABLES, 32, 1, PUT | TABLE}},
     {{RIG_DATA, 8, 0, 0}, {RIG_END, 8, 0, 0}}},
    {"outside guest memory",
     {{RIG_DATA, 8, 1, PUT | NEXT}, {RIG_TABLES, 32, 1, PUT | TABLE}},
     {{RIG_DATA, 8, 0, 0}, {UINT64_MAX, 8, 0, WRITE}}},
};

/* A good chain before the bad one is with the back-end; of the bad one nothing is. */
static void check_bad_chain(const struct rig_sides *sides, const struct bad_chain *bad)
{
    struct kit_buf buf;
    struct rig rig;
    uint16_t id;

    rig_init(&rig, sides);
    put(&rig, 0, RIG_DATA, 4, GOOD_ID, WRITE);
    for (unsigned i = 0; i < 3 && bad->descs[i].flags & PUT; i++)
        put(&rig, 1 + i, bad->descs[i].addr, bad->descs[i].len, bad->descs[i].id,
            bad->descs[i].flags & ~PUT);
    memcpy(table(&rig), bad->table, sizeof(bad->table));
    assert_true(svq_relay_poll(rig.relay) & SVQ_RELAY_FAULT);
    expect_reason(&rig, SVQ_SIDE_GUEST, bad->reason);
    assert_int_equal(rig_state(&rig).in_flight, 1);
    assert_int_equal(rig_state(&rig).guest.avail, 1);
    id = rig_take(&rig, &buf, 1);
    assert_int_equal(buf.gpa, RIG_DATA);
    rig_expect_idle_device(&rig);
    rig_complete(&rig, id, 4);
    rig_expect_fault(&rig, SVQ_SIDE_GUEST);
    rig_free(&rig);
}

static void test_bad_chains(void **state)
{
    (void)state;
    for (unsigned i = 0; i < sizeof(bad_chains) / sizeof(bad_chains[0]); i++)
        for (unsigned s = 0; s < SIDES; s++)
            check_bad_chain(all_sides[s], &bad_chains[i]);
}

static void test_indirect_not_negotiated(void **state)
{
    struct rig *rig = *state;

    put(rig, 0, RIG_TABLES, 16, 1, TABLE);
    table(rig)[0] = (struct kit_pdesc){RIG_DATA, 8, 0, 0};
    expect_guest_fault(rig, "not negotiated");
}

static void test_too_many_bytes(void **state)
{
    (void)state;
    for (unsigned s = 0; s < SIDES; s++) {
        struct rig rig;

        rig_init(&rig, all_sides[s]);
        for (unsigned i = 0; i < 300; i++)
            table(&rig)[i] = (struct kit_pdesc){RIG_GPA, RIG_SIZE, 0, WRITE};
        put(&rig, 0, RIG_TABLES, 300 * 16, 1, TABLE);
        expect_guest_fault(&rig, "2^32 bytes");
        rig_free(&rig);
    }
}

/* What was guest memory a moment ago and is no more. */
static void test_memory_is_gone(void **state)
{
    struct rig *rig = *state;
    struct svq_region region = *svq_map_region(rig->memory.map, 0);
    struct svq_map *map = NULL;

    put(rig, 0, RIG_END - 8, 8, 1, 0);
    put(rig, 1, RIG_END - 8, 8, 2, WRITE);
    rig_settle(rig);
    region.size /= 2;
    assert_int_equal(svq_map_new(&region, 1, rig->memory.map, &map), 0);
    svq_relay_set_guest(rig->relay, &rig->guest.at, map);
    put(rig, 2, RIG_DATA, 8, 3, 0);
    put(rig, 3, RIG_END - 8, 8, 4, 0);
    expect_guest_fault(rig, "outside guest memory");
    assert_int_equal(rig_state(rig).in_flight, 3);
    svq_map_unref(map);
}

/* ---- More than the ring has ------------------------------------------------------------------ */

static void test_endless_chain(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < RING; i++)
        put(rig, i, RIG_DATA, 0, i, NEXT);
    expect_guest_fault(rig, "loops");
    assert_int_equal(rig_state(rig).in_flight, 0);
}

/* The whole ring is out, and its first descriptor is available again (CVE-2016-5403). */
static void test_next_lap_too_early(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < RING; i++)
        put(rig, i, RIG_DATA, 1, i, 0);
    rig_settle(rig);
    assert_int_equal(rig_state(rig).in_flight, RING);
    rig->guest.packed.desc[0].flags = KIT_P_USED;
    expect_guest_fault(rig, "more descriptors available than are free");
    assert_int_equal(rig_state(rig).in_flight, RING);
}

/* A chain whose end runs into descriptors that are out. */
static void test_chain_into_next_lap(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < 6; i++)
        put(rig, i, RIG_DATA, 1, i, 0);
    rig_settle(rig);
    put(rig, 7, RIG_DATA, 1, 9, NEXT);
    rig->guest.packed.desc[0].flags = KIT_P_USED;
    put(rig, 6, RIG_DATA, 1, 9, NEXT);
    expect_guest_fault(rig, "more descriptors available than are free");
    assert_int_equal(rig_state(rig).in_flight, 6);
}

/* The chain that was taken but not used by an earlier device counts, too. */
static void test_room_after_a_base(void **state)
{
    static const struct rig_sides sides = {RING, ALL, ALL, 0x8003};
    struct rig rig;

    (void)state;
    rig_init(&rig, &sides);
    svq_relay_free(rig.relay);
    rig_start(&rig, 0x80018003);
    for (unsigned i = 3; i < RING; i++)
        put(&rig, i, RIG_DATA, 1, i, 0);
    rig.guest.packed.desc[0].flags = KIT_P_USED;
    rig.guest.packed.desc[1].flags = 0;
    rig_settle(&rig);
    assert_int_equal(rig_state(&rig).in_flight, 6);
    rig.guest.packed.desc[1].flags = KIT_P_USED;
    expect_guest_fault(&rig, "more descriptors available than are free");
    rig_free(&rig);
}

static int try_base(const struct rig *rig, uint32_t base)
{
    struct svq_relay_config config = rig_config(rig, base);
    struct svq_relay *relay = NULL;
    int err = svq_relay_new(&config, &relay);

    assert_int_equal(err == 0, relay != NULL);
    svq_relay_free(relay);
    return err;
}

/* What was taken and not used is between nothing and all of the ring. */
static void test_impossible_bases(void **state)
{
    static const struct rig_sides five = {5, ALL, ALL, START};
    struct rig rig;

    (void)state;
    rig_init(&rig, &five);
    for (unsigned used = 0; used < 10; used++)
        for (unsigned avail = 0; avail < 10; avail++) {
            unsigned taken = (avail + 10 - used) % 10;
            uint32_t word = (avail % 5) | (avail < 5 ? 0x8000u : 0);

            word |= ((used % 5) | (used < 5 ? 0x8000u : 0)) << 16;
            assert_int_equal(try_base(&rig, word), taken <= 5 || !(word >> 16) ? 0 : -EINVAL);
        }
    assert_int_equal(try_base(&rig, 0x80008005), -EINVAL);
    assert_int_equal(try_base(&rig, 0x80058000), -EINVAL);
    assert_int_equal(try_base(&rig, 0x80008005), -EINVAL);
    assert_int_equal(try_base(&rig, 0x00008005), -EINVAL);
    assert_int_equal(try_base(&rig, 0x00008004), 0);
    assert_int_equal(try_base(&rig, UINT32_MAX), -EINVAL);
    rig_free(&rig);
}

/* ---- Event suppression ----------------------------------------------------------------------- */

/* The guest's word is looked at when it has a completion, which it keeps. */
static void check_guest_event(const struct rig_sides *sides, uint16_t desc, uint16_t flags,
                              bool good)
{
    struct rig rig;

    rig_init(&rig, sides);
    rig_offer_simple(&rig, 7);
    rig_settle(&rig);
    assert_int_equal(rig_serve(&rig, 9), 1);
    kit_event_set(rig.guest.packed.driver, desc, flags);
    if (good)
        rig_settle(&rig);
    else
        assert_true(svq_relay_poll(rig.relay) & SVQ_RELAY_FAULT);
    rig_expect_done(&rig, 7, 9);
    if (!good) {
        expect_reason(&rig, SVQ_SIDE_GUEST, "event suppression");
        rig_expect_fault(&rig, SVQ_SIDE_GUEST);
    }
    rig_free(&rig);
}

static void check_backend_event(const struct rig_sides *sides, uint16_t desc, uint16_t flags,
                                bool good)
{
    struct rig rig;

    rig_init(&rig, sides);
    kit_event_set(rig.shadow.packed.device, desc, flags);
    rig_offer_simple(&rig, 7);
    if (good) {
        rig_settle(&rig);
    } else {
        assert_true(svq_relay_poll(rig.relay) & SVQ_RELAY_FAULT);
        expect_reason(&rig, SVQ_SIDE_BACKEND, "event suppression");
        rig_expect_fault(&rig, SVQ_SIDE_BACKEND);
    }
    rig_free(&rig);
}

static void check_event(uint16_t desc, uint16_t flags, bool good, bool good_without)
{
    static const struct rig_sides with = {RING, ALL, ALL, START};
    static const struct rig_sides without = {RING, PACKED, PACKED, START};

    check_guest_event(&with, desc, flags, good);
    check_backend_event(&with, desc, flags, good);
    check_guest_event(&without, desc, flags, good_without);
    check_backend_event(&without, desc, flags, good_without);
}

static void test_event_words(void **state)
{
    (void)state;
    check_event(0, 3, false, false);
    check_event(0x8001, 3, false, false);
    check_event(RING, KIT_EVENT_DESC, false, false);
    check_event(0x8000 | RING, KIT_EVENT_DESC, false, false);
    check_event(0xffff, KIT_EVENT_DESC, false, false);
    check_event(0x8000, KIT_EVENT_DESC, true, false);
    check_event(RING - 1, KIT_EVENT_DESC, true, false);
    /* What means nothing may be anything. */
    check_event(0xffff, KIT_EVENT_ENABLE, true, true);
    check_event(0xffff, KIT_EVENT_DISABLE, true, true);
    check_event(0x1234, 0xfff0 | KIT_EVENT_ENABLE, true, true);
    check_event(0x1234, 0xfff0 | KIT_EVENT_DISABLE, true, true);
}

/* ---- Used descriptors of the back-end -------------------------------------------------------- */

static void expect_backend_fault(struct rig *rig, const char *part)
{
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    expect_reason(rig, SVQ_SIDE_BACKEND, part);
    rig_expect_fault(rig, SVQ_SIDE_BACKEND);
}

/* So many chains of two are out; their ids in the shadow ring are 0, 2, 4 ... */
static void offer_many(struct rig *rig, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    for (unsigned i = 0; i < count; i++)
        assert_int_equal(rig->shadow.packed.desc[2 * i + 1].id, 2 * i);
}

static void check_used_id(const struct rig_sides *sides, unsigned id, const char *reason)
{
    struct rig rig;

    rig_init(&rig, sides);
    offer_many(&rig, 2);
    use(&rig, 0, id, 1, WRITE);
    expect_backend_fault(&rig, reason);
    rig_expect_nothing_done(&rig);
    assert_int_equal(rig_state(&rig).in_flight, 2);
    rig_free(&rig);
}

static void test_bad_used_ids(void **state)
{
    const struct rig_sides *sides[] = {&to_packed, &from_split, &in_order};

    (void)state;
    for (unsigned s = 0; s < 3; s++) {
        check_used_id(sides[s], RING, "out of range");
        check_used_id(sides[s], 0xffff, "out of range");
        check_used_id(sides[s], 0x8000, "out of range");
        /* A chain's second slot, a free slot. */
        check_used_id(sides[s], 1, "not outstanding");
        check_used_id(sides[s], 6, "not outstanding");
    }
}

static void test_used_twice(void **state)
{
    struct rig *rig = *state;

    offer_many(rig, 3);
    use(rig, 0, 2, 1, WRITE);
    use(rig, 2, 2, 1, WRITE);
    expect_backend_fault(rig, "not outstanding");
    rig_expect_done(rig, 1, 1);
    rig_expect_nothing_done(rig);
}

static void test_used_twice_later(void **state)
{
    struct rig *rig = *state;

    offer_many(rig, 3);
    use(rig, 0, 2, 1, WRITE);
    rig_settle(rig);
    rig_expect_done(rig, 1, 1);
    use(rig, 2, 2, 1, WRITE);
    expect_backend_fault(rig, "not outstanding");
    rig_expect_nothing_done(rig);
}

static void test_used_without_anything_out(void **state)
{
    struct rig *rig = *state;

    use(rig, 0, 0, 1, WRITE);
    expect_backend_fault(rig, "nothing is outstanding");
}

/* In one turn: all that is out, and then one more. */
static void test_used_beyond_what_is_out(void **state)
{
    struct rig *rig = *state;

    offer_many(rig, 2);
    use(rig, 0, 0, 1, WRITE);
    use(rig, 2, 2, 1, WRITE);
    use(rig, 4, 0, 1, WRITE);
    rig_poll(rig);
    rig_expect_done(rig, 0, 1);
    rig_expect_done(rig, 1, 1);
    expect_backend_fault(rig, "nothing is outstanding");
}

/* A batch ends with one that is out; those between are completed with it, once. */
static void test_batch_then_again(void **state)
{
    struct rig *rig = *state;

    offer_many(rig, 3);
    use(rig, 0, 2, 5, WRITE);
    rig_poll(rig);
    rig_expect_done(rig, 0, 64);
    rig_expect_done(rig, 1, 5);
    rig_expect_nothing_done(rig);
    use(rig, 4, 0, 5, WRITE);
    expect_backend_fault(rig, "not outstanding");
}

/* The back-end is to blame, even when the guest's word makes no sense just then; and so on. */
static void test_first_fault_counts(void **state)
{
    struct rig *rig = *state;

    offer_many(rig, 2);
    use(rig, 0, 0, 3, WRITE);
    use(rig, 2, 0x4444, 3, WRITE);
    kit_event_set(rig->guest.packed.driver, 0, 3);
    expect_backend_fault(rig, "out of range");
    rig_expect_done(rig, 0, 3);
}

static void test_first_fault_counts_forward(void **state)
{
    struct rig *rig = *state;

    kit_event_set(rig->shadow.packed.device, 0, 3);
    put(rig, 0, RIG_DATA, 1, 1, 0);
    put(rig, 1, RIG_END, 1, 1, 0);
    expect_guest_fault(rig, "outside guest memory");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_chains),
        RIG_TEST(test_indirect_not_negotiated, direct),
        cmocka_unit_test(test_too_many_bytes),
        RIG_TEST(test_memory_is_gone, to_packed),
        RIG_TEST(test_memory_is_gone, to_split),
        RIG_TEST(test_endless_chain, to_packed),
        RIG_TEST(test_endless_chain, to_split),
        RIG_TEST(test_next_lap_too_early, to_packed),
        RIG_TEST(test_next_lap_too_early, to_split),
        RIG_TEST(test_chain_into_next_lap, to_packed),
        RIG_TEST(test_chain_into_next_lap, to_split),
        cmocka_unit_test(test_room_after_a_base),
        cmocka_unit_test(test_impossible_bases),
        cmocka_unit_test(test_event_words),
        cmocka_unit_test(test_bad_used_ids),
        RIG_TEST(test_used_twice, to_packed),
        RIG_TEST(test_used_twice, from_split),
        RIG_TEST(test_used_twice_later, to_packed),
        RIG_TEST(test_used_twice_later, from_split),
        RIG_TEST(test_used_without_anything_out, to_packed),
        RIG_TEST(test_used_without_anything_out, from_split),
        RIG_TEST(test_used_without_anything_out, in_order),
        RIG_TEST(test_used_beyond_what_is_out, to_packed),
        RIG_TEST(test_used_beyond_what_is_out, from_split),
        RIG_TEST(test_batch_then_again, in_order),
        RIG_TEST(test_first_fault_counts, to_packed),
        RIG_TEST(test_first_fault_counts_forward, to_packed),
    };

    return cmocka_run_group_tests_name("bad_packed", tests, NULL, NULL);
}
