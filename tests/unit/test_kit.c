/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The kit itself: its drivers and devices connected to one another without a relay, so that what
 * the other tests find is not the kit's doing. And what a broken peer looks like to them.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/packed.h"
#include "kit/split.h"

#define GPA    UINT64_C(0x100000)
#define DESC   GPA
#define DRIVER (GPA + 0x80000)
#define DEVICE (GPA + 0xa0000)
#define TABLES (GPA + 0x100000)
#define SIZE   UINT64_C(0x1000000)

enum { MAX_BUFS = 8 };

struct chain {
    struct kit_buf bufs[MAX_BUFS];
    unsigned count;
    unsigned number;
    uint32_t len;
    bool skipped;
    bool completed;
};

/* A driver and a device on one ring, each with a bell that the other one rings. */
struct pair {
    struct kit_memory memory;
    struct kit_rng rng;
    struct kit_ring ring;
    struct kit_driver *driver;
    struct kit_device *device;
    struct chain *chains; /* by number, as the driver adds them */
    unsigned offered, taken, reaped;
    unsigned *out; /* numbers of the chains that the device has */
    uint16_t *ids;
    unsigned out_count;
    bool driver_awake, device_awake;
    bool call, kick;
};

static void pair_init(struct pair *p, unsigned num, uint64_t features, uint32_t base, uint64_t seed,
                      unsigned chains)
{
    memset(p, 0, sizeof(*p));
    p->rng.state = seed;
    kit_memory_init(&p->memory, GPA, SIZE);
    p->ring = kit_ring_in(&p->memory, svq_ring_format(features), num, DESC, DRIVER, DEVICE);
    p->driver = kit_driver_new(&p->memory, &p->ring, features, base, &p->rng);
    p->device = kit_device_new(p->memory.map, &p->ring, features, base);
    p->device->rng = &p->rng;
    p->device->mixed = true;
    p->chains = calloc(chains, sizeof(*p->chains));
    p->out = calloc(num, sizeof(*p->out));
    p->ids = calloc(num, sizeof(*p->ids));
    kit_require(p->chains && p->out && p->ids);
    p->driver_awake = p->device_awake = true;
}

static void pair_free(struct pair *p)
{
    kit_driver_free(p->driver);
    kit_device_free(p->device);
    kit_memory_free(&p->memory);
    free(p->chains);
    free(p->out);
    free(p->ids);
}

/* ---- The driver's life ------------------------------------------------------------------------
 */

static bool offer(struct pair *p)
{
    struct chain *chain = &p->chains[p->offered];
    unsigned room = p->driver->indirect ? MAX_BUFS : p->ring.num;
    struct kit_chain offer = {.bufs = chain->bufs, .token = chain};

    chain->number = p->offered;
    chain->count = kit_between(&p->rng, 1, room < MAX_BUFS ? room : MAX_BUFS);
    for (unsigned i = 0; i < chain->count; i++)
        chain->bufs[i] = (struct kit_buf){kit_rand(&p->rng), (uint32_t)kit_rand(&p->rng),
                                          kit_percent(&p->rng, 50)};
    offer.count = offer.direct = chain->count;
    if (p->driver->indirect && (chain->count > p->ring.num || kit_percent(&p->rng, 60))) {
        offer.direct = kit_percent(&p->rng, 70) ? 0 : kit_below(&p->rng, chain->count);
        if (offer.direct >= p->ring.num)
            offer.direct = p->ring.num - 1;
        offer.table = TABLES + 16 * MAX_BUFS * (p->offered % 65536);
        offer.scatter = kit_percent(&p->rng, 50);
    }
    if (!p->driver->ops->add(p->driver, &offer))
        return false;
    p->offered++;
    return true;
}

static void reap(struct pair *p, unsigned most)
{
    struct kit_done done;
    int result = 1;

    while (most-- && (result = p->driver->ops->reap(p->driver, &done)) > 0) {
        struct chain *chain = done.token;

        assert_true(chain->completed);
        chain->completed = false;
        assert_int_equal(done.skipped, chain->skipped);
        if (!done.skipped)
            assert_int_equal(done.len, chain->len);
        if (p->driver->in_order)
            assert_int_equal(chain->number, p->reaped);
        p->reaped++;
    }
    if (result < 0)
        fail_msg("the driver says: %s", p->driver->broken);
}

