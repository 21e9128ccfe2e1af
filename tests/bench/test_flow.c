/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svq-bench's flows: what goes through a queue of either format arrives, numbered and counted; and
 * whatever goes wrong with a buffer on its way is found, since a benchmark that counts buffers that
 * never arrived is worth nothing.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#include <cmocka.h>

#include "bench/flow.h"

#define NUM   16u
#define DEPTH 12u
#define SIZE  100u
#define GPA   UINT64_C(0x100000)

/* A queue between a guest and a device, in one memory. */
struct pair {
    struct flow_driver driver;
    struct flow_device device;
    uint64_t desc[NUM * 2];
    uint64_t avail[NUM];
    uint64_t used[NUM * 2];
    uint8_t buffers[DEPTH * 128];
};

static struct pair *new_pair(bool packed, bool event_idx, bool transmit)
{
    struct pair *p = calloc(1, sizeof(*p));
    struct flow_config config = {.transmit = transmit,
                                 .depth = DEPTH,
                                 .batch = 5,
                                 .size = SIZE,
                                 .stride = 128,
                                 .gpa = GPA,
                                 .memory = p->buffers};
    struct vq *vqs[] = {&p->driver.vq, &p->device.vq};

    for (unsigned i = 0; i < 2; i++) {
        vq_init(vqs[i], packed, event_idx, NUM, 1);
        vqs[i]->desc = p->desc;
        vqs[i]->driver = p->avail;
        vqs[i]->device = p->used;
    }
    assert_int_equal(flow_driver_init(&p->driver, &config, NUM), 0);
    p->driver.offering = true;
    p->driver.kick = eventfd(0, EFD_NONBLOCK);
    p->device.running = true;
    p->device.batch = 3;
    p->device.call = eventfd(0, EFD_NONBLOCK);
    p->device.copy = calloc(1, FLOW_SIZE_MAX);
    p->device.region_count = 1;
    p->device.regions[0] = (struct flow_memory){GPA, sizeof(p->buffers), p->buffers};
    return p;
}

static void free_pair(struct pair *p)
{
    close(p->driver.kick);
    close(p->device.call);
    free(p->device.copy);
    flow_driver_release(&p->driver);
    free(p);
}

static void turn(struct pair *p)
{
    flow_driver_turn(&p->driver);
    flow_device_turn(&p->device);
}

/* All that there is: two formats, with and without event_idx, both directions. */
static void each(void (*test)(struct pair *p))
{
    for (unsigned i = 0; i < 8; i++) {
        struct pair *p = new_pair(i & 1, i & 2, i & 4);

        test(p);
        free_pair(p);
    }
}

static void flows(struct pair *p)
{
    for (unsigned i = 0; i < 10000; i++) {
        turn(p);
        assert_null(p->driver.fault);
        assert_null(p->device.fault);
        assert_true(p->device.done >= p->driver.done);
        assert_true(p->device.done - p->driver.done <= p->driver.in_flight);
        assert_true(p->driver.in_flight <= DEPTH);
    }
    assert_true(p->driver.done > 20000);
    p->driver.offering = false;
    for (unsigned i = 0; i < 20; i++)
        turn(p);
    assert_int_equal(p->driver.in_flight, 0);
    assert_int_equal(p->device.done, p->driver.done);
}

static void test_flows(void **state)
{
    (void)state;
    each(flows);
}

/* A device that stops, and another that goes on at its base. */
static void goes_on(struct pair *p)
{
    for (unsigned i = 0; i < 300; i++) {
        struct vq again;
        uint32_t base;

        turn(p);
        base = vq_device_base(&p->device.vq);
        vq_init(&again, p->device.vq.packed, p->device.vq.event_idx, NUM, 1);
        again.desc = p->desc;
        again.driver = p->avail;
        again.device = p->used;
        vq_device_resume(&again, base);
        p->device.vq = again;
    }
    assert_null(p->driver.fault);
    assert_null(p->device.fault);
    assert_true(p->driver.done > 500);
}

static void test_goes_on(void **state)
{
    (void)state;
    each(goes_on);
}

