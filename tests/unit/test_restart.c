/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The back-end crashes and another one begins (svq_relay_restart()), with every combination of
 * formats, tables and order: what had been completed is completed once, the rest comes again in the
 * guest's order, and the guest notices nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { RING = 16, BATCH = 6, MAX_BUFS = 3 };

enum order { ANY, BATCHES, RESTORED };

static enum order order_of(const struct rig *rig)
{
    if (rig->backend_features & IN_ORDER)
        return BATCHES;
    return rig->features & IN_ORDER ? RESTORED : ANY;
}

/* ---- Chains that are known by their number --------------------------------------------------- */

/* Of one or two slots; every third one in a table, where there are tables. */
static struct kit_chain make_chain(const struct rig *rig, struct kit_buf *bufs, uintptr_t number)
{
    bool in_table = rig->features & INDIRECT && number % 3 == 2;
    unsigned count = 1 + number % 2;
    uint64_t data = RIG_DATA + number % 4096 * 256;

    for (unsigned i = 0; i < count; i++)
        bufs[i] = (struct kit_buf){data + 64 * i, 64, i + 1 == count};
    return (struct kit_chain){
        bufs, count, in_table ? 0 : count, RIG_TABLES + number % 64 * 64, false, (void *)number};
}

static void offer(struct rig *rig, uintptr_t first, unsigned count)
{
    struct kit_buf bufs[MAX_BUFS];

    while (count--) {
        struct kit_chain chain = make_chain(rig, bufs, first++);

        rig_offer_chain(rig, &chain);
    }
}

/* The back-end takes that chain and no other. Return: its id. */
static uint16_t take(struct rig *rig, uintptr_t number)
{
    struct kit_buf sent[MAX_BUFS], got[MAX_BUFS];
    struct kit_chain chain = make_chain(rig, sent, number);
    uint16_t id = rig_take(rig, got, (int)chain.count);

    for (unsigned i = 0; i < chain.count; i++) {
        assert_int_equal(got[i].gpa, sent[i].gpa);
        assert_int_equal(got[i].len, sent[i].len);
        assert_int_equal(got[i].write, sent[i].write);
    }
    return id;
}

static void take_each(struct rig *rig, uint16_t *ids, uintptr_t first, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        ids[i] = take(rig, first + i);
}

static uint32_t len_of(uintptr_t number)
{
    return number % 50;
}

/* Written, but not published. */
static void write_used(struct rig *rig, uint16_t id, uintptr_t number, unsigned batch)
{
    rig->device->ops->complete(rig->device, id, len_of(number), batch);
}

static void complete(struct rig *rig, uint16_t id, uintptr_t number)
{
    write_used(rig, id, number, 1);
    rig->device->ops->publish(rig->device);
}

static void expect_done(struct rig *rig, uintptr_t number)
{
    rig_expect_done(rig, number, len_of(number));
}

static uint32_t shadow_start(const struct rig *rig)
{
    return rig_shadow_base(rig, 0, 0);
}

/* Another back-end; so many chains come again. */
static void restart(struct rig *rig, unsigned resubmitted)
{
    uint64_t before = rig_stats(rig).resubmitted;

    assert_int_equal(rig_restart(rig), 0);
    assert_int_equal(rig_stats(rig).resubmitted - before, resubmitted);
    rig_expect_no_fault(rig);
}

/* All is through: traffic as if nothing had been. */
static void expect_good_service(struct rig *rig, uintptr_t first, unsigned count)
{
    for (uintptr_t n = first; n < first + count; n++) {
        offer(rig, n, 1);
        rig_settle(rig);
        complete(rig, take(rig, n), n);
        rig_settle(rig);
        expect_done(rig, n);
    }
    rig_expect_nothing_done(rig);
    assert_int_equal(rig_state(rig).in_flight, 0);
}

/* ---- Every combination ----------------------------------------------------------------------- */