/* Return: it did something or may yet. */
static bool driver_step(struct pair *p, unsigned chains)
{
    const struct kit_driver_ops *ops = p->driver->ops;
    unsigned batch = kit_between(&p->rng, 1, 5), reaped = p->reaped;

    if (p->offered < chains && kit_percent(&p->rng, 50)) {
        while (batch-- && p->offered < chains && offer(p))
            ;
        p->kick |= ops->publish(p->driver);
        return true;
    }
    if (!p->driver_awake) {
        if (!p->call)
            return p->offered < chains;
        p->call = false;
        p->driver_awake = true;
        ops->interrupts(p->driver, kit_percent(&p->rng, 30));
    }
    reap(p, kit_between(&p->rng, 1, 20));
    if (p->reaped == reaped) {
        if (kit_percent(&p->rng, 30))
            ops->delay(p->driver, kit_below(&p->rng, 100));
        else
            ops->interrupts(p->driver, true);
        p->driver_awake = ops->pending(p->driver);
    }
    return true;
}

/* ---- The device's life ------------------------------------------------------------------------
 */

static bool take(struct pair *p)
{
    struct chain *chain = &p->chains[p->taken];
    struct kit_buf bufs[MAX_BUFS];
    uint16_t id = 0;
    int count = p->device->ops->take(p->device, &id, bufs, MAX_BUFS);

    if (count < 0)
        fail_msg("the device says: %s", p->device->broken);
    if (count == 0)
        return false;
    assert_true(p->taken < p->offered);
    assert_int_equal(count, chain->count);
    for (int i = 0; i < count; i++) {
        assert_int_equal(bufs[i].gpa, chain->bufs[i].gpa);
        assert_int_equal(bufs[i].len, chain->bufs[i].len);
        assert_int_equal(bufs[i].write, chain->bufs[i].write);
    }
    p->out[p->out_count] = p->taken++;
    p->ids[p->out_count++] = id;
    return true;
}

static void complete(struct pair *p)
{
    unsigned batch = 1, at = kit_below(&p->rng, p->out_count);
    uint32_t len = kit_percent(&p->rng, 20) ? 0 : (uint32_t)kit_rand(&p->rng);

    if (p->device->in_order) {
        at = 0;
        batch = kit_between(&p->rng, 1, p->out_count);
    }
    for (unsigned i = 0; i < batch; i++) {
        struct chain *chain = &p->chains[p->out[at + i]];

        chain->completed = true;
        chain->skipped = i + 1 < batch;
        chain->len = len;
    }
    p->device->ops->complete(p->device, p->ids[at + batch - 1], len, batch);
    p->out_count -= batch;
    memmove(p->out + at, p->out + at + batch, (p->out_count - at) * sizeof(*p->out));
    memmove(p->ids + at, p->ids + at + batch, (p->out_count - at) * sizeof(*p->ids));
}

static bool device_step(struct pair *p)
{
    const struct kit_device_ops *ops = p->device->ops;
    unsigned most = kit_between(&p->rng, 1, 4);

    if (p->out_count && kit_percent(&p->rng, 50)) {
        while (p->out_count && most--)
            complete(p);
        p->call |= ops->publish(p->device);
        return true;
    }
    if (!p->device_awake) {
        if (!p->kick)
            return p->out_count > 0;
        p->kick = false;
        p->device_awake = true;
        ops->kicks(p->device, kit_percent(&p->rng, 30));
    }
    while (most-- && take(p))
        ;
    if (!ops->pending(p->device)) {
        ops->kicks(p->device, true);
        p->device_awake = ops->pending(p->device);
    }
    return true;
}

/* Now and then another device takes over, as at a switch. */
static void change_device(struct pair *p, uint64_t features)
{
    uint32_t base;

    while (p->out_count)
        complete(p);
    p->call |= p->device->ops->publish(p->device);
    p->device->short_base = kit_percent(&p->rng, 50);
    base = p->device->ops->stop(p->device);
    kit_device_free(p->device);
    p->device = kit_device_new(p->memory.map, &p->ring, features, base);
    p->device->rng = &p->rng;
    p->device->mixed = true;
    p->device_awake = true;
}

static void run(unsigned num, uint64_t features, uint32_t base, uint64_t seed)
{
    unsigned chains = 300 + 3 * num, idle = 0;
    struct pair p;

    pair_init(&p, num, features, base, seed, chains);
    while (p.reaped < chains && idle < 100) {
        bool first = kit_percent(&p.rng, 50);
        bool moved = first ? driver_step(&p, chains) : device_step(&p);

        idle = moved ? 0 : idle + 1;
        if (kit_below(&p.rng, 200) == 0)
            change_device(&p, features);
    }
    if (p.reaped < chains)
        fail_msg("all asleep: size %u, features 0x%llx, base 0x%x, seed %llu", num,
                 (unsigned long long)features, base, (unsigned long long)seed);
    pair_free(&p);
}

static uint64_t all_features(unsigned bits, bool packed)
{
    return (bits & 1 ? SVQ_BIT(SVQ_F_EVENT_IDX) : 0) |
           (bits & 2 ? SVQ_BIT(SVQ_F_INDIRECT_DESC) : 0) |
           (bits & 4 ? SVQ_BIT(SVQ_F_IN_ORDER) : 0) | (packed ? SVQ_BIT(SVQ_F_RING_PACKED) : 0);
}

