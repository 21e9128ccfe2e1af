/* SPDX-License-Identifier: BSD-3-Clause */
/* The memory of an in-flight region: where its parts are, and what is none. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#include "mem/inflight_memory.h"

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* Written out once more: 64 bytes are what libvhost-user and DPDK round to. */
static uint64_t part_size(enum svq_ring_format format, unsigned num)
{
    uint64_t size = format == SVQ_RING_PACKED ? 32 + 32 * num : 16 + 16 * num;

    return (size + 63) / 64 * 64;
}

static void test_parts(void **state)
{
    static const unsigned nums[] = {1, 2, 3, 64, 100, 1024, 32768};

    (void)state;
    for (unsigned f = 0; f < 2; f++) {
        enum svq_ring_format format = f ? SVQ_RING_PACKED : SVQ_RING_SPLIT;

        for (size_t n = 0; n < COUNT(nums); n++) {
            struct inflight_memory *memory;
            uint64_t size = part_size(format, nums[n]);

            assert_int_equal(inflight_memory_new(format, 5, nums[n], &memory), 0);
            assert_int_equal(memory->what.mmap_size, 5 * size);
            for (unsigned i = 0; i < 5; i++) {
                uint8_t *part = inflight_memory_part(memory, format, i, nums[n]);

                assert_ptr_equal(part, memory->host + i * size);
                memset(part, i + 1, size);
                assert_ptr_equal(inflight_memory_part(memory, format, i, 1), part);
                assert_null(inflight_memory_part(memory, format, i, 0));
                assert_null(inflight_memory_part(memory, format, i, nums[n] + 1));
            }
            assert_int_equal(memory->host[size - 1], 1);
            assert_null(inflight_memory_part(memory, format, 5, 1));
            assert_null(inflight_memory_part(memory, format, UINT32_MAX, 1));
            inflight_memory_free(memory);
        }
    }
    assert_null(inflight_memory_part(NULL, SVQ_RING_SPLIT, 0, 1));
}

/* A region for split rings holds fewer parts for packed ones, and none beyond its end. */
static void test_another_format(void **state)
{
    struct inflight_memory *memory;

    (void)state;
    assert_int_equal(inflight_memory_new(SVQ_RING_SPLIT, 4, 64, &memory), 0);
    for (unsigned i = 0; i < 4; i++) {
        uint64_t end = (i + 1) * part_size(SVQ_RING_PACKED, 64);
        const uint8_t *part = inflight_memory_part(memory, SVQ_RING_PACKED, i, 64);

        assert_int_equal(part != NULL, end <= memory->what.mmap_size);
    }
    assert_non_null(inflight_memory_part(memory, SVQ_RING_PACKED, 0, 64));
    assert_null(inflight_memory_part(memory, SVQ_RING_PACKED, 3, 64));
    inflight_memory_free(memory);
}

static void test_two_maps_of_one_file(void **state)
{
    struct inflight_memory *ours, *theirs;
    struct svq_vu_inflight what;
    int fd, other;

    (void)state;
    assert_int_equal(inflight_memory_new(SVQ_RING_SPLIT, 2, 16, &ours), 0);
    what = ours->what;
    fd = dup(ours->fd);
    assert_true(fd >= 0);
    assert_int_equal(inflight_memory_map(fd, &what, SVQ_RING_SPLIT, &theirs), 0);
    ours->host[what.mmap_size - 1] = 42;
    assert_int_equal(theirs->host[what.mmap_size - 1], 42);
    assert_true(inflight_memory_is(ours, theirs->fd, &what));
    what.queue_size--;
    assert_false(inflight_memory_is(ours, theirs->fd, &what));
    what = ours->what;
    what.mmap_offset = 8;
    assert_false(inflight_memory_is(ours, theirs->fd, &what));
    other = memfd_create("other", MFD_CLOEXEC);
    assert_false(inflight_memory_is(ours, other, &ours->what));
    assert_false(inflight_memory_is(NULL, other, &ours->what));
    close(other);
    /* Sealed: whoever has it cannot take it away from the others. */
    assert_int_equal(ftruncate(theirs->fd, 64), -1);
    assert_int_equal(fcntl(theirs->fd, F_ADD_SEALS, F_SEAL_WRITE), -1);
    inflight_memory_free(ours);
    theirs->host[0] = 1;
    inflight_memory_free(theirs);
    assert_int_equal(fcntl(fd, F_GETFD), -1);
}

static void test_what_is_none(void **state)
{
    static const struct svq_vu_inflight cases[] = {
        {.mmap_size = 4096, .num_queues = 0, .queue_size = 64},
        {.mmap_size = 4096, .num_queues = 257, .queue_size = 1},
        {.mmap_size = 4096, .num_queues = 1, .queue_size = 0},
        {.mmap_size = 1 << 20, .num_queues = 1, .queue_size = 32769},
        {.mmap_size = 1087, .num_queues = 1, .queue_size = 64},
        {.mmap_size = 2175, .num_queues = 2, .queue_size = 64},
        {.mmap_size = 4096, .num_queues = 1, .queue_size = 64, .mmap_offset = 4},
        {.mmap_size = 4096, .num_queues = 1, .queue_size = 64, .mmap_offset = 1 << 20},
        {.mmap_size = UINT64_MAX, .num_queues = 1, .queue_size = 64},
        {.mmap_size = 4096, .num_queues = 1, .queue_size = 64, .mmap_offset = UINT64_MAX - 7},
        {.mmap_size = UINT64_MAX - 4095, .num_queues = 1, .queue_size = 1, .mmap_offset = 4096},
    };
    int fd = memfd_create("case", MFD_CLOEXEC);

    (void)state;
    assert_int_equal(ftruncate(fd, 1 << 20), 0);
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct inflight_memory *memory = NULL;
        int err = inflight_memory_map(fd, &cases[i], SVQ_RING_SPLIT, &memory);

        assert_true(err == -EINVAL || err == -ERANGE);
        assert_null(memory);
    }
    /* The fd is still the caller's. */
    assert_int_equal(close(fd), 0);
    assert_int_equal(inflight_memory_new(SVQ_RING_SPLIT, 0, 1, &(struct inflight_memory *){NULL}),
                     -EINVAL);
    assert_int_equal(
        inflight_memory_new(SVQ_RING_PACKED, 1, 32769, &(struct inflight_memory *){NULL}), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts),
        cmocka_unit_test(test_another_format),
        cmocka_unit_test(test_two_maps_of_one_file),
        cmocka_unit_test(test_what_is_none),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
