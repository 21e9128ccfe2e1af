/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The relay's dirty log of buffers, page by page: everything written since logging began is marked,
 * before the guest can know of it, and nothing else is.
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
    rig_offer_chain(rig, chain);
    rig_settle(rig);
}

static void finish(struct rig *rig, unsigned count, uint32_t len)
{
    struct kit_buf seen[16];

    rig_complete(rig, rig_take(rig, seen, (int)count), len);
    rig_settle(rig);
}

/* ---- Which pages ------------------------------------------------------------------------- */

static void check_shape(struct logged *s, unsigned direct, bool scatter, uint32_t len)
{
    struct rig *rig = &s->rig;
    struct kit_buf bufs[8];
    unsigned count = make_bufs(rig, bufs);
    struct kit_chain chain = {bufs, count, direct, RIG_TABLES + 128, scatter, &chain};

    rig->device->mixed = true;
    offer(rig, &chain);
    logged_check(s, &s->log); /* nothing yet: nobody wrote anything */
    finish(rig, count, len);
    logged_expect_bufs(s, bufs, count);
    logged_check(s, &s->log);
    rig_expect_done(rig, (uintptr_t)&chain, len < 13130 ? len : 13130);
}

static void test_the_writable_part(void **state)
{
    struct logged *s = *state;

    logged_start(s, false);
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
    struct logged *s = *state;

    rig_offer_simple(&s->rig, 1);
    rig_settle(&s->rig);
    finish(&s->rig, 2, 1);
    rig_expect_done(&s->rig, 1, 1);
    assert_int_equal(kit_log_count(&s->log), 0);
}

static void test_marks_again_after_a_harvest(void **state)
{
    struct logged *s = *state;
    struct kit_buf buf = rig_buf(&s->rig, 100, true);

    logged_start(s, false);
    for (unsigned round = 0; round < 10; round++) {
        rig_offer(&s->rig, &buf, 1, round);
        rig_settle(&s->rig);
        finish(&s->rig, 1, 100);
        rig_expect_done(&s->rig, round, 100);
        logged_expect_bufs(s, &buf, 1);
        logged_check(s, &s->log);
    }
}

static void test_a_long_chain(void **state)
{
    struct logged *s = *state;
    /* As long as the back-end can take it. */
    unsigned count = s->rig.backend_features & INDIRECT ? 512 : s->rig.num;
    struct kit_buf bufs[512], *seen = calloc(512, sizeof(*seen));
    struct kit_chain chain = {bufs, count, 0, RIG_TABLES, true, &chain};

    logged_start(s, false);
    for (unsigned i = 0; i < count; i++)
        bufs[i] = (struct kit_buf){RIG_DATA + 2 * i * RIG_PAGE + 4095, 2, i > 3};
    offer(&s->rig, &chain);
    rig_complete(&s->rig, rig_take(&s->rig, seen, (int)count), 0);
    rig_settle(&s->rig);
    logged_expect_bufs(s, bufs, count);
    logged_check(s, &s->log);
    free(seen);
}

/* ---- The snapshot ------------------------------------------------------------------------ */

static void test_pages_of_the_chain_as_it_was_taken(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf bufs[8];
    uint8_t *table = kit_memory_at(&rig->memory, RIG_TABLES, 16 * 8);

    rig->device->mixed = true;
    logged_start(s, false);
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
        rig_scribble(rig);
        memset(table, 0x11, 16 * 8);
        rig_complete(rig, id, 100);
        rig_settle(rig);
        logged_expect_bufs(s, bufs, count);
        logged_check(s, &s->log);
        rig_expect_done(rig, (uintptr_t)&chain, 100);
    }
}

/* ---- When -------------------------------------------------------------------------------- */

static void test_chains_in_flight_count(void **state)
{
    struct logged *s = *state;
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
    logged_start(s, false);
    logged_check(s, &s->log); /* the guest has had number 1 already */
    rig_complete(&s->rig, ids[2], 1);
    rig_settle(&s->rig);
    logged_expect_bufs(s, &bufs[2], 1);
    logged_check(s, &s->log);
    rig_complete(&s->rig, ids[0], 0);
    rig_settle(&s->rig);
    logged_expect_bufs(s, &bufs[0], 1);
    logged_check(s, &s->log);
}

