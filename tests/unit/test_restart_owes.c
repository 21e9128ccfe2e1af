/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a back-end has to complete before it may be stopped (svq_relay_owes()): chains that an
 * earlier one was given, once a younger chain has been completed.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include <shadowvq/inflight.h>

#include "kit/rig.h"

enum { RING = 16 };

static const struct rig_sides split = {RING, 0, 0, 65530};
static const struct rig_sides split_shared = {RING, EVENT_IDX, 0, 65530, true};
static const struct rig_sides split_shared_restored = {RING, IN_ORDER, 0, 65530, true};
static const struct rig_sides split_restored = {RING, IN_ORDER, 0, 65530};
static const struct rig_sides split_pooled = {RING, 0, IN_ORDER, 0};
static const struct rig_sides split_packed = {RING, INDIRECT, PACKED | EVENT_IDX | INDIRECT, 0};
static const struct rig_sides packed = {RING + 1, PACKED | EVENT_IDX, PACKED | EVENT_IDX, 0x8000};
static const struct rig_sides packed_restored = {RING - 1, PACKED | IN_ORDER, PACKED, 3};
static const struct rig_sides packed_batches = {RING, PACKED, PACKED | IN_ORDER, 0x8003};
static const struct rig_sides packed_split = {RING, PACKED | INDIRECT, EVENT_IDX | INDIRECT, 3};

static uint64_t part[128]; /* of the in-flight region */

static void offer(struct rig *rig, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
}

static void take(struct rig *rig, uint16_t *ids, unsigned count)
{
    struct kit_buf bufs[2];

    for (unsigned i = 0; i < count; i++)
        ids[i] = rig_take(rig, bufs, 2);
}

static void complete(struct rig *rig, uint16_t id)
{
    rig_complete(rig, id, 1);
    rig_settle(rig);
}

static bool owes(const struct rig *rig)
{
    return svq_relay_owes(rig->relay);
}

/* Could the back-end stop after so many chains, of which it has completed so many? */
static bool may_stop(const struct rig *rig, unsigned taken, unsigned used)
{
    return svq_relay_drained(rig->relay, rig_shadow_base(rig, taken, used)) == 1;
}

/* ---- Another back-end ------------------------------------------------------------------------ */

/* What the present one has taken it completes after its stop: that is nothing to wait for. */
static void test_nothing_without_a_crash(void **state)
{
    static const unsigned order[] = {1, 3, 0, 2};
    struct rig *rig = *state;
    uint16_t ids[4];

    assert_false(owes(rig));
    offer(rig, 4);
    assert_false(owes(rig));
    take(rig, ids, 4);
    for (unsigned i = 0; i < 4; i++) {
        complete(rig, ids[order[i]]);
        assert_false(owes(rig));
    }
}

static void test_nothing_in_order(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[4];

    offer(rig, 4);
    take(rig, ids, 3);
    complete(rig, ids[0]);
    for (unsigned used = 0; used < 3; used++) {
        assert_int_equal(rig_restart(rig), 0);
        assert_false(owes(rig));
        assert_true(may_stop(rig, 0, 0));
        take(rig, ids, 3 - used);
        complete(rig, ids[0]);
        assert_false(owes(rig));
    }
}

/* The crash came between the completion of a chain and that of an older one. */
static void test_overtaken_before_the_crash(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    offer(rig, 3);
    take(rig, ids, 3);
    rig_complete(rig, ids[1], 1);
    for (unsigned crashes = 0; crashes < 3; crashes++) {
        assert_int_equal(rig_restart(rig), 0);
        assert_true(owes(rig));
        assert_false(may_stop(rig, 0, 0));
        take(rig, ids, 1);
        assert_true(owes(rig));
    }
    complete(rig, ids[0]);
    /* The third chain can go back. */
    assert_false(owes(rig));
    assert_true(may_stop(rig, 1, 1));
}

/* The present back-end itself leaves one behind that it was given as an old one. */
static void test_overtaken_after_the_crash(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    offer(rig, 2);
    take(rig, ids, 2);
    assert_int_equal(rig_restart(rig), 0);
    assert_false(owes(rig));
    assert_true(may_stop(rig, 0, 0));
    rig_offer_simple(rig, 2);
    rig_settle(rig);
    take(rig, ids, 3);
    assert_false(owes(rig));
    complete(rig, ids[2]);
    assert_true(owes(rig));
    complete(rig, ids[0]);
    assert_true(owes(rig));
    complete(rig, ids[1]);
    assert_false(owes(rig));
    assert_true(may_stop(rig, 3, 3));
}

/* Once the old ones are complete a back-end is like one that has no predecessor. */
static void test_only_what_is_old(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    offer(rig, 3);
    take(rig, ids, 3);
    rig_complete(rig, ids[2], 1);
    assert_int_equal(rig_restart(rig), 0);
    assert_true(owes(rig));
    take(rig, ids, 2);
    complete(rig, ids[1]);
    assert_true(owes(rig));
    complete(rig, ids[0]);
    assert_false(owes(rig));
    offer(rig, 3);
    take(rig, ids, 3);
    complete(rig, ids[2]);
    assert_false(owes(rig));
    assert_false(may_stop(rig, 5, 3));
}

