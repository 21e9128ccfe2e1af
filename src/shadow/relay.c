/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The relay. A turn (svq_relay_poll()) first returns what the back-end has completed, so that slots
 * and notifications are fresh, then takes what the guest has made available. Either direction reads
 * all there is, publishes once and decides on one notification.
 *
 * Dirty log: data was written by the back-end before its used entry, which we acquire. Then
 *   1. the bits of the chain's writable pages are set,
 *   2. the used entries are written and published,
 *   3. the bits of the guest ring's own pages are set,
 * so that the guest cannot see a completion whose pages could still escape, and a harvest that
 * falls between 2 and 3 finds the ring's page dirty again in the next round.
 *
 * Threat model: both rings are shared with parties that may write anything at any time. Whatever is
 * read from them is copied once and checked; the in-flight table is the only memory we trust.
 */
#include "mem/log.h"
#include "shadow/relay_internal.h"
#include "shadow/tracker.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* ---- What a configuration asks for ----------------------------------------------------------- */

static bool has(const struct svq_relay_side *side, unsigned feature)
{
    return side->features & SVQ_BIT(feature);
}

static bool same_format(const struct svq_relay_config *config)
{
    return svq_ring_format(config->guest.features) == svq_ring_format(config->backend.features);
}

enum table_plan relay_table_plan(const struct svq_relay_config *config)
{
    if (!has(&config->guest, SVQ_F_INDIRECT_DESC))
        return TABLES_REFUSE;
    if (!has(&config->backend, SVQ_F_INDIRECT_DESC))
        return TABLES_FLATTEN;
    return same_format(config) ? TABLES_KEEP : TABLES_CONVERT;
}

enum order_plan relay_order_plan(const struct svq_relay_config *config)
{
    if (has(&config->backend, SVQ_F_IN_ORDER))
        return ORDER_BATCHES;
    return has(&config->guest, SVQ_F_IN_ORDER) ? ORDER_RESTORE : ORDER_ANY;
}

bool relay_mirrors(const struct svq_relay_config *config)
{
    /* A back-end with IN_ORDER wants descriptors in ring order: the guest's are, if it has that. */
    return same_format(config) && !has(&config->guest, SVQ_F_RING_PACKED) &&
           config->guest.num == config->backend.num && relay_table_plan(config) != TABLES_FLATTEN &&
           (has(&config->guest, SVQ_F_IN_ORDER) || !has(&config->backend, SVQ_F_IN_ORDER));
}

bool relay_shares(const struct svq_relay_config *config)
{
    return config->may_share && relay_mirrors(config);
}

unsigned svq_relay_shadow_num(enum svq_ring_format shadow, unsigned num)
{
    unsigned power = 1;

    if (shadow == SVQ_RING_PACKED)
        return num;
    while (power < num && power < SVQ_RING_MAX)
        power *= 2;
    return power;
}

size_t svq_relay_tables_max(unsigned num)
{
    if (num > SVQ_RING_MAX)
        num = SVQ_RING_MAX;
    return (size_t)tables_entries(num, inflight_longest(num)) * TABLES_ENTRY;
}

size_t svq_relay_tables_size(const struct svq_relay_config *config)
{
    return relay_table_plan(config) == TABLES_CONVERT ? svq_relay_tables_max(config->guest.num) : 0;
}

/* ---- Making and ending ----------------------------------------------------------------------- */

static int check_side(const struct svq_relay_side *side)
{
    if (!side->ring.desc || !side->ring.driver || !side->ring.device ||
        !svq_vring_num_valid(svq_ring_format(side->features), side->num))
        return -EINVAL;
    return side->features & ~SVQ_RELAY_FEATURES ? -ENOTSUP : 0;
}

static int check_config(const struct svq_relay_config *config)
{
    int err = check_side(&config->guest);

    if (!err)
        err = check_side(&config->backend);
    if (err)
        return err;
    if (!config->map || config->backend.num < config->guest.num)
        return -EINVAL;
    /* What the in-flight region says counts more; see tracker_start(). */
    if (!config->inflight && !svq_vring_base_valid(svq_ring_format(config->guest.features),
                                                   config->guest.num, config->base))
        return -EINVAL;
    return 0;
}

static void init_ring(struct relay_ring *ring, const struct svq_relay_side *side, uint32_t base)
{
    bool event_idx = has(side, SVQ_F_EVENT_IDX);

    ring->is_packed = has(side, SVQ_F_RING_PACKED);
    if (ring->is_packed)
        packed_init(&ring->packed, &side->ring, side->num, event_idx, base);
    else
        split_init(&ring->split, &side->ring, side->num, event_idx);
}

