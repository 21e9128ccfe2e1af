/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The allocator of the area for converted indirect tables, against a plain model: blocks never
 * overlap, a request is met whenever a free run of its size lies at a multiple of its size, and the
 * back-end, which can write all over the area, has no say in it.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/memory.h"
#include "kit/rng.h"
#include "shadow/tables.h"

#define ADDR      (UINT64_C(1) << 44)
#define MAX_UNITS 8192u

struct area {
    struct tables tables;
    struct svq_relay_tables memory;
    uint32_t entries;
    uint32_t units;
    uint32_t owner[MAX_UNITS]; /* 0: free; else 1 + the block's first unit */
};

static struct area *new_area(uint32_t entries)
{
    struct area *area = calloc(1, sizeof(*area));

    kit_require(area != NULL);
    area->entries = entries;
    area->units = entries / TABLES_UNIT;
    kit_require(area->units <= MAX_UNITS);
    area->memory = (struct svq_relay_tables){
        .host = calloc(entries, TABLES_ENTRY), .addr = ADDR, .size = entries * TABLES_ENTRY};
    kit_require(area->memory.host != NULL);
    assert_int_equal(tables_init(&area->tables, &area->memory, entries), 0);
    return area;
}

static void free_area(struct area *area)
{
    tables_fini(&area->tables);
    free(area->memory.host);
    free(area);
}

/* Units of the block that so many entries get. */
static uint32_t size_for(uint32_t entries)
{
    uint32_t size = 1;

    while (size * TABLES_UNIT < entries)
        size *= 2;
    return size;
}

static bool is_free(const struct area *area, uint32_t first, uint32_t size)
{
    for (uint32_t i = first; i < first + size; i++)
        if (area->owner[i])
            return false;
    return true;
}

/* Is there a place for a block? */
static bool can_fit(const struct area *area, uint32_t size)
{
    for (uint32_t first = 0; first + size <= area->units; first += size)
        if (is_free(area, first, size))
            return true;
    return false;
}

/* The allocator's answer is right. Return: the block, or TABLES_NONE. */
static uint32_t get(struct area *area, uint32_t entries)
{
    uint32_t size = size_for(entries), unit;
    bool fits = can_fit(area, size);

    unit = tables_get(&area->tables, entries);
    assert_int_equal(unit != TABLES_NONE, fits);
    if (!fits)
        return TABLES_NONE;
    assert_int_equal(unit % size, 0);
    assert_true(unit + size <= area->units);
    assert_true(is_free(area, unit, size));
    for (uint32_t i = 0; i < size; i++)
        area->owner[unit + i] = unit + 1;
    /* Host and address are the same place, all of it inside the area. */
    assert_int_equal(tables_addr(&area->tables, unit) - ADDR,
                     (uint64_t)unit * TABLES_UNIT * TABLES_ENTRY);
    assert_ptr_equal(tables_host(&area->tables, unit),
                     (uint8_t *)area->memory.host + (uint64_t)unit * TABLES_UNIT * TABLES_ENTRY);
    return unit;
}

static void put(struct area *area, uint32_t unit)
{
    tables_put(&area->tables, unit);
    for (uint32_t i = unit; i < area->units && area->owner[i] == unit + 1; i++)
        area->owner[i] = 0;
}

/* Everything back: the whole area is one block again. */
static void check_whole(struct area *area)
{
    uint32_t unit = get(area, area->entries);

    assert_int_equal(unit, 0);
    assert_int_equal(tables_get(&area->tables, 1), TABLES_NONE);
    put(area, unit);
}

/* ---- Any gets and puts ----------------------------------------------------------------------- */

enum style { ANY_SIZE, SMALL_SIZES, ONE_SIZE, ALTERNATING };

static uint32_t draw_entries(const struct area *area, struct kit_rng *rng, enum style style,
                             unsigned step)
{
    switch (style) {
    case SMALL_SIZES:
        return kit_between(rng, 1, area->entries < 64 ? area->entries : 64);
    case ONE_SIZE:
        return TABLES_UNIT;
    case ALTERNATING: /* first as many small ones as there are, then large ones */
        return step / 512 % 2 ? area->entries / 4 : kit_between(rng, 1, 16);
    default:
        return kit_between(rng, 1, area->entries >> kit_below(rng, 10) ?: 1);
    }
}

static void run_random(uint32_t entries, uint64_t seed, enum style style)
{
    struct area *area = new_area(entries);
    struct kit_rng rng = {seed};
    uint32_t held[MAX_UNITS];
    unsigned count = 0, percent = 50;

    for (unsigned step = 0; step < 4000; step++) {
        if (step % 256 == 0)
            percent = kit_between(&rng, 20, 80); /* fill up for a while, empty for a while */
        if (kit_percent(&rng, 5)) {
            /* The back-end scribbles. */
            memset(area->memory.host, (int)kit_below(&rng, 256), area->memory.size);
        }
        if (kit_percent(&rng, percent)) {
            uint32_t unit = get(area, draw_entries(area, &rng, style, step));

            if (unit != TABLES_NONE)
                held[count++] = unit;
        } else if (count) {
            unsigned i = kit_below(&rng, count);

            put(area, held[i]);
            held[i] = held[--count];
        }
    }
    while (count) {
        unsigned i = kit_below(&rng, count);

        put(area, held[i]);
        held[i] = held[--count];
    }
    check_whole(area);
    free_area(area);
}

static void test_random(void **state)
{
    static const uint32_t sizes[] = {8, 16, 64, 128, 1024, 4096};

    (void)state;
    for (unsigned i = 0; i < sizeof(sizes) / sizeof(sizes[0]); i++)
        for (enum style style = ANY_SIZE; style <= ALTERNATING; style++)
            for (uint64_t seed = 0; seed < 4; seed++)
                run_random(sizes[i], seed * 1000 + i, style);
}

