/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One queue with everything around it: traffic at both ends, a relay, a lane on an engine. For use
 * inside cmocka tests: it asserts.
 */
#ifndef SVQ_TESTS_KIT_LANE_H
#define SVQ_TESTS_KIT_LANE_H

#include <shadowvq/relay.h>
#include <shadowvq/vhost_user.h>

#include "engine/engine.h"
#include "traffic.h"

/* Guest memory of one queue: the ring's areas, then a page of buffers for each chain. */
#define QUEUE_GPA     UINT64_C(0x40000000)
#define QUEUE_BUFFERS (QUEUE_GPA + 0x40000)
#define QUEUE_SIZE    UINT64_C(0x800000)
/* Where the back-end finds the relay's tables: no guest memory there. */
#define QUEUE_TABLES (UINT64_C(1) << 44)

/* ThreadSanitizer slows everything down by an order of magnitude. */
#if defined(__SANITIZE_THREAD__)
#define SLOWER 10
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SLOWER 10
#endif
#endif
#ifndef SLOWER
#define SLOWER 1
#endif

struct queue {
    struct kit_memory memory;
    struct kit_ring ring;
    struct kit_ring shadow;
    void *shadow_memory;
    struct svq_relay_tables tables;
    uint64_t backend_features;
    uint32_t base; /* the guest's first index; a wrap is near */
    bool share;    /* may the relay; to be set before it is made */
    bool shared;   /* and it does */
    struct traffic_guest guest;
    struct traffic_backend backend;
    struct svq_relay *relay;
    struct svq_lane *lane;
    int guest_kick, guest_call, backend_kick, backend_call;
    unsigned faults; /* as told to the control thread */
};

/* A queue whose guest will send so many chains; nothing runs yet. Both sides have the features. */
void queue_init(struct queue *q, unsigned num, uint64_t features, uint64_t chains);
/* The same with features for each side. */
void queue_init_sides(struct queue *q, unsigned num, uint64_t guest, uint64_t backend,
                      uint64_t chains);
void queue_free(struct queue *q);

void queue_make_relay(struct queue *q, uint32_t base);
void queue_make_lane(struct queue *q, struct svq_engine *engine);
/* Relay, lane and a back-end on the shadow ring. */
void queue_start_shadow(struct queue *q, struct svq_engine *engine, uint32_t base, bool greedy);
/* A back-end on the shadow ring or on the guest's own. */
void queue_start_backend(struct queue *q, bool shadow, uint32_t base, bool greedy);
/* Return: what the relay counted. */
struct svq_relay_stats queue_drop_lane(struct queue *q);

/* The guest offers a chain, without a kick. */
void queue_offer(struct queue *q);
/* How many chains of one descriptor, as queue_offer() makes them, have reached the shadow ring. */
unsigned queue_arrived(struct queue *q);
/* Does the relay want kicks from the guest, and calls from the back-end? Any but DISABLE. */
bool queue_wants_kicks(const struct queue *q);
bool queue_wants_calls(const struct queue *q);
/* Break a rule: more chains than there are entries; a used entry although nothing is out. */
void queue_break_guest(struct queue *q);
void queue_break_backend(struct queue *q);

/* All chains came through, and nothing went wrong on the way. */
void queue_expect_clean(struct queue *q);

struct svq_engine *queue_new_engine(unsigned workers, unsigned poll_us);

#endif