static void clear_shadow(const struct svq_relay_side *shadow)
{
    enum svq_ring_format format = svq_ring_format(shadow->features);

    memset(shadow->ring.desc, 0, svq_vring_desc_size(format, shadow->num));
    memset(shadow->ring.driver, 0, svq_vring_driver_size(format, shadow->num));
    memset(shadow->ring.device, 0, svq_vring_device_size(format, shadow->num));
}

static int start_guest(struct svq_relay *relay, const struct svq_relay_config *config)
{
    init_ring(&relay->guest, &config->guest, config->base);
    if (!relay->guest.is_packed) {
        relay->guest.split.avail_idx = config->base;
        relay->guest.split.used_idx = SPLIT_LOAD(relay->guest.split.used->idx);
    }
    return config->inflight ? tracker_start(relay, config) : 0;
}

int svq_relay_begin(struct svq_relay *relay, const struct svq_relay_config *config)
{
    int err = check_config(config);

    return err ? err : start_guest(relay, config);
}

int svq_relay_new(const struct svq_relay_config *config, struct svq_relay **out)
{
    struct inflight_config inflight = {
        .mirrored = relay_mirrors(config),
        .guest_num = config->guest.num,
        .num = config->backend.num,
        .area = config->tables,
    };
    struct svq_relay *relay;
    int err = check_config(config);

    if (err)
        return err;
    inflight.table_entries = svq_relay_tables_size(config) / TABLES_ENTRY;
    relay = calloc(1, sizeof(*relay));
    if (!relay)
        return -ENOMEM;
    err = inflight_init(&relay->inflight, &inflight);
    if (err) {
        free(relay);
        return err;
    }
    clear_shadow(&config->backend);
    init_ring(&relay->backend, &config->backend, SVQ_PACKED_START);
    relay->table_plan = relay_table_plan(config);
    relay->shares = relay_shares(config);
    relay->forward = relay_forward_fn(config);
    relay->complete = relay_complete_fn(config);
    err = start_guest(relay, config);
    if (err) {
        inflight_fini(&relay->inflight);
        free(relay);
        return err;
    }
    relay->map = svq_map_ref(config->map);
    *out = relay;
    return 0;
}

void svq_relay_free(struct svq_relay *relay)
{
    if (!relay)
        return;
    inflight_fini(&relay->inflight);
    tracker_free(relay->tracker);
    svq_log_unref(relay->log.log);
    svq_map_unref(relay->map);
    free(relay);
}

bool svq_relay_shares(const struct svq_relay *relay)
{
    return relay->shares;
}

/* ---- Dirty log of the guest's ring ----------------------------------------------------------- */

/* What was written there, before a full fence. */
static void log_range(struct svq_relay *relay, uint64_t area, size_t offset, size_t len)
{
    uint64_t gpa;

    if (!relay->log.log || !relay->log.ring)
        return;
    if (__builtin_add_overflow(area, offset, &gpa) || log_mark_fenced(relay->log.log, gpa, len) < 0)
        relay_fault(relay, SVQ_SIDE_GUEST, "dirty log does not cover the ring");
}

/* Entries of a ring of num, which may wrap; it begins at an offset into its area. */
static void log_entries(struct svq_relay *relay, uint64_t area, size_t offset, size_t size,
                        unsigned first, unsigned count, unsigned num)
{
    unsigned straight = num - first;

    if (count <= straight) {
        log_range(relay, area, offset + first * size, count * size);
        return;
    }
    log_range(relay, area, offset + first * size, straight * size);
    log_range(relay, area, offset, (count - straight) * size);
}

void relay_log_used(struct svq_relay *relay, const struct svq_ring_index *from)
{
    /* Publishing has ended with a full fence. Pairs with the front-end's exchange of the bits. */
    const size_t header = offsetof(struct split_used, ring);

    if (relay->guest.is_packed) {
        const struct packed_ring *r = &relay->guest.packed;
        struct packed_place first = {from->used, from->used_wrap};

        log_entries(relay, relay->log.desc_gpa, 0, sizeof(struct packed_desc), first.idx,
                    packed_distance(r, first, r->used), r->num);
    } else {
        const struct split_ring *r = &relay->guest.split;

        log_entries(relay, relay->log.device_gpa, header, sizeof(struct split_used_elem),
                    from->used & r->mask, (uint16_t)(r->used_idx - from->used), r->num);
        log_range(relay, relay->log.device_gpa, 0, header); /* flags and idx */
    }
}

