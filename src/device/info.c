/* SPDX-License-Identifier: BSD-3-Clause */
#include "device/internal.h"

static enum svq_device_mode mode_of(const struct svq_device *device)
{
    if (!shadow_device_started(device))
        return SVQ_MODE_STOPPED;
    return device->s.shadow ? SVQ_MODE_SHADOW : SVQ_MODE_PASS_THROUGH;
}

static enum svq_logging logging_of(const struct svq_device *device)
{
    if (!device->s.logging)
        return SVQ_LOGGING_OFF;
    return device->s.log_backend ? SVQ_LOGGING_BACKEND : SVQ_LOGGING_SHADOW;
}

void svq_device_info(const struct svq_device *device, struct svq_device_info *info)
{
    const struct session *s = &device->s;

    *info = (struct svq_device_info){
        .id = device->id,
        .frontend = device->frontend_address,
        .backend = device->backend_address,
        .mode = mode_of(device),
        .shadow = device->policy,
        .dirty_log = device->dirty_log,
        .logging = logging_of(device),
        .frontend_connected = s->fd >= 0,
        .backend_connected = s->backend_open,
        .features_backend = device->backend->features,
        .features_offered = s->features_offered,
        .features_acked = s->features_acked,
        .protocol_backend = device->backend->protocol_features,
        .protocol_offered = s->protocol_offered,
        .protocol_acked = s->protocol_acked,
        .switches = device->switches,
        .last_switch_shadow = device->last_switch_shadow,
        .last_switch_microseconds = device->last_switch_us,
        .last_error = device->last_error[0] ? device->last_error : NULL,
    };
    for_each_queue(device, i, queue)
        info->queues = i + 1;
}

struct snapshot {
    struct svq_relay_state state;
    struct svq_relay_stats stats;
};

static void take_snapshot(struct svq_relay *relay, void *arg)
{
    struct snapshot *snapshot = arg;

    svq_relay_state(relay, &snapshot->state);
    svq_relay_stats(relay, &snapshot->stats);
}

static void add_relay(const struct svq_queue *queue, struct svq_queue_info *info)
{
    struct snapshot snapshot;

    if (queue->lane)
        svq_lane_call(queue->lane, take_snapshot, &snapshot);
    else
        take_snapshot(queue->relay, &snapshot);
    info->backend_avail = snapshot.state.backend_avail;
    info->backend_used = snapshot.state.backend_used;
    info->in_flight = snapshot.state.in_flight;
    info->chains += snapshot.stats.chains;
    info->bytes += snapshot.stats.bytes;
    info->guest_kicks += snapshot.stats.guest_kicks;
    info->backend_kicks += snapshot.stats.backend_kicks;
    info->backend_calls += snapshot.stats.backend_calls;
    info->guest_calls += snapshot.stats.guest_calls;
    info->worker = queue->lane ? svq_lane_worker(queue->lane) : 0;
}

/* The guest's own indices, as its ring says: flags come first in both parts, then idx. */
static void add_guest_indices(const struct svq_queue *queue, struct svq_queue_info *info)
{
    struct svq_split_mem guest;

    if (info->packed || !queue_guest_ring(queue, queue->device->s.map, &guest))
        return;
    info->has_indices = true;
    info->guest_avail = __atomic_load_n((uint16_t *)guest.avail + 1, __ATOMIC_RELAXED);
    info->guest_used = __atomic_load_n((uint16_t *)guest.used + 1, __ATOMIC_RELAXED);
}

bool svq_device_queue_info(const struct svq_device *device, unsigned index,
                           struct svq_queue_info *info)
{
    const struct svq_queue *queue = index < MAX_QUEUES ? device->s.queues[index] : NULL;

    if (!queue)
        return false;
    *info = (struct svq_queue_info){
        .index = index,
        .size = queue->num,
        .packed = device_acked(device, SVQ_F_RING_PACKED),
        .enabled = queue->enabled,
        .started = queue->started,
        .shadow = queue->wire == WIRE_SHADOW,
        .error = queue->fault,
        .chains = queue->kept.chains,
        .bytes = queue->kept.bytes,
        .guest_kicks = queue->kept.guest_kicks,
        .backend_kicks = queue->kept.backend_kicks,
        .backend_calls = queue->kept.backend_calls,
        .guest_calls = queue->kept.guest_calls,
    };
    add_guest_indices(queue, info);
    if (queue->relay)
        add_relay(queue, info);
    return true;
}