static void test_split(void **state)
{
    (void)state;
    for (unsigned bits = 0; bits < 8; bits++)
        for (unsigned num = 1; num <= 512; num *= 2)
            for (unsigned seed = 0; seed < 5; seed++)
                run(num, all_features(bits, false), 65536 - seed * num / 2, seed);
}

static void test_packed(void **state)
{
    static const unsigned sizes[] = {1, 2, 3, 4, 5, 7, 8, 13, 64, 100, 255, 256, 1000};

    (void)state;
    for (unsigned bits = 0; bits < 8; bits++)
        for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
            for (unsigned seed = 0; seed < 5; seed++)
                run(sizes[i], all_features(bits, true),
                    (seed * 7 % sizes[i]) | (seed & 1 ? 0 : 0x8000), seed);
}

static void test_large(void **state)
{
    (void)state;
    run(32768, all_features(1, false), 40000, 1);
    run(32768, all_features(3, true), 32767, 1);
    run(32767, all_features(5, true), 0x8000 | 32766, 2);
    run(32768, all_features(6, true), 0x8000, 3);
}

/* ---- Packed: what only that format has ---------------------------------------------------------
 */

static void add_one(struct pair *p, unsigned bufs)
{
    static const struct kit_buf buf[MAX_BUFS] = {{1, 2, false}, {3, 4, true}, {5, 6, true}};
    struct kit_chain chain = {buf, bufs, bufs, 0, false, NULL};

    assert_true(p->driver->ops->add(p->driver, &chain));
}

/* The example of virtio 1.3 section 2.8.21.1: what the ring holds, word for word. */
static void test_packed_flags(void **state)
{
    struct kit_pdesc *desc;
    struct kit_done done;
    struct kit_buf bufs[3];
    struct pair p;
    uint16_t id;

    (void)state;
    pair_init(&p, 3, PACKED, 0x8000 | 2, 1, 1);
    p.driver->rng = p.device->rng = NULL;
    desc = p.ring.packed.desc;
    add_one(&p, 3);
    assert_int_equal(desc[2].flags, 0); /* as in the round before: not yet available */
    assert_int_equal(desc[0].flags, KIT_P_USED | KIT_P_NEXT | KIT_P_WRITE);
    assert_int_equal(desc[1].flags, KIT_P_USED | KIT_P_WRITE);
    assert_false(p.device->ops->pending(p.device));
    p.driver->ops->publish(p.driver);
    assert_int_equal(desc[2].flags, KIT_P_AVAIL | KIT_P_NEXT);
    assert_int_equal(p.driver->ops->next(p.driver), 2);
    assert_int_equal(p.device->ops->take(p.device, &id, bufs, 3), 3);
    assert_int_equal(id, desc[1].id);
    p.device->ops->complete(p.device, id, 9, 1);
    assert_int_equal(desc[2].flags, KIT_P_AVAIL | KIT_P_NEXT);
    p.device->ops->publish(p.device);
    assert_int_equal(desc[2].flags, KIT_P_AVAIL | KIT_P_USED | KIT_P_WRITE);
    assert_int_equal(p.device->ops->stop(p.device), 0x00020002);
    p.device->short_base = true;
    assert_int_equal(p.device->ops->stop(p.device), 2);
    assert_int_equal(p.driver->ops->reap(p.driver, &done), 1);
    assert_int_equal(done.len, 9);
    pair_free(&p);
}

static void test_packed_events(void **state)
{
    struct kit_event event;
    struct kit_place old = {6, true};

    (void)state;
    for (unsigned count = 1; count <= 8; count++) {
        for (unsigned far = 0; far < 16; far++) {
            struct kit_place at = old;

            kit_place_move(&at, 8, far % 8);
            if (far >= 8)
                at.wrap = !at.wrap;
            kit_event_set(&event, kit_place_word(at), KIT_EVENT_DESC);
            assert_int_equal(kit_event_wanted(&event, true, old, count, 8), far < count);
            assert_int_equal(kit_event_wanted(&event, false, old, count, 8), -EPROTO);
        }
    }
    kit_event_set(&event, 0x8008, KIT_EVENT_DESC);
    assert_int_equal(kit_event_wanted(&event, true, old, 1, 8), -EPROTO);
    kit_event_set(&event, 0x7fff, KIT_EVENT_ENABLE);
    assert_int_equal(kit_event_wanted(&event, true, old, 1, 8), 1);
    kit_event_set(&event, 6, KIT_EVENT_DISABLE);
    assert_int_equal(kit_event_wanted(&event, false, old, 1, 8), 0);
    kit_event_set(&event, 6, 3);
    assert_int_equal(kit_event_wanted(&event, true, old, 1, 8), -EPROTO);
}

/* ---- Broken peers ------------------------------------------------------------------------------
 */

