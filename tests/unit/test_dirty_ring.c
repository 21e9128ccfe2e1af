/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The relay's dirty log of the guest's ring itself: used entries, suppression, and where the log
 * does not reach.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/logged.h"

enum { RING = 32 };

static const struct rig_sides split = {RING, INDIRECT, INDIRECT, 0};
static const struct rig_sides split_shared = {RING, INDIRECT, INDIRECT, 0, true};
static const struct rig_sides split_shared_events = {RING, INDIRECT | EVENT_IDX,
                                                     INDIRECT | EVENT_IDX, 65535, true};
static const struct rig_sides split_events = {RING, INDIRECT | EVENT_IDX, INDIRECT, 65535};
static const struct rig_sides split_packed = {RING, INDIRECT, PACKED, 65535};
static const struct rig_sides packed = {RING, PACKED | INDIRECT, PACKED | INDIRECT, 0x8000};
static const struct rig_sides packed_events = {RING + 1, PACKED | INDIRECT | EVENT_IDX,
                                               PACKED | EVENT_IDX, 31};
static const struct rig_sides packed_split = {RING - 3, PACKED | INDIRECT, INDIRECT, 0x8000 | 28};

/* Rings of many pages, about to wrap. */
static const struct rig_sides large = {32768, 0, 0, 32764};
static const struct rig_sides large_shared = {32768, EVENT_IDX, 0, 32764, true};
static const struct rig_sides large_events = {32768, EVENT_IDX, EVENT_IDX, 32764};
static const struct rig_sides large_packed = {32768, PACKED, PACKED, 0x8000 | 32764};
static const struct rig_sides large_packed_split = {32767, PACKED | EVENT_IDX, 0, 32764};

static void test_used_entries(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf bufs[2];

    logged_start(s, true);
    /* Over the end of a large ring: entry 32767 crosses into its last page. */
    for (unsigned round = 0; round < 8; round++) {
        uint16_t id;

        rig_offer_simple(rig, round);
        rig_settle(rig);
        logged_remember_ring(s);
        id = rig_take(rig, bufs, 2);
        assert_int_equal(kit_log_count(&s->log), 0);
        rig_complete(rig, id, 64);
        rig_settle(rig);
        logged_expect_bufs(s, bufs, 2);
        assert_int_equal(logged_expect_used(s), 1);
        logged_expect_changes(s);
        logged_check(s, &s->log);
        rig_expect_done(rig, round, 64);
    }
}

/* A batch that begins at a ring's end and goes on at its start. */
static void test_used_entries_over_the_end(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf buf = {RIG_GPA, 1, false};
    unsigned count = rig->num - 3;

    logged_start(s, true);
    /* Past the end in the second round: entries num - 3 to num - 1, then 0 to num - 7. */
    for (unsigned round = 0; round < 3; round++) {
        for (unsigned i = 0; i < count; i++)
            rig_offer(rig, &buf, 1, i);
        rig_settle(rig);
        assert_int_equal(rig_serve(rig, 0), count);
        logged_remember_ring(s);
        kit_log_clear(&s->log);
        rig_settle(rig);
        assert_int_equal(logged_expect_used(s), count);
        for (unsigned i = 0; i < count; i++)
            rig_expect_done(rig, i, 0);
        logged_expect_changes(s);
        logged_check(s, &s->log);
    }
}

/* A long chain's one used descriptor; the others of the chain stay as the guest wrote them. */
static void test_used_entry_of_a_long_chain(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf *bufs = calloc(rig->num, sizeof(*bufs)), *seen = calloc(rig->num, sizeof(*seen));
    unsigned pages = (unsigned)(rig->num * 16 / RIG_PAGE);

    logged_start(s, true);
    for (unsigned i = 0; i < rig->num; i++)
        bufs[i] = (struct kit_buf){RIG_DATA, 1, false};
    for (unsigned round = 0; round < 3; round++) {
        unsigned count = rig->num - round * 40;

        logged_remember_ring(s);
        rig_offer(rig, bufs, count, round);
        rig_settle(rig);
        rig_complete(rig, rig_take(rig, seen, (int)count), 0);
        logged_remember_ring(s);
        kit_log_clear(&s->log);
        rig_settle(rig);
        assert_int_equal(logged_expect_used(s), 1);
        logged_expect_changes(s);
        logged_check(s, &s->log);
        rig_expect_done(rig, round, 0);
    }
    assert_true(pages > 100);
    free(bufs);
    free(seen);
}

/* Only rings with F_LOG; the others are logged by nobody. */
static void test_ring_not_asked_for(void **state)
{
    struct logged *s = *state;
    struct kit_buf bufs[2];

    logged_start(s, false);
    for (unsigned round = 0; round < 8; round++) {
        rig_offer_simple(&s->rig, round);
        rig_settle(&s->rig);
        svq_relay_arm(s->rig.relay);
        rig_complete(&s->rig, rig_take(&s->rig, bufs, 2), 64);
        rig_settle(&s->rig);
        svq_relay_disarm(s->rig.relay);
        logged_expect_bufs(s, bufs, 2);
        logged_check(s, &s->log);
        rig_expect_done(&s->rig, round, 64);
    }
}