/* What was written there just now: suppression, in the device's area. */
static void log_asked(struct svq_relay *relay, size_t offset, size_t len)
{
    /* Our store before our look at the bit. Pairs with the front-end's exchange of the bits. */
    if (relay->log.log)
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
    log_range(relay, relay->log.device_gpa, offset, len);
}

/* ---- Notifications --------------------------------------------------------------------------- */

static void ask_guest(struct svq_relay *relay, bool kick)
{
    struct split_ring *split = &relay->guest.split;

    if (relay->guest.is_packed) {
        packed_device_ask(&relay->guest.packed, kick);
        log_asked(relay, 0, sizeof(uint32_t));
        return;
    }
    split_device_ask(split, kick);
    if (!split->event_idx)
        log_asked(relay, offsetof(struct split_used, flags), sizeof(uint16_t));
    else if (kick)
        log_asked(relay, svq_vring_device_size(SVQ_RING_SPLIT, split->num) - sizeof(uint16_t),
                  sizeof(uint16_t));
}

static void ask_backend(struct svq_relay *relay, bool call)
{
    if (relay->backend.is_packed)
        packed_driver_ask(&relay->backend.packed, call);
    else
        split_driver_ask(&relay->backend.split, call);
}

static bool guest_waiting(const struct svq_relay *relay)
{
    if (tracker_left(relay))
        return true;
    return relay->guest.is_packed ? packed_device_waiting(&relay->guest.packed)
                                  : split_device_waiting(&relay->guest.split);
}

static bool backend_waiting(const struct svq_relay *relay)
{
    return relay->backend.is_packed ? packed_driver_waiting(&relay->backend.packed)
                                    : split_driver_waiting(&relay->backend.split);
}

bool svq_relay_arm(struct svq_relay *relay)
{
    if (relay->fault)
        return false;
    ask_guest(relay, true);
    if (relay->fault)
        return true; /* to be polled for */
    if (!relay->hold)
        ask_backend(relay, true);
    /*
     * Pairs with both peers' fences between publishing and reading what was asked for: either they
     * see our request and notify, or we see here what they published.
     */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return backend_waiting(relay) ||
           (!relay->hold && inflight_has_room(&relay->inflight) && guest_waiting(relay));
}

void svq_relay_disarm(struct svq_relay *relay)
{
    if (relay->fault)
        return;
    ask_guest(relay, false);
    ask_backend(relay, false);
}

unsigned svq_relay_poll(struct svq_relay *relay)
{
    unsigned result = 0;

    if (!relay->fault)
        result |= relay->complete(relay);
    if (!relay->fault && !relay->hold)
        result |= relay->forward(relay);
    if (relay->fault)
        result |= SVQ_RELAY_FAULT;
    return result;
}

/* ---- Switching ------------------------------------------------------------------------------- */

void svq_relay_hold(struct svq_relay *relay, bool hold)
{
    relay->hold = hold;
    if (!hold || relay->fault)
        return;
    if (relay->backend.is_packed)
        packed_driver_ask(&relay->backend.packed, false);
    else
        split_driver_silence(&relay->backend.split);
}

/*
 * How much of what is with the back-end it has not taken, when it stopped at `base`; split: chains,
 * packed: slots. A base behind what has been completed counts as that: what is used was taken.
 *
 * Return: -1 when it is no index that the back-end can have.
 */
static int untaken(const struct svq_relay *relay, uint32_t base)
{
    const struct inflight *t = &relay->inflight;

    if (relay->backend.is_packed) {
        const struct packed_ring *r = &relay->backend.packed;
        const struct svq_ring_index index = svq_packed_index(base);
        const struct packed_place stopped = {index.avail, index.avail_wrap};
        int left = packed_distance(r, stopped, r->avail);

        if (index.avail >= r->num || left < 0 || left > r->num)
            return -1;
        return left > t->slots ? t->slots : left;
    }
    const struct split_ring *r = &relay->backend.split;
    uint16_t left = r->avail_idx - (uint16_t)base;

    if (left <= t->with)
        return left;
    return (int16_t)(r->used_idx - (uint16_t)base) > 0 ? t->with : -1;
}

int svq_relay_drained(const struct svq_relay *relay, uint32_t base)
{
    const struct inflight *t = &relay->inflight;
    bool packed = relay->backend.is_packed;
    int with = packed ? t->slots : t->with, left = untaken(relay, base);
    struct inflight_span span;

    if (left < 0)
        return -EPROTO;
    /* What it never took must all be in flight: else it completed what it did not take. */
    span = inflight_untaken(t, packed, left);
    if ((int)(packed ? span.slots : span.chains) != left)
        return -EPROTO;
    /* It must all go back to the guest's ring: what was taken before a crash may not be able to. */
    return left == with && inflight_newest(t, t->with).chains == t->with &&
           tracker_left_in_ring(relay);
}

