/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The relay. A turn (svq_relay_poll()) first returns what the back-end has completed, so that slots
 * and notifications are fresh, then takes what the guest has made available. Either direction reads
 * all there is, publishes one index and decides on one notification.
 *
 * Dirty log: data was written by the back-end before its used entry, which we acquire. Then
 *   1. the bits of the chain's writable pages are set,
 *   2. the used entry and used.idx are written,
 *   3. the bits of the used ring's own pages are set,
 * so that the guest cannot see a completion whose pages could still escape, and a harvest that
 * falls between 2 and 3 finds the ring's page dirty again in the next round.
 *
 * Threat model: both rings are shared with parties that may write anything at any time. Whatever is
 * read from them is copied once and checked; the in-flight table is the only memory we trust.
 */
#include "shadow/inflight.h"

#include <shadowvq/vhost_user.h>

#include <errno.h>
#include <stdlib.h>
#include <string.h>

struct svq_relay {
    struct split_ring guest;   /* we are its device */
    struct split_ring backend; /* we are its driver */
    struct inflight inflight;
    struct svq_map *map;
    bool in_order;
    bool hold;

    struct svq_log *log; /* NULL: nobody logs */
    bool log_used;
    uint64_t used_gpa;

    enum svq_side fault_side;
    const char *fault;
    struct svq_relay_stats stats;
};

static bool valid_ring(const struct svq_split_mem *mem)
{
    return mem->desc && mem->avail && mem->used;
}

int svq_relay_new(const struct svq_relay_config *config, struct svq_relay **out)
{
    const struct svq_split_mem *shadow = &config->backend;
    unsigned num = config->num;
    bool event_idx = config->features & SVQ_BIT(SVQ_F_EVENT_IDX);
    struct svq_relay *relay;
    int err;

    if (!num || num > SVQ_RING_MAX || num & (num - 1))
        return -EINVAL;
    if (!valid_ring(&config->guest) || !valid_ring(shadow) || !config->map)
        return -EINVAL;
    if (config->features & ~SVQ_RELAY_FEATURES)
        return -ENOTSUP;

    relay = calloc(1, sizeof(*relay));
    if (!relay)
        return -ENOMEM;
    err = inflight_init(&relay->inflight, num, config->features & SVQ_BIT(SVQ_F_INDIRECT_DESC));
    if (err) {
        free(relay);
        return err;
    }
    memset(shadow->desc, 0, svq_split_desc_size(num));
    memset(shadow->avail, 0, svq_split_avail_size(num));
    memset(shadow->used, 0, svq_split_used_size(num));
    split_init(&relay->guest, &config->guest, num, event_idx);
    split_init(&relay->backend, shadow, num, event_idx);
    relay->guest.avail_idx = config->base;
    relay->guest.used_idx = SPLIT_LOAD(relay->guest.used->idx);
    relay->in_order = config->features & SVQ_BIT(SVQ_F_IN_ORDER);
    relay->map = svq_map_ref(config->map);
    *out = relay;
    return 0;
}

void svq_relay_free(struct svq_relay *relay)
{
    if (!relay)
        return;
    inflight_fini(&relay->inflight);
    svq_log_unref(relay->log);
    svq_map_unref(relay->map);
    free(relay);
}

static void set_fault(struct svq_relay *relay, enum svq_side side, const char *reason)
{
    relay->fault_side = side;
    relay->fault = reason;
}

/* ---- Dirty log of the used ring ----------------------------------------------------------------
 */

static void log_used_range(struct svq_relay *relay, size_t offset, size_t len)
{
    uint64_t gpa;

    if (!relay->log || !relay->log_used || relay->fault)
        return;
    if (__builtin_add_overflow(relay->used_gpa, offset, &gpa) ||
        svq_log_mark(relay->log, gpa, len) < 0)
        set_fault(relay, SVQ_SIDE_GUEST, "dirty log does not cover the used ring");
}

/* The entries from `first` on and the index before them. */
static void log_used_entries(struct svq_relay *relay, uint16_t first, uint16_t count)
{
    const size_t entry = sizeof(struct split_used_elem);
    size_t ring = offsetof(struct split_used, ring);
    uint16_t start = first & relay->guest.mask;
    uint16_t straight = relay->guest.num - start;

    if (!relay->log)
        return;
    if (count <= straight) {
        log_used_range(relay, ring + start * entry, count * entry);
    } else {
        log_used_range(relay, ring + start * entry, straight * entry);
        log_used_range(relay, ring, (count - straight) * entry);
    }
    log_used_range(relay, 0, ring); /* flags and idx */
}

