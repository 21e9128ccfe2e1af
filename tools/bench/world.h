/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A relay with everything around it: guest memory, both rings, their ends, a dirty log. All of it
 * belongs to one thread, which plays guest, relay and back-end in turn; the relay's part it may
 * have done by another one.
 */
#ifndef SVQ_BENCH_WORLD_H
#define SVQ_BENCH_WORLD_H

#include <shadowvq/relay.h>

#include "clock.h"
#include "ends.h"
#include "hand.h"

struct bench_world_config {
    unsigned num;              /* entries of the guest's ring; a power of two */
    uint64_t guest_features;   /* of SVQ_RELAY_FEATURES */
    uint64_t backend_features; /* of SVQ_RELAY_FEATURES */
    struct bench_shape shape;
    bool reverse; /* the back-end completes each batch in reverse */
    bool share;   /* the relay may have the back-end read the guest's descriptors */
    bool log;     /* a dirty log is written */
    struct bench_hand
        *hand; /* the relay's turns are taken by it; NULL: by whoever plays the ends */
};

struct bench_world;

/* A world at rest. Return: 0 or -errno. */
int bench_world_new(const struct bench_world_config *config, struct bench_world **out);
void bench_world_free(struct bench_world *world);

/* What a slot found, without the ends' time and the clock's own. */
struct bench_sample {
    uint64_t buffers;
    double forward; /* ticks, all buffers together */
    double back;
};

/**
 * bench_world_slot() - relay batches of `batch` buffers for about slot_ns.
 *
 * An unmeasured round over the whole ring comes first, so that caches and branch predictors know
 * this world again.
 *
 * Return: 0, or -EPROTO: something is broken; bench_world_trouble() says what.
 */
int bench_world_slot(struct bench_world *world, unsigned batch, uint64_t slot_ns,
                     const struct bench_clock *clock, struct bench_sample *sample);

/*
 * Relay the whole ring once, in batches, without a look at the clock: the same steps whenever it is
 * called. The log is clear at the beginning. Return: as above.
 */
int bench_world_lap(struct bench_world *world, unsigned batch);
/* Buffers of a lap: as many as it takes to fill the ring, in whole batches. */
unsigned bench_world_lap_buffers(const struct bench_world *world, unsigned batch);

const char *bench_world_trouble(const struct bench_world *world);

#endif
