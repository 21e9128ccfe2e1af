/* SPDX-License-Identifier: BSD-3-Clause */
#include "combo.h"

#include <stdio.h>
#include <string.h>

#include <shadowvq/vhost_user.h>

static uint64_t features(unsigned bits)
{
    return (bits & 1 ? SVQ_BIT(SVQ_F_RING_PACKED) : 0) | (bits & 2 ? SVQ_BIT(SVQ_F_EVENT_IDX) : 0) |
           (bits & 4 ? SVQ_BIT(SVQ_F_IN_ORDER) : 0) | (bits & 8 ? SVQ_BIT(SVQ_F_INDIRECT_DESC) : 0);
}

uint64_t combo_guest(unsigned combo)
{
    return features(combo & 15);
}

uint64_t combo_backend(unsigned combo)
{
    return features(combo >> 4);
}

static int side_name(unsigned bits, char *name, size_t size)
{
    return snprintf(name, size, "%s%s%s%s", bits & 1 ? "packed" : "split",
                    bits & 2 ? "+event_idx" : "", bits & 4 ? "+in_order" : "",
                    bits & 8 ? "+indirect" : "");
}

void combo_name(unsigned combo, char name[COMBO_NAME])
{
    int len = side_name(combo & 15, name, COMBO_NAME);

    name[len++] = '>';
    side_name(combo >> 4, name + len, (size_t)(COMBO_NAME - len));
}

bool combo_parse(const char *name, unsigned *combo)
{
    for (*combo = 0; *combo < COMBOS; ++*combo) {
        char other[COMBO_NAME];

        combo_name(*combo, other);
        if (!strcmp(name, other))
            return true;
    }
    return false;
}

bool combo_basic(unsigned combo)
{
    return !(combo & ~0x33u);
}