static void ask_guest(struct svq_relay *relay, bool kick)
{
    struct split_ring *guest = &relay->guest;

    split_device_ask(guest, kick);
    if (!guest->event_idx)
        log_used_range(relay, offsetof(struct split_used, flags), sizeof(uint16_t));
    else if (kick)
        log_used_range(relay, svq_split_used_size(guest->num) - sizeof(uint16_t), sizeof(uint16_t));
}

/* ---- Completions: back-end to guest ------------------------------------------------------------
 */

static bool complete_chain(struct svq_relay *relay, uint16_t head, uint64_t len)
{
    const struct inflight_chain *chain = &relay->inflight.chains[head];

    if (len > chain->writable)
        len = chain->writable;
    if (relay->log && inflight_log(&relay->inflight, head, relay->log) < 0) {
        set_fault(relay, SVQ_SIDE_GUEST, "dirty log does not cover a buffer");
        return false;
    }
    relay->stats.chains++;
    relay->stats.bytes += chain->bytes;
    split_device_put(&relay->guest, head, len > UINT32_MAX ? UINT32_MAX : len);
    inflight_release(&relay->inflight, head);
    return true;
}

/*
 * IN_ORDER (virtio 1.3 section 2.7.9): one used entry completes every chain up to the one it names,
 * and stands for as many entries as chains. Those passed over count as written in full.
 *
 * Return: how many chains completed, 0 after a fault.
 */
static uint16_t complete_in_order(struct svq_relay *relay, struct split_used_elem elem,
                                  uint16_t limit)
{
    uint16_t batch = inflight_batch(&relay->inflight, elem.id, limit);

    if (!batch)
        set_fault(relay, SVQ_SIDE_BACKEND,
                  "used entry out of order although IN_ORDER was negotiated");
    for (uint16_t done = 1; done <= batch; done++) {
        uint16_t head = inflight_oldest(&relay->inflight);

        if (!complete_chain(relay, head, done == batch ? elem.len : UINT64_MAX))
            return 0;
    }
    return batch;
}

/* The next used entry. Return: how many used entries it stands for, 0 after a fault. */
static uint16_t complete_next(struct svq_relay *relay, uint16_t limit)
{
    struct split_used_elem elem = split_driver_elem(&relay->backend);

    if (elem.id >= relay->inflight.num) {
        set_fault(relay, SVQ_SIDE_BACKEND, "used id is out of range");
        return 0;
    }
    if (!inflight_outstanding(&relay->inflight, elem.id)) {
        set_fault(relay, SVQ_SIDE_BACKEND, "used id is not outstanding");
        return 0;
    }
    if (relay->in_order)
        return complete_in_order(relay, elem, limit);
    return complete_chain(relay, elem.id, elem.len) ? 1 : 0;
}

static unsigned complete(struct svq_relay *relay)
{
    uint16_t waiting = split_driver_waiting(&relay->backend);
    uint16_t first = relay->guest.used_idx;

    if (!waiting)
        return 0;
    if (waiting > relay->inflight.count) {
        set_fault(relay, SVQ_SIDE_BACKEND, "used index runs ahead of what is outstanding");
        return 0;
    }
    while (waiting) {
        uint16_t done = complete_next(relay, waiting);

        if (!done)
            break;
        relay->backend.used_idx += done;
        waiting -= done;
    }
    if (relay->guest.used_idx == first)
        return 0;
    split_device_publish(&relay->guest);
    log_used_entries(relay, first, relay->guest.used_idx - first);
    if (!split_device_must_call(&relay->guest))
        return SVQ_RELAY_BUSY;
    relay->stats.guest_calls++;
    return SVQ_RELAY_BUSY | SVQ_RELAY_CALL_GUEST;
}

/* ---- New chains: guest to back-end --------------------------------------------------------------
 */

static unsigned forward(struct svq_relay *relay)
{
    uint16_t waiting, taken;

    if (relay->hold || relay->fault)
        return 0;
    waiting = split_device_waiting(&relay->guest);
    if (!waiting)
        return 0;
    if (waiting > relay->guest.num) {
        set_fault(relay, SVQ_SIDE_GUEST, "available index jumps by more than the ring's size");
        return 0;
    }
    for (taken = 0; taken < waiting && inflight_has_room(&relay->inflight); taken++) {
        uint16_t head = split_device_head(&relay->guest, 0);
        const char *fault;

        if (head >= relay->guest.num)
            fault = "available head is out of range";
        else
            fault = inflight_take(&relay->inflight, relay->map, relay->guest.desc,
                                  relay->backend.desc, head, relay->backend.avail_idx);
        if (fault) {
            set_fault(relay, SVQ_SIDE_GUEST, fault);
            break;
        }
        relay->guest.avail_idx++;
        split_driver_put(&relay->backend, head);
    }
    if (!taken)
        return 0;
    split_driver_publish(&relay->backend);
    if (!split_driver_must_kick(&relay->backend))
        return SVQ_RELAY_BUSY;
    relay->stats.backend_kicks++;
    return SVQ_RELAY_BUSY | SVQ_RELAY_KICK_BACKEND;
}