/* The ring's own address counts, not where the front-end mapped it: log_guest_addr may differ. */
static void test_ring_at_the_given_address(void **state)
{
    struct logged *s = *state;
    bool is_packed = s->rig.guest.format == SVQ_RING_PACKED;
    struct kit_buf bufs[2];

    /* Flags and index end a page, the entries begin the next one. */
    logged_set(s, s->log.log, true, 0x8000, 0x3ffc);
    rig_offer_simple(&s->rig, 1);
    rig_settle(&s->rig);
    kit_log_clear(&s->log);
    rig_complete(&s->rig, rig_take(&s->rig, bufs, 2), 1);
    rig_settle(&s->rig);
    logged_expect_bufs(s, bufs, 2);
    if (!is_packed) {
        logged_expect(s, 0x3ffc, 4);
        logged_expect(s, 0x4000, 8 * RING);
    } else {
        logged_expect(s, 0x8000, 16 * RING);
    }
    logged_check(s, &s->log);
    svq_relay_disarm(s->rig.relay);
    svq_relay_arm(s->rig.relay);
    s->may[3] = true; /* split with events: the event is elsewhere */
    s->may[4] = !is_packed;
    s->expected[3] = is_packed;
    logged_check(s, &s->log);
}

static void check_suppression(struct logged *s, unsigned round, bool *seen)
{
    logged_expect_changes(s);
    for (uint64_t page = 0; page < LOGGED_PAGES; page++) {
        if (s->expected[page] && !kit_log_test(&s->log, page))
            fail_msg("round %u: page 0x%llx is missing", round, (unsigned long long)page);
        *seen |= s->expected[page];
    }
    kit_log_clear(&s->log);
    memset(s->expected, 0, sizeof(s->expected));
}

static void test_suppression_writes(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    bool seen = false;

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    svq_relay_disarm(rig->relay);
    logged_start(s, true);
    for (unsigned round = 0; round < 6; round++) {
        if (round % 3 == 2)
            rig_offer_simple(rig, 2);
        logged_remember_ring(s);
        if (round % 3 == 0)
            svq_relay_arm(rig->relay);
        else if (round % 3 == 1)
            svq_relay_disarm(rig->relay);
        else
            rig_settle(rig);
        check_suppression(s, round, &seen);
    }
    assert_true(seen);
    svq_relay_disarm(rig->relay);
    if (rig->guest.format == SVQ_RING_PACKED) {
        kit_event_set(rig->guest.packed.device, 0x1234, KIT_EVENT_DISABLE);
    } else {
        rig->guest.split.used->flags = 1;
        *kit_avail_event(&rig->guest) = 0x1234;
    }
    logged_remember_ring(s);
    kit_log_clear(&s->log);
    svq_relay_detach(rig->relay);
    logged_expect_changes(s);
    logged_check(s, &s->log);
}

/* ---- Where the log ends -------------------------------------------------------------------- */

/* Until it completes a chain: writes of suppression state may meet the fault earlier. */
static void expect_fault_at_the_ring(struct logged *s, struct svq_log *log, uint64_t desc,
                                     uint64_t device)
{
    struct rig *rig = &s->rig;
    struct kit_buf buf = {RIG_GPA, 1, false};

    logged_set(s, log, true, desc, device);
    rig_offer(rig, &buf, 1, 1);
    if (!(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT)) {
        rig_complete(rig, rig_take(rig, &buf, 1), 0);
        assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    }
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

static void test_ring_beyond_the_log(void **state)
{
    struct logged *s = *state;
    struct kit_log small;

    kit_log_init(&small, RIG_GPA / RIG_PAGE - 8);
    expect_fault_at_the_ring(s, small.log, RIG_DESC, RIG_DEVICE);
    assert_int_equal(kit_log_count(&small), 0);
    kit_log_free(&small);
}

static void test_ring_address_that_wraps(void **state)
{
    struct logged *s = *state;

    expect_fault_at_the_ring(s, s->log.log, UINT64_MAX - 3, UINT64_MAX - 3);
    assert_int_equal(kit_log_count(&s->log), 0);
}

/* Arming writes suppression state: a fault over that must not go to sleep unseen. */
static void test_arming_beyond_the_log(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    const char *reason;
    struct kit_log small;
    bool again;

    kit_log_init(&small, RIG_GPA / RIG_PAGE);
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    logged_set(s, small.log, true, RIG_DESC, RIG_DEVICE);
    again = svq_relay_arm(rig->relay);
    if (svq_relay_fault(rig->relay, &reason) != SVQ_SIDE_NONE)
        assert_true(again);
    kit_log_free(&small);
}

int main(void)
{
#define EACH(name)                                                               \
    LOGGED_TEST(name, split), LOGGED_TEST(name, split_shared),                   \
        LOGGED_TEST(name, split_shared_events), LOGGED_TEST(name, split_events), \
        LOGGED_TEST(name, split_packed), LOGGED_TEST(name, packed),              \
        LOGGED_TEST(name, packed_events), LOGGED_TEST(name, packed_split)
#define LARGE(name)                                                                             \
    LOGGED_TEST(name, large), LOGGED_TEST(name, large_shared), LOGGED_TEST(name, large_events), \
        LOGGED_TEST(name, large_packed), LOGGED_TEST(name, large_packed_split)
#define BOTH(name) EACH(name), LARGE(name)
    const struct CMUnitTest tests[] = {
        BOTH(test_used_entries),
        BOTH(test_used_entries_over_the_end),
        LARGE(test_used_entry_of_a_long_chain),
        BOTH(test_ring_not_asked_for),
        EACH(test_ring_at_the_given_address),
        BOTH(test_suppression_writes),
        EACH(test_ring_beyond_the_log),
        EACH(test_ring_address_that_wraps),
        EACH(test_arming_beyond_the_log),
    };

    return cmocka_run_group_tests_name("dirty_ring", tests, NULL, NULL);
}
