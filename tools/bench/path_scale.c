/* SPDX-License-Identifier: BSD-3-Clause */
/* The part as a whole, and what idle devices cost; path_share.c has the busy ones. */
#include "path_scale.h"
#include "path_print.h"
#include "spinner.h"

#include <stdlib.h>

#define RING_SIZE 256u
#define SETTLE_MS 300u
#define QUERIES   15u

/* Slots that make up the time in which idle devices are watched: usual ones are three seconds. */
#define IDLE_SLOTS 30u

/* Fewer devices than that say little about growth: a query's beginning and end cost the same. */
#define GROWTH_FROM 16u

void scale_judge(struct scale *scale, const struct scale_goal *goal)
{
    bool met = goal->at_least ? goal->value >= goal->limit : goal->value <= goal->limit;

    fprintf(path_out(scale->report), "%s %s: %.4g (goal: at %s %g)\n", met ? "PASS" : "FAIL",
            goal->name, goal->value, goal->at_least ? "least" : "most", goal->limit);
    json_array_append_new(scale->goals,
                          json_pack("{s:s, s:f, s:f, s:b, s:b}", "goal", goal->name, "value",
                                    goal->value, "limit", goal->limit, "at-least",
                                    (int)goal->at_least, "pass", (int)met));
}

static bool fail(const struct fleet *fleet)
{
    return path_fail("scale", fleet->error);
}

/* ---- One number of idle devices -------------------------------------------------------------- */

struct idle {
    unsigned count;
    double own_kib, rings_kib, guest_kib; /* for each device */
    double cpu;                           /* milliseconds per second, all together */
    struct bench_summary query_ms;        /* answer read and parsed */
    double query_cpu_ms;                  /* svqd's part, which does not depend on what else runs */
};

static bool time_queries(struct proxy *proxy, struct idle *idle)
{
    double samples[QUERIES];
    uint64_t cpu = proxy_cpu(proxy);

    for (unsigned i = 0; i < QUERIES; i++) {
        uint64_t start = bench_now_ns();
        json_t *answer;

        if (sim_qmp_execute(&proxy->qmp, "query-devices", NULL, &answer))
            return path_fail("scale", proxy->qmp.error);
        samples[i] = (double)(bench_now_ns() - start) / 1e6;
        json_decref(answer);
    }
    idle->query_ms = bench_summary(samples, QUERIES);
    idle->query_cpu_ms = (double)(proxy_cpu(proxy) - cpu) / 1e6 / QUERIES;
    return true;
}

static double kib_each(uint64_t bytes, uint64_t before, unsigned count)
{
    return ((double)bytes - (double)before) / 1024 / count;
}

/* @empty: what svqd takes without devices. */
static bool measure_idle(struct fleet *fleet, unsigned window_ms, const struct proxy_memory *empty,
                         struct idle *idle)
{
    struct proxy_memory memory;
    uint64_t cpu;

    bench_sleep_ms(SETTLE_MS);
    *idle = (struct idle){.count = fleet->count};
    cpu = proxy_cpu(&fleet->proxy);
    bench_sleep_ms(window_ms);
    idle->cpu = (double)(proxy_cpu(&fleet->proxy) - cpu) / 1e3 / window_ms;
    /* Before the answers to queries, which are memory, too. */
    if (proxy_memory(&fleet->proxy, &memory))
        return path_fail("scale", fleet->proxy.error);
    idle->own_kib = kib_each(memory.own, empty->own, idle->count);
    idle->rings_kib = kib_each(memory.rings, empty->rings, idle->count);
    idle->guest_kib = kib_each(memory.guest, empty->guest, idle->count);
    return time_queries(&fleet->proxy, idle);
}

static void report_step(struct svq_table *table, json_t *steps, const struct idle *idle)
{
    svq_table_cell(table, "%u", idle->count);
    svq_table_cell(table, "%.1f", idle->own_kib);
    svq_table_cell(table, "%.1f", idle->rings_kib);
    svq_table_cell(table, "%.1f", idle->guest_kib);
    svq_table_cell(table, "%.3f", idle->cpu);
    svq_table_cell(table, "%.2f", idle->query_ms.median);
    svq_table_cell(table, "%.1f", 1e3 * idle->query_ms.median / idle->count);
    svq_table_cell(table, "%.1f", 1e3 * idle->query_cpu_ms / idle->count);
    json_array_append_new(
        steps,
        json_pack("{s:i, s:f, s:f, s:f, s:f, s:o, s:f, s:f}", "devices", (int)idle->count,
                  "own-kib-per-device", idle->own_kib, "rings-kib-per-device", idle->rings_kib,
                  "guest-kib-per-device", idle->guest_kib, "idle-cpu-ms-per-second", idle->cpu,
                  "query-devices-ms", path_summary_json(&idle->query_ms),
                  "query-devices-us-per-device", 1e3 * idle->query_ms.median / idle->count,
                  "query-devices-cpu-ms", idle->query_cpu_ms));
}

/* ---- Verdicts -------------------------------------------------------------------------------- */

