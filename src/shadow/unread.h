/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chains of a shared descriptor table. The back-end reads them where the guest has written them; we
 * take only their heads, and return what the back-end says. Nothing else has to be known of them,
 * until
 *
 *   - a dirty log is wanted: which pages may be written?
 *   - a back-end with IN_ORDER passes them over: how much counts as written?
 *
 * Then they are looked into after all, each once the back-end has completed it: a driver leaves the
 * descriptors of a chain alone until it has it back (virtio 1.3 section 2.7.13.1), so they say the
 * same as when the chain was taken; one that does not deceives itself, as it would without us. Not
 * earlier: a ring full of the longest tables there may be would be more than we want to keep.
 */
#ifndef SVQ_SHADOW_UNREAD_H
#define SVQ_SHADOW_UNREAD_H

#include "shadow/relay_internal.h"

/* What stands for the descriptors of a chain that nobody has looked into. */
static const struct split_desc unread_desc = {.len = UINT32_MAX, .flags = SPLIT_DESC_F_WRITE};

/*
 * Look into a chain that the back-end has completed and the guest is about to get. Return: false:
 * its descriptors break the rules, a fault.
 */
bool unread_look(struct svq_relay *relay, uint16_t head);

#endif
