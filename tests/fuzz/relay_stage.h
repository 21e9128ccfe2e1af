/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A relay on a stage where both sides write what they like, and what must hold all the same: for
 * every call, what moved is worked out again from what lay in the two rings before it, and compared
 * with what the relay wrote.
 *
 * Each part of a ring is an allocation of its own, for AddressSanitizer to see.
 */
#ifndef SVQ_TESTS_FUZZ_RELAY_STAGE_H
#define SVQ_TESTS_FUZZ_RELAY_STAGE_H

#include <stdbool.h>

#include "fuzz.h"
#include "kit/packed.h"
#include "kit/split.h"

#define STAGE_GPA    UINT64_C(0x10000)
#define STAGE_SIZE   0x2000u
#define STAGE_TABLES (UINT64_C(1) << 44) /* where the back-end finds converted tables */
#define STAGE_NUM    64u                 /* entries of the largest guest's ring */
#define STAGE_SHADOW 128u                /* and of a back-end's */

/* A chain in flight, oldest first in the stage's list. */
struct stage_chain {
    uint16_t guest_id;
    uint16_t guest_slots;
    uint16_t backend_id;
    uint16_t backend_slots;
    bool done; /* by the back-end, while the guest still waits for an older one */
};

struct stage {
    struct fuzz_input in;
    struct svq_relay_config config;
    struct svq_relay *relay;
    struct kit_ring guest;
    struct kit_ring shadow;
    bool held;
    bool faulted;
    bool blind; /* a fault while completing: what was moved before it cannot be told any more */

    struct stage_chain chains[STAGE_SHADOW];
    unsigned count;

    /* Where a guest and a back-end that behave go on. */
    struct kit_place next;      /* packed guest: next descriptor to make available */
    struct kit_place completed; /* packed back-end: next used descriptor */
};

/* Guest memory, the same for all runs. */
extern struct kit_memory stage_memory;

/* config: features, sizes and base are chosen. Return: false when the relay refuses them. */
bool stage_open(struct stage *s, const struct svq_relay_config *config);
void stage_close(struct stage *s);
/* The relay has been detached and another one goes on from there. */
void stage_again(struct stage *s, uint32_t base);

/* svq_relay_poll(). */
void stage_poll(struct stage *s);
/* Any call that may write suppression state, but moves nothing. */
void stage_control(struct stage *s, void (*call)(struct stage *s));
/* The guest's ring moves to other memory. */
void stage_move_guest(struct stage *s);
/* Turn a log of so many bytes on; 0: off. */
void stage_log(struct stage *s, unsigned size, bool ring, uint64_t desc_gpa, uint64_t device_gpa);

#define STAGE_LOG_MAX ((STAGE_GPA + STAGE_SIZE) / 4096 / 8 + 1)

/* The chains that the back-end has, oldest first. NULL: there are not so many. */
struct stage_chain *stage_with_backend(struct stage *s, unsigned i);

#endif
