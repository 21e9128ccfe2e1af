/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Guest, relay and back-end of one queue, with everything that outlives the relay's process in
 * memory that is shared with it: the guest's ring, the in-flight region, the shadow ring. Requests
 * are numbered as the guest makes them. Whatever goes wrong ends the process (kit_require()).
 */
#ifndef SVQ_TESTS_KIT_STAGE_H
#define SVQ_TESTS_KIT_STAGE_H

#include <shadowvq/inflight.h>

#include "region.h"

#define STAGE_REQUESTS 96u     /* at most */
#define STAGE_KEPT     0x3000u /* bytes of guest memory: the ring */
#define STAGE_SHARED   0x80000u

struct stage_side {
    unsigned num;
    uint64_t features;
};

struct stage {
    struct stage_side side[2]; /* guest, back-end */
    unsigned entries;          /* of the part */
    bool share;                /* may the relay; to be set before it starts */
    struct kit_memory memory;
    struct kit_rng rng;

    /* What outlives the relay. */
    struct kit_ring guest;
    uint8_t *shared; /* the rest of it: */
    uint8_t *part;
    struct kit_ring shadow;
    struct svq_relay_tables tables;

    struct svq_relay *relay;
    uint32_t base; /* for the next one */
    struct kit_driver *driver;
    struct kit_device *device;

    unsigned offered;
    bool got[STAGE_REQUESTS];      /* the guest has it back, */
    bool finished[STAGE_REQUESTS]; /* and a back-end has said so */
    struct {
        uint16_t id;
        unsigned request;
    } taken[STAGE_REQUESTS]; /* by the present back-end, not completed */
    unsigned taken_count;
    unsigned seen; /* requests that any back-end has seen */
};

/* What outlives the relay, at some moment. */
struct stage_snapshot {
    uint8_t ring[STAGE_KEPT];
    uint8_t shared[STAGE_SHARED];
};

void stage_open(struct stage *s, uint64_t guest, uint64_t backend, uint64_t seed);
void stage_close(struct stage *s);

void stage_save(const struct stage *s, struct stage_snapshot *to);
void stage_restore(struct stage *s, const struct stage_snapshot *from);
/* In what anybody else may look at. */
bool stage_changed(const struct stage *s, const struct stage_snapshot *since);

/* The guest: a request more, if there is room; take back what is done. */
bool stage_offer(struct stage *s);
void stage_reap(struct stage *s);
/* The request whose buffers are there. */
unsigned stage_request_at(uint64_t addr);

/* Another back-end on the shadow ring; it takes a request, if there is one; it completes some. */
void stage_attach(struct stage *s);
bool stage_take(struct stage *s);
void stage_finish(struct stage *s);

/* The relay's steps. */
void stage_start(struct stage *s);
void stage_turn(struct stage *s);
void stage_restart(struct stage *s);
void stage_detach(struct stage *s);

#endif
