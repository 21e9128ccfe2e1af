/* SPDX-License-Identifier: BSD-3-Clause */
/* Memory maps: what is accepted as guest memory, and what an address in it may mean. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>
#include <shadowvq/mem.h>

#include "kit/memory.h"

#define MIB   (UINT64_C(1) << 20)
#define UADDR UINT64_C(0x7f1200000000)

/* One file of 4 MiB, byte i of page p is p; regions below point into it. */
static int file;

static int open_file(void **state)
{
    uint8_t *bytes;

    (void)state;
    file = kit_file(4 * MIB);
    bytes = mmap(NULL, 4 * MIB, PROT_WRITE, MAP_SHARED, file, 0);
    kit_require(bytes != MAP_FAILED);
    for (uint64_t i = 0; i < 4 * MIB; i++)
        bytes[i] = (uint8_t)(i / 4096);
    munmap(bytes, 4 * MIB);
    return 0;
}

static int close_file(void **state)
{
    (void)state;
    close(file);
    return 0;
}

static struct svq_region region(uint64_t gpa, uint64_t size, uint64_t uaddr, uint64_t offset)
{
    return (struct svq_region){gpa, size, uaddr, offset, file};
}

static struct svq_map *map_of(const struct svq_region *regions, size_t count)
{
    struct svq_map *map = NULL;

    assert_int_equal(svq_map_new(regions, count, NULL, &map), 0);
    assert_non_null(map);
    return map;
}

/* A pair of regions must be refused, whichever comes first; and nothing may leak. */
static void refuse(struct svq_region a, struct svq_region b, int error)
{
    struct svq_region regions[2] = {a, b};
    struct svq_region swapped[2] = {b, a};
    unsigned fds = kit_open_fds();
    struct svq_map *map = NULL;

    assert_int_equal(svq_map_new(regions, 2, NULL, &map), error);
    assert_int_equal(svq_map_new(swapped, 2, NULL, &map), error);
    assert_int_equal(kit_open_fds(), fds);
}

static void refuse_one(struct svq_region a, int error)
{
    unsigned fds = kit_open_fds();
    struct svq_map *map = NULL;

    assert_int_equal(svq_map_new(&a, 1, NULL, &map), error);
    assert_int_equal(kit_open_fds(), fds);
}

static void test_translates(void **state)
{
    struct svq_region regions[2] = {region(0x100000, MIB, UADDR, 0),
                                    region(0x900000, MIB, UADDR + 8 * MIB, MIB)};
    struct svq_map *map = map_of(regions, 2);
    uint8_t *p;

    (void)state;
    p = svq_map_gpa(map, 0x100000, MIB);
    assert_non_null(p);
    assert_int_equal(p[0x3000], 3);
    assert_ptr_equal(svq_map_gpa(map, 0x103000, 1), p + 0x3000);
    assert_ptr_equal(svq_map_uaddr(map, UADDR + 0x3000, 1), p + 0x3000);
    p = svq_map_gpa(map, 0x900000, MIB);
    assert_non_null(p);
    assert_int_equal(p[0], 0x100 % 256);
    assert_int_equal(p[0x2000], 0x102 % 256);
    assert_ptr_equal(svq_map_uaddr(map, UADDR + 8 * MIB + 0x2000, 16), p + 0x2000);
    /* Each kind of address in its own translation only. */
    assert_null(svq_map_uaddr(map, 0x100000, 1));
    assert_null(svq_map_gpa(map, UADDR, 1));
    svq_map_unref(map);
}

static void test_mapping_is_shared_and_writable(void **state)
{
    struct svq_region r = region(0, MIB, UADDR, 0);
    struct svq_map *map = map_of(&r, 1);
    uint8_t *p = svq_map_gpa(map, 0x5123, 1);
    uint8_t seen;

    (void)state;
    assert_non_null(p);
    *p = 0xee;
    assert_int_equal(pread(file, &seen, 1, 0x5123), 1);
    assert_int_equal(seen, 0xee);
    *p = 5;
    svq_map_unref(map);
}

