/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The relay's dirty log, page by page: everything written since logging began is marked, before the
 * guest can know of it, and nothing else is.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { RING = 32, PAGES = RIG_END / RIG_PAGE };

struct stage {
    struct rig rig;
    struct kit_log log;
    bool expected[PAGES];
    uint8_t used[512 * 1024]; /* the used ring as it was */
};

static int setup_ring(void **state, unsigned num, uint64_t features, uint16_t base)
{
    struct stage *s = calloc(1, sizeof(*s));

    kit_require(s != NULL);
    rig_init(&s->rig, num, features, base);
    kit_log_init(&s->log, PAGES);
    *state = s;
    return 0;
}

static int setup(void **state)
{
    return setup_ring(state, RING, INDIRECT, 0);
}

static int setup_events(void **state)
{
    return setup_ring(state, RING, INDIRECT | EVENT_IDX, 65535);
}

/* A used ring of 65 pages, about to wrap. */
static int setup_large(void **state)
{
    return setup_ring(state, 32768, 0, 32764);
}

static int setup_large_events(void **state)
{
    return setup_ring(state, 32768, EVENT_IDX, 32764);
}

static int teardown(void **state)
{
    struct stage *s = *state;

    rig_free(&s->rig);
    kit_log_free(&s->log);
    free(s);
    return 0;
}

static void start_log(struct stage *s, bool log_used)
{
    svq_relay_set_log(s->rig.relay, s->log.log, log_used, log_used ? RIG_USED : 0);
}

static void expect_range(struct stage *s, uint64_t gpa, uint64_t len)
{
    for (uint64_t page = gpa / RIG_PAGE; len && page <= (gpa + len - 1) / RIG_PAGE; page++)
        s->expected[page] = true;
}

static void expect_bufs(struct stage *s, const struct kit_buf *bufs, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (bufs[i].write)
            expect_range(s, bufs[i].gpa, bufs[i].len);
}

/* The log shows exactly what is expected; then both start anew. */
static void check_log(struct stage *s, struct kit_log *log)
{
    for (uint64_t page = 0; page < PAGES; page++)
        if (kit_log_test(log, page) != s->expected[page])
            fail_msg("page 0x%llx is %s", (unsigned long long)page,
                     s->expected[page] ? "missing" : "marked although nobody wrote it");
    kit_log_clear(log);
    memset(s->expected, 0, sizeof(s->expected));
}

/* A page whose content has changed is a page that was written: no reasoning beats that. */
static void remember_used(struct stage *s)
{
    memcpy(s->used, s->rig.guest.used, kit_split_used_bytes(s->rig.num));
}

static void expect_changes_of_used(struct stage *s)
{
    const uint8_t *now = (const uint8_t *)s->rig.guest.used;

    for (uint64_t i = 0; i < kit_split_used_bytes(s->rig.num); i++)
        if (now[i] != s->used[i])
            expect_range(s, RIG_USED + i, 1);
}

/* A chain with readable and writable buffers on pages that no other buffer shares. */
static unsigned make_bufs(struct rig *rig, struct kit_buf *bufs)
{
    static const uint32_t lens[] = {5000, 100, 1, 4096, 9000, 0, 33};
    unsigned count = sizeof(lens) / sizeof(lens[0]);

    for (unsigned i = 0; i < count; i++) {
        rig->next_data = (rig->next_data + 2 * RIG_PAGE - 1) / RIG_PAGE * RIG_PAGE + 517 * i % 4096;
        bufs[i] = rig_buf(rig, lens[i], i >= 2);
    }
    return count;
}

static void offer(struct rig *rig, const struct kit_chain *chain)
{
    assert_true(rig->driver.driver.ops->add(&rig->driver.driver, chain));
    rig->driver.driver.ops->publish(&rig->driver.driver);
    rig_settle(rig);
}

static void finish(struct rig *rig, unsigned count, uint32_t len)
{
    struct kit_buf seen[16];

    rig_complete(rig, rig_take(rig, seen, (int)count), len);
    rig_settle(rig);
}

/* ---- Which pages ------------------------------------------------------------------------- */

