/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Memory for the indirect tables that we write ourselves, because guest and back-end write theirs
 * in different formats: part of the shadow rings' region, so the back-end sees it.
 *
 * A buddy allocator that merges lazily: tables of one size come and go without any splitting, and
 * neighbours are joined again only when a request cannot be met. Its own records are private; the
 * back-end may scribble over the tables without harm to us.
 */
#ifndef SVQ_SHADOW_TABLES_H
#define SVQ_SHADOW_TABLES_H

#include <stdbool.h>
#include <stdint.h>

#include <shadowvq/relay.h>

#define TABLES_ENTRY  16u /* bytes of a descriptor, in either format */
#define TABLES_UNIT   8u  /* entries of the smallest block */
#define TABLES_ORDERS 16u
#define TABLES_NONE   UINT32_MAX

struct tables {
    uint8_t *host;
    uint64_t addr;                /* as the back-end knows it */
    uint32_t units;               /* in the whole area; 0: there is none */
    unsigned orders;              /* sizes of blocks; the largest is the whole area */
    bool scattered;               /* something was given back since the last merge */
    uint32_t free[TABLES_ORDERS]; /* first free block of each size, in units */
    uint32_t *next;               /* [units] the next free block of that size */
    uint8_t *order;               /* [units] of the block that begins there, and TABLES_FREE */
};

#define TABLES_FREE 0x80u

/* Entries that such an area has to have so that every table up to `longest` fits. */
uint32_t tables_entries(unsigned num, uint32_t longest);

/* Return: 0; -EINVAL when it is smaller than `entries`; -ENOMEM. entries 0: no area. */
int tables_init(struct tables *t, const struct svq_relay_tables *area, uint32_t entries);
void tables_fini(struct tables *t);

/*
 * The same blocks in another area, as if they had always been there; what they contain is not
 * copied.
 */
static inline void tables_move(struct tables *t, const struct svq_relay_tables *area)
{
    t->host = area->host;
    t->addr = area->addr;
}

/* Would the blocks fit there? */
static inline bool tables_fit(const struct tables *t, const struct svq_relay_tables *area)
{
    if (!t->units)
        return true;
    return area && area->host && area->addr % TABLES_ENTRY == 0 &&
           area->size / TABLES_ENTRY / TABLES_UNIT >= t->units;
}

/* A block of at least that many entries. Return: its first unit, or TABLES_NONE. */
uint32_t tables_get(struct tables *t, uint32_t entries);
void tables_put(struct tables *t, uint32_t unit);

static inline void *tables_host(const struct tables *t, uint32_t unit)
{
    return t->host + (uint64_t)unit * TABLES_UNIT * TABLES_ENTRY;
}

static inline uint64_t tables_addr(const struct tables *t, uint32_t unit)
{
    return t->addr + (uint64_t)unit * TABLES_UNIT * TABLES_ENTRY;
}

#endif