static void test_lengths_at_the_edges(void **state)
{
    struct svq_region r = region(0x100000, MIB, UADDR, 0);
    struct svq_map *map = map_of(&r, 1);

    (void)state;
    assert_non_null(svq_map_gpa(map, 0x100000, MIB));
    assert_null(svq_map_gpa(map, 0x100000, MIB + 1));
    assert_null(svq_map_gpa(map, 0x0fffff, 1));
    assert_null(svq_map_gpa(map, 0x0fffff, 2));
    assert_non_null(svq_map_gpa(map, 0x1fffff, 1));
    assert_null(svq_map_gpa(map, 0x1fffff, 2));
    assert_null(svq_map_gpa(map, 0x200000, 1));
    assert_non_null(svq_map_uaddr(map, UADDR + MIB - 1, 1));
    assert_null(svq_map_uaddr(map, UADDR + MIB - 1, 2));
    assert_null(svq_map_uaddr(map, UADDR - 1, 2));
    assert_null(svq_map_uaddr(map, UADDR + MIB, 1));
    svq_map_unref(map);
}

static void test_length_zero(void **state)
{
    struct svq_region r = region(0x100000, MIB, UADDR, 0);
    struct svq_map *map = map_of(&r, 1);

    (void)state;
    assert_non_null(svq_map_gpa(map, 0x100000, 0));
    assert_non_null(svq_map_gpa(map, 0x1fffff, 0));
    assert_null(svq_map_gpa(map, 0x200000, 0));
    assert_null(svq_map_gpa(map, 0x0fffff, 0));
    assert_non_null(svq_map_uaddr(map, UADDR, 0));
    assert_null(svq_map_uaddr(map, UADDR + MIB, 0));
    svq_map_unref(map);
}

static void test_lengths_that_wrap(void **state)
{
    struct svq_region r = region(0x100000, MIB, UADDR, 0);
    struct svq_map *map = map_of(&r, 1);
    unsigned hint = 0;

    (void)state;
    assert_null(svq_map_gpa(map, 0x100000, UINT64_MAX));
    assert_null(svq_map_gpa(map, 0x180000, UINT64_MAX - 0x180000 + 1));
    assert_null(svq_map_gpa(map, 0x180000, UINT64_MAX - 0x100000));
    assert_null(svq_map_gpa(map, UINT64_MAX, 1));
    assert_null(svq_map_gpa(map, UINT64_MAX, UINT64_MAX));
    assert_null(svq_map_uaddr(map, UADDR + 4096, UINT64_MAX - UADDR));
    assert_null(svq_map_uaddr(map, UADDR, UINT64_MAX));
    assert_false(svq_map_holds(map, 0x180000, UINT64_MAX, &hint));
    assert_false(svq_map_holds(map, 0x180000, UINT64_MAX - 0x180000 + 1, &hint));
    assert_false(svq_map_holds(map, UINT64_MAX, 2, &hint));
    svq_map_unref(map);
}

/* No range goes on at 0 after the top, although memory may lie at both ends. */
static void test_the_top_of_the_address_space(void **state)
{
    struct svq_region regions[2] = {region(UINT64_MAX - MIB + 1, MIB, UADDR, 0),
                                    region(0, MIB, UADDR + MIB, MIB)};
    struct svq_map *map = map_of(regions, 2);

    (void)state;
    assert_non_null(svq_map_gpa(map, UINT64_MAX, 1));
    assert_null(svq_map_gpa(map, UINT64_MAX, 2));
    for (unsigned start = 0; start < 2; start++) {
        unsigned hint = start;

        assert_true(svq_map_holds(map, UINT64_MAX - 9, 10, &hint));
        assert_false(svq_map_holds(map, UINT64_MAX - 9, 11, &hint));
        assert_false(svq_map_holds(map, UINT64_MAX - MIB + 1, 2 * MIB, &hint));
        assert_true(svq_map_holds(map, 0, MIB, &hint));
    }
    svq_map_unref(map);
}