/* ---- Joining --------------------------------------------------------------------------------- */

static void put_all(struct area *area, const uint32_t *order, unsigned count)
{
    uint32_t unit;

    for (unsigned i = 0; i < count; i++)
        assert_int_not_equal(get(area, 1), TABLES_NONE);
    assert_int_equal(get(area, 1), TABLES_NONE);
    for (unsigned i = 0; i < count; i++)
        put(area, order[i]);
    unit = get(area, area->entries);
    assert_int_equal(unit, 0);
    put(area, unit);
}

/* Neighbours come back in every order there is. */
static void test_all_orders(void **state)
{
    struct area *area = new_area(8 * TABLES_UNIT);
    uint32_t order[8] = {0, 1, 2, 3, 4, 5, 6, 7};
    unsigned turn[8] = {0}, i = 0;

    (void)state;
    put_all(area, order, 8);
    /* Heap's algorithm. */
    while (i < 8) {
        if (turn[i] < i) {
            unsigned other = i % 2 ? turn[i] : 0;
            uint32_t unit = order[other];

            order[other] = order[i];
            order[i] = unit;
            put_all(area, order, 8);
            turn[i]++;
            i = 0;
        } else {
            turn[i++] = 0;
        }
    }
    free_area(area);
}

static void test_many_blocks_join(void **state)
{
    struct kit_rng rng = {1};

    (void)state;
    for (unsigned round = 0; round < 8; round++) {
        struct area *area = new_area(65536);
        uint32_t *order = calloc(area->units, sizeof(*order));

        kit_require(order != NULL);
        for (uint32_t i = 0; i < area->units; i++) {
            uint32_t j = kit_below(&rng, i + 1);

            order[i] = order[j];
            order[j] = i;
        }
        for (uint32_t i = 0; i < area->units; i++)
            tables_get(&area->tables, 1);
        for (uint32_t i = 0; i < area->units; i++)
            tables_put(&area->tables, order[i]);
        check_whole(area);
        free(order);
        free_area(area);
    }
}

/* One unit that is held keeps its half of each size, and nothing more. */
static void test_one_held(void **state)
{
    (void)state;
    for (uint32_t hold = 0; hold < 16; hold++) {
        struct area *area = new_area(16 * TABLES_UNIT);

        for (uint32_t i = 0; i < 16; i++)
            get(area, 1);
        for (uint32_t i = 0; i < 16; i++)
            if (i != hold)
                put(area, i);
        assert_int_equal(get(area, 16 * TABLES_UNIT), TABLES_NONE);
        for (uint32_t size = 8; size; size /= 2)
            assert_int_not_equal(get(area, size * TABLES_UNIT), TABLES_NONE);
        assert_int_equal(get(area, 1), TABLES_NONE);
        free_area(area);
    }
}

/* ---- Sizes ----------------------------------------------------------------------------------- */

static void test_sizes_at_the_edges(void **state)
{
    (void)state;
    for (uint32_t size = TABLES_UNIT; size <= 1024; size *= 2) {
        struct area *area = new_area(1024);
        unsigned count = 0;

        while (get(area, size) != TABLES_NONE)
            count++;
        assert_int_equal(count, 1024 / size);
        free_area(area);
        area = new_area(1024);
        if (size < 1024) {
            for (count = 0; get(area, size + 1) != TABLES_NONE;)
                count++;
            assert_int_equal(count, 1024 / (2 * size));
        }
        free_area(area);
    }
}

static void test_entries(void **state)
{
    (void)state;
    for (unsigned num = 1; num <= SVQ_RING_MAX; num += num < 300 ? 1 : 997) {
        uint32_t longest = num + (num > 1024 ? num : 1024);
        uint32_t entries = tables_entries(num, longest);

        assert_true(entries >= longest && entries >= TABLES_UNIT);
        assert_int_equal(entries & (entries - 1), 0);
        assert_true(entries <= 65536);
        assert_int_equal(svq_relay_tables_max(num), (size_t)entries * TABLES_ENTRY);
    }
    assert_int_equal(tables_entries(SVQ_RING_MAX, 2 * SVQ_RING_MAX), 65536);
}

static void test_bad_areas(void **state)
{
    static uint8_t bytes[64 * TABLES_ENTRY];
    struct svq_relay_tables area = {bytes, ADDR, sizeof(bytes)};
    struct tables t;

    (void)state;
    assert_int_equal(tables_init(&t, &area, 64), 0);
    tables_fini(&t);
    area.size--;
    assert_int_equal(tables_init(&t, &area, 64), -EINVAL);
    area.size++;
    area.addr = ADDR + 8;
    assert_int_equal(tables_init(&t, &area, 64), -EINVAL);
    area.addr = ADDR;
    area.host = NULL;
    assert_int_equal(tables_init(&t, &area, 64), -EINVAL);
    /* Where none is needed, none is looked at. */
    area.size = 0;
    assert_int_equal(tables_init(&t, &area, 0), 0);
    tables_fini(&t);
    /* A larger one is as good; the rest of it is left alone. */
    area = (struct svq_relay_tables){bytes, ADDR, sizeof(bytes)};
    assert_int_equal(tables_init(&t, &area, 32), 0);
    assert_int_equal(tables_get(&t, 32), 0);
    assert_int_equal(tables_get(&t, 1), TABLES_NONE);
    tables_fini(&t);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_all_orders),
        cmocka_unit_test(test_many_blocks_join),
        cmocka_unit_test(test_one_held),
        cmocka_unit_test(test_sizes_at_the_edges),
        cmocka_unit_test(test_entries),
        cmocka_unit_test(test_bad_areas),
    };

    return cmocka_run_group_tests_name("tables", tests, NULL, NULL);
}
