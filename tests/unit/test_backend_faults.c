/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a back-end may not do with used entries, broken once in every format: the relay says whose
 * fault it is, stops, and the guest hears of nothing that was not completed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { RING = 16 };

static const struct rig_sides mirrored = {RING, EVENT_IDX, EVENT_IDX, 0};
static const struct rig_sides shared = {RING, EVENT_IDX, EVENT_IDX, 0, true};
static const struct rig_sides split_flat = {RING, INDIRECT, 0, 65533};
static const struct rig_sides split_packed = {RING, 0, PACKED | EVENT_IDX, 1};
static const struct rig_sides packed = {RING, PACKED, PACKED, 0x8000 | 15};
static const struct rig_sides packed_flat = {RING + 5, PACKED | INDIRECT, PACKED, 0};
static const struct rig_sides packed_split = {RING + 5, PACKED, 0, 0x8000 | 20};

/* The guest has IN_ORDER, the back-end has not. */
static const struct rig_sides strict_split = {RING, PACKED | IN_ORDER, 0, 3};
static const struct rig_sides strict_shared = {RING, IN_ORDER, 0, 65530, true};
static const struct rig_sides strict_packed = {RING, IN_ORDER, PACKED, 65535};

/* Three chains out, the last of them completed properly. Return: the ids still out. */
static void three_out(struct rig *rig, uint16_t ids[3])
{
    struct kit_buf bufs[2];

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    for (unsigned i = 0; i < 3; i++)
        ids[i] = rig_take(rig, bufs, 2);
    rig_complete(rig, ids[2], 1);
    rig_settle(rig);
}

/* How many of these the guest has got: none that waits for the first one. */
static unsigned delivered(const struct rig *rig)
{
    return rig->features & IN_ORDER ? 0 : 1;
}

/* A used entry after those that the relay has read. */
static void put_used(struct rig *rig, uint32_t id)
{
    uint16_t idx;

    if (rig->shadow.format == SVQ_RING_PACKED) {
        rig_complete(rig, (uint16_t)id, 1);
        return;
    }
    idx = rig->shadow.split.used->idx;
    rig->shadow.split.used->ring[idx % rig->shadow.num] = (struct kit_used_elem){id, 1};
    kit_set16(&rig->shadow.split.used->idx, (uint16_t)(idx + 1));
}

/* The guest hears of `completed` chains altogether, and of nothing else. */
static void expect_backend_fault(struct rig *rig, unsigned completed)
{
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_int_equal(rig_completed(rig), completed);
    assert_int_equal(rig_stats(rig).chains, completed);
    rig_expect_fault(rig, SVQ_SIDE_BACKEND);
}

static void check_used_id(struct rig *rig, uint32_t id)
{
    uint16_t ids[3];

    three_out(rig, ids);
    put_used(rig, id);
    expect_backend_fault(rig, delivered(rig));
}

static void test_used_id_out_of_range(void **state)
{
    check_used_id(*state, ((struct rig *)*state)->shadow.num);
}

static void test_used_id_far_out_of_range(void **state)
{
    check_used_id(*state, UINT32_MAX); /* packed: as far as 16 bits go */
}

/* Its low 16 bits are a chain in flight. */
static void test_used_id_of_more_than_16_bits(void **state)
{
    check_used_id(*state, 0x10000);
}

static void test_used_id_not_outstanding(void **state)
{
    check_used_id(*state, ((struct rig *)*state)->shadow.num - 1);
}

static void test_used_id_twice(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    three_out(rig, ids);
    put_used(rig, ids[2]);
    expect_backend_fault(rig, delivered(rig));
}

static void test_used_id_twice_in_a_batch(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    three_out(rig, ids);
    put_used(rig, ids[0]);
    put_used(rig, ids[0]);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_in_range(rig_completed(rig), delivered(rig), delivered(rig) + 1);
    rig_expect_fault(rig, SVQ_SIDE_BACKEND);
}

/* A chain's second descriptor is no chain. */
static void test_used_id_of_a_chains_middle(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    three_out(rig, ids);
    /* Slots are in order in a fresh ring, mirrored or not. */
    put_used(rig, ids[0] + 1u);
    expect_backend_fault(rig, delivered(rig));
}

static void check_used_jump(struct rig *rig, unsigned by)
{
    uint16_t ids[3];

    three_out(rig, ids);
    rig->shadow.split.used->ring[1] = (struct kit_used_elem){ids[0], 1};
    rig->shadow.split.used->ring[2] = (struct kit_used_elem){ids[1], 1};
    rig->shadow.split.used->idx = (uint16_t)(rig->shadow.split.used->idx + by);
    expect_backend_fault(rig, delivered(rig));
}

static void test_used_idx_jumps(void **state)
{
    check_used_jump(*state, 3);
}

static void test_used_idx_jumps_far(void **state)
{
    check_used_jump(*state, RING + 1);
}

static void test_used_idx_goes_back(void **state)
{
    check_used_jump(*state, 0xffff);
}

static void test_used_although_nothing_is_out(void **state)
{
    struct rig *rig = *state;

    put_used(rig, 0);
    expect_backend_fault(rig, 0);
}

/* Completions that are right reach the guest although the guest itself breaks a rule then. */
static void test_good_completions_before_a_guest_fault(void **state)
{
    static const struct kit_buf nowhere = {1, 1, true};
    struct rig *rig = *state;
    uint16_t ids[3];

    three_out(rig, ids);
    put_used(rig, ids[0]);
    rig_offer(rig, &nowhere, 1, 9);
    assert_int_equal(svq_relay_poll(rig->relay) & ~SVQ_RELAY_CALL_GUEST,
                     SVQ_RELAY_BUSY | SVQ_RELAY_FAULT);
    assert_int_equal(rig_completed(rig), delivered(rig) + 1);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

int main(void)
{
#define TO_SPLIT(name)                                                                  \
    RIG_TEST(name, mirrored), RIG_TEST(name, split_flat), RIG_TEST(name, packed_split), \
        RIG_TEST(name, strict_split)
#define TO_PACKED(name)                                                                  \
    RIG_TEST(name, packed), RIG_TEST(name, split_packed), RIG_TEST(name, strict_packed), \
        RIG_TEST(name, packed_flat)
#define SHARED(name)       RIG_TEST(name, shared), RIG_TEST(name, strict_shared)
#define TO_ANY_SPLIT(name) TO_SPLIT(name), SHARED(name)
#define ALL(name)          TO_ANY_SPLIT(name), TO_PACKED(name)
    const struct CMUnitTest tests[] = {
        ALL(test_used_id_out_of_range),
        ALL(test_used_id_far_out_of_range),
        TO_ANY_SPLIT(test_used_id_of_more_than_16_bits),
        ALL(test_used_id_not_outstanding),
        ALL(test_used_id_twice),
        ALL(test_used_id_twice_in_a_batch),
        ALL(test_used_id_of_a_chains_middle),
        TO_ANY_SPLIT(test_used_idx_jumps),
        TO_ANY_SPLIT(test_used_idx_jumps_far),
        TO_ANY_SPLIT(test_used_idx_goes_back),
        ALL(test_used_although_nothing_is_out),
        TO_SPLIT(test_good_completions_before_a_guest_fault),
        TO_PACKED(test_good_completions_before_a_guest_fault),
    };

    return cmocka_run_group_tests_name("backend_faults", tests, NULL, NULL);
}
