/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chains of several direct descriptors, or of one table. Like the plain ones in forward.c they are
 * taken in a loop of their own, in which what a batch changes stays in registers. It ends before
 * the first chain that is anything else: a plain one, a mixture, one that reaches into another
 * region than the buffer before, one that there is no room for, a bad one. That one is as if nobody
 * had looked at it yet: gather() reads it anew, and judges it.
 */
#ifndef SVQ_SHADOW_DIRECT_H
#define SVQ_SHADOW_DIRECT_H

#include "shadow/emit.h"
#include "shadow/gather.h"
#include "shadow/tracker_hot.h"

struct forward_plan {
    bool guest_packed;
    bool backend_packed;
    bool mirrored;
    bool shared; /* the back-end reads the guest's descriptor table */
    enum table_plan tables;
    unsigned (*direct)(struct svq_relay *relay, unsigned waiting); /* forward_direct() for it */
};

/* A chain that is being read. */
struct direct {
    uint64_t bytes;
    uint64_t writable;
    uint32_t table; /* entries in its private table */
    uint32_t block; /* where its converted one is */
    uint16_t flags; /* of the last descriptor */
    uint16_t guest_id;
    uint16_t guest_slots;
    uint16_t head;
    uint16_t last;
    uint16_t free; /* pooled: the next slot to get */
    uint16_t slots;
};

/* One look at the chain's next descriptor, split: at `i`. Return: may it be one? */
SPECIALISED bool direct_read(const struct relay_ring *guest, const struct inflight *t,
                             const struct forward_plan plan, struct direct *c, uint16_t i,
                             struct split_desc *d)
{
    if (plan.guest_packed) {
        const struct packed_place at = guest->packed.avail;
        struct packed_desc p;

        if (!packed_read_available(&guest->packed.desc[at.idx + c->guest_slots], at.wrap, &p))
            return false;
        c->guest_id = p.id; /* the last one's counts */
        *d = split_from_packed(&p);
    } else {
        if (UNLIKELY(i >= guest->split.num) || (plan.mirrored && UNLIKELY(t->chains[i].busy)))
            return false;
        *d = split_read_desc(&guest->split.desc[i]);
    }
    c->guest_slots++;
    return true;
}

/* As gather_check(), for buffers near by. */
SPECIALISED bool direct_check(const struct inflight *t, struct direct *c,
                              const struct split_desc *d)
{
    if (d->flags & SPLIT_DESC_F_WRITE)
        c->writable += d->len;
    else if (UNLIKELY(c->flags & SPLIT_DESC_F_WRITE))
        return false;
    c->flags = d->flags;
    c->bytes += d->len;
    return gather_near(&t->near, d->addr, d->len);
}

/*
 * It has a slot, mirrored: `slot`. A back-end with a split ring can have it there at once: it knows
 * nothing of the slot before the chain is put.
 */
SPECIALISED void direct_slot(struct inflight *t, const struct relay_ring *backend,
                             const struct forward_plan plan, struct direct *c, uint16_t slot,
                             struct split_desc d, const uint16_t flags)
{
    if (plan.mirrored) {
        split_keep_flags(&d, flags);
        t->chains[slot].busy = true;
    } else {
        const struct split_desc free = {.rest = t->desc[c->free].rest};

        slot = c->free;
        c->free = free.next;
        split_link_as(&d, flags, &free);
    }
    inflight_write_desc(t, slot, &d);
    if (!plan.backend_packed && !plan.shared)
        split_write_desc(&backend->split.desc[slot], &d);
    c->last = slot;
    c->slots++;
}

/* Nothing of the chain stays. */
SPECIALISED void direct_drop(struct inflight *t, const struct forward_plan plan,
                             const struct direct *c)
{
    uint16_t slot = c->head;

    for (unsigned n = plan.mirrored ? c->slots : 0; n; n--) {
        t->chains[slot].busy = false;
        slot = t->desc[slot].next;
    }
}

/*
 * Read a table whole: into slots, `room` at most, when it is flattened, else into the private copy.
 * As gather_entries().
 */
