/* SPDX-License-Identifier: BSD-3-Clause */
/* Kicks and calls, counted: nobody is woken who asked not to be, nobody sleeps through work. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { RING = 32 };

static int setup(void **state, uint64_t features, uint16_t base)
{
    struct rig *rig = malloc(sizeof(*rig));

    rig_init(rig, RING, features, base);
    *state = rig;
    return 0;
}

static int setup_flags(void **state)
{
    return setup(state, 0, 0);
}

static int setup_events(void **state)
{
    return setup(state, EVENT_IDX, 0);
}

static int setup_events_at_the_wrap(void **state)
{
    return setup(state, EVENT_IDX, 65530);
}

static int teardown(void **state)
{
    rig_free(*state);
    free(*state);
    return 0;
}

static bool kicks_backend(struct rig *rig)
{
    return rig_settle(rig) & SVQ_RELAY_KICK_BACKEND;
}

static bool calls_guest(struct rig *rig)
{
    return rig_settle(rig) & SVQ_RELAY_CALL_GUEST;
}

/* One chain all the way, nobody looking at notifications. */
static void pass_one(struct rig *rig)
{
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    assert_int_equal(rig_serve(rig, 1), 1);
    rig_settle(rig);
    rig_expect_done(rig, 1, 1);
}

/* ---- Without EVENT_IDX: flags ------------------------------------------------------------- */

static void test_flags_backend_kicks(void **state)
{
    struct rig *rig = *state;

    for (unsigned round = 0; round < 4; round++) {
        bool wanted = round & 1;

        rig->shadow.used->flags = !wanted;
        /* The event index has no meaning here. */
        *kit_avail_event(&rig->shadow) = wanted ? 0x8000 : (uint16_t)round;
        rig_offer_simple(rig, round);
        assert_int_equal(kicks_backend(rig), wanted);
        assert_int_equal(kicks_backend(rig), false);
        rig_serve(rig, 0);
        rig_settle(rig);
        rig_expect_done(rig, round, 0);
    }
    assert_int_equal(rig_stats(rig).backend_kicks, 2);
}

static void test_flags_guest_calls(void **state)
{
    struct rig *rig = *state;

    for (unsigned round = 0; round < 4; round++) {
        bool wanted = round & 1;

        rig->guest.avail->flags = !wanted;
        *kit_used_event(&rig->guest) = wanted ? 0x8000 : (uint16_t)round;
        rig_offer_simple(rig, round);
        rig_settle(rig);
        rig_serve(rig, 0);
        assert_int_equal(calls_guest(rig), wanted);
        assert_int_equal(calls_guest(rig), false);
        rig_expect_done(rig, round, 0);
    }
    assert_int_equal(rig_stats(rig).guest_calls, 2);
}

/* Bits other than the first are reserved. */
static void test_flags_other_bits(void **state)
{
    struct rig *rig = *state;

    rig->shadow.used->flags = 0xfffe;
    rig->guest.avail->flags = 0xfffe;
    rig_offer_simple(rig, 1);
    assert_true(kicks_backend(rig));
    rig_serve(rig, 0);
    assert_true(calls_guest(rig));
}

static void test_flags_arm_and_disarm(void **state)
{
    struct rig *rig = *state;

    assert_false(svq_relay_arm(rig->relay));
    assert_int_equal(rig->guest.used->flags, 0);
    assert_int_equal(rig->shadow.avail->flags, 0);
    assert_true(rig_offer_simple(rig, 1));
    svq_relay_disarm(rig->relay);
    assert_int_equal(rig->guest.used->flags, 1);
    assert_int_equal(rig->shadow.avail->flags, 1);
    assert_false(rig_offer_simple(rig, 2));
    rig_settle(rig);
    assert_int_equal(rig_serve(rig, 0), 2);
    rig_settle(rig);
    rig_expect_done(rig, 1, 0);
    rig_expect_done(rig, 2, 0);
    assert_false(svq_relay_arm(rig->relay));
    assert_int_equal(rig->guest.used->flags, 0);
    assert_int_equal(rig->shadow.avail->flags, 0);
}

/* ---- With EVENT_IDX ------------------------------------------------------------------------ */

