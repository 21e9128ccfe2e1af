/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A chain from the guest's ring into the in-flight table: every descriptor is read once, and the
 * copy is checked. Nothing is in flight unless the whole chain is good and there is room for it.
 */
#ifndef SVQ_SHADOW_GATHER_H
#define SVQ_SHADOW_GATHER_H

#include "shadow/relay_internal.h"

/* What is constant for a relay. */
struct gather_plan {
    bool guest_packed;
    bool mirrored;
    enum table_plan tables;
};

/* A chain being taken. */
struct draft {
    const char *fault;
    uint64_t bytes;
    uint64_t writable;
    uint32_t lacking; /* pooled: slots that were not to be had */
    uint32_t table;   /* entries in its private table */
    uint16_t head;
    uint16_t last;
    uint16_t slots;
    uint16_t guest_id;
    uint16_t guest_slots;
    bool write_seen;
};

/* One buffer, direct or from a table: the rules of virtio 1.3 sections 2.7.4.2 and 2.8.5. */
SPECIALISED bool gather_check(struct svq_relay *relay, struct draft *draft, uint64_t addr,
                              uint32_t len, uint16_t flags)
{
    if (flags & SPLIT_DESC_F_WRITE) {
        draft->write_seen = true;
        draft->writable += len;
    } else if (draft->write_seen) {
        draft->fault = "readable descriptor after a writable one";
        return false;
    }
    draft->bytes += len;
    if (draft->bytes > UINT64_C(1) << 32) {
        draft->fault = "chain of more than 2^32 bytes";
        return false;
    }
    if (len && !svq_map_holds(relay->map, addr, len, &relay->inflight.hint)) {
        draft->fault = "buffer outside guest memory";
        return false;
    }
    return true;
}

/* Another slot for the chain, filled. mirrored: that of the guest's descriptor `at`. */
SPECIALISED void gather_slot(struct inflight *t, const struct gather_plan plan, struct draft *draft,
                             const struct split_desc *d, uint16_t at)
{
    uint16_t slot = at;

    if (plan.mirrored) {
        t->busy[slot] = true;
        t->desc[slot] = *d;
    } else {
        if (!t->free) {
            draft->lacking++;
            return;
        }
        slot = inflight_get_slot(t);
        t->desc[slot].addr = d->addr;
        t->desc[slot].len = d->len;
        t->desc[slot].flags = d->flags;
    }
    if (!draft->slots++)
        draft->head = slot;
    draft->last = slot;
}

/* ---- Indirect tables --------------------------------------------------------------------- */

/* The table that `d` refers to, in guest memory; NULL after a fault. */
SPECIALISED const void *gather_find_table(struct svq_relay *relay, const struct gather_plan plan,
                                          struct draft *draft, const struct split_desc *d)
{
    const struct inflight *t = &relay->inflight;
    const void *shared;

    if (plan.tables == TABLES_REFUSE)
        draft->fault = "INDIRECT descriptor although it was not negotiated";
    else if (d->flags & SPLIT_DESC_F_NEXT)
        draft->fault = "INDIRECT descriptor with NEXT";
    else if (!d->len || d->len % TABLES_ENTRY)
        draft->fault = "indirect table of a length that is not a multiple of 16";
    else if (d->len / TABLES_ENTRY > t->max_table)
        draft->fault = "indirect table longer than any chain may be";
    if (draft->fault)
        return NULL;
    shared = svq_map_gpa(relay->map, d->addr, d->len);
    if (!shared)
        draft->fault = "indirect table outside guest memory";
    return shared;
}

/*
 * DPDK's driver leaves WRITE at the header of whatever it sends through a packed table, and its
 * back-end never looks. A first entry that is writable before a readable one is meant to be read,
 * and so do back-ends get it that do look.
 */
SPECIALISED bool gather_false_write(const struct packed_desc *table, uint32_t entries)
{
    return entries > 1 && PACKED_LOAD(table[0].flags) & PACKED_DESC_F_WRITE &&
           !(PACKED_LOAD(table[1].flags) & PACKED_DESC_F_WRITE);
}

/* Entry i of a table, with only the flags that mean something there. */
SPECIALISED struct split_desc gather_entry(const struct gather_plan plan, const void *table,
                                           uint32_t entries, uint32_t i)
{
    if (plan.guest_packed) {
        /* Section 2.8.7: their order is the table's, and only WRITE means anything. */
        struct packed_desc p = packed_read_desc(&((const struct packed_desc *)table)[i]);

        if (i == 0 && gather_false_write(table, entries))
            p.flags &= ~PACKED_DESC_F_WRITE;
        return (struct split_desc){
            .addr = p.addr,
            .len = p.len,
            .flags = (p.flags & SPLIT_DESC_F_WRITE) | (i + 1 < entries ? SPLIT_DESC_F_NEXT : 0),
            .next = i + 1,
        };
    }
    return split_read_desc(&((const struct split_desc *)table)[i]);
}

