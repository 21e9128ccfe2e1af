/* SPDX-License-Identifier: BSD-3-Clause */
/* Completions: from the back-end's ring to the guest's. */
#include "mem/log.h"
#include "ring/prefetch.h"
#include "shadow/relay_internal.h"
#include "shadow/tracker_hot.h"
#include "shadow/unread.h"

struct complete_plan {
    bool guest_packed;
    bool backend_packed;
    bool mirrored;
    enum order_plan order;
    unsigned (*several)(struct svq_relay *relay, unsigned limit); /* complete_several() for it */
};

/* Used entries asked for in advance: as many lines as a processor waits for at once. */
#define PREFETCH_ENTRIES 64u

/* What the back-end wrote of a chain: the same in both formats. */
struct used {
    uint32_t id;
    uint32_t len;
};

/* The length of a chain that has no used entry of its own. */
#define WRITTEN_IN_FULL UINT64_MAX

/* Completions that one used entry stands for. */
struct done {
    unsigned chains;
    unsigned slots;
};

/* ---- To the guest ---------------------------------------------------------------------------- */

/* The chain's used entry, which the guest sees when the batch is published, or now. */
SPECIALISED void put(struct relay_ring *guest, struct tracker *tracker,
                     const struct complete_plan plan, const struct inflight_chain *chain,
                     uint32_t len)
{
    if (!plan.guest_packed) {
        if (tracker)
            tracker_put_split(tracker, chain->guest_id);
        split_device_put(&guest->split, chain->guest_id, len);
    } else if (tracker) {
        tracker_put_packed(tracker, &guest->packed, chain, len);
    } else {
        packed_device_put(&guest->packed, chain->guest_id, len, chain->guest_slots);
    }
}

/* The guest gets a chain back. Return: false after a fault. */
SPECIALISED bool deliver(struct svq_relay *relay, const struct complete_plan plan, uint16_t head,
                         uint64_t len)
{
    struct inflight *t = &relay->inflight;
    bool unread = plan.mirrored && t->chains[head].unread;
    uint64_t writable;

    if (unread && UNLIKELY(relay->log.log || len == WRITTEN_IN_FULL)) {
        if (!unread_look(relay, head))
            return false;
        unread = false;
    }
    writable = unread ? UINT32_MAX : inflight_writable(t, head);
    if (len > writable)
        len = writable;
    if (len > UINT32_MAX)
        len = UINT32_MAX;
    if (relay->log.log && inflight_log(t, head, relay->log.log) < 0) {
        relay_fault(relay, SVQ_SIDE_GUEST, "dirty log does not cover a buffer");
        t->chains[head].done = true; /* nobody may have it done again */
        return false;
    }
    relay->stats.chains++;
    relay->stats.bytes += unread ? len : inflight_bytes(t, head);
    put(&relay->guest, relay->tracker, plan, &t->chains[head], len);
    inflight_release(t, head, plan.mirrored);
    return true;
}

/* ---- From the back-end ----------------------------------------------------------------------- */

/*
 * A fault with the oldest chain in flight ends a batch of so many. The back-end has completed the
 * others, too: nobody may have them done again.
 */
static void abandon_batch(struct inflight *t, unsigned batch)
{
    uint16_t place = t->order_first;

    while (--batch) {
        struct inflight_chain *chain;

        place = inflight_step(t, place);
        chain = &t->chains[t->order[place]];
        chain->done = true;
        inflight_returned(t, 1, chain->slots);
    }
}

/*
 * IN_ORDER at the back-end (virtio 1.3 sections 2.7.9 and 2.8.9): one used entry completes every
 * chain up to the one it names, and stands for as many. Those passed over count as written in full.
 */
SPECIALISED struct done complete_batch(struct svq_relay *relay, const struct complete_plan plan,
                                       struct used used, unsigned limit)
{
    struct inflight *t = &relay->inflight;
    struct done done = {0};
    unsigned batch = inflight_batch(t, used.id, limit);

    if (!batch)
        relay_fault(relay, SVQ_SIDE_BACKEND,
                    "used entry out of order although IN_ORDER was negotiated");
    while (done.chains < batch) {
        uint16_t head = inflight_oldest(t);
        unsigned slots = t->chains[head].slots;

        inflight_returned(t, 1, slots);
        if (!deliver(relay, plan, head, done.chains + 1 < batch ? WRITTEN_IN_FULL : used.len)) {
            abandon_batch(t, batch - done.chains);
            return (struct done){0};
        }
        done.chains++;
        done.slots += slots;
    }
    return done;
}

/* The guest expects order, the back-end keeps none: what is completed early waits. */
SPECIALISED bool restore_order(struct svq_relay *relay, const struct complete_plan plan,
                               struct used used)
{
    struct inflight *t = &relay->inflight;

