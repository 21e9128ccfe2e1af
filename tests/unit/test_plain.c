/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chains of one direct descriptor, which the relay takes and returns in loops of their own: what
 * holds for all others holds for them.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>

#include <cmocka.h>

#include "kit/rig.h"
#include "kit/rng.h"

enum { RING = 16 };

/* Both sides keep the order, */
static const struct rig_sides split = {RING, IN_ORDER, IN_ORDER, 65530};
static const struct rig_sides shared = {RING, IN_ORDER, IN_ORDER, 65530, true};
static const struct rig_sides split_packed = {RING, IN_ORDER, IN_ORDER | PACKED, 0};
static const struct rig_sides packed_split = {RING - 1, IN_ORDER | PACKED, IN_ORDER, 0x800d};
static const struct rig_sides packed = {RING + 1, IN_ORDER | PACKED, IN_ORDER | PACKED, 15};
/* only the back-end, */
static const struct rig_sides free_split = {RING, 0, IN_ORDER, 65530};
static const struct rig_sides free_packed = {RING, PACKED, IN_ORDER | PACKED, 0x8000};
/* only the guest, */
static const struct rig_sides strict_split = {RING, IN_ORDER, 0, 65530};
static const struct rig_sides strict_shared = {RING, IN_ORDER, 0, 65530, true};
static const struct rig_sides strict_split_packed = {RING, IN_ORDER, PACKED, 0};
static const struct rig_sides strict_packed_split = {RING, IN_ORDER | PACKED, 0, 13};
static const struct rig_sides strict_packed = {RING, IN_ORDER | PACKED, PACKED, 0x8000};
/* nobody. */
static const struct rig_sides any_split = {RING, 0, 0, 65530};
static const struct rig_sides any_shared = {RING, 0, 0, 65530, true};
static const struct rig_sides any_split_packed = {RING, 0, PACKED, 0};

static void offer(struct rig *rig, unsigned token)
{
    struct kit_buf buf = rig_buf(rig, 64, true);

    rig_offer(rig, &buf, 1, token);
}

static uint16_t take(struct rig *rig)
{
    struct kit_buf buf;

    return rig_take(rig, &buf, 1);
}

/* ---- In order -------------------------------------------------------------------------------- */

/* Entry by entry, in turns of their own and several in one. */
static void test_one_by_one(void **state)
{
    struct rig *rig = *state;
    unsigned next = 0, done = 0;

    for (unsigned round = 0; round < 300; round++) {
        unsigned batch = 1 + round % 5;

        while (next - done < 8)
            offer(rig, next++);
        rig_settle(rig);
        for (unsigned i = 0; i < batch; i++)
            rig->device->ops->complete(rig->device, take(rig), (done + i) % 64, 1);
        rig->device->ops->publish(rig->device);
        rig_poll(rig);
        assert_int_equal(rig_completed(rig), done + batch);
        while (batch--) {
            rig_expect_done(rig, done, done % 64);
            done++;
        }
        rig_expect_nothing_done(rig);
        assert_int_equal(rig_state(rig).in_flight, next - done);
    }
}

/* One entry for several, and entries for one each, in every order. */
static void test_batches_between(void **state)
{
    struct rig *rig = *state;
    struct kit_rng rng = {3};
    unsigned next = 0, done = 0;

    for (unsigned round = 0; round < 300; round++) {
        unsigned left;

        while (next - done < 12)
            offer(rig, next++);
        rig_settle(rig);
        for (left = 12; left;) {
            unsigned batch = 1 + kit_below(&rng, left < 4 ? left : 4);
            uint16_t last = 0;

            for (unsigned i = 0; i < batch; i++)
                last = take(rig);
            rig->device->ops->complete(rig->device, last, 7, batch);
            left -= batch;
            if (kit_below(&rng, 2) || !left) {
                rig->device->ops->publish(rig->device);
                rig_settle(rig);
                assert_int_equal(rig_completed(rig), done + 12 - left);
            }
        }
        for (; done < next; done++) {
            struct kit_done got = {0};

            assert_int_equal(rig->driver->ops->reap(rig->driver, &got), 1);
            assert_int_equal((uintptr_t)got.token, done);
        }
    }
}

/* ---- Order restored -------------------------------------------------------------------------- */

/* 0 to count - 1, anyhow. */
static void shuffle(struct kit_rng *rng, unsigned *order, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned other = kit_below(rng, i + 1);

        order[i] = order[other];
        order[other] = i;
    }
}

/* What was completed early comes as soon as it may, be it in the turn in which the last one came.
 */