/* How much faster than the number of devices does the time of a query grow? 0: cannot tell. */
static double query_growth(const struct idle *idle, unsigned count)
{
    const struct idle *few = NULL, *many = &idle[count - 1];

    for (unsigned i = 0; i < count && !few; i++)
        if (idle[i].count >= GROWTH_FROM || i + 2 >= count)
            few = &idle[i];
    if (!few || few == many)
        return 0;
    return many->query_ms.median / many->count / (few->query_ms.median / few->count);
}

static void judge_idle(struct scale *scale, const struct idle *idle, unsigned count)
{
    double own = 0, cpu = 0, spread = 0;

    for (unsigned i = 0; i < count; i++) {
        own = idle[i].own_kib > own ? idle[i].own_kib : own;
        cpu = idle[i].cpu > cpu ? idle[i].cpu : cpu;
        if (idle[i].count >= GROWTH_FROM && idle[i].query_ms.spread > spread)
            spread = idle[i].query_ms.spread;
    }
    scale_judge(scale, &(struct scale_goal){"KiB of an idle device beyond its shadow rings", own,
                                            256, false});
    /* None: but a clock that ticks when it is read. */
    scale_judge(scale,
                &(struct scale_goal){"CPU time of idle devices, ms per second", cpu, 0.05, false});
    if (count < 2)
        return;
    scale_judge(scale, &(struct scale_goal){"query-devices, time per device: most devices to few",
                                            query_growth(idle, count), 1.5, false});
    if (spread > scale->report->options->max_spread)
        path_refuse(scale->report, "scale: query-devices spreads by %.0f %%", 100 * spread);
}

/* ---- All numbers of them --------------------------------------------------------------------- */

/* To the largest number, with a stop at each of the others. */
static bool measure_steps(struct scale *scale, struct fleet *fleet, struct idle *idle)
{
    const struct path_options *o = scale->report->options;
    struct proxy_memory empty;

    if (proxy_memory(&fleet->proxy, &empty))
        return path_fail("scale", fleet->proxy.error);
    for (unsigned i = 0; i < o->devices.count; i++) {
        if (!fleet_resize(fleet, o->devices.values[i]))
            return fail(fleet);
        if (!measure_idle(fleet, IDLE_SLOTS * o->slot_ms, &empty, &idle[i]))
            return false;
    }
    return true;
}

static bool scale_idle(struct scale *scale, struct fleet *fleet)
{
    static const char *const heads[] = {">devices",   ">own KiB",       ">rings KiB",
                                        ">guest KiB", ">CPU ms/s",      ">query ms",
                                        ">us/device", ">CPU us/device", NULL};
    const struct path_options *o = scale->report->options;
    struct idle idle[PATH_LIST_MAX];
    FILE *out = path_out(scale->report);
    struct svq_table table;
    json_t *steps;

    if (!measure_steps(scale, fleet, idle))
        return false;
    svq_table_init(&table, heads);
    steps = json_array();
    for (unsigned i = 0; i < o->devices.count; i++)
        report_step(&table, steps, &idle[i]);
    json_object_set_new(scale->json, "idle", steps);
    fprintf(
        out,
        "Scale: devices with %u queues, shadowed, idle. KiB per device in svqd: its own, shadow "
        "rings,\nguest memory that it has looked at. CPU: milliseconds per second, all "
        "together. query-devices:\nmilliseconds in all, microseconds per device, and svqd's "
        "CPU time.\n\n",
        SCALE_QUEUES);
    svq_table_print(&table, 0, out);
    svq_table_release(&table);
    fputc('\n', out);
    judge_idle(scale, idle, o->devices.count);
    return true;
}

/* ---- The part -------------------------------------------------------------------------------- */

static struct guest_end_config config_of(const struct path_options *o)
{
    unsigned depth = o->in_flight < RING_SIZE / 2 ? o->in_flight : RING_SIZE / 2;

    return (struct guest_end_config){.queues = SCALE_QUEUES,
                                     .ring_size = RING_SIZE,
                                     .packed = o->packed && !o->split,
                                     .in_order = o->in_order,
                                     .event_idx = o->event_idx,
                                     .depth = depth,
                                     .batch = o->batches.values[0],
                                     .size = o->sizes.values[0],
                                     .polls = true,
                                     .spins = spins_of_ns(o->work_ns)};
}

static bool run_idle_and_one(struct scale *scale)
{
    const struct path_options *o = scale->report->options;
    unsigned most = o->devices.values[o->devices.count - 1];
    struct fleet fleet;
    bool ok = fleet_open(&fleet, o, &scale->config, scale->loop, most, 1, 1) || fail(&fleet);

    ok = ok && scale_idle(scale, &fleet) && scale_among(scale, &fleet);
    fleet_close(&fleet);
    return ok;
}

bool path_scale(struct path_report *report)
{
    struct scale scale = {.report = report,
                          .config = config_of(report->options),
                          .json = json_object(),
                          .goals = json_array()};
    int ret = bench_loop_new(report->options->ends_cpu, &scale.loop);
    bool ok;

    json_object_set_new(scale.json, "goals", scale.goals);
    json_object_set_new(report->root, "scale", scale.json);
    if (ret)
        return path_fail("scale: a thread for the ends", strerror(-ret));
    ok = run_idle_and_one(&scale) && scale_shares(&scale);
    bench_loop_free(scale.loop);
    return ok;
}
