/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A descriptor table that guest and back-end share: when that is so, and that nobody else looks at
 * it while nobody has to. (What becomes of chains when somebody has to: test_unread.c.)
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

/* ---- Who shares ------------------------------------------------------------------------------ */

static uint64_t features_of(unsigned bits)
{
    return (bits & 1 ? PACKED : 0) | (bits & 2 ? INDIRECT : 0) | (bits & 4 ? IN_ORDER : 0);
}

static void check_sharing(struct rig *rig, uint64_t guest, uint64_t backend, unsigned larger,
                          bool may)
{
    enum svq_ring_format format = svq_ring_format(backend);
    struct svq_relay *relay = NULL;
    void *memory = NULL, *tables = NULL;
    struct kit_ring shadow = kit_ring_alloc(format, BLIND_RING * larger, &memory);
    struct svq_relay_config config = {
        .guest = {BLIND_RING, guest, rig->guest.at},
        .backend = {BLIND_RING * larger, backend, shadow.at},
        .base = guest & PACKED ? SVQ_PACKED_START : 0,
        .map = rig->memory.map,
        .may_share = may,
    };
    /* Both split, of one size, and each of the guest's descriptors as good for the back-end. */
    bool expected = may && larger == 1 && !((guest | backend) & PACKED) &&
                    (backend & INDIRECT || !(guest & INDIRECT)) &&
                    (guest & IN_ORDER || !(backend & IN_ORDER));

    config.tables.size = svq_relay_tables_size(&config);
    config.tables.addr = RIG_SHADOW;
    if (config.tables.size)
        kit_require(posix_memalign(&tables, 4096, config.tables.size) == 0);
    config.tables.host = tables;
    assert_int_equal(svq_relay_new(&config, &relay), 0);
    assert_int_equal(svq_relay_shares(relay), expected);
    svq_relay_free(relay);
    free(tables);
    free(memory);
}

static void test_who_shares(void **state)
{
    struct logged *s = *state;

    for (unsigned guest = 0; guest < 8; guest++)
        for (unsigned backend = 0; backend < 8; backend++)
            for (unsigned i = 0; i < 4; i++)
                check_sharing(&s->rig, features_of(guest), features_of(backend), 1 + i % 2, i / 2);
}

/* ---- Unread ---------------------------------------------------------------------------------- */

static void test_nobody_looks(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf bufs[2];
    uint16_t ids[3];

    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 3; i++)
            rig_offer_simple(rig, i);
        blind_settle(rig);
        for (unsigned i = 0; i < 3; i++)
            ids[i] = rig_take(rig, bufs, 2);
        for (unsigned i = 0; i < 3; i++)
            rig_complete(rig, ids[i], 10 + i);
        blind_settle(rig);
        for (unsigned i = 0; i < 3; i++)
            rig_expect_done(rig, i, 10 + i);
    }
    assert_int_equal(rig_stats(rig).chains, 60);
    assert_int_equal(rig_stats(rig).bytes, 20 * 33);
}

static void test_garbage_passes(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_used *used = rig->guest.split.used;

    for (unsigned i = 0; i < BLIND_GARBAGE; i++) {
        uint64_t bytes = rig_stats(rig).bytes;
        uint16_t given = rig->shadow.split.avail->idx, idx = used->idx;

        blind_offer_garbage(rig, i);
        blind_settle(rig);
        assert_int_equal(rig->shadow.split.avail->idx, given + 1);
        assert_int_equal(rig->shadow.split.avail->ring[given % BLIND_RING], 0);
        blind_put_used(rig, 0, UINT32_MAX - i);
        blind_settle(rig);
        assert_int_equal(used->idx, (uint16_t)(idx + 1));
        assert_int_equal(used->ring[idx % BLIND_RING].id, 0);
        assert_int_equal(used->ring[idx % BLIND_RING].len, UINT32_MAX - i);
        assert_int_equal(rig_stats(rig).bytes, bytes + UINT32_MAX - i);
    }
    assert_int_equal(rig_state(rig).in_flight, 0);
}

