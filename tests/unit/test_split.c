/* SPDX-License-Identifier: BSD-3-Clause */
/* The split ring's geometry: sizes, indices and their wraps, at every ring size. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

static void test_part_sizes(void **state)
{
    (void)state;
    for (unsigned num = 1; num <= SVQ_RING_MAX; num *= 2) {
        assert_int_equal(svq_split_desc_size(num), 16 * num);
        assert_int_equal(svq_split_avail_size(num), 6 + 2 * num);
        assert_int_equal(svq_split_used_size(num), 6 + 8 * num);
    }
}

static int try_new(struct svq_relay_config config)
{
    struct svq_relay *relay = NULL;
    int err = svq_relay_new(&config, &relay);

    if (!err)
        svq_relay_free(relay);
    return err;
}

static void test_refuses_bad_configs(void **state)
{
    static const unsigned sizes[] = {0, 3, 6, 100, 32767, 32769, 65536, 0x80000000, UINT32_MAX};
    struct svq_relay_config good, bad;
    struct rig rig;

    (void)state;
    rig_init(&rig, 64, 0, 0);
    good = rig_config(&rig, 0);
    assert_int_equal(try_new(good), 0);
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        bad = good;
        bad.num = sizes[i];
        assert_int_equal(try_new(bad), -EINVAL);
    }
    for (unsigned i = 0; i < 6; i++) {
        struct svq_split_mem *ring;

        bad = good;
        ring = i < 3 ? &bad.guest : &bad.backend;
        if (i % 3 == 0)
            ring->desc = NULL;
        else if (i % 3 == 1)
            ring->avail = NULL;
        else
            ring->used = NULL;
        assert_int_equal(try_new(bad), -EINVAL);
    }
    bad = good;
    bad.features = SVQ_BIT(SVQ_F_RING_PACKED);
    assert_int_equal(try_new(bad), -ENOTSUP);
    bad.features = EVENT_IDX | SVQ_BIT(SVQ_F_RING_PACKED) | INDIRECT;
    assert_int_equal(try_new(bad), -ENOTSUP);
    rig_free(&rig);
    svq_relay_free(NULL);
}

static bool all_zero(const void *p, size_t size)
{
    const uint8_t *bytes = p;

    for (size_t i = 0; i < size; i++)
        if (bytes[i])
            return false;
    return true;
}

static void test_zeroes_the_shadow_and_only_that(void **state)
{
    static const unsigned sizes[] = {1, 2, 128, 32768};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        struct svq_relay_config config;
        struct rig rig;
        uint8_t *end;

        rig_init(&rig, sizes[i], EVENT_IDX, 0);
        end = (uint8_t *)rig.shadow.used + kit_split_used_bytes(sizes[i]);
        svq_relay_free(rig.relay);
        memset(rig.shadow_memory, 0xa5, (size_t)(end - (uint8_t *)rig.shadow_memory));
        config = rig_config(&rig, 0);
        assert_int_equal(svq_relay_new(&config, &rig.relay), 0);
        assert_true(all_zero(rig.shadow.desc, 16 * sizes[i]));
        assert_true(all_zero(&rig.shadow.avail->idx, 2 + 2 * sizes[i]));
        assert_true(all_zero(rig.shadow.used, kit_split_used_bytes(sizes[i])));
        rig_free(&rig);
    }
}

/* Rounds of as many chains as the ring can hold, so that every slot and every entry is used. */
static void fill_and_drain(unsigned num, uint64_t features, uint16_t base, unsigned rounds)
{
    struct rig rig;

    rig_init(&rig, num, features, base);
    for (unsigned round = 0; round < rounds; round++) {
        uint16_t before = (uint16_t)(base + round * num), after = (uint16_t)(before + num);
        struct svq_relay_state at;

        for (unsigned i = 0; i < num; i++) {
            struct kit_buf buf = rig_buf(&rig, 16, i & 1);

            rig_offer(&rig, &buf, 1, i + 1);
        }
        assert_true(rig_poll(&rig) & SVQ_RELAY_BUSY);
        at = rig_state(&rig);
        assert_int_equal(at.guest_avail, after);
        assert_int_equal(at.guest_used, before);
        assert_int_equal(at.backend_avail, (uint16_t)((round + 1) * num));
        assert_int_equal(at.backend_used, (uint16_t)(round * num));
        assert_int_equal(at.in_flight, num);
        assert_int_equal(rig_serve(&rig, 16), num);
        assert_true(rig_poll(&rig) & SVQ_RELAY_BUSY);
        at = rig_state(&rig);
        assert_int_equal(at.guest_used, after);
        assert_int_equal(at.in_flight, 0);
        assert_int_equal(rig.guest.used->idx, after);
        for (unsigned i = 0; i < num; i++)
            rig_expect_done(&rig, i + 1, i & 1 ? 16 : 0);
        rig_expect_nothing_done(&rig);
        assert_int_equal(svq_relay_poll(rig.relay), 0);
    }
    assert_int_equal(rig_stats(&rig).chains, (uint64_t)num * rounds);
    assert_int_equal(rig_stats(&rig).bytes, (uint64_t)num * rounds * 16);
    rig_free(&rig);
}