/*
 * Read a table whole, entry by entry, each into a slot or into the private table as planned. The
 * guest may rewrite its table meanwhile: it deceives only itself, because what we decide later
 * rests on our copy. (With TABLES_KEEP the back-end, too, reads what the guest writes.)
 */
SPECIALISED void gather_entries(struct svq_relay *relay, const struct gather_plan plan,
                                struct draft *draft, struct split_desc *copy, const void *shared,
                                uint32_t entries)
{
    struct inflight *t = &relay->inflight;
    uint32_t i = 0, seen = 0;
    struct split_desc e;

    do {
        if (i >= entries) {
            draft->fault = "indirect table's next is out of range";
            return;
        }
        if (seen++ == entries) {
            draft->fault = "indirect table loops";
            return;
        }
        e = gather_entry(plan, shared, entries, i);
        if (e.flags & SPLIT_DESC_F_INDIRECT) {
            draft->fault = "nested indirect table";
            return;
        }
        if (!gather_check(relay, draft, e.addr, e.len, e.flags))
            return;
        i = e.next;
        e.flags &= SPLIT_DESC_F_WRITE | SPLIT_DESC_F_NEXT;
        if (plan.tables == TABLES_FLATTEN) {
            gather_slot(t, plan, draft, &e, 0);
        } else {
            e.next = draft->table + 1;
            copy[draft->table++] = e;
        }
    } while (e.flags & SPLIT_DESC_F_NEXT);
}

/* Direct descriptors before a table that is converted become its first entries. */
SPECIALISED void gather_move_direct(struct inflight *t, struct draft *draft,
                                    struct split_desc *copy)
{
    uint16_t slot = draft->head;

    for (; draft->table < draft->slots; draft->table++) {
        copy[draft->table] = t->desc[slot];
        copy[draft->table].flags |= SPLIT_DESC_F_NEXT;
        copy[draft->table].next = draft->table + 1;
        slot = t->desc[slot].next;
    }
}

/* A table that is converted needs one slot, whatever came before it. */
SPECIALISED void gather_one_slot(struct inflight *t, const struct gather_plan plan,
                                 struct draft *draft)
{
    struct split_desc d = {.flags = SPLIT_DESC_F_INDIRECT};

    inflight_unget_slots(t, draft->head, draft->slots);
    draft->slots = 0;
    gather_slot(t, plan, draft, &d, 0);
}

/* The table that `d` refers to ends the chain. @at: mirrored: the slot */
SPECIALISED void gather_table(struct svq_relay *relay, const struct gather_plan plan,
                              struct draft *draft, struct split_desc *d, uint16_t at)
{
    struct inflight *t = &relay->inflight;
    const void *shared = gather_find_table(relay, plan, draft, d);
    uint32_t entries = d->len / TABLES_ENTRY;
    bool alone = draft->guest_slots == 1;
    struct inflight_chain *chain;

    if (!shared)
        return;
    if (plan.tables == TABLES_FLATTEN) {
        gather_entries(relay, plan, draft, NULL, shared, entries);
        return;
    }
    d->flags = SPLIT_DESC_F_INDIRECT; /* WRITE means nothing here */
    if (plan.tables == TABLES_KEEP || alone)
        gather_slot(t, plan, draft, d, at);
    if (draft->lacking)
        return; /* the private table belongs to the first slot: there may be none */
    chain = &t->chains[draft->head];
    if (!inflight_reserve(t, chain, entries + draft->slots)) {
        draft->fault = "out of memory for an indirect table";
        return;
    }
    if (plan.tables == TABLES_CONVERT && !alone)
        gather_move_direct(t, draft, chain->table);
    gather_entries(relay, plan, draft, chain->table, shared, entries);
    if (plan.tables == TABLES_CONVERT && !alone)
        gather_one_slot(t, plan, draft);
}

/* ---- Chains ------------------------------------------------------------------------------ */

SPECIALISED void gather_split(struct svq_relay *relay, const struct gather_plan plan,
                              struct draft *draft)
{
    const struct split_ring *r = &relay->guest.split;
    struct inflight *t = &relay->inflight;
    uint16_t i = split_device_head(r, 0);