static void test_a_range_over_two_regions(void **state)
{
    struct svq_region regions[3] = {region(2 * MIB, MIB, UADDR + 2 * MIB, 2 * MIB),
                                    region(0, MIB, UADDR, 0), region(MIB, MIB, UADDR + MIB, MIB)};
    struct svq_map *map = map_of(regions, 3);
    unsigned hint = 0;

    (void)state;
    /* Adjacent as they are, one pointer cannot promise more than its own region (CVE-2018-1059). */
    assert_null(svq_map_gpa(map, MIB - 8, 16));
    assert_null(svq_map_uaddr(map, UADDR + MIB - 8, 16));
    assert_true(svq_map_holds(map, MIB - 8, 16, &hint));
    assert_true(svq_map_holds(map, MIB - 8, MIB + 16, &hint));
    assert_true(svq_map_holds(map, 0, 3 * MIB, &hint));
    assert_false(svq_map_holds(map, 0, 3 * MIB + 1, &hint));
    assert_false(svq_map_holds(map, 3 * MIB - 1, 2, &hint));
    assert_true(svq_map_holds(map, 3 * MIB - 1, 1, &hint));
    assert_false(svq_map_holds(map, 3 * MIB, 1, &hint));
    svq_map_unref(map);
}

static void test_holds_minds_the_gap(void **state)
{
    struct svq_region regions[2] = {region(MIB, MIB, UADDR, 0),
                                    region(2 * MIB + 4096, MIB, UADDR + 2 * MIB, MIB)};
    struct svq_map *map = map_of(regions, 2);

    (void)state;
    for (unsigned start = 0; start < 2; start++) {
        unsigned hint = start;

        assert_true(svq_map_holds(map, MIB, MIB, &hint));
        assert_false(svq_map_holds(map, MIB, MIB + 1, &hint));
        assert_false(svq_map_holds(map, 2 * MIB - 1, 4098, &hint));
        assert_false(svq_map_holds(map, 2 * MIB + 4095, 2, &hint));
        assert_true(svq_map_holds(map, 2 * MIB + 4096, MIB, &hint));
        assert_true(svq_map_holds(map, 2 * MIB + 4096, 0, &hint));
        assert_false(svq_map_holds(map, 0, 1, &hint));
    }
    svq_map_unref(map);
}

static void test_holds_takes_any_hint(void **state)
{
    struct svq_region r = region(MIB, MIB, UADDR, 0);
    struct svq_map *map = map_of(&r, 1);
    unsigned hint = 7; /* as left from an older, larger map */

    (void)state;
    assert_true(svq_map_holds(map, MIB, 16, &hint));
    assert_int_equal(hint, 0);
    hint = UINT32_MAX;
    assert_false(svq_map_holds(map, 0, 16, &hint));
    svq_map_unref(map);
}

static void test_refuses_overlaps(void **state)
{
    (void)state;
    /* By guest-physical address: same, partial, contained, one byte. */
    refuse(region(0, MIB, UADDR, 0), region(0, MIB, UADDR + 2 * MIB, 0), -EINVAL);
    refuse(region(0, MIB, UADDR, 0), region(MIB / 2, MIB, UADDR + 2 * MIB, 0), -EINVAL);
    refuse(region(0, 2 * MIB, UADDR, 0), region(4096, 4096, UADDR + 2 * MIB, 0), -EINVAL);
    refuse(region(0, MIB, UADDR, 0), region(MIB - 1, MIB, UADDR + 2 * MIB, 0), -EINVAL);
    /* The same by user address. */
    refuse(region(0, MIB, UADDR, 0), region(4 * MIB, MIB, UADDR, 0), -EINVAL);
    refuse(region(0, MIB, UADDR, 0), region(4 * MIB, MIB, UADDR + MIB - 1, 0), -EINVAL);
    refuse(region(0, 2 * MIB, UADDR, 0), region(4 * MIB, 4096, UADDR + 4096, 0), -EINVAL);
    /* The third clashes with the first. */
    struct svq_region three[3] = {region(0, MIB, UADDR, 0), region(MIB, MIB, UADDR + MIB, 0),
                                  region(MIB - 1, 1, UADDR + 2 * MIB, 0)};
    struct svq_map *map = NULL;

    assert_int_equal(svq_map_new(three, 3, NULL, &map), -EINVAL);
}

