/* SPDX-License-Identifier: BSD-3-Clause */
#include "events.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "human.h"
#include "json.h"

static void show_shadow(const json_t *data, FILE *out)
{
    char time[SVQ_HUMAN_SIZE];

    fprintf(out, "now %s, after %s (%s)", svq_json_bool(data, "shadow") ? "shadow" : "pass-through",
            svq_human_time(svq_json_number(data, "microseconds"), time),
            svq_json_string(data, "reason"));
}

static void show_reason(const json_t *data, FILE *out)
{
    fputs(svq_json_string(data, "reason"), out);
}

static void show_nothing(const json_t *data, FILE *out)
{
    (void)data;
    (void)out;
}

static void show_backend_left(const json_t *data, FILE *out)
{
    show_reason(data, out);
    if (svq_json_bool(data, "recovering"))
        fputs("; queues are paused until it is back", out);
}

static void show_recovered(const json_t *data, FILE *out)
{
    uint64_t attempts = svq_json_number(data, "attempts");
    uint64_t resubmitted = svq_json_number(data, "resubmitted");
    char time[SVQ_HUMAN_SIZE];

    fprintf(out, "after %s and %" PRIu64 " attempt%s; %" PRIu64 " request%s given to it again",
            svq_human_time(svq_json_number(data, "microseconds"), time), attempts,
            attempts == 1 ? "" : "s", resubmitted, resubmitted == 1 ? "" : "s");
}

static void show_changed(const json_t *data, FILE *out)
{
    char time[SVQ_HUMAN_SIZE];

    fprintf(out, "now on %s, queues paused for %s", svq_json_string(data, "backend"),
            svq_human_time(svq_json_number(data, "microseconds"), time));
}

static void show_queue_error(const json_t *data, FILE *out)
{
    fprintf(out, "queue %" PRIu64 ", broken by the %s: %s", svq_json_number(data, "queue"),
            strcmp(svq_json_string(data, "side"), "backend") == 0 ? "back-end" : "guest",
            svq_json_string(data, "reason"));
}

/* What a newer svqd may have to say. */
static void show_members(const json_t *data, FILE *out)
{
    const char *between = "";
    const char *name;
    const json_t *value;
    char *text;

    json_object_foreach((json_t *)data, name, value) {
        if (strcmp(name, "id") == 0)
            continue;
        text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        fprintf(out, "%s%s=%s", between, name, text ? text : "?");
        free(text);
        between = " ";
    }
}

static const struct kind {
    const char *name;
    void (*show)(const json_t *data, FILE *out);
} kinds[] = {
    {"DEVICE_SHADOW_CHANGED", show_shadow},
    {"DEVICE_FRONTEND_CONNECTED", show_nothing},
    {"DEVICE_FRONTEND_DISCONNECTED", show_reason},
    {"DEVICE_BACKEND_CONNECTED", show_nothing},
    {"DEVICE_BACKEND_DISCONNECTED", show_backend_left},
    {"DEVICE_BACKEND_REFUSED", show_reason},
    {"DEVICE_BACKEND_RECOVERED", show_recovered},
    {"DEVICE_BACKEND_CHANGED", show_changed},
    {"QUEUE_ERROR", show_queue_error},
    {"DEVICE_ERROR", show_reason},
};

static const struct kind *find_kind(const char *name)
{
    static const struct kind unknown = {NULL, show_members};
    size_t i;

    for (i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++) {
        if (strcmp(kinds[i].name, name) == 0)
            return &kinds[i];
    }
    return &unknown;
}

void svq_show_event(const json_t *event, FILE *out)
{
    time_t seconds = (time_t)svq_json_number(event, "timestamp.seconds");
    const char *name = svq_json_string(event, "event");
    const json_t *data = svq_json_at(event, "data");
    const struct kind *kind = find_kind(name);
    char stamp[32] = "";
    struct tm tm;

    if (localtime_r(&seconds, &tm))
        strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &tm);
    fprintf(out, "%s.%06" PRIu64 " %s %s", stamp, svq_json_number(event, "timestamp.microseconds"),
            name, svq_json_string(data, "id"));
    if (kind->show != show_nothing) {
        fputs(": ", out);
        kind->show(data, out);
    }
    fputc('\n', out);
}
