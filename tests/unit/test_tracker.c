/* SPDX-License-Identifier: BSD-3-Clause */
/* A relay and its queue's part of the in-flight region. (test_killed.c has the crashes.) */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <shadowvq/inflight.h>

#include "kit/region.h"
#include "kit/rig.h"

enum { RING = 8, ENTRIES = 11 };

static const struct rig_sides split = {RING, 0, 0, 65533};
static const struct rig_sides split_shared = {RING, 0, 0, 65533, true};
static const struct rig_sides packed = {RING - 1, PACKED, PACKED, 0x8003};
static const struct rig_sides split_packed = {RING, 0, PACKED, 65533};
static const struct rig_sides packed_split = {RING - 1, PACKED, 0, 3};
static const struct rig_sides split_restore = {RING, IN_ORDER, 0, 0};
static const struct rig_sides shared_restore = {RING, IN_ORDER, 0, 0, true};
static const struct rig_sides packed_tiny = {2, PACKED, PACKED, 0x8000};

static uint64_t memory[64]; /* the part */
static uint8_t *const part = (uint8_t *)memory;

/* Fields, by the specification's layout. */
static uint16_t *at16(size_t offset)
{
    return (uint16_t *)(void *)(part + offset);
}

static size_t entry_at(const struct rig *rig, unsigned i)
{
    return rig->guest.format == SVQ_RING_SPLIT ? 16 + 16 * (size_t)i : 32 + 32 * (size_t)i;
}

static struct svq_relay_config tracked_config(const struct rig *rig, uint32_t base)
{
    struct svq_relay_config config = rig_config(rig, base);

    config.inflight = part;
    config.inflight_entries = ENTRIES;
    return config;
}

/* The relay is killed; another one begins, and with it another back-end. */
static void begin(struct rig *rig, uint32_t base)
{
    struct svq_relay_config config = tracked_config(rig, base);

    svq_relay_free(rig->relay);
    rig->relay = NULL;
    assert_int_equal(svq_relay_new(&config, &rig->relay), 0);
    rig_attach(rig, true, rig_shadow_base(rig, 0, 0));
}

static int setup(void **state)
{
    assert_true(sizeof(memory) >= svq_inflight_size(SVQ_RING_PACKED, ENTRIES));
    memset(memory, 0, sizeof(memory));
    if (rig_setup(state) != 0)
        return -1;
    begin(*state, ((struct rig *)*state)->base);
    return 0;
}

static struct svq_inflight_report read_part(const struct rig *rig)
{
    struct svq_inflight_report report;

    memset(&report, 0xee, sizeof(report));
    assert_int_equal(
        svq_inflight_read(part, rig->guest.format, ENTRIES, rig->num, &rig->guest.at, &report), 0);
    return report;
}

static void expect_in_flight(const struct rig *rig, unsigned count)
{
    static struct kit_findings found;

    kit_region_look(&found, part, ENTRIES, &rig->guest);
    if (found.wrong)
        fail_msg("%s", found.wrong);
    assert_int_equal(found.count, count);
    assert_int_equal(found.leaked, 0);
    assert_int_equal(read_part(rig).in_flight, count);
}

static void take(struct rig *rig, uint16_t *ids, unsigned count)
{
    struct kit_buf bufs[2];

    for (unsigned i = 0; i < count; i++)
        ids[i] = rig_take(rig, bufs, 2);
}

/* ---- Parts ----------------------------------------------------------------------------------- */

static void test_sizes(void **state)
{
    (void)state;
    assert_int_equal(svq_inflight_size(SVQ_RING_SPLIT, 1), 64);
    assert_int_equal(svq_inflight_size(SVQ_RING_SPLIT, 3), 64);
    assert_int_equal(svq_inflight_size(SVQ_RING_SPLIT, 4), 128);
    assert_int_equal(svq_inflight_size(SVQ_RING_SPLIT, 128), 2112);
    assert_int_equal(svq_inflight_size(SVQ_RING_PACKED, 1), 64);
    assert_int_equal(svq_inflight_size(SVQ_RING_PACKED, 2), 128);
    assert_int_equal(svq_inflight_size(SVQ_RING_PACKED, 128), 4160);
}

