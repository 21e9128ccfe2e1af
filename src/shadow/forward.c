/* SPDX-License-Identifier: BSD-3-Clause */
/* New chains: from the guest's ring to the back-end's. */
#include "shadow/direct.h"

/* How many chains wait at least; more than the ring's size when the guest lies. */
SPECIALISED unsigned waiting_chains(const struct svq_relay *relay, const bool packed)
{
    if (packed)
        return packed_device_waiting(&relay->guest.packed);
    return split_device_waiting(&relay->guest.split);
}

SPECIALISED unsigned publish(struct svq_relay *relay, const bool packed)
{
    int kick;

    if (packed) {
        packed_driver_publish(&relay->backend.packed);
        kick = packed_driver_must_kick(&relay->backend.packed);
    } else {
        split_driver_publish(&relay->backend.split);
        kick = split_driver_must_kick(&relay->backend.split);
    }
    if (kick < 0) {
        relay_fault(relay, SVQ_SIDE_BACKEND, "event suppression makes no sense");
        return SVQ_RELAY_BUSY;
    }
    relay->stats.backend_kicks += kick;
    return kick ? SVQ_RELAY_BUSY | SVQ_RELAY_KICK_BACKEND : SVQ_RELAY_BUSY;
}

/* ---- Plain chains ---------------------------------------------------------------------------- */

/*
 * Most chains are of one direct descriptor, whose buffer lies in the region of the one before.
 * Nothing can go wrong half-way with them, so they are taken in a loop of their own, in which all
 * that a batch changes stays in registers. It ends before the first chain that is anything else;
 * that one is as if nobody had looked at it yet.
 */

/* Look at the next chain. Return: is it there, and plain? *flags: as the guest wrote them */
SPECIALISED bool plain_read(const struct relay_ring *guest, const struct inflight *t,
                            const struct forward_plan plan, struct split_desc *d, uint16_t *id,
                            uint16_t *flags)
{
    if (plan.guest_packed) {
        const struct packed_place at = guest->packed.avail;
        struct packed_desc p;

        if (!packed_read_available(&guest->packed.desc[at.idx], at.wrap, &p))
            return false;
        *d = split_from_packed(&p);
        *id = p.id;
    } else {
        *id = split_device_head(&guest->split);
        if (UNLIKELY(*id >= guest->split.num) || (plan.mirrored && UNLIKELY(t->chains[*id].busy)))
            return false;
        *d = split_read_desc(&guest->split.desc[*id]);
    }
    *flags = d->flags;
    if (d->flags & (SPLIT_DESC_F_NEXT | SPLIT_DESC_F_INDIRECT) ||
        !gather_near(&t->near, d->addr, d->len))
        return false;
    split_keep_flags(d, SPLIT_DESC_F_WRITE);
    return true;
}

/* It has its mark in the in-flight region. Return: its entry there. */
SPECIALISED uint16_t plain_mark(struct tracker *tracker, const struct forward_plan plan,
                                const struct split_desc *d, uint16_t id, uint16_t flags)
{
    if (plan.guest_packed) {
        const struct packed_desc p = {.addr = d->addr, .len = d->len, .id = id, .flags = flags};

        return tracker_mark_one(tracker, &p);
    }
    tracker_mark_split(tracker, id);
    return id;
}

/* It is in flight. Return: its slot. */
SPECIALISED uint16_t plain_add(struct inflight *t, const struct forward_plan plan,
                               struct split_desc *d, uint16_t id, uint16_t entry)
{
    uint16_t slot = id;

    if (!plan.mirrored) {
        slot = inflight_get_slot(t);
        d->next = t->free_head; /* the link stays */
    }
    inflight_write_desc(t, slot, d);
    inflight_add(t, slot,
                 (struct inflight_chain){.plain = true,
                                         .slots = 1,
                                         .guest_slots = 1,
                                         .guest_id = id,
                                         .entry = plan.guest_packed ? entry : 0});
    return slot;
}