unsigned svq_relay_poll(struct svq_relay *relay)
{
    unsigned result = 0;

    if (!relay->fault)
        result |= complete(relay);
    if (!relay->fault)
        result |= forward(relay);
    if (relay->fault)
        result |= SVQ_RELAY_FAULT;
    return result;
}

/* ---- Notifications
 * ------------------------------------------------------------------------------- */

bool svq_relay_arm(struct svq_relay *relay)
{
    if (relay->fault)
        return false;
    ask_guest(relay, true);
    if (relay->fault)
        return true; /* to be polled for */
    if (!relay->hold)
        split_driver_ask(&relay->backend, true);
    /*
     * Pairs with both peers' fences between publishing an index and reading what was asked for:
     * either they see our request and notify, or we see their index here.
     */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return split_driver_waiting(&relay->backend) ||
           (!relay->hold && inflight_has_room(&relay->inflight) &&
            split_device_waiting(&relay->guest));
}

void svq_relay_disarm(struct svq_relay *relay)
{
    if (relay->fault)
        return;
    ask_guest(relay, false);
    split_driver_ask(&relay->backend, false);
}

/* ---- Switching
 * ------------------------------------------------------------------------------------ */

void svq_relay_hold(struct svq_relay *relay, bool hold)
{
    relay->hold = hold;
    if (hold && !relay->fault)
        split_driver_silence(&relay->backend);
}

int svq_relay_drained(const struct svq_relay *relay, uint16_t base)
{
    const struct inflight *t = &relay->inflight;
    uint16_t used = relay->backend.used_idx;
    /* An answer from before the last completions: what is used was taken. */
    uint16_t taken = (int16_t)(used - base) > 0 ? used : base;
    uint16_t untaken = relay->backend.avail_idx - taken;

    /* What it never took must all be in flight: else it completed what it did not take. */
    if (untaken > t->count || inflight_newest(t, relay->backend.avail_idx, untaken) < untaken)
        return -EPROTO;
    return untaken == t->count;
}

uint16_t svq_relay_detach(struct svq_relay *relay)
{
    const struct inflight *t = &relay->inflight;

    /* Not further back than the last completed chain: it must not be done twice. */
    relay->guest.avail_idx -= inflight_newest(t, relay->backend.avail_idx, t->count);
    relay->hold = true;
    /* The next device may never look at suppression left behind by us: ask for kicks again. */
    SPLIT_STORE(relay->guest.used->flags, 0);
    log_used_range(relay, offsetof(struct split_used, flags), sizeof(uint16_t));
    if (relay->guest.event_idx)
        ask_guest(relay, true);
    return relay->guest.avail_idx;
}

void svq_relay_set_log(struct svq_relay *relay, struct svq_log *log, bool log_used,
                       uint64_t used_gpa)
{
    if (log)
        svq_log_ref(log);
    svq_log_unref(relay->log);
    relay->log = log;
    relay->log_used = log_used;
    relay->used_gpa = used_gpa;
}

void svq_relay_set_guest(struct svq_relay *relay, const struct svq_split_mem *guest,
                         struct svq_map *map)
{
    svq_map_ref(map);
    svq_map_unref(relay->map);
    relay->map = map;
    relay->inflight.hint = 0;
    relay->guest.desc = guest->desc;
    relay->guest.avail = guest->avail;
    relay->guest.used = guest->used;
}

/* ---- What an operator sees
 * ------------------------------------------------------------------------ */

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

void svq_relay_state(const struct svq_relay *relay, struct svq_relay_state *state)
{
    *state = (struct svq_relay_state){
        .guest_avail = relay->guest.avail_idx,
        .guest_used = relay->guest.used_idx,
        .backend_avail = relay->backend.avail_idx,
        .backend_used = relay->backend.used_idx,
        .in_flight = relay->inflight.count,
    };
}

void svq_relay_stats(const struct svq_relay *relay, struct svq_relay_stats *stats)
{
    *stats = relay->stats;
}
