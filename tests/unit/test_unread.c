/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chains of a shared descriptor table that were taken unread, and into which somebody has to look
 * after all: for a dirty log, or since a back-end passes them over in a batch.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "kit/blind.h"

static const struct rig_sides shared = {BLIND_RING, INDIRECT, INDIRECT, 65530, true};
static const struct rig_sides events = {BLIND_RING, INDIRECT | EVENT_IDX, INDIRECT | EVENT_IDX, 0,
                                        true};
static const struct rig_sides restored = {BLIND_RING, INDIRECT | IN_ORDER, INDIRECT, 65530, true};
static const struct rig_sides batches = {BLIND_RING, INDIRECT | IN_ORDER, INDIRECT | IN_ORDER,
                                         65530, true};
static const struct rig_sides crowd = {128, INDIRECT, INDIRECT, 0, true};

/* ---- With a log ------------------------------------------------------------------------------ */

/* They come back looked into. */
static void expect_logged(struct logged *s)
{
    uint64_t bytes = 0;

    for (unsigned i = 0; i < BLIND_KINDS; i++) {
        rig_expect_done(&s->rig, i, blind_writable(i));
        logged_expect_bufs(s, blind_kinds[i], blind_lengths[i]);
        bytes += blind_bytes(i);
    }
    logged_check(s, &s->log);
    assert_int_equal(rig_stats(&s->rig).bytes, bytes);
    assert_int_equal(rig_state(&s->rig).in_flight, 0);
}

static void test_log_from_now_on(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    uint16_t ids[BLIND_KINDS];

    blind_all_out(rig, ids);
    logged_start(s, false);
    rig_settle(rig);
    assert_int_equal(kit_log_count(&s->log), 0);
    for (unsigned i = 0; i < BLIND_KINDS; i++)
        rig_complete(rig, ids[i], UINT32_MAX);
    rig_settle(rig);
    expect_logged(s);
}

/* A log of so much memory that even what nobody has looked into would fit: it is looked into. */
static void test_large_log(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_log large;
    uint16_t ids[BLIND_KINDS];

    kit_log_init(&large, (UINT64_C(1) << 32) / RIG_PAGE + 1);
    blind_all_out(rig, ids);
    logged_set(s, large.log, false, 0, 0);
    rig_complete(rig, ids[0], UINT32_MAX);
    rig_settle(rig);
    rig_expect_done(rig, 0, blind_writable(0));
    logged_expect_bufs(s, blind_kinds[0], 1);
    logged_check(s, &large);
    logged_set(s, NULL, false, 0, 0);
    kit_log_free(&large);
}

/* Read once, and remembered: the guest may write what it likes, and that page is not logged. */
static void test_read_when_taken(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;

    logged_start(s, false);
    for (unsigned i = 0; i < BLIND_KINDS; i++)
        blind_offer(rig, i);
    rig_settle(rig);
    rig_scribble(rig);
    memset(kit_memory_at(&rig->memory, RIG_TABLES, BLIND_KINDS * RIG_PAGE), 0xff,
           BLIND_KINDS * RIG_PAGE);
    for (unsigned i = 0; i < BLIND_KINDS; i++)
        blind_put_used(rig, rig->shadow.split.avail->ring[i], UINT32_MAX);
    blind_settle(rig);
    expect_logged(s);
    blind_expect_no_copies(rig);
}

/* Completed, but not yet given to the guest, which wants its order. */
static void test_log_while_they_wait(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    uint16_t ids[BLIND_KINDS];

    blind_all_out(rig, ids);
    for (unsigned i = BLIND_KINDS - 1; i; i--)
        rig_complete(rig, ids[i], UINT32_MAX);
    blind_settle(rig);
    rig_expect_nothing_done(rig);
    logged_start(s, false);
    rig_complete(rig, ids[0], UINT32_MAX);
    rig_settle(rig);
    expect_logged(s);
}

/* Set while a fault of the back-end keeps everything as it is. */
static void test_log_before_a_restart(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf seen[3];
    uint16_t ids[BLIND_KINDS];

    blind_all_out(rig, ids);
    blind_put_used(rig, BLIND_RING + 1, 0);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    logged_start(s, false);
    assert_int_equal(rig_restart(rig), 0);
    rig_settle(rig);
    for (unsigned i = 0; i < BLIND_KINDS; i++)
        rig_complete(rig, rig_take(rig, seen, (int)blind_lengths[i]), UINT32_MAX);
    rig_settle(rig);
    expect_logged(s);
}