static void expect_driver_broken(struct pair *p)
{
    struct kit_done done;
    int result;

    while ((result = p->driver->ops->reap(p->driver, &done)) > 0)
        ;
    assert_int_equal(result, -EPROTO);
    assert_non_null(p->driver->broken);
    pair_free(p);
}

static void expect_device_broken(struct pair *p)
{
    struct kit_buf bufs[MAX_BUFS];
    uint16_t id;
    int result;

    while ((result = p->device->ops->take(p->device, &id, bufs, MAX_BUFS)) > 0)
        ;
    assert_int_equal(result, -EPROTO);
    assert_non_null(p->device->broken);
    pair_free(p);
}

/* Three chains that the device has, by the lowest ids. */
static uint16_t start(struct pair *p, uint64_t features)
{
    uint32_t base = PACKED & features ? 0x8000 : 0;
    struct kit_buf bufs[MAX_BUFS];
    uint16_t id = 0;

    pair_init(p, 8, features, base, 1, 1);
    kit_driver_free(p->driver);
    p->driver = kit_driver_new(&p->memory, &p->ring, features, base, NULL);
    for (unsigned i = 0; i < 3; i++) {
        add_one(p, 2);
        p->driver->ops->publish(p->driver);
        assert_int_equal(p->device->ops->take(p->device, &id, bufs, 2), 2);
    }
    return id;
}

static void complete_id(struct pair *p, uint16_t id)
{
    p->device->ops->complete(p->device, id, 1, 1);
    p->device->ops->publish(p->device);
}

static void test_driver_finds_broken_devices(void **state)
{
    struct pair p;
    uint16_t id;

    (void)state;
    for (unsigned packed = 0; packed < 2; packed++) {
        uint64_t features = packed ? PACKED : 0;

        id = start(&p, features); /* twice */
        complete_id(&p, id);
        complete_id(&p, id);
        expect_driver_broken(&p);
        start(&p, features); /* never out */
        complete_id(&p, 7);
        expect_driver_broken(&p);
        start(&p, features); /* more than are out; split heads are two apart */
        for (unsigned i = 0; i < 4; i++)
            complete_id(&p, (uint16_t)(i < 3 ? i * (2 - packed) : 0));
        expect_driver_broken(&p);
    }
    id = start(&p, PACKED); /* a descriptor beside the used entry */
    p.ring.packed.desc[1].len++;
    complete_id(&p, id);
    expect_driver_broken(&p);
    start(&p, PACKED); /* suppression */
    kit_event_set(p.ring.packed.device, 0x8000, KIT_EVENT_DESC);
    add_one(&p, 1);
    p.driver->ops->publish(p.driver);
    expect_driver_broken(&p);
}

static void test_device_finds_broken_drivers(void **state)
{
    struct pair p;

    (void)state;
    pair_init(&p, 8, 0, 0, 1, 1);
    p.ring.split.avail->idx = 9;
    expect_device_broken(&p);
    start(&p, PACKED); /* an id that is out already */
    add_one(&p, 1);
    p.driver->ops->publish(p.driver);
    p.ring.packed.desc[6].id = p.ring.packed.desc[5].id;
    expect_device_broken(&p);
    start(&p, PACKED); /* the rest of a chain is not there */
    add_one(&p, 2);
    p.ring.packed.desc[7].flags = 0;
    p.driver->ops->publish(p.driver);
    expect_device_broken(&p);
    start(&p, PACKED); /* more than a ring */
    for (unsigned i = 0; i < 8; i++)
        p.ring.packed.desc[(6 + i) % 8] =
            (struct kit_pdesc){1, 1, (uint16_t)(100 + i), kit_avail_flags(i < 2)};
    expect_device_broken(&p);
    start(&p, PACKED);
    p.ring.packed.desc[6] =
        (struct kit_pdesc){TABLES, 16, 100, kit_avail_flags(true) | KIT_P_INDIRECT};
    expect_device_broken(&p);
    start(&p, PACKED | SVQ_BIT(SVQ_F_INDIRECT_DESC));
    p.device->mixed = false;
    p.ring.packed.desc[6] = (struct kit_pdesc){TABLES, 16, 100, kit_avail_flags(true) | KIT_P_NEXT};
    p.ring.packed.desc[7] =
        (struct kit_pdesc){TABLES, 16, 100, kit_avail_flags(true) | KIT_P_INDIRECT};
    expect_device_broken(&p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_split),
        cmocka_unit_test(test_packed),
        cmocka_unit_test(test_large),
        cmocka_unit_test(test_packed_flags),
        cmocka_unit_test(test_packed_events),
        cmocka_unit_test(test_driver_finds_broken_devices),
        cmocka_unit_test(test_device_finds_broken_drivers),
    };

    return cmocka_run_group_tests_name("kit", tests, NULL, NULL);
}