/* Only the chain that the back-end waits for kicks it, and only once. */
static void test_events_backend_kicks(void **state)
{
    struct rig *rig = *state;

    pass_one(rig);
    for (unsigned wait = 0; wait < RING / 2; wait++) {
        uint16_t at = rig_state(rig).backend_avail;
        uint64_t kicks = rig_stats(rig).backend_kicks;

        *kit_avail_event(&rig->shadow) = (uint16_t)(at + wait);
        /* Flags have no meaning here. */
        rig->shadow.used->flags = wait & 1;
        for (unsigned i = 0; i < RING / 2; i++) {
            rig_offer_simple(rig, i);
            assert_int_equal(kicks_backend(rig), i == wait);
        }
        assert_int_equal(rig_stats(rig).backend_kicks, kicks + 1);
        rig_serve(rig, 1);
        rig_settle(rig);
        for (unsigned i = 0; i < RING / 2; i++)
            rig_expect_done(rig, i, 1);
    }
}

static void test_events_guest_calls(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];

    pass_one(rig);
    for (unsigned wait = 0; wait < RING / 2; wait++) {
        uint16_t at = rig_state(rig).guest_used;
        uint64_t calls = rig_stats(rig).guest_calls;

        *kit_used_event(&rig->guest) = (uint16_t)(at + wait);
        rig->guest.avail->flags = wait & 1;
        for (unsigned i = 0; i < RING / 2; i++)
            rig_offer_simple(rig, i);
        rig_settle(rig);
        for (unsigned i = 0; i < RING / 2; i++) {
            rig_complete(rig, rig_take(rig, bufs, 2), 1);
            assert_int_equal(calls_guest(rig), i == wait);
        }
        assert_int_equal(rig_stats(rig).guest_calls, calls + 1);
        for (unsigned i = 0; i < RING / 2; i++)
            rig_expect_done(rig, i, 1);
    }
}

/* A batch notifies if the event lies anywhere in it. */
static void test_events_in_a_batch(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];

    pass_one(rig);
    for (int event = -2; event <= 9; event++) {
        bool crossed = event >= 0 && event < 8;

        *kit_avail_event(&rig->shadow) = (uint16_t)(rig_state(rig).backend_avail + event);
        *kit_used_event(&rig->guest) = (uint16_t)(rig_state(rig).guest_used + event);
        for (unsigned i = 0; i < 8; i++)
            rig_offer_simple(rig, i);
        assert_int_equal(kicks_backend(rig), crossed);
        for (unsigned i = 0; i < 8; i++)
            rig_complete(rig, rig_take(rig, bufs, 2), 1);
        assert_int_equal(calls_guest(rig), crossed);
        for (unsigned i = 0; i < 8; i++)
            rig_expect_done(rig, i, 1);
    }
}

static void test_events_arm(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];

    for (unsigned i = 0; i < 20; i++) {
        uint16_t id;

        assert_false(svq_relay_arm(rig->relay));
        assert_int_equal(*kit_avail_event(&rig->guest), rig_state(rig).guest_avail);
        assert_int_equal(*kit_used_event(&rig->shadow), rig_state(rig).backend_used);
        /* The very next chain and completion notify. */
        assert_true(rig_offer_simple(rig, i));
        rig_settle(rig);
        id = rig_take(rig, bufs, 2);
        assert_false(svq_relay_arm(rig->relay));
        assert_true(rig_complete(rig, id, 1));
        rig_settle(rig);
        rig_expect_done(rig, i, 1);
    }
}

/* While the relay polls, neither side notifies, however long (but once, for an older event). */
static void test_events_disarmed(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    unsigned kicks = 0, calls = 0;

    assert_false(svq_relay_arm(rig->relay));
    svq_relay_disarm(rig->relay);
    for (unsigned i = 0; i < 30000; i++) {
        kicks += rig_offer_simple(rig, i);
        rig_settle(rig);
        calls += rig_complete(rig, rig_take(rig, bufs, 2), 1);
        rig_settle(rig);
        rig_expect_done(rig, i, 1);
    }
    assert_in_range(kicks, 0, 1);
    assert_in_range(calls, 0, 1);
    assert_false(svq_relay_arm(rig->relay));
    assert_true(rig_offer_simple(rig, 1));
}

/* ---- Both: the look again after asking ------------------------------------------------------ */

static void test_arm_sees_a_new_chain(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];

    for (unsigned i = 0; i < 10; i++) {
        svq_relay_disarm(rig->relay);
        rig_settle(rig);
        rig_offer_simple(rig, i);
        assert_true(svq_relay_arm(rig->relay));
        assert_true(rig_poll(rig) & SVQ_RELAY_BUSY);
        assert_false(svq_relay_arm(rig->relay));
        rig_complete(rig, rig_take(rig, bufs, 2), 1);
        rig_settle(rig);
        rig_expect_done(rig, i, 1);
    }
}

