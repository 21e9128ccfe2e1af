/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Each rule of a guest's split ring, broken once, before back-ends of every kind: the relay says
 * whose fault it is, stops, and neither passes on what is wrong nor takes back what was right.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "kit/logged.h"

enum { RING = 16 };

#define BOTH (EVENT_IDX | INDIRECT)

/* The guest's slots mirrored; pooled with tables converted; pooled with tables flattened. */
static const struct rig_sides mirrored = {RING, BOTH, BOTH, 0};
static const struct rig_sides shared = {RING, BOTH, BOTH, 0, true};
static const struct rig_sides converted = {RING, BOTH, BOTH | PACKED, 0};
static const struct rig_sides flattened = {RING, BOTH, EVENT_IDX, 0};
static const struct rig_sides flattened_packed = {RING, BOTH, EVENT_IDX | PACKED, 0};

/* No indirect tables at the guest. */
static const struct rig_sides direct_only = {RING, EVENT_IDX, BOTH, 0};
static const struct rig_sides direct_only_shared = {RING, EVENT_IDX, BOTH, 0, true};
static const struct rig_sides direct_only_packed = {RING, EVENT_IDX, BOTH | PACKED, 0};

/* ---- The guest ----------------------------------------------------------------------------- */

static struct kit_desc *desc(struct rig *rig, unsigned i, uint64_t addr, uint32_t len,
                             unsigned flags, unsigned next)
{
    rig->guest.split.desc[i] = (struct kit_desc){addr, len, (uint16_t)flags, (uint16_t)next};
    return &rig->guest.split.desc[i];
}

static struct kit_desc *table(struct rig *rig)
{
    return kit_memory_at(&rig->memory, RIG_TABLES, 32768 * sizeof(struct kit_desc));
}

static void offer_head(struct rig *rig, unsigned head)
{
    uint16_t idx = rig->guest.split.avail->idx;

    rig->guest.split.avail->ring[idx % RING] = (uint16_t)head;
    kit_set16(&rig->guest.split.avail->idx, (uint16_t)(idx + 1));
}

/*
 * The chain at head 0 is refused. A good one before it, in the same turn, has been passed on or
 * not; the bad one never is.
 */