    t->chains[used.id].done = true;
    t->rest[used.id].len = used.len;
    while (t->count) {
        uint16_t head = inflight_oldest(t);

        if (!t->chains[head].done)
            break;
        if (!deliver(relay, plan, head, t->rest[head].len))
            return false;
    }
    return true;
}

/* A used entry. Return: what it stands for; nothing after a fault. */
SPECIALISED struct done complete_one(struct svq_relay *relay, const struct complete_plan plan,
                                     struct used used, unsigned limit)
{
    struct inflight *t = &relay->inflight;
    struct done done = {.chains = 1};
    bool good;

    if (used.id >= t->num) {
        relay_fault(relay, SVQ_SIDE_BACKEND, "used id is out of range");
        return (struct done){0};
    }
    if (!inflight_outstanding(t, used.id)) {
        relay_fault(relay, SVQ_SIDE_BACKEND, "used id is not outstanding");
        return (struct done){0};
    }
    if (plan.order == ORDER_BATCHES)
        return complete_batch(relay, plan, used, limit);
    done.slots = t->chains[used.id].slots;
    inflight_returned(t, 1, done.slots);
    if (plan.order == ORDER_RESTORE)
        good = restore_order(relay, plan, used);
    else
        good = deliver(relay, plan, used.id, used.len);
    return good ? done : (struct done){0};
}

/* ---- Plain chains ---------------------------------------------------------------------------- */

/*
 * As in forward.c: chains of one direct descriptor are returned in a loop of their own, which ends
 * before the first other one, or whatever is wrong; that is as if nobody had looked at it yet.
 */

/*
 * The lines of so many used entries: those we read have just been written by the back-end, those we
 * write were last read by the guest. Between cores this saves a tenth of the way back. (The same
 * for descriptors saves nothing: the loop that takes them is short enough for a processor to run
 * ahead.)
 */
SPECIALISED void plain_prefetch(const struct relay_ring *guest, const struct relay_ring *backend,
                                const struct complete_plan plan, unsigned count)
{
    const unsigned step = PREFETCH_LINE / sizeof(struct split_used_elem);

    for (unsigned i = 0; i < count && i < PREFETCH_ENTRIES; i += step) {
        if (!plan.backend_packed)
            prefetch_read(split_used_place(&backend->split, i));
        if (!plan.guest_packed)
            prefetch_write(split_used_place(&guest->split, i));
    }
}

/* Look at the next used entry. Return: is it there, its chain the next to complete, and plain? */
SPECIALISED bool next_used(const struct relay_ring *backend, const struct inflight *t,
                           const struct complete_plan plan, const bool plain, struct used *used)
{
    const struct inflight_chain *chain;

    if (plan.backend_packed) {
        struct packed_desc d;

        if (!packed_driver_elem(&backend->packed, &d))
            return false;
        *used = (struct used){d.id, d.len};
    } else {
        struct split_used_elem e = split_driver_elem(&backend->split);

        *used = (struct used){e.id, e.len};
    }
    if (UNLIKELY(used->id >= t->num))
        return false;
    chain = &t->chains[used->id];
    return chain->plain == plain && (plain || chain->slots) && !chain->done &&
           (plan.order == ORDER_ANY || inflight_oldest(t) == used->id);
}

/* What a batch went through in registers. */
SPECIALISED void keep_copies(struct svq_relay *relay, const struct complete_plan plan,
                             const struct relay_ring *guest, const struct relay_ring *backend,
                             const struct inflight *t)
{
    relay_ring_keep(&relay->guest, guest, plan.guest_packed);
    relay_ring_keep(&relay->backend, backend, plan.backend_packed);
    inflight_keep(&relay->inflight, t);
}

