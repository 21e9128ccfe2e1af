/* SPDX-License-Identifier: BSD-3-Clause */
/* How a ring is given to the back-end and taken back: a part of device/internal.h. */
#ifndef SVQ_DEVICE_WIRE_H
#define SVQ_DEVICE_WIRE_H

#include "device/internal.h"

/* ---- wire.c -----------------------------------------------------------------------------------
 */

/* Describe the guest's ring to the back-end, from queue->base on. Queued; flush, then wire_start().
 */
int wire_direct(struct svq_queue *queue);
/* Make a relay and describe its shadow ring to the back-end. Likewise. */
int wire_shadow(struct svq_queue *queue);
/* The ring as described starts. Queued; flush, then wire_shadow_go() for a relay. */
int wire_start(struct svq_queue *queue);
int wire_shadow_go(struct svq_queue *queue);
/* The latter for all relays that are not on a worker yet. */
int wire_shadow_go_all(struct svq_device *device);
/* What of that can be done before rings are stopped, for relays that were made ahead. */
void wire_shadow_prepare_all(struct svq_device *device);
/* Wake both ends of a ring that has just been wired: neither may wait for the other. */
void wire_wake(struct svq_queue *queue);
void wire_call_guest(struct svq_queue *queue);
/* A split ring's index, whatever a forgetful front-end said; a packed ring's in full. */
uint16_t wire_sane_base(const struct svq_queue *queue, const struct svq_vring *guest);
uint32_t wire_packed_base(const struct svq_queue *queue);
/* A direct ring starts: remember how its two indices lie to each other. */
void wire_note_start(struct svq_queue *queue);

/* Describe a shadow ring that was halted, from where it stopped. Queued; flush, then wire_start().
 */
int wire_resume(struct svq_queue *queue);
/* A relay goes on with another back-end: describe its new ring to that. Likewise. */
int wire_restart(struct svq_queue *queue);
/* End a relay; queue->base is where the next device starts. The back-end no longer serves it. */
void wire_dismantle(struct svq_queue *queue);
/* The same for all rings; their relays and lanes are left to relay_drop_spares(). */
void wire_dismantle_all(struct svq_device *device);
/* The ring at queue->index is gone from the table. */
void wire_break(struct svq_queue *queue, const char *reason);

/* Say everywhere that a ring broke. @reason: static */
void wire_report_fault(struct svq_queue *queue, const char *side, const char *reason);

/* ---- ring_relay.c -----------------------------------------------------------------------------
 */

/*
 * Before rings are stopped: make the ring's relay as far as that does not depend on where the ring
 * stops. It may fail; then relay_make() says why.
 */
void relay_prepare(struct svq_queue *queue);
/*
 * The switch is over: free relays that were made ahead and not used, or that have ended, and their
 * lanes.
 */
void relay_drop_spares(struct svq_device *device);
/*
 * Make the ring's relay, which starts at queue->base or where the in-flight region says.
 * Return: 0, -EBADMSG (its in-flight region) or another error; *why says what it means.
 */
int relay_make(struct svq_queue *queue, const char **why);
/* It goes on with another back-end, away from its worker, in new memory. Likewise. */
int relay_restart(struct svq_queue *queue, const char **why);
/* It has moved its last; queue->base is where the ring's next device starts. The caller frees it.
 */
struct svq_relay *relay_end(struct svq_queue *queue);
/* Tell a relay what to log. */
void wire_set_log(struct svq_queue *queue);
/* Point a relay at its guest's ring after the memory map changed. */
void wire_set_map(struct svq_queue *queue);

/* ---- halt.c -----------------------------------------------------------------------------------
 */

/**
 * wire_halt() - stop the back-end's side of a ring and wait until it has completed what it took.
 * A direct ring then has its next index in queue->base; a shadow ring keeps its relay.
 * @deadline: for the drain
 *
 * Return: 0; -ETIMEDOUT when the back-end stopped but did not complete; or the back-end's error.
 */
int wire_halt(struct svq_queue *queue, int64_t deadline);
/*
 * The same for all rings that are with the back-end, at the same time; -ETIMEDOUT is logged. After
 * an error some have stopped and some have not, as `wire` and `halted` tell.
 */
int wire_halt_all(struct svq_device *device, int64_t deadline);
/* A relay that was held goes on taking chains from the guest. */
void wire_unhold(struct svq_queue *queue);
/* Let others run before looking again. @looks: looked so often already */
void halt_look_again(unsigned looks);

/* ---- dry.c ------------------------------------------------------------------------------------
 */

/* Is this ring's back-end one that should have nothing in flight when it is told to stop? */
bool dry_needed(const struct svq_queue *queue);
/* Take these rings' kicks away and wait until what the back-end took is complete, or for long. */
void dry_run(struct svq_device *device, struct svq_queue *const *queues, unsigned count,
             int64_t deadline);

#endif
