/* SPDX-License-Identifier: BSD-3-Clause */
/* A rig's packed rings written byte by byte, as no driver or device of the kit would. */
#ifndef SVQ_TESTS_KIT_PACKED_BYTES_H
#define SVQ_TESTS_KIT_PACKED_BYTES_H

#include "rig.h"

#define ALL   (PACKED | EVENT_IDX | INDIRECT)
#define AVAIL KIT_P_AVAIL
#define NEXT  KIT_P_NEXT
#define WRITE KIT_P_WRITE
#define TABLE KIT_P_INDIRECT
#define START 0x8000u

/* A descriptor of the first lap. */
static inline void put(struct rig *rig, unsigned at, uint64_t addr, uint32_t len, unsigned id,
                       unsigned flags)
{
    rig->guest.packed.desc[at] =
        (struct kit_pdesc){addr, len, (uint16_t)id, (uint16_t)(flags | AVAIL)};
}

static inline struct kit_pdesc *table(struct rig *rig)
{
    return kit_memory_at(&rig->memory, RIG_TABLES, 2048 * sizeof(struct kit_pdesc));
}

/* The back-end marks its `at`-th descriptor as used in the first lap. */
static inline void use(struct rig *rig, unsigned at, unsigned id, uint32_t len, unsigned flags)
{
    struct kit_pdesc *desc = &rig->shadow.packed.desc[at];

    desc->id = (uint16_t)id;
    desc->len = len;
    kit_set16(&desc->flags, (uint16_t)(flags | KIT_P_AVAIL | KIT_P_USED));
}

#endif