static void check_shape(struct stage *s, unsigned direct, bool scatter, uint32_t len)
{
    struct rig *rig = &s->rig;
    struct kit_buf bufs[8];
    unsigned count = make_bufs(rig, bufs);
    struct kit_chain chain = {bufs, count, direct, RIG_TABLES + 128, scatter, &chain};

    offer(rig, &chain);
    check_log(s, &s->log); /* nothing yet: nobody wrote anything */
    finish(rig, count, len);
    expect_bufs(s, bufs, count);
    check_log(s, &s->log);
    rig_expect_done(rig, (uintptr_t)&chain, len < 13130 ? len : 13130);
}

static void test_the_writable_part(void **state)
{
    struct stage *s = *state;

    start_log(s, false);
    /* Whatever len says: a device writes at least that, and may write more. */
    check_shape(s, 7, false, 13130);
    check_shape(s, 7, false, 0);
    check_shape(s, 7, false, 1);
    check_shape(s, 7, false, UINT32_MAX);
    check_shape(s, 0, false, 13130);
    check_shape(s, 0, true, 0);
    for (unsigned direct = 1; direct < 7; direct++)
        check_shape(s, direct, direct & 1, 1);
}

static void test_no_log(void **state)
{
    struct stage *s = *state;

    rig_offer_simple(&s->rig, 1);
    rig_settle(&s->rig);
    finish(&s->rig, 2, 1);
    rig_expect_done(&s->rig, 1, 1);
    assert_int_equal(kit_log_count(&s->log), 0);
}

static void test_marks_again_after_a_harvest(void **state)
{
    struct stage *s = *state;
    struct kit_buf buf = rig_buf(&s->rig, 100, true);

    start_log(s, false);
    for (unsigned round = 0; round < 10; round++) {
        rig_offer(&s->rig, &buf, 1, round);
        rig_settle(&s->rig);
        finish(&s->rig, 1, 100);
        rig_expect_done(&s->rig, round, 100);
        expect_bufs(s, &buf, 1);
        check_log(s, &s->log);
    }
}

static void test_a_long_chain(void **state)
{
    struct stage *s = *state;
    struct kit_buf bufs[512], *seen = calloc(512, sizeof(*seen));
    struct kit_chain chain = {bufs, 512, 0, RIG_TABLES, true, &chain};

    start_log(s, false);
    for (unsigned i = 0; i < 512; i++)
        bufs[i] = (struct kit_buf){RIG_DATA + 2 * i * RIG_PAGE + 4095, 2, i > 3};
    offer(&s->rig, &chain);
    rig_complete(&s->rig, rig_take(&s->rig, seen, 512), 0);
    rig_settle(&s->rig);
    expect_bufs(s, bufs, 512);
    check_log(s, &s->log);
    free(seen);
}

/* ---- The snapshot ------------------------------------------------------------------------ */

static void test_pages_of_the_chain_as_it_was_taken(void **state)
{
    struct stage *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf bufs[8];
    struct kit_desc *table = kit_memory_at(&rig->memory, RIG_TABLES, 16 * 8);

    start_log(s, false);
    for (unsigned direct = 0; direct < 8; direct++) {
        unsigned count = make_bufs(rig, bufs);
        struct kit_chain chain = {bufs, count, direct, RIG_TABLES, false, &chain};
        struct kit_buf seen[8];
        uint16_t id;

        if (direct > count)
            break;
        offer(rig, &chain);
        id = rig_take(rig, seen, (int)count);
        /* The guest points everything somewhere else, after the back-end has it. */
        for (unsigned i = 0; i < RING; i++) {
            rig->guest.desc[i].addr = RIG_DATA + 8 * RIG_PAGE;
            rig->guest.desc[i].len = 4096;
            rig->guest.desc[i].flags ^= KIT_F_WRITE;
        }
        for (unsigned i = 0; i < 8; i++)
            table[i] = (struct kit_desc){RIG_DATA + 16 * RIG_PAGE, 1, KIT_F_WRITE, 0};
        rig_complete(rig, id, 100);
        rig_settle(rig);
        expect_bufs(s, bufs, count);
        check_log(s, &s->log);
        rig_expect_done(rig, (uintptr_t)&chain, 100);
    }
}

/* ---- When -------------------------------------------------------------------------------- */

