/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The relay's hand in the in-flight region: it writes down what is in flight between the guest's
 * ring and itself, so that whoever serves the ring after this process was killed knows what to do
 * again; and it takes that from its predecessor.
 *
 * The process may be killed between any two instructions. What it has stored by then stays stored,
 * and what the program does later is not: no processor makes the next one wait for that. Steps are
 * therefore kept in order towards the compiler only, except where guest or back-end look on.
 *
 * A tracker believes only its own memory after its start, never the region.
 */
#ifndef SVQ_SHADOW_TRACKER_H
#define SVQ_SHADOW_TRACKER_H

#include "shadow/relay_internal.h"

/*
 * A tracker for config->inflight; the relay is otherwise complete. What the part lists is to be
 * taken by the next calls of relay->forward.
 * Return: 0, -EINVAL, -EBADMSG, -ENOMEM; then the part is as it was.
 */
int tracker_start(struct svq_relay *relay, const struct svq_relay_config *config);
void tracker_free(struct tracker *tracker);

/* A chain was taken from the guest; to be called before the back-end can see it. */
void tracker_take(struct svq_relay *relay, uint16_t head);

/*
 * Packed: the mark alone, of a chain of `count` descriptors of which the first one is at `place`;
 * nothing of a predecessor may be left. Return: its entry.
 */
uint16_t tracker_mark_packed(struct tracker *tracker, const struct packed_ring *r,
                             struct packed_place place, uint16_t count, uint16_t id);

/* A batch of used entries was published. Split. */
void tracker_published_split(struct svq_relay *relay);

/* A predecessor's chains that have not been taken yet. */
unsigned tracker_left(const struct svq_relay *relay);
/*
 * Does the guest's ring still hold those, in the order in which we would take them? Only then can
 * they be left to it.
 */
bool tracker_left_in_ring(const struct svq_relay *relay);

/*
 * End: the `chains` that were taken last go back to the guest's ring, and what is left of the
 * predecessor's too, if `left`; otherwise the guest's index goes on behind those.
 */
void tracker_give_back(struct svq_relay *relay, unsigned chains, bool left);

#endif