SPECIALISED bool direct_entries(const struct relay_ring *backend, struct inflight *t,
                                const struct forward_plan plan, unsigned room, struct direct *c,
                                const void *shared, uint32_t entries)
{
    const struct gather_plan from = {plan.guest_packed, plan.mirrored, plan.tables};
    const bool flatten = plan.tables == TABLES_FLATTEN;
    struct split_desc *copy = t->rest[c->head].table, e;
    uint32_t i = 0, n = 0;

    if (!flatten)
        room = entries; /* more are a loop */
    do {
        /* A packed one is in order, and ends with the last. */
        if ((!plan.guest_packed && UNLIKELY(i >= entries)) ||
            ((!plan.guest_packed || flatten) && UNLIKELY(n == room)))
            return false;
        e = gather_entry(from, shared, entries, plan.guest_packed ? n : i);
        if (UNLIKELY(e.flags & SPLIT_DESC_F_INDIRECT) || !direct_check(t, c, &e))
            return false;
        i = e.next;
        n++;
        if (flatten) {
            direct_slot(t, backend, plan, c, 0, e, SPLIT_DESC_F_WRITE | SPLIT_DESC_F_NEXT);
            continue;
        }
        if (!plan.guest_packed) /* else it is what it should be */
            split_relink(&e, SPLIT_DESC_F_WRITE | SPLIT_DESC_F_NEXT, n);
        copy[n - 1].addr = e.addr;
        copy[n - 1].rest = e.rest;
    } while (e.flags & SPLIT_DESC_F_NEXT);
    c->table = flatten ? 0 : n;
    return true;
}

/* The table that `d` refers to is the whole chain. @at: mirrored: the slot */
SPECIALISED bool direct_table(struct svq_relay *relay, const struct relay_ring *backend,
                              struct inflight *t, const struct forward_plan plan, unsigned room,
                              struct direct *c, struct split_desc d, uint16_t at)
{
    uint32_t entries = d.len / TABLES_ENTRY;
    const void *shared;

    if (plan.tables == TABLES_REFUSE || UNLIKELY(d.flags & SPLIT_DESC_F_NEXT) ||
        UNLIKELY(!d.len || d.len % TABLES_ENTRY) || UNLIKELY(entries > t->max_table) ||
        UNLIKELY(t->held >= t->limit))
        return false;
    shared = svq_map_gpa(relay->map, d.addr, d.len);
    if (UNLIKELY(!shared))
        return false;
    /* Room for one more, as gather_table() asks for: then this never is what there is none for. */
    if (plan.tables != TABLES_FLATTEN && UNLIKELY(entries >= t->rest[c->head].table_room))
        return false;
    if (!direct_entries(backend, t, plan, room, c, shared, entries) ||
        UNLIKELY(c->bytes > UINT64_C(1) << 32))
        return false;
    if (plan.tables == TABLES_FLATTEN)
        return c->slots > 1;
    if (plan.tables == TABLES_CONVERT) {
        c->block = tables_get(&relay->inflight.tables, c->table);
        if (UNLIKELY(c->block == TABLES_NONE))
            return false;
        emit_entries(tables_host(&t->tables, c->block), plan.backend_packed, t->rest[c->head].table,
                     c->table);
        d = emit_reference(&t->tables, c->block, c->table);
    }
    d.flags = SPLIT_DESC_F_INDIRECT; /* WRITE means nothing here */
    direct_slot(t, backend, plan, c, at, d, SPLIT_DESC_F_INDIRECT);
    return true;
}

/*
 * Read the next chain into slots, `room` at most.
 * Return: is it there, good, and of a kind that is taken here?
 */
SPECIALISED bool direct_gather(struct svq_relay *relay, const struct relay_ring *guest,
                               const struct relay_ring *backend, struct inflight *t,
                               const struct forward_plan plan, unsigned room, struct direct *c)
{
    struct split_desc d;
    uint16_t i = 0;

    if (!plan.guest_packed)
        c->guest_id = i = split_device_head(&guest->split);
    if (UNLIKELY(!room))
        return false;
    c->head = plan.mirrored ? i : t->free_head;
    c->free = t->free_head;
    do {
        if (UNLIKELY(c->slots == room) || !direct_read(guest, t, plan, c, i, &d))
            return false;
        if (UNLIKELY(d.flags & SPLIT_DESC_F_INDIRECT))
            return !c->slots && direct_table(relay, backend, t, plan, room, c, d, i);
        if (!direct_check(t, c, &d))
            return false;
        direct_slot(t, backend, plan, c, i, d, SPLIT_DESC_F_WRITE | SPLIT_DESC_F_NEXT);
        i = d.next;
    } while (d.flags & SPLIT_DESC_F_NEXT);
    return c->slots > 1 && c->bytes <= UINT64_C(1) << 32;
}

