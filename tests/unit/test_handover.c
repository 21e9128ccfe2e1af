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

static const struct rig_sides split = {RING, 0, 0, 0};
static const struct rig_sides split_events = {RING, EVENT_IDX, EVENT_IDX, 0};
static const struct rig_sides split_at_the_wrap = {RING, EVENT_IDX, EVENT_IDX, 65531};
static const struct rig_sides split_shared = {RING, 0, 0, 65531, true};
static const struct rig_sides split_shared_events = {RING, EVENT_IDX, EVENT_IDX, 0, true};
static const struct rig_sides packed = {RING, PACKED, PACKED, 0x8000};
static const struct rig_sides packed_events = {RING + 1, PACKED | EVENT_IDX, PACKED | EVENT_IDX, 0};
static const struct rig_sides packed_at_the_wrap = {RING, PACKED, PACKED, 0x800d};
static const struct rig_sides split_packed = {RING, EVENT_IDX, PACKED | EVENT_IDX, 65533};
static const struct rig_sides packed_split = {RING + 3, PACKED | EVENT_IDX, EVENT_IDX, 13};

/* Detach; the relay is gone afterwards. */
static uint32_t detach(struct rig *rig)
{
    uint32_t base = svq_relay_detach(rig->relay);

    svq_relay_free(rig->relay);
    rig->relay = NULL;
    return base;
}

/* Does the relay take that for the back-end's base, after so many chains of two descriptors? */
static int drained_at(struct rig *rig, unsigned taken, unsigned used)
{
    return svq_relay_drained(rig->relay, rig_shadow_base(rig, taken, used));
}

static void test_drained_counts_what_the_backend_took(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t first, second;

    assert_int_equal(drained_at(rig, 0, 0), 1);
    rig_offer_simple(rig, 1);
    rig_offer_simple(rig, 2);
    rig_offer_simple(rig, 3);
    rig_settle(rig);
    svq_relay_hold(rig->relay, true);
    assert_int_equal(drained_at(rig, 0, 0), 1);
    first = rig_take(rig, bufs, 2);
    second = rig_take(rig, bufs, 2);
    /* Stopped at 2: two chains to come back, the third never left. */
    assert_int_equal(drained_at(rig, 2, 0), 0);
    rig_complete(rig, second, 1);
    assert_int_equal(drained_at(rig, 2, 1), 0);
    rig_settle(rig);
    assert_int_equal(drained_at(rig, 2, 1), 0);
    rig_complete(rig, first, 1);
    /* Not before the relay has passed it on. */
    assert_int_equal(drained_at(rig, 2, 2), 0);
    rig_settle(rig);
    assert_int_equal(drained_at(rig, 2, 2), 1);
    assert_int_equal(drained_at(rig, 3, 2), 0);
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
    assert_int_equal(drained_at(rig, 1, 1), 1);
    assert_int_equal(drained_at(rig, 2, 1), 0);
    assert_int_equal(drained_at(rig, 3, 1), -EPROTO);
    /* An answer from before the completion (virtiofsd): what is used was taken. */
    assert_int_equal(drained_at(rig, 0, 0), 1);
    if (rig->shadow.format == SVQ_RING_SPLIT) {
        assert_int_equal(svq_relay_drained(rig->relay, 0x8000), -EPROTO);
        return;
    }
    /* Beyond the ring; and the lower half alone is enough. */
    assert_int_equal(svq_relay_drained(rig->relay, 0x80008000 | rig->shadow.num), -EPROTO);
    assert_int_equal(svq_relay_drained(rig->relay, 0xffff), -EPROTO);
    assert_int_equal(svq_relay_drained(rig->relay, 0x8002), 1);
    assert_int_equal(svq_relay_drained(rig->relay, 0x8004), 0);
    assert_int_equal(svq_relay_drained(rig->relay, 0x8006), -EPROTO);
    /* In the middle of a chain. */
    assert_int_not_equal(svq_relay_drained(rig->relay, 0x8003), 1);
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
    assert_int_not_equal(drained_at(rig, 1, 1), 1);
    assert_int_not_equal(drained_at(rig, 2, 1), 1);
    assert_int_equal(drained_at(rig, 3, 1), 0);
}

