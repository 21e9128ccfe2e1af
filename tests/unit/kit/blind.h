/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A rig whose relay shares the guest's descriptor table, and must not look at it: any access ends
 * the test. For use inside cmocka tests: it asserts.
 */
#ifndef SVQ_TESTS_KIT_BLIND_H
#define SVQ_TESTS_KIT_BLIND_H

#include "logged.h"

enum { BLIND_RING = 16, BLIND_GARBAGE = 11, BLIND_KINDS = 5 };

/* What mprotect() takes, for the guest's descriptor table. */
void blind_seal(const struct rig *rig, int access);
/* rig_settle(), disarmed and armed, without any access to descriptors. */
void blind_settle(struct rig *rig);
/* What the back-end never sees has not been written. */
void blind_expect_no_copies(const struct rig *rig);

/* A chain at descriptor 0 that must not be; i: of BLIND_GARBAGE. */
void blind_offer_garbage(struct rig *rig, unsigned i);
/* The back-end says that it has used a chain, whatever it makes of it. */
void blind_put_used(struct rig *rig, uint32_t id, uint32_t len);

/* Chains of all kinds; no two write to one page. */
extern struct kit_buf blind_kinds[BLIND_KINDS][3];
extern const unsigned blind_lengths[BLIND_KINDS];
extern const unsigned blind_direct[BLIND_KINDS];

uint32_t blind_writable(unsigned i);
uint32_t blind_bytes(unsigned i);
void blind_offer(struct rig *rig, unsigned i);
/* All of them with the back-end, and unread. */
void blind_all_out(struct rig *rig, uint16_t *ids);

#endif
