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

static const struct rig_sides split = {RING, 0, 0, 0};
static const struct rig_sides split_shared = {RING, 0, 0, 0, true};
static const struct rig_sides packed = {RING, PACKED, PACKED, 0x8000};
static const struct rig_sides split_packed = {RING, 0, PACKED, 65530};
static const struct rig_sides packed_split = {RING + 5, PACKED, 0, 30};

static const struct rig_sides split_events = {RING, EVENT_IDX, EVENT_IDX, 0};
static const struct rig_sides split_shared_events = {RING, EVENT_IDX, EVENT_IDX, 65530, true};
static const struct rig_sides split_events_at_the_wrap = {RING, EVENT_IDX, EVENT_IDX, 65530};
static const struct rig_sides packed_events = {RING, PACKED | EVENT_IDX, PACKED | EVENT_IDX, 31};
static const struct rig_sides split_packed_events = {RING, EVENT_IDX, PACKED | EVENT_IDX, 0};
static const struct rig_sides packed_split_events = {RING + 1, PACKED | EVENT_IDX, EVENT_IDX,
                                                     0x8011};

/* Only one side has events. */
static const struct rig_sides events_flags = {RING, EVENT_IDX, PACKED, 0};
static const struct rig_sides flags_events = {RING, PACKED, EVENT_IDX, 7};

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

/* ---- What the two peers ask for --------------------------------------------------------------
 *
 * `garbage` is in the words that mean nothing then.
 */

static void backend_wants(struct rig *rig, bool kicks, uint16_t garbage)
{
    if (rig->shadow.format == SVQ_RING_PACKED) {
        kit_event_set(rig->shadow.packed.device, garbage,
                      kicks ? KIT_EVENT_ENABLE : KIT_EVENT_DISABLE);
        return;
    }
    rig->shadow.split.used->flags = !kicks;
    *kit_avail_event(&rig->shadow) = garbage;
}

static void guest_wants(struct rig *rig, bool calls, uint16_t garbage)
{
    if (rig->guest.format == SVQ_RING_PACKED) {
        kit_event_set(rig->guest.packed.driver, garbage,
                      calls ? KIT_EVENT_ENABLE : KIT_EVENT_DISABLE);
        return;
    }
    rig->guest.split.avail->flags = !calls;
    *kit_used_event(&rig->guest) = garbage;
}

/* A place so many chains of two descriptors from there; negative: back. */
static uint16_t packed_event(const struct kit_ring *ring, uint16_t off, bool wrap, int chains)
{
    struct kit_place at = {off, wrap};
    unsigned by = (unsigned)(2 * chains + 2 * (int)ring->num) % (2 * ring->num);

    kit_place_move(&at, ring->num, by % ring->num);
    at.wrap ^= by >= ring->num;
    return kit_place_word(at);
}

/* A notification when this chain, counted from now, comes or is completed. */
static void backend_waits_for(struct rig *rig, int chain)
{
    struct svq_ring_index at = rig_state(rig).backend;

    if (rig->shadow.format == SVQ_RING_PACKED)
        kit_event_set(rig->shadow.packed.device,
                      packed_event(&rig->shadow, at.avail, at.avail_wrap, chain), KIT_EVENT_DESC);
    else
        *kit_avail_event(&rig->shadow) = (uint16_t)(at.avail + chain);
}

static void guest_waits_for(struct rig *rig, int chain)
{
    struct svq_ring_index at = rig_state(rig).guest;

    if (rig->guest.format == SVQ_RING_PACKED)
        kit_event_set(rig->guest.packed.driver,
                      packed_event(&rig->guest, at.used, at.used_wrap, chain), KIT_EVENT_DESC);
    else
        *kit_used_event(&rig->guest) = (uint16_t)(at.used + chain);
}

/* ---- Without EVENT_IDX: flags ------------------------------------------------------------- */

static void test_flags_backend_kicks(void **state)
{
    struct rig *rig = *state;
    uint64_t kicks = rig_stats(rig).backend_kicks;

    for (unsigned round = 0; round < 4; round++) {
        bool wanted = round & 1;

        backend_wants(rig, wanted, wanted ? 0x8000 : (uint16_t)round);
        rig_offer_simple(rig, round);
        assert_int_equal(kicks_backend(rig), wanted);
        assert_int_equal(kicks_backend(rig), false);
        rig_serve(rig, 0);
        rig_settle(rig);
        rig_expect_done(rig, round, 0);
    }
    assert_int_equal(rig_stats(rig).backend_kicks, kicks + 2);
}

