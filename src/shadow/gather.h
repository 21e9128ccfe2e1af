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
    uint64_t bytes;
    uint64_t writable;
    uint32_t lacking; /* pooled: slots that were not to be had */
    uint32_t table;   /* entries in its private table */
    uint16_t head;
    uint16_t last;
    uint16_t slots;
    uint16_t guest_id;
    uint16_t guest_slots;
    uint16_t flags; /* of the last descriptor */

    /* What the table said when this began; in registers, as stores to slots cannot change it. */
    struct near near;
    struct split_desc *desc;
    uint16_t free; /* pooled: they become the table's when the chain does */
    uint16_t free_head;
};

SPECIALISED struct draft gather_begin(const struct inflight *t)
{
    return (struct draft){
        .near = t->near, .desc = t->desc, .free = t->free, .free_head = t->free_head};
}

/* Most buffers lie in the region of the one before. */
SPECIALISED bool gather_near(const struct near *near, uint64_t addr, uint32_t len)
{
    uint64_t left = near->end - addr; /* more than the size, unless it begins in there */

    return !UNLIKELY(left > near->size) && !UNLIKELY(len > left);
}

/* Others are searched for. Return: is the buffer in guest memory? */
SPECIALISED bool gather_far(struct svq_relay *relay, struct draft *draft, uint64_t addr,
                            uint32_t len)
{
    if (!relay_search(relay, addr, len))
        return false;
    draft->near = relay->inflight.near;
    return true;
}

/*
 * One buffer, direct or from a table: the rules of virtio 1.3 sections 2.7.4.2 and 2.8.5.
 * Return: NULL, or what is wrong.
 */
SPECIALISED const char *gather_check(struct svq_relay *relay, struct draft *draft, uint64_t addr,
                                     uint32_t len, uint16_t flags)
{
    if (flags & SPLIT_DESC_F_WRITE)
        draft->writable += len;
    else if (UNLIKELY(draft->flags & SPLIT_DESC_F_WRITE))
        return "readable descriptor after a writable one";
    draft->flags = flags;
    draft->bytes += len;
    if (UNLIKELY(!gather_near(&draft->near, addr, len)) && len &&
        !gather_far(relay, draft, addr, len))
        return "buffer outside guest memory";
    return NULL;
}

/* All its buffers together. No sum of so few can have wrapped. */
SPECIALISED const char *gather_check_sum(const struct draft *draft)
{
    return UNLIKELY(draft->bytes > UINT64_C(1) << 32) ? "chain of more than 2^32 bytes" : NULL;
}

/* Another slot for the chain, filled. mirrored: that of the guest's descriptor `at`. */
SPECIALISED void gather_slot(struct inflight *t, const struct gather_plan plan, struct draft *draft,
                             const struct split_desc *d, uint16_t at)
{
    struct split_desc linked = *d;
    uint16_t slot = at;

    if (plan.mirrored) {
        t->chains[slot].busy = true;
    } else {
        if (UNLIKELY(!draft->free)) {
            draft->lacking++;
            return;
        }
        slot = draft->free_head;
        draft->free_head = linked.next = draft->desc[slot].next; /* the link stays */
        draft->free--;
    }
    draft->desc[slot].addr = linked.addr;
    draft->desc[slot].rest = linked.rest;
    if (!draft->slots++)
        draft->head = slot;
    draft->last = slot;
}

/* ---- Indirect tables --------------------------------------------------------------------- */

/* The table that `d` refers to, in guest memory. Return: NULL, or what is wrong. */
SPECIALISED const char *gather_find_table(struct svq_relay *relay, const struct gather_plan plan,
                                          const struct split_desc *d, const void **shared)
{
    if (plan.tables == TABLES_REFUSE)
        return "INDIRECT descriptor although it was not negotiated";
    if (UNLIKELY(d->flags & SPLIT_DESC_F_NEXT))
        return "INDIRECT descriptor with NEXT";
    if (UNLIKELY(!d->len || d->len % TABLES_ENTRY))
        return "indirect table of a length that is not a multiple of 16";
    if (UNLIKELY(d->len / TABLES_ENTRY > relay->inflight.max_table))
        return "indirect table longer than any chain may be";
    *shared = svq_map_gpa(relay->map, d->addr, d->len);
    if (UNLIKELY(!*shared))
        return "indirect table outside guest memory";
    return NULL;
}

