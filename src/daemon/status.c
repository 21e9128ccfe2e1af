/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/status.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/feature_name.h"
#include "daemon/names.h"
#include "daemon/ring_features.h"
#include "engine/engine.h"

/* Feature words are strings: a JSON number does not hold 64 bits everywhere. */
static json_t *feature_word(uint64_t word)
{
    char text[24];

    snprintf(text, sizeof(text), "0x%" PRIx64, word);
    return json_string(text);
}

static json_t *feature_words(const struct svq_device_info *info)
{
    return json_pack("{s:o, s:o, s:o, s:o}", "backend", feature_word(info->features_backend),
                     "offered", feature_word(info->features_offered), "acked",
                     feature_word(info->features_acked), "served",
                     feature_word(info->features_served));
}

static json_t *protocol_words(const struct svq_device_info *info)
{
    return json_pack("{s:o, s:o, s:o}", "backend", feature_word(info->protocol_backend), "offered",
                     feature_word(info->protocol_offered), "acked",
                     feature_word(info->protocol_acked));
}

static json_t *counters(uint64_t guest, uint64_t backend)
{
    return json_pack("{s:I, s:I}", "guest", (json_int_t)guest, "backend", (json_int_t)backend);
}

static json_t *frontend_json(const struct svq_device_info *info)
{
    return json_pack("{s:s, s:b}", "address", info->frontend, "connected",
                     info->frontend_connected);
}

/* "o*" leaves the member out when there is nothing. */
static json_t *backend_json(const struct svq_device_info *info)
{
    bool away = info->link == SVQ_LINK_LOST || info->link == SVQ_LINK_REFUSED;
    json_t *attempts = away ? json_integer((json_int_t)info->link_attempts) : NULL;
    json_t *last = info->outage_ended ? json_integer((json_int_t)info->last_outage_us) : NULL;

    return json_pack("{s:s, s:b, s:s, s:s*, s:o*, s:I, s:o*, s:I}", "address", info->backend,
                     "connected", info->backend_connected, "link", svq_link_words[info->link],
                     "reason", away ? info->link_reason : NULL, "attempts", attempts, "outages",
                     (json_int_t)info->outages, "last-outage-microseconds", last, "resubmitted",
                     (json_int_t)info->resubmitted);
}

/* As the key of that name takes it: whole where it can be. */
static json_t *seconds_json(int64_t nanoseconds)
{
    const int64_t second = 1000000000;

    if (nanoseconds % second == 0)
        return json_integer(nanoseconds / second);
    return json_real((double)nanoseconds / (double)second);
}

static json_t *crash_safe(const struct svq_device_info *info)
{
    return json_pack("{s:b, s:s*}", "safe", !info->crash_unsafe, "reason", info->crash_unsafe);
}

/* Where the two ends of a ring are; its wrap counters only where it has them. */
static int add_index(json_t *ring, const struct svq_ring_info *info)
{
    const struct svq_ring_index *index = &info->index;
    int ret = json_object_set_new(ring, "avail-idx", json_integer(index->avail));

    ret |= json_object_set_new(ring, "used-idx", json_integer(index->used));
    if (info->format == SVQ_RING_PACKED) {
        ret |= json_object_set_new(ring, "avail-wrap", json_boolean(index->avail_wrap));
        ret |= json_object_set_new(ring, "used-wrap", json_boolean(index->used_wrap));
    }
    return ret;
}

static json_t *ring_json(const struct svq_ring_info *info)
{
    json_t *ring = json_pack("{s:s, s:i, s:o}", "format", svq_ring_format_words[info->format],
                             "size", (int)info->size, "features",
                             svq_ring_features_json(info->features & ~SVQ_BIT(SVQ_F_RING_PACKED)));

    if (ring && info->has_index && add_index(ring, info) < 0) {
        json_decref(ring);
        return NULL;
    }
    return ring;
}

/* "s*" and "o*" leave the member out when there is nothing. */
static json_t *queue_json(const char *id, const struct svq_queue_info *info)
{
    enum svq_descriptors shares = info->shares ? SVQ_DESCRIPTORS_SHARED : SVQ_DESCRIPTORS_COPIED;

    /* clang-format off */
    return json_pack(
        "{s:s, s:i, s:b, s:b, s:s, s:s*, s:o, s:o, s:i, s:I, s:I, s:o, s:o, s:i, s:b, s:s*}",
        "device", id,
        "index", (int)info->index,
        "enabled", info->enabled,
        "started", info->started,
        "mode", info->shadow ? "shadow" : "pass-through",
        "descriptors", info->shadow ? svq_descriptors_words[shares] : NULL,
        "guest", ring_json(&info->guest),
        "backend", ring_json(&info->backend),
        "in-flight", (int)info->in_flight,
        "chains", (json_int_t)info->chains,
        "bytes", (json_int_t)info->bytes,
        "kicks", counters(info->guest_kicks, info->backend_kicks),
        "calls", counters(info->guest_calls, info->backend_calls),
        "worker", (int)info->worker,
        "worker-pinned", info->pinned,
        "error", info->error);
    /* clang-format on */
}

