/* SPDX-License-Identifier: BSD-3-Clause */
/* Any regions and any questions about them, against answers found byte range by byte range. */
#include <stdbool.h>
#include <unistd.h>

#include <shadowvq/mem.h>

#include "fuzz.h"
#include "kit/memory.h"

#define FILE_SIZE   0x8000u
#define MAX_REGIONS 6

/* Addresses few enough to meet each other, at both ends of the space. */
static uint64_t read_address(struct fuzz_input *in)
{
    uint16_t value = (uint16_t)fuzz_number(in, 2);
    uint64_t address = (uint64_t)(value & 0xfff) << 4;

    if (value & 0x1000)
        address |= 0xf;
    if (value & 0x4000)
        address = UINT64_MAX - address;
    return value & 0x8000 ? fuzz_number(in, 8) : address;
}

static bool ends_inside(uint64_t start, uint64_t size)
{
    return size && start + (size - 1) >= start;
}

static bool meet(uint64_t a, uint64_t a_size, uint64_t b, uint64_t b_size)
{
    return a <= b + (b_size - 1) && b <= a + (a_size - 1);
}

/* Should such a list be refused? Written to be obvious. */
static bool good_list(const struct svq_region *r, size_t count)
{
    for (size_t i = 0; i < count; i++) {
        if (!ends_inside(r[i].gpa, r[i].size) || !ends_inside(r[i].uaddr, r[i].size))
            return false;
        if (r[i].offset > FILE_SIZE || r[i].size > FILE_SIZE - r[i].offset)
            return false;
        for (size_t j = 0; j < i; j++)
            if (meet(r[i].gpa, r[i].size, r[j].gpa, r[j].size) ||
                meet(r[i].uaddr, r[i].size, r[j].uaddr, r[j].size))
                return false;
    }
    return true;
}

static const struct svq_region *region_of(const struct svq_region *r, size_t count, uint64_t gpa)
{
    for (size_t i = 0; i < count; i++)
        if (gpa >= r[i].gpa && gpa <= r[i].gpa + (r[i].size - 1))
            return &r[i];
    return NULL;
}

static bool holds(const struct svq_region *r, size_t count, uint64_t gpa, uint64_t len)
{
    uint64_t at = gpa, left = len;

    for (;;) {
        const struct svq_region *region = region_of(r, count, at);
        uint64_t run;

        if (!region)
            return false;
        run = region->size - (at - region->gpa);
        if (left <= run)
            return true;
        left -= run;
        at += run;
        if (at == 0)
            return false;
    }
}

static void ask(const struct svq_map *map, const struct svq_region *r, size_t count,
                struct fuzz_input *in)
{
    uint64_t address = read_address(in), len = read_address(in);
    const struct svq_region *region = region_of(r, count, address);
    bool inside = region && len <= region->size - (address - region->gpa);
    unsigned hint = (unsigned)fuzz_number(in, 1);
    volatile uint8_t *p = svq_map_gpa(map, address, len);

    fuzz_check((p != NULL) == inside);
    fuzz_check(svq_map_holds(map, address, len, &hint) == holds(r, count, address, len));
    if (inside) {
        /* The same bytes by the other address; and they can be touched. */
        fuzz_check(p == svq_map_uaddr(map, region->uaddr + (address - region->gpa), len));
        if (len) {
            (void)p[0];
            p[len - 1] = p[0];
        }
    }
    p = svq_map_uaddr(map, address, len);
    if (p && len) {
        (void)p[0];
        (void)p[len - 1];
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct fuzz_input in = {data, size};
    struct svq_region regions[MAX_REGIONS];
    struct svq_map *map = NULL, *next = NULL;
    size_t count = fuzz_number(&in, 1) % (MAX_REGIONS + 1), fewer;
    static int file = -1;
    int err;

    if (file < 0)
        file = kit_file(FILE_SIZE);
    for (size_t i = 0; i < count; i++) {
        regions[i].gpa = read_address(&in);
        regions[i].size = read_address(&in);
        regions[i].uaddr = read_address(&in);
        regions[i].offset = read_address(&in);
        regions[i].fd = file;
    }
    err = svq_map_new(regions, count, NULL, &map);
    fuzz_check((err == 0) == good_list(regions, count));
    if (err)
        return 0;
    fuzz_check(svq_map_count(map) == count);
    for (unsigned i = 0; i < 64 && in.size; i++)
        ask(map, regions, count, &in);
    /* What stays of a map keeps its place in the next one. */
    fewer = count / 2;
    fuzz_check(svq_map_new(regions, fewer, map, &next) == 0);
    for (size_t i = 0; i < fewer; i++)
        fuzz_check(svq_map_gpa(next, regions[i].gpa, regions[i].size) ==
                   svq_map_gpa(map, regions[i].gpa, regions[i].size));
    svq_map_unref(map);
    for (size_t i = 0; i < fewer; i++)
        *(volatile uint8_t *)svq_map_gpa(next, regions[i].gpa, 1) += 1;
    svq_map_unref(next);
    return 0;
}

/* Adjacent, apart, in reverse, at the top of the address space; and questions at all borders. */
size_t fuzz_seed(unsigned i, uint8_t data[FUZZ_MAX])
{
    static const uint16_t gpas[][3] = {{0x000, 0x100, 0x200},
                                       {0x200, 0x100, 0x000},
                                       {0x000, 0x180, 0x300},
                                       {0x50ff, 0x000, 0x300}};
    static const uint16_t offsets[3] = {0x000, 0x100, 0x201};
    size_t at = 0;

    if (i >= sizeof(gpas) / sizeof(gpas[0]))
        return 0;
    data[at++] = 3;
    for (unsigned r = 0; r < 3; r++) {
        uint16_t region[4] = {gpas[i][r], 0x100, (uint16_t)(0x400 + 0x100 * r), offsets[r]};

        memcpy(data + at, region, sizeof(region));
        at += sizeof(region);
    }
    for (unsigned r = 0; r < 12; r++) {
        uint16_t question[2] = {(uint16_t)(gpas[i][r % 3] + (r & 1 ? 0x10ff : 0x10)),
                                (uint16_t)(r & 2 ? 0x100 : 0x1001)};

        memcpy(data + at, question, sizeof(question));
        at += sizeof(question);
        data[at++] = (uint8_t)r;
    }
    return at;
}
