/* SPDX-License-Identifier: BSD-3-Clause */
/* A chain from the in-flight table to the shadow ring, where we are the driver. */
#ifndef SVQ_SHADOW_EMIT_H
#define SVQ_SHADOW_EMIT_H

#include "shadow/relay_internal.h"

/* Write the chain's table where and how the back-end can read it; its one slot refers to that. */
SPECIALISED void emit_table(struct inflight *t, const bool packed, uint16_t head)
{
    const struct inflight_chain *chain = &t->chains[head];
    void *shared = tables_host(&t->tables, chain->block);
    struct split_desc *slot = &t->desc[head];

    for (uint32_t i = 0; i < chain->table_len; i++) {
        const struct split_desc *e = &chain->table[i];

        if (packed) {
            struct packed_desc *p = (struct packed_desc *)shared + i;

            PACKED_STORE(p->addr, e->addr);
            PACKED_STORE(p->len, e->len);
            PACKED_STORE(p->id, 0);
            PACKED_STORE(p->flags, e->flags & SPLIT_DESC_F_WRITE);
        } else {
            split_write_desc((struct split_desc *)shared + i, e);
        }
    }
    slot->addr = tables_addr(&t->tables, chain->block);
    slot->len = chain->table_len * TABLES_ENTRY;
}

SPECIALISED void emit_split(struct svq_relay *relay, uint16_t head)
{
    const struct inflight *t = &relay->inflight;
    uint16_t slot = head;

    for (unsigned n = t->chains[head].slots; n; n--) {
        split_write_desc(&relay->backend.split.desc[slot], &t->desc[slot]);
        slot = t->desc[slot].next;
    }
    split_driver_put(&relay->backend.split, head);
}

SPECIALISED void emit_packed(struct svq_relay *relay, uint16_t head)
{
    const struct inflight *t = &relay->inflight;
    uint16_t slot = head;

    for (unsigned n = t->chains[head].slots; n; n--) {
        const struct split_desc *d = &t->desc[slot];

        packed_driver_put(&relay->backend.packed, d->addr, d->len, head, d->flags);
        slot = d->next;
    }
}

/* The back-end sees the chain when its batch is published. */
SPECIALISED void emit(struct svq_relay *relay, const bool packed, const enum table_plan tables,
                      uint16_t head)
{
    struct inflight *t = &relay->inflight;

    if (tables == TABLES_CONVERT && t->chains[head].table_len)
        emit_table(t, packed, head);
    if (packed)
        emit_packed(relay, head);
    else
        emit_split(relay, head);
}

#endif
