/* SPDX-License-Identifier: BSD-3-Clause */
/* A chain from the in-flight table to the shadow ring, where we are the driver. */
#ifndef SVQ_SHADOW_EMIT_H
#define SVQ_SHADOW_EMIT_H

#include "shadow/relay_internal.h"

/* What the back-end is to know of a table that is written for it. */
SPECIALISED struct split_desc emit_reference(const struct tables *tables, uint32_t block,
                                             uint32_t entries)
{
    return (struct split_desc){.addr = tables_addr(tables, block),
                               .len = entries * TABLES_ENTRY,
                               .flags = SPLIT_DESC_F_INDIRECT};
}

/* Write a table how the back-end can read it. */
SPECIALISED void emit_entries(void *shared, const bool packed, const struct split_desc *table,
                              uint32_t entries)
{
    for (uint32_t i = 0; i < entries; i++) {
        const struct split_desc *e = &table[i];

        if (packed) {
            struct packed_desc *p = (struct packed_desc *)shared + i;
            const struct packed_desc d = {.len = e->len, .flags = e->flags & SPLIT_DESC_F_WRITE};

            PACKED_STORE(p->addr, e->addr);
            PACKED_STORE(p->rest, d.rest);
        } else {
            split_write_desc((struct split_desc *)shared + i, e);
        }
    }
}

/* Write the chain's table where the back-end can read it; its one slot refers to that. */
SPECIALISED void emit_table(struct inflight *t, const bool packed, uint16_t head)
{
    const struct inflight_rest *chain = &t->rest[head];
    struct split_desc slot = emit_reference(&t->tables, chain->block, chain->table_len);

    emit_entries(tables_host(&t->tables, chain->block), packed, chain->table, chain->table_len);
    slot.next = t->desc[head].next; /* the link stays */
    inflight_write_desc(t, head, &slot);
}

/* shared: the back-end finds the descriptors in the guest's own table. */
SPECIALISED void emit_split(struct svq_relay *relay, const bool shared, uint16_t head)
{
    const struct inflight *t = &relay->inflight;
    const struct split_desc *from = t->desc;
    struct split_desc *to = relay->backend.split.desc;
    uint16_t slot = head;

    for (unsigned n = shared ? 0 : t->chains[head].slots; n; n--) {
        const struct split_desc d = {.addr = from[slot].addr, .rest = from[slot].rest};

        split_write_desc(&to[slot], &d);
        slot = d.next;
    }
    split_driver_put(&relay->backend.split, head);
}

SPECIALISED void emit_packed(struct svq_relay *relay, uint16_t head)
{
    const struct inflight *t = &relay->inflight;
    struct packed_ring backend = relay->backend.packed; /* in registers meanwhile */
    const struct split_desc *from = t->desc;
    uint16_t slot = head;

    for (unsigned n = t->chains[head].slots; n; n--) {
        const struct split_desc d = {.addr = from[slot].addr, .rest = from[slot].rest};

        packed_driver_put(&backend, d.addr, d.len, head, d.flags);
        slot = d.next;
    }
    packed_ring_keep(&relay->backend.packed, &backend);
}

/* The back-end sees the chain when its batch is published. */
SPECIALISED void emit(struct svq_relay *relay, const bool packed, const bool shared,
                      const enum table_plan tables, uint16_t head)
{
    struct inflight *t = &relay->inflight;

    if (tables == TABLES_CONVERT && !t->chains[head].plain && t->rest[head].table_len)
        emit_table(t, packed, head);
    if (packed)
        emit_packed(relay, head);
    else
        emit_split(relay, shared, head);
}

#endif