static void test_detach_when_all_is_done(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < 5; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    rig_serve(rig, 1);
    svq_relay_hold(rig->relay, true);
    rig_settle(rig);
    rig_offer_simple(rig, 5);
    assert_int_equal(rig_poll(rig), 0);
    assert_int_equal(svq_relay_drained(rig->relay, rig_stop(rig)), 1);
    assert_int_equal(detach(rig), rig_guest_base(rig, 5, 5));
    /* What was held is the next device's. */
    rig_attach(rig, false, rig_guest_base(rig, 5, 5));
    assert_int_equal(rig_serve(rig, 2), 1);
    for (unsigned i = 0; i < 5; i++)
        rig_expect_done(rig, i, 1);
    rig_expect_done(rig, 5, 2);
    rig_expect_nothing_done(rig);
}

/* A relay is made while another device serves the ring, and begins where that stops. */
static void test_made_ahead(void **state)
{
    struct rig *rig = *state;
    struct svq_relay_config config;
    struct svq_relay *ahead;
    unsigned done = 0;

    for (unsigned round = 0; round < 3; round++) {
        uint32_t base = detach(rig);

        assert_int_equal(base, rig_guest_base(rig, done, done));
        rig_attach(rig, false, base);
        rig_offer_simple(rig, done);
        config = rig_config(rig, rig->guest.format == SVQ_RING_PACKED ? SVQ_PACKED_START : 0);
        assert_int_equal(svq_relay_new(&config, &ahead), 0);
        rig_offer_simple(rig, done + 1);
        assert_int_equal(rig_serve(rig, 1), 2);
        rig_expect_done(rig, done++, 1);
        rig_expect_done(rig, done++, 1);
        rig_offer_simple(rig, done);
        base = rig_stop(rig);
        config.base = 0x7fff; /* no place in a packed ring */
        assert_int_equal(svq_relay_begin(ahead, &config),
                         rig->guest.format == SVQ_RING_PACKED ? -EINVAL : 0);
        config.base = base;
        assert_int_equal(svq_relay_begin(ahead, &config), 0);
        rig->relay = ahead;
        rig_attach(rig, true, rig_shadow_base(rig, 0, 0));
        rig_settle(rig);
        assert_int_equal(rig_serve(rig, 2), 1);
        rig_settle(rig);
        rig_expect_done(rig, done++, 2);
        rig_expect_nothing_done(rig);
        assert_int_equal(rig_state(rig).in_flight, 0);
        rig_stop(rig);
    }
}

/* A network card's receive queue: buffers wait in the shadow for packets that never came. */
static void test_detach_leaves_untaken_chains_to_the_guest(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2], seen[2];
    uint32_t backend_base;
    uint16_t ids[3];

    for (unsigned i = 0; i < RING / 2; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    for (unsigned i = 0; i < 3; i++)
        ids[i] = rig_take(rig, bufs, 2);
    rig_complete(rig, ids[2], 3);
    rig_complete(rig, ids[0], 1);
    rig_complete(rig, ids[1], 2);
    backend_base = rig_stop(rig);
    assert_int_equal(backend_base, rig_shadow_base(rig, 3, 3));
    svq_relay_hold(rig->relay, true);
    rig_settle(rig);
    assert_int_equal(svq_relay_drained(rig->relay, backend_base), 1);
    assert_int_equal(svq_relay_drained(rig->relay, backend_base & 0xffff), 1);
    assert_int_equal(detach(rig), rig_guest_base(rig, 3, 3));
    assert_int_equal(rig_completed(rig), 3);
    rig_expect_done(rig, 2, 3);
    rig_expect_done(rig, 0, 1);
    rig_expect_done(rig, 1, 2);
    rig_attach(rig, false, rig_guest_base(rig, 3, 3));
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
        assert_int_equal(svq_relay_drained(rig->relay, rig_stop(rig)), 1);
        assert_int_equal(detach(rig), rig_guest_base(rig, done, done));
        rig_start(rig, rig_guest_base(rig, done, done));
    }
    assert_int_equal(done, 300);
}

