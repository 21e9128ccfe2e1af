/* SPDX-License-Identifier: BSD-3-Clause */
/* Dirty logs: which bit is whose, and that nothing is ever written beside them. */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>
#include <shadowvq/mem.h>

#include "kit/memory.h"
#include "kit/rng.h"

#define PAGE UINT64_C(4096)

/* A log at any offset of a file full of a pattern, to see what changes around it. */
struct fixture {
    int fd;
    uint64_t file_size;
    uint64_t offset;
    uint64_t size;
    uint8_t *file;
    struct svq_log *log;
};

static void fixture_init(struct fixture *f, uint64_t size, uint64_t offset, uint64_t tail)
{
    f->offset = offset;
    f->size = size;
    f->file_size = offset + size + tail;
    f->fd = kit_file(f->file_size);
    f->file = mmap(NULL, f->file_size, PROT_READ | PROT_WRITE, MAP_SHARED, f->fd, 0);
    kit_require(f->file != MAP_FAILED);
    memset(f->file, 0x5a, f->file_size);
    memset(f->file + offset, 0, size);
    f->log = NULL;
    assert_int_equal(svq_log_new(f->fd, size, offset, &f->log), 0);
    assert_non_null(f->log);
}

static void fixture_free(struct fixture *f)
{
    svq_log_unref(f->log);
    munmap(f->file, f->file_size);
    close(f->fd);
}

/* Exactly the pages first to last are marked, and the file around the log is as it was. */
static void expect_only(const struct fixture *f, uint64_t first, uint64_t last)
{
    for (uint64_t i = 0; i < f->file_size; i++)
        if (i < f->offset || i >= f->offset + f->size)
            assert_int_equal(f->file[i], 0x5a);
    for (uint64_t page = 0; page < f->size * 8; page++) {
        bool marked = f->file[f->offset + page / 8] & (1u << (page % 8));

        if (marked != (page >= first && page <= last))
            fail_msg("page %llu is %s", (unsigned long long)page, marked ? "marked" : "clean");
    }
}

static void clear(struct fixture *f)
{
    memset(f->file + f->offset, 0, f->size);
}

static void test_bit_order(void **state)
{
    struct fixture f;

    (void)state;
    fixture_init(&f, 8, 0, 0);
    assert_int_equal(svq_log_mark(f.log, 0, 1), 0);
    assert_int_equal(f.file[0], 0x01);
    assert_int_equal(svq_log_mark(f.log, 7 * PAGE, 1), 0);
    assert_int_equal(f.file[0], 0x81);
    assert_int_equal(svq_log_mark(f.log, 9 * PAGE, 1), 0);
    assert_int_equal(f.file[1], 0x02);
    assert_int_equal(svq_log_mark(f.log, 63 * PAGE, 1), 0);
    assert_int_equal(f.file[7], 0x80);
    assert_int_equal(f.file[0], 0x81);
    fixture_free(&f);
}

static void test_page_boundaries(void **state)
{
    static const struct {
        uint64_t gpa, len, first, last;
    } cases[] = {
        {0, 1, 0, 0},
        {0, PAGE, 0, 0},
        {0, PAGE + 1, 0, 1},
        {PAGE - 1, 1, 0, 0},
        {PAGE - 1, 2, 0, 1},
        {PAGE, PAGE, 1, 1},
        {PAGE - 1, PAGE + 2, 0, 2},
        {5 * PAGE + 7, 10 * PAGE, 5, 15},
        {7 * PAGE, 2 * PAGE, 7, 8},
        {0, 200 * PAGE, 0, 199},
        {199 * PAGE + 4095, 1, 199, 199},
    };
    struct fixture f;

    (void)state;
    fixture_init(&f, 25, 0, 100);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_true(svq_log_covers(f.log, cases[i].gpa, cases[i].len));
        assert_int_equal(svq_log_mark(f.log, cases[i].gpa, cases[i].len), 0);
        expect_only(&f, cases[i].first, cases[i].last);
        clear(&f);
    }
    fixture_free(&f);
}