static void test_chains_in_flight_count(void **state)
{
    struct stage *s = *state;
    struct kit_buf bufs[3], seen[1];
    uint16_t ids[3];

    for (unsigned i = 0; i < 3; i++) {
        bufs[i] = (struct kit_buf){RIG_DATA + i * 3 * RIG_PAGE, 4097, true};
        rig_offer(&s->rig, &bufs[i], 1, i);
    }
    rig_settle(&s->rig);
    for (unsigned i = 0; i < 3; i++)
        ids[i] = rig_take(&s->rig, seen, 1);
    rig_complete(&s->rig, ids[1], 1);
    rig_settle(&s->rig);
    start_log(s, false);
    check_log(s, &s->log); /* the guest has had number 1 already */
    rig_complete(&s->rig, ids[2], 1);
    rig_settle(&s->rig);
    expect_bufs(s, &bufs[2], 1);
    check_log(s, &s->log);
    rig_complete(&s->rig, ids[0], 0);
    rig_settle(&s->rig);
    expect_bufs(s, &bufs[0], 1);
    check_log(s, &s->log);
}

/* Completed by the back-end but not yet relayed when logging starts: still to be marked. */
static void test_completions_under_way_count(void **state)
{
    struct stage *s = *state;
    struct kit_buf buf = {RIG_DATA, 4096, true}, seen;

    rig_offer(&s->rig, &buf, 1, 1);
    rig_settle(&s->rig);
    rig_complete(&s->rig, rig_take(&s->rig, &seen, 1), 1);
    start_log(s, false);
    rig_settle(&s->rig);
    expect_bufs(s, &buf, 1);
    check_log(s, &s->log);
}

static void test_swap(void **state)
{
    struct stage *s = *state;
    struct kit_buf buf = {RIG_DATA, 1, true};
    struct kit_log next;
    unsigned fds;

    for (unsigned round = 0; round < 5; round++) {
        buf.gpa = RIG_DATA + round * RIG_PAGE;
        start_log(s, true);
        rig_offer(&s->rig, &buf, 1, round);
        rig_settle(&s->rig);
        /* Swapped while the chain is out: all of it goes to the new log, and none to the old. */
        kit_log_init(&next, PAGES);
        svq_relay_set_log(s->rig.relay, next.log, true, RIG_USED);
        remember_used(s);
        finish(&s->rig, 1, 1);
        expect_bufs(s, &buf, 1);
        expect_changes_of_used(s);
        check_log(s, &next);
        assert_int_equal(kit_log_count(&s->log), 0);
        rig_expect_done(&s->rig, round, 1);
        svq_relay_set_log(s->rig.relay, NULL, false, 0);
        fds = kit_open_fds();
        kit_log_free(&next);
        assert_int_equal(kit_open_fds(), fds - 1);
    }
    /* Off: nothing more. */
    rig_offer(&s->rig, &buf, 1, 9);
    rig_settle(&s->rig);
    finish(&s->rig, 1, 1);
    assert_int_equal(kit_log_count(&s->log), 0);
}

/* The relay keeps the log that it was given. */
static void test_holds_its_log(void **state)
{
    struct stage *s = *state;
    struct kit_buf buf = {RIG_DATA, 1, true};

    svq_log_ref(s->log.log);
    start_log(s, false);
    svq_log_unref(s->log.log);
    svq_log_unref(s->log.log);
    rig_offer(&s->rig, &buf, 1, 1);
    rig_settle(&s->rig);
    finish(&s->rig, 1, 1);
    expect_bufs(s, &buf, 1);
    check_log(s, &s->log);
    svq_log_ref(s->log.log);
}

/* ---- The used ring ----------------------------------------------------------------------- */

static void test_used_ring(void **state)
{
    struct stage *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf bufs[2];

    start_log(s, true);
    /* Over the end of a large ring: entry 32767 crosses into its last page. */
    for (unsigned round = 0; round < 8; round++) {
        rig_offer_simple(rig, round);
        rig_settle(rig);
        remember_used(s);
        rig_take(rig, bufs, 2);
        assert_int_equal(kit_log_count(&s->log), 0);
        rig_complete(rig, rig->shadow.avail->ring[round % rig->num], 64);
        rig_settle(rig);
        expect_bufs(s, bufs, 2);
        /* An entry may hold the same bytes as before: written all the same. */
        expect_range(s, RIG_USED + 2, 2);
        expect_range(
            s, RIG_USED + 4 + 8 * (uint64_t)((uint16_t)(rig->guest.used->idx - 1) % rig->num), 8);
        expect_changes_of_used(s);
        check_log(s, &s->log);
        rig_expect_done(rig, round, 64);
    }
}

