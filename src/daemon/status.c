/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/status.h"

#include <inttypes.h>
#include <stdio.h>

#include "daemon/names.h"

/* Feature words are strings: a JSON number does not hold 64 bits everywhere. */
static json_t *feature_word(uint64_t word)
{
    char text[24];

    snprintf(text, sizeof(text), "0x%" PRIx64, word);
    return json_string(text);
}

static json_t *feature_words(uint64_t backend, uint64_t offered, uint64_t acked)
{
    return json_pack("{s:o, s:o, s:o}", "backend", feature_word(backend), "offered",
                     feature_word(offered), "acked", feature_word(acked));
}

static json_t *counters(uint64_t guest, uint64_t backend)
{
    return json_pack("{s:I, s:I}", "guest", (json_int_t)guest, "backend", (json_int_t)backend);
}

static json_t *peer(const char *address, bool connected)
{
    return json_pack("{s:s, s:b}", "address", address, "connected", connected);
}

static json_t *indices(uint16_t avail, uint16_t used)
{
    return json_pack("{s:i, s:i}", "avail-idx", avail, "used-idx", used);
}

/* "o*" and "s*" leave the member out when there is nothing. */
static json_t *queue_json(const char *id, const struct svq_queue_info *info)
{
    json_t *guest = info->has_indices ? indices(info->guest_avail, info->guest_used) : NULL;
    json_t *backend = info->shadow ? indices(info->backend_avail, info->backend_used) : NULL;

    /* clang-format off */
    return json_pack(
        "{s:s, s:i, s:i, s:s, s:b, s:b, s:s, s:o*, s:o*, s:i, s:I, s:I, s:o, s:o, s:i, s:s*}",
        "device", id,
        "index", (int)info->index,
        "size", (int)info->size,
        "format", info->packed ? "packed" : "split",
        "enabled", info->enabled,
        "started", info->started,
        "mode", info->shadow ? "shadow" : "pass-through",
        "guest", guest,
        "backend", backend,
        "in-flight", (int)info->in_flight,
        "chains", (json_int_t)info->chains,
        "bytes", (json_int_t)info->bytes,
        "kicks", counters(info->guest_kicks, info->backend_kicks),
        "calls", counters(info->guest_calls, info->backend_calls),
        "worker", (int)info->worker,
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
        "{s:s, s:s, s:b, s:s, s:s, s:s, s:o, s:o, s:o, s:o, s:I, s:o*, s:s*, s:o}",
        "id", info.id,
        "mode", svq_device_mode_words[info.mode],
        "started", info.mode != SVQ_MODE_STOPPED,
        "shadow", svq_shadow_policy_words[info.shadow],
        "dirty-log", svq_dirty_log_policy_words[info.dirty_log],
        "logging", svq_logging_words[info.logging],
        "frontend", peer(info.frontend, info.frontend_connected),
        "backend", peer(info.backend, info.backend_connected),
        "features", feature_words(info.features_backend, info.features_offered,
                                  info.features_acked),
        "protocol-features", feature_words(info.protocol_backend, info.protocol_offered,
                                           info.protocol_acked),
        "switches", (json_int_t)info.switches,
        "last-switch", last_switch(&info),
        "last-error", info.last_error,
        "queues", queues);
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