static void test_a_new_part(void **state)
{
    struct rig *rig = *state;
    struct svq_inflight_report report;

    /* The relay's, once it has begun. */
    report = read_part(rig);
    assert_true(report.tracked);
    assert_int_equal(report.in_flight, 0);
    assert_int_equal(report.base, rig->base);
    assert_int_equal(report.used_base, rig->base);
    expect_in_flight(rig, 0);
    /* Nobody's. */
    memset(memory, 0, sizeof(memory));
    report = read_part(rig);
    assert_false(report.tracked);
    assert_int_equal(report.base, 0);
    /* Ours. */
    memset(memory, 0x5a, sizeof(memory));
    svq_inflight_reset(part, rig->guest.format, ENTRIES, rig->base);
    report = read_part(rig);
    assert_true(report.tracked);
    assert_int_equal(report.base, rig->base);
    expect_in_flight(rig, 0);
    /* Nobody's again, but whole: all a back-end has to do is to say that it keeps it. */
    svq_inflight_disown(part, rig->guest.format, ENTRIES, rig->base);
    assert_false(read_part(rig).tracked);
    ((uint16_t *)part)[4] = 1;
    report = read_part(rig);
    assert_true(report.tracked);
    assert_int_equal(report.base, rig->base);
}

static void test_arguments(void **state)
{
    struct rig *rig = *state;
    struct svq_relay_config config = tracked_config(rig, rig->base);
    struct svq_inflight_report report;
    struct svq_relay *relay;

    config.inflight_entries = rig->num - 1;
    assert_int_equal(svq_relay_new(&config, &relay), -EINVAL);
    config.inflight_entries = ENTRIES;
    config.inflight = part + 4;
    assert_int_equal(svq_relay_new(&config, &relay), -EINVAL);
    assert_int_equal(
        svq_inflight_read(part, rig->guest.format, rig->num - 1, rig->num, &rig->guest.at, &report),
        -EINVAL);
    assert_int_equal(
        svq_inflight_read(part, rig->guest.format, ENTRIES, 0, &rig->guest.at, &report), -EINVAL);
    /* Without an old part the base counts. */
    memset(memory, 0, sizeof(memory));
    config.inflight = part;
    config.base = 0x7fff7fff;
    assert_int_equal(svq_relay_new(&config, &relay), -EINVAL);
    assert_int_equal(memory[1], 0);
}

/* ---- Taking over ----------------------------------------------------------------------------- */

static void test_done_again_in_order(void **state)
{
    struct rig *rig = *state;
    bool in_order = rig->features & IN_ORDER;
    uint16_t ids[4];

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    expect_in_flight(rig, 3);
    take(rig, ids, 3);
    rig_complete(rig, ids[1], 5);
    rig_settle(rig);
    expect_in_flight(rig, in_order ? 3 : 2);
    if (!in_order)
        rig_expect_done(rig, 1, 5);
    begin(rig, 0x7fff7fff);
    assert_int_equal(rig_stats(rig).resubmitted, 0);
    expect_in_flight(rig, in_order ? 3 : 2);
    if (rig->num >= RING)
        rig_offer_simple(rig, 3);
    rig_settle(rig);
    assert_int_equal(rig_stats(rig).resubmitted, in_order ? 3 : 2);
    take(rig, ids, in_order ? 3 : 2);
    for (unsigned i = 0; i < (in_order ? 3 : 2); i++)
        rig_complete(rig, ids[i], 10 + i);
    rig_settle(rig);
    rig_expect_done(rig, 0, 10);
    if (in_order)
        rig_expect_done(rig, 1, 11);
    rig_expect_done(rig, 2, in_order ? 12 : 11);
    rig_expect_nothing_done(rig);
    expect_in_flight(rig, rig->num >= RING);
    assert_int_equal(rig_serve(rig, 7), rig->num >= RING);
    rig_settle(rig);
    if (rig->num >= RING)
        rig_expect_done(rig, 3, 7);
    expect_in_flight(rig, 0);
    /* Taken once more than served. */
    assert_int_equal(rig_stats(rig).chains, (in_order ? 3 : 2) + (rig->num >= RING));
}