/*
 * The back-end crashes with a batch in all states that chains can have: relayed, completed but not
 * relayed, completed before an older one, written but not published, taken, not taken. Those that
 * are left are in left[], the number of them is returned.
 */
static unsigned crash_amid(struct rig *rig, uintptr_t first, uintptr_t *left)
{
    static const unsigned out_of_order[] = {0, 2, 4, 5};
    uint16_t ids[BATCH];

    offer(rig, first, BATCH);
    rig_settle(rig);
    take_each(rig, ids, first, BATCH - 1);
    if (order_of(rig) == BATCHES) {
        write_used(rig, ids[1], first + 1, 2);
        rig->device->ops->publish(rig->device);
        rig_settle(rig);
        complete(rig, ids[2], first + 2);
        write_used(rig, ids[3], first + 3, 1);
        restart(rig, 3);
        for (unsigned i = 0; i < 3; i++)
            left[i] = first + 3 + i;
        rig_expect_done(rig, first, 64); /* in full: it had no entry of its own */
        expect_done(rig, first + 1);
        expect_done(rig, first + 2);
        return 3;
    }
    complete(rig, ids[1], first + 1);
    rig_settle(rig);
    complete(rig, ids[3], first + 3);
    write_used(rig, ids[2], first + 2, 1);
    restart(rig, 4);
    for (unsigned i = 0; i < 4; i++)
        left[i] = first + out_of_order[i];
    if (order_of(rig) == ANY) {
        expect_done(rig, first + 1);
        expect_done(rig, first + 3);
    }
    return 4;
}

/* What is left comes, in order and nothing else, and is completed in another order. */
static void finish(struct rig *rig, uintptr_t first, const uintptr_t *left, unsigned count)
{
    uint16_t ids[BATCH];

    for (unsigned i = 0; i < count; i++)
        ids[i] = take(rig, left[i]);
    rig_expect_idle_device(rig);
    for (unsigned i = 0; i < count; i++) {
        unsigned at = order_of(rig) == BATCHES ? i : count - 1 - i;

        complete(rig, ids[at], left[at]);
        rig_settle(rig);
        if (order_of(rig) != RESTORED)
            expect_done(rig, left[at]);
    }
    if (order_of(rig) == RESTORED)
        for (unsigned i = 0; i < BATCH; i++)
            expect_done(rig, first + i);
    rig_expect_nothing_done(rig);
    assert_int_equal(rig_state(rig).in_flight, 0);
}

static void test_crashes(void **state)
{
    struct rig *rig = *state;
    uintptr_t left[BATCH], next = 0;

    for (unsigned round = 0; round < 100; round++) {
        uintptr_t first = next;
        unsigned count = crash_amid(rig, first, left);

        next += BATCH;
        rig_expect_nothing_done(rig);
        assert_int_equal(rig_state(rig).in_flight, order_of(rig) == RESTORED ? BATCH : count);
        rig_settle(rig);
        /* The next ones take nothing, something, or all there is, and crash as well. */
        for (unsigned again = 0; again < round % 4; again++) {
            for (unsigned i = 0; i < (round + again) % (count + 1); i++)
                take(rig, left[i]);
            restart(rig, count);
        }
        finish(rig, first, left, count);
        /* Sometimes the shadow ring wraps before the next crash, sometimes it does not. */
        expect_good_service(rig, next, round * 7 % 40);
        next += round * 7 % 40;
    }
    assert_int_equal(rig_stats(rig).chains, next);
}

/* New chains may come meanwhile: they come after the old ones. */
static void test_old_before_new(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[BATCH];

    for (uintptr_t first = 0; first < 20 * BATCH; first += BATCH) {
        offer(rig, first, 2);
        rig_settle(rig);
        take_each(rig, ids, first, first % 3);
        offer(rig, first + 2, 2);
        restart(rig, 2);
        offer(rig, first + 4, 2);
        rig_settle(rig);
        take_each(rig, ids, first, BATCH);
        rig_expect_idle_device(rig);
        for (unsigned i = 0; i < BATCH; i++)
            complete(rig, ids[i], first + i);
        rig_settle(rig);
        for (unsigned i = 0; i < BATCH; i++)
            expect_done(rig, first + i);
    }
}

