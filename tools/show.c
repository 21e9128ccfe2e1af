/* SPDX-License-Identifier: BSD-3-Clause */
#include "show.h"

#include <inttypes.h>
#include <string.h>

#include "feature_names.h"
#include "human.h"
#include "json.h"
#include "rings.h"
#include "table.h"

/* ---- Queues -------------------------------------------------------------------------------- */

const char *svq_show_queue_state(const json_t *queue, const json_t *device)
{
    if (svq_json_at(queue, "error"))
        return "broken";
    if (!svq_json_bool(queue, "started"))
        return "stopped";
    if (!svq_json_bool(queue, "enabled"))
        return "disabled";
    return svq_show_link_away(device) ? "paused" : "running";
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

static void queue_row(struct svq_table *table, const json_t *queue, const json_t *device)
{
    char bytes[SVQ_HUMAN_SIZE];

    svq_table_cell(table, "%" PRIu64, svq_json_number(queue, "index"));
    svq_table_cell(table, "%s", svq_show_queue_state(queue, device));
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

static void show_queues(const json_t *device, FILE *out)
{
    static const char *const heads[] = {
        ">queue",      "state",      "mode",       ">guest a/u",
        ">shadow a/u", ">in flight", ">kicks g/b", ">calls b/g",
        ">chains",     ">bytes",     ">worker",    "rings: guest -> back-end",
        NULL,
    };
    const json_t *queues = svq_json_at(device, "queues");
    struct svq_table table;
    const json_t *queue;
    size_t i;

    if (json_array_size(queues) == 0)
        return;
    svq_table_init(&table, heads);
    json_array_foreach(queues, i, queue)
        queue_row(&table, queue, device);
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

#define DEFAULT_RECONNECT 2 /* seconds; svqd's */

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

/* ---- The connection to the back-end -------------------------------------------------------- */

bool svq_show_link_away(const json_t *device)
{
    const char *link = svq_json_string(device, "backend.link");

    return strcmp(link, "lost") == 0 || strcmp(link, "refused") == 0;
}

void svq_show_link(const json_t *device, FILE *out)
{
    uint64_t attempts = svq_json_number(device, "backend.attempts");

    if (!svq_show_link_away(device))
        return;
    fprintf(out, "%s: %s; %" PRIu64 " attempt%s to reach it",
            svq_json_string(device, "backend.link"), svq_json_string(device, "backend.reason"),
            attempts, attempts == 1 ? "" : "s");
}

static void show_outages(const json_t *device, FILE *out)
{
    uint64_t resubmitted = svq_json_number(device, "backend.resubmitted");
    char time[SVQ_HUMAN_SIZE];

    if (svq_json_number(device, "backend.outages") == 0)
        return;
    fprintf(out, LABEL "%" PRIu64, "outages", svq_json_number(device, "backend.outages"));
    if (svq_json_at(device, "backend.last-outage-microseconds"))
        fprintf(out, ", the last took %s",
                svq_human_time(svq_json_number(device, "backend.last-outage-microseconds"), time));
    if (resubmitted)
        fprintf(out, "; %" PRIu64 " request%s given to a back-end again", resubmitted,
                resubmitted == 1 ? "" : "s");
    fputc('\n', out);
}

/* Nobody knows before there are queues. */
static void show_crash_safe(const json_t *device, FILE *out)
{
    if (!svq_json_bool(device, "started"))
        return;
    if (svq_json_bool(device, "crash-safe.safe"))
        fprintf(out, LABEL "yes\n", "crash-safe");
    else
        fprintf(out, LABEL "no (%s)\n", "crash-safe", svq_json_string(device, "crash-safe.reason"));
}

/* The keys about it, where they are not what they are by default. */
static void show_link_keys(const json_t *device, FILE *out)
{
    double reconnect = json_number_value(svq_json_at(device, "reconnect"));
    bool keep = svq_json_bool(device, "keep-backend");

    if (reconnect == DEFAULT_RECONNECT && !keep)
        return;
    fprintf(out, LABEL "reconnect=%g%s\n", "recovery", reconnect, keep ? " keep-backend=on" : "");
}

static void show_connection(const json_t *device, FILE *out)
{
    if (svq_show_link_away(device)) {
        fprintf(out, LABEL, "link");
        svq_show_link(device, out);
        fputc('\n', out);
    }
    show_outages(device, out);
    show_crash_safe(device, out);
    show_link_keys(device, out);
}

/* ---- Devices, all together ----------------------------------------------------------------- */

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

/* The key about them, where it is not what it is by default. */
static void show_descriptors(const json_t *device, FILE *out)
{
    const char *descriptors = svq_json_string(device, "descriptors");

    if (strcmp(descriptors, "copied") == 0)
        fprintf(out, LABEL "%s\n", "descriptors", descriptors);
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
    show_connection(device, out);
    show_ring_keys(device, out);
    show_descriptors(device, out);
    show_pass_through(device, out);
    /* Before a front-end came there is nothing to tell about features. */
    if (svq_json_word(device, "features.backend"))
        show_features(device, out);
    show_switches(device, out);
    if (svq_json_at(device, "last-error"))
        fprintf(out, LABEL "%s\n", "last error", svq_json_string(device, "last-error"));
    show_queues(device, out);
}