/* Equal counters are no reason to refuse: the lower head comes first. */
static void test_equal_counters(void **state)
{
    struct rig *rig = *state;
    struct kit_buf buf = rig_buf(rig, 64, true), first, second;

    rig_offer(rig, &buf, 1, 1);
    first = buf;
    buf = rig_buf(rig, 64, true);
    rig_offer(rig, &buf, 1, 2);
    second = buf;
    rig_settle(rig);
    for (unsigned i = 0; i < rig->num; i++)
        memset(part + entry_at(rig, i) + 8, 7, 8);
    begin(rig, 0);
    rig_settle(rig);
    rig_take(rig, &buf, 1);
    assert_int_equal(buf.gpa, first.gpa);
    rig_take(rig, &buf, 1);
    assert_int_equal(buf.gpa, second.gpa);
}

static void test_arm_does_not_sleep_on_them(void **state)
{
    struct rig *rig = *state;

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    assert_false(svq_relay_arm(rig->relay));
    begin(rig, 0);
    assert_true(svq_relay_arm(rig->relay));
    svq_relay_hold(rig->relay, true);
    assert_false(svq_relay_arm(rig->relay));
    svq_relay_hold(rig->relay, false);
    rig_settle(rig);
    assert_false(svq_relay_arm(rig->relay));
    assert_int_equal(rig_serve(rig, 1), 1);
}

/* A chain as long as the ring moves the used index by nothing but its wrap counter. */
static void test_a_whole_lap(void **state)
{
    struct rig *rig = *state;
    struct svq_inflight_report report;
    uint8_t before[sizeof(memory)];

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    memcpy(before, part, sizeof(before));
    assert_int_equal(rig_serve(rig, 9), 1);
    rig_settle(rig);
    assert_int_equal(*at16(16), 0);
    assert_int_equal(part[20], 0);
    /* As if it had been killed right behind the used flags. */
    part[21] = before[21];
    memcpy(at16(14), before + 14, 2);
    part[32] = 1;
    report = read_part(rig);
    assert_int_equal(report.in_flight, 0);
    assert_int_equal(report.base & 0xffff, 0);
    rig_expect_done(rig, 1, 9);
    begin(rig, 0);
    rig_expect_idle_device(rig);
    rig_offer_simple(rig, 2);
    rig_settle(rig);
    assert_int_equal(rig_serve(rig, 1), 1);
    rig_settle(rig);
    rig_expect_done(rig, 2, 1);
}

/* A predecessor that keeps entries of the part to itself does no harm for ever. */
static void test_lost_entries_come_back(void **state)
{
    struct rig *rig = *state;
    static struct kit_findings found;

    *at16(12) = *at16(14) = ENTRIES; /* nothing is free, nothing in flight */
    kit_region_look(&found, part, ENTRIES, &rig->guest);
    assert_int_equal(found.leaked, ENTRIES);
    begin(rig, 0);
    expect_in_flight(rig, 0);
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    expect_in_flight(rig, 1);
}

/* ---- The end --------------------------------------------------------------------------------- */

static uint32_t detach(struct rig *rig)
{
    uint32_t base = svq_relay_detach(rig->relay);

    svq_relay_free(rig->relay);
    rig->relay = NULL;
    return base;
}

static void test_detach_clears_marks(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[2];
    uint32_t base;

    rig_offer_simple(rig, 1);
    rig_offer_simple(rig, 2);
    rig_settle(rig);
    take(rig, ids, 1);
    rig_complete(rig, ids[0], 1);
    base = rig_stop(rig);
    svq_relay_hold(rig->relay, true);
    rig_settle(rig);
    assert_int_equal(svq_relay_drained(rig->relay, base), 1);
    assert_int_equal(detach(rig), rig_guest_base(rig, 1, 1));
    expect_in_flight(rig, 0);
    assert_int_equal(read_part(rig).base, rig_guest_base(rig, 1, 1));
}

/* Three chains are in flight, some of them with the back-end, which completes one of those. */
static void take_of_three(struct rig *rig, uint16_t *ids, unsigned taken, unsigned completed)
{
    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    take(rig, ids, taken);
    rig_complete(rig, ids[completed], 1);
    rig_settle(rig);
}

/* Chains that were taken over, and that the guest's ring has where it expects them. */
static void test_detach_after_taking_over(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    take_of_three(rig, ids, 1, 0);
    for (unsigned taken = 0; taken < 2; taken++) {
        begin(rig, 0);
        if (taken)
            rig_settle(rig);
        svq_relay_hold(rig->relay, true);
        assert_int_equal(svq_relay_drained(rig->relay, rig_stop(rig)), 1);
        expect_in_flight(rig, 2);
        assert_int_equal(detach(rig), rig_guest_base(rig, 1, 1));
        expect_in_flight(rig, 0);
        begin(rig, 0);
        rig_settle(rig);
        expect_in_flight(rig, 2);
    }
}

