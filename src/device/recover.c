/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rings whose back-end is gone.
 *
 * A ring behind a relay is in good hands: the relay knows what is in flight, and gives it to the
 * next back-end. A ring in pass-through is known to the back-end alone; where it goes on must be
 * read off the in-flight region, or off the ring itself where order allows (inflight.c). Either way
 * the ring is with nobody while it waits.
 *
 * A back-end may die at any step of a switch. Then some rings have relays and some have not, and
 * some relays have no lane yet. All that matters afterwards is what each ring has; the mode is
 * settled when all run again.
 */
#include "device/internal.h"

#include <string.h>

/* ---- Gone ---------------------------------------------------------------------------------------
 */

/* Is there nothing in flight of a split ring, as far as can be seen? */
static bool caught_up(const struct svq_queue *queue)
{
    struct svq_vring guest;

    if (queue_is_packed(queue) || !queue_guest_ring(queue, queue->device->s.map, &guest))
        return false;
    return (uint16_t)(ring_used_index(&guest) + queue->skew) == ring_avail_index(&guest);
}

static const char *strand_direct(struct svq_queue *queue)
{
    const char *why = NULL;

    dirty_ring_lost(queue);
    if (queue->handed || queue->owing) {
        why = inflight_recover(queue);
        queue->stranded = !why && !caught_up(queue);
    }
    queue->wire = WIRE_NONE;
    queue->handed = false;
    queue->owing = false;
    return why;
}

static void take_lane(struct svq_queue *queue)
{
    const char *reason;

    /* What the back-end completed before it died need not wait for its successor. */
    svq_lane_turn(queue->lane);
    svq_lane_free(queue->lane);
    queue->lane = NULL;
    /* With the lane goes the news of a fault. A back-end's is cured by the next one. */
    if (!queue->fault && svq_relay_fault(queue->relay, &reason) == SVQ_SIDE_GUEST)
        wire_report_fault(queue, "guest", reason);
}

const char *recover_strand(struct svq_device *device)
{
    const char *why = NULL;

    for_each_queue(device, i, queue) {
        queue->absorbed = true;
        if ((queue->wire == WIRE_DIRECT || queue->owing) && !why)
            why = strand_direct(queue);
        if (queue->lane)
            take_lane(queue);
    }
    return why;
}

bool recover_pending(const struct svq_queue *queue)
{
    struct svq_relay_state state;

    if (link_up(queue->device) || queue->device->outage.unchecked)
        return false;
    if (!queue->relay)
        return queue->stranded;
    svq_relay_state(queue->relay, &state);
    return state.in_flight;
}

/* ---- Back ---------------------------------------------------------------------------------------
 */

static void read_stats(struct svq_relay *relay, void *arg)
{
    svq_relay_stats(relay, arg);
}

uint64_t recover_resubmitted(const struct svq_device *device)
{
    uint64_t sum = device->resubmitted;

    for_each_queue(device, i, queue) {
        struct svq_relay_stats stats = {0};

        if (queue->relay && queue->lane)
            svq_lane_call(queue->lane, read_stats, &stats);
        else if (queue->relay)
            svq_relay_stats(queue->relay, &stats);
        sum += stats.resubmitted;
    }
    return sum;
}

/* The mode in which rings without a relay go on. */
static bool mode_now(struct svq_device *device)
{
    for_each_queue(device, i, queue)
        if (queue->relay || (queue->stranded && inflight_needs_relay(queue)))
            return true;
    return shadow_wanted(device) && !shadow_obstacle(device);
}

static int restart_relays(struct svq_device *device)
{
    int err = 0;

    for_each_queue(device, i, queue)
        if (queue->relay && !err)
            err = wire_restart(queue);
    return err;
}

int recover_rings(struct svq_device *device)
{
    int err;

    device->s.shadow = mode_now(device);
    for_each_queue(device, i, queue)
        queue->absorbed = true;
    /* Relays count as wired: shadow_wire_all() would take the region for told. */
    err = shadow_device_wired(device) ? inflight_tell(device) : 0;
    if (!err)
        err = restart_relays(device);
    if (!err)
        err = shadow_wire_all(device);
    if (!err)
        err = introduce_start(device);
    if (!err)
        err = device->link.backend->ops->flush(device->link.backend);
    if (err)
        return err;
    /* One that is disabled goes on later. */
    for_each_queue(device, i, queue)
        queue->stranded &= queue->wire == WIRE_NONE;
    shadow_wake_all(device);
    return 0;
}

/* Rings that should have been drained and stopped while no back-end was there to do it. */
static void park_disabled(struct svq_device *device)
{
    const struct svq_backend_ops *ops = device->link.backend->ops;
    int64_t deadline = svq_deadline(device->link.backend->drain_timeout);

    for_each_queue(device, i, queue) {
        if (!queue->relay || queue_runs(queue) || queue->fault)
            continue;
        if (!queue_unshadow(queue, deadline, "disabled"))
            device_told(device, ops->set_vring_enable(device->link.backend, queue->index, false));
    }
}

void recover_finish(struct svq_device *device)
{
    park_disabled(device);
    if (device->s.shadow && device->s.log_gap)
        dirty_close_gap(device);
    /* What was ordered meanwhile. */
    shadow_settle(device, "recovery", &(const char *){NULL});
}