static void test_length_zero_marks_nothing(void **state)
{
    struct fixture f;

    (void)state;
    fixture_init(&f, 4, 0, 0);
    assert_true(svq_log_covers(f.log, 0, 0));
    assert_true(svq_log_covers(f.log, UINT64_MAX, 0));
    assert_int_equal(svq_log_mark(f.log, 0, 0), 0);
    assert_int_equal(svq_log_mark(f.log, PAGE, 0), 0);
    assert_int_equal(svq_log_mark(f.log, 1000 * PAGE, 0), 0);
    expect_only(&f, 1, 0);
    fixture_free(&f);
}

static void test_odd_sizes_and_offsets(void **state)
{
    static const uint64_t sizes[] = {1, 3, 7, 9, 31, 4095, 4096, 4097, 5000};
    static const uint64_t offsets[] = {0, 1, 17, 4095, 4096, 4097, 12345};

    (void)state;
    for (size_t i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++) {
        for (size_t j = 0; j < sizeof(offsets) / sizeof(offsets[0]); j++) {
            uint64_t end = sizes[i] * 8;
            struct fixture f;

            fixture_init(&f, sizes[i], offsets[j], 3);
            assert_int_equal(svq_log_mark(f.log, (end - 1) * PAGE, PAGE), 0);
            expect_only(&f, end - 1, end - 1);
            assert_int_equal(svq_log_mark(f.log, 0, end * PAGE), 0);
            expect_only(&f, 0, end - 1);
            assert_int_equal(svq_log_mark(f.log, 0, end * PAGE + 1), -ERANGE);
            assert_int_equal(svq_log_mark(f.log, end * PAGE, 1), -ERANGE);
            expect_only(&f, 0, end - 1);
            fixture_free(&f);
        }
    }
}

static void test_out_of_range_sets_nothing(void **state)
{
    static const struct {
        uint64_t gpa, len;
    } cases[] = {
        {16 * PAGE, 1},
        {15 * PAGE, PAGE + 1},
        {0, 17 * PAGE},
        {0, UINT64_MAX},
        {PAGE, UINT64_MAX},
        {UINT64_MAX, 1},
        {UINT64_MAX, 2},
        {UINT64_MAX - 4095, 4096},
        {UINT64_MAX - 4095, 4097},
        {PAGE, UINT64_MAX - PAGE + 1},
        {PAGE, UINT64_MAX - PAGE + 2},
        {UINT64_C(1) << 63, UINT64_C(1) << 63},
        /* page / 8 truncated to 32 bits would be byte 0 */
        {UINT64_C(8) * 4096 << 32, 1},
    };
    struct fixture f;

    (void)state;
    fixture_init(&f, 2, 100, 100);
    for (size_t i = 0; i < sizeof(cases) / sizeof(cases[0]); i++) {
        assert_false(svq_log_covers(f.log, cases[i].gpa, cases[i].len));
        assert_int_equal(svq_log_mark(f.log, cases[i].gpa, cases[i].len), -ERANGE);
    }
    expect_only(&f, 1, 0);
    fixture_free(&f);
}

static void test_keeps_bits_of_others(void **state)
{
    struct fixture f;

    (void)state;
    fixture_init(&f, 2, 0, 0);
    f.file[0] = 0xa5;
    assert_int_equal(svq_log_mark(f.log, 1 * PAGE, PAGE), 0);
    assert_int_equal(f.file[0], 0xa7);
    assert_int_equal(svq_log_mark(f.log, 0, PAGE), 0);
    assert_int_equal(f.file[0], 0xa7);
    /* Cleared by the VMM, set again at the next write. */
    f.file[0] = 0;
    assert_int_equal(svq_log_mark(f.log, 0, PAGE), 0);
    assert_int_equal(f.file[0], 0x01);
    fixture_free(&f);
}

