/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lane.h"

static void count_fault(void *opaque)
{
    struct queue *q = opaque;

    q->faults++;
}

void queue_init(struct queue *q, unsigned num, uint64_t features, uint64_t chains)
{
    memset(q, 0, sizeof(*q));
    kit_memory_init(&q->memory, QUEUE_GPA, QUEUE_SIZE);
    kit_split_at(&q->ring, num, kit_memory_at(&q->memory, QUEUE_GPA, 16 * num),
                 kit_memory_at(&q->memory, QUEUE_GPA + 0x10000, 6 + 2 * num),
                 kit_memory_at(&q->memory, QUEUE_GPA + 0x20000, 6 + 8 * num));
    kit_require(!posix_memalign(&q->shadow_memory, 4096, 0x40000));
    kit_split_at(&q->shadow, num, q->shadow_memory, (char *)q->shadow_memory + 0x10000,
                 (char *)q->shadow_memory + 0x20000);
    q->guest_kick = traffic_event();
    q->guest_call = traffic_event();
    q->backend_kick = traffic_event();
    q->backend_call = traffic_event();
    q->guest = (struct traffic_guest){
        .memory = &q->memory,
        .ring = q->ring,
        .features = features,
        .base = QUEUE_BASE,
        .buffers = QUEUE_BUFFERS,
        .chains = chains,
        .depth = num / 2,
        .batch = num / 2,
        .call = {q->guest_call, -1},
        .seed = 1,
        .kick = q->guest_kick,
    };
    traffic_guest_init(&q->guest);
}

void queue_free(struct queue *q)
{
    traffic_guest_free(&q->guest);
    kit_memory_free(&q->memory);
    free(q->shadow_memory);
    close(q->guest_kick);
    close(q->guest_call);
    close(q->backend_kick);
    close(q->backend_call);
}

void queue_make_relay(struct queue *q, uint16_t base)
{
    struct svq_relay_config config = {
        .num = q->ring.num,
        .features = q->guest.features,
        .guest = kit_split_mem(&q->ring),
        .backend = kit_split_mem(&q->shadow),
        .base = base,
        .map = q->memory.map,
    };

    assert_int_equal(svq_relay_new(&config, &q->relay), 0);
}

void queue_make_lane(struct queue *q, struct svq_engine *engine)
{
    struct svq_lane_config config = {
        .relay = q->relay,
        .guest_kick = q->guest_kick,
        .guest_call = q->guest_call,
        .backend_kick = q->backend_kick,
        .backend_call = q->backend_call,
        .fault = count_fault,
        .opaque = q,
    };

    assert_int_equal(svq_lane_new(engine, &config, &q->lane), 0);
}

void queue_start_backend(struct queue *q, bool shadow, uint16_t base, bool greedy)
{
    q->backend.memory = &q->memory;
    q->backend.ring = shadow ? q->shadow : q->ring;
    q->backend.features = q->guest.features;
    q->backend.base = base;
    q->backend.kick = shadow ? q->backend_kick : q->guest_kick;
    q->backend.call = shadow ? q->backend_call : q->guest_call;
    q->backend.seed = 2;
    q->backend.greedy = greedy;
    traffic_backend_start(&q->backend);
}

void queue_start_shadow(struct queue *q, struct svq_engine *engine, uint16_t base, bool greedy)
{
    queue_make_relay(q, base);
    queue_start_backend(q, true, 0, greedy);
    queue_make_lane(q, engine);
}

struct svq_relay_stats queue_drop_lane(struct queue *q)
{
    struct svq_relay_stats stats;

    svq_lane_free(q->lane);
    svq_relay_stats(q->relay, &stats);
    svq_relay_free(q->relay);
    q->lane = NULL;
    q->relay = NULL;
    return stats;
}

void queue_expect_clean(struct queue *q)
{
    if (q->guest.stalled)
        fail_msg("stalled after %llu of %llu chains: a notification was lost",
                 (unsigned long long)q->guest.done, (unsigned long long)q->guest.chains);
    assert_int_equal(q->guest.errors, 0);
    assert_int_equal(q->backend.errors, 0);
    assert_int_equal(q->guest.done, q->guest.chains);
    assert_int_equal(q->faults, 0);
}

struct svq_engine *queue_new_engine(unsigned workers, unsigned poll_us)
{
    struct svq_engine *engine = NULL;

    assert_int_equal(svq_engine_new(workers, poll_us, &engine), 0);
    assert_non_null(engine);
    return engine;
}

void queue_offer(struct queue *q)
{
    static const struct kit_buf buf = {QUEUE_BUFFERS, 8, false};
    struct kit_chain chain = {&buf, 1, 1, 0, false, NULL};
    struct kit_driver *driver = &q->guest.driver.driver;

    kit_require(driver->ops->add(driver, &chain));
    driver->ops->publish(driver);
}
