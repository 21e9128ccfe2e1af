/* SPDX-License-Identifier: BSD-3-Clause */
/* The geometry of rings: sizes, indices and their wraps, at every ring size in every format. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

static const uint64_t formats[4][2] = {{0, 0}, {0, PACKED}, {PACKED, 0}, {PACKED, PACKED}};

static void test_area_sizes(void **state)
{
    (void)state;
    for (unsigned num = 1; num <= SVQ_RING_MAX; num *= 2) {
        assert_int_equal(svq_vring_desc_size(SVQ_RING_SPLIT, num), 16 * num);
        assert_int_equal(svq_vring_driver_size(SVQ_RING_SPLIT, num), 6 + 2 * num);
        assert_int_equal(svq_vring_device_size(SVQ_RING_SPLIT, num), 6 + 8 * num);
        assert_int_equal(svq_vring_desc_size(SVQ_RING_PACKED, num - num / 3), 16 * (num - num / 3));
        assert_int_equal(svq_vring_driver_size(SVQ_RING_PACKED, num), 4);
        assert_int_equal(svq_vring_device_size(SVQ_RING_PACKED, num), 4);
    }
}

static void test_valid_sizes(void **state)
{
    (void)state;
    for (unsigned num = 0; num <= 70000; num++) {
        bool power = num && !(num & (num - 1));

        assert_int_equal(svq_vring_num_valid(SVQ_RING_SPLIT, num), power && num <= 32768);
        assert_int_equal(svq_vring_num_valid(SVQ_RING_PACKED, num), num && num <= 32768);
    }
    assert_false(svq_vring_num_valid(SVQ_RING_SPLIT, 0x80000000));
    assert_false(svq_vring_num_valid(SVQ_RING_PACKED, UINT32_MAX));
}

static void test_shadow_sizes(void **state)
{
    unsigned power = 1;

    (void)state;
    for (unsigned num = 1; num <= SVQ_RING_MAX; num++) {
        if (num > power)
            power *= 2;
        assert_int_equal(svq_relay_shadow_num(SVQ_RING_SPLIT, num), power);
        assert_int_equal(svq_relay_shadow_num(SVQ_RING_PACKED, num), num);
    }
}

/* ---- Bases ----------------------------------------------------------------------------------- */

static void test_packed_bases(void **state)
{
    struct svq_ring_index index;

    (void)state;
    for (unsigned round = 0; round < 4; round++) {
        for (unsigned i = 0; i < 32768; i += 1 + i / 7) {
            uint32_t base;

            index =
                (struct svq_ring_index){(uint16_t)i, (uint16_t)(32767 - i), round & 1, round & 2};
            base = svq_packed_base(&index);
            assert_int_equal(base & 0x7fff, i);
            assert_int_equal(base >> 15 & 1, round & 1);
            assert_int_equal(base >> 16 & 0x7fff, 32767 - i);
            assert_int_equal(base >> 31, round >> 1);
            index = svq_packed_index(base);
            if (base >> 16)
                assert_int_equal(svq_packed_base(&index), base);
        }
    }
    assert_int_equal(SVQ_PACKED_START, 0x80008000);
    /* Half a base: used as avail. */
    index = svq_packed_index(0x8123);
    assert_int_equal(index.avail, 0x123);
    assert_int_equal(index.used, 0x123);
    assert_true(index.avail_wrap && index.used_wrap);
    index = svq_packed_index(0x7fff);
    assert_int_equal(index.used, 0x7fff);
    assert_false(index.avail_wrap || index.used_wrap);
}

/* ---- Configurations -------------------------------------------------------------------------- */

static int try_new(struct svq_relay_config config)
{
    struct svq_relay *relay = NULL;
    int err = svq_relay_new(&config, &relay);

    if (!err)
        svq_relay_free(relay);
    return err;
}

static void check_bad_sizes(const struct svq_relay_config *good, bool guest)
{
    static const unsigned sizes[] = {0, 32769, 65536, 0x80000000, UINT32_MAX, 3, 6, 100, 32767};
    bool packed = (guest ? good->guest.features : good->backend.features) & PACKED;

    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct svq_relay_config bad = *good;

        if (packed && sizes[i] && sizes[i] < 32768)
            continue;
        if (guest)
            bad.guest.num = sizes[i];
        else
            bad.backend.num = sizes[i];
        assert_int_equal(try_new(bad), -EINVAL);
    }
}

