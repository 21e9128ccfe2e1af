/* SPDX-License-Identifier: BSD-3-Clause */
/* What the relay carries across: chains of every shape to the back-end, completions to the guest.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { RING = 64 };

static int setup(void **state)
{
    struct rig *rig = malloc(sizeof(*rig));

    rig_init(rig, RING, INDIRECT, 0);
    *state = rig;
    return 0;
}

static int teardown(void **state)
{
    rig_free(*state);
    free(*state);
    return 0;
}

static void expect_bufs(const struct kit_buf *seen, const struct kit_buf *sent, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(seen[i].gpa, sent[i].gpa);
        assert_int_equal(seen[i].len, sent[i].len);
        assert_int_equal(seen[i].write, sent[i].write);
    }
}

/* Offer a chain, see it arrive as it was sent, complete it with len; the guest gets `given`. */
static void pass(struct rig *rig, const struct kit_chain *chain, uint32_t len, uint32_t given)
{
    struct kit_buf *seen = calloc(chain->count, sizeof(*seen));
    uint64_t bytes = rig_stats(rig).bytes;
    uint16_t id;

    assert_true(rig->driver.driver.ops->add(&rig->driver.driver, chain));
    rig->driver.driver.ops->publish(&rig->driver.driver);
    rig_settle(rig);
    id = rig_take(rig, seen, (int)chain->count);
    expect_bufs(seen, chain->bufs, chain->count);
    rig_complete(rig, id, len);
    rig_settle(rig);
    rig_expect_done(rig, (uintptr_t)chain->token, given);
    for (unsigned i = 0; i < chain->count; i++)
        bytes += chain->bufs[i].len;
    assert_int_equal(rig_stats(rig).bytes, bytes);
    free(seen);
}

/* Buffers of odd lengths, `readable` of them for the device to read, the others to write. */
static uint64_t make_bufs(struct rig *rig, struct kit_buf *bufs, unsigned readable, unsigned count)
{
    uint64_t writable = 0;

    for (unsigned i = 0; i < count; i++) {
        bufs[i] = rig_buf(rig, 17 + 3 * i, i >= readable);
        writable += i >= readable ? bufs[i].len : 0;
    }
    return writable;
}

static void test_direct_chains(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[RING];

    for (unsigned count = 1; count <= RING; count++) {
        for (unsigned readable = 0; readable <= count; readable += 1 + count / 7) {
            uint64_t writable = make_bufs(rig, bufs, readable, count);
            struct kit_chain chain = {bufs, count, count, 0, false, &bufs[count / 2]};

            pass(rig, &chain, (uint32_t)writable / 2, (uint32_t)writable / 2);
        }
    }
}

static void test_indirect_chains(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[RING];

    for (unsigned count = 1; count <= RING; count++) {
        for (unsigned scatter = 0; scatter < 2; scatter++) {
            uint64_t writable = make_bufs(rig, bufs, count / 2, count);
            struct kit_chain chain = {bufs, count, 0, RIG_TABLES, scatter, &bufs[count / 2]};

            pass(rig, &chain, (uint32_t)writable, (uint32_t)writable);
        }
    }
}

/* N direct descriptors and one that refers to a table: legal, and Windows sends it. */
static void test_direct_then_indirect(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[RING];

    for (unsigned direct = 1; direct < 8; direct++) {
        for (unsigned count = direct + 1; count < direct + 8; count++) {
            uint64_t writable = make_bufs(rig, bufs, count / 2, count);
            struct kit_chain chain = {bufs, count, direct, RIG_TABLES + 64, count & 1, &chain};

            pass(rig, &chain, (uint32_t)writable - 1, (uint32_t)writable - 1);
        }
    }
}

/* Longer than the ring: Linux makes such tables, and one must not park the queue. */
static void test_a_table_longer_than_the_ring(void **state)
{
    struct rig *rig = *state;
    struct kit_buf *bufs = calloc(1024, sizeof(*bufs));

    for (unsigned i = 0; i < 1024; i++)
        bufs[i] = rig_buf(rig, 100, i >= 512);
    for (unsigned count = RING; count <= 1024; count += 320) {
        struct kit_chain chain = {bufs, count, 0, RIG_TABLES, true, &chain};

        pass(rig, &chain, 0, 0);
    }
    free(bufs);
}

