/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#include "lane.h"
#include "packed.h"
#include "split.h"

static void count_fault(void *opaque)
{
    struct queue *q = opaque;

    q->faults++;
}

void queue_init_sides(struct queue *q, unsigned num, uint64_t guest, uint64_t backend,
                      uint64_t chains)
{
    enum svq_ring_format format = svq_ring_format(backend);

    memset(q, 0, sizeof(*q));
    kit_memory_init(&q->memory, QUEUE_GPA, QUEUE_SIZE);
    q->ring = kit_ring_in(&q->memory, svq_ring_format(guest), num, QUEUE_GPA, QUEUE_GPA + 0x10000,
                          QUEUE_GPA + 0x20000);
    q->shadow = kit_ring_alloc(format, svq_relay_shadow_num(format, num), &q->shadow_memory);
    q->backend_features = backend;
    q->base = guest & PACKED ? 0x8000 | (num - 1) : 65500;
    q->guest_kick = traffic_event();
    q->guest_call = traffic_event();
    q->backend_kick = traffic_event();
    q->backend_call = traffic_event();
    q->guest = (struct traffic_guest){
        .memory = &q->memory,
        .ring = q->ring,
        .features = guest,
        .base = q->base,
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

void queue_init(struct queue *q, unsigned num, uint64_t features, uint64_t chains)
{
    queue_init_sides(q, num, features, features, chains);
}

void queue_free(struct queue *q)
{
    traffic_guest_free(&q->guest);
    kit_memory_free(&q->memory);
    free(q->shadow_memory);
    free(q->tables.host);
    close(q->guest_kick);
    close(q->guest_call);
    close(q->backend_kick);
    close(q->backend_call);
}

void queue_make_relay(struct queue *q, uint32_t base)
{
    struct svq_relay_config config = {
        .guest = {q->ring.num, q->guest.features, q->ring.at},
        .backend = {q->shadow.num, q->backend_features, q->shadow.at},
        .base = base,
        .map = q->memory.map,
        .may_share = q->share,
    };

    free(q->tables.host);
    q->tables = (struct svq_relay_tables){.addr = QUEUE_TABLES};
    q->tables.size = svq_relay_tables_size(&config);
    if (q->tables.size)
        kit_require(!posix_memalign(&q->tables.host, 4096, q->tables.size));
    config.tables = q->tables;
    assert_int_equal(svq_relay_new(&config, &q->relay), 0);
    q->shared = svq_relay_shares(q->relay);
}

void queue_make_lane(struct queue *q, struct svq_engine *engine)
{
    struct svq_lane_config config = {
        .poll_us = SVQ_POLL_DEFAULT,
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

void queue_start_backend(struct queue *q, bool shadow, uint32_t base, bool greedy)
{
    q->backend.memory = &q->memory;
    q->backend.ring = shadow ? q->shadow : q->ring;
    if (shadow && q->shared)
        q->backend.ring.at.desc = q->ring.at.desc;
    q->backend.features = shadow ? q->backend_features : q->guest.features;
    q->backend.base = base;
    q->backend.tables = q->tables;
    q->backend.kick = shadow ? q->backend_kick : q->guest_kick;
    q->backend.call = shadow ? q->backend_call : q->guest_call;
    q->backend.seed = 2;
    q->backend.greedy = greedy;
    traffic_backend_start(&q->backend);
}

void queue_start_shadow(struct queue *q, struct svq_engine *engine, uint32_t base, bool greedy)
{
    queue_make_relay(q, base);
    queue_start_backend(q, true, q->shadow.format ? SVQ_PACKED_START : SVQ_SPLIT_START, greedy);
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

    const struct svq_engine_config config = {.workers = workers, .poll_us = (int)poll_us};

    assert_int_equal(svq_engine_new(&config, &engine), 0);
    assert_non_null(engine);
    return engine;
}

void queue_offer(struct queue *q)
{
    static const struct kit_buf buf = {QUEUE_BUFFERS, 8, false};
    struct kit_chain chain = {&buf, 1, 1, 0, false, NULL};
    struct kit_driver *driver = q->guest.driver;

    kit_require(driver->ops->add(driver, &chain));
    driver->ops->publish(driver);
}

unsigned queue_arrived(struct queue *q)
{
    unsigned count = 0;

    if (q->shadow.format == SVQ_RING_SPLIT)
        return kit_get16(&q->shadow.split.avail->idx);
    while (count < q->shadow.num && kit_get16(&q->shadow.packed.desc[count].flags) & KIT_P_AVAIL)
        count++;
    return count;
}

bool queue_wants_kicks(const struct queue *q)
{
    if (q->ring.format == SVQ_RING_SPLIT)
        return kit_get16(&q->ring.split.used->flags) != 1;
    return kit_get16(&q->ring.packed.device->flags) != KIT_EVENT_DISABLE;
}

bool queue_wants_calls(const struct queue *q)
{
    if (q->shadow.format == SVQ_RING_SPLIT)
        return kit_get16(&q->shadow.split.avail->flags) != 1;
    return kit_get16(&q->shadow.packed.driver->flags) != KIT_EVENT_DISABLE;
}

void queue_break_guest(struct queue *q)
{
    struct kit_place at = kit_place_at((uint16_t)q->base);
    struct kit_pdesc *d;

    if (q->ring.format == SVQ_RING_SPLIT) {
        kit_set16(&q->ring.split.avail->idx, (uint16_t)(q->base + q->ring.num + 1));
        return;
    }
    /* A buffer that is nowhere; the relay may be looking at the flags. */
    d = &q->ring.packed.desc[at.off];
    d->addr = 0;
    d->len = 8;
    d->id = 0;
    kit_set16(&d->flags, kit_avail_flags(at.wrap));
}

void queue_break_backend(struct queue *q)
{
    if (q->shadow.format == SVQ_RING_SPLIT)
        kit_set16(&q->shadow.split.used->idx, 9);
    else
        kit_set16(&q->shadow.packed.desc[0].flags, kit_used_flags(true));
}