/*
 * The two words of a table's entry, each read once. Unlike a ring, a table may lie at any address
 * (section 2.7.5.3 asks for no alignment).
 */
struct table_entry {
    uint64_t addr;
    uint64_t rest;
};

static inline struct table_entry gather_read_entry(const void *table, uint32_t i)
{
    typedef volatile uint64_t __attribute__((aligned(1), may_alias)) any_word;
    const any_word *words = (const any_word *)table + 2 * (size_t)i;

    return (struct table_entry){words[0], words[1]};
}

static inline struct packed_desc gather_packed_entry(const void *table, uint32_t i)
{
    struct table_entry e = gather_read_entry(table, i);

    return (struct packed_desc){.addr = e.addr, .len = e.rest, .flags = e.rest >> 48};
}

static inline struct split_desc gather_split_entry(const void *table, uint32_t i)
{
    struct table_entry e = gather_read_entry(table, i);

    return (struct split_desc){.addr = e.addr, .rest = e.rest};
}

/*
 * DPDK's driver leaves WRITE at the header of whatever it sends through a packed table, and its
 * back-end never looks. A first entry that is writable before a readable one is meant to be read,
 * and so do back-ends get it that do look.
 */
SPECIALISED bool gather_false_write(const void *table, const struct packed_desc *first,
                                    uint32_t entries)
{
    return entries > 1 && first->flags & PACKED_DESC_F_WRITE &&
           !(gather_packed_entry(table, 1).flags & PACKED_DESC_F_WRITE);
}

/* Entry i of a table, with only the flags that mean something there. */
SPECIALISED struct split_desc gather_entry(const struct gather_plan plan, const void *table,
                                           uint32_t entries, uint32_t i)
{
    struct split_desc d;

    if (plan.guest_packed) {
        /* Section 2.8.7: their order is the table's, and only WRITE means anything. */
        struct packed_desc p = gather_packed_entry(table, i);

        if (UNLIKELY(i == 0) && gather_false_write(table, &p, entries))
            p.flags &= ~PACKED_DESC_F_WRITE;
        p.flags &= SPLIT_DESC_F_WRITE;
        if (i + 1 < entries)
            p.flags |= SPLIT_DESC_F_NEXT;
        d = split_from_packed(&p);
        d.next = i + 1;
        return d;
    }
    return gather_split_entry(table, i);
}

/*
 * Read a table whole, entry by entry, each into a slot or into the private table as planned. The
 * guest may rewrite its table meanwhile: it deceives only itself, because what we decide later
 * rests on our copy. (With TABLES_KEEP the back-end, too, reads what the guest writes.)
 */
SPECIALISED const char *gather_entries(struct svq_relay *relay, const struct gather_plan plan,
                                       struct draft *draft, struct split_desc *copy,
                                       const void *shared, uint32_t entries)
{
    struct inflight *t = &relay->inflight;
    uint32_t i = 0, seen = 0;
    struct split_desc e;

    do {
        const char *fault;

        if (UNLIKELY(i >= entries))
            return "indirect table's next is out of range";
        if (UNLIKELY(seen++ == entries))
            return "indirect table loops";
        e = gather_entry(plan, shared, entries, i);
        if (UNLIKELY(e.flags & SPLIT_DESC_F_INDIRECT))
            return "nested indirect table";
        fault = gather_check(relay, draft, e.addr, e.len, e.flags);
        if (UNLIKELY(fault))
            return fault;
        i = e.next;
        split_relink(&e, SPLIT_DESC_F_WRITE | SPLIT_DESC_F_NEXT, draft->table + 1);
        if (plan.tables == TABLES_FLATTEN) {
            gather_slot(t, plan, draft, &e, 0);
        } else {
            copy[draft->table].addr = e.addr;
            copy[draft->table++].rest = e.rest;
        }
    } while (e.flags & SPLIT_DESC_F_NEXT);
    return NULL;
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

    draft->free += draft->slots;
    draft->free_head = draft->head; /* their links still lead to the others */
    draft->slots = 0;
    gather_slot(t, plan, draft, &d, 0);
}

