/* SPDX-License-Identifier: BSD-3-Clause */
/* Completions: from the back-end's ring to the guest's. */
#include "shadow/relay_internal.h"
#include "shadow/tracker.h"

struct complete_plan {
    bool guest_packed;
    bool backend_packed;
    bool mirrored;
    enum order_plan order;
};

/* What the back-end wrote of a chain: the same in both formats. */
struct used {
    uint32_t id;
    uint32_t len;
};

/* Completions that one used entry stands for. */
struct done {
    unsigned chains;
    unsigned slots;
};

/* ---- To the guest ---------------------------------------------------------------------------- */

/* The chain's used entry, which the guest sees when the batch is published, or now. */
SPECIALISED void put(struct svq_relay *relay, const struct complete_plan plan,
                     const struct inflight_chain *chain, uint32_t len)
{
    if (!plan.guest_packed) {
        if (relay->tracker)
            tracker_put_split(relay, chain);
        split_device_put(&relay->guest.split, chain->guest_id, len);
    } else if (relay->tracker) {
        tracker_put_packed(relay, chain, len);
    } else {
        packed_device_put(&relay->guest.packed, chain->guest_id, len, chain->guest_slots);
    }
}

/* The guest gets a chain back. Return: false after a fault. */
SPECIALISED bool deliver(struct svq_relay *relay, const struct complete_plan plan, uint16_t head,
                         uint64_t len)
{
    struct inflight *t = &relay->inflight;
    const struct inflight_chain *chain = &t->chains[head];

    if (len > chain->writable)
        len = chain->writable;
    if (len > UINT32_MAX)
        len = UINT32_MAX;
    if (relay->log.log && inflight_log(t, head, relay->log.log) < 0) {
        relay_fault(relay, SVQ_SIDE_GUEST, "dirty log does not cover a buffer");
        t->chains[head].done = true; /* nobody may have it done again */
        return false;
    }
    relay->stats.chains++;
    relay->stats.bytes += chain->bytes;
    put(relay, plan, chain, len);
    inflight_release(t, head, plan.mirrored);
    return true;
}

/* ---- From the back-end ----------------------------------------------------------------------- */

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

        inflight_returned(t, head);
        if (!deliver(relay, plan, head, done.chains + 1 == batch ? used.len : UINT64_MAX))
            return (struct done){0};
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
    t->chains[used.id].len = used.len;
    while (t->count) {
        uint16_t head = inflight_oldest(t);

        if (!t->chains[head].done)
            break;
        if (!deliver(relay, plan, head, t->chains[head].len))
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
    inflight_returned(t, used.id);
    if (plan.order == ORDER_RESTORE)
        good = restore_order(relay, plan, used);
    else
        good = deliver(relay, plan, used.id, used.len);
    return good ? done : (struct done){0};
}

SPECIALISED void take_split(struct svq_relay *relay, const struct complete_plan plan)
{
    struct split_ring *backend = &relay->backend.split;
    unsigned waiting = split_driver_waiting(backend);

    if (waiting > relay->inflight.with) {
        relay_fault(relay, SVQ_SIDE_BACKEND, "used index runs ahead of what is outstanding");
        return;
    }
    while (waiting) {
        struct split_used_elem e = split_driver_elem(backend);
        struct done done = complete_one(relay, plan, (struct used){e.id, e.len}, waiting);

        if (!done.chains)
            return;
        backend->used_idx += done.chains;
        waiting -= done.chains;
    }
}

SPECIALISED void take_packed(struct svq_relay *relay, const struct complete_plan plan)
{
    struct packed_ring *backend = &relay->backend.packed;
    unsigned limit = relay->inflight.with;

    if (!limit && packed_driver_waiting(backend))
        relay_fault(relay, SVQ_SIDE_BACKEND, "used descriptor although nothing is outstanding");
    while (limit && packed_driver_waiting(backend)) {
        const struct packed_desc *d = &backend->desc[backend->used.idx];
        /* Not all devices set WRITE to say that len counts (QEMU's never do): it always does. */
        struct used used = {PACKED_LOAD(d->id), PACKED_LOAD(d->len)};
        struct done done = complete_one(relay, plan, used, limit);

        if (!done.chains)
            return;
        packed_advance(backend, &backend->used, done.slots);
        limit -= done.chains;
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

#define COMPLETE(name, guest, backend, mirror, order_plan)                       \
    static unsigned name(struct svq_relay *relay)                                \
    {                                                                            \
        return complete(relay, (struct complete_plan){.guest_packed = guest,     \
                                                      .backend_packed = backend, \
                                                      .mirrored = mirror,        \
                                                      .order = order_plan});     \
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