/* A batch that begins at a ring's end and goes on at its start. */
static void test_used_ring_batch_over_the_end(void **state)
{
    struct stage *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf buf = {RIG_GPA, 1, false};
    unsigned count = rig->num - 3;

    start_log(s, true);
    /* Past the end in the second round: entries num - 3 to num - 1, then 0 to num - 7. */
    for (unsigned round = 0; round < 3; round++) {
        uint16_t first = rig->guest.used->idx;

        for (unsigned i = 0; i < count; i++)
            rig_offer(rig, &buf, 1, i);
        rig_settle(rig);
        assert_int_equal(rig_serve(rig, 0), count);
        remember_used(s);
        kit_log_clear(&s->log);
        rig_settle(rig);
        for (unsigned i = 0; i < count; i++) {
            uint16_t slot = (uint16_t)(first + i) % rig->num;

            expect_range(s, RIG_USED + 4 + 8 * (uint64_t)slot, 8);
            rig_expect_done(rig, i, 0);
        }
        expect_range(s, RIG_USED + 2, 2);
        expect_changes_of_used(s);
        check_log(s, &s->log);
    }
}

/* Only rings with F_LOG; the others' used rings are logged by nobody. */
static void test_used_ring_not_asked_for(void **state)
{
    struct stage *s = *state;
    struct kit_buf bufs[2];

    start_log(s, false);
    for (unsigned round = 0; round < 8; round++) {
        rig_offer_simple(&s->rig, round);
        rig_settle(&s->rig);
        svq_relay_arm(s->rig.relay);
        rig_complete(&s->rig, rig_take(&s->rig, bufs, 2), 64);
        rig_settle(&s->rig);
        svq_relay_disarm(s->rig.relay);
        expect_bufs(s, bufs, 2);
        check_log(s, &s->log);
        rig_expect_done(&s->rig, round, 64);
    }
}

/* The ring's own address counts, not where the front-end mapped it: log_guest_addr may differ. */
static void test_used_ring_at_the_given_address(void **state)
{
    struct stage *s = *state;
    struct kit_buf bufs[2];

    /* Flags and index end a page, the entries begin the next one. */
    svq_relay_set_log(s->rig.relay, s->log.log, true, 0x3ffc);
    rig_offer_simple(&s->rig, 1);
    rig_settle(&s->rig);
    kit_log_clear(&s->log);
    rig_complete(&s->rig, rig_take(&s->rig, bufs, 2), 1);
    rig_settle(&s->rig);
    expect_bufs(s, bufs, 2);
    expect_range(s, 0x3ffc, 4);
    expect_range(s, 0x4000, 8 * RING);
    check_log(s, &s->log);
}

static void test_suppression_writes(void **state)
{
    struct stage *s = *state;
    struct rig *rig = &s->rig;
    bool seen = false;

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    svq_relay_disarm(rig->relay);
    start_log(s, true);
    for (unsigned round = 0; round < 6; round++) {
        remember_used(s);
        switch (round % 3) {
        case 0:
            svq_relay_arm(rig->relay);
            break;
        case 1:
            svq_relay_disarm(rig->relay);
            rig_offer_simple(rig, 2);
            break;
        default:
            rig_settle(rig);
        }
        expect_changes_of_used(s);
        for (uint64_t page = 0; page < PAGES; page++) {
            if (s->expected[page] && !kit_log_test(&s->log, page))
                fail_msg("round %u: page 0x%llx is missing", round, (unsigned long long)page);
            seen |= s->expected[page];
        }
        kit_log_clear(&s->log);
        memset(s->expected, 0, sizeof(s->expected));
    }
    assert_true(seen);
    remember_used(s);
    svq_relay_disarm(rig->relay);
    rig->guest.used->flags = 1;
    *kit_avail_event(&rig->guest) = 0x1234;
    remember_used(s);
    kit_log_clear(&s->log);
    svq_relay_detach(rig->relay);
    expect_changes_of_used(s);
    check_log(s, &s->log);
}

/* ---- Where the log ends -------------------------------------------------------------------- */

