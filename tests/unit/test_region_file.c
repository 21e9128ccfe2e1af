/* SPDX-License-Identifier: BSD-3-Clause */
/* Where shadow rings and their tables lie: inside of the file, apart from each other, aligned. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>

#include "mem/region_file.h"

#define MIB   (UINT64_C(1) << 20)
#define RINGS SVQ_REGION_RINGS

/* What one ring was given. */
struct given {
    enum svq_ring_format format;
    unsigned num;
    size_t tables;
    struct svq_ring_place place;
    uint64_t end;
};

static struct svq_region_file *file_for(unsigned rings, bool tables)
{
    struct svq_region_file *file = NULL;

    assert_int_equal(svq_region_file_new(rings, tables, &file), 0);
    assert_int_equal(file->size % SVQ_REGION_ALIGN, 0);
    return file;
}

static bool give(struct svq_region_file *file, unsigned ring, struct given *g)
{
    struct svq_ring_place *p = &g->place;

    if (!svq_region_file_place(file, ring, g->format, g->num, g->tables, p))
        return false;
    assert_ptr_equal(p->host.desc, file->host + p->desc);
    assert_ptr_equal(p->host.driver, file->host + p->driver);
    assert_ptr_equal(p->host.device, file->host + p->device);
    assert_ptr_equal(p->tables_host, file->host + p->tables);
    assert_int_equal(p->desc % 16, 0);
    assert_int_equal(p->driver % 4, 0);
    assert_int_equal(p->device % 4, 0);
    assert_int_equal(p->tables % 16, 0);
    assert_true(p->driver >= p->desc + svq_vring_desc_size(g->format, g->num));
    assert_true(p->device >= p->driver + svq_vring_driver_size(g->format, g->num));
    assert_true(p->tables >= p->device + svq_vring_device_size(g->format, g->num));
    g->end = p->tables + g->tables;
    assert_true(g->end <= file->size);
    return true;
}

static void assert_apart(const struct given *given, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        for (unsigned j = 0; j < i; j++)
            assert_true(given[i].end <= given[j].place.desc || given[j].end <= given[i].place.desc);
}

static void test_rings_of_any_kind_lie_apart(void **state)
{
    static const unsigned nums[] = {1, 2, 3, 100, 128, 256, 1000, 1024};
    struct svq_region_file *file = file_for(64, true);
    struct given given[64];

    (void)state;
    for (unsigned i = 0; i < 64; i++) {
        given[i] = (struct given){
            .format = i % 3 ? SVQ_RING_SPLIT : SVQ_RING_PACKED,
            .num = nums[i % 8],
            .tables = i % 2 ? svq_relay_tables_max(nums[i % 8]) : 0,
        };
        assert_true(give(file, i, &given[i]));
    }
    assert_apart(given, 64);
    /* All of it is ours to write. */
    for (unsigned i = 0; i < 64; i++)
        memset(file->host + given[i].place.desc, 0xff, given[i].end - given[i].place.desc);
    svq_region_file_unref(file);
}

static void test_what_the_file_is_made_for_fits(void **state)
{
    static const unsigned counts[] = {1, 8, 32, 100, RINGS};

    (void)state;
    for (unsigned i = 0; i < 5; i++) {
        struct given given = {.format = SVQ_RING_SPLIT, .num = 1024};
        struct svq_region_file *file = file_for(counts[i], false);

        assert_true(file->size <= 8 * MIB);
        for (unsigned ring = 0; ring < counts[i]; ring++)
            assert_true(give(file, ring, &given));
        svq_region_file_unref(file);

        given.tables = svq_relay_tables_max(given.num);
        file = file_for(counts[i], true);
        assert_true(file->size <= 32 * MIB);
        for (unsigned ring = 0; ring < counts[i] && ring < 100; ring++)
            assert_true(give(file, ring, &given));
        svq_region_file_unref(file);
    }
}

static void test_a_few_of_the_largest_fit(void **state)
{
    (void)state;
    for (unsigned tables = 0; tables < 2; tables++) {
        struct svq_region_file *file = file_for(8, tables);
        struct given given = {.format = SVQ_RING_SPLIT, .num = SVQ_RING_MAX};

        given.tables = tables ? svq_relay_tables_max(given.num) : 0;
        for (unsigned ring = 0; ring < 4; ring++)
            assert_true(give(file, ring, &given));
        svq_region_file_unref(file);
    }
}

static void test_a_place_stays(void **state)
{
    struct svq_region_file *file = file_for(8, true);
    struct given first = {.format = SVQ_RING_PACKED, .num = 256};
    struct given other = first, again = first;

    (void)state;
    assert_true(give(file, 5, &first));
    assert_true(give(file, 200, &other));
    assert_true(give(file, 5, &again));
    assert_int_equal(again.place.desc, first.place.desc);
    assert_int_not_equal(other.place.desc, first.place.desc);
    svq_region_file_unref(file);
}

static void test_another_size_gives_the_old_place_back(void **state)
{
    struct svq_region_file *file = file_for(8, false);
    struct given given[8];

    (void)state;
    /* More than the file would hold if anything was lost. */
    for (unsigned round = 0; round < 500; round++) {
        for (unsigned i = 0; i < 8; i++) {
            given[i] = (struct given){
                .format = round % 2 ? SVQ_RING_SPLIT : SVQ_RING_PACKED,
                .num = 1u << (round * 7 + i * 3) % 15,
            };
            assert_true(give(file, i, &given[i]));
        }
        assert_apart(given, 8);
    }
    svq_region_file_unref(file);
}

static void test_what_does_not_fit_harms_nobody(void **state)
{
    struct svq_region_file *file = file_for(8, false);
    struct given large = {.format = SVQ_RING_SPLIT, .num = SVQ_RING_MAX}, more = large;
    struct given huge = {.format = SVQ_RING_SPLIT, .num = 1, .tables = file->size};
    unsigned fitted = 0;

    (void)state;
    assert_false(give(file, 100, &huge));
    while (give(file, fitted, &large))
        fitted++;
    assert_true(fitted >= 4);
    assert_false(give(file, fitted, &more));
    /* The last one's place, given back, is the next one's. */
    more.num = 1;
    assert_true(give(file, fitted - 1, &more));
    assert_true(give(file, fitted, &large));
    svq_region_file_unref(file);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_rings_of_any_kind_lie_apart),
        cmocka_unit_test(test_what_the_file_is_made_for_fits),
        cmocka_unit_test(test_a_few_of_the_largest_fit),
        cmocka_unit_test(test_a_place_stays),
        cmocka_unit_test(test_another_size_gives_the_old_place_back),
        cmocka_unit_test(test_what_does_not_fit_harms_nobody),
    };

    return cmocka_run_group_tests_name("region_file", tests, NULL, NULL);
}