static void test_nothing_in_flight(void **state)
{
    struct rig *rig = *state;

    for (unsigned round = 0; round < 5; round++) {
        restart(rig, 0);
        assert_int_equal(rig_poll(rig), 0);
        rig_expect_idle_device(rig);
        assert_int_equal(svq_relay_drained(rig->relay, shadow_start(rig)), 1);
        expect_good_service(rig, round * 10, 10);
    }
}

/* As many chains as there are slots, or as many slots as there are in fewer chains. */
static void test_full_ring(void **state)
{
    struct rig *rig = *state;
    unsigned per_chain = 1;
    struct kit_buf bufs[2], seen[2];

    for (unsigned round = 0; round < 8; round++) {
        unsigned count = rig->num / per_chain;

        for (unsigned i = 0; i < count; i++) {
            bufs[0] = (struct kit_buf){RIG_DATA + 256 * i, 64, per_chain == 1};
            bufs[1] = (struct kit_buf){RIG_DATA + 256 * i + 64, 64, true};
            rig_offer(rig, bufs, per_chain, i);
        }
        rig_settle(rig);
        for (unsigned i = 0; i < round; i++)
            rig_take(rig, seen, (int)per_chain);
        restart(rig, count);
        assert_int_equal(svq_relay_drained(rig->relay, shadow_start(rig)), 1);
        for (unsigned i = 0; i < count; i++) {
            uint16_t id = rig_take(rig, seen, (int)per_chain);

            assert_int_equal(seen[0].gpa, RIG_DATA + 256 * i);
            complete(rig, id, i);
        }
        rig_settle(rig);
        for (unsigned i = 0; i < count; i++)
            expect_done(rig, i);
        per_chain = 3 - per_chain;
    }
    rig_expect_nothing_done(rig);
}

/*
 * A back-end with IN_ORDER may rely on descriptors in the order of the table, from its start
 * (virtio 1.3 section 2.7.9), but not if they are the guest's own.
 */
static void test_slots_from_the_start(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];

    for (unsigned round = 0; round < 10; round++) {
        for (unsigned i = 0; i < 5; i++)
            rig_offer_simple(rig, i);
        rig_settle(rig);
        rig_complete(rig, rig_take(rig, bufs, 2), 1);
        rig_take(rig, bufs, 2);
        restart(rig, 4);
        rig_offer_simple(rig, 5);
        rig_settle(rig);
        for (unsigned i = 0; i < 5; i++) {
            uint16_t id = rig_take(rig, bufs, 2);

            assert_int_equal(id, 2 * i);
            rig_complete(rig, id, 1);
        }
        rig_settle(rig);
        for (unsigned i = 0; i < 6; i++)
            rig_expect_done(rig, i, 1);
    }
}

/* A chain that found no room goes on waiting, and no longer than it has to. */
static void test_a_chain_waits(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[RING], seen[RING];
    struct kit_chain chain = {bufs, RING - 3, 0, RIG_TABLES, false, NULL};
    uint16_t id;

    for (uintptr_t token = 0; token < 40; token += 2) {
        for (unsigned i = 0; i < RING; i++)
            bufs[i] = (struct kit_buf){RIG_DATA + 64 * i, 64, true};
        for (unsigned i = 0; i < 2; i++) {
            chain.token = (void *)(token + i);
            chain.table = RIG_TABLES + i * 4096;
            rig_offer_chain(rig, &chain);
        }
        rig_settle(rig);
        assert_int_equal(rig_state(rig).in_flight, 1);
        restart(rig, 1);
        rig_settle(rig);
        assert_int_equal(rig_state(rig).in_flight, 1);
        id = rig_take(rig, seen, RING - 3);
        rig_expect_idle_device(rig);
        rig_complete(rig, id, 1);
        restart(rig, 0);
        rig_settle(rig);
        rig_expect_done(rig, token, 1);
        rig_complete(rig, rig_take(rig, seen, RING - 3), 2);
        rig_settle(rig);
        rig_expect_done(rig, token + 1, 2);
    }
}

