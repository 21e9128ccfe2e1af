/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * ring/packed.h: against vectors worked out by hand and, where all cases can be tried, against the
 * words of virtio 1.3 section 2.8.
 */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "ring/packed.h"

/* ---- Memory layout --------------------------------------------------------------------------- */

enum { MAX_NUM = 16 };

struct memory {
    struct packed_desc desc[MAX_NUM];
    uint32_t driver;
    uint32_t device;
};

static struct packed_ring make_ring(struct memory *memory, unsigned num, bool event_idx,
                                    uint32_t base)
{
    struct svq_vring at = {memory->desc, &memory->driver, &memory->device};
    struct packed_ring ring;

    memset(memory, 0, sizeof(*memory));
    packed_init(&ring, &at, num, event_idx, base);
    return ring;
}

static struct packed_place place(uint16_t idx, bool wrap)
{
    return (struct packed_place){idx, wrap};
}

static void assert_place(struct packed_place at, uint16_t idx, bool wrap)
{
    assert_int_equal(at.idx, idx);
    assert_int_equal(at.wrap, wrap);
}

/* A descriptor's 16 bytes, little endian. */
static void assert_bytes(const struct packed_desc *desc, const char *bytes)
{
    assert_memory_equal(desc, bytes, 16);
}

/* ---- Bases ----------------------------------------------------------------------------------- */

static void check_base(uint32_t base, uint16_t avail, bool avail_wrap, uint16_t used,
                       bool used_wrap)
{
    struct svq_ring_index index = svq_packed_index(base);

    assert_int_equal(index.avail, avail);
    assert_int_equal(index.avail_wrap, avail_wrap);
    assert_int_equal(index.used, used);
    assert_int_equal(index.used_wrap, used_wrap);
}

static void test_base_vectors(void **state)
{
    (void)state;
    check_base(SVQ_PACKED_START, 0, true, 0, true);
    check_base(0x80058007, 7, true, 5, true);
    check_base(0x00050003, 3, false, 5, false);
    check_base(0x80ff0001, 1, false, 255, true);
    check_base(0x00018000, 0, true, 1, false);
    check_base(0x7fffffff, 32767, true, 32767, false);
    check_base(0xffff7fff, 32767, false, 32767, true);
    /* Only 16 bits: nothing is in flight. */
    check_base(0x00008007, 7, true, 7, true);
    check_base(0x00000007, 7, false, 7, false);
    check_base(0x00008000, 0, true, 0, true);
    check_base(0x00000000, 0, false, 0, false);
}

static void test_base_round_trip(void **state)
{
    (void)state;
    for (uint32_t avail = 0; avail < 65536; avail += 7)
        for (uint32_t used = 1; used < 65536; used += 251) {
            struct svq_ring_index index = svq_packed_index(avail | used << 16);

            assert_int_equal(svq_packed_base(&index), avail | used << 16);
        }
}

static void test_init(void **state)
{
    struct memory memory;
    struct packed_ring ring = make_ring(&memory, 5, true, 0x00028003);

    (void)state;
    assert_place(ring.avail, 3, true);
    assert_place(ring.used, 2, false);
    assert_int_equal(ring.num, 5);
    assert_int_equal(ring.batch, 0);
}

/* ---- Places ---------------------------------------------------------------------------------- */

/* A place by how many descriptors lie before it, two laps being all that wraps tell apart. */
static struct packed_place nth(unsigned n, unsigned num)
{
    return place((uint16_t)(n % num), n / num % 2 == 0);
}

static void test_places(void **state)
{
    struct memory memory;

    (void)state;
    for (unsigned num = 1; num <= MAX_NUM; num++) {
        struct packed_ring ring = make_ring(&memory, num, false, SVQ_PACKED_START);

        for (unsigned n = 0; n < 2 * num; n++)
            for (unsigned count = 0; count <= num; count++) {
                struct packed_place at = nth(n, num), end = nth(n + count, num);

                packed_advance(&ring, &at, count);
                assert_place(at, end.idx, end.wrap);
                packed_rewind(&ring, &at, count);
                assert_place(at, nth(n, num).idx, nth(n, num).wrap);
                assert_int_equal(packed_distance(&ring, at, end), count);
            }
    }
}