static void check_bad_pointers(const struct svq_relay_config *good)
{
    struct svq_relay_config bad;

    for (unsigned i = 0; i < 6; i++) {
        struct svq_vring *ring;

        bad = *good;
        ring = i < 3 ? &bad.guest.ring : &bad.backend.ring;
        if (i % 3 == 0)
            ring->desc = NULL;
        else if (i % 3 == 1)
            ring->driver = NULL;
        else
            ring->device = NULL;
        assert_int_equal(try_new(bad), -EINVAL);
    }
    bad = *good;
    bad.map = NULL;
    assert_int_equal(try_new(bad), -EINVAL);
}

static void check_bad_features(const struct svq_relay_config *good)
{
    static const unsigned bits[] = {SVQ_F_VERSION_1, SVQ_F_NOTIFICATION_DATA, SVQ_F_LOG_ALL, 0, 63};
    struct svq_relay_config bad;

    for (size_t i = 0; i < 2 * sizeof(bits) / sizeof(bits[0]); i++) {
        bad = *good;
        if (i & 1)
            bad.guest.features |= SVQ_BIT(bits[i / 2]);
        else
            bad.backend.features |= SVQ_BIT(bits[i / 2]);
        assert_int_equal(try_new(bad), -ENOTSUP);
    }
}

static void check_bad_bases(const struct svq_relay_config *good)
{
    struct svq_relay_config bad = *good;

    /* Beyond 16 bits, or beyond the ring of 64 in either half. */
    bad.base = bad.guest.features & PACKED ? 0x80008040 : 0x10000;
    assert_int_equal(try_new(bad), -EINVAL);
    if (bad.guest.features & PACKED) {
        bad.base = 0x80408000;
        assert_int_equal(try_new(bad), -EINVAL);
        bad.base = 0x8040;
        assert_int_equal(try_new(bad), -EINVAL);
        bad.base = 0x803f803f;
        assert_int_equal(try_new(bad), 0);
    }
}

/* An area for converted tables that is missing, misplaced or small. */
static void check_bad_tables(const struct svq_relay_config *good)
{
    struct svq_relay_config bad = *good;
    size_t size = svq_relay_tables_size(good);

    assert_true(size <= svq_relay_tables_max(64));
    if (!size)
        return;
    bad.tables.host = NULL;
    assert_int_equal(try_new(bad), -EINVAL);
    bad = *good;
    bad.tables.size--;
    assert_int_equal(try_new(bad), -EINVAL);
    bad = *good;
    bad.tables.addr += 8;
    assert_int_equal(try_new(bad), -EINVAL);
}

static void test_refuses_bad_configs(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 8; i++) {
        uint64_t more = i < 4 ? 0 : INDIRECT | EVENT_IDX;
        struct rig_sides sides = {64, formats[i % 4][0] | more, formats[i % 4][1] | more,
                                  formats[i % 4][0] ? 0x8000 : 0};
        struct svq_relay_config good;
        struct rig rig;

        rig_init(&rig, &sides);
        good = rig_config(&rig, rig.base);
        assert_int_equal(try_new(good), 0);
        check_bad_sizes(&good, true);
        check_bad_sizes(&good, false);
        check_bad_pointers(&good);
        check_bad_features(&good);
        check_bad_bases(&good);
        check_bad_tables(&good);
        /* A shadow ring too small for what the guest's ring holds. */
        good.backend.num = 32;
        assert_int_equal(try_new(good), -EINVAL);
        rig_free(&rig);
    }
    svq_relay_free(NULL);
}

/* Tables are needed only where both sides have them and in different formats. */
static void test_when_tables_are_needed(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 16; i++) {
        const uint64_t *format = formats[i % 4];
        struct svq_relay_config config = {
            .guest = {100, format[0] | (i & 4 ? INDIRECT : 0), {0}},
            .backend = {128, format[1] | (i & 8 ? INDIRECT : 0), {0}},
        };
        bool needed = (i & 12) == 12 && format[0] != format[1];

        assert_int_equal(svq_relay_tables_size(&config) > 0, needed);
    }
}

static bool all_zero(const void *p, size_t size)
{
    const uint8_t *bytes = p;

    for (size_t i = 0; i < size; i++)
        if (bytes[i])
            return false;
    return true;
}

static void test_zeroes_the_shadow(void **state)
{
    static const unsigned sizes[] = {1, 2, 128, 32768};

    (void)state;
    for (size_t i = 0; i < 16; i++) {
        uint64_t guest = formats[i % 4][0], backend = formats[i % 4][1];
        struct rig_sides sides = {sizes[i / 4], guest, backend | EVENT_IDX, guest ? 0x8000 : 0};
        struct rig rig;
        const struct kit_ring *shadow = &rig.shadow;

        rig_init(&rig, &sides);
        /* What the device has asked for since then is its own. */
        memset(shadow->at.device, 0, kit_device_bytes(shadow->format, shadow->num));
        assert_true(all_zero(shadow->at.desc, kit_desc_bytes(shadow->num)));
        assert_true(all_zero(shadow->at.driver, kit_driver_bytes(shadow->format, shadow->num)));
        rig_free(&rig);
    }
}