/* Nothing moves any more: nobody need wait. */
static void test_nothing_after_a_fault(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    offer(rig, 3);
    take(rig, ids, 3);
    rig_complete(rig, ids[1], 1);
    assert_int_equal(rig_restart(rig), 0);
    assert_true(owes(rig));
    rig_complete(rig, (uint16_t)(rig->shadow.num + 5), 1);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    rig_expect_fault(rig, SVQ_SIDE_BACKEND);
    assert_false(owes(rig));
    assert_int_equal(rig_restart(rig), 0);
    assert_true(owes(rig));
}

/* ---- Another relay --------------------------------------------------------------------------- */

/* The relay is killed; the next one finds in the in-flight region what that left. */
static void begin(struct rig *rig)
{
    struct svq_relay_config config = rig_config(rig, rig->base);

    config.inflight = part;
    config.inflight_entries = rig->num;
    svq_relay_free(rig->relay);
    rig->relay = NULL;
    assert_int_equal(svq_relay_new(&config, &rig->relay), 0);
    rig_attach(rig, true, rig_shadow_base(rig, 0, 0));
}

static int setup_tracked(void **state)
{
    if (rig_setup(state) != 0)
        return -1;
    assert_true(sizeof(part) >= svq_inflight_size(SVQ_RING_PACKED, RING + 1));
    memset(part, 0, sizeof(part));
    begin(*state);
    return 0;
}

static void test_left_with_a_gap(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    offer(rig, 3);
    take(rig, ids, 3);
    complete(rig, ids[1]);
    assert_false(owes(rig));
    begin(rig);
    /* Not taken yet, ... */
    assert_true(owes(rig));
    assert_false(may_stop(rig, 0, 0));
    /* ... relayed, ... */
    rig_settle(rig);
    assert_true(owes(rig));
    /* ... with the back-end. */
    take(rig, ids, 1);
    assert_true(owes(rig));
    complete(rig, ids[0]);
    assert_false(owes(rig));
    assert_true(may_stop(rig, 1, 1));
}

/* The guest's ring still says what has to be done. */
static void test_left_without_a_gap(void **state)
{
    bool restored = ((struct rig *)*state)->features & IN_ORDER;
    struct rig *rig = *state;
    uint16_t ids[3];

    offer(rig, 3);
    take(rig, ids, 3);
    /* One that waits for an older one was not completed, as far as the region knows. */
    complete(rig, ids[restored ? 1 : 0]);
    begin(rig);
    assert_false(owes(rig));
    assert_true(may_stop(rig, 0, 0));
    rig_settle(rig);
    assert_false(owes(rig));
    assert_true(may_stop(rig, 0, 0));
    /* The next crash makes them another back-end's. */
    take(rig, ids, 2);
    complete(rig, ids[1]);
    assert_false(owes(rig));
    assert_int_equal(rig_restart(rig), 0);
    assert_true(owes(rig));
}

/* clang-format off */
#define TRACKED(name, sides) \
    {#name "_" #sides, name, setup_tracked, rig_teardown, (void *)(uintptr_t)&(sides)}
/* clang-format on */

int main(void)
{
#define LOOSE(name)                                                                             \
    RIG_TEST(name, split), RIG_TEST(name, split_shared), RIG_TEST(name, split_shared_restored), \
        RIG_TEST(name, split_packed), RIG_TEST(name, packed), RIG_TEST(name, packed_split),     \
        RIG_TEST(name, split_restored), RIG_TEST(name, packed_restored)
    const struct CMUnitTest tests[] = {
        LOOSE(test_nothing_without_a_crash),
        LOOSE(test_nothing_in_order),
        RIG_TEST(test_nothing_in_order, split_pooled),
        RIG_TEST(test_nothing_in_order, packed_batches),
        LOOSE(test_overtaken_before_the_crash),
        LOOSE(test_overtaken_after_the_crash),
        LOOSE(test_only_what_is_old),
        LOOSE(test_nothing_after_a_fault),
        TRACKED(test_left_with_a_gap, split),
        TRACKED(test_left_with_a_gap, split_packed),
        TRACKED(test_left_with_a_gap, packed),
        TRACKED(test_left_with_a_gap, packed_split),
        TRACKED(test_left_without_a_gap, split),
        TRACKED(test_left_without_a_gap, split_packed),
        TRACKED(test_left_without_a_gap, packed),
        TRACKED(test_left_without_a_gap, packed_split),
        TRACKED(test_left_without_a_gap, split_restored),
        TRACKED(test_left_without_a_gap, packed_restored),
    };

    return cmocka_run_group_tests_name("restart_owes", tests, NULL, NULL);
}
