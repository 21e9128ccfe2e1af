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

static enum svq_link link_of(const struct svq_device *device)
{
    /* Kept from one front-end to the next. */
    if (device->outage.state == SVQ_LINK_NONE && device->link.open)
        return SVQ_LINK_UP;
    return device->outage.state;
}

static const char *unsafe(const struct svq_device *device)
{
    if (!device->reconnect)
        return "with reconnect=0 the front-end is disconnected with the back-end";
    return inflight_unsafe(device);
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
        .ring = device->ring,
        .offer = device->offer,
        .bound = s->bound ? device->why_bound : NULL,
        .frontend_connected = s->fd >= 0,
        .backend_connected = device->link.open,
        .link = link_of(device),
        .link_reason = device->outage.reason,
        .link_attempts = device->outage.attempts,
        .outages = device->outage.count,
        .last_outage_us = device->outage.last_us,
        .outage_ended = device->outage.ended,
        .resubmitted = recover_resubmitted(device),
        .crash_unsafe = unsafe(device),
        .reconnect = device->reconnect,
        .keep_backend = device->keep_backend,
        .descriptors = device->descriptors,
        .poll_us = device->poll_us,
        .features_backend = device->link.backend->features,
        .features_offered = s->features_offered,
        .features_acked = s->features_acked,
        .features_served = s->features_served,
        .features_masked = setup_masked(device),
        .protocol_backend = device->link.backend->protocol_features,
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
    if (!info->guest.has_index)
        info->guest.index = snapshot.state.guest;
    info->guest.has_index = true;
    info->backend = (struct svq_ring_info){
        .format = device_backend_format(queue->device),
        .size = queue->shadow_num,
        .features = queue->device->s.features_served & SVQ_RELAY_FEATURES,
        .has_index = true,
        .index = snapshot.state.backend,
    };
    info->shares = svq_relay_shares(queue->relay);
    info->in_flight = snapshot.state.in_flight;
    info->chains += snapshot.stats.chains;
    info->bytes += snapshot.stats.bytes;
    info->guest_kicks += snapshot.stats.guest_kicks;
    info->backend_kicks += snapshot.stats.backend_kicks;
    info->backend_calls += snapshot.stats.backend_calls;
    info->guest_calls += snapshot.stats.guest_calls;
    if (queue->lane)
        info->worker = svq_lane_worker(queue->lane);
}

/* A split ring says itself how far it has come. */
static void add_split_index(const struct svq_queue *queue, struct svq_ring_info *info)
{
    struct svq_vring ring;

    if (info->format != SVQ_RING_SPLIT || !queue_guest_ring(queue, queue->device->s.map, &ring))
        return;
    info->has_index = true;
    info->index.avail = ring_avail_index(&ring);
    info->index.used = ring_used_index(&ring);
}

bool svq_device_queue_info(const struct svq_device *device, unsigned index,
                           struct svq_queue_info *info)
{
    const struct svq_queue *queue = index < MAX_QUEUES ? device->s.queues[index] : NULL;

    struct svq_ring_info guest;

    if (!queue)
        return false;
    guest = (struct svq_ring_info){
        .format = device_guest_format(device),
        .size = queue->num,
        .features = device->s.features_acked & SVQ_RELAY_FEATURES,
    };
    *info = (struct svq_queue_info){
        .index = index,
        .guest = guest,
        .backend = guest,
        .enabled = queue->enabled,
        .started = queue->started,
        .shadow = queue->wire == WIRE_SHADOW,
        .worker = queue->worker < 0 ? 0 : (unsigned)queue->worker,
        .pinned = queue->worker >= 0,
        .error = queue->fault,
        .chains = queue->kept.chains,
        .bytes = queue->kept.bytes,
        .guest_kicks = queue->kept.guest_kicks,
        .backend_kicks = queue->kept.backend_kicks,
        .backend_calls = queue->kept.backend_calls,
        .guest_calls = queue->kept.guest_calls,
    };
    add_split_index(queue, &info->guest);
    if (queue->relay)
        add_relay(queue, info);
    return true;
}