/* The header of the buffer that was offered, or used, first and has not been looked at yet. */
static struct flow_header *any_header(struct pair *p)
{
    for (unsigned i = 0; i < NUM; i++)
        if (p->driver.held[i] != FLOW_NONE)
            return (void *)(p->buffers + p->driver.held[i] * 128u);
    return NULL;
}

static const char *fault_of(struct pair *p)
{
    for (unsigned i = 0; i < 20; i++)
        turn(p);
    return p->driver.fault ? p->driver.fault : p->device.fault;
}

static void wrong_number(struct pair *p)
{
    flow_driver_turn(&p->driver);
    if (!p->driver.config.transmit)
        flow_device_turn(&p->device);
    assert_non_null(any_header(p));
    any_header(p)->number += 1;
    assert_non_null(fault_of(p));
}

static void wrong_header(struct pair *p)
{
    flow_driver_turn(&p->driver);
    if (!p->driver.config.transmit)
        flow_device_turn(&p->device);
    memset(any_header(p), 0, sizeof(struct flow_header));
    assert_non_null(fault_of(p));
}

/* A device that forgets one: the next one comes back in its place. */
static void lost(struct pair *p)
{
    flow_driver_turn(&p->driver);
    if (p->driver.config.transmit)
        p->device.seen++;
    else
        p->device.sent++;
    assert_non_null(fault_of(p));
}

/* Used entries say what a device says. */
static void rewrite_used(struct pair *p, uint32_t id, uint32_t len)
{
    struct vq_used *used = (void *)p->used;
    struct vq_packed_desc *desc = (void *)p->desc;

    if (p->driver.vq.packed) {
        desc[0].id = (uint16_t)id;
        desc[0].len = len;
    } else {
        used->ring[0] = (struct vq_used_elem){id, len};
    }
}

static void wrong_id(struct pair *p)
{
    turn(p);
    rewrite_used(p, 15, p->driver.config.transmit ? 0 : SIZE);
    assert_non_null(fault_of(p));
}

static void no_id_at_all(struct pair *p)
{
    turn(p);
    rewrite_used(p, 60000, p->driver.config.transmit ? 0 : SIZE);
    assert_non_null(fault_of(p));
}

static void twice(struct pair *p)
{
    turn(p);
    rewrite_used(p, 1, p->driver.config.transmit ? 0 : SIZE);
    assert_non_null(fault_of(p));
}

static void wrong_length(struct pair *p)
{
    turn(p);
    rewrite_used(p, 0, SIZE - 1);
    assert_non_null(fault_of(p));
}

static void outside(struct pair *p)
{
    p->device.regions[0].size = 50;
    assert_non_null(fault_of(p));
}

static void test_faults(void **state)
{
    (void)state;
    each(wrong_number);
    each(wrong_header);
    each(lost);
    each(wrong_id);
    each(no_id_at_all);
    each(twice);
    each(wrong_length);
    each(outside);
}

/* Who asks for notifications gets one for the next thing that happens, and none unasked. */
static void notifies(struct pair *p)
{
    eventfd_t value;

    vq_refuse_calls(&p->driver.vq);
    vq_refuse_kicks(&p->device.vq);
    for (unsigned i = 0; i < 50; i++)
        turn(p);
    assert_int_not_equal(eventfd_read(p->driver.kick, &value), 0);
    assert_int_not_equal(eventfd_read(p->device.call, &value), 0);
    while (p->driver.in_flight) {
        p->driver.offering = false;
        turn(p);
    }
    assert_false(vq_want_kicks(&p->device.vq));
    assert_false(vq_want_calls(&p->driver.vq));
    p->driver.offering = true;
    flow_driver_turn(&p->driver);
    assert_int_equal(eventfd_read(p->driver.kick, &value), 0);
    flow_device_turn(&p->device);
    assert_int_equal(eventfd_read(p->device.call, &value), 0);
    /* Too late: it is there. */
    assert_true(vq_want_calls(&p->driver.vq));
}

static void test_notifies(void **state)
{
    (void)state;
    each(notifies);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_flows),
        cmocka_unit_test(test_goes_on),
        cmocka_unit_test(test_faults),
        cmocka_unit_test(test_notifies),
    };

    return cmocka_run_group_tests_name("flow", tests, NULL, NULL);
}