uint32_t svq_relay_resume_base(const struct svq_relay *relay, uint32_t base)
{
    int left = untaken(relay, base);
    struct svq_relay_state state;
    struct packed_place next;

    if (left < 0)
        return base;
    if (!relay->backend.is_packed)
        return (uint16_t)(relay->backend.split.avail_idx - left);
    svq_relay_state(relay, &state);
    next = relay->backend.packed.avail;
    packed_rewind(&relay->backend.packed, &next, left);
    state.backend.avail = next.idx;
    state.backend.avail_wrap = next.wrap;
    return svq_packed_base(&state.backend);
}

uint32_t svq_relay_detach(struct svq_relay *relay)
{
    const struct inflight *t = &relay->inflight;
    bool behind = tracker_left_in_ring(relay); /* what comes behind goes back, too */
    struct inflight_span span = inflight_newest(t, behind ? t->with : 0);
    struct svq_relay_state state;

    relay->hold = true;
    if (relay->tracker)
        tracker_give_back(relay, span.chains, behind);
    /* Not further back than the last completed chain: it must not be done twice. */
    if (relay->guest.is_packed)
        packed_rewind(&relay->guest.packed, &relay->guest.packed.avail, span.guest_slots);
    else
        relay->guest.split.avail_idx -= span.chains;
    /* The next device may never look at suppression left behind by us: ask for kicks again. */
    if (relay->guest.is_packed) {
        PACKED_STORE(*relay->guest.packed.device, PACKED_EVENT_ENABLE);
        log_asked(relay, 0, sizeof(uint32_t));
        svq_relay_state(relay, &state);
        return svq_packed_base(&state.guest);
    }
    SPLIT_STORE(relay->guest.split.used->flags, 0);
    log_asked(relay, offsetof(struct split_used, flags), sizeof(uint16_t));
    if (relay->guest.split.event_idx)
        ask_guest(relay, true);
    return relay->guest.split.avail_idx;
}

void svq_relay_set_log(struct svq_relay *relay, const struct svq_relay_log *log)
{
    if (log->log)
        svq_log_ref(log->log);
    svq_log_unref(relay->log.log);
    relay->log = *log;
}

bool relay_search(struct svq_relay *relay, uint64_t addr, uint32_t len)
{
    struct inflight *t = &relay->inflight;
    const struct svq_region *region;

    if (!svq_map_holds(relay->map, addr, len, &t->hint))
        return false;
    region = svq_map_region(relay->map, t->hint);
    t->near = (struct near){region->gpa + region->size, region->size};
    return true;
}

void svq_relay_set_guest(struct svq_relay *relay, const struct svq_vring *guest,
                         struct svq_map *map)
{
    svq_map_ref(map);
    svq_map_unref(relay->map);
    relay->map = map;
    relay->inflight.hint = 0;
    relay->inflight.near.size = 0;
    if (relay->guest.is_packed) {
        relay->guest.packed.desc = guest->desc;
        relay->guest.packed.driver = guest->driver;
        relay->guest.packed.device = guest->device;
    } else {
        relay->guest.split.desc = guest->desc;
        relay->guest.split.avail = guest->driver;
        relay->guest.split.used = guest->device;
    }
}

/* ---- What an operator sees ------------------------------------------------------------------- */

void svq_relay_count_kick(struct svq_relay *relay)
{
    relay->stats.guest_kicks++;
}

void svq_relay_count_call(struct svq_relay *relay)
{
    relay->stats.backend_calls++;
}

enum svq_side svq_relay_fault(const struct svq_relay *relay, const char **reason)
{
    *reason = relay->fault;
    return relay->fault_side;
}

static struct svq_ring_index index_of(const struct relay_ring *ring)
{
    if (!ring->is_packed)
        return (struct svq_ring_index){.avail = ring->split.avail_idx,
                                       .used = ring->split.used_idx};
    return (struct svq_ring_index){
        .avail = ring->packed.avail.idx,
        .used = ring->packed.used.idx,
        .avail_wrap = ring->packed.avail.wrap,
        .used_wrap = ring->packed.used.wrap,
    };
}

void svq_relay_state(const struct svq_relay *relay, struct svq_relay_state *state)
{
    *state = (struct svq_relay_state){
        .guest = index_of(&relay->guest),
        .backend = index_of(&relay->backend),
        .in_flight = relay->inflight.count + tracker_left(relay),
    };
}

void svq_relay_stats(const struct svq_relay *relay, struct svq_relay_stats *stats)
{
    *stats = relay->stats;
}