/* It is in flight. */
SPECIALISED void direct_add(struct inflight *t, const struct forward_plan plan,
                            const struct direct *c, uint16_t entry)
{
    struct inflight_rest *rest = &t->rest[c->head];

    rest->bytes = c->bytes;
    rest->writable = c->writable;
    rest->table_len = c->table;
    rest->block = c->block;
    t->held += c->table;
    rest->last = c->last;
    if (!plan.mirrored)
        t->free_head = c->free;
    inflight_add(t, c->head,
                 (struct inflight_chain){.slots = c->slots,
                                         .guest_slots = c->guest_slots,
                                         .guest_id = c->guest_id,
                                         .entry = entry});
}

/*
 * So many chains of `order`, from `place` on, go into a packed shadow ring, whose end they do not
 * reach. Not in the loop that takes them: either could fill all registers there are.
 */
SPECIALISED void direct_emit(struct packed_ring *backend, const struct inflight *t, uint16_t place,
                             unsigned chains)
{
    for (; chains; chains--) {
        uint16_t head = t->order[place], slot = head;

        for (unsigned n = t->chains[head].slots; n; n--) {
            const struct split_desc d = {.addr = t->desc[slot].addr, .rest = t->desc[slot].rest};

            packed_driver_write(backend, d.addr, d.len, head, d.flags);
            backend->avail.idx++;
            slot = d.next;
        }
        place = inflight_step(t, place);
    }
    packed_come_round(backend, &backend->avail);
}

/* How many slots can be taken at once: there is room, and no end of a ring between them. */
SPECIALISED unsigned direct_limit(const struct svq_relay *relay, const struct forward_plan plan)
{
    const struct packed_ring *guest = &relay->guest.packed, *backend = &relay->backend.packed;
    unsigned limit = relay->guest.split.num;

    if (tracker_left(relay))
        return 0;
    if (plan.guest_packed)
        limit = at_most(packed_device_room(guest), packed_straight(guest, &guest->avail));
    if (plan.backend_packed)
        limit = at_most(limit, packed_straight(backend, &backend->avail));
    return plan.mirrored ? limit : at_most(limit, relay->inflight.free);
}

/* Return: how many were taken. */
SPECIALISED unsigned forward_direct(struct svq_relay *relay, const struct forward_plan plan,
                                    unsigned waiting)
{
    struct relay_ring guest = relay->guest, backend = relay->backend;
    const unsigned limit = direct_limit(relay, plan);
    struct inflight t = relay->inflight;
    struct tracker *tracker = relay->tracker;
    unsigned taken = 0, left = limit;

    if (plan.guest_packed)
        waiting = limit; /* such a ring tells of one chain at a time */
    for (; taken < waiting; taken++) {
        struct direct c = {.block = TABLES_NONE};
        uint16_t entry = 0;

        if (!direct_gather(relay, &guest, &backend, &t, plan, left, &c)) {
            direct_drop(&t, plan, &c);
            break;
        }
        if (tracker && plan.guest_packed)
            entry = tracker_mark_packed(tracker, &relay->guest.packed, guest.packed.avail,
                                        c.guest_slots, c.guest_id);
        else if (tracker)
            tracker_mark_split(tracker, c.guest_id);
        direct_add(&t, plan, &c, entry);
        if (!plan.backend_packed)
            split_driver_put(&backend.split, c.head);
        if (plan.guest_packed)
            guest.packed.avail.idx += c.guest_slots;
        else
            guest.split.avail_idx++;
        left -= c.slots;
    }
    if (!taken)
        return 0;
    if (plan.backend_packed)
        direct_emit(&backend.packed, &t, relay->inflight.order_next, taken);
    if (plan.guest_packed)
        packed_come_round(&guest.packed, &guest.packed.avail);
    relay_ring_keep(&relay->guest, &guest, plan.guest_packed);
    relay_ring_keep(&relay->backend, &backend, plan.backend_packed);
    if (!plan.mirrored)
        t.free -= limit - left;
    inflight_added(&t, taken, limit - left);
    inflight_keep(&relay->inflight, &t);
    relay->inflight.held = t.held;
    relay->inflight.need = 0;
    return taken;
}

#endif