/* Two places that no ring can be at are not at a distance that any ring can have. */
static void test_impossible_distances(void **state)
{
    struct memory memory;

    (void)state;
    for (unsigned num = 1; num <= MAX_NUM; num++) {
        struct packed_ring ring = make_ring(&memory, num, false, SVQ_PACKED_START);

        for (unsigned n = 0; n < 2 * num; n++)
            for (unsigned count = num + 1; count < 2 * num; count++) {
                int distance = packed_distance(&ring, nth(n, num), nth(n + count, num));

                assert_true(distance < 0 || distance > (int)num);
            }
    }
}

/* ---- Event suppression ----------------------------------------------------------------------- */

/*
 * Section 2.8.10: with DESC, a notification is wanted when the descriptor at that offset, in the
 * lap of that wrap counter, is among those just made available or used.
 */
static int wanted(unsigned start, unsigned batch, unsigned num, uint16_t off, bool wrap)
{
    for (unsigned n = start; n < start + batch; n++)
        if (nth(n, num).idx == off && nth(n, num).wrap == wrap)
            return 1;
    return 0;
}

static void check_event(struct packed_ring *ring, unsigned start, unsigned batch, uint16_t off,
                        bool wrap)
{
    uint32_t word = 0x20000u | (wrap ? 0x8000u : 0) | off;
    struct packed_place now = nth(start + batch, ring->num);
    int expected = wanted(start, batch, ring->num, off, wrap);

    ring->batch = (uint16_t)batch;
    assert_int_equal(packed_must_notify(ring, &word, now), expected);
    assert_int_equal(ring->batch, 0);
    /* Bits that the specification reserves say nothing. */
    ring->batch = (uint16_t)batch;
    word |= 0xfffc0000u;
    assert_int_equal(packed_must_notify(ring, &word, now), expected);
}

static void test_every_event(void **state)
{
    struct memory memory;

    (void)state;
    for (unsigned num = 1; num <= 10; num++) {
        struct packed_ring ring = make_ring(&memory, num, true, SVQ_PACKED_START);

        for (unsigned start = 0; start < 2 * num; start++)
            for (unsigned batch = 0; batch <= num; batch++)
                for (unsigned off = 0; off < 2 * num; off++)
                    check_event(&ring, start, batch, (uint16_t)(off / 2), off & 1);
    }
}

static void test_events_of_a_large_ring(void **state)
{
    struct memory memory;
    struct packed_ring ring = make_ring(&memory, 1, true, SVQ_PACKED_START);

    (void)state;
    ring.num = SVQ_RING_MAX;
    /* The last descriptor of a lap, and the first of the next. */
    check_event(&ring, 32767, 1, 32767, true);
    check_event(&ring, 32767, 1, 0, false);
    check_event(&ring, 32767, 2, 0, false);
    check_event(&ring, 32767, 2, 1, false);
    check_event(&ring, 65535, 1, 32767, false);
    check_event(&ring, 65535, 2, 0, true);
    /* The whole ring at once. */
    check_event(&ring, 5, 32768, 5, true);
    check_event(&ring, 5, 32768, 4, false);
    check_event(&ring, 5, 32768, 4, true);
    check_event(&ring, 5, 32768, 5, false);
}

static void check_word(bool event_idx, uint32_t word, int expected)
{
    struct memory memory;
    struct packed_ring ring = make_ring(&memory, 5, event_idx, SVQ_PACKED_START);

    ring.batch = 2;
    assert_int_equal(packed_must_notify(&ring, &word, place(4, true)), expected);
}