/* Return: how many were returned. */
SPECIALISED unsigned complete_plain(struct svq_relay *relay, const struct complete_plan plan,
                                    unsigned limit)
{
    struct relay_ring guest = relay->guest, backend = relay->backend;
    struct tracker *tracker = relay->tracker;
    struct svq_log *log = relay->log.log;
    struct inflight t = relay->inflight;
    unsigned returned = 0;
    uint64_t bytes = 0;
    struct used used;

    plain_prefetch(&guest, &backend, plan, limit);
    /* Up to the end of a ring: so far, going on is no more than adding to idx. */
    if (plan.backend_packed)
        limit = at_most(limit, packed_straight(&backend.packed, &backend.packed.used));
    if (plan.guest_packed)
        limit = at_most(limit, packed_straight(&guest.packed, &guest.packed.used));
    for (; returned < limit && next_used(&backend, &t, plan, true, &used); returned++) {
        bool unread = plan.mirrored && t.chains[used.id].unread;
        const struct split_desc *d = unread ? &unread_desc : &t.desc[used.id];
        uint32_t writable = d->flags & SPLIT_DESC_F_WRITE ? d->len : 0;

        if (log && UNLIKELY(unread))
            break;
        if (log && writable && UNLIKELY(log_mark_acquired(log, d->addr, writable) < 0))
            break;
        bytes += unread ? used.len : d->len;
        if (used.len > writable)
            used.len = writable;
        if (plan.guest_packed && !tracker) {
            packed_device_write(&guest.packed, t.chains[used.id].guest_id, used.len);
            guest.packed.used.idx++;
        } else {
            put(&guest, tracker, plan, &t.chains[used.id], used.len);
        }
        inflight_release_plain(&t, used.id, plan.mirrored);
        if (plan.backend_packed)
            backend.packed.used.idx++;
        else
            backend.split.used_idx++;
    }
    if (!returned)
        return 0;
    if (plan.guest_packed)
        packed_come_round(&guest.packed, &guest.packed.used);
    if (plan.backend_packed)
        packed_come_round(&backend.packed, &backend.packed.used);
    inflight_returned(&t, returned, returned);
    relay->stats.chains += returned;
    keep_copies(relay, plan, &guest, &backend, &t);
    relay->stats.bytes += bytes;
    return returned;
}

/*
 * The same for chains of several descriptors or with a table, which may lie across a ring's end.
 * Return: how many were returned.
 */
SPECIALISED unsigned complete_several(struct svq_relay *relay, const struct complete_plan plan,
                                      unsigned limit)
{
    struct relay_ring guest = relay->guest, backend = relay->backend;
    struct svq_log *log = relay->log.log;
    struct inflight t = relay->inflight;
    unsigned returned = 0, slots = 0;
    uint64_t bytes = 0;
    struct used used;

    for (; returned < limit && next_used(&backend, &t, plan, false, &used); returned++) {
        const struct inflight_chain chain = t.chains[used.id];
        const struct inflight_rest *rest = &t.rest[used.id];

        if (log && UNLIKELY(inflight_log(&relay->inflight, used.id, log) < 0))
            break;
        bytes += rest->bytes;
        if (used.len > rest->writable)
            used.len = rest->writable;
        put(&guest, relay->tracker, plan, &t.chains[used.id], used.len);
        inflight_release_slots(&t, used.id, plan.mirrored);
        if (rest->table_len)
            inflight_release_table(&relay->inflight, used.id); /* nothing that the copy keeps */
        if (plan.backend_packed)
            packed_advance(&backend.packed, &backend.packed.used, chain.slots);
        else
            backend.split.used_idx++;
        slots += chain.slots;
    }
    if (!returned)
        return 0;
    inflight_returned(&t, returned, slots);
    relay->stats.chains += returned;
    keep_copies(relay, plan, &guest, &backend, &t);
    relay->stats.bytes += bytes;
    return returned;
}

/* As many as are of one kind. */
SPECIALISED unsigned complete_many(struct svq_relay *relay, const struct complete_plan plan,
                                   unsigned limit)
{
    unsigned count = 0;

    if (plan.order == ORDER_RESTORE)
        return 0;
    if (relay->plain_back)
        count = complete_plain(relay, plan, limit);
    if (!count) {
        count = plan.several(relay, limit);
        relay->plain_back = count < limit; /* such a one has ended this */
    }
    return count;
}

/* ---- All of them ----------------------------------------------------------------------------- */

SPECIALISED void take_split(struct svq_relay *relay, const struct complete_plan plan)
{
    struct split_ring *backend = &relay->backend.split;
    unsigned waiting = split_driver_waiting(backend);

    if (waiting > relay->inflight.with) {
        relay_fault(relay, SVQ_SIDE_BACKEND, "used index runs ahead of what is outstanding");
        return;
    }
    while (waiting) {
        unsigned count = complete_many(relay, plan, waiting);

        if (!count) {
            struct split_used_elem e = split_driver_elem(backend);
            struct done done = complete_one(relay, plan, (struct used){e.id, e.len}, waiting);

            if (!done.chains)
                return;
            backend->used_idx += done.chains;
            count = done.chains;
        }
        waiting -= count;
    }
}

