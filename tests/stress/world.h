/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One queue: a guest, a relay, a back-end, and what each of them can do in one step. Who takes a
 * step when is left to the caller: a scheduler in one thread, or three threads.
 *
 * Every request carries its number, and the answer must, too.
 */
#ifndef SVQ_STRESS_WORLD_H
#define SVQ_STRESS_WORLD_H

#include <stdatomic.h>
#include <stdio.h>

#include <shadowvq/relay.h>

#include "kit/ring.h"

#define WORLD_DEPTH    64u /* chains out at the most */
#define WORLD_RING_MAX 256u

struct world_config {
    unsigned combo;
    uint64_t seed;
    bool burst; /* else one chain is out at any time */
};

struct world_chain {
    uint64_t number;
    struct world_chain *next; /* of the free ones */
};

struct world_taken {
    uint16_t id;
    uint32_t len;
};

struct world {
    struct world_config config;
    unsigned num; /* entries of the guest's ring */
    unsigned shadow_num;
    unsigned depth;
    struct kit_memory memory;
    struct kit_ring guest;
    struct kit_ring shadow;
    void *shadow_memory;
    struct svq_relay_tables tables;
    struct kit_driver *driver;
    struct kit_device *device;
    struct svq_relay *relay;
    bool may_share; /* the back-end may have the guest's descriptor table */

    /* The guest's. */
    _Alignas(128) struct kit_rng guest_rng;
    uint64_t offered;
    _Atomic uint64_t done;
    unsigned out;
    struct world_chain chains[WORLD_DEPTH];
    struct world_chain *spare;

    /* The back-end's. */
    _Alignas(128) struct kit_rng backend_rng;
    uint64_t served;
    struct world_taken taken[WORLD_DEPTH];
    unsigned taken_count;

    /* The relay's. */
    _Alignas(128) struct kit_rng relay_rng;

    /* Anyone's: what is broken, and NULL while nothing is. */
    _Alignas(128) const char *_Atomic trouble;
};

/* Once for each process; worlds may then come and go in it. */
void world_memory_init(struct world *world);
void world_memory_free(struct world *world);

/* A queue at rest; sizes, indices and shapes are drawn from the seed. */
void world_start(struct world *world, const struct world_config *config);
void world_stop(struct world *world);

void world_broken(struct world *world, const char *trouble);

/* ---- Steps ------------------------------------------------------------------------------------
 */

/* The guest takes back what is done. Return: how many chains. */
unsigned guest_reap(struct world *world);
/* It adds chains, as many as it likes, but no more than `most` in all. Return: how many. */
unsigned guest_add(struct world *world, uint64_t most);
/* The added ones become visible. Return: whether to kick. */
bool guest_publish(struct world *world);
void guest_ask(struct world *world, bool on);
bool guest_pending(struct world *world);

/* The back-end takes chains and does their work. Return: how many. */
unsigned backend_take(struct world *world);
/* It completes some of those taken. Return: how many. */
unsigned backend_complete(struct world *world);
/* The completions become visible. Return: whether to call. */
bool backend_publish(struct world *world);
void backend_ask(struct world *world, bool on);
bool backend_pending(struct world *world);

/* The relay's turn. Return: as svq_relay_poll(). */
unsigned relay_poll(struct world *world);

/* Everything there is to know about a world that has come to a standstill. */
void world_dump(struct world *world, FILE *out);

#endif