/* ---- Rounds ---------------------------------------------------------------------------------- */

static struct kit_place place_of(uint16_t off, bool wrap)
{
    return (struct kit_place){off, wrap};
}

/* Every index has gone `by` on, in rings of num and with chains of one descriptor. */
static void expect_moved(const struct kit_ring *ring, uint16_t from, bool from_wrap, uint16_t to,
                         bool to_wrap, unsigned by)
{
    struct kit_place at = place_of(from, from_wrap);

    if (ring->format == SVQ_RING_SPLIT) {
        assert_int_equal((uint16_t)(from + by), to);
        return;
    }
    kit_place_move(&at, ring->num, by);
    assert_int_equal(at.off, to);
    assert_int_equal(at.wrap, to_wrap);
}

static void check_state(struct rig *rig, const struct svq_relay_state *was, unsigned forwarded,
                        unsigned completed, unsigned in_flight)
{
    struct svq_relay_state now = rig_state(rig);

    expect_moved(&rig->guest, was->guest.avail, was->guest.avail_wrap, now.guest.avail,
                 now.guest.avail_wrap, forwarded);
    expect_moved(&rig->guest, was->guest.used, was->guest.used_wrap, now.guest.used,
                 now.guest.used_wrap, completed);
    expect_moved(&rig->shadow, was->backend.avail, was->backend.avail_wrap, now.backend.avail,
                 now.backend.avail_wrap, forwarded);
    expect_moved(&rig->shadow, was->backend.used, was->backend.used_wrap, now.backend.used,
                 now.backend.used_wrap, completed);
    assert_int_equal(now.in_flight, in_flight);
}

/* Rounds of as many chains as the ring can hold, so that every slot and every entry is used. */
static void fill_and_drain(unsigned num, const uint64_t *format, uint64_t features, uint32_t base,
                           unsigned rounds)
{
    struct rig_sides sides = {num, format[0] | features, format[1] | features, base};
    struct rig rig;

    rig_init(&rig, &sides);
    for (unsigned round = 0; round < rounds; round++) {
        struct svq_relay_state before = rig_state(&rig);

        for (unsigned i = 0; i < num; i++) {
            struct kit_buf buf = rig_buf(&rig, 16, i & 1);

            rig_offer(&rig, &buf, 1, i + 1);
        }
        assert_true(rig_poll(&rig) & SVQ_RELAY_BUSY);
        check_state(&rig, &before, num, 0, num);
        assert_int_equal(rig_serve(&rig, 16), num);
        assert_true(rig_poll(&rig) & SVQ_RELAY_BUSY);
        check_state(&rig, &before, num, num, 0);
        assert_int_equal(rig_completed(&rig), (round + 1) * num);
        for (unsigned i = 0; i < num; i++)
            rig_expect_done(&rig, i + 1, i & 1 ? 16 : 0);
        rig_expect_nothing_done(&rig);
        assert_int_equal(svq_relay_poll(rig.relay), 0);
    }
    assert_int_equal(rig_stats(&rig).chains, (uint64_t)num * rounds);
    assert_int_equal(rig_stats(&rig).bytes, (uint64_t)num * rounds * 16);
    rig_free(&rig);
}

static void test_every_power_of_two(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4; i++) {
        uint32_t base = formats[i][0] ? 0x8000 : 0;

        for (unsigned num = 1; num <= SVQ_RING_MAX; num *= 2) {
            fill_and_drain(num, formats[i], 0, base, num < 4096 ? 9 : 3);
            fill_and_drain(num, formats[i], EVENT_IDX, base, num < 4096 ? 9 : 3);
        }
    }
}

static void test_other_sizes(void **state)
{
    static const unsigned sizes[] = {3, 5, 6, 7, 9, 100, 255, 257, 1000, 20000, 32767};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        unsigned rounds = sizes[i] < 4096 ? 9 : 3;

        fill_and_drain(sizes[i], formats[2], EVENT_IDX, sizes[i] / 2, rounds);
        fill_and_drain(sizes[i], formats[3], EVENT_IDX, 0x8000 | (sizes[i] - 1), rounds);
        fill_and_drain(sizes[i], formats[3], 0, 0x8000, rounds);
    }
}