/* A younger one was completed: the guest's ring does not tell what is left any more. */
static void test_detach_leaves_the_marks_of_lost_chains(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    take_of_three(rig, ids, 3, 1);
    for (unsigned taken = 0; taken < 2; taken++) {
        begin(rig, 0);
        if (taken)
            rig_settle(rig);
        svq_relay_hold(rig->relay, true);
        assert_int_equal(svq_relay_drained(rig->relay, rig_stop(rig)), 0);
        /* The youngest one can go back, if it is its turn. */
        assert_int_equal(detach(rig), rig_guest_base(rig, taken ? 2 : 3, 1));
        expect_in_flight(rig, taken ? 1 : 2);
    }
    begin(rig, 0);
    rig_settle(rig);
    take(rig, ids, 2);
    rig_complete(rig, ids[0], 4);
    rig_complete(rig, ids[1], 5);
    rig_settle(rig);
    rig_expect_done(rig, 1, 1);
    rig_expect_done(rig, 0, 4);
    rig_expect_done(rig, 2, 5);
    expect_in_flight(rig, 0);
}

/* ---- Bad parts ------------------------------------------------------------------------------- */

/* Three chains in flight, the middle one of a crossed order, and an update cut short. */
static void make_busy(struct rig *rig, uint8_t *copy)
{
    uint16_t ids[3];

    take_of_three(rig, ids, 3, 1);
    expect_in_flight(rig, 2);
    memcpy(copy, part, sizeof(memory));
}

static int try_part(struct rig *rig)
{
    struct svq_relay_config config = tracked_config(rig, rig->base);
    struct svq_inflight_report report;
    int result =
        svq_inflight_read(part, rig->guest.format, ENTRIES, rig->num, &rig->guest.at, &report);

    svq_relay_free(rig->relay);
    rig->relay = NULL;
    assert_int_equal(svq_relay_new(&config, &rig->relay), result);
    return result;
}

static void expect_refused(struct rig *rig, const uint8_t *good)
{
    uint8_t bad[sizeof(memory)];

    memcpy(bad, part, sizeof(bad));
    assert_int_equal(try_part(rig), -EBADMSG);
    assert_memory_equal(part, bad, sizeof(bad)); /* it stays as it was */
    memcpy(part, good, sizeof(memory));
}

static void test_heads_of_bad_parts(void **state)
{
    struct rig *rig = *state;
    uint8_t good[sizeof(memory)];

    make_busy(rig, good);
    part[0] = 1; /* features */
    expect_refused(rig, good);
    *at16(8) = 2; /* version */
    expect_refused(rig, good);
    *at16(10) = ENTRIES - 1;
    expect_refused(rig, good);
    *at16(10) = ENTRIES + 1;
    expect_refused(rig, good);
    part[entry_at(rig, 0)] = 2; /* inflight */
    expect_refused(rig, good);
    assert_int_equal(try_part(rig), 0);
}

static void test_bad_split_parts(void **state)
{
    struct rig *rig = *state;
    uint8_t good[sizeof(memory)];
    uint16_t used = rig->guest.split.used->idx;

    make_busy(rig, good);
    used = rig->guest.split.used->idx;
    *at16(14) = used - RING - 1; /* a batch larger than the ring */
    expect_refused(rig, good);
    *at16(14) = used + 1; /* ahead of the ring */
    expect_refused(rig, good);
    *at16(14) = used - 1;
    *at16(12) = RING; /* last_batch_head */
    expect_refused(rig, good);
    *at16(14) = used - 2;
    *at16(entry_at(rig, *at16(12)) + 6) = *at16(12); /* a loop */
    expect_refused(rig, good);
    part[entry_at(rig, RING)] = 1; /* of the part, but not of the ring */
    expect_refused(rig, good);
    for (unsigned i = 0; i < RING; i++)
        part[entry_at(rig, i)] = 1; /* more than were offered */
    expect_refused(rig, good);
    assert_int_equal(try_part(rig), 0);
}