/* A stopped back-end that goes on with the same shadow ring: at the first chain it never took. */
static void test_resumes_where_the_backend_stopped(void **state)
{
    struct rig *rig = *state;
    unsigned next = 0, done = 0;
    struct kit_buf bufs[2];

    for (unsigned round = 0; round < 200; round++) {
        uint32_t base;

        while (next - done < RING / 2)
            rig_offer_simple(rig, next++);
        rig_settle(rig);
        base = rig_stop(rig); /* as virtiofsd: from before the last completions, some of the time */
        for (unsigned i = 0; i < round % 4; i++) {
            rig_complete(rig, rig_take(rig, bufs, 2), done % 64);
            rig_settle(rig);
            rig_expect_done(rig, done, done % 64);
            done++;
        }
        if (round % 3)
            base = rig_stop(rig);
        if (round % 5 == 0)
            base &= 0xffff; /* DPDK */
        assert_int_equal(svq_relay_drained(rig->relay, base), 1);
        base = svq_relay_resume_base(rig->relay, base);
        assert_int_equal(base, rig_shadow_base(rig, done, done));
        rig_attach(rig, true, base);
    }
    assert_int_equal(done, 300);
}

/* The next device may never look at suppression that a relay left behind. */
static void expect_kicks_wanted(struct rig *rig, unsigned chains)
{
    if (rig->guest.format == SVQ_RING_PACKED)
        assert_int_equal(rig->guest.packed.device->flags, KIT_EVENT_ENABLE);
    else if (rig->features & EVENT_IDX)
        assert_int_equal(*kit_avail_event(&rig->guest), rig_guest_base(rig, chains, chains));
    else
        assert_int_equal(rig->guest.split.used->flags, 0);
}

static void test_detach_asks_for_kicks(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    rig_serve(rig, 1);
    rig_settle(rig);
    svq_relay_disarm(rig->relay);
    detach(rig);
    expect_kicks_wanted(rig, 3);
    assert_true(rig_offer_simple(rig, 9));
}

/* ... and with untaken chains, where the next device will start, not where this one was. */
static void test_detach_asks_for_kicks_early(void **state)
{
    struct rig *rig = *state;

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    svq_relay_disarm(rig->relay);
    assert_int_equal(drained_at(rig, 0, 0), 1);
    assert_int_equal(detach(rig), rig_guest_base(rig, 0, 0));
    expect_kicks_wanted(rig, 0);
}

/*
 * A back-end that never answers, given up: what it held is lost. But what it completed stays
 * completed: the next device may not find such a chain again.
 */
static void test_giving_up(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t ids[3];

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    for (unsigned i = 0; i < 3; i++)
        ids[i] = rig_take(rig, bufs, 2);
    rig_complete(rig, ids[1], 5);
    svq_relay_hold(rig->relay, true);
    rig_settle(rig);
    rig_expect_done(rig, 1, 5);
    assert_int_equal(drained_at(rig, 3, 1), 0);
    /* Two through, of which one is lost; the third is the next device's. */
    assert_int_equal(detach(rig), rig_guest_base(rig, 2, 1));
    rig_expect_nothing_done(rig);
}

/* The same with a head that came back and was offered again: only its second chain is the next's.
 */
static void test_giving_up_with_a_head_in_its_second_round(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t id;

    rig_offer_simple(rig, 0);
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    rig_take(rig, bufs, 2);
    id = rig_take(rig, bufs, 2);
    rig_complete(rig, id, 5);
    rig_settle(rig);
    rig_expect_done(rig, 1, 5);
    rig_offer_simple(rig, 2);
    rig_settle(rig);
    assert_int_equal(drained_at(rig, 2, 1), 0);
    assert_int_not_equal(drained_at(rig, 1, 1), 1);
    assert_int_equal(detach(rig), rig_guest_base(rig, 2, 1));
}

