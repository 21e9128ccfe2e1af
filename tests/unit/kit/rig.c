/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"

/* ---- Building -------------------------------------------------------------------------------- */

struct svq_relay_config rig_config(const struct rig *rig, uint32_t base)
{
    return (struct svq_relay_config){
        .guest = {rig->num, rig->features, rig->guest.at},
        .backend = {rig->shadow.num, rig->backend_features, rig->shadow.at},
        .base = base,
        .map = rig->memory.map,
        .tables = rig->tables,
        .may_share = rig->share,
    };
}

/* The back-end's ring as it is told of it. */
static struct kit_ring backend_ring(const struct rig *rig)
{
    struct kit_ring ring = rig->shadow;

    if (svq_relay_shares(rig->relay))
        ring.at.desc = rig->guest.at.desc;
    return ring;
}

void rig_attach(struct rig *rig, bool shadow, uint32_t base)
{
    struct kit_ring ring = shadow ? backend_ring(rig) : rig->guest;

    kit_device_free(rig->device);
    rig->device = kit_device_new(rig->memory.map, &ring,
                                 shadow ? rig->backend_features : rig->features, base);
    if (shadow)
        rig->device->tables = rig->tables;
    /* As a back-end that waits for its first kick. */
    rig->device->ops->kicks(rig->device, true);
}

/* Garbage everywhere: the relay has to clear the ring, and to need no clear tables. */
static void make_shadow(struct rig *rig)
{
    enum svq_ring_format format = svq_ring_format(rig->backend_features);
    struct svq_relay_config config;

    rig->shadow =
        kit_ring_alloc(format, svq_relay_shadow_num(format, rig->num), &rig->shadow_memory);
    /* Each time elsewhere. */
    rig->tables.host = NULL;
    rig->tables.addr = rig->tables.addr == RIG_SHADOW ? 2 * RIG_SHADOW : RIG_SHADOW;
    config = rig_config(rig, 0);
    rig->tables.size = svq_relay_tables_size(&config);
    if (rig->tables.size) {
        kit_require(posix_memalign(&rig->tables.host, 4096, rig->tables.size) == 0);
        memset(rig->tables.host, 0xa5, rig->tables.size);
    }
}

void rig_start(struct rig *rig, uint32_t base)
{
    struct svq_relay_config config;

    free(rig->shadow_memory);
    free(rig->tables.host);
    make_shadow(rig);
    config = rig_config(rig, base);
    rig->relay = NULL;
    assert_int_equal(svq_relay_new(&config, &rig->relay), 0);
    assert_non_null(rig->relay);
    rig_attach(rig, true, rig_shadow_base(rig, 0, 0));
}

int rig_restart(struct rig *rig)
{
    struct svq_relay_tables tables = rig->tables;
    struct kit_ring shadow = rig->shadow;
    void *memory = rig->shadow_memory;
    int err;

    make_shadow(rig);
    err = svq_relay_restart(rig->relay, &rig->shadow.at, &rig->tables);
    if (err) {
        free(rig->shadow_memory);
        free(rig->tables.host);
        rig->shadow_memory = memory;
        rig->shadow = shadow;
        rig->tables = tables;
        return err;
    }
    /* AddressSanitizer sees who still looks there. */
    free(memory);
    free(tables.host);
    rig_attach(rig, true, rig_shadow_base(rig, 0, 0));
    return 0;
}

void rig_init(struct rig *rig, const struct rig_sides *sides)
{
    memset(rig, 0, sizeof(*rig));
    rig->num = sides->num;
    rig->features = sides->guest;
    rig->backend_features = sides->backend;
    rig->base = sides->base;
    rig->share = sides->share;
    if (sides->guest & PACKED)
        rig->base |= rig->base << 16;
    rig->next_data = RIG_DATA;
    kit_memory_init(&rig->memory, RIG_GPA, RIG_SIZE);
    rig->guest = kit_ring_in(&rig->memory, svq_ring_format(sides->guest), rig->num, RIG_DESC,
                             RIG_DRIVER, RIG_DEVICE);
    rig->driver = kit_driver_new(&rig->memory, &rig->guest, rig->features, rig->base, NULL);
    rig_start(rig, rig->base);
}

void rig_free(struct rig *rig)
{
    svq_relay_free(rig->relay);
    kit_driver_free(rig->driver);
    kit_device_free(rig->device);
    free(rig->shadow_memory);
    free(rig->tables.host);
    kit_memory_free(&rig->memory);
}

int rig_setup(void **state)
{
    const struct rig_sides *sides = *state;
    struct rig *rig = malloc(sizeof(*rig));

    kit_require(rig != NULL);
    rig_init(rig, sides);
    *state = rig;
    return 0;
}