static void test_flags_guest_calls(void **state)
{
    struct rig *rig = *state;
    uint64_t calls = rig_stats(rig).guest_calls;

    for (unsigned round = 0; round < 4; round++) {
        bool wanted = round & 1;

        guest_wants(rig, wanted, wanted ? 0x8000 : (uint16_t)round);
        rig_offer_simple(rig, round);
        rig_settle(rig);
        rig_serve(rig, 0);
        assert_int_equal(calls_guest(rig), wanted);
        assert_int_equal(calls_guest(rig), false);
        rig_expect_done(rig, round, 0);
    }
    assert_int_equal(rig_stats(rig).guest_calls, calls + 2);
}

/* Bits other than the first are reserved. */
static void test_flags_other_bits(void **state)
{
    struct rig *rig = *state;

    rig->shadow.split.used->flags = 0xfffe;
    rig->guest.split.avail->flags = 0xfffe;
    rig_offer_simple(rig, 1);
    assert_true(kicks_backend(rig));
    rig_serve(rig, 0);
    assert_true(calls_guest(rig));
}

/* Packed: all but the lowest two; and the offset, unless it is asked for. */
static void test_packed_flags_other_bits(void **state)
{
    struct rig *rig = *state;

    kit_event_set(rig->shadow.packed.device, 0xffff, 0xfffc | KIT_EVENT_ENABLE);
    kit_event_set(rig->guest.packed.driver, 0xffff, 0xfffc | KIT_EVENT_ENABLE);
    rig_offer_simple(rig, 1);
    assert_true(kicks_backend(rig));
    rig_serve(rig, 0);
    assert_true(calls_guest(rig));
    rig_expect_done(rig, 1, 0);
    kit_event_set(rig->shadow.packed.device, 0xffff, 0xfffc | KIT_EVENT_DISABLE);
    kit_event_set(rig->guest.packed.driver, 0xffff, 0xfffc | KIT_EVENT_DISABLE);
    rig_offer_simple(rig, 2);
    assert_false(kicks_backend(rig));
    rig_serve(rig, 0);
    assert_false(calls_guest(rig));
}

/* What the relay has written for the guest to see, and for the back-end. */
static uint16_t said_to_guest(const struct rig *rig)
{
    const struct kit_ring *ring = &rig->guest;

    return ring->format == SVQ_RING_PACKED ? ring->packed.device->flags : ring->split.used->flags;
}

static uint16_t said_to_backend(const struct rig *rig)
{
    const struct kit_ring *ring = &rig->shadow;

    return ring->format == SVQ_RING_PACKED ? ring->packed.driver->flags : ring->split.avail->flags;
}

static void test_flags_arm_and_disarm(void **state)
{
    struct rig *rig = *state;

    assert_false(svq_relay_arm(rig->relay));
    assert_int_equal(said_to_guest(rig), 0);
    assert_int_equal(said_to_backend(rig), 0);
    assert_true(rig_offer_simple(rig, 1));
    svq_relay_disarm(rig->relay);
    assert_int_equal(said_to_guest(rig), 1);
    assert_int_equal(said_to_backend(rig), 1);
    assert_false(rig_offer_simple(rig, 2));
    rig_settle(rig);
    assert_int_equal(rig_serve(rig, 0), 2);
    rig_settle(rig);
    rig_expect_done(rig, 1, 0);
    rig_expect_done(rig, 2, 0);
    assert_false(svq_relay_arm(rig->relay));
    assert_int_equal(said_to_guest(rig), 0);
    assert_int_equal(said_to_backend(rig), 0);
}

/* ---- With EVENT_IDX ------------------------------------------------------------------------ */