/* What was read stays known; what comes after is not read. */
static void test_log_no_more(void **state)
{
    static const struct svq_relay_log none;
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf seen[3];
    uint16_t first, second;

    logged_start(s, false);
    blind_offer(rig, 2);
    rig_settle(rig);
    svq_relay_set_log(rig->relay, &none);
    blind_offer(rig, 0);
    blind_settle(rig);
    first = rig_take(rig, seen, 3);
    second = rig_take(rig, seen, 1);
    rig_complete(rig, first, UINT32_MAX);
    rig_complete(rig, second, UINT32_MAX);
    blind_settle(rig);
    rig_expect_done(rig, 2, blind_writable(2));
    rig_expect_done(rig, 0, UINT32_MAX);
    assert_int_equal(rig_stats(rig).bytes, blind_bytes(2) + UINT64_C(0xffffffff));
    assert_int_equal(kit_log_count(&s->log), 0);
}

/* On and off again without a completion: as if nothing had been. */
static void test_log_in_passing(void **state)
{
    static const struct svq_relay_log none;
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    uint16_t ids[BLIND_KINDS];

    blind_all_out(rig, ids);
    logged_start(s, false);
    rig_settle(rig);
    svq_relay_set_log(rig->relay, &none);
    for (unsigned i = 0; i < BLIND_KINDS; i++)
        rig_complete(rig, ids[i], blind_writable(i));
    rig_settle(rig);
    for (unsigned i = 0; i < BLIND_KINDS; i++)
        rig_expect_done(rig, i, blind_writable(i));
    assert_int_equal(rig_state(rig).in_flight, 0);
    assert_int_equal(kit_log_count(&s->log), 0);
}

/*
 * A fault of the guest, found in chain number `guilty`: nobody is to do that one again, since the
 * back-end has done it.
 */
static void expect_guilty(struct logged *s, unsigned guilty, unsigned good)
{
    struct rig *rig = &s->rig;
    uint16_t base;

    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_int_equal(rig_stats(rig).chains, good);
    rig_expect_fault(rig, SVQ_SIDE_GUEST);
    base = (uint16_t)svq_relay_detach(rig->relay);
    assert_in_range((uint16_t)(base - rig->base), guilty + 1, BLIND_RING);
}

static void check_found_late(const struct rig_sides *sides, unsigned i)
{
    void *state = (void *)(uintptr_t)sides;
    struct logged *s;

    logged_setup(&state);
    s = state;
    blind_offer_garbage(&s->rig, i);
    blind_settle(&s->rig);
    logged_start(s, false);
    blind_put_used(&s->rig, 0, 1);
    expect_guilty(s, 0, 0);
    assert_int_equal(kit_log_count(&s->log), 0);
    logged_teardown(&state);
}

static void test_garbage_is_found_late(void **state)
{
    (void)state;
    for (unsigned i = 0; i < BLIND_GARBAGE; i++) {
        check_found_late(&shared, i);
        check_found_late(&restored, i);
        check_found_late(&batches, i);
    }
}

/* An older one, which the back-end has not done, is lost; given back, it would take this along. */
static void test_garbage_is_not_done_again(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;

    rig->guest.split.desc[2] = (struct kit_desc){RIG_DATA, 8, KIT_F_WRITE, 0};
    rig->guest.split.avail->ring[rig->guest.split.avail->idx % BLIND_RING] = 2;
    kit_set16(&rig->guest.split.avail->idx, (uint16_t)(rig->base + 1));
    blind_offer_garbage(rig, 0);
    blind_settle(rig);
    logged_start(s, false);
    blind_put_used(rig, 0, 1);
    expect_guilty(s, 1, 0);
}

/* Two chains that are one: not seen before somebody looks. */
static void test_chains_that_share_a_descriptor(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_desc *desc = rig->guest.split.desc;
    struct kit_avail *avail = rig->guest.split.avail;

    desc[3] = (struct kit_desc){RIG_DATA, 1, KIT_F_NEXT, 4};
    desc[4] = (struct kit_desc){RIG_DATA, 1, 0, 0};
    avail->ring[avail->idx % BLIND_RING] = 3;
    avail->ring[(avail->idx + 1) % BLIND_RING] = 4;
    kit_set16(&avail->idx, (uint16_t)(avail->idx + 2));
    blind_settle(rig);
    assert_int_equal(rig_state(rig).in_flight, 2);
    logged_start(s, false);
    blind_put_used(rig, 3, 0);
    expect_guilty(s, 0, 0);
}

/*
 * More tables in flight than we would take copies of: nothing is wrong with that while nobody has
 * to, and nothing when somebody has.
 */
