/* SPDX-License-Identifier: BSD-3-Clause */
#include "ring/split.h"

#include <stddef.h>

static_assert(sizeof(struct split_desc) == 16, "virtio 1.3 section 2.7.5");
static_assert(sizeof(struct split_used_elem) == 8, "virtio 1.3 section 2.7.8");

size_t svq_split_desc_size(unsigned num)
{
    return num * sizeof(struct split_desc);
}

size_t svq_split_avail_size(unsigned num)
{
    return offsetof(struct split_avail, ring) + (num + 1) * sizeof(uint16_t);
}

size_t svq_split_used_size(unsigned num)
{
    return offsetof(struct split_used, ring) + num * sizeof(struct split_used_elem) +
           sizeof(uint16_t);
}