/* Only the chain that the back-end waits for kicks it, and only once. */
static void test_events_backend_kicks(void **state)
{
    struct rig *rig = *state;

    pass_one(rig);
    for (unsigned wait = 0; wait < RING / 2; wait++) {
        uint64_t kicks = rig_stats(rig).backend_kicks;

        /* Split: flags have no meaning here. */
        if (rig->shadow.format == SVQ_RING_SPLIT)
            rig->shadow.split.used->flags = wait & 1;
        backend_waits_for(rig, (int)wait);
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
        uint64_t calls = rig_stats(rig).guest_calls;

        if (rig->guest.format == SVQ_RING_SPLIT)
            rig->guest.split.avail->flags = wait & 1;
        guest_waits_for(rig, (int)wait);
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
    for (unsigned lap = 0; lap < 5; lap++) {
        for (int event = -2; event <= 9; event++) {
            bool crossed = event >= 0 && event < 8;

            backend_waits_for(rig, event);
            guest_waits_for(rig, event);
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
}

/* As many chains as the ring holds in one batch: the event is always in it, in this lap. */
static void test_events_in_a_full_batch(void **state)
{
    struct rig *rig = *state;
    unsigned chains = rig->num / 2;

    pass_one(rig);
    for (int event = -(int)chains; event < 2 * (int)chains; event++) {
        bool crossed = event >= 0 && event < (int)chains;

        if (rig->num % 2 && !crossed)
            continue; /* laps of chains and of descriptors differ */
        backend_waits_for(rig, event);
        guest_waits_for(rig, event);
        for (unsigned i = 0; i < chains; i++)
            rig_offer_simple(rig, i);
        assert_int_equal(kicks_backend(rig), crossed);
        assert_int_equal(rig_serve(rig, 1), chains);
        assert_int_equal(calls_guest(rig), crossed);
        for (unsigned i = 0; i < chains; i++)
            rig_expect_done(rig, i, 1);
    }
}

/* Packed: with EVENT_IDX negotiated a peer may ask for all or nothing all the same. */
static void test_events_all_or_nothing(void **state)
{
    struct rig *rig = *state;

    test_flags_backend_kicks(state);
    test_flags_guest_calls(state);
    assert_int_equal(rig_stats(rig).chains, 8);
}

/* Where the relay wants to be woken: at the next chain, at the next completion. */
static void expect_armed(struct rig *rig)
{
    struct svq_relay_state at = rig_state(rig);
    uint16_t avail = (uint16_t)(at.guest.avail | at.guest.avail_wrap << 15);
    uint16_t used = (uint16_t)(at.backend.used | at.backend.used_wrap << 15);

    if (rig->guest.format == SVQ_RING_PACKED) {
        assert_int_equal(rig->guest.packed.device->flags, KIT_EVENT_DESC);
        assert_int_equal(rig->guest.packed.device->desc, avail);
    } else {
        assert_int_equal(*kit_avail_event(&rig->guest), at.guest.avail);
    }
    if (rig->shadow.format == SVQ_RING_PACKED) {
        assert_int_equal(rig->shadow.packed.driver->flags, KIT_EVENT_DESC);
        assert_int_equal(rig->shadow.packed.driver->desc, used);
    } else {
        assert_int_equal(*kit_used_event(&rig->shadow), at.backend.used);
    }
}

static void test_events_arm(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];

    for (unsigned i = 0; i < 100; i++) {
        uint16_t id;

        assert_false(svq_relay_arm(rig->relay));
        expect_armed(rig);
        /* The very next chain and completion notify. */
        assert_true(rig_offer_simple(rig, i));
        rig_settle(rig);
        id = rig_take(rig, bufs, 2);
        assert_false(svq_relay_arm(rig->relay));
        expect_armed(rig);
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
            rig->device->ops->complete(rig->device, ids[i], 1, 1);
        assert_false(rig->device->ops->publish(rig->device));
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
    struct svq_ring_index at = rig_state(rig).guest;

    if (rig->guest.format == SVQ_RING_SPLIT)
        rig->guest.split.avail->idx += RING + 1;
    else /* no buffer is there */
        rig->guest.packed.desc[at.avail] =
            (struct kit_pdesc){.addr = 0, .len = 1, .flags = kit_avail_flags(at.avail_wrap)};
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
#define FLAGS(name)                                                              \
    RIG_TEST(name, split), RIG_TEST(name, split_shared), RIG_TEST(name, packed), \
        RIG_TEST(name, split_packed), RIG_TEST(name, packed_split)
#define EVENTS(name)                                                             \
    RIG_TEST(name, split_events), RIG_TEST(name, split_shared_events),           \
        RIG_TEST(name, split_events_at_the_wrap), RIG_TEST(name, packed_events), \
        RIG_TEST(name, split_packed_events), RIG_TEST(name, packed_split_events)
#define ALL(name) \
    FLAGS(name), EVENTS(name), RIG_TEST(name, events_flags), RIG_TEST(name, flags_events)
    const struct CMUnitTest tests[] = {
        FLAGS(test_flags_backend_kicks),
        FLAGS(test_flags_guest_calls),
        RIG_TEST(test_flags_other_bits, split),
        RIG_TEST(test_packed_flags_other_bits, packed),
        RIG_TEST(test_packed_flags_other_bits, packed_events),
        FLAGS(test_flags_arm_and_disarm),
        EVENTS(test_events_backend_kicks),
        RIG_TEST(test_events_backend_kicks, flags_events),
        EVENTS(test_events_guest_calls),
        RIG_TEST(test_events_guest_calls, events_flags),
        EVENTS(test_events_in_a_batch),
        EVENTS(test_events_in_a_full_batch),
        RIG_TEST(test_events_all_or_nothing, packed_events),
        EVENTS(test_events_arm),
        EVENTS(test_events_disarmed),
        ALL(test_arm_sees_a_new_chain),
        ALL(test_arm_sees_a_completion),
        ALL(test_arm_while_held),
        ALL(test_held_is_silent),
        ALL(test_arm_and_faults),
        ALL(test_spurious_notifications),
    };

    return cmocka_run_group_tests_name("notify", tests, NULL, NULL);
}