/* A table may be larger than the chain in it, and its entry's WRITE flag means nothing. */
static void test_a_table_with_unused_entries(void **state)
{
    struct rig *rig = *state;
    struct kit_desc *table = kit_memory_at(&rig->memory, RIG_TABLES, 4 * sizeof(*table));
    struct kit_buf bufs[2] = {rig_buf(rig, 10, false), rig_buf(rig, 20, true)}, seen[2];
    uint16_t id;

    memset(table, 0xff, 4 * sizeof(*table));
    table[0] = (struct kit_desc){bufs[0].gpa, 10, KIT_F_NEXT, 3};
    table[3] = (struct kit_desc){bufs[1].gpa, 20, KIT_F_WRITE, 0x7777};
    rig->guest.desc[5] =
        (struct kit_desc){RIG_TABLES, 4 * sizeof(*table), KIT_F_INDIRECT | KIT_F_WRITE, 0xffff};
    rig->guest.avail->ring[0] = 5;
    kit_set16(&rig->guest.avail->idx, 1);
    rig_settle(rig);
    id = rig_take(rig, seen, 2);
    expect_bufs(seen, bufs, 2);
    rig_complete(rig, id, 20);
    rig_settle(rig);
    assert_int_equal(rig->guest.used->idx, 1);
    assert_int_equal(rig->guest.used->ring[0].id, 5);
    assert_int_equal(rig->guest.used->ring[0].len, 20);
}

static void test_zero_length_buffers(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[4] = {rig_buf(rig, 0, false), rig_buf(rig, 16, false),
                              rig_buf(rig, 0, true), rig_buf(rig, 8, true)};
    struct kit_chain direct = {bufs, 4, 4, 0, false, &direct};
    struct kit_chain indirect = {bufs, 4, 0, RIG_TABLES, true, &indirect};
    struct kit_chain empty = {&bufs[2], 1, 1, 0, false, &empty};
    /* No bytes are nowhere: the address may be anything. */
    struct kit_buf nothing[2] = {{0, 0, false}, {UINT64_MAX, 0, true}};
    struct kit_chain nowhere = {nothing, 2, 2, 0, false, &nowhere};

    pass(rig, &nowhere, 1, 0);
    pass(rig, &direct, 8, 8);
    pass(rig, &indirect, 7, 7);
    pass(rig, &empty, 0, 0);
}

static void test_len_is_clamped(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[3] = {rig_buf(rig, 100, false), rig_buf(rig, 30, true),
                              rig_buf(rig, 12, true)};
    struct kit_chain direct = {bufs, 3, 3, 0, false, &direct};
    struct kit_chain indirect = {bufs, 3, 0, RIG_TABLES, false, &indirect};
    struct kit_chain mixed = {bufs, 3, 2, RIG_TABLES, false, &mixed};
    struct kit_chain readable = {bufs, 1, 1, 0, false, &readable};

    pass(rig, &direct, 42, 42);
    pass(rig, &direct, 43, 42);
    pass(rig, &direct, UINT32_MAX, 42);
    pass(rig, &indirect, 41, 41);
    pass(rig, &indirect, 142, 42);
    pass(rig, &mixed, 0x80000000, 42);
    pass(rig, &readable, 1, 0);
}

static void test_completes_out_of_order(void **state)
{
    static const unsigned order[] = {3, 0, 4, 1, 2};
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t ids[5];

    for (unsigned round = 0; round < 100; round++) {
        for (unsigned i = 0; i < 5; i++)
            rig_offer_simple(rig, i);
        rig_settle(rig);
        for (unsigned i = 0; i < 5; i++)
            ids[i] = rig_take(rig, bufs, 2);
        rig_expect_idle_device(rig);
        for (unsigned i = 0; i < 5; i++) {
            rig_complete(rig, ids[order[i]], order[i] + 1);
            if (i == 2 || i == 4)
                rig_settle(rig);
        }
        for (unsigned i = 0; i < 5; i++)
            rig_expect_done(rig, order[i], order[i] + 1);
        rig_expect_nothing_done(rig);
    }
}