static void test_arm_sees_a_completion(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];

    for (unsigned i = 0; i < 10; i++) {
        svq_relay_disarm(rig->relay);
        rig_offer_simple(rig, i);
        rig_settle(rig);
        rig_complete(rig, rig_take(rig, bufs, 2), 1);
        assert_true(svq_relay_arm(rig->relay));
        assert_true(rig_poll(rig) & SVQ_RELAY_BUSY);
        assert_false(svq_relay_arm(rig->relay));
        rig_expect_done(rig, i, 1);
    }
}

/* Held, with a completion that waits: that is work. */
static void test_arm_while_held(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    svq_relay_hold(rig->relay, true);
    rig_offer_simple(rig, 2);
    assert_false(svq_relay_arm(rig->relay));
    rig_complete(rig, rig_take(rig, bufs, 2), 1);
    assert_true(svq_relay_arm(rig->relay));
    rig_settle(rig);
    rig_expect_done(rig, 1, 1);
}

/* A back-end that is about to stop may trip over its call fd: while held, it is asked not to call.
 */
static void test_held_is_silent(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t ids[RING / 2];

    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < RING / 2; i++)
            rig_offer_simple(rig, i);
        rig_settle(rig);
        for (unsigned i = 0; i < RING / 2; i++)
            ids[i] = rig_take(rig, bufs, 2);
        assert_false(svq_relay_arm(rig->relay));
        svq_relay_hold(rig->relay, true);
        /* One, several, all: and arming or polling does not change it. */
        assert_false(rig_complete(rig, ids[0], 1));
        rig_settle(rig);
        assert_false(svq_relay_arm(rig->relay));
        assert_false(rig_complete(rig, ids[1], 1));
        for (unsigned i = 2; i < RING / 2; i++)
            rig->device.device.ops->complete(&rig->device.device, ids[i], 1, 1);
        assert_false(rig->device.device.ops->publish(&rig->device.device));
        rig_settle(rig);
        for (unsigned i = 0; i < RING / 2; i++)
            rig_expect_done(rig, i, 1);
        /* Afterwards calls are wanted again. */
        svq_relay_hold(rig->relay, false);
        rig_offer_simple(rig, 9);
        rig_settle(rig);
        assert_false(svq_relay_arm(rig->relay));
        assert_true(rig_complete(rig, rig_take(rig, bufs, 2), 1));
        rig_settle(rig);
        rig_expect_done(rig, 9, 1);
    }
}

/* A fault is work too: somebody has to be told. And a broken ring never keeps anyone awake. */
static void test_arm_and_faults(void **state)
{
    struct rig *rig = *state;

    rig->guest.avail->idx += RING + 1;
    assert_true(svq_relay_arm(rig->relay));
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_false(svq_relay_arm(rig->relay));
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

static void test_spurious_notifications(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < 100; i++) {
        svq_relay_count_kick(rig->relay);
        svq_relay_count_call(rig->relay);
        assert_int_equal(rig_poll(rig), 0);
        assert_false(svq_relay_arm(rig->relay));
        if (i % 10 == 0)
            pass_one(rig);
    }
    assert_int_equal(rig_stats(rig).guest_kicks, 100);
    assert_int_equal(rig_stats(rig).backend_calls, 100);
}

int main(void)
{
#define FLAGS(name)  RIG_TEST(name, "", setup_flags)
#define EVENTS(name) RIG_TEST(name, "", setup_events)
#define WRAP(name)   RIG_TEST(name, "_at_the_wrap", setup_events_at_the_wrap)
#define BOTH(name)   RIG_TEST(name, "_flags", setup_flags), RIG_TEST(name, "_events", setup_events)
    const struct CMUnitTest tests[] = {
        FLAGS(test_flags_backend_kicks),   FLAGS(test_flags_guest_calls),
        FLAGS(test_flags_other_bits),      FLAGS(test_flags_arm_and_disarm),
        EVENTS(test_events_backend_kicks), WRAP(test_events_backend_kicks),
        EVENTS(test_events_guest_calls),   WRAP(test_events_guest_calls),
        EVENTS(test_events_in_a_batch),    WRAP(test_events_in_a_batch),
        EVENTS(test_events_arm),           WRAP(test_events_arm),
        EVENTS(test_events_disarmed),      BOTH(test_arm_sees_a_new_chain),
        BOTH(test_arm_sees_a_completion),  BOTH(test_arm_while_held),
        BOTH(test_held_is_silent),         BOTH(test_arm_and_faults),
        BOTH(test_spurious_notifications),
    };

    return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