static void test_order_is_restored(void **state)
{
    enum { COUNT = 6 };
    struct rig *rig = *state;
    struct kit_rng rng = {5};
    unsigned before = 0;

    for (unsigned round = 0; round < 500; round++, before += COUNT) {
        bool complete[COUNT + 1] = {false};
        unsigned order[COUNT], given = 0;
        uint16_t ids[COUNT];

        shuffle(&rng, order, COUNT);
        for (unsigned i = 0; i < COUNT; i++)
            offer(rig, i);
        rig_settle(rig);
        for (unsigned i = 0; i < COUNT; i++)
            ids[i] = take(rig);
        for (unsigned i = 0; i < COUNT; i++) {
            rig->device->ops->complete(rig->device, ids[order[i]], order[i] + 10, 1);
            complete[order[i]] = true;
            if (i + 1 < COUNT && kit_below(&rng, 2))
                continue;
            rig->device->ops->publish(rig->device);
            rig_poll(rig);
            while (complete[given])
                given++;
            assert_int_equal(rig_completed(rig), before + given);
        }
        for (unsigned i = 0; i < COUNT; i++)
            rig_expect_done(rig, i, i + 10);
        assert_int_equal(rig_state(rig).in_flight, 0);
    }
}

/* A chain that waits for its turn is not the back-end's any more. */
static void test_twice_while_it_waits(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];

    for (unsigned i = 0; i < 3; i++)
        offer(rig, i);
    rig_settle(rig);
    for (unsigned i = 0; i < 3; i++)
        ids[i] = take(rig);
    rig_complete(rig, ids[1], 1);
    rig_complete(rig, ids[1], 1);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    assert_int_equal(rig_completed(rig), 0);
    rig_expect_fault(rig, SVQ_SIDE_BACKEND);
}

/* ---- Heads out of range ---------------------------------------------------------------------- */

/*
 * What lies behind the descriptor table may look like a good descriptor; it is none. Good chains
 * before it are taken.
 */
static void test_heads_behind_the_table(void **state)
{
    static const uint16_t heads[] = {RING, RING + 1, 4 * RING, 0x7ffe, UINT16_MAX};
    const struct rig_sides *sides = *state;

    for (unsigned i = 0; i < sizeof(heads) / sizeof(heads[0]); i++) {
        struct kit_desc *behind;
        uint16_t next;
        struct rig rig;

        rig_init(&rig, sides);
        offer(&rig, 0);
        behind = &rig.guest.split.desc[heads[i]];
        *behind = (struct kit_desc){.addr = RIG_DATA, .len = 64, .flags = KIT_F_WRITE};
        next = rig.guest.split.avail->idx;
        rig.guest.split.avail->ring[next % RING] = heads[i];
        rig.guest.split.avail->idx = (uint16_t)(next + 1);
        assert_true(svq_relay_poll(rig.relay) & SVQ_RELAY_FAULT);
        assert_int_equal(rig_state(&rig).in_flight, 1);
        rig_expect_fault(&rig, SVQ_SIDE_GUEST);
        rig_free(&rig);
    }
}

int main(void)
{
#define ORDERED(name)                                                                     \
    RIG_TEST(name, split), RIG_TEST(name, shared), RIG_TEST(name, split_packed),          \
        RIG_TEST(name, packed_split), RIG_TEST(name, packed), RIG_TEST(name, free_split), \
        RIG_TEST(name, free_packed)
#define RESTORED(name)                                                            \
    RIG_TEST(name, strict_split), RIG_TEST(name, strict_shared),                  \
        RIG_TEST(name, strict_split_packed), RIG_TEST(name, strict_packed_split), \
        RIG_TEST(name, strict_packed)
#define ALONE(name, sides)                                                \
    {                                                                     \
#name "_" #sides, name, NULL, NULL, (void *)(uintptr_t) & (sides) \
    }
    const struct CMUnitTest tests[] = {
        ORDERED(test_one_by_one),
        ORDERED(test_batches_between),
        RESTORED(test_one_by_one),
        RESTORED(test_order_is_restored),
        RESTORED(test_twice_while_it_waits),
        ALONE(test_heads_behind_the_table, any_split),
        ALONE(test_heads_behind_the_table, any_shared),
        ALONE(test_heads_behind_the_table, any_split_packed),
        ALONE(test_heads_behind_the_table, strict_split),
        ALONE(test_heads_behind_the_table, free_split),
    };

    return cmocka_run_group_tests_name("plain", tests, NULL, NULL);
}
