/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The memory of a device's shadow rings: one memfd, offered to the back-end as one more region of
 * guest memory before the sizes of the rings are known. Each ring gets a place in it when it is
 * first needed, just large enough for its entries and, behind them, its indirect tables. Pages
 * appear when a ring is used, unless the back-end pins them: so the file is not made for the
 * largest rings that a device could have, but for many usual ones or a few large ones.
 *
 * Size and place are multiples of 2 MiB, because SPDK registers memory in such chunks, and because
 * the pages may be huge (region_pages.h).
 */
#ifndef SVQ_MEM_REGION_FILE_H
#define SVQ_MEM_REGION_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include <shadowvq/relay.h>

#include "mem/region_pages.h"

#define SVQ_REGION_ALIGN SVQ_HUGE_PAGE

/* A vring message's index has 8 bits. */
#define SVQ_REGION_RINGS 256u

struct svq_region_span {
    uint64_t offset;
    uint64_t size; /* 0: none */
};

struct svq_region_file {
    unsigned refs;
    int fd; /* of the pages, as the next two */
    uint8_t *host;
    uint64_t size;
    struct svq_region_pages pages;
    struct svq_region_span spans[SVQ_REGION_RINGS];
};

/**
 * svq_region_file_new() - memory for that many rings of a usual size or a few of the largest; it
 * comes with one reference.
 * @tables: rings may need room for indirect tables
 *
 * Return: 0 or -errno.
 */
int svq_region_file_new(unsigned rings, bool tables, struct svq_region_file **out);
/* Rings outlive the connection that they were made for: whoever has one there holds a reference. */
struct svq_region_file *svq_region_file_ref(struct svq_region_file *file);
/* NULL is fine. */
void svq_region_file_unref(struct svq_region_file *file);

/* Where the parts of a ring lie: here, and as offsets into the file. */
struct svq_ring_place {
    struct svq_vring host;
    uint64_t desc;
    uint64_t driver;
    uint64_t device;
    void *tables_host;
    uint64_t tables;
};

/**
 * svq_region_file_place() - the place of a ring of num entries and of `tables` bytes of tables.
 *
 * The same one until the ring asks for another size; nobody may use the old one any more then.
 *
 * Return: false when there is no room left.
 */
bool svq_region_file_place(struct svq_region_file *file, unsigned ring, enum svq_ring_format format,
                           unsigned num, size_t tables, struct svq_ring_place *place);

#endif