/* Completed by the back-end but not yet relayed when logging starts: still to be marked. */
static void test_completions_under_way_count(void **state)
{
    struct logged *s = *state;
    struct kit_buf buf = {RIG_DATA, 4096, true}, seen;

    rig_offer(&s->rig, &buf, 1, 1);
    rig_settle(&s->rig);
    rig_complete(&s->rig, rig_take(&s->rig, &seen, 1), 1);
    logged_start(s, false);
    rig_settle(&s->rig);
    logged_expect_bufs(s, &buf, 1);
    logged_check(s, &s->log);
}

static void test_swap(void **state)
{
    struct logged *s = *state;
    struct kit_buf buf = {RIG_DATA, 1, true};
    struct kit_log next;
    unsigned fds;

    for (unsigned round = 0; round < 5; round++) {
        buf.gpa = RIG_DATA + round * RIG_PAGE;
        logged_start(s, true);
        rig_offer(&s->rig, &buf, 1, round);
        rig_settle(&s->rig);
        /* Swapped while the chain is out: all of it goes to the new log, and none to the old. */
        kit_log_init(&next, LOGGED_PAGES);
        logged_set(s, next.log, true, RIG_DESC, RIG_DEVICE);
        logged_remember_ring(s);
        finish(&s->rig, 1, 1);
        logged_expect_bufs(s, &buf, 1);
        assert_int_equal(logged_expect_used(s), 1);
        logged_expect_changes(s);
        logged_check(s, &next);
        assert_int_equal(kit_log_count(&s->log), 0);
        rig_expect_done(&s->rig, round, 1);
        logged_set(s, NULL, false, 0, 0);
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
    struct logged *s = *state;
    struct kit_buf buf = {RIG_DATA, 1, true};

    svq_log_ref(s->log.log);
    logged_start(s, false);
    svq_log_unref(s->log.log);
    svq_log_unref(s->log.log);
    rig_offer(&s->rig, &buf, 1, 1);
    rig_settle(&s->rig);
    finish(&s->rig, 1, 1);
    logged_expect_bufs(s, &buf, 1);
    logged_check(s, &s->log);
    svq_log_ref(s->log.log);
}

/* ---- Where the log ends -------------------------------------------------------------------- */

static void test_the_last_page_of_the_log(void **state)
{
    struct logged *s = *state;
    struct kit_buf buf = {RIG_END - 1, 1, true};

    logged_start(s, true);
    rig_offer(&s->rig, &buf, 1, 1);
    rig_settle(&s->rig);
    kit_log_clear(&s->log);
    finish(&s->rig, 1, 1);
    rig_expect_done(&s->rig, 1, 1);
    assert_true(kit_log_test(&s->log, LOGGED_PAGES - 1));
}

/* A log that ends too early: the queue stops, and the guest never hears of the chain. */
static void test_beyond_the_log(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf bufs[2] = {{RIG_DATA, 1, true}, {RIG_DATA + 64 * RIG_PAGE, 1, true}}, seen[2];
    struct kit_log small;

    kit_log_init(&small, RIG_DATA / RIG_PAGE + 64);
    logged_set(s, small.log, false, 0, 0);
    rig_offer(rig, bufs, 2, 1);
    rig_settle(rig);
    rig_complete(rig, rig_take(rig, seen, 2), 1);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_int_equal(rig_completed(rig), 0);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
    kit_log_free(&small);
}

int main(void)
{
#define EACH(name)                                                               \
    LOGGED_TEST(name, split), LOGGED_TEST(name, split_shared),                   \
        LOGGED_TEST(name, split_shared_events), LOGGED_TEST(name, split_events), \
        LOGGED_TEST(name, split_packed), LOGGED_TEST(name, packed),              \
        LOGGED_TEST(name, packed_events), LOGGED_TEST(name, packed_split)
    const struct CMUnitTest tests[] = {
        EACH(test_the_writable_part),
        EACH(test_no_log),
        EACH(test_marks_again_after_a_harvest),
        EACH(test_a_long_chain),
        EACH(test_pages_of_the_chain_as_it_was_taken),
        EACH(test_chains_in_flight_count),
        EACH(test_completions_under_way_count),
        EACH(test_swap),
        EACH(test_holds_its_log),
        EACH(test_the_last_page_of_the_log),
        EACH(test_beyond_the_log),
    };

    return cmocka_run_group_tests_name("dirty", tests, NULL, NULL);
}