static void test_refuses_empty_and_wrapping(void **state)
{
    (void)state;
    refuse_one(region(0, 0, UADDR, 0), -EINVAL);
    refuse_one(region(UINT64_MAX - 4095, 8192, UADDR, 0), -EINVAL);
    refuse_one(region(0, 8192, UINT64_MAX - 4095, 0), -EINVAL);
    refuse_one(region(1, UINT64_MAX, UADDR, 0), -EINVAL);
    refuse_one(region(0, 8192, UADDR, UINT64_MAX - 4095), -EINVAL);
}

static void test_refuses_a_short_file(void **state)
{
    (void)state;
    refuse_one(region(0, 4 * MIB + 1, UADDR, 0), -ERANGE);
    refuse_one(region(0, 4 * MIB, UADDR, 1), -ERANGE);
    refuse_one(region(0, 4096, UADDR, 4 * MIB), -ERANGE);
    refuse_one(region(0, UINT64_C(1) << 40, UADDR, 0), -ERANGE);
    refuse_one(region(0, 4096, UADDR, UINT64_C(1) << 62), -ERANGE);
}

static void test_refuses_what_is_no_file(void **state)
{
    struct svq_region closed = region(0, 4096, UADDR, 0);
    struct svq_region pipe_end = closed;
    int ends[2];

    (void)state;
    closed.fd = -1;
    refuse_one(closed, -EBADF);
    assert_int_equal(pipe(ends), 0);
    pipe_end.fd = ends[0];
    struct svq_map *map = NULL;
    assert_true(svq_map_new(&pipe_end, 1, NULL, &map) < 0);
    close(ends[0]);
    close(ends[1]);
}

static void test_offsets_need_no_alignment(void **state)
{
    struct svq_region r = region(0x10000, 0x2fff, UADDR, 0x3801);
    struct svq_map *map = map_of(&r, 1);
    uint8_t *p = svq_map_gpa(map, 0x10000, 0x2fff);

    (void)state;
    assert_non_null(p);
    assert_int_equal(p[0], 3);
    assert_int_equal(p[0x7fe], 3);
    assert_int_equal(p[0x7ff], 4);
    assert_int_equal(p[0x2ffe], 6);
    assert_null(svq_map_gpa(map, 0x10000, 0x3000));
    svq_map_unref(map);
}

static void test_fds_stay_the_callers(void **state)
{
    unsigned fds = kit_open_fds();
    struct svq_region r = region(0, MIB, UADDR, 0);
    struct svq_map *map;
    uint8_t seen;

    (void)state;
    r.fd = dup(file);
    map = map_of(&r, 1);
    assert_int_not_equal(svq_map_region(map, 0)->fd, r.fd);
    close(r.fd);
    assert_int_equal(pread(svq_map_region(map, 0)->fd, &seen, 1, 0x7000), 1);
    assert_int_equal(seen, 7);
    assert_non_null(svq_map_gpa(map, 0, MIB));
    svq_map_unref(map);
    assert_int_equal(kit_open_fds(), fds);
}