static void test_chains_keep_the_guests_order(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[20], seen[2];

    for (unsigned i = 0; i < 20; i++) {
        bufs[i] = rig_buf(rig, i + 1, true);
        rig_offer(rig, &bufs[i], 1, i);
        if (i % 3 == 0)
            rig_settle(rig);
    }
    rig_settle(rig);
    for (unsigned i = 0; i < 20; i++) {
        rig_take(rig, seen, 1);
        expect_bufs(seen, &bufs[i], 1);
    }
}

/* One turn takes all that waits, publishes each index once, and asks for one kick and one call. */
static void test_a_turn_is_a_batch(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    unsigned bits;

    for (unsigned i = 0; i < RING / 2; i++)
        rig_offer_simple(rig, i);
    bits = rig_poll(rig);
    assert_int_equal(bits, SVQ_RELAY_BUSY | SVQ_RELAY_KICK_BACKEND);
    assert_int_equal(rig_state(rig).in_flight, RING / 2);
    assert_int_equal(rig_stats(rig).backend_kicks, 1);
    for (unsigned i = 0; i < RING / 2; i++)
        rig_complete(rig, rig_take(rig, bufs, 2), 1);
    bits = rig_poll(rig);
    assert_int_equal(bits, SVQ_RELAY_BUSY | SVQ_RELAY_CALL_GUEST);
    assert_int_equal(rig_stats(rig).guest_calls, 1);
    assert_int_equal(rig_stats(rig).chains, RING / 2);
    assert_int_equal(rig_poll(rig), 0);
}

static void test_both_directions_in_one_turn(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    rig_complete(rig, rig_take(rig, bufs, 2), 1);
    rig_offer_simple(rig, 2);
    assert_int_equal(rig_poll(rig), SVQ_RELAY_BUSY | SVQ_RELAY_CALL_GUEST | SVQ_RELAY_KICK_BACKEND);
    rig_expect_done(rig, 1, 1);
    rig_take(rig, bufs, 2);
}

static void test_nothing_to_do(void **state)
{
    struct rig *rig = *state;
    struct svq_relay_state before = rig_state(rig), after;

    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(rig_poll(rig), 0);
    after = rig_state(rig);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_int_equal(rig_stats(rig).backend_kicks, 0);
    assert_int_equal(rig_stats(rig).guest_calls, 0);
}

/* A device writes used rings and writable buffers; the relay, only the former. */
static void test_writes_nothing_but_the_used_ring(void **state)
{
    struct rig *rig = *state;
    uint64_t used = RIG_USED - RIG_GPA, used_size = kit_split_used_bytes(RING);
    uint8_t *before = malloc(RIG_SIZE);
    struct kit_buf bufs[2];

    kit_require(before != NULL);
    memset(kit_memory_at(&rig->memory, RIG_DATA, 4096), 0x77, 4096);
    rig_offer_simple(rig, 1);
    memcpy(before, rig->memory.bytes, RIG_SIZE);
    rig_settle(rig);
    svq_relay_arm(rig->relay);
    rig_complete(rig, rig_take(rig, bufs, 2), 64);
    rig_settle(rig);
    svq_relay_disarm(rig->relay);
    svq_relay_detach(rig->relay);
    assert_int_equal(rig->guest.used->idx, 1);
    assert_memory_equal(before, rig->memory.bytes, used);
    assert_memory_equal(before + used + used_size, rig->memory.bytes + used + used_size,
                        RIG_SIZE - used - used_size);
    free(before);
}

/* The back-end may scribble over what only the driver writes; the relay has its own memory of it.
 */