/* How many can be taken at once: there is room for them, and no end of a ring between them. */
SPECIALISED unsigned plain_limit(const struct svq_relay *relay, const struct forward_plan plan,
                                 unsigned waiting)
{
    const struct packed_ring *guest = &relay->guest.packed, *backend = &relay->backend.packed;
    unsigned limit = plan.guest_packed ? packed_device_room(guest) : waiting;

    if (tracker_left(relay))
        return 0;
    if (plan.guest_packed)
        limit = at_most(limit, packed_straight(guest, &guest->avail));
    if (plan.backend_packed)
        limit = at_most(limit, packed_straight(backend, &backend->avail));
    return plan.mirrored ? limit : at_most(limit, relay->inflight.free);
}

/* Return: how many were taken. */
SPECIALISED unsigned forward_plain(struct svq_relay *relay, const struct forward_plan plan,
                                   unsigned waiting)
{
    struct relay_ring guest = relay->guest, backend = relay->backend;
    unsigned limit = plain_limit(relay, plan, waiting), taken = 0;
    struct inflight t = relay->inflight;
    struct tracker *tracker = relay->tracker;
    struct split_desc d = {0};
    uint16_t id = 0, flags = 0;

    for (; taken < limit && plain_read(&guest, &t, plan, &d, &id, &flags); taken++) {
        uint16_t slot, entry = 0;

        if (tracker)
            entry = plain_mark(tracker, plan, &d, id, flags);
        slot = plain_add(&t, plan, &d, id, entry);
        if (plan.guest_packed)
            guest.packed.avail.idx++;
        else
            guest.split.avail_idx++;
        if (plan.backend_packed) {
            packed_driver_write(&backend.packed, d.addr, d.len, slot, d.flags);
            backend.packed.avail.idx++;
        } else if (plan.shared) {
            split_driver_put(&backend.split, slot);
        } else {
            split_driver_put_one(&backend.split, slot, &d);
        }
    }
    if (!taken)
        return 0;
    if (plan.guest_packed)
        packed_come_round(&guest.packed, &guest.packed.avail);
    if (plan.backend_packed)
        packed_come_round(&backend.packed, &backend.packed.avail);
    relay_ring_keep(&relay->guest, &guest, plan.guest_packed);
    relay_ring_keep(&relay->backend, &backend, plan.backend_packed);
    inflight_added(&t, taken, taken);
    inflight_keep(&relay->inflight, &t);
    relay->inflight.need = 0;
    return taken;
}

/* ---- Heads --------------------------------------------------------------------------------- */

/*
 * The same, of a shared descriptor table while nobody wants to know what is in it. A line of it
 * that we do not read stays with the processor that the guest's driver runs on.
 */
static unsigned forward_heads(struct svq_relay *relay, unsigned waiting)
{
    struct relay_ring guest = relay->guest, backend = relay->backend;
    struct inflight t = relay->inflight;
    struct tracker *tracker = relay->tracker;
    unsigned taken = 0;

    if (tracker_left(relay))
        return 0;
    for (; taken < waiting; taken++) {
        uint16_t head = split_device_head(&guest.split);

        if (UNLIKELY(head >= guest.split.num || t.chains[head].busy))
            break;
        if (tracker)
            tracker_mark_split(tracker, head);
        inflight_add(
            &t, head,
            (struct inflight_chain){
                .plain = true, .unread = true, .slots = 1, .guest_slots = 1, .guest_id = head});
        guest.split.avail_idx++;
        split_driver_put(&backend.split, head);
    }
    if (!taken)
        return 0;
    relay_ring_keep(&relay->guest, &guest, false);
    relay_ring_keep(&relay->backend, &backend, false);
    inflight_added(&t, taken, taken);
    inflight_keep(&relay->inflight, &t);
    return taken;
}

/* ---- The turn -------------------------------------------------------------------------------- */

/* The next chain, whatever it is. Return: was it taken? */
SPECIALISED bool forward_one(struct svq_relay *relay, const struct forward_plan plan)
{
    const struct gather_plan from = {plan.guest_packed, plan.mirrored, plan.tables};
    uint16_t head;

    if (!gather(relay, from, &head))
        return false;
    if (relay->tracker)
        tracker_take(relay, head);
    emit(relay, plan.backend_packed, plan.shared, plan.tables, head);
    relay->plain = relay->inflight.chains[head].plain;
    return true;
}

/* As many chains at once as are of one kind. */
SPECIALISED unsigned forward_many(struct svq_relay *relay, const struct forward_plan plan,
                                  unsigned waiting, bool plain)
{
    unsigned count = 0;

    if (plan.shared && !relay->log.log)
        return forward_heads(relay, waiting);
    if (plain)
        count = forward_plain(relay, plan, waiting);
    relay->plain = count;
    return count ? count : plan.direct(relay, waiting);
}