/* The table that `d` refers to ends the chain. @at: mirrored: the slot */
SPECIALISED const char *gather_table(struct svq_relay *relay, const struct gather_plan plan,
                                     struct draft *draft, struct split_desc *d, uint16_t at)
{
    struct inflight *t = &relay->inflight;
    uint32_t entries = d->len / TABLES_ENTRY;
    bool alone = draft->guest_slots == 1;
    const void *shared = NULL;
    struct split_desc *copy;
    const char *fault = gather_find_table(relay, plan, d, &shared);

    if (UNLIKELY(fault))
        return fault;
    if (plan.tables == TABLES_FLATTEN)
        return gather_entries(relay, plan, draft, NULL, shared, entries);
    d->flags = SPLIT_DESC_F_INDIRECT; /* WRITE means nothing here */
    if (plan.tables == TABLES_KEEP || alone)
        gather_slot(t, plan, draft, d, at);
    if (UNLIKELY(draft->lacking))
        return NULL; /* the private table belongs to the first slot: there may be none */
    if (UNLIKELY(!inflight_reserve(t, draft->head, entries + draft->slots)))
        return "out of memory for an indirect table";
    copy = t->rest[draft->head].table;
    if (plan.tables == TABLES_CONVERT && !alone)
        gather_move_direct(t, draft, copy);
    fault = gather_entries(relay, plan, draft, copy, shared, entries);
    if (plan.tables == TABLES_CONVERT && !alone)
        gather_one_slot(t, plan, draft);
    return fault;
}

/* ---- Chains ------------------------------------------------------------------------------ */

/* The chain that begins at descriptor `i`. */
SPECIALISED const char *gather_split_from(struct svq_relay *relay, const struct gather_plan plan,
                                          struct draft *draft, uint16_t i)
{
    const struct split_ring *r = &relay->guest.split;
    struct inflight *t = &relay->inflight;

    draft->guest_id = i;
    if (UNLIKELY(i >= r->num))
        return "available head is out of range";
    for (;;) {
        const char *fault;
        struct split_desc d;

        if (UNLIKELY(plan.mirrored ? t->chains[i].busy : draft->guest_slots == r->num))
            return "descriptor is in flight already, or its chain loops";
        d = split_read_desc(&r->desc[i]);
        draft->guest_slots++;
        if (UNLIKELY(d.flags & SPLIT_DESC_F_INDIRECT))
            return gather_table(relay, plan, draft, &d, i);
        fault = gather_check(relay, draft, d.addr, d.len, d.flags);
        if (UNLIKELY(fault))
            return fault;
        split_keep_flags(&d, SPLIT_DESC_F_WRITE | SPLIT_DESC_F_NEXT);
        gather_slot(t, plan, draft, &d, i);
        if (!(d.flags & SPLIT_DESC_F_NEXT))
            return NULL;
        if (UNLIKELY(d.next >= r->num))
            return "next descriptor is out of range";
        i = d.next;
    }
}

SPECIALISED const char *gather_split(struct svq_relay *relay, const struct gather_plan plan,
                                     struct draft *draft)
{
    return gather_split_from(relay, plan, draft, split_device_head(&relay->guest.split));
}

SPECIALISED const char *gather_packed(struct svq_relay *relay, const struct gather_plan plan,
                                      struct draft *draft)
{
    const struct packed_ring *r = &relay->guest.packed;
    unsigned room = packed_device_room(r);
    struct packed_place at = r->avail;
    struct split_desc d;