int rig_teardown(void **state)
{
    rig_free(*state);
    free(*state);
    return 0;
}

/* ---- Bases ----------------------------------------------------------------------------------- */

static uint32_t base_after(const struct kit_ring *ring, uint16_t base, unsigned taken,
                           unsigned used)
{
    struct kit_place at = kit_place_at(base), end = at;

    if (ring->format == SVQ_RING_SPLIT)
        return (uint16_t)(base + taken);
    while (taken--)
        kit_place_move(&at, ring->num, 2);
    while (used--)
        kit_place_move(&end, ring->num, 2);
    return kit_place_word(at) | (uint32_t)kit_place_word(end) << 16;
}

uint32_t rig_guest_base(const struct rig *rig, unsigned taken, unsigned used)
{
    return base_after(&rig->guest, (uint16_t)rig->base, taken, used);
}

uint32_t rig_shadow_base(const struct rig *rig, unsigned taken, unsigned used)
{
    return base_after(&rig->shadow, rig->shadow.format == SVQ_RING_SPLIT ? 0 : 0x8000, taken, used);
}

/* ---- The guest ------------------------------------------------------------------------------- */

struct kit_buf rig_buf(struct rig *rig, uint32_t len, bool write)
{
    struct kit_buf buf = {rig->next_data, len, write};

    rig->next_data += len;
    if (rig->next_data > RIG_END) {
        buf.gpa = RIG_DATA;
        rig->next_data = RIG_DATA + len;
    }
    return buf;
}

bool rig_offer_chain(struct rig *rig, const struct kit_chain *chain)
{
    assert_true(rig->driver->ops->add(rig->driver, chain));
    return rig->driver->ops->publish(rig->driver);
}

bool rig_offer(struct rig *rig, const struct kit_buf *bufs, unsigned count, uintptr_t token)
{
    struct kit_chain chain = {bufs, count, count, 0, false, (void *)token};

    return rig_offer_chain(rig, &chain);
}

bool rig_offer_simple(struct rig *rig, uintptr_t token)
{
    struct kit_buf bufs[2] = {rig_buf(rig, 64, false), rig_buf(rig, 64, true)};

    return rig_offer(rig, bufs, rig->num > 1 ? 2 : 1, token);
}

void rig_scribble(struct rig *rig)
{
    struct kit_packed_driver *packed = (struct kit_packed_driver *)rig->driver;

    for (unsigned i = 0; i < rig->num; i++) {
        if (rig->guest.format == SVQ_RING_SPLIT) {
            struct kit_desc *desc = &rig->guest.split.desc[i];

            *desc = (struct kit_desc){RIG_DATA + 8 * RIG_PAGE, 4096,
                                      (uint16_t)(desc->flags ^ (KIT_F_WRITE | KIT_F_NEXT)), 0xffff};
        } else {
            struct kit_pdesc *desc = &rig->guest.packed.desc[i];

            *desc = (struct kit_pdesc){RIG_DATA + 8 * RIG_PAGE, 4096, 0xbad,
                                       (uint16_t)(desc->flags ^ (KIT_P_WRITE | KIT_P_NEXT))};
            packed->written[i] = *desc;
        }
    }
}

unsigned rig_completed(struct rig *rig)
{
    struct kit_seen seen;
    int result;

    while ((result = rig->driver->ops->peek(rig->driver, &seen)) > 0)
        rig->completed += seen.chains;
    if (result)
        fail_msg("the guest's driver says: %s", rig->driver->broken);
    return rig->completed;
}

void rig_expect_done(struct rig *rig, uintptr_t token, uint32_t len)
{
    struct kit_done done = {0};

    rig_completed(rig);
    assert_int_equal(rig->driver->ops->reap(rig->driver, &done), 1);
    assert_int_equal((uintptr_t)done.token, token);
    if (!done.skipped)
        assert_int_equal(done.len, len);
}

void rig_expect_nothing_done(struct rig *rig)
{
    struct kit_done done;

    assert_int_equal(rig->driver->ops->reap(rig->driver, &done), 0);
}

/* ---- The relay ------------------------------------------------------------------------------- */

unsigned rig_poll(struct rig *rig)
{
    unsigned bits = svq_relay_poll(rig->relay);

    rig_expect_no_fault(rig);
    assert_int_equal(bits & ~(SVQ_RELAY_BUSY | SVQ_RELAY_KICK_BACKEND | SVQ_RELAY_CALL_GUEST), 0);
    return bits;
}

unsigned rig_settle(struct rig *rig)
{
    unsigned bits = 0, turn;

    for (turn = 0; turn < 1000; turn++) {
        unsigned now = rig_poll(rig);

        bits |= now;
        if (!(now & SVQ_RELAY_BUSY))
            return bits;
    }
    fail_msg("the relay is busy for ever");
    return bits;
}