/* What the guest writes over chains in flight is between it and the back-end. */
static void test_scribbling(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;

    for (unsigned i = 0; i < 5; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    rig_scribble(rig);
    for (unsigned i = 0; i < 5; i++)
        blind_put_used(rig, rig->shadow.split.avail->ring[i], i);
    blind_settle(rig);
    for (unsigned i = 0; i < 5; i++)
        rig_expect_done(rig, i, i);
    assert_int_equal(rig_state(rig).in_flight, 0);
}

/* Nor does anybody rely on what a back-end may have written in its rings. */
static void test_backend_scribbles(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    uint16_t heads[3];

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    memcpy(heads, rig->shadow.split.avail->ring, sizeof(heads));
    memset(rig->shadow.split.desc, 0xff, kit_desc_bytes(BLIND_RING));
    memset(&rig->shadow.split.avail->idx, 0xff, 2 + 2 * BLIND_RING);
    for (unsigned i = 0; i < 3; i++)
        blind_put_used(rig, heads[i], 5);
    rig_settle(rig);
    for (unsigned i = 0; i < 3; i++)
        rig_expect_done(rig, i, 5);
}

/* ---- Ends ------------------------------------------------------------------------------------ */

/* Another back-end: nobody writes into the guest's table, and for unread chains nobody reads it. */
static void test_restart(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf seen[3];
    struct kit_desc before[BLIND_RING];
    uint16_t ids[BLIND_KINDS];

    logged_start(s, false);
    blind_offer(rig, 2);
    rig_settle(rig);
    logged_set(s, NULL, false, 0, 0);
    blind_offer(rig, 0);
    blind_offer(rig, 3);
    blind_settle(rig);
    memcpy(before, rig->guest.split.desc, sizeof(before));
    for (unsigned round = 0; round < 3; round++) {
        blind_seal(rig, PROT_NONE);
        assert_int_equal(rig_restart(rig), 0);
        blind_seal(rig, PROT_READ | PROT_WRITE);
        blind_settle(rig);
        assert_memory_equal(before, rig->guest.split.desc, sizeof(before));
        ids[0] = rig_take(rig, seen, 3);
        ids[1] = rig_take(rig, seen, 1);
        ids[2] = rig_take(rig, seen, 3);
        rig_expect_idle_device(rig);
    }
    assert_int_equal(rig_stats(rig).resubmitted, 9);
    blind_expect_no_copies(rig);
    for (unsigned i = 0; i < 3; i++)
        rig_complete(rig, ids[i], UINT32_MAX);
    blind_settle(rig);
    rig_expect_done(rig, 2, blind_writable(2));
    rig_expect_done(rig, 0, UINT32_MAX);
    rig_expect_done(rig, 3, UINT32_MAX);
}

/* The back-end has taken some of them and stops; those it has not go back, unread. */
static void test_detach(void **state)
{
    struct logged *s = *state;
    struct rig *rig = &s->rig;
    struct kit_buf seen[3];
    uint16_t id;
    uint32_t base;

    for (unsigned i = 0; i < 4; i++)
        blind_offer(rig, i);
    blind_settle(rig);
    id = rig_take(rig, seen, 1);
    base = rig_stop(rig);
    assert_int_equal(svq_relay_drained(rig->relay, base), 0);
    rig_complete(rig, id, 3);
    blind_settle(rig);
    assert_int_equal(svq_relay_drained(rig->relay, base), 1);
    blind_seal(rig, PROT_NONE);
    base = svq_relay_detach(rig->relay);
    blind_seal(rig, PROT_READ | PROT_WRITE);
    assert_int_equal(base, (uint16_t)(rig->base + 1));
    svq_relay_free(rig->relay);
    rig_start(rig, base);
    blind_settle(rig);
    rig_expect_done(rig, 0, 3);
    for (unsigned i = 1; i < 4; i++)
        rig_complete(rig, rig_take(rig, seen, (int)blind_lengths[i]), i);
    blind_settle(rig);
    for (unsigned i = 1; i < 4; i++)
        rig_expect_done(rig, i, i);
}

int main(void)
{
#define EACH(name)                                                                     \
    LOGGED_TEST(name, shared), LOGGED_TEST(name, events), LOGGED_TEST(name, restored), \
        LOGGED_TEST(name, batches)
    const struct CMUnitTest tests[] = {
        LOGGED_TEST(test_who_shares, shared),
        EACH(test_nobody_looks),
        EACH(test_garbage_passes),
        EACH(test_scribbling),
        EACH(test_backend_scribbles),
        EACH(test_restart),
        EACH(test_detach),
    };

    return cmocka_run_group_tests_name("shared", tests, NULL, NULL);
}