SPECIALISED void take_packed(struct svq_relay *relay, const struct complete_plan plan)
{
    struct packed_ring *backend = &relay->backend.packed;
    unsigned limit = relay->inflight.with;

    if (!limit && packed_driver_waiting(backend))
        relay_fault(relay, SVQ_SIDE_BACKEND, "used descriptor although nothing is outstanding");
    while (limit) {
        unsigned count = complete_many(relay, plan, limit);

        if (!count) {
            struct packed_desc d;
            struct done done;

            if (!packed_driver_elem(backend, &d))
                return;
            /* Not all devices set WRITE to say that len counts (QEMU's never do): it always does.
             */
            done = complete_one(relay, plan, (struct used){d.id, d.len}, limit);
            if (!done.chains)
                return;
            packed_advance(backend, &backend->used, done.slots);
            count = done.chains;
        }
        limit -= count;
    }
}

/* ---- The turn -------------------------------------------------------------------------------- */

SPECIALISED struct svq_ring_index used_index(const struct svq_relay *relay, const bool packed)
{
    if (packed)
        return (struct svq_ring_index){.used = relay->guest.packed.used.idx,
                                       .used_wrap = relay->guest.packed.used.wrap};
    return (struct svq_ring_index){.used = relay->guest.split.used_idx};
}

SPECIALISED unsigned publish(struct svq_relay *relay, const bool packed)
{
    int call;

    if (packed) {
        if (!relay->tracker)
            packed_device_publish(&relay->guest.packed);
        call = packed_device_must_call(&relay->guest.packed);
    } else {
        split_device_publish(&relay->guest.split);
        if (relay->tracker)
            tracker_published_split(relay);
        call = split_device_must_call(&relay->guest.split);
    }
    if (call < 0) {
        relay_fault(relay, SVQ_SIDE_GUEST, "event suppression makes no sense");
        return SVQ_RELAY_BUSY;
    }
    relay->stats.guest_calls += call;
    return call ? SVQ_RELAY_BUSY | SVQ_RELAY_CALL_GUEST : SVQ_RELAY_BUSY;
}

SPECIALISED unsigned complete(struct svq_relay *relay, const struct complete_plan plan)
{
    struct svq_ring_index before = used_index(relay, plan.guest_packed);
    uint64_t delivered = relay->stats.chains;
    unsigned with = relay->inflight.with;
    unsigned result;

    if (plan.backend_packed)
        take_packed(relay, plan);
    else
        take_split(relay, plan);
    if (relay->stats.chains == delivered)
        return relay->inflight.with == with ? 0 : SVQ_RELAY_BUSY;
    result = publish(relay, plan.guest_packed);
    if (relay->log.log)
        relay_log_used(relay, &before);
    return result;
}

/* ---- One function for each combination ------------------------------------------------------- */

/* Loops in one function would take each other's registers. */
#define COMPLETE(name, guest, backend, mirror, order_plan)                                         \
    static                                                                                         \
        __attribute__((noinline)) unsigned name##_several(struct svq_relay *relay, unsigned limit) \
    {                                                                                              \
        return complete_several(relay,                                                             \
                                (struct complete_plan){.guest_packed = guest,                      \
                                                       .backend_packed = backend,                  \
                                                       .mirrored = mirror,                         \
                                                       .order = order_plan},                       \
                                limit);                                                            \
    }                                                                                              \
    static unsigned name(struct svq_relay *relay)                                                  \
    {                                                                                              \
        return complete(relay, (struct complete_plan){.guest_packed = guest,                       \
                                                      .backend_packed = backend,                   \
                                                      .mirrored = mirror,                          \
                                                      .order = order_plan,                         \
                                                      .several = name##_several});                 \
    }

#define COMPLETE_PAIR(name, guest, backend, mirror)                 \
    COMPLETE(name##_any, guest, backend, mirror, ORDER_ANY)         \
    COMPLETE(name##_batches, guest, backend, mirror, ORDER_BATCHES) \
    COMPLETE(name##_restore, guest, backend, mirror, ORDER_RESTORE)

COMPLETE_PAIR(mirror, false, false, true)
COMPLETE_PAIR(split_split, false, false, false)
COMPLETE_PAIR(split_packed, false, true, false)
COMPLETE_PAIR(packed_split, true, false, false)
COMPLETE_PAIR(packed_packed, true, true, false)

/* By enum order_plan. */
#define SET(name)                                  \
    {                                              \
        name##_any, name##_batches, name##_restore \
    }

relay_step_fn *relay_complete_fn(const struct svq_relay_config *config)
{
    static relay_step_fn *const mirrors[3] = SET(mirror);
    static relay_step_fn *const pools[2][2][3] = {{SET(split_split), SET(split_packed)},
                                                  {SET(packed_split), SET(packed_packed)}};
    enum order_plan order = relay_order_plan(config);

    if (relay_mirrors(config))
        return mirrors[order];
    return pools[svq_ring_format(config->guest.features)][svq_ring_format(config->backend.features)]
                [order];
}