static void test_other_words(void **state)
{
    (void)state;
    for (unsigned event_idx = 0; event_idx < 2; event_idx++) {
        check_word(event_idx, 0x00000000, 1);
        check_word(event_idx, 0x00010000, 0);
        /* Flags without DESC: the offset is nobody's. */
        check_word(event_idx, 0x0000ffff, 1);
        check_word(event_idx, 0x0001ffff, 0);
        check_word(event_idx, 0xfffc1234, 1);
        check_word(event_idx, 0xfffd1234, 0);
        /* Reserved. */
        check_word(event_idx, 0x00030000, -1);
        check_word(event_idx, 0x00038003, -1);
        /* No such descriptor. */
        check_word(event_idx, 0x00020005, -1);
        check_word(event_idx, 0x00028005, -1);
        check_word(event_idx, 0x0002ffff, -1);
    }
    check_word(true, 0x00028002, 1);
    check_word(true, 0x00028003, 1);
    check_word(true, 0x00028004, 0);
    check_word(true, 0x00028001, 0);
    check_word(true, 0x00020002, 0);
    /* Not negotiated. */
    check_word(false, 0x00028002, -1);
}

static void test_asking(void **state)
{
    struct memory memory;
    struct packed_ring ring = make_ring(&memory, 7, true, 0x00048006);

    (void)state;
    packed_device_ask(&ring, true);
    assert_int_equal(memory.device, 0x00028006);
    packed_device_ask(&ring, false);
    assert_int_equal(memory.device >> 16, 1);
    packed_driver_ask(&ring, true);
    assert_int_equal(memory.driver, 0x00020004);
    packed_driver_ask(&ring, false);
    assert_int_equal(memory.driver >> 16, 1);
    ring.event_idx = false;
    packed_device_ask(&ring, true);
    packed_driver_ask(&ring, true);
    assert_int_equal(memory.device >> 16, 0);
    assert_int_equal(memory.driver >> 16, 0);
}

/* Whoever asks at its own place is notified of whatever comes next, and of that only. */
static void test_asking_is_understood(void **state)
{
    struct memory memory;

    (void)state;
    for (unsigned num = 1; num <= 8; num++)
        for (unsigned start = 0; start < 2 * num; start++)
            for (unsigned batch = 1; batch <= num; batch++) {
                struct packed_ring ring = make_ring(&memory, num, true, SVQ_PACKED_START);

                ring.avail = nth(start, num);
                packed_device_ask(&ring, true);
                packed_advance(&ring, &ring.avail, batch);
                ring.batch = (uint16_t)batch;
                assert_int_equal(packed_driver_must_kick(&ring), 1);
                if (batch == num)
                    continue;
                packed_advance(&ring, &ring.avail, 1);
                ring.batch = 1;
                assert_int_equal(packed_driver_must_kick(&ring), 0);
            }
}

/* ---- As the driver --------------------------------------------------------------------------- */

static void test_driver_writes(void **state)
{
    struct memory memory;
    struct packed_ring ring = make_ring(&memory, 3, false, SVQ_PACKED_START);

    (void)state;
    packed_driver_put(&ring, 0x1122334455667788, 0xaabbccdd, 0x0102, PACKED_DESC_F_NEXT);
    packed_driver_put(&ring, 0x99, 0x10, 0x0102, PACKED_DESC_F_WRITE);
    /* All but the first one's flags. */
    assert_bytes(&memory.desc[0], "\x88\x77\x66\x55\x44\x33\x22\x11\xdd\xcc\xbb\xaa\x02\x01\0\0");
    assert_bytes(&memory.desc[1], "\x99\0\0\0\0\0\0\0\x10\0\0\0\x02\x01\x82\0");
    packed_driver_publish(&ring);
    assert_int_equal(memory.desc[0].flags, 0x0081);
    assert_int_equal(ring.batch, 2);
    assert_int_equal(packed_driver_must_kick(&ring), 1);
    assert_int_equal(ring.batch, 0);
    assert_place(ring.avail, 2, true);
    /* Over the end of the ring: the third in this lap, the first in the next. */
    packed_driver_put(&ring, 1, 2, 7, PACKED_DESC_F_NEXT | PACKED_DESC_F_WRITE);
    packed_driver_put(&ring, 3, 4, 7, PACKED_DESC_F_INDIRECT);
    assert_int_equal(memory.desc[2].flags, 0);
    assert_int_equal(memory.desc[0].flags, 0x8004);
    packed_driver_publish(&ring);
    assert_int_equal(memory.desc[2].flags, 0x0083);
    assert_place(ring.avail, 1, false);
}

