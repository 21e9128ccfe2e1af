/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The guest's ring between a device that serves it directly and a relay, back and forth, at any
 * moment: nothing lost, nothing twice, the guest's order kept.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { RING = 16 };

static int setup_at(void **state, uint64_t features, uint16_t base)
{
    struct rig *rig = malloc(sizeof(*rig));

    rig_init(rig, RING, features, base);
    *state = rig;
    return 0;
}

static int setup(void **state)
{
    return setup_at(state, 0, 0);
}

static int setup_events(void **state)
{
    return setup_at(state, EVENT_IDX, 0);
}

static int setup_at_the_wrap(void **state)
{
    return setup_at(state, EVENT_IDX, 65531);
}

static int teardown(void **state)
{
    rig_free(*state);
    free(*state);
    return 0;
}

/* Detach; the relay is gone afterwards. */
static uint16_t detach(struct rig *rig)
{
    uint16_t base = svq_relay_detach(rig->relay);

    svq_relay_free(rig->relay);
    rig->relay = NULL;
    return base;
}

/* The device moves to the guest's own ring. */
static void attach_direct(struct rig *rig, uint16_t base)
{
    kit_split_device_init(&rig->device, rig->memory.map, &rig->guest, rig->features, base);
}

static void test_drained_counts_what_the_backend_took(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t first, second;

    assert_int_equal(svq_relay_drained(rig->relay, 0), 1);
    rig_offer_simple(rig, 1);
    rig_offer_simple(rig, 2);
    rig_offer_simple(rig, 3);
    rig_settle(rig);
    svq_relay_hold(rig->relay, true);
    assert_int_equal(svq_relay_drained(rig->relay, 0), 1);
    first = rig_take(rig, bufs, 2);
    second = rig_take(rig, bufs, 2);
    /* Stopped at 2: two chains to come back, the third never left. */
    assert_int_equal(svq_relay_drained(rig->relay, 2), 0);
    rig_complete(rig, second, 1);
    assert_int_equal(svq_relay_drained(rig->relay, 2), 0);
    rig_settle(rig);
    assert_int_equal(svq_relay_drained(rig->relay, 2), 0);
    rig_complete(rig, first, 1);
    /* Not before the relay has passed it on. */
    assert_int_equal(svq_relay_drained(rig->relay, 2), 0);
    rig_settle(rig);
    assert_int_equal(svq_relay_drained(rig->relay, 2), 1);
    assert_int_equal(svq_relay_drained(rig->relay, 3), 0);
    rig_expect_done(rig, 2, 1);
    rig_expect_done(rig, 1, 1);
    rig_expect_nothing_done(rig);
}

static void test_drained_refuses_impossible_bases(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];

    rig_offer_simple(rig, 1);
    rig_offer_simple(rig, 2);
    rig_settle(rig);
    rig_complete(rig, rig_take(rig, bufs, 2), 1);
    rig_settle(rig);
    /* Offered 2, completed 1. */
    assert_int_equal(svq_relay_drained(rig->relay, 1), 1);
    assert_int_equal(svq_relay_drained(rig->relay, 2), 0);
    assert_int_equal(svq_relay_drained(rig->relay, 3), -EPROTO);
    assert_int_equal(svq_relay_drained(rig->relay, 0x8000), -EPROTO);
    /* An answer from before the completion (virtiofsd): what is used was taken. */
    assert_int_equal(svq_relay_drained(rig->relay, 0), 1);
}

/*
 * Counting is not enough: a back-end that took one chain and completed another has not completed
 * what it took. The guest would get the other one twice and the first one never.
 */
static void test_drained_knows_which_chains(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t ids[3];

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    for (unsigned i = 0; i < 3; i++)
        ids[i] = rig_take(rig, bufs, 2);
    rig_complete(rig, ids[2], 1);
    rig_settle(rig);
    assert_int_not_equal(svq_relay_drained(rig->relay, 1), 1);
    assert_int_not_equal(svq_relay_drained(rig->relay, 2), 1);
    assert_int_equal(svq_relay_drained(rig->relay, 3), 0);
}