/* ---- Sides ----------------------------------------------------------------------------------- */

static const uint64_t formats[] = {0, PACKED};
/* Tables: refused, kept or converted, flattened. */
static const uint64_t tables[][2] = {{0, 0}, {INDIRECT, INDIRECT}, {INDIRECT, 0}};
/* Order: any, batches (twice), restored. */
static const uint64_t orders[][2] = {{0, 0}, {0, IN_ORDER}, {IN_ORDER, IN_ORDER}, {IN_ORDER, 0}};

enum { MATRIX = 2 * 2 * 3 * 4, COMBINATIONS = 2 * MATRIX, TESTS = 6 };

/* Each of them once copied and once, where that can be, shared. */
static struct rig_sides combination(unsigned at)
{
    const uint64_t *table = tables[at / 4 % 3], *order = orders[at / 12 % 4];
    uint64_t guest = formats[at % 2], backend = formats[at / 2 % 2];
    struct rig_sides sides = {RING, guest | table[0] | order[0], backend | table[1] | order[1], 0};

    if (at % 3 == 1)
        sides.guest |= EVENT_IDX;
    if (at % 5 < 3)
        sides.backend |= EVENT_IDX;
    /* Packed rings have any size; either wraps soon. */
    if (guest)
        sides.num = at % 8 < 4 ? RING - 1 : RING + 1;
    sides.base = guest ? 0x8000 | (at % 7) : 65530;
    sides.share = at >= MATRIX;
    return sides;
}

/* Does the relay number the slots of a split ring itself, in order, for one who relies on it? */
static bool numbers_slots(const struct rig_sides *sides)
{
    bool same = !((sides->guest | sides->backend) & PACKED) && sides->num == RING;
    bool flat = sides->guest & INDIRECT && !(sides->backend & INDIRECT);

    return sides->backend & IN_ORDER && !(sides->backend & PACKED) &&
           (!same || flat || !(sides->guest & IN_ORDER));
}

static bool can_lack_room(const struct rig_sides *sides)
{
    return sides->guest & INDIRECT && !(sides->backend & INDIRECT) && sides->num == RING;
}

struct list {
    struct CMUnitTest tests[TESTS * COMBINATIONS];
    char names[TESTS * COMBINATIONS][64];
    unsigned count;
};

static void add(struct list *list, const char *name, CMUnitTestFunction test, unsigned at,
                struct rig_sides *sides)
{
    char *full = list->names[list->count];

    snprintf(full, sizeof(list->names[0]), "%s_%u", name, at);
    list->tests[list->count++] = (struct CMUnitTest){full, test, rig_setup, rig_teardown, sides};
}

int main(void)
{
    static struct rig_sides sides[COMBINATIONS];
    static struct list list;

    for (unsigned at = 0; at < COMBINATIONS; at++) {
        sides[at] = combination(at);
        add(&list, "crashes", test_crashes, at, &sides[at]);
        add(&list, "old_before_new", test_old_before_new, at, &sides[at]);
        add(&list, "nothing_in_flight", test_nothing_in_flight, at, &sides[at]);
        add(&list, "full_ring", test_full_ring, at, &sides[at]);
        if (numbers_slots(&sides[at]))
            add(&list, "slots_from_the_start", test_slots_from_the_start, at, &sides[at]);
        if (can_lack_room(&sides[at]))
            add(&list, "a_chain_waits", test_a_chain_waits, at, &sides[at]);
    }
    return _cmocka_run_group_tests("restart", list.tests, list.count, NULL, NULL);
}
