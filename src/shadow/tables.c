/* SPDX-License-Identifier: BSD-3-Clause */
#include "shadow/tables.h"

#include <errno.h>
#include <stdlib.h>

/* Entries for each slot of the ring, up to a limit: room for all but unusual loads. */
#define ENTRIES_PER_SLOT 16u
#define ENTRIES_AMPLE    65536u

static uint32_t power_of_two(uint32_t value)
{
    uint32_t power = TABLES_UNIT;

    while (power < value)
        power *= 2;
    return power;
}

static unsigned order_for(uint32_t entries)
{
    unsigned order = 0;

    while (TABLES_UNIT << order < entries)
        order++;
    return order;
}

uint32_t tables_entries(unsigned num, uint32_t longest)
{
    uint32_t ample = num * ENTRIES_PER_SLOT;

    if (ample > ENTRIES_AMPLE)
        ample = ENTRIES_AMPLE;
    return power_of_two(ample > longest ? ample : longest);
}

static void push(struct tables *t, uint32_t unit, unsigned order)
{
    t->order[unit] = order | TABLES_FREE;
    t->next[unit] = t->free[order];
    t->free[order] = unit;
}

int tables_init(struct tables *t, const struct svq_relay_tables *area, uint32_t entries)
{
    *t = (struct tables){0};
    if (!entries)
        return 0;
    if (!area->host || area->addr % TABLES_ENTRY || area->size / TABLES_ENTRY < entries)
        return -EINVAL;
    t->host = area->host;
    t->addr = area->addr;
    t->units = entries / TABLES_UNIT;
    t->orders = order_for(entries) + 1;
    t->next = calloc(t->units, sizeof(*t->next));
    t->order = calloc(t->units, sizeof(*t->order));
    if (!t->next || !t->order) {
        tables_fini(t);
        return -ENOMEM;
    }
    for (unsigned i = 0; i < TABLES_ORDERS; i++)
        t->free[i] = TABLES_NONE;
    push(t, 0, t->orders - 1);
    return 0;
}

void tables_fini(struct tables *t)
{
    free(t->next);
    free(t->order);
    *t = (struct tables){0};
}

/* Take a block from the lists, splitting the smallest one that is large enough. */
static uint32_t take(struct tables *t, unsigned order)
{
    unsigned from = order;
    uint32_t unit;

    while (from < t->orders && t->free[from] == TABLES_NONE)
        from++;
    if (from >= t->orders)
        return TABLES_NONE;
    unit = t->free[from];
    t->free[from] = t->next[unit];
    while (from > order) {
        from--;
        push(t, unit + (1u << from), from);
    }
    t->order[unit] = order;
    return unit;
}

/*
 * Join free neighbours of one size, smallest sizes first. A block begins at a multiple of its size,
 * so its neighbour's record lies in the unit next to it; what lies inside a joined block is stale.
 */
static void merge(struct tables *t)
{
    for (unsigned order = 0; order + 1 < t->orders; order++) {
        uint32_t size = 1u << order, list = t->free[order], joined = TABLES_NONE;

        t->free[order] = TABLES_NONE;
        for (; list != TABLES_NONE;) {
            uint32_t unit = list, buddy = unit ^ size;

            list = t->next[unit];
            if (t->order[unit] != (order | TABLES_FREE))
                continue; /* its neighbour has taken it in */
            if (buddy < t->units && t->order[buddy] == (order | TABLES_FREE)) {
                /* Through this one's link, since the neighbour's still leads on in this list. */
                t->order[unit] = t->order[buddy] = 0;
                t->next[unit] = joined;
                joined = unit;
            } else {
                push(t, unit, order);
            }
        }
        while (joined != TABLES_NONE) {
            uint32_t unit = joined;

            joined = t->next[unit];
            push(t, unit & ~size, order + 1);
        }
    }
    t->scattered = false;
}

uint32_t tables_get(struct tables *t, uint32_t entries)
{
    unsigned order = order_for(entries);
    uint32_t unit = take(t, order);

    if (unit == TABLES_NONE && t->scattered) {
        merge(t);
        unit = take(t, order);
    }
    return unit;
}

void tables_put(struct tables *t, uint32_t unit)
{
    push(t, unit, t->order[unit]);
    t->scattered = true;
}
