/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Somebody who has only read the vhost-user specification ("Inflight I/O tracking") looks at a
 * queue's part of an in-flight region: which requests would a back-end that connects now do again,
 * in which order? Shares nothing with the code under test.
 */
#ifndef SVQ_TESTS_KIT_REGION_H
#define SVQ_TESTS_KIT_REGION_H

#include "packed.h"
#include "split.h"

struct kit_again {
    uint16_t head;  /* split: of the descriptor table; packed: of the part */
    uint16_t descs; /* packed */
    uint16_t id;    /* packed: buffer id */
    uint64_t addr;  /* packed: of the first descriptor */
};

#define KIT_AGAIN_MAX 1024

struct kit_findings {
    const char *wrong; /* what contradicts itself; NULL: nothing */
    unsigned count;
    struct kit_again again[KIT_AGAIN_MAX]; /* to be done again, in this order */
    uint16_t used_idx;                     /* after the recovery */
    bool used_wrap;
    unsigned leaked; /* packed: entries that are of no use to anybody */
};

/* Changes nothing. `entries`: at most KIT_AGAIN_MAX. */
void kit_region_look(struct kit_findings *findings, const void *part, unsigned entries,
                     const struct kit_ring *ring);

#endif