SPECIALISED unsigned forward(struct svq_relay *relay, const struct forward_plan plan)
{
    unsigned waiting = waiting_chains(relay, plan.guest_packed), taken = 0;
    bool plain = relay->plain; /* may the next be? */

    if (!waiting)
        return 0;
    if (!plan.guest_packed && waiting + relay->inflight.count > relay->guest.split.num) {
        relay_fault(relay, SVQ_SIDE_GUEST, "more chains available than the ring can hold");
        return 0;
    }
    while (waiting && inflight_has_room(&relay->inflight)) {
        unsigned count = forward_many(relay, plan, waiting, plain);

        plain = true; /* such a one has ended a run of others */
        if (!count) {
            if (!forward_one(relay, plan))
                break;
            plain = relay->plain;
            count = 1;
        }
        taken += count;
        /* A packed ring tells of one chain at a time; how many it holds bounds the turn. */
        waiting = plan.guest_packed ? waiting_chains(relay, true) : waiting - count;
    }
    return taken ? publish(relay, plan.backend_packed) : 0;
}

/* ---- One function for each combination ------------------------------------------------------ */

/* Loops in one function would take each other's registers. */
#define FORWARD(name, guest, backend, mirror, share, table_plan)                     \
    static __attribute__((noinline)) unsigned name##_direct(struct svq_relay *relay, \
                                                            unsigned waiting)        \
    {                                                                                \
        return forward_direct(relay,                                                 \
                              (struct forward_plan){.guest_packed = guest,           \
                                                    .backend_packed = backend,       \
                                                    .mirrored = mirror,              \
                                                    .shared = share,                 \
                                                    .tables = table_plan},           \
                              waiting);                                              \
    }                                                                                \
    static unsigned name(struct svq_relay *relay)                                    \
    {                                                                                \
        return forward(relay, (struct forward_plan){.guest_packed = guest,           \
                                                    .backend_packed = backend,       \
                                                    .mirrored = mirror,              \
                                                    .shared = share,                 \
                                                    .tables = table_plan,            \
                                                    .direct = name##_direct});       \
    }

/* Tables of one format stay what they are; between the formats they are converted. */
#define FORWARD_PAIR(name, guest, backend, same_or_convert)               \
    FORWARD(name##_refuse, guest, backend, false, false, TABLES_REFUSE)   \
    FORWARD(name##_tables, guest, backend, false, false, same_or_convert) \
    FORWARD(name##_flatten, guest, backend, false, false, TABLES_FLATTEN)

FORWARD(share_refuse, false, false, true, true, TABLES_REFUSE)
FORWARD(share_tables, false, false, true, true, TABLES_KEEP)
FORWARD(mirror_refuse, false, false, true, false, TABLES_REFUSE)
FORWARD(mirror_tables, false, false, true, false, TABLES_KEEP)
FORWARD_PAIR(split_split, false, false, TABLES_KEEP)
FORWARD_PAIR(split_packed, false, true, TABLES_CONVERT)
FORWARD_PAIR(packed_split, true, false, TABLES_CONVERT)
FORWARD_PAIR(packed_packed, true, true, TABLES_KEEP)

struct forward_set {
    relay_step_fn *refuse, *tables, *flatten;
};

#define SET(name)                                    \
    {                                                \
        name##_refuse, name##_tables, name##_flatten \
    }

relay_step_fn *relay_forward_fn(const struct svq_relay_config *config)
{
    static const struct forward_set sets[2][2] = {{SET(split_split), SET(split_packed)},
                                                  {SET(packed_split), SET(packed_packed)}};
    const struct forward_set *set =
        &sets[svq_ring_format(config->guest.features)][svq_ring_format(config->backend.features)];
    enum table_plan tables = relay_table_plan(config);

    if (relay_shares(config))
        return tables == TABLES_REFUSE ? share_refuse : share_tables;
    if (relay_mirrors(config))
        return tables == TABLES_REFUSE ? mirror_refuse : mirror_tables;
    if (tables == TABLES_REFUSE)
        return set->refuse;
    return tables == TABLES_FLATTEN ? set->flatten : set->tables;
}
