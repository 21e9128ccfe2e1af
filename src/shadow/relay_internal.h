/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A relay from the inside. Either ring may have either format; which one is never asked while
 * descriptors move: forward.c and complete.c hold one function for each combination that differs,
 * made from one body by the compiler, and svq_relay_new() picks.
 *
 *   inflight.h  the in-flight table
 *   tables.h    indirect tables in the back-end's format
 *   gather.h    a chain from the guest's ring into the in-flight table
 *   emit.h      and from there to the shadow ring
 *   direct.h    both at once, for chains that are simple enough
 *   unread.h    chains of a shared descriptor table, which are not gathered at first
 *   forward.c   new chains: guest to back-end
 *   complete.c  completions: back-end to guest
 *   restart.c   the table's chains to another back-end, after a crash
 *   region.h    the in-flight region: its layout, and what it says
 *   tracker.h   what is in flight, written down there (for each chain: tracker_hot.h)
 *   relay.c     everything that is rare
 */
#ifndef SVQ_SHADOW_RELAY_INTERNAL_H
#define SVQ_SHADOW_RELAY_INTERNAL_H

#include <shadowvq/relay.h>

#include "ring/packed.h"
#include "ring/specialised.h"
#include "ring/split.h"
#include "shadow/inflight.h"

/* What is hardly ever true: faults, and what a full ring leads to. */
#define UNLIKELY(condition) __builtin_expect(!!(condition), 0)

SPECIALISED unsigned at_most(unsigned a, unsigned b)
{
    return a < b ? a : b;
}

/* A packed descriptor in the table's format: made as the words that it is stored in. */
SPECIALISED struct split_desc split_from_packed(const struct packed_desc *p)
{
    return (struct split_desc){.addr = p->addr, .rest = p->len | (uint64_t)p->flags << 32};
}

struct relay_ring {
    bool is_packed;
    union {
        struct split_ring split;
        struct packed_ring packed;
    };
};

/* A batch's own copy of a ring has moved it on. */
SPECIALISED void packed_ring_keep(struct packed_ring *ring, const struct packed_ring *copy)
{
    ring->avail = copy->avail;
    ring->used = copy->used;
    ring->batch = copy->batch;
    ring->first = copy->first;
    ring->first_flags = copy->first_flags;
}

SPECIALISED void relay_ring_keep(struct relay_ring *ring, const struct relay_ring *copy,
                                 const bool packed)
{
    if (packed) {
        packed_ring_keep(&ring->packed, &copy->packed);
    } else {
        ring->split.avail_idx = copy->split.avail_idx;
        ring->split.used_idx = copy->split.used_idx;
    }
}

typedef unsigned relay_step_fn(struct svq_relay *relay);

/* What becomes of indirect tables. */
enum table_plan {
    TABLES_REFUSE,  /* the guest did not negotiate them */
    TABLES_KEEP,    /* the back-end reads the guest's */
    TABLES_CONVERT, /* the back-end reads one in its own format, written by us */
    TABLES_FLATTEN  /* the back-end did not negotiate them: into slots */
};

struct svq_relay {
    struct relay_ring guest;   /* we are its device */
    struct relay_ring backend; /* we are its driver */
    relay_step_fn *forward;
    relay_step_fn *complete;
    struct inflight inflight;
    struct svq_map *map;
    struct tracker *tracker; /* NULL: nobody wants to know what is in flight; see tracker.h */
    enum table_plan table_plan;
    bool plain;      /* the chain taken last was: the next one may be, too */
    bool plain_back; /* the same of those that come back */
    bool shares;     /* see svq_relay_shares() */
    bool hold;

    struct svq_relay_log log;
    enum svq_side fault_side;
    const char *fault;
    struct svq_relay_stats stats;
};

/* In which order completions come and go. */
enum order_plan {
    ORDER_ANY,
    ORDER_BATCHES, /* the back-end negotiated IN_ORDER: in order already, and in batches */
    ORDER_RESTORE  /* only the guest did: we put them in order */
};

/* Are the slots of a relay of this configuration the guest's own? */
bool relay_mirrors(const struct svq_relay_config *config);
/* Of those, does the back-end read the guest's own descriptor table? */
bool relay_shares(const struct svq_relay_config *config);
enum table_plan relay_table_plan(const struct svq_relay_config *config);
enum order_plan relay_order_plan(const struct svq_relay_config *config);

relay_step_fn *relay_forward_fn(const struct svq_relay_config *config);
relay_step_fn *relay_complete_fn(const struct svq_relay_config *config);

/* The first one counts: what goes wrong while its turn ends says less. */
static inline void relay_fault(struct svq_relay *relay, enum svq_side side, const char *reason)
{
    if (relay->fault)
        return;
    relay->fault_side = side;
    relay->fault = reason;
}

/* Is the buffer in guest memory? Remembers where. */
bool relay_search(struct svq_relay *relay, uint64_t addr, uint32_t len);

/* The guest's ring was written from the used index or place `from` on; mark it in the log. */
void relay_log_used(struct svq_relay *relay, const struct svq_ring_index *from);

#endif
