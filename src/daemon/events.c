/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/events.h"

#include <time.h>

static json_t *event_data(const struct svq_event *event)
{
    const char *reason = event->reason ? event->reason : "unknown";

    switch (event->type) {
    case SVQ_EVENT_SHADOW_CHANGED:
        return json_pack("{s:s, s:b, s:I, s:s}", "id", event->id, "shadow", event->shadow,
                         "microseconds", (json_int_t)event->microseconds, "reason", reason);
    case SVQ_EVENT_FRONTEND_CONNECTED:
    case SVQ_EVENT_BACKEND_CONNECTED:
        return json_pack("{s:s}", "id", event->id);
    case SVQ_EVENT_QUEUE_ERROR:
        return json_pack("{s:s, s:i, s:s*, s:s}", "id", event->id, "queue", (int)event->queue,
                         "side", event->side, "reason", reason);
    case SVQ_EVENT_BACKEND_DISCONNECTED:
        return json_pack("{s:s, s:s, s:b}", "id", event->id, "reason", reason, "recovering",
                         event->recovering);
    case SVQ_EVENT_BACKEND_RECOVERED:
        return json_pack("{s:s, s:I, s:I, s:I}", "id", event->id, "microseconds",
                         (json_int_t)event->microseconds, "attempts", (json_int_t)event->attempts,
                         "resubmitted", (json_int_t)event->resubmitted);
    case SVQ_EVENT_BACKEND_CHANGED:
        return json_pack("{s:s, s:s, s:I}", "id", event->id, "backend",
                         event->address ? event->address : "unknown", "microseconds",
                         (json_int_t)event->microseconds);
    case SVQ_EVENT_FRONTEND_DISCONNECTED:
    case SVQ_EVENT_BACKEND_REFUSED:
    case SVQ_EVENT_DEVICE_ERROR:
        break;
    }
    return json_pack("{s:s, s:s}", "id", event->id, "reason", reason);
}

static const char *event_name(enum svq_event_type type)
{
    switch (type) {
    case SVQ_EVENT_SHADOW_CHANGED:
        return "DEVICE_SHADOW_CHANGED";
    case SVQ_EVENT_FRONTEND_CONNECTED:
        return "DEVICE_FRONTEND_CONNECTED";
    case SVQ_EVENT_FRONTEND_DISCONNECTED:
        return "DEVICE_FRONTEND_DISCONNECTED";
    case SVQ_EVENT_BACKEND_CONNECTED:
        return "DEVICE_BACKEND_CONNECTED";
    case SVQ_EVENT_BACKEND_DISCONNECTED:
        return "DEVICE_BACKEND_DISCONNECTED";
    case SVQ_EVENT_BACKEND_REFUSED:
        return "DEVICE_BACKEND_REFUSED";
    case SVQ_EVENT_BACKEND_RECOVERED:
        return "DEVICE_BACKEND_RECOVERED";
    case SVQ_EVENT_BACKEND_CHANGED:
        return "DEVICE_BACKEND_CHANGED";
    case SVQ_EVENT_QUEUE_ERROR:
        return "QUEUE_ERROR";
    case SVQ_EVENT_DEVICE_ERROR:
        break;
    }
    return "DEVICE_ERROR";
}

json_t *svq_event_json(const struct svq_event *event)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME, &now);
    return json_pack("{s:s, s:o, s:{s:I, s:I}}", "event", event_name(event->type), "data",
                     event_data(event), "timestamp", "seconds", (json_int_t)now.tv_sec,
                     "microseconds", (json_int_t)(now.tv_nsec / 1000));
}
