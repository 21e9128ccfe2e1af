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

static const struct rig_sides split = {RING, INDIRECT, INDIRECT, 0};
static const struct rig_sides split_shared = {RING, INDIRECT, INDIRECT, 0, true};
static const struct rig_sides split_packed = {RING, INDIRECT, INDIRECT | PACKED, 65500};
static const struct rig_sides packed_split = {RING, INDIRECT | PACKED, INDIRECT, 60};
static const struct rig_sides packed = {RING, INDIRECT | PACKED, INDIRECT | PACKED, 0x8001};

/* The back-end has no indirect tables. */
static const struct rig_sides split_flat = {RING, INDIRECT, 0, 65530};
static const struct rig_sides split_flat_packed = {RING, INDIRECT, PACKED, 0};
static const struct rig_sides packed_flat_split = {RING, INDIRECT | PACKED, 0, 0x8000};
static const struct rig_sides packed_flat = {RING, INDIRECT | PACKED, PACKED, 33};

static void expect_bufs(const struct kit_buf *seen, const struct kit_buf *sent, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        assert_int_equal(seen[i].gpa, sent[i].gpa);
        assert_int_equal(seen[i].len, sent[i].len);
        assert_int_equal(seen[i].write, sent[i].write);
    }
}

/*
 * Offer a chain, see it arrive as it was sent, complete it with len; the guest gets `given`. Or,
 * when nobody has looked into its descriptors, len.
 */