    draft->guest_id = i;
    if (i >= r->num) {
        draft->fault = "available head is out of range";
        return;
    }
    for (;;) {
        struct split_desc d;

        if (plan.mirrored ? t->busy[i] : draft->guest_slots == r->num) {
            draft->fault = "descriptor is in flight already, or its chain loops";
            return;
        }
        d = split_read_desc(&r->desc[i]);
        draft->guest_slots++;
        if (d.flags & SPLIT_DESC_F_INDIRECT) {
            gather_table(relay, plan, draft, &d, i);
            return;
        }
        if (!gather_check(relay, draft, d.addr, d.len, d.flags))
            return;
        d.flags &= SPLIT_DESC_F_WRITE | SPLIT_DESC_F_NEXT;
        gather_slot(t, plan, draft, &d, i);
        if (!(d.flags & SPLIT_DESC_F_NEXT))
            return;
        if (d.next >= r->num) {
            draft->fault = "next descriptor is out of range";
            return;
        }
        i = d.next;
    }
}

SPECIALISED void gather_packed(struct svq_relay *relay, const struct gather_plan plan,
                               struct draft *draft)
{
    const struct packed_ring *r = &relay->guest.packed;
    unsigned room = packed_device_room(r);
    struct packed_place at = r->avail;
    struct split_desc d;

    do {
        struct packed_desc p;

        if (draft->guest_slots == room) {
            draft->fault = "more descriptors available than are free, or a chain loops";
            return;
        }
        p = packed_read_desc(&r->desc[at.idx]);
        if (!packed_is_available(p.flags, at.wrap)) {
            draft->fault = "chain has a descriptor that is not available";
            return;
        }
        packed_advance(r, &at, 1);
        draft->guest_slots++;
        draft->guest_id = p.id; /* the last one's counts */
        d = (struct split_desc){.addr = p.addr, .len = p.len, .flags = p.flags};
        if (d.flags & PACKED_DESC_F_INDIRECT) {
            gather_table(relay, plan, draft, &d, 0);
            return;
        }
        if (!gather_check(relay, draft, d.addr, d.len, d.flags))
            return;
        d.flags &= SPLIT_DESC_F_WRITE | SPLIT_DESC_F_NEXT;
        gather_slot(&relay->inflight, plan, draft, &d, 0);
    } while (d.flags & SPLIT_DESC_F_NEXT);
}

/* Nothing of the chain stays. */
SPECIALISED void gather_drop(struct inflight *t, const struct gather_plan plan,
                             const struct draft *draft)
{
    uint16_t slot = draft->head;

    if (!plan.mirrored) {
        inflight_unget_slots(t, draft->head, draft->slots);
        return;
    }
    for (unsigned n = draft->slots; n; n--) {
        t->busy[slot] = false;
        slot = t->desc[slot].next;
    }
}

/* Is all there that the chain needs? Else remember what it waits for. */
SPECIALISED bool gather_fits(struct inflight *t, const struct gather_plan plan, struct draft *draft,
                             uint32_t *block)
{
    *block = TABLES_NONE;
    if (!plan.mirrored && draft->lacking) {
        t->need = draft->slots + draft->lacking;
        if (t->need > t->num)
            draft->fault = "chain can never fit the back-end's ring";
        return false;
    }
    if (plan.tables == TABLES_CONVERT && draft->table) {
        *block = tables_get(&t->tables, draft->table);
        t->need_block = *block == TABLES_NONE;
        return !t->need_block;
    }
    return true;
}

/**
 * gather() - take the guest's next chain, which must be there.
 *
 * Return: is one more in flight, with its first slot in *head? Otherwise it waits for room, or the
 * relay has a fault.
 */
SPECIALISED bool gather(struct svq_relay *relay, const struct gather_plan plan, uint16_t *head)
{
    struct inflight *t = &relay->inflight;
    struct draft draft = {0};
    struct inflight_chain *chain;
    uint32_t block = TABLES_NONE;

    if (plan.guest_packed)
        gather_packed(relay, plan, &draft);
    else
        gather_split(relay, plan, &draft);
    if (draft.fault || !gather_fits(t, plan, &draft, &block)) {
        gather_drop(t, plan, &draft);
        if (draft.fault)
            relay_fault(relay, SVQ_SIDE_GUEST, draft.fault);
        return false;
    }
    t->need = 0;
    chain = &t->chains[draft.head];
    chain->bytes = draft.bytes;
    chain->writable = draft.writable;
    chain->table_len = draft.table;
    chain->block = block;
    chain->slots = draft.slots;
    chain->last = draft.last;
    chain->guest_id = draft.guest_id;
    chain->guest_slots = draft.guest_slots;
    inflight_add(t, draft.head);
    if (plan.guest_packed)
        packed_advance(&relay->guest.packed, &relay->guest.packed.avail, draft.guest_slots);
    else
        relay->guest.split.avail_idx++;
    *head = draft.head;
    return true;
}

#endif