static void test_driver_sees_used(void **state)
{
    static const uint16_t flags[4] = {0x0000, 0x0080, 0x8000, 0x8080};
    struct memory memory;
    struct packed_ring ring = make_ring(&memory, 3, false, SVQ_PACKED_START);

    (void)state;
    for (unsigned i = 0; i < 4; i++)
        for (unsigned rest = 0; rest < 8; rest++) {
            memory.desc[0].flags = (uint16_t)(flags[i] | rest | 0x7f08);
            ring.used = place(0, true);
            assert_int_equal(packed_driver_waiting(&ring), flags[i] == 0x8080);
            ring.used = place(0, false);
            assert_int_equal(packed_driver_waiting(&ring), flags[i] == 0x0000);
        }
}

/* ---- As the device --------------------------------------------------------------------------- */

static void test_device_sees_available(void **state)
{
    static const uint16_t flags[4] = {0x0000, 0x0080, 0x8000, 0x8080};
    struct memory memory;
    struct packed_ring ring = make_ring(&memory, 3, false, SVQ_PACKED_START);

    (void)state;
    for (unsigned i = 0; i < 4; i++)
        for (unsigned rest = 0; rest < 8; rest++) {
            memory.desc[1].flags = (uint16_t)(flags[i] | rest | 0x7f08);
            ring.avail = place(1, true);
            assert_int_equal(packed_device_waiting(&ring), flags[i] == 0x0080);
            ring.avail = place(1, false);
            assert_int_equal(packed_device_waiting(&ring), flags[i] == 0x8000);
        }
}

static void test_device_writes(void **state)
{
    struct memory memory;
    struct packed_ring ring = make_ring(&memory, 4, false, 0x80028000);

    (void)state;
    memset(memory.desc, 0xee, sizeof(memory.desc));
    /* In the third and fourth for a chain of two, in the first of the next lap, nothing written. */
    packed_device_put(&ring, 0xbeef, 0x11223344, 2);
    packed_device_put(&ring, 0x0007, 0, 1);
    packed_device_put(&ring, 0x0008, 1, 1);
    assert_bytes(&memory.desc[2],
                 "\xee\xee\xee\xee\xee\xee\xee\xee\x44\x33\x22\x11\xef\xbe\xee\xee");
    assert_bytes(&memory.desc[3],
                 "\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee\xee");
    assert_bytes(&memory.desc[0], "\xee\xee\xee\xee\xee\xee\xee\xee\0\0\0\0\x07\0\0\0");
    assert_bytes(&memory.desc[1], "\xee\xee\xee\xee\xee\xee\xee\xee\x01\0\0\0\x08\0\x02\0");
    packed_device_publish(&ring);
    assert_int_equal(memory.desc[2].flags, 0x8082);
    assert_int_equal(ring.batch, 4);
    assert_int_equal(packed_device_must_call(&ring), 1);
    assert_place(ring.used, 2, false);
}

static void test_device_room(void **state)
{
    struct memory memory;

    (void)state;
    for (unsigned num = 1; num <= MAX_NUM; num++) {
        struct packed_ring ring = make_ring(&memory, num, false, SVQ_PACKED_START);

        for (unsigned n = 0; n < 2 * num; n++)
            for (unsigned taken = 0; taken <= num; taken++) {
                ring.used = nth(n, num);
                ring.avail = nth(n + taken, num);
                assert_int_equal(packed_device_room(&ring), num - taken);
            }
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_base_vectors),
        cmocka_unit_test(test_base_round_trip),
        cmocka_unit_test(test_init),
        cmocka_unit_test(test_places),
        cmocka_unit_test(test_impossible_distances),
        cmocka_unit_test(test_every_event),
        cmocka_unit_test(test_events_of_a_large_ring),
        cmocka_unit_test(test_other_words),
        cmocka_unit_test(test_asking),
        cmocka_unit_test(test_asking_is_understood),
        cmocka_unit_test(test_driver_writes),
        cmocka_unit_test(test_driver_sees_used),
        cmocka_unit_test(test_device_sees_available),
        cmocka_unit_test(test_device_writes),
        cmocka_unit_test(test_device_room),
    };

    return cmocka_run_group_tests_name("packed", tests, NULL, NULL);
}