    do {
        struct packed_desc p;
        const char *fault;

        if (UNLIKELY(draft->guest_slots == room))
            return "more descriptors available than are free, or a chain loops";
        p = packed_read_desc(&r->desc[at.idx]);
        if (UNLIKELY(!packed_is_available(p.flags, at.wrap)))
            return "chain has a descriptor that is not available";
        packed_advance(r, &at, 1);
        draft->guest_slots++;
        draft->guest_id = p.id; /* the last one's counts */
        d = split_from_packed(&p);
        if (UNLIKELY(d.flags & PACKED_DESC_F_INDIRECT))
            return gather_table(relay, plan, draft, &d, 0);
        fault = gather_check(relay, draft, d.addr, d.len, d.flags);
        if (UNLIKELY(fault))
            return fault;
        split_keep_flags(&d, SPLIT_DESC_F_WRITE | SPLIT_DESC_F_NEXT);
        gather_slot(&relay->inflight, plan, draft, &d, 0);
    } while (d.flags & SPLIT_DESC_F_NEXT);
    return NULL;
}

/* Nothing of the chain stays. */
SPECIALISED void gather_drop(struct inflight *t, const struct gather_plan plan,
                             const struct draft *draft)
{
    uint16_t slot = draft->head;

    for (unsigned n = plan.mirrored ? draft->slots : 0; n; n--) {
        t->chains[slot].busy = false;
        slot = t->desc[slot].next;
    }
}

/*
 * Is all there that the chain needs? Else remember what it waits for. *fault: when that can never
 * be there.
 */
SPECIALISED bool gather_fits(struct inflight *t, const struct gather_plan plan,
                             const struct draft *draft, uint32_t *block, const char **fault)
{
    *block = TABLES_NONE;
    if (!plan.mirrored && UNLIKELY(draft->lacking)) {
        t->need = draft->slots + draft->lacking;
        if (t->need > t->num)
            *fault = "chain can never fit the back-end's ring";
        return false;
    }
    if (plan.tables == TABLES_CONVERT && draft->table) {
        *block = tables_get(&t->tables, draft->table);
        t->need_block = *block == TABLES_NONE;
        return !t->need_block;
    }
    return true;
}

/* What only a chain of several descriptors has. */
SPECIALISED void gather_rest(struct inflight *t, const struct draft *draft, uint32_t block)
{
    struct inflight_rest *rest = &t->rest[draft->head];

    rest->bytes = draft->bytes;
    rest->writable = draft->writable;
    rest->table_len = draft->table;
    rest->block = block;
    rest->last = draft->last;
    t->held += draft->table;
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
    struct draft draft = gather_begin(t);
    bool plain;
    uint32_t block = TABLES_NONE;
    const char *fault;

    if (plan.guest_packed)
        fault = gather_packed(relay, plan, &draft);
    else
        fault = gather_split(relay, plan, &draft);
    if (!fault)
        fault = gather_check_sum(&draft);
    if (UNLIKELY(fault || !gather_fits(t, plan, &draft, &block, &fault))) {
        gather_drop(t, plan, &draft);
        if (fault)
            relay_fault(relay, SVQ_SIDE_GUEST, fault);
        return false;
    }
    t->need = 0;
    if (!plan.mirrored) {
        t->free = draft.free;
        t->free_head = draft.free_head;
    }
    plain = draft.slots == 1 && !draft.table;
    if (!plain)
        gather_rest(t, &draft, block);
    inflight_add(t, draft.head,
                 (struct inflight_chain){.plain = plain,
                                         .slots = draft.slots,
                                         .guest_slots = draft.guest_slots,
                                         .guest_id = draft.guest_id});
    inflight_added(t, 1, draft.slots);
    if (plan.guest_packed)
        packed_advance(&relay->guest.packed, &relay->guest.packed.avail, draft.guest_slots);
    else
        relay->guest.split.avail_idx++;
    *head = draft.head;
    return true;
}

#endif