static void test_user_to_guest_physical(void **state)
{
    struct svq_region regions[3] = {region(8 * MIB, MIB, UADDR, 0),
                                    region(9 * MIB, MIB, UADDR + MIB, MIB),
                                    region(UINT64_MAX - 4095, 4096, UINT64_MAX - 4095, 0)};
    struct svq_map *map = map_of(regions, 3);
    uint64_t gpa = 1;

    (void)state;
    assert_true(svq_map_uaddr_to_gpa(map, UADDR, MIB, &gpa));
    assert_int_equal(gpa, 8 * MIB);
    assert_true(svq_map_uaddr_to_gpa(map, UADDR + 2 * MIB - 16, 16, &gpa));
    assert_int_equal(gpa, 10 * MIB - 16);
    assert_true(svq_map_uaddr_to_gpa(map, UINT64_MAX - 3, 4, &gpa));
    assert_int_equal(gpa, UINT64_MAX - 3);
    gpa = 1;
    assert_false(svq_map_uaddr_to_gpa(map, UADDR - 1, 2, &gpa));
    assert_false(svq_map_uaddr_to_gpa(map, UADDR + MIB - 8, 16, &gpa));
    assert_false(svq_map_uaddr_to_gpa(map, UADDR + 2 * MIB, 1, &gpa));
    assert_false(svq_map_uaddr_to_gpa(map, UADDR, UINT64_MAX, &gpa));
    assert_false(svq_map_uaddr_to_gpa(map, UINT64_MAX - 3, 5, &gpa));
    assert_false(svq_map_uaddr_to_gpa(map, 8 * MIB, 1, &gpa)); /* a guest-physical address */
    assert_int_equal(gpa, 1);
    svq_map_unref(map);
}

static void test_regions_keep_their_order(void **state)
{
    struct svq_region regions[3] = {region(8 * MIB, MIB, UADDR + 8 * MIB, 0),
                                    region(0, MIB, UADDR, 4096),
                                    region(4 * MIB, 4096, UADDR + 4 * MIB, MIB)};
    struct svq_map *map = map_of(regions, 3);

    (void)state;
    assert_int_equal(svq_map_count(map), 3);
    for (size_t i = 0; i < 3; i++) {
        const struct svq_region *r = svq_map_region(map, i);

        assert_int_equal(r->gpa, regions[i].gpa);
        assert_int_equal(r->size, regions[i].size);
        assert_int_equal(r->uaddr, regions[i].uaddr);
        assert_int_equal(r->offset, regions[i].offset);
    }
    svq_map_unref(map);
}

static void test_many_regions(void **state)
{
    struct svq_region regions[509]; /* as many as any peer offers */
    struct svq_map *map;
    unsigned hint = 0;

    (void)state;
    for (unsigned i = 0; i < 509; i++)
        regions[i] = region(i * UINT64_C(8192), 4096, UADDR + i * UINT64_C(8192), i * 4096);
    map = map_of(regions, 509);
    for (unsigned i = 0; i < 509; i++) {
        uint8_t *p = svq_map_gpa(map, i * UINT64_C(8192), 4096);

        assert_non_null(p);
        assert_int_equal(*p, (uint8_t)i);
        assert_true(svq_map_holds(map, i * UINT64_C(8192) + 4000, 96, &hint));
        assert_int_equal(hint, i);
        assert_false(svq_map_holds(map, i * UINT64_C(8192) + 4000, 97, &hint));
    }
    svq_map_unref(map);
}

static void test_an_empty_map(void **state)
{
    struct svq_map *map = NULL;
    unsigned hint = 0;

    (void)state;
    if (svq_map_new(NULL, 0, NULL, &map) < 0)
        return; /* refusing is fine as well */
    assert_int_equal(svq_map_count(map), 0);
    assert_null(svq_map_gpa(map, 0, 0));
    assert_null(svq_map_uaddr(map, 0, 1));
    assert_false(svq_map_holds(map, 0, 1, &hint));
    svq_map_unref(map);
}