static void test_the_last_page_of_the_log(void **state)
{
    struct stage *s = *state;
    struct kit_buf buf = {RIG_END - 1, 1, true};

    start_log(s, true);
    rig_offer(&s->rig, &buf, 1, 1);
    rig_settle(&s->rig);
    kit_log_clear(&s->log);
    finish(&s->rig, 1, 1);
    rig_expect_done(&s->rig, 1, 1);
    assert_true(kit_log_test(&s->log, PAGES - 1));
}

/* A log that ends too early: the queue stops, and the guest never hears of the chain. */
static void test_beyond_the_log(void **state)
{
    struct stage *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf bufs[2] = {{RIG_DATA, 1, true}, {RIG_DATA + 64 * RIG_PAGE, 1, true}}, seen[2];
    uint16_t base = rig->guest.used->idx;
    struct kit_log small;

    kit_log_init(&small, RIG_DATA / RIG_PAGE + 64);
    svq_relay_set_log(rig->relay, small.log, false, 0);
    rig_offer(rig, bufs, 2, 1);
    rig_settle(rig);
    rig_complete(rig, rig_take(rig, seen, 2), 1);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_int_equal(rig->guest.used->idx, base);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
    kit_log_free(&small);
}

/* Until it completes a chain: writes of suppression state may meet the fault earlier. */
static void expect_fault_at_the_used_ring(struct stage *s, struct svq_log *log, uint64_t used_gpa)
{
    struct rig *rig = &s->rig;
    struct kit_buf buf = {RIG_GPA, 1, false};

    svq_relay_set_log(rig->relay, log, true, used_gpa);
    rig_offer(rig, &buf, 1, 1);
    if (!(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT)) {
        rig_complete(rig, rig_take(rig, &buf, 1), 0);
        assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    }
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
}

static void test_used_ring_beyond_the_log(void **state)
{
    struct stage *s = *state;
    struct kit_log small;

    kit_log_init(&small, RIG_USED / RIG_PAGE);
    expect_fault_at_the_used_ring(s, small.log, RIG_USED);
    assert_int_equal(kit_log_count(&small), 0);
    kit_log_free(&small);
}

static void test_used_ring_address_that_wraps(void **state)
{
    struct stage *s = *state;

    expect_fault_at_the_used_ring(s, s->log.log, UINT64_MAX - 3);
    assert_int_equal(kit_log_count(&s->log), 0);
}

/* Arming writes suppression state: a fault over that must not go to sleep unseen. */
static void test_arming_beyond_the_log(void **state)
{
    struct stage *s = *state;
    struct rig *rig = &s->rig;
    const char *reason;
    struct kit_log small;
    bool again;

    kit_log_init(&small, RIG_USED / RIG_PAGE);
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    svq_relay_set_log(rig->relay, small.log, true, RIG_USED);
    again = svq_relay_arm(rig->relay);
    if (svq_relay_fault(rig->relay, &reason) != SVQ_SIDE_NONE)
        assert_true(again);
    kit_log_free(&small);
}

int main(void)
{
#define BOTH(name) RIG_TEST(name, "", setup), RIG_TEST(name, "_events", setup_events)
#define LARGE(name) \
    RIG_TEST(name, "_large", setup_large), RIG_TEST(name, "_large_events", setup_large_events)
    const struct CMUnitTest tests[] = {
        BOTH(test_the_writable_part),
        BOTH(test_no_log),
        BOTH(test_marks_again_after_a_harvest),
        BOTH(test_a_long_chain),
        BOTH(test_pages_of_the_chain_as_it_was_taken),
        BOTH(test_chains_in_flight_count),
        BOTH(test_completions_under_way_count),
        BOTH(test_swap),
        BOTH(test_holds_its_log),
        BOTH(test_used_ring),
        LARGE(test_used_ring),
        BOTH(test_used_ring_batch_over_the_end),
        LARGE(test_used_ring_batch_over_the_end),
        BOTH(test_used_ring_not_asked_for),
        LARGE(test_used_ring_not_asked_for),
        BOTH(test_used_ring_at_the_given_address),
        BOTH(test_suppression_writes),
        LARGE(test_suppression_writes),
        BOTH(test_the_last_page_of_the_log),
        BOTH(test_beyond_the_log),
        BOTH(test_used_ring_beyond_the_log),
        BOTH(test_used_ring_address_that_wraps),
        BOTH(test_arming_beyond_the_log),
    };

    return cmocka_run_group_tests_name("dirty", tests, NULL, NULL);
}