static void test_bad_packed_parts(void **state)
{
    struct rig *rig = *state;
    uint8_t good[sizeof(memory)];
    size_t head;

    make_busy(rig, good);
    head = entry_at(rig, 0); /* request 0: entries 0 and 1 */
    *at16(14) = ENTRIES + 1; /* old_free_head */
    expect_refused(rig, good);
    *at16(14) = 0; /* in use */
    assert_int_equal(try_part(rig), 0);
    memcpy(part, good, sizeof(memory));
    *at16(entry_at(rig, *at16(14)) + 2) = *at16(14); /* a loop */
    expect_refused(rig, good);
    *at16(entry_at(rig, *at16(14)) + 2) = ENTRIES + 1;
    expect_refused(rig, good);
    *at16(head + 6) = 0; /* num */
    expect_refused(rig, good);
    *at16(head + 6) = 1;
    expect_refused(rig, good);
    *at16(head + 6) = 3;
    expect_refused(rig, good);
    *at16(head + 6) = RING;
    expect_refused(rig, good);
    *at16(head + 4) = 0; /* last */
    expect_refused(rig, good);
    *at16(head + 2) = 0; /* next */
    expect_refused(rig, good);
    *at16(head + 2) = ENTRIES;
    expect_refused(rig, good);
    *at16(head + 2) = 0xffff;
    expect_refused(rig, good);
    *at16(head + 18) &= ~KIT_P_NEXT;
    expect_refused(rig, good);
    *at16(entry_at(rig, 1) + 18) |= KIT_P_NEXT;
    expect_refused(rig, good);
    part[entry_at(rig, 1)] = 1; /* a chain in the midst of another */
    expect_refused(rig, good);
    *at16(16) = *at16(18) = RING - 1; /* used_idx, old_used_idx */
    expect_refused(rig, good);
    *at16(18) = 0xffff;
    expect_refused(rig, good);
    part[20] = part[21] = 2; /* wrap counters */
    expect_refused(rig, good);
    assert_int_equal(try_part(rig), 0);
}

/* Whatever a byte is changed to: refused, or believed without harm to us. */
static void test_any_byte(void **state)
{
    static const uint8_t values[] = {0, 1, 2, 6, 7, 8, 11, 12, 0x7f, 0x80, 0xff};
    struct rig *rig = *state;
    uint8_t good[sizeof(memory)], *ring = malloc(RIG_TABLES - RIG_GPA);
    size_t size = svq_inflight_size(rig->guest.format, ENTRIES);
    unsigned refused = 0, taken = 0;

    assert_non_null(ring);
    make_busy(rig, good);
    memcpy(ring, rig->memory.bytes, RIG_TABLES - RIG_GPA);
    for (size_t i = 0; i < size; i++) {
        for (unsigned v = 0; v < sizeof(values); v++) {
            int result;

            part[i] = values[v];
            result = try_part(rig);
            assert_true(result == 0 || result == -EBADMSG);
            for (unsigned turn = 0; result == 0 && turn < 4; turn++)
                svq_relay_poll(rig->relay);
            refused += result != 0;
            taken += result == 0;
            memcpy(part, good, sizeof(good));
            memcpy(rig->memory.bytes, ring, RIG_TABLES - RIG_GPA);
        }
    }
    assert_true(refused > 200);
    assert_true(taken > 200);
    free(ring);
}

/* clang-format off */
#define TEST(name, sides) \
    {#name "_" #sides, name, setup, rig_teardown, (void *)(uintptr_t)&(sides)}
/* clang-format on */
#define EACH(name)                                                                             \
    TEST(name, split), TEST(name, split_shared), TEST(name, packed), TEST(name, split_packed), \
        TEST(name, packed_split)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_sizes),
        EACH(test_a_new_part),
        TEST(test_arguments, split),
        TEST(test_arguments, packed),
        EACH(test_done_again_in_order),
        TEST(test_done_again_in_order, split_restore),
        TEST(test_done_again_in_order, shared_restore),
        EACH(test_equal_counters),
        EACH(test_arm_does_not_sleep_on_them),
        TEST(test_a_whole_lap, packed_tiny),
        TEST(test_lost_entries_come_back, packed),
        EACH(test_detach_clears_marks),
        EACH(test_detach_after_taking_over),
        EACH(test_detach_leaves_the_marks_of_lost_chains),
        EACH(test_heads_of_bad_parts),
        TEST(test_bad_split_parts, split),
        TEST(test_bad_split_parts, split_shared),
        TEST(test_bad_packed_parts, packed),
        EACH(test_any_byte),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
