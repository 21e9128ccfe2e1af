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

#define EVENT_IDX SVQ_BIT(SVQ_F_EVENT_IDX)

/* The guest's first index; a wrap is near. */
#define QUEUE_BASE 65500

/* Guest memory of one queue: the ring's parts, then a page of buffers for each chain. */
#define QUEUE_GPA     UINT64_C(0x40000000)
#define QUEUE_BUFFERS (QUEUE_GPA + 0x40000)
#define QUEUE_SIZE    UINT64_C(0x800000)

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
    struct kit_split ring;
    struct kit_split shadow;
    void *shadow_memory;
    struct traffic_guest guest;
    struct traffic_backend backend;
    struct svq_relay *relay;
    struct svq_lane *lane;
    int guest_kick, guest_call, backend_kick, backend_call;
    unsigned faults; /* as told to the control thread */
};

/* A queue whose guest will send so many chains; nothing runs yet. */
void queue_init(struct queue *q, unsigned num, uint64_t features, uint64_t chains);
void queue_free(struct queue *q);

void queue_make_relay(struct queue *q, uint16_t base);
void queue_make_lane(struct queue *q, struct svq_engine *engine);
/* Relay, lane and a back-end on the shadow ring. */
void queue_start_shadow(struct queue *q, struct svq_engine *engine, uint16_t base, bool greedy);
/* A back-end on the shadow ring or on the guest's own. */
void queue_start_backend(struct queue *q, bool shadow, uint16_t base, bool greedy);
/* Return: what the relay counted. */
struct svq_relay_stats queue_drop_lane(struct queue *q);

/* The guest offers a chain, without a kick. */
void queue_offer(struct queue *q);

/* All chains came through, and nothing went wrong on the way. */
void queue_expect_clean(struct queue *q);

struct svq_engine *queue_new_engine(unsigned workers, unsigned poll_us);

#endif
