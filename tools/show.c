/* SPDX-License-Identifier: BSD-3-Clause */
#include "show.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "feature_names.h"
#include "human.h"
#include "json.h"
#include "rings.h"
#include "table.h"

/* ---- Queues -------------------------------------------------------------------------------- */

const char *svq_show_queue_state(const json_t *queue)
{
    if (svq_json_at(queue, "error"))
        return "broken";
    if (!svq_json_bool(queue, "started"))
        return "stopped";
    return svq_json_bool(queue, "enabled") ? "running" : "disabled";
}

void svq_show_worker(struct svq_table *table, const json_t *queue)
{
    if (strcmp(svq_json_string(queue, "mode"), "shadow") == 0)
        svq_table_cell(table, "%" PRIu64, svq_json_number(queue, "worker"));
    else
        svq_table_cell(table, "-");
}

/* Two counters that belong together. */
static void pair_cell(struct svq_table *table, const json_t *object, const char *a, const char *b)
{
    svq_table_cell(table, "%" PRIu64 "/%" PRIu64, svq_json_number(object, a),
                   svq_json_number(object, b));
}

static void queue_row(struct svq_table *table, const json_t *queue)
{
    char bytes[SVQ_HUMAN_SIZE];

    svq_table_cell(table, "%" PRIu64, svq_json_number(queue, "index"));
    svq_table_cell(table, "%s", svq_show_queue_state(queue));
    svq_table_cell(table, "%s", svq_json_string(queue, "mode"));
    svq_show_index(table, svq_json_at(queue, "guest"));
    svq_show_index(table, svq_json_at(queue, "backend"));
    svq_table_cell(table, "%" PRIu64, svq_json_number(queue, "in-flight"));
    pair_cell(table, svq_json_at(queue, "kicks"), "guest", "backend");
    pair_cell(table, svq_json_at(queue, "calls"), "backend", "guest");
    svq_table_cell(table, "%" PRIu64, svq_json_number(queue, "chains"));
    svq_table_cell(table, "%s", svq_human_bytes((double)svq_json_number(queue, "bytes"), bytes));
    svq_show_worker(table, queue);
    svq_show_rings(table, queue);
}

static void show_queues(const json_t *queues, FILE *out)
{
    static const char *const heads[] = {
        ">queue",      "state",      "mode",       ">guest a/u",
        ">shadow a/u", ">in flight", ">kicks g/b", ">calls b/g",
        ">chains",     ">bytes",     ">worker",    "rings: guest -> back-end",
        NULL,
    };
    struct svq_table table;
    const json_t *queue;
    size_t i;

    if (json_array_size(queues) == 0)
        return;
    svq_table_init(&table, heads);
    json_array_foreach(queues, i, queue)
        queue_row(&table, queue);
    svq_table_print(&table, 2, out);
    svq_table_release(&table);
    json_array_foreach(queues, i, queue) {
        if (svq_json_at(queue, "error"))
            fprintf(out, "  queue %" PRIu64 " is broken: %s\n", svq_json_number(queue, "index"),
                    svq_json_string(queue, "error"));
    }
}

/* ---- Devices ------------------------------------------------------------------------------- */

/* Every line about a device begins with a word that says what it is about. */
#define LABEL "  %-12s  "

static void show_peers(const json_t *device, FILE *out)
{
    const char *frontend = svq_json_string(device, "frontend.address");
    const char *backend = svq_json_string(device, "backend.address");
    size_t width = strlen(frontend) > strlen(backend) ? strlen(frontend) : strlen(backend);

    fprintf(out, LABEL "%-*s  %s\n", "front-end", (int)width, frontend,
            svq_json_bool(device, "frontend.connected") ? "connected" : "not connected");
    fprintf(out, LABEL "%-*s  %s\n", "back-end", (int)width, backend,
            svq_json_bool(device, "backend.connected") ? "connected" : "not connected");
}

/* The keys that the device was given about its rings, if any. */
static void show_ring_keys(const json_t *device, FILE *out)
{
    const char *ring = svq_json_string(device, "ring");
    const json_t *offer = svq_json_at(device, "offer");

    if (strcmp(ring, "auto") == 0 && json_array_size(offer) == 0)
        return;
    fprintf(out, LABEL "ring=%s", "rings", ring);
    if (json_array_size(offer) > 0) {
        fputs(" offer=", out);
        svq_print_ring_features(offer, "+", out);
    }
    fputc('\n', out);
}

