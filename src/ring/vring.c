/* SPDX-License-Identifier: BSD-3-Clause */
/* What can be said of a ring by its format and size alone. */
#include "ring/packed.h"
#include "ring/split.h"

size_t svq_vring_desc_size(enum svq_ring_format format, unsigned num)
{
    static_assert(sizeof(struct split_desc) == sizeof(struct packed_desc), "16 bytes both");
    (void)format;
    return sizeof(struct split_desc) * num;
}

size_t svq_vring_driver_size(enum svq_ring_format format, unsigned num)
{
    if (format == SVQ_RING_PACKED)
        return sizeof(uint32_t);
    return sizeof(struct split_avail) + sizeof(uint16_t) * num + sizeof(uint16_t);
}

size_t svq_vring_device_size(enum svq_ring_format format, unsigned num)
{
    if (format == SVQ_RING_PACKED)
        return sizeof(uint32_t);
    return sizeof(struct split_used) + sizeof(struct split_used_elem) * num + sizeof(uint16_t);
}

bool svq_vring_num_valid(enum svq_ring_format format, unsigned num)
{
    return num && num <= SVQ_RING_MAX && (format == SVQ_RING_PACKED || !(num & (num - 1)));
}

uint32_t svq_packed_base(const struct svq_ring_index *index)
{
    uint32_t avail = index->avail | (index->avail_wrap ? PACKED_WRAP : 0);
    uint32_t used = index->used | (index->used_wrap ? PACKED_WRAP : 0);

    return avail | used << 16;
}

struct svq_ring_index svq_packed_index(uint32_t base)
{
    uint32_t avail = base & UINT16_MAX;
    uint32_t used = base >> 16 ? base >> 16 : avail;

    return (struct svq_ring_index){
        .avail = avail & ~PACKED_WRAP,
        .used = used & ~PACKED_WRAP,
        .avail_wrap = avail & PACKED_WRAP,
        .used_wrap = used & PACKED_WRAP,
    };
}

bool svq_vring_base_valid(enum svq_ring_format format, unsigned num, uint32_t base)
{
    const struct svq_ring_index index = svq_packed_index(base);
    const struct packed_ring ring = {.num = num};
    int taken;

    if (format == SVQ_RING_SPLIT)
        return base <= UINT16_MAX;
    taken = packed_distance(&ring, (struct packed_place){index.used, index.used_wrap},
                            (struct packed_place){index.avail, index.avail_wrap});
    return index.avail < num && index.used < num && taken >= 0 && taken <= (int)num;
}