static void test_index_wraps(void **state)
{
    static const uint16_t bases[] = {1, 12345, 32767, 32768, 65000, 65534, 65535};

    (void)state;
    for (unsigned f = 0; f < 4; f++) {
        for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++) {
            for (unsigned num = 1; num <= 512; num *= 8) {
                uint32_t base = bases[i];

                if (formats[f][0])
                    base = (base & 0x8000) | (base & 0x7fff) % num;
                fill_and_drain(num, formats[f], i & 1 ? EVENT_IDX : 0, base, 5);
            }
        }
        fill_and_drain(32768, formats[f], EVENT_IDX, formats[f][0] ? 0x8000 | 32767 : 40000, 5);
    }
}

/* A whole turn of both 16-bit indices and more, one chain at a time. */
static void test_a_long_run(void **state)
{
    (void)state;
    for (unsigned f = 0; f < 4; f++) {
        struct rig_sides sides = {f & 2 ? 5 : 4, formats[f][0] | EVENT_IDX,
                                  formats[f][1] | EVENT_IDX, formats[f][0] ? 3 : 60000};
        struct rig rig;

        rig_init(&rig, &sides);
        for (unsigned i = 0; i < 140000; i++) {
            struct kit_buf buf = rig_buf(&rig, 8, true), seen;
            uint16_t id;

            rig_offer(&rig, &buf, 1, i);
            rig_poll(&rig);
            id = rig_take(&rig, &seen, 1);
            if (seen.gpa != buf.gpa || seen.len != 8 || !seen.write)
                fail_msg("chain %u arrives changed", i);
            rig_complete(&rig, id, 8);
            rig_poll(&rig);
            rig_expect_done(&rig, i, 8);
        }
        assert_int_equal(rig_stats(&rig).chains, 140000);
        rig_free(&rig);
    }
}

/* ---- Where a relay begins -------------------------------------------------------------------- */

/* With nothing in flight, base may be ahead of used: chains that an earlier back-end lost. */
static void test_used_index_behind_the_base(void **state)
{
    (void)state;
    for (unsigned f = 0; f < 4; f++) {
        struct rig_sides sides = {8, formats[f][0], formats[f][1], formats[f][0] ? 0x8007 : 100};
        struct kit_buf bufs[2];
        struct svq_relay_state at;
        struct rig rig;
        uint32_t base;

        rig_init(&rig, &sides);
        rig_offer_simple(&rig, 1);
        base = rig_guest_base(&rig, 1, 0);
        svq_relay_free(rig.relay);
        rig_start(&rig, base);
        at = rig_state(&rig);
        assert_int_equal(at.guest.avail, formats[f][0] ? 1 : 101);
        assert_int_equal(at.guest.used, formats[f][0] ? 7 : 100);
        assert_int_equal(at.guest.avail_wrap, false);
        assert_int_equal(at.guest.used_wrap, formats[f][0] != 0);
        assert_int_equal(at.backend.avail | at.backend.used, 0);
        assert_int_equal(at.in_flight, 0);
        assert_int_equal(rig_poll(&rig) & SVQ_RELAY_BUSY, 0);
        rig_offer_simple(&rig, 2);
        rig_settle(&rig);
        rig_complete(&rig, rig_take(&rig, bufs, 2), 5);
        rig_settle(&rig);
        rig_expect_done(&rig, 2, 5);
        assert_int_equal(rig_completed(&rig), 1);
        rig_free(&rig);
    }
}

static void test_a_guest_that_changes_its_used_index(void **state)
{
    struct rig_sides sides = {8, 0, 0, 7};
    struct kit_buf bufs[2];
    struct rig rig;

    (void)state;
    rig_init(&rig, &sides);
    rig_offer_simple(&rig, 1);
    rig_settle(&rig);
    /* The relay's own count is what matters, not what the guest makes of the ring. */
    rig.guest.split.used->idx = 4711;
    rig_complete(&rig, rig_take(&rig, bufs, 2), 1);
    rig_settle(&rig);
    assert_int_equal(rig.guest.split.used->idx, 8);
    rig_expect_done(&rig, 1, 1);
    rig_free(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_area_sizes),
        cmocka_unit_test(test_valid_sizes),
        cmocka_unit_test(test_shadow_sizes),
        cmocka_unit_test(test_packed_bases),
        cmocka_unit_test(test_refuses_bad_configs),
        cmocka_unit_test(test_when_tables_are_needed),
        cmocka_unit_test(test_zeroes_the_shadow),
        cmocka_unit_test(test_every_power_of_two),
        cmocka_unit_test(test_other_sizes),
        cmocka_unit_test(test_index_wraps),
        cmocka_unit_test(test_a_long_run),
        cmocka_unit_test(test_used_index_behind_the_base),
        cmocka_unit_test(test_a_guest_that_changes_its_used_index),
    };

    return cmocka_run_group_tests_name("sizes", tests, NULL, NULL);
}