/* Nobody knows before a guest has chosen its features. */
static void show_pass_through(const json_t *device, FILE *out)
{
    if (svq_json_at(device, "pass-through.reason"))
        fprintf(out, LABEL "not possible: %s\n", "pass-through",
                svq_json_string(device, "pass-through.reason"));
    else if (svq_json_bool(device, "started"))
        fprintf(out, LABEL "possible\n", "pass-through");
}

static void show_masked(const json_t *device, FILE *out)
{
    const json_t *masked = svq_json_at(device, "masked-features");
    const json_t *one;
    size_t i;

    json_array_foreach(masked, i, one)
        fprintf(out, LABEL "%s: %s\n", i == 0 ? "masked" : "", svq_json_string(one, "feature"),
                svq_json_string(one, "reason"));
}

/* Only what was negotiated by name; the other words tell what was on the table. */
static void show_features(const json_t *device, FILE *out)
{
    fprintf(out, LABEL "acked %s of %s offered; back-end has %s, was acked %s\n" LABEL, "features",
            svq_json_string(device, "features.acked"), svq_json_string(device, "features.offered"),
            svq_json_string(device, "features.backend"), svq_json_string(device, "features.served"),
            "");
    svq_features_print(svq_json_word(device, "features.acked"), out);
    fputc('\n', out);
    show_masked(device, out);
    fprintf(out, LABEL "acked %s of %s offered; back-end has %s\n" LABEL, "protocol",
            svq_json_string(device, "protocol-features.acked"),
            svq_json_string(device, "protocol-features.offered"),
            svq_json_string(device, "protocol-features.backend"), "");
    svq_protocol_features_print(svq_json_word(device, "protocol-features.acked"), out);
    fputc('\n', out);
}

static void show_switches(const json_t *device, FILE *out)
{
    const json_t *last = svq_json_at(device, "last-switch");

    fprintf(out, LABEL "%" PRIu64, "switches", svq_json_number(device, "switches"));
    if (last)
        fprintf(out, ", last to %s in %" PRIu64 " us",
                svq_json_bool(last, "shadow") ? "shadow" : "pass-through",
                svq_json_number(last, "microseconds"));
    fputc('\n', out);
}

void svq_show_device(const json_t *device, FILE *out)
{
    fprintf(out, "%s: %s (policy %s; dirty log: policy %s, now %s)\n",
            svq_json_string(device, "id"), svq_json_string(device, "mode"),
            svq_json_string(device, "shadow"), svq_json_string(device, "dirty-log"),
            svq_json_string(device, "logging"));
    show_peers(device, out);
    show_ring_keys(device, out);
    show_pass_through(device, out);
    /* Before a front-end came there is nothing to tell about features. */
    if (svq_json_word(device, "features.backend"))
        show_features(device, out);
    show_switches(device, out);
    if (svq_json_at(device, "last-error"))
        fprintf(out, LABEL "%s\n", "last error", svq_json_string(device, "last-error"));
    show_queues(svq_json_at(device, "queues"), out);
}

/* ---- Events -------------------------------------------------------------------------------- */

static void show_data(const json_t *data, FILE *out)
{
    const char *name;
    const json_t *value;
    char *text;

    json_object_foreach((json_t *)data, name, value) {
        text = json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        fprintf(out, " %s=%s", name, text ? text : "?");
        free(text);
    }
}

void svq_show_event(const json_t *event, FILE *out)
{
    time_t seconds = (time_t)svq_json_number(event, "timestamp.seconds");
    char stamp[32] = "";
    struct tm tm;

    if (localtime_r(&seconds, &tm))
        strftime(stamp, sizeof(stamp), "%Y-%m-%d %H:%M:%S", &tm);
    fprintf(out, "%s.%06" PRIu64 " %s", stamp, svq_json_number(event, "timestamp.microseconds"),
            svq_json_string(event, "event"));
    show_data(svq_json_at(event, "data"), out);
    fputc('\n', out);
}