static void test_never_reads_the_shadow_back(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t ids[3];

    for (unsigned i = 0; i < 3; i++)
        rig_offer_simple(rig, i);
    rig_settle(rig);
    for (unsigned i = 0; i < 3; i++)
        ids[i] = rig_take(rig, bufs, 2);
    memset(rig->shadow.desc, 0xff, 16 * RING);
    memset(&rig->shadow.avail->idx, 0xff, 2 + 2 * RING);
    rig_complete(rig, ids[1], 64);
    rig_complete(rig, ids[2], 65);
    rig_settle(rig);
    rig_expect_done(rig, 1, 64);
    rig_expect_done(rig, 2, 64);
    /* And it goes on from where it was. */
    rig_offer_simple(rig, 4);
    rig_settle(rig);
    assert_int_equal(rig->shadow.avail->idx, 4);
    assert_int_equal(rig_take(rig, bufs, 2), rig->shadow.avail->ring[3]);
    rig_complete(rig, ids[0], 1);
    rig_settle(rig);
    rig_expect_done(rig, 0, 1);
}

/* Once a chain is taken, what the guest does to its descriptors changes nothing. */
static void test_takes_descriptors_once(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2] = {rig_buf(rig, 10, false), rig_buf(rig, 20, true)}, seen[2];
    uint16_t id;

    rig_offer(rig, bufs, 2, 1);
    rig_settle(rig);
    memset(rig->guest.desc, 0xff, 16 * RING);
    id = rig_take(rig, seen, 2);
    expect_bufs(seen, bufs, 2);
    rig_complete(rig, id, 25);
    rig_settle(rig);
    assert_int_equal(rig->guest.used->idx, 1);
    assert_int_equal(rig->guest.used->ring[0].len, 20);
}

static void test_hold(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t id;

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    id = rig_take(rig, bufs, 2);
    svq_relay_hold(rig->relay, true);
    rig_offer_simple(rig, 2);
    rig_offer_simple(rig, 3);
    assert_int_equal(rig_poll(rig), 0);
    rig_expect_idle_device(rig);
    assert_int_equal(rig_state(rig).guest_avail, 1);
    /* Completions still flow. */
    rig_complete(rig, id, 9);
    assert_int_equal(rig_poll(rig), SVQ_RELAY_BUSY | SVQ_RELAY_CALL_GUEST);
    rig_expect_done(rig, 1, 9);
    /* What waits is held back on purpose: no reason to stay awake. */
    assert_int_equal(rig_poll(rig), 0);
    assert_false(svq_relay_arm(rig->relay));
    svq_relay_hold(rig->relay, false);
    assert_true(svq_relay_arm(rig->relay));
    assert_true(rig_poll(rig) & SVQ_RELAY_BUSY);
    rig_take(rig, bufs, 2);
    rig_take(rig, bufs, 2);
    assert_int_equal(rig_state(rig).in_flight, 2);
}

/* ---- Memory ------------------------------------------------------------------------------- */

/* A buffer may lie across two regions that are adjacent for the guest alone. */
static void test_a_buffer_over_two_regions(void **state)
{
    struct rig *rig = *state;
    struct svq_region regions[2];
    struct svq_split_mem guest;
    struct svq_map *map = NULL;
    struct kit_buf buf = {RIG_END - 100, 200, true}, seen;

    regions[0] = *svq_map_region(rig->memory.map, 0);
    regions[1] = (struct svq_region){RIG_END, 4096, 0x1000, 0, rig->memory.fd};
    assert_int_equal(svq_map_new(regions, 2, rig->memory.map, &map), 0);
    guest = kit_split_mem(&rig->guest);
    svq_relay_set_guest(rig->relay, &guest, map);
    svq_map_unref(map);
    rig_offer(rig, &buf, 1, 1);
    rig_settle(rig);
    rig_complete(rig, rig_take(rig, &seen, 1), 200);
    expect_bufs(&seen, &buf, 1);
    rig_settle(rig);
    rig_expect_done(rig, 1, 200);
}