static void test_every_size(void **state)
{
    (void)state;
    for (unsigned num = 1; num <= SVQ_RING_MAX; num *= 2) {
        fill_and_drain(num, 0, 0, num < 4096 ? 9 : 3);
        fill_and_drain(num, EVENT_IDX, 0, num < 4096 ? 9 : 3);
    }
}

static void test_index_wraps(void **state)
{
    static const uint16_t bases[] = {1, 12345, 32767, 32768, 65000, 65534, 65535};

    (void)state;
    for (size_t i = 0; i < sizeof(bases) / sizeof(bases[0]); i++)
        for (unsigned num = 1; num <= 512; num *= 8)
            fill_and_drain(num, i & 1 ? EVENT_IDX : 0, bases[i], 5);
    fill_and_drain(32768, EVENT_IDX, 40000, 5);
}

/* A whole turn of both 16-bit indices and more, one chain at a time. */
static void test_a_long_run(void **state)
{
    struct rig rig;

    (void)state;
    rig_init(&rig, 4, EVENT_IDX, 60000);
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

/* With nothing in flight, base may be ahead of used: chains that an earlier back-end lost. */
static void test_used_index_continues_from_the_ring(void **state)
{
    struct kit_buf bufs[2];
    struct svq_relay_state at;
    struct rig rig;

    (void)state;
    rig_init(&rig, 8, 0, 100);
    rig_offer_simple(&rig, 1);
    svq_relay_free(rig.relay);
    rig_start(&rig, 101);
    at = rig_state(&rig);
    assert_int_equal(at.guest_avail, 101);
    assert_int_equal(at.guest_used, 100);
    assert_int_equal(at.backend_avail, 0);
    assert_int_equal(at.in_flight, 0);
    assert_int_equal(rig_poll(&rig) & SVQ_RELAY_BUSY, 0);
    rig_offer_simple(&rig, 2);
    rig_settle(&rig);
    rig_complete(&rig, rig_take(&rig, bufs, 2), 5);
    rig_settle(&rig);
    rig_expect_done(&rig, 2, 5);
    assert_int_equal(rig.guest.used->idx, 101);
    rig_free(&rig);
}

static void test_a_guest_that_changes_its_used_index(void **state)
{
    struct kit_buf bufs[2];
    struct rig rig;

    (void)state;
    rig_init(&rig, 8, 0, 7);
    rig_offer_simple(&rig, 1);
    rig_settle(&rig);
    /* The relay's own count is what matters, not what the guest makes of the ring. */
    rig.guest.used->idx = 4711;
    rig_complete(&rig, rig_take(&rig, bufs, 2), 1);
    rig_settle(&rig);
    assert_int_equal(rig.guest.used->idx, 8);
    rig_expect_done(&rig, 1, 1);
    rig_free(&rig);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_part_sizes),
        cmocka_unit_test(test_refuses_bad_configs),
        cmocka_unit_test(test_zeroes_the_shadow_and_only_that),
        cmocka_unit_test(test_every_size),
        cmocka_unit_test(test_index_wraps),
        cmocka_unit_test(test_a_long_run),
        cmocka_unit_test(test_used_index_continues_from_the_ring),
        cmocka_unit_test(test_a_guest_that_changes_its_used_index),
    };

    return cmocka_run_group_tests_name("split", tests, NULL, NULL);
}