static int append_queues(json_t *list, const struct svq_device *device, unsigned count)
{
    struct svq_queue_info info;
    unsigned i;

    for (i = 0; i < count; i++) {
        if (!svq_device_queue_info(device, i, &info))
            continue;
        if (json_array_append_new(list, queue_json(svq_device_id(device), &info)) < 0)
            return -1;
    }
    return 0;
}

static json_t *last_switch(const struct svq_device_info *info)
{
    if (info->switches == 0)
        return NULL;
    return json_pack("{s:b, s:I}", "shadow", info->last_switch_shadow, "microseconds",
                     (json_int_t)info->last_switch_microseconds);
}

static json_t *poll_us(int us)
{
    if (us == SVQ_POLL_DEFAULT)
        return NULL;
    return us == SVQ_POLL_ALWAYS ? json_string("always") : json_integer(us);
}

static json_t *pass_through(const struct svq_device_info *info)
{
    return json_pack("{s:b, s:s*}", "possible", !info->bound, "reason", info->bound);
}

static json_t *masked_features(uint64_t features)
{
    json_t *list = json_array();
    unsigned bit;

    for (bit = SVQ_FEATURE_NAMED_FIRST; list && bit <= SVQ_FEATURE_NAMED_LAST; bit++) {
        if (!(features & SVQ_BIT(bit)))
            continue;
        if (json_array_append_new(list, json_pack("{s:s, s:s}", "feature", svq_feature_name(bit),
                                                  "reason", svq_device_masked_reason(bit))) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

static json_t *device_json(const struct svq_device *device)
{
    struct svq_device_info info;
    json_t *queues = json_array();

    svq_device_info(device, &info);
    if (queues && append_queues(queues, device, info.queues) < 0) {
        json_decref(queues);
        queues = NULL;
    }
    /* A NULL behind "o" makes json_pack drop everything and return NULL. */
    /* clang-format off */
    return json_pack(
        "{s:s, s:s, s:b, s:s, s:s, s:s, s:s, s:o, s:o, s:b, s:s, s:o, s:o, s:o, s:o, s:o, s:o, s:o,"
        " s:I, s:o*, s:s*, s:o, s:o*}",
        "id", info.id,
        "mode", svq_device_mode_words[info.mode],
        "started", info.mode != SVQ_MODE_STOPPED,
        "shadow", svq_shadow_policy_words[info.shadow],
        "dirty-log", svq_dirty_log_policy_words[info.dirty_log],
        "logging", svq_logging_words[info.logging],
        "ring", svq_ring_choice_words[info.ring],
        "offer", svq_ring_features_json(info.offer),
        "reconnect", seconds_json(info.reconnect),
        "keep-backend", info.keep_backend,
        "descriptors", svq_descriptors_words[info.descriptors],
        "pass-through", pass_through(&info),
        "crash-safe", crash_safe(&info),
        "frontend", frontend_json(&info),
        "backend", backend_json(&info),
        "features", feature_words(&info),
        "masked-features", masked_features(info.features_masked),
        "protocol-features", protocol_words(&info),
        "switches", (json_int_t)info.switches,
        "last-switch", last_switch(&info),
        "last-error", info.last_error,
        "queues", queues,
        "poll-us", poll_us(info.poll_us));
    /* clang-format on */
}

json_t *svq_status_devices(const struct svq_registry *registry)
{
    const struct svq_device *device = NULL;
    json_t *list = json_array();

    while (list && (device = svq_registry_next(registry, device))) {
        if (json_array_append_new(list, device_json(device)) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}

json_t *svq_status_queues(const struct svq_registry *registry, const struct svq_device *device)
{
    const struct svq_device *one = device ? device : svq_registry_next(registry, NULL);
    json_t *list = json_array();

    while (list && one) {
        struct svq_device_info info;

        svq_device_info(one, &info);
        if (append_queues(list, one, info.queues) < 0) {
            json_decref(list);
            return NULL;
        }
        one = device ? NULL : svq_registry_next(registry, one);
    }
    return list;
}