static void expect_refused(struct rig *rig)
{
    unsigned before = rig_state(rig).in_flight, good = 0;
    struct kit_buf bufs[RING];
    uint16_t id;

    while (rig->device->ops->take(rig->device, &id, bufs, RING) > 0)
        ;
    desc(rig, RING - 1, RIG_DATA + 77, 1, 0, 0);
    offer_head(rig, RING - 1);
    offer_head(rig, 0);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    for (; rig->device->ops->take(rig->device, &id, bufs, RING) > 0; good++)
        assert_int_equal(bufs[0].gpa, RIG_DATA + 77);
    assert_null(rig->device->broken);
    assert_in_range(good, 0, 1);
    assert_int_equal(rig_state(rig).in_flight, before + good);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

static void test_head_out_of_range(void **state)
{
    struct rig *rig = *state;

    offer_head(rig, RING);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    rig_expect_idle_device(rig);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

static void test_head_far_out_of_range(void **state)
{
    struct rig *rig = *state;

    offer_head(rig, 0xffff);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    rig_expect_idle_device(rig);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

static void check_avail_jump(struct rig *rig, unsigned by)
{
    for (unsigned i = 0; i < RING; i++) {
        desc(rig, i, RIG_DATA, 1, 0, 0);
        rig->guest.split.avail->ring[i] = (uint16_t)i;
    }
    rig->guest.split.avail->idx = (uint16_t)(rig->guest.split.avail->idx + by);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    rig_expect_idle_device(rig);
    assert_int_equal(rig_state(rig).in_flight, 0);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

static void test_avail_idx_jumps(void **state)
{
    check_avail_jump(*state, RING + 1);
}

static void test_avail_idx_goes_back(void **state)
{
    check_avail_jump(*state, 0xffff);
}

/* More chains than the ring has entries, without a jump: the same heads again (CVE-2016-5403). */
static void test_more_than_a_ring_outstanding(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < RING; i++) {
        desc(rig, i, RIG_DATA, 1, 0, 0);
        offer_head(rig, i);
    }
    rig_settle(rig);
    assert_int_equal(rig_state(rig).in_flight, RING);
    offer_head(rig, 3);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_int_equal(rig_state(rig).in_flight, RING);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

static void test_head_offered_twice(void **state)
{
    struct rig *rig = *state;

    desc(rig, 0, RIG_DATA, 1, 0, 0);
    offer_head(rig, 0);
    rig_settle(rig);
    assert_int_equal(rig_state(rig).in_flight, 1);
    expect_refused(rig);
}

static void test_head_offered_twice_in_a_batch(void **state)
{
    struct rig *rig = *state;

    desc(rig, 0, RIG_DATA, 1, 0, 0);
    offer_head(rig, 0);
    offer_head(rig, 0);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_in_range(rig_state(rig).in_flight, 0, 1);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

/* A descriptor of a chain in flight cannot be another chain's: the shadow has that slot once. */
static void test_chains_that_share_a_descriptor(void **state)
{
    struct rig *rig = *state;

    desc(rig, 5, RIG_DATA, 1, KIT_F_NEXT, 6);
    desc(rig, 6, RIG_DATA, 1, 0, 0);
    offer_head(rig, 5);
    rig_settle(rig);
    desc(rig, 0, RIG_DATA, 1, KIT_F_NEXT, 6);
    expect_refused(rig);
}

static void test_next_out_of_range(void **state)
{
    struct rig *rig = *state;

    desc(rig, 0, RIG_DATA, 1, KIT_F_NEXT, RING);
    expect_refused(rig);
}

static void test_chain_loops(void **state)
{
    struct rig *rig = *state;

    desc(rig, 0, RIG_DATA, 1, KIT_F_NEXT, 1);
    desc(rig, 1, RIG_DATA, 1, KIT_F_NEXT, 2);
    desc(rig, 2, RIG_DATA, 1, KIT_F_NEXT, 1);
    expect_refused(rig);
}

static void test_chain_loops_on_itself(void **state)
{
    struct rig *rig = *state;

    desc(rig, 0, RIG_DATA, 1, KIT_F_NEXT, 0);
    expect_refused(rig);
}

static void test_readable_after_writable(void **state)
{
    struct rig *rig = *state;

    desc(rig, 0, RIG_DATA, 1, KIT_F_NEXT | KIT_F_WRITE, 1);
    desc(rig, 1, RIG_DATA, 1, 0, 0);
    expect_refused(rig);
}

static void check_buffer(struct rig *rig, uint64_t addr, uint32_t len, unsigned flags)
{
    desc(rig, 0, addr, len, flags, 0);
    expect_refused(rig);
}

static void test_buffer_below_memory(void **state)
{
    check_buffer(*state, RIG_GPA - 1, 2, 0);
}

static void test_buffer_beyond_memory(void **state)
{
    check_buffer(*state, RIG_END - 1, 2, KIT_F_WRITE);
}

static void test_buffer_elsewhere(void **state)
{
    check_buffer(*state, UINT64_C(1) << 40, 1, KIT_F_WRITE);
}

static void test_buffer_at_null(void **state)
{
    check_buffer(*state, 0, 4096, KIT_F_WRITE);
}

static void test_buffer_wraps(void **state)
{
    check_buffer(*state, UINT64_MAX, 2, 0);
}

static void test_buffer_wraps_into_memory(void **state)
{
    check_buffer(*state, UINT64_MAX - 0xffff, UINT32_MAX, 0);
}

static void test_huge_len(void **state)
{
    check_buffer(*state, RIG_DATA, UINT32_MAX, KIT_F_WRITE);
}

/* The second half is bad: the first must not stay behind in flight. */
static void test_second_buffer_bad(void **state)
{
    struct rig *rig = *state;

    desc(rig, 0, RIG_DATA, 1, KIT_F_NEXT, 1);
    desc(rig, 1, RIG_END, 1, 0, 0);
    expect_refused(rig);
}

/* 2^32 bytes in a chain at most: here with one region of 3 GiB, so that only the sum is wrong. */
static void check_bytes(struct rig *rig, uint32_t last, bool good)
{
    struct svq_region regions[2];
    struct svq_map *map = NULL;
    uint64_t high = UINT64_C(1) << 36;

    regions[0] = *svq_map_region(rig->memory.map, 0);
    regions[1] =
        (struct svq_region){high, UINT64_C(3) << 30, 0x1000, 0, kit_file(UINT64_C(3) << 30)};
    assert_int_equal(svq_map_new(regions, 2, rig->memory.map, &map), 0);
    close(regions[1].fd);
    svq_relay_set_guest(rig->relay, &rig->guest.at, map);
    svq_map_unref(map);
    desc(rig, 0, high, 0x80000000, KIT_F_NEXT, 1);
    desc(rig, 1, high, 0x7fffffff, KIT_F_NEXT, 2);
    desc(rig, 2, high, last, KIT_F_WRITE, 0);
    if (!good) {
        expect_refused(rig);
        return;
    }
    offer_head(rig, 0);
    rig_settle(rig);
    assert_int_equal(rig_state(rig).in_flight, 1);
}

static void test_as_many_bytes_as_may_be(void **state)
{
    check_bytes(*state, 1, true);
}

static void test_too_many_bytes(void **state)
{
    check_bytes(*state, 2, false);
}

/* ---- The guest's indirect tables ---------------------------------------------------------------
 */

static void check_indirect(struct rig *rig, uint64_t addr, uint32_t len, unsigned flags)
{
    desc(rig, 0, addr, len, KIT_F_INDIRECT | flags, 1);
    desc(rig, 1, RIG_DATA, 1, 0, 0);
    if (table(rig)[0].len == 0)
        table(rig)[0] = (struct kit_desc){RIG_DATA, 1, 0, 0};
    expect_refused(rig);
}

static void test_indirect_not_negotiated(void **state)
{
    check_indirect(*state, RIG_TABLES, 16, 0);
}

static void test_indirect_with_next(void **state)
{
    check_indirect(*state, RIG_TABLES, 16, KIT_F_NEXT);
}

static void test_indirect_of_no_length(void **state)
{
    check_indirect(*state, RIG_TABLES, 0, 0);
}

static void test_indirect_of_odd_length(void **state)
{
    check_indirect(*state, RIG_TABLES, 24, 0);
}

static void test_indirect_of_a_short_length(void **state)
{
    check_indirect(*state, RIG_TABLES, 15, 0);
}

static void test_indirect_nested(void **state)
{
    table(*state)[0] = (struct kit_desc){RIG_TABLES + 64, 16, KIT_F_INDIRECT, 0};
    table(*state)[4] = (struct kit_desc){RIG_DATA, 1, 0, 0};
    check_indirect(*state, RIG_TABLES, 16, 0);
}

/* Its first entry is a good chain; its second one lies beyond the end of memory. */
static void test_indirect_outside_memory(void **state)
{
    struct rig *rig = *state;
    struct kit_desc *last = kit_memory_at(&rig->memory, RIG_END - 16, 16);

    *last = (struct kit_desc){RIG_DATA, 1, 0, 0};
    check_indirect(rig, RIG_END - 16, 32, 0);
}

static void test_indirect_that_wraps(void **state)
{
    check_indirect(*state, UINT64_MAX - 15, 0xfffffff0, 0);
}

static void test_indirect_next_out_of_range(void **state)
{
    table(*state)[0] = (struct kit_desc){RIG_DATA, 1, KIT_F_NEXT, 2};
    table(*state)[2] = (struct kit_desc){RIG_DATA, 1, 0, 0};
    check_indirect(*state, RIG_TABLES, 32, 0);
}

static void test_indirect_loops(void **state)
{
    table(*state)[0] = (struct kit_desc){RIG_DATA, 1, KIT_F_NEXT, 1};
    table(*state)[1] = (struct kit_desc){RIG_DATA, 1, KIT_F_NEXT, 0};
    check_indirect(*state, RIG_TABLES, 32, 0);
}

static void test_indirect_readable_after_writable(void **state)
{
    table(*state)[0] = (struct kit_desc){RIG_DATA, 1, KIT_F_NEXT | KIT_F_WRITE, 1};
    table(*state)[1] = (struct kit_desc){RIG_DATA, 1, 0, 0};
    check_indirect(*state, RIG_TABLES, 32, 0);
}

static void test_indirect_readable_after_direct_writable(void **state)
{
    struct rig *rig = *state;

    table(rig)[0] = (struct kit_desc){RIG_DATA, 1, 0, 0};
    desc(rig, 0, RIG_DATA, 1, KIT_F_WRITE | KIT_F_NEXT, 1);
    desc(rig, 1, RIG_TABLES, 16, KIT_F_INDIRECT, 0);
    expect_refused(rig);
}

static void test_indirect_buffer_outside_memory(void **state)
{
    table(*state)[0] = (struct kit_desc){RIG_DATA, 1, KIT_F_NEXT, 1};
    table(*state)[1] = (struct kit_desc){RIG_END - 1, 2, KIT_F_WRITE, 0};
    check_indirect(*state, RIG_TABLES, 32, 0);
}

/* No driver makes such a table; memory for copies of them must not be had for the asking. */
static void test_indirect_of_too_many_entries(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < 4096; i++)
        table(rig)[i] =
            (struct kit_desc){RIG_DATA, 1, i < 4095 ? KIT_F_NEXT : 0, (uint16_t)(i + 1)};
    check_indirect(rig, RIG_TABLES, 4096 * 16, 0);
}

/* Of a shared descriptor table no more is looked at than heads, unless there is a log. */
static int setup_with_log(void **state)
{
    if (logged_setup(state))
        return -1;
    logged_start(*state, false);
    return 0;
}

int main(void)
{
/* clang-format off */
#define WITH_LOG(name, sides) \
    {#name "_" #sides "_log", name, setup_with_log, logged_teardown, (void *)(uintptr_t)&(sides)}
/* clang-format on */
#define TABLES(name)                                                                \
    RIG_TEST(name, mirrored), RIG_TEST(name, converted), RIG_TEST(name, flattened), \
        RIG_TEST(name, flattened_packed), WITH_LOG(name, shared)
#define ALL(name)                                                                  \
    TABLES(name), RIG_TEST(name, direct_only), RIG_TEST(name, direct_only_packed), \
        WITH_LOG(name, direct_only_shared)
#define HEADS(name) ALL(name), RIG_TEST(name, shared), RIG_TEST(name, direct_only_shared)
    const struct CMUnitTest tests[] = {
        HEADS(test_head_out_of_range),
        HEADS(test_head_far_out_of_range),
        HEADS(test_avail_idx_jumps),
        HEADS(test_avail_idx_goes_back),
        HEADS(test_more_than_a_ring_outstanding),
        ALL(test_next_out_of_range),
        ALL(test_chain_loops),
        ALL(test_chain_loops_on_itself),
        ALL(test_readable_after_writable),
        ALL(test_buffer_below_memory),
        ALL(test_buffer_beyond_memory),
        ALL(test_buffer_elsewhere),
        ALL(test_buffer_at_null),
        ALL(test_buffer_wraps),
        ALL(test_buffer_wraps_into_memory),
        ALL(test_huge_len),
        ALL(test_second_buffer_bad),
        ALL(test_as_many_bytes_as_may_be),
        ALL(test_too_many_bytes),
        /* Only mirrored slots can be taken twice. */
        RIG_TEST(test_head_offered_twice, mirrored),
        RIG_TEST(test_head_offered_twice, shared),
        WITH_LOG(test_head_offered_twice, shared),
        RIG_TEST(test_head_offered_twice_in_a_batch, mirrored),
        RIG_TEST(test_head_offered_twice_in_a_batch, shared),
        WITH_LOG(test_head_offered_twice_in_a_batch, shared),
        RIG_TEST(test_chains_that_share_a_descriptor, mirrored),
        WITH_LOG(test_chains_that_share_a_descriptor, shared),
        RIG_TEST(test_indirect_not_negotiated, direct_only),
        WITH_LOG(test_indirect_not_negotiated, direct_only_shared),
        RIG_TEST(test_indirect_not_negotiated, direct_only_packed),
        TABLES(test_indirect_with_next),
        TABLES(test_indirect_of_no_length),
        TABLES(test_indirect_of_odd_length),
        TABLES(test_indirect_of_a_short_length),
        TABLES(test_indirect_nested),
        TABLES(test_indirect_outside_memory),
        TABLES(test_indirect_that_wraps),
        TABLES(test_indirect_next_out_of_range),
        TABLES(test_indirect_loops),
        TABLES(test_indirect_readable_after_writable),
        TABLES(test_indirect_readable_after_direct_writable),
        TABLES(test_indirect_buffer_outside_memory),
        TABLES(test_indirect_of_too_many_entries),
    };

    return cmocka_run_group_tests_name("faults", tests, NULL, NULL);
}