static void test_references(void **state)
{
    struct svq_region r = region(0, MIB, UADDR, 0);
    unsigned fds = kit_open_fds();
    struct svq_map *map = map_of(&r, 1);
    uint8_t *p = svq_map_gpa(map, 0x9000, 1);

    (void)state;
    assert_ptr_equal(svq_map_ref(map), map);
    svq_map_unref(map);
    assert_int_equal(*p, 9);
    svq_map_unref(map);
    assert_int_equal(kit_open_fds(), fds);
    svq_map_unref(NULL);
}

static void test_a_new_map_shares_what_stays(void **state)
{
    struct svq_region two[2] = {region(0, MIB, UADDR, 0), region(MIB, MIB, UADDR + MIB, MIB)};
    struct svq_region three[3] = {region(4 * MIB, MIB, UADDR + 4 * MIB, 2 * MIB), two[1], two[0]};
    unsigned fds = kit_open_fds();
    struct svq_map *old = map_of(two, 2);
    struct svq_map *new = NULL;
    uint8_t *first = svq_map_gpa(old, 0, MIB);

    (void)state;
    assert_int_equal(svq_map_new(three, 3, old, &new), 0);
    assert_ptr_equal(svq_map_gpa(new, 0, MIB), first);
    assert_ptr_equal(svq_map_gpa(new, MIB, MIB), svq_map_gpa(old, MIB, MIB));
    assert_non_null(svq_map_gpa(new, 4 * MIB, MIB));
    assert_null(svq_map_gpa(old, 4 * MIB, MIB));
    svq_map_unref(old);
    assert_int_equal(first[0x2000], 2);
    svq_map_unref(new);
    assert_int_equal(kit_open_fds(), fds);
}

static void test_a_new_map_remaps_what_changed(void **state)
{
    struct svq_region r = region(0, MIB, UADDR, 0);
    struct svq_map *old = map_of(&r, 1);
    struct svq_map *new = NULL;
    uint8_t *p;

    (void)state;
    r.offset = MIB / 2;
    assert_int_equal(svq_map_new(&r, 1, old, &new), 0);
    p = svq_map_gpa(new, 0, 4096);
    assert_int_equal(p[0], 0x80);
    svq_map_unref(new);
    /* The same numbers with another file behind them are another region. */
    r.offset = 0;
    r.fd = kit_file(MIB);
    assert_int_equal(svq_map_new(&r, 1, old, &new), 0);
    p = svq_map_gpa(new, 0x3000, 4096);
    assert_int_equal(p[0], 0);
    assert_int_equal(*(uint8_t *)svq_map_gpa(old, 0x3000, 1), 3);
    svq_map_unref(new);
    svq_map_unref(old);
    close(r.fd);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_translates),
        cmocka_unit_test(test_mapping_is_shared_and_writable),
        cmocka_unit_test(test_lengths_at_the_edges),
        cmocka_unit_test(test_length_zero),
        cmocka_unit_test(test_lengths_that_wrap),
        cmocka_unit_test(test_the_top_of_the_address_space),
        cmocka_unit_test(test_a_range_over_two_regions),
        cmocka_unit_test(test_holds_minds_the_gap),
        cmocka_unit_test(test_holds_takes_any_hint),
        cmocka_unit_test(test_refuses_overlaps),
        cmocka_unit_test(test_refuses_empty_and_wrapping),
        cmocka_unit_test(test_refuses_a_short_file),
        cmocka_unit_test(test_refuses_what_is_no_file),
        cmocka_unit_test(test_offsets_need_no_alignment),
        cmocka_unit_test(test_fds_stay_the_callers),
        cmocka_unit_test(test_user_to_guest_physical),
        cmocka_unit_test(test_regions_keep_their_order),
        cmocka_unit_test(test_many_regions),
        cmocka_unit_test(test_an_empty_map),
        cmocka_unit_test(test_references),
        cmocka_unit_test(test_a_new_map_shares_what_stays),
        cmocka_unit_test(test_a_new_map_remaps_what_changed),
    };

    return cmocka_run_group_tests_name("map", tests, open_file, close_file);
}