static void pass(struct rig *rig, const struct kit_chain *chain, uint32_t len, uint32_t given)
{
    struct kit_buf *seen = calloc(chain->count, sizeof(*seen));
    uint64_t bytes = rig_stats(rig).bytes;
    bool shared = svq_relay_shares(rig->relay);
    uint16_t id;

    rig_offer_chain(rig, chain);
    rig_settle(rig);
    id = rig_take(rig, seen, (int)chain->count);
    expect_bufs(seen, chain->bufs, chain->count);
    rig_complete(rig, id, len);
    rig_settle(rig);
    rig_expect_done(rig, (uintptr_t)chain->token, shared ? len : given);
    for (unsigned i = 0; i < chain->count && !shared; i++)
        bytes += chain->bufs[i].len;
    assert_int_equal(rig_stats(rig).bytes, bytes + (shared ? len : 0));
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

/*
 * N direct descriptors and one that refers to a table: legal in split rings, and Windows sends it.
 * Not in packed ones; a guest that does it all the same is understood.
 */
static void test_direct_then_indirect(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[RING];

    rig->device->mixed = rig->guest.format == SVQ_RING_PACKED;
    for (unsigned direct = 1; direct < 8; direct++) {
        for (unsigned count = direct + 1; count < direct + 8; count++) {
            uint64_t writable = make_bufs(rig, bufs, count / 2, count);
            struct kit_chain chain = {bufs, count, direct, RIG_TABLES + 64, count & 1, &chain};

            pass(rig, &chain, (uint32_t)writable - 1, (uint32_t)writable - 1);
        }
    }
}

static void check_tables_of(struct rig *rig, unsigned from, unsigned to, unsigned step)
{
    struct kit_buf *bufs = calloc(to, sizeof(*bufs));

    for (unsigned i = 0; i < to; i++)
        bufs[i] = rig_buf(rig, 100, i >= to / 2);
    for (unsigned count = from; count <= to; count += step) {
        struct kit_chain chain = {bufs, count, 0, RIG_TABLES, true, &chain};

        pass(rig, &chain, 0, 0);
    }
    free(bufs);
}

/* Longer than the ring: Linux makes such tables, and one must not park the queue. */
static void test_a_table_longer_than_the_ring(void **state)
{
    check_tables_of(*state, RING, 1024, 320);
}

/* Flattened, it takes the whole ring. */
static void test_a_table_as_long_as_the_ring(void **state)
{
    for (unsigned round = 0; round < 3; round++)
        check_tables_of(*state, RING - 1, RING, 1);
}

/* A split table may be larger than the chain in it, and its entry's WRITE flag means nothing. */
static void test_a_table_with_unused_entries(void **state)
{
    struct rig *rig = *state;
    struct kit_desc *table = kit_memory_at(&rig->memory, RIG_TABLES, 4 * sizeof(*table));
    struct kit_buf bufs[2] = {rig_buf(rig, 10, false), rig_buf(rig, 20, true)}, seen[2];
    uint16_t idx = rig->guest.split.avail->idx, id;
    struct kit_used_elem *elem = &rig->guest.split.used->ring[idx % RING];

    memset(table, 0xff, 4 * sizeof(*table));
    table[0] = (struct kit_desc){bufs[0].gpa, 10, KIT_F_NEXT, 3};
    table[3] = (struct kit_desc){bufs[1].gpa, 20, KIT_F_WRITE, 0x7777};
    rig->guest.split.desc[5] =
        (struct kit_desc){RIG_TABLES, 4 * sizeof(*table), KIT_F_INDIRECT | KIT_F_WRITE, 0xffff};
    rig->guest.split.avail->ring[idx % RING] = 5;
    kit_set16(&rig->guest.split.avail->idx, (uint16_t)(idx + 1));
    rig_settle(rig);
    id = rig_take(rig, seen, 2);
    expect_bufs(seen, bufs, 2);
    rig_complete(rig, id, 20);
    rig_settle(rig);
    assert_int_equal(rig->guest.split.used->idx, (uint16_t)(idx + 1));
    assert_int_equal(elem->id, 5);
    assert_int_equal(elem->len, 20);
}

/* In a packed one they all belong to the chain, whatever else their flags and ids say. */
static void test_a_table_full_of_flags(void **state)
{
    struct rig *rig = *state;
    struct kit_pdesc *table = kit_memory_at(&rig->memory, RIG_TABLES, 4 * sizeof(*table));
    struct kit_buf bufs[4], seen[4];
    struct kit_chain chain = {bufs, 4, 0, RIG_TABLES, false, &chain};

    make_bufs(rig, bufs, 2, 4);
    assert_true(rig->driver->ops->add(rig->driver, &chain));
    for (unsigned i = 0; i < 4; i++) {
        table[i].flags |= i & 1 ? 0xffff & ~KIT_P_WRITE : KIT_P_INDIRECT;
        table[i].id = 0xffff;
    }
    rig->driver->ops->publish(rig->driver);
    rig_settle(rig);
    rig_complete(rig, rig_take(rig, seen, 4), 5);
    expect_bufs(seen, bufs, 4);
    rig_settle(rig);
    rig_expect_done(rig, (uintptr_t)&chain, 5);
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

    rig->device->mixed = rig->guest.format == SVQ_RING_PACKED;
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

/* What a device may write in a ring that one chain has gone through, whose used entry is `seen`. */
static void copy_device_part(struct rig *rig, uint8_t *to, const struct kit_seen *seen)
{
    uint64_t device = RIG_DEVICE - RIG_GPA, desc = RIG_DESC - RIG_GPA + 16 * (uint64_t)seen->slot;

    memcpy(to + device, rig->memory.bytes + device, kit_device_bytes(rig->guest.format, RING));
    if (rig->guest.format == SVQ_RING_PACKED) /* but for the address */
        memcpy(to + desc + 8, rig->memory.bytes + desc + 8, 8);
}

/* A device writes used entries and writable buffers; the relay, only the former. */
static void test_writes_nothing_but_used_entries(void **state)
{
    struct rig *rig = *state;
    uint8_t *before = malloc(RIG_SIZE);
    struct kit_seen seen;
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
    assert_int_equal(rig->driver->ops->peek(rig->driver, &seen), 1);
    copy_device_part(rig, before, &seen);
    assert_memory_equal(before, rig->memory.bytes, RIG_SIZE);
    free(before);
}

/* Overwrite what only a driver writes; of packed descriptors all but whose they are. */
static void scribble_shadow(struct rig *rig)
{
    struct kit_pdesc *desc = rig->shadow.packed.desc;

    if (rig->shadow.format == SVQ_RING_SPLIT) {
        memset(rig->shadow.split.desc, 0xff, 16 * RING);
        memset(&rig->shadow.split.avail->idx, 0xff, 2 + 2 * RING);
        return;
    }
    for (unsigned i = 0; i < RING; i++)
        desc[i] = (struct kit_pdesc){UINT64_MAX, UINT32_MAX, 0xffff,
                                     desc[i].flags ^ (KIT_P_NEXT | KIT_P_WRITE | KIT_P_INDIRECT)};
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
    scribble_shadow(rig);
    rig_complete(rig, ids[1], 64);
    rig_complete(rig, ids[2], 65);
    rig_settle(rig);
    rig_expect_done(rig, 1, 64);
    rig_expect_done(rig, 2, 64);
    /* And it goes on from where it was. */
    rig_offer_simple(rig, 4);
    rig_settle(rig);
    rig_complete(rig, rig_take(rig, bufs, 2), 2);
    rig_complete(rig, ids[0], 1);
    rig_settle(rig);
    rig_expect_done(rig, 4, 2);
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
    rig_scribble(rig);
    id = rig_take(rig, seen, 2);
    expect_bufs(seen, bufs, 2);
    rig_complete(rig, id, 25);
    rig_settle(rig);
    rig_expect_done(rig, 1, 20);
}

static void test_hold(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[2];
    uint16_t id, avail;

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    id = rig_take(rig, bufs, 2);
    avail = rig_state(rig).guest.avail;
    svq_relay_hold(rig->relay, true);
    rig_offer_simple(rig, 2);
    rig_offer_simple(rig, 3);
    assert_int_equal(rig_poll(rig), 0);
    rig_expect_idle_device(rig);
    assert_int_equal(rig_state(rig).guest.avail, avail);
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
    struct svq_map *map = NULL;
    struct kit_buf buf = {RIG_END - 100, 200, true}, seen;

    regions[0] = *svq_map_region(rig->memory.map, 0);
    regions[1] = (struct svq_region){RIG_END, 4096, 0x1000, 0, rig->memory.fd};
    assert_int_equal(svq_map_new(regions, 2, rig->memory.map, &map), 0);
    svq_relay_set_guest(rig->relay, &rig->guest.at, map);
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
    enum svq_ring_format format = rig->guest.format;
    struct svq_vring guest;
    struct svq_map *map = NULL;
    struct kit_buf bufs[2];
    unsigned fds;

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    region.fd = rig->memory.fd;
    assert_int_equal(svq_map_new(&region, 1, NULL, &map), 0);
    assert_ptr_not_equal(svq_map_gpa(map, RIG_GPA, 1), rig->memory.bytes);
    guest.desc = svq_map_gpa(map, RIG_DESC, kit_desc_bytes(RING));
    guest.driver = svq_map_gpa(map, RIG_DRIVER, kit_driver_bytes(format, RING));
    guest.device = svq_map_gpa(map, RIG_DEVICE, kit_device_bytes(format, RING));
    svq_relay_set_guest(rig->relay, &guest, map);
    /* The relay's references are the only ones now: the map must live, the old one must go. */
    svq_map_unref(map);
    fds = kit_open_fds();
    svq_map_unref(rig->memory.map);
    assert_int_equal(kit_open_fds(), fds - 1);
    rig->memory.map = svq_map_ref(map);
    rig->memory.bytes = svq_map_gpa(map, RIG_GPA, RIG_SIZE);
    rig->device->map = map;
    rig->guest.at = rig->driver->ring.at = guest;
    if (svq_relay_shares(rig->relay))
        rig->device->ring.at.desc = guest.desc;
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
    rig->device->mixed = true;
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
#define SPLIT_GUEST(name)  RIG_TEST(name, split), RIG_TEST(name, split_packed)
#define PACKED_GUEST(name) RIG_TEST(name, packed), RIG_TEST(name, packed_split)
#define FORMATS(name)      SPLIT_GUEST(name), PACKED_GUEST(name)
#define FLAT(name)                                                 \
    RIG_TEST(name, split_flat), RIG_TEST(name, split_flat_packed), \
        RIG_TEST(name, packed_flat_split), RIG_TEST(name, packed_flat)
#define ALL(name)            FORMATS(name), FLAT(name)
#define SHARED(name)         RIG_TEST(name, split_shared)
#define ALL_SHARED(name)     ALL(name), SHARED(name)
#define FORMATS_SHARED(name) FORMATS(name), SHARED(name)
    const struct CMUnitTest tests[] = {
        ALL_SHARED(test_direct_chains),
        ALL_SHARED(test_indirect_chains),
        ALL_SHARED(test_direct_then_indirect),
        FORMATS_SHARED(test_a_table_longer_than_the_ring),
        FLAT(test_a_table_as_long_as_the_ring),
        SPLIT_GUEST(test_a_table_with_unused_entries),
        SHARED(test_a_table_with_unused_entries),
        RIG_TEST(test_a_table_with_unused_entries, split_flat),
        PACKED_GUEST(test_a_table_full_of_flags),
        RIG_TEST(test_a_table_full_of_flags, packed_flat),
        ALL_SHARED(test_zero_length_buffers),
        ALL(test_len_is_clamped),
        FORMATS_SHARED(test_completes_out_of_order),
        FORMATS_SHARED(test_chains_keep_the_guests_order),
        FORMATS_SHARED(test_a_turn_is_a_batch),
        FORMATS_SHARED(test_both_directions_in_one_turn),
        FORMATS_SHARED(test_nothing_to_do),
        FORMATS_SHARED(test_writes_nothing_but_used_entries),
        FORMATS(test_never_reads_the_shadow_back),
        FORMATS(test_takes_descriptors_once),
        FORMATS_SHARED(test_hold),
        FORMATS_SHARED(test_a_buffer_over_two_regions),
        FORMATS_SHARED(test_set_guest),
        FORMATS_SHARED(test_holds_its_map),
        ALL(test_stats),
    };

    return cmocka_run_group_tests_name("relay", tests, NULL, NULL);
}