/* The same memory mapped anew, while a chain is in flight: the old mapping is used no more. */
static void test_set_guest(void **state)
{
    struct rig *rig = *state;
    struct svq_region region = *svq_map_region(rig->memory.map, 0);
    struct svq_split_mem guest;
    struct svq_map *map = NULL;
    struct kit_buf bufs[2];
    unsigned fds;

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    region.fd = rig->memory.fd;
    assert_int_equal(svq_map_new(&region, 1, NULL, &map), 0);
    assert_ptr_not_equal(svq_map_gpa(map, RIG_GPA, 1), rig->memory.bytes);
    guest.desc = svq_map_gpa(map, RIG_DESC, 16 * RING);
    guest.avail = svq_map_gpa(map, RIG_AVAIL, 6 + 2 * RING);
    guest.used = svq_map_gpa(map, RIG_USED, kit_split_used_bytes(RING));
    svq_relay_set_guest(rig->relay, &guest, map);
    /* The relay's references are the only ones now: the map must live, the old one must go. */
    svq_map_unref(map);
    fds = kit_open_fds();
    svq_map_unref(rig->memory.map);
    assert_int_equal(kit_open_fds(), fds - 1);
    rig->memory.map = svq_map_ref(map);
    rig->memory.bytes = svq_map_gpa(map, RIG_GPA, RIG_SIZE);
    rig->device.map = map;
    kit_split_at(&rig->guest, RING, guest.desc, guest.avail, guest.used);
    rig->driver.ring = rig->guest;
    rig_offer_simple(rig, 2);
    rig_settle(rig);
    assert_int_equal(rig_serve(rig, 64), 2);
    rig_settle(rig);
    rig_expect_done(rig, 1, 64);
    rig_expect_done(rig, 2, 64);
    rig_take(rig, bufs, 0);
}

static void test_holds_its_map(void **state)
{
    struct rig *rig = *state;
    unsigned fds = kit_open_fds();

    svq_map_ref(rig->memory.map);
    svq_map_unref(rig->memory.map);
    svq_map_unref(rig->memory.map);
    assert_int_equal(kit_open_fds(), fds);
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    svq_map_ref(rig->memory.map);
}

/* ---- Counters ----------------------------------------------------------------------------- */

static void test_stats(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[3] = {rig_buf(rig, 100, false), rig_buf(rig, 50, true),
                              rig_buf(rig, 7, true)};
    struct kit_chain chain = {bufs, 3, 1, RIG_TABLES, false, &chain};
    struct svq_relay_stats stats = rig_stats(rig);

    assert_int_equal(stats.chains | stats.bytes | stats.guest_kicks | stats.backend_kicks, 0);
    assert_int_equal(stats.backend_calls | stats.guest_calls, 0);
    svq_relay_count_kick(rig->relay);
    svq_relay_count_kick(rig->relay);
    svq_relay_count_call(rig->relay);
    pass(rig, &chain, 3, 3);
    stats = rig_stats(rig);
    assert_int_equal(stats.chains, 1);
    /* Of the buffers, not of what the device says it wrote. */
    assert_int_equal(stats.bytes, 157);
    assert_int_equal(stats.guest_kicks, 2);
    assert_int_equal(stats.backend_calls, 1);
    assert_int_equal(stats.backend_kicks, 1);
    assert_int_equal(stats.guest_calls, 1);
}

int main(void)
{
#define TEST(name) cmocka_unit_test_setup_teardown(name, setup, teardown)
    const struct CMUnitTest tests[] = {
        TEST(test_direct_chains),
        TEST(test_indirect_chains),
        TEST(test_direct_then_indirect),
        TEST(test_a_table_longer_than_the_ring),
        TEST(test_a_table_with_unused_entries),
        TEST(test_zero_length_buffers),
        TEST(test_len_is_clamped),
        TEST(test_completes_out_of_order),
        TEST(test_chains_keep_the_guests_order),
        TEST(test_a_turn_is_a_batch),
        TEST(test_both_directions_in_one_turn),
        TEST(test_nothing_to_do),
        TEST(test_writes_nothing_but_the_used_ring),
        TEST(test_never_reads_the_shadow_back),
        TEST(test_takes_descriptors_once),
        TEST(test_hold),
        TEST(test_a_buffer_over_two_regions),
        TEST(test_set_guest),
        TEST(test_holds_its_map),
        TEST(test_stats),
    };

    return cmocka_run_group_tests_name("relay", tests, NULL, NULL);
}