static void test_detach_when_all_is_done(void **state)
{
    struct rig *rig = *state;
    uint16_t base = rig_state(rig).guest_avail;

    for (unsigned i = 0; i < 5; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    rig_serve(rig, 1);
    svq_relay_hold(rig->relay, true);
    rig_settle(rig);
    rig_offer_simple(rig, 5);
    assert_int_equal(rig_poll(rig), 0);
    assert_int_equal(
        svq_relay_drained(rig->relay, rig->device.device.ops->stop(&rig->device.device)), 1);
    assert_int_equal(detach(rig), (uint16_t)(base + 5));
    /* What was held is the next device's. */
    attach_direct(rig, (uint16_t)(base + 5));
    assert_int_equal(rig_serve(rig, 2), 1);
    for (unsigned i = 0; i < 5; i++)
        rig_expect_done(rig, i, 1);
    rig_expect_done(rig, 5, 2);
    rig_expect_nothing_done(rig);
}

/* A network card's receive queue: buffers wait in the shadow for packets that never came. */
static void test_detach_leaves_untaken_chains_to_the_guest(void **state)
{
    struct rig *rig = *state;
    uint16_t base = rig_state(rig).guest_avail, backend_base;
    struct kit_buf bufs[2], seen[2];
    uint16_t ids[3];

    for (unsigned i = 0; i < RING / 2; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    for (unsigned i = 0; i < 3; i++)
        ids[i] = rig_take(rig, bufs, 2);
    rig_complete(rig, ids[2], 3);
    rig_complete(rig, ids[0], 1);
    rig_complete(rig, ids[1], 2);
    backend_base = rig->device.device.ops->stop(&rig->device.device);
    assert_int_equal(backend_base, 3);
    svq_relay_hold(rig->relay, true);
    rig_settle(rig);
    assert_int_equal(svq_relay_drained(rig->relay, backend_base), 1);
    assert_int_equal(detach(rig), (uint16_t)(base + 3));
    assert_int_equal(rig->guest.used->idx, (uint16_t)(base + 3));
    rig_expect_done(rig, 2, 3);
    rig_expect_done(rig, 0, 1);
    rig_expect_done(rig, 1, 2);
    attach_direct(rig, (uint16_t)(base + 3));
    for (unsigned i = 3; i < RING / 2; i++) {
        rig_complete(rig, rig_take(rig, seen, 2), i);
        rig_expect_done(rig, i, i);
    }
    rig_expect_idle_device(rig);
}

/* Untaken chains survive any number of hand-overs, in the order the guest offered them. */
static void test_untaken_chains_stay_in_order(void **state)
{
    struct rig *rig = *state;
    uint16_t base = rig_state(rig).guest_avail;
    unsigned next = 0, done = 0;
    struct kit_buf bufs[2];

    for (unsigned round = 0; round < 200; round++) {
        while (next - done < RING / 2)
            rig_offer_simple(rig, next++);
        rig_settle(rig);
        for (unsigned i = 0; i < round % 4; i++) {
            rig_complete(rig, rig_take(rig, bufs, 2), done % 64);
            rig_settle(rig);
            rig_expect_done(rig, done, done % 64);
            done++;
        }
        assert_int_equal(
            svq_relay_drained(rig->relay, rig->device.device.ops->stop(&rig->device.device)), 1);
        base = (uint16_t)(base + round % 4);
        assert_int_equal(detach(rig), base);
        rig_start(rig, base);
    }
    assert_int_equal(done, 300);
}

static void test_detach_asks_for_kicks(void **state)
{
    struct rig *rig = *state;
    uint16_t base;

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    rig_serve(rig, 1);
    rig_settle(rig);
    svq_relay_disarm(rig->relay);
    base = detach(rig);
    if (rig->features & EVENT_IDX)
        assert_int_equal(*kit_avail_event(&rig->guest), base);
    else
        assert_int_equal(rig->guest.used->flags, 0);
    assert_true(rig_offer_simple(rig, 9));
}

/* ... and with untaken chains, where the next device will start, not where this one was. */
static void test_detach_asks_for_kicks_early(void **state)
{
    struct rig *rig = *state;
    uint16_t base = rig_state(rig).guest_avail;

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    svq_relay_disarm(rig->relay);
    assert_int_equal(svq_relay_drained(rig->relay, 0), 1);
    assert_int_equal(detach(rig), base);
    if (rig->features & EVENT_IDX)
        assert_int_equal(*kit_avail_event(&rig->guest), base);
    else
        assert_int_equal(rig->guest.used->flags, 0);
}

/*
 * A back-end that never answers, given up: what it held is lost. But what it completed stays
 * completed: the next device may not find such a chain again.
 */
static void test_giving_up(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t ids[3], base, next;

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    for (unsigned i = 0; i < 3; i++)
        ids[i] = rig_take(rig, bufs, 2);
    rig_complete(rig, ids[1], 5);
    svq_relay_hold(rig->relay, true);
    rig_settle(rig);
    rig_expect_done(rig, 1, 5);
    assert_int_equal(svq_relay_drained(rig->relay, 3), 0);
    base = detach(rig);
    for (next = base; next != rig->guest.avail->idx; next++)
        assert_int_not_equal(rig->guest.avail->ring[next % RING], ids[1]);
    rig_expect_nothing_done(rig);
}

/* The same with a head that came back and was offered again: only its second chain is the next's.
 */
static void test_giving_up_with_a_head_in_its_second_round(void **state)
{
    struct rig *rig = *state;
    uint16_t first = rig_state(rig).guest_avail, id;
    struct kit_buf bufs[2];

    rig_offer_simple(rig, 0);
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    rig_take(rig, bufs, 2);
    id = rig_take(rig, bufs, 2);
    rig_complete(rig, id, 5);
    rig_settle(rig);
    rig_expect_done(rig, 1, 5);
    rig_offer_simple(rig, 2);
    assert_int_equal(rig->guest.avail->ring[(uint16_t)(first + 2) % RING], id);
    rig_settle(rig);
    assert_int_equal(svq_relay_drained(rig->relay, 2), 0);
    assert_int_equal(svq_relay_drained(rig->relay, 1), -EPROTO);
    assert_int_equal(detach(rig), (uint16_t)(first + 2));
}

/* From a direct device to the relay: it starts where the device stopped. */
static void test_takes_over_from_a_direct_device(void **state)
{
    struct rig *rig = *state;
    uint16_t base = rig_state(rig).guest_avail;
    struct kit_buf bufs[2];

    detach(rig);
    attach_direct(rig, base);
    for (unsigned i = 0; i < 6; i++)
        rig_offer_simple(rig, i);
    for (unsigned i = 0; i < 4; i++)
        rig_complete(rig, rig_take(rig, bufs, 2), i);
    base = rig->device.device.ops->stop(&rig->device.device);
    rig_start(rig, base);
    assert_int_equal(rig_state(rig).guest_used, base);
    rig_settle(rig);
    assert_int_equal(rig_serve(rig, 7), 2);
    rig_settle(rig);
    for (unsigned i = 0; i < 4; i++)
        rig_expect_done(rig, i, i);
    rig_expect_done(rig, 4, 7);
    rig_expect_done(rig, 5, 7);
}

/* Full rings at the hand-over: as many untaken chains as there are entries. */
static void test_full_ring(void **state)
{
    struct rig *rig = *state;
    uint16_t base = rig_state(rig).guest_avail;
    struct kit_buf buf;

    for (unsigned i = 0; i < RING; i++) {
        buf = rig_buf(rig, 8, true);
        rig_offer(rig, &buf, 1, i);
    }
    rig_settle(rig);
    assert_int_equal(rig_state(rig).in_flight, RING);
    assert_int_equal(svq_relay_drained(rig->relay, 0), 1);
    assert_int_equal(svq_relay_drained(rig->relay, RING), 0);
    assert_int_equal(detach(rig), base);
    rig_start(rig, base);
    rig_settle(rig);
    assert_int_equal(rig_serve(rig, 8), RING);
    rig_settle(rig);
    assert_int_equal(svq_relay_drained(rig->relay, RING), 1);
    assert_int_equal(detach(rig), (uint16_t)(base + RING));
    for (unsigned i = 0; i < RING; i++)
        rig_expect_done(rig, i, 8);
}

int main(void)
{
#define EACH(name)                                                      \
    RIG_TEST(name, "", setup), RIG_TEST(name, "_events", setup_events), \
        RIG_TEST(name, "_at_the_wrap", setup_at_the_wrap)
    const struct CMUnitTest tests[] = {
        EACH(test_drained_counts_what_the_backend_took),
        EACH(test_drained_refuses_impossible_bases),
        EACH(test_drained_knows_which_chains),
        EACH(test_detach_when_all_is_done),
        EACH(test_detach_leaves_untaken_chains_to_the_guest),
        EACH(test_untaken_chains_stay_in_order),
        EACH(test_detach_asks_for_kicks),
        EACH(test_detach_asks_for_kicks_early),
        EACH(test_giving_up),
        EACH(test_giving_up_with_a_head_in_its_second_round),
        EACH(test_takes_over_from_a_direct_device),
        EACH(test_full_ring),
    };

    return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