static void test_refuses_bad_logs(void **state)
{
    unsigned fds = kit_open_fds();
    int fd = kit_file(10000);
    struct svq_log *log = NULL;

    (void)state;
    assert_int_equal(svq_log_new(fd, 0, 0, &log), -EINVAL);
    assert_int_equal(svq_log_new(fd, 0, 5, &log), -EINVAL);
    assert_int_equal(svq_log_new(fd, UINT64_MAX, 1, &log), -EINVAL);
    assert_int_equal(svq_log_new(fd, 4096, UINT64_MAX - 4095, &log), -EINVAL);
    assert_int_equal(svq_log_new(fd, 10001, 0, &log), -ERANGE);
    assert_int_equal(svq_log_new(fd, 10000, 1, &log), -ERANGE);
    assert_int_equal(svq_log_new(fd, 1, 10000, &log), -ERANGE);
    assert_int_equal(svq_log_new(fd, UINT64_C(1) << 62, 0, &log), -ERANGE);
    assert_true(svq_log_new(-1, 4096, 0, &log) < 0);
    assert_int_equal(svq_log_new(fd, 9999, 1, &log), 0);
    svq_log_unref(log);
    close(fd);
    assert_int_equal(kit_open_fds(), fds);
}

static void test_references(void **state)
{
    struct fixture f;

    (void)state;
    fixture_init(&f, 2, 0, 0);
    assert_ptr_equal(svq_log_ref(f.log), f.log);
    svq_log_unref(f.log);
    assert_int_equal(svq_log_mark(f.log, PAGE, 1), 0);
    expect_only(&f, 1, 1);
    /* The log outlives the caller's fd. */
    close(f.fd);
    f.fd = dup(0);
    assert_int_equal(svq_log_mark(f.log, PAGE, 1), 0);
    svq_log_unref(NULL);
    fixture_free(&f);
}

static void test_random_against_a_plain_set(void **state)
{
    enum { PAGES = 808 };
    struct kit_rng rng = {1};
    bool expected[PAGES] = {false};
    struct fixture f;

    (void)state;
    fixture_init(&f, PAGES / 8, 4001, 11);
    for (unsigned round = 0; round < 20000; round++) {
        uint64_t gpa = kit_rand(&rng) % (PAGES * PAGE + 3 * PAGE);
        uint64_t len = kit_rand(&rng) % (kit_percent(&rng, 90) ? 3 * PAGE : 2 * PAGES * PAGE);
        bool fits = !len || gpa + len <= PAGES * PAGE;

        assert_int_equal(svq_log_covers(f.log, gpa, len), fits);
        assert_int_equal(svq_log_mark(f.log, gpa, len), fits ? 0 : -ERANGE);
        for (uint64_t page = gpa / PAGE; fits && len && page <= (gpa + len - 1) / PAGE; page++)
            expected[page] = true;
        if (round % 16)
            continue;
        for (unsigned page = 0; page < PAGES; page++)
            assert_int_equal(!!(f.file[4001 + page / 8] & (1u << (page % 8))), expected[page]);
        clear(&f);
        memset(expected, 0, sizeof(expected));
    }
    fixture_free(&f);
}

/* ---- Threads ------------------------------------------------------------------------------ */

/*
 * Threads of one process that mark, and a VMM that clears: played against each other in short
 * rounds on one byte, because what may go wrong lasts a few nanoseconds.
 */
enum { ROUNDS = 200000 };

struct player {
    pthread_t thread;
    struct svq_log *log;
    uint8_t *byte;
    unsigned bit;
    unsigned bad;
};

/* Sets and clears a bit that is nobody else's; others do the same to the byte's other bits. */
static void *set_and_clear(void *arg)
{
    struct player *p = arg;
    uint8_t mask = (uint8_t)(1u << p->bit);

    for (unsigned round = 0; round < ROUNDS; round++) {
        p->bad += svq_log_mark(p->log, p->bit * PAGE, 1) != 0;
        for (unsigned look = 0; look < 8; look++)
            p->bad += !(__atomic_load_n(p->byte, __ATOMIC_RELAXED) & mask);
        __atomic_fetch_and(p->byte, (uint8_t)~mask, __ATOMIC_SEQ_CST);
        for (unsigned look = 0; look < 8; look++)
            p->bad += !!(__atomic_load_n(p->byte, __ATOMIC_RELAXED) & mask);
    }
    return NULL;
}

static void test_concurrent_marks_are_not_lost(void **state)
{
    struct player players[2];
    struct fixture f;

    (void)state;
    fixture_init(&f, 1, 0, 0);
    for (unsigned i = 0; i < 2; i++) {
        players[i] = (struct player){.log = f.log, .byte = &f.file[0], .bit = 3 * i};
        kit_require(!pthread_create(&players[i].thread, NULL, set_and_clear, &players[i]));
    }
    for (unsigned i = 0; i < 2; i++) {
        kit_require(!pthread_join(players[i].thread, NULL));
        assert_int_equal(players[i].bad, 0);
    }
    fixture_free(&f);
}