static void test_many_long_tables(void **state)
{
    enum { LONG = 1024, MANY = 128 };
    static struct kit_buf bufs[LONG], seen[LONG];
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    uint16_t ids[MANY];

    for (unsigned i = 0; i < LONG; i++)
        bufs[i] = (struct kit_buf){RIG_DATA + i, 1, i > 0};
    for (unsigned n = 0; n < MANY; n++) {
        struct kit_chain chain = {bufs, LONG, 0, RIG_TABLES, false, (void *)(uintptr_t)n};

        rig_offer_chain(rig, &chain);
    }
    blind_settle(rig);
    assert_int_equal(rig_state(rig).in_flight, MANY);
    for (unsigned n = 0; n < MANY; n++)
        ids[n] = rig_take(rig, seen, LONG);
    logged_start(s, false);
    for (unsigned n = 0; n < MANY; n++)
        rig_complete(rig, ids[n], UINT32_MAX);
    rig_settle(rig);
    for (unsigned n = 0; n < MANY; n++)
        rig_expect_done(rig, n, LONG - 1);
    assert_int_equal(kit_log_count(&s->log), 1);
}

/* ---- Batches --------------------------------------------------------------------------------- */

/* One used entry for all: those that it passes over have to be looked into, the last has not. */
static void check_batch(struct logged *s, bool log)
{
    struct rig *rig = &s->rig;
    uint64_t bytes = 0;
    uint16_t ids[BLIND_KINDS];

    blind_all_out(rig, ids);
    if (log)
        logged_start(s, false);
    rig->device->ops->complete(rig->device, ids[BLIND_KINDS - 1], 12345, BLIND_KINDS);
    rig->device->ops->publish(rig->device);
    rig_settle(rig);
    for (unsigned i = 0; i < BLIND_KINDS; i++) {
        bool last = i == BLIND_KINDS - 1;
        bool unread = last && !log;

        rig_expect_done(rig, i, unread ? 12345 : blind_writable(i));
        logged_expect_bufs(s, blind_kinds[i], log ? blind_lengths[i] : 0);
        bytes += unread ? 12345 : blind_bytes(i);
    }
    logged_check(s, &s->log);
    assert_int_equal(rig_stats(rig).bytes, bytes);
    assert_int_equal(rig_state(rig).in_flight, 0);
}

static void test_batch(void **state)
{
    check_batch(*state, false);
}

static void test_logged_batch(void **state)
{
    check_batch(*state, true);
}

/* A chain nobody can make sense of, second of three: passed over, that is a fault, */
static void test_garbage_in_a_batch(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_desc *desc = rig->guest.split.desc;
    struct kit_buf buf = {RIG_DATA, 8, true};

    for (unsigned i = 0; i < 3; i++)
        rig_offer(rig, &buf, 1, i);
    desc[1].addr = RIG_END;
    blind_settle(rig);
    rig->shadow.split.used->ring[0] = (struct kit_used_elem){2, 8};
    kit_set16(&rig->shadow.split.used->idx, 3);
    expect_guilty(s, 1, 1);
    assert_int_equal(rig_completed(rig), 1);
}

/* named itself, it is not. */
static void test_garbage_at_the_end_of_a_batch(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf buf = {RIG_DATA, 8, true};

    for (unsigned i = 0; i < 3; i++)
        rig_offer(rig, &buf, 1, i);
    rig->guest.split.desc[2].addr = RIG_END;
    blind_settle(rig);
    rig->shadow.split.used->ring[0] = (struct kit_used_elem){2, 99};
    kit_set16(&rig->shadow.split.used->idx, 3);
    rig_settle(rig);
    for (unsigned i = 0; i < 3; i++)
        rig_expect_done(rig, i, i == 2 ? 99 : 8);
}

int main(void)
{
#define EACH(name)                                                                     \
    LOGGED_TEST(name, shared), LOGGED_TEST(name, events), LOGGED_TEST(name, restored), \
        LOGGED_TEST(name, batches)
#define ORDERLESS(name) LOGGED_TEST(name, shared), LOGGED_TEST(name, events)
    const struct CMUnitTest tests[] = {
        EACH(test_log_from_now_on),
        EACH(test_large_log),
        EACH(test_read_when_taken),
        LOGGED_TEST(test_log_while_they_wait, restored),
        EACH(test_log_before_a_restart),
        EACH(test_log_no_more),
        EACH(test_log_in_passing),
        cmocka_unit_test(test_garbage_is_found_late),
        ORDERLESS(test_garbage_is_not_done_again),
        EACH(test_chains_that_share_a_descriptor),
        LOGGED_TEST(test_many_long_tables, crowd),
        LOGGED_TEST(test_batch, batches),
        LOGGED_TEST(test_logged_batch, batches),
        LOGGED_TEST(test_garbage_in_a_batch, batches),
        LOGGED_TEST(test_garbage_at_the_end_of_a_batch, batches),
    };

    return cmocka_run_group_tests_name("unread", tests, NULL, NULL);
}