/* Good work for the relay, if it were to look. */
static void tempt_guest_side(struct rig *rig, const struct svq_ring_index *at)
{
    if (rig->guest.format == SVQ_RING_SPLIT)
        rig->guest.split.avail->idx++;
    else
        rig->guest.packed.desc[at->avail] =
            (struct kit_pdesc){RIG_DATA, 1, 0x7777, kit_avail_flags(at->avail_wrap)};
}

static void tempt_backend_side(struct rig *rig, const struct svq_ring_index *at)
{
    if (rig->shadow.format == SVQ_RING_SPLIT)
        rig->shadow.split.used->idx++;
    else
        rig->shadow.packed.desc[at->used].flags = kit_used_flags(at->used_wrap);
}

static size_t shadow_bytes(const struct rig *rig)
{
    const struct kit_ring *ring = &rig->shadow;

    return (size_t)((uint8_t *)ring->at.device - (uint8_t *)ring->at.desc) +
           kit_device_bytes(ring->format, ring->num);
}

void rig_expect_fault(struct rig *rig, enum svq_side side)
{
    size_t ring_size = RIG_TABLES - RIG_GPA, shadow_size = shadow_bytes(rig);
    struct svq_relay_state before = rig_state(rig), after;
    struct svq_relay_stats stats = rig_stats(rig);
    uint8_t *ring = malloc(ring_size), *shadow = malloc(shadow_size);
    const char *reason = NULL;

    kit_require(ring && shadow);
    assert_int_equal(svq_relay_fault(rig->relay, &reason), side);
    assert_non_null(reason);
    assert_true(strlen(reason) > 0);
    /* From here on: nothing. Not even with good work on both sides. */
    for (unsigned turn = 0; turn < 3; turn++) {
        tempt_guest_side(rig, &before.guest);
        tempt_backend_side(rig, &before.backend);
        memcpy(ring, rig->memory.bytes, ring_size);
        memcpy(shadow, rig->shadow.at.desc, shadow_size);
        assert_int_equal(svq_relay_poll(rig->relay) & ~SVQ_RELAY_FAULT, 0);
        assert_memory_equal(ring, rig->memory.bytes, ring_size);
        assert_memory_equal(shadow, rig->shadow.at.desc, shadow_size);
    }
    after = rig_state(rig);
    assert_memory_equal(&after, &before, sizeof(after));
    assert_int_equal(rig_stats(rig).chains, stats.chains);
    assert_int_equal(svq_relay_fault(rig->relay, &reason), side);
    free(ring);
    free(shadow);
}

void rig_expect_no_fault(const struct rig *rig)
{
    const char *reason = NULL;

    if (svq_relay_fault(rig->relay, &reason) != SVQ_SIDE_NONE)
        fail_msg("unexpected fault: %s", reason);
    assert_null(reason);
}

struct svq_relay_state rig_state(const struct rig *rig)
{
    struct svq_relay_state state;

    memset(&state, 0xee, sizeof(state));
    svq_relay_state(rig->relay, &state);
    return state;
}

struct svq_relay_stats rig_stats(const struct rig *rig)
{
    struct svq_relay_stats stats;

    memset(&stats, 0xee, sizeof(stats));
    svq_relay_stats(rig->relay, &stats);
    return stats;
}

/* ---- The back-end ---------------------------------------------------------------------------- */

uint32_t rig_stop(struct rig *rig)
{
    return rig->device->ops->stop(rig->device);
}

uint16_t rig_take(struct rig *rig, struct kit_buf *bufs, int count)
{
    uint16_t id = 0xffff;
    int taken = rig->device->ops->take(rig->device, &id, bufs, (unsigned)count);

    if (taken < 0)
        fail_msg("the back-end's device says: %s", rig->device->broken);
    assert_int_equal(taken, count);
    return id;
}

void rig_expect_idle_device(struct rig *rig)
{
    assert_false(rig->device->ops->pending(rig->device));
}

bool rig_complete(struct rig *rig, uint16_t id, uint32_t len)
{
    rig->device->ops->complete(rig->device, id, len, 1);
    return rig->device->ops->publish(rig->device);
}

unsigned rig_serve(struct rig *rig, uint32_t len)
{
    struct kit_device *device = rig->device;
    struct kit_buf *bufs = calloc(rig->shadow.num, sizeof(*bufs));
    unsigned count = 0;
    uint16_t id;
    int taken;

    while ((taken = device->ops->take(device, &id, bufs, rig->shadow.num)) > 0) {
        device->ops->complete(device, id, len, 1);
        count++;
    }
    assert_int_equal(taken, 0);
    device->ops->publish(device);
    free(bufs);
    return count;
}