/*
 * A writer changes a page and marks it, while the VMM takes the bits with an exchange and then
 * reads the page. However they interleave, once both are done the VMM has either the last write or
 * a bit that tells of it. The bit is set beforehand: the writer may leave it alone only if that is
 * safe.
 */
struct writer {
    struct svq_log *log;
    const uint8_t *byte;
    unsigned bad;
    bool stop;
    _Alignas(128) uint32_t round;
    _Alignas(128) uint32_t done;
    _Alignas(128) uint32_t page;
    uint32_t page_touched; /* by the VMM: the writer's store has to fetch the cache line first */
};

static void wait_for(const uint32_t *value, uint32_t wanted)
{
    for (unsigned spin = 0; __atomic_load_n(value, __ATOMIC_ACQUIRE) != wanted; spin++)
        if (spin % 1024 == 1023)
            sched_yield();
}

static void *write_and_mark(void *arg)
{
    struct writer *w = arg;

    for (uint32_t round = 1;; round++) {
        wait_for(&w->round, round);
        if (w->stop)
            return NULL;
        /* A cached look at the bit is fast, the store below is slow: what a fence has to order. */
        w->bad += __atomic_load_n(w->byte, __ATOMIC_RELAXED) & ~8;
        __atomic_store_n(&w->page, round, __ATOMIC_RELAXED);
        w->bad += svq_log_mark(w->log, 3 * PAGE, 4) != 0;
        __atomic_store_n(&w->done, round, __ATOMIC_RELEASE);
    }
}

static void test_a_harvest_never_misses_a_write(void **state)
{
    struct kit_rng rng = {3};
    struct fixture f;
    struct writer w = {0};
    pthread_t thread;
    unsigned missed = 0, aim = 100, round;
    time_t end = time(NULL) + 5; /* enough, even where the two have to share a processor */

    (void)state;
    fixture_init(&f, 1, 0, 0);
    w.log = f.log;
    w.byte = &f.file[0];
    kit_require(!pthread_create(&thread, NULL, write_and_mark, &w));
    for (round = 1; round <= ROUNDS && time(NULL) < end; round++) {
        uint32_t copy = 0, delay = kit_below(&rng, 2 * aim);

        __atomic_store_n(&f.file[0], 8, __ATOMIC_RELAXED);
        __atomic_store_n(&w.page_touched, round, __ATOMIC_RELAXED);
        __atomic_store_n(&w.round, round, __ATOMIC_RELEASE);
        while (delay--)
            __asm__ volatile("");
        if (__atomic_exchange_n(&f.file[0], 0, __ATOMIC_SEQ_CST))
            copy = __atomic_load_n(&w.page, __ATOMIC_RELAXED);
        /* Before the write or after it? Keep both as close together as can be. */
        if (copy != round)
            aim += aim < 5000;
        else if (aim > 2)
            aim--;
        wait_for(&w.done, round);
        if (__atomic_exchange_n(&f.file[0], 0, __ATOMIC_SEQ_CST))
            copy = __atomic_load_n(&w.page, __ATOMIC_RELAXED);
        missed += copy != round;
    }
    w.stop = true;
    __atomic_store_n(&w.round, round, __ATOMIC_RELEASE);
    kit_require(!pthread_join(thread, NULL));
    assert_int_equal(w.bad, 0);
    assert_int_equal(missed, 0);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bit_order),
        cmocka_unit_test(test_page_boundaries),
        cmocka_unit_test(test_length_zero_marks_nothing),
        cmocka_unit_test(test_odd_sizes_and_offsets),
        cmocka_unit_test(test_out_of_range_sets_nothing),
        cmocka_unit_test(test_keeps_bits_of_others),
        cmocka_unit_test(test_refuses_bad_logs),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_random_against_a_plain_set),
        cmocka_unit_test(test_concurrent_marks_are_not_lost),
        cmocka_unit_test(test_a_harvest_never_misses_a_write),
    };

    return cmocka_run_group_tests_name("log", tests, NULL, NULL);
}