/* From a direct device to the relay: it starts where the device stopped. */
static void test_takes_over_from_a_direct_device(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint32_t base;

    rig_attach(rig, false, detach(rig));
    for (unsigned i = 0; i < 6; i++)
        rig_offer_simple(rig, i);
    for (unsigned i = 0; i < 4; i++)
        rig_complete(rig, rig_take(rig, bufs, 2), i);
    base = rig_stop(rig);
    assert_int_equal(base, rig_guest_base(rig, 4, 4));
    rig_start(rig, rig->guest.format == SVQ_RING_PACKED ? base & 0xffff : base);
    assert_int_equal(rig_state(rig).guest.avail, base & (rig->features & PACKED ? 0x7fff : 0xffff));
    assert_int_equal(rig_state(rig).guest.used, rig_state(rig).guest.avail);
    rig_settle(rig);
    assert_int_equal(rig_serve(rig, 7), 2);
    rig_settle(rig);
    for (unsigned i = 0; i < 4; i++)
        rig_expect_done(rig, i, i);
    rig_expect_done(rig, 4, 7);
    rig_expect_done(rig, 5, 7);
}

/* Full rings at the hand-over: as many untaken descriptors as there are entries. */
static void test_full_ring(void **state)
{
    struct rig *rig = *state;
    unsigned chains = rig->num / 2;

    for (unsigned round = 0; round < 5; round++) {
        uint32_t base = rig_guest_base(rig, round * chains, round * chains);

        for (unsigned i = 0; i < chains; i++)
            rig_offer_simple(rig, i);
        rig_settle(rig);
        assert_int_equal(rig_state(rig).in_flight, chains);
        assert_int_equal(drained_at(rig, 0, 0), 1);
        assert_int_equal(drained_at(rig, chains, 0), 0);
        assert_int_equal(detach(rig), base);
        rig_start(rig, base);
        rig_settle(rig);
        assert_int_equal(rig_serve(rig, 8), chains);
        rig_settle(rig);
        assert_int_equal(drained_at(rig, chains, chains), 1);
        base = rig_guest_base(rig, (round + 1) * chains, (round + 1) * chains);
        assert_int_equal(detach(rig), base);
        for (unsigned i = 0; i < chains; i++)
            rig_expect_done(rig, i, 8);
        rig_start(rig, base);
    }
}

int main(void)
{
#define DIRECT(name)                                                                             \
    RIG_TEST(name, split), RIG_TEST(name, split_shared), RIG_TEST(name, split_shared_events),    \
        RIG_TEST(name, split_events), RIG_TEST(name, split_at_the_wrap), RIG_TEST(name, packed), \
        RIG_TEST(name, packed_events), RIG_TEST(name, packed_at_the_wrap)
#define EACH(name) DIRECT(name), RIG_TEST(name, split_packed), RIG_TEST(name, packed_split)
    const struct CMUnitTest tests[] = {
        EACH(test_drained_counts_what_the_backend_took),
        EACH(test_drained_refuses_impossible_bases),
        EACH(test_drained_knows_which_chains),
        EACH(test_detach_when_all_is_done),
        EACH(test_made_ahead),
        EACH(test_detach_leaves_untaken_chains_to_the_guest),
        EACH(test_untaken_chains_stay_in_order),
        EACH(test_resumes_where_the_backend_stopped),
        EACH(test_detach_asks_for_kicks),
        EACH(test_detach_asks_for_kicks_early),
        EACH(test_giving_up),
        EACH(test_giving_up_with_a_head_in_its_second_round),
        DIRECT(test_takes_over_from_a_direct_device),
        EACH(test_full_ring),
    };

    return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
