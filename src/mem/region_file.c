/* SPDX-License-Identifier: BSD-3-Clause */
#include "mem/region_file.h"

#include <errno.h>
#include <stdlib.h>

/* Each part starts on cache lines of its own: the two ends write different parts. */
#define PART_ALIGN UINT64_C(128)
#define PAGE       UINT64_C(4096)

/* What fits: every ring at the usual size up to a limit, and at least so many of the largest. */
#define USUAL_NUM   1024u
#define USUAL_LIMIT (UINT64_C(32) << 20)
#define LARGE_RINGS 4u

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

static uint64_t part(size_t size)
{
    return round_up(size, PART_ALIGN);
}

static uint64_t ring_size(enum svq_ring_format format, unsigned num)
{
    return part(svq_vring_desc_size(format, num)) + part(svq_vring_driver_size(format, num)) +
           part(svq_vring_device_size(format, num));
}

/* The most that a ring may need whose guest has one of num entries. */
static uint64_t most(unsigned num, bool tables)
{
    uint64_t split = ring_size(SVQ_RING_SPLIT, num), packed = ring_size(SVQ_RING_PACKED, num);
    uint64_t ring = split > packed ? split : packed;

    return round_up(ring + (tables ? svq_relay_tables_max(num) : 0), PAGE);
}

static uint64_t file_size(unsigned rings, bool tables)
{
    uint64_t usual = rings * most(USUAL_NUM, tables);
    uint64_t large = LARGE_RINGS * most(SVQ_RING_MAX, tables);

    if (usual > USUAL_LIMIT)
        usual = USUAL_LIMIT;
    return round_up(usual > large ? usual : large, SVQ_REGION_ALIGN);
}

int svq_region_file_new(unsigned rings, bool tables, struct svq_region_file **out)
{
    struct svq_region_file *file = calloc(1, sizeof(*file));
    int err;

    if (!file)
        return -ENOMEM;
    err = svq_region_pages_new(file_size(rings, tables), &file->pages);
    if (err) {
        free(file);
        return err;
    }
    file->refs = 1;
    file->fd = file->pages.fd;
    file->host = file->pages.host;
    file->size = file->pages.size;
    *out = file;
    return 0;
}

struct svq_region_file *svq_region_file_ref(struct svq_region_file *file)
{
    file->refs++;
    return file;
}

void svq_region_file_unref(struct svq_region_file *file)
{
    if (!file || --file->refs)
        return;
    svq_region_pages_release(&file->pages);
    free(file);
}

/* ---- Places -------------------------------------------------------------------------------------
 */

static bool is_free(const struct svq_region_file *file, uint64_t offset, uint64_t size)
{
    if (size > file->size || offset > file->size - size)
        return false;
    for (unsigned i = 0; i < SVQ_REGION_RINGS; i++) {
        const struct svq_region_span *span = &file->spans[i];

        if (offset < span->offset + span->size && span->offset < offset + size)
            return false;
    }
    return true;
}

/* First fit: at the file's start, or behind one of the others. */
static bool find_room(const struct svq_region_file *file, uint64_t size, uint64_t *offset)
{
    uint64_t best = UINT64_MAX;

    if (is_free(file, 0, size))
        best = 0;
    for (unsigned i = 0; best && i < SVQ_REGION_RINGS; i++) {
        uint64_t end = file->spans[i].offset + file->spans[i].size;

        if (end < best && is_free(file, end, size))
            best = end;
    }
    if (best == UINT64_MAX)
        return false;
    *offset = best;
    return true;
}

/* What all rings together take of [start, start + size). */
static uint64_t taken(const struct svq_region_file *file, uint64_t start, uint64_t size)
{
    uint64_t sum = 0;

    for (unsigned i = 0; i < SVQ_REGION_RINGS; i++) {
        const struct svq_region_span *span = &file->spans[i];
        uint64_t from = span->offset > start ? span->offset : start;
        uint64_t to = span->offset + span->size;

        to = to < start + size ? to : start + size;
        sum += to > from ? to - from : 0;
    }
    return sum;
}

/* The huge pages that a ring lies on may have become worth it. */
static void use(const struct svq_region_file *file, const struct svq_region_span *span)
{
    uint64_t page = span->offset / SVQ_HUGE_PAGE * SVQ_HUGE_PAGE;

    for (; page < span->offset + span->size; page += SVQ_HUGE_PAGE)
        svq_region_pages_used(&file->pages, page, taken(file, page, SVQ_HUGE_PAGE));
}

bool svq_region_file_place(struct svq_region_file *file, unsigned ring, enum svq_ring_format format,
                           unsigned num, size_t tables, struct svq_ring_place *place)
{
    struct svq_region_span *span = &file->spans[ring];
    uint64_t size = round_up(ring_size(format, num) + tables, PAGE);

    if (span->size != size) {
        *span = (struct svq_region_span){0};
        if (!find_room(file, size, &span->offset))
            return false;
        span->size = size;
        use(file, span);
    }
    place->desc = span->offset;
    place->driver = place->desc + part(svq_vring_desc_size(format, num));
    place->device = place->driver + part(svq_vring_driver_size(format, num));
    place->tables = place->device + part(svq_vring_device_size(format, num));
    place->tables_host = file->host + place->tables;
    place->host = (struct svq_vring){
        .desc = file->host + place->desc,
        .driver = file->host + place->driver,
        .device = file->host + place->device,
    };
    return true;
}
