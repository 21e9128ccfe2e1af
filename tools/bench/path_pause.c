/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How long traffic stands still at a switch. The guest's drivers note the longest time in which
 * nothing came back on a queue; a switch's pause is that of the queue that waited longest. Beside
 * it: what svqd says the switch took, what the back-end's own part was (with GET_VRING_BASE, until
 * it had the answer, and with all messages), and, as a control, the longest standstill in as much
 * time without a switch.
 */
#include "path_world.h"
#include "path_print.h"

#include <stdio.h>
#include <stdlib.h>

#define DEFAULT_QUEUES 8u
#define SETTLE_MS      5 /* before and after each switch */

enum what { PAUSE, BEYOND, OURS, REPORTED, DRAIN, HANDLED, WHATS };
static const char *const what_names[WHATS] = {"pause", "beyond-drain", "beyond-back-end",
                                              "svqd",  "drain",        "back-end"};

enum way { WAY_ON, WAY_OFF, WAY_NONE, WAYS };
static const char *const way_names[WAYS] = {"on", "off", "none"};

struct run {
    struct path_report *report;
    bool packed;
    unsigned queues;
    double ticks_per_us;
    struct path_world world;
    double *values[WAYS][WHATS]; /* microseconds, one for each switch */
    unsigned disturbed;          /* switches during which the ends had to wait */
};

struct watch {
    struct path_world *world;
    uint64_t since; /* ticks, like all of them */
    uint64_t longest;
};

static void start_watch(void *arg)
{
    struct watch *watch = arg;

    watch->since = bench_ticks();
    for (unsigned i = 0; i < watch->world->guest.config.queues; i++) {
        watch->world->guest.drivers[i].watched = true;
        watch->world->guest.drivers[i].last_at = 0;
        watch->world->guest.drivers[i].longest = 0;
    }
}

static void read_watch(void *arg)
{
    struct watch *watch = arg;
    uint64_t now = bench_ticks();

    for (unsigned i = 0; i < watch->world->guest.config.queues; i++) {
        const struct flow_driver *d = &watch->world->guest.drivers[i];

        /* One that still stands still, and one that has not moved at all. */
        if (!d->last_at || now - d->last_at > watch->longest)
            watch->longest = now - (d->last_at ? d->last_at : watch->since);
        if (d->longest > watch->longest)
            watch->longest = d->longest;
    }
}

static bool switch_once(struct run *run, enum way way, unsigned round)
{
    struct watch watch = {.world = &run->world};
    uint64_t reported = 0;
    struct path_slot before, after;
    struct device_spent spent;
    double pause, drain, handled;

    if (path_interrupted())
        return path_fail("pause", "interrupted");
    bench_loop_call(run->world.loop, start_watch, &watch);
    device_end_take_spent(run->world.device);
    if (!path_world_slot(&run->world, 0, SETTLE_MS, &before))
        return path_fail("pause", run->world.error);
    if (way != WAY_NONE && proxy_shadow(&run->world.proxy, PATH_DEVICE, way == WAY_ON, &reported))
        return path_fail("pause", run->world.proxy.error);
    /* Counts what came back, so that a queue that stands still for good is found out. */
    if (!path_world_slot(&run->world, 0, SETTLE_MS, &after))
        return path_fail("pause", run->world.error);
    bench_loop_call(run->world.loop, read_watch, &watch);
    run->disturbed += before.disturbed || after.disturbed;
    pause = (double)watch.longest / run->ticks_per_us;
    spent = device_end_take_spent(run->world.device);
    drain = (double)spent.drain_ns / 1e3;
    handled = (double)spent.handled_ns / 1e3;
    run->values[way][PAUSE][round] = pause;
    run->values[way][BEYOND][round] = pause > drain ? pause - drain : 0;
    run->values[way][OURS][round] = pause > handled ? pause - handled : 0;
    run->values[way][REPORTED][round] = (double)reported;
    run->values[way][DRAIN][round] = drain;
    run->values[way][HANDLED][round] = handled;
    return true;
}

static bool measure(struct run *run)
{
    unsigned switches = run->report->options->switches;

    if (!path_world_enter(&run->world, MODE_PASS))
        return path_fail("pause", run->world.error);
    for (unsigned i = 0; i < switches; i++)
        if (!switch_once(run, WAY_NONE, i) || !switch_once(run, WAY_ON, i) ||
            !switch_once(run, WAY_OFF, i))
            return false;
    return true;
}

static void report_way(struct run *run, enum way way, json_t *ways, struct svq_table *table)
{
    unsigned count = run->report->options->switches;
    json_t *json = json_object();

    for (unsigned i = 0; i < WHATS; i++) {
        double *v = run->values[way][i];
        struct bench_summary s = bench_summary(v, count); /* sorts */
        struct bar bar = {.value = s.median, .low = s.low, .high = s.high, .unit = "us"};

        json_object_set_new(json, what_names[i],
                            json_pack("{s:f, s:f, s:f, s:f, s:o}", "p50", s.median, "p90",
                                      bench_quantile(v, count, 0.9), "p99",
                                      bench_quantile(v, count, 0.99), "max", v[count - 1], "median",
                                      path_summary_json(&s)));
        if (way == WAY_NONE && i != PAUSE)
            continue;
        svq_table_cell(table, "%s", run->packed ? "packed" : "split");
        svq_table_cell(table, "%s", way_names[way]);
        svq_table_cell(table, "%s", what_names[i]);
        svq_table_cell(table, "%.0f", s.median);
        svq_table_cell(table, "%.0f-%.0f", s.low, s.high);
        svq_table_cell(table, "%.0f", bench_quantile(v, count, 0.9));
        svq_table_cell(table, "%.0f", bench_quantile(v, count, 0.99));
        svq_table_cell(table, "%.0f", v[count - 1]);
        snprintf(bar.group, sizeof(bar.group), "switch, %s, %u queues, medians",
                 run->packed ? "packed" : "split", run->queues);
        snprintf(bar.label, sizeof(bar.label), "%s: %s", way_names[way], what_names[i]);
        bars_add(&run->report->bars, &bar);
    }
    json_object_set_new(ways, way_names[way], json);
}

static bool prepare(struct run *run)
{
    const struct path_options *o = run->report->options;
    struct guest_end_config config = {.queues = run->queues,
                                      .ring_size = o->ring_size,
                                      .packed = run->packed,
                                      .in_order = o->in_order,
                                      .event_idx = o->event_idx,
                                      .depth = o->in_flight,
                                      .batch = o->batches.values[0],
                                      .size = o->sizes.values[0],
                                      .spins = spins_of_ns(o->work_ns)};

    for (unsigned i = 0; i < WAYS; i++)
        for (unsigned k = 0; k < WHATS; k++)
            if (!(run->values[i][k] = calloc(o->switches, sizeof(double))))
                return path_fail("pause", "out of memory");
    if (!path_world_open(&run->world, o, &config, false))
        return path_fail("pause", run->world.error);
    return true;
}

static bool run_one(struct path_report *report, bool packed, double ticks_per_us, json_t *rows,
                    struct svq_table *table)
{
    const struct path_options *o = report->options;
    struct run run = {
        .report = report,
        .packed = packed,
        .queues = o->queues.values[0] > 2 ? o->queues.values[0] : DEFAULT_QUEUES,
        .ticks_per_us = ticks_per_us,
    };
    bool ok = prepare(&run) && measure(&run);

    path_world_close(&run.world);
    if (ok) {
        json_t *ways = json_object();

        for (unsigned i = 0; i < WAYS; i++)
            report_way(&run, (enum way)i, ways, table);
        json_array_append_new(
            rows, json_pack("{s:s, s:i, s:i, s:i, s:s, s:o}", "rings", packed ? "packed" : "split",
                            "queues", (int)run.queues, "switches", (int)o->switches, "disturbed",
                            (int)run.disturbed, "unit", "microseconds", "ways", ways));
        if (run.disturbed > o->switches * WAYS / 4)
            path_refuse(report, "pause, %s: %u of %u switches were disturbed",
                        packed ? "packed" : "split", run.disturbed, o->switches * WAYS);
    }
    for (unsigned i = 0; i < WAYS; i++)
        for (unsigned k = 0; k < WHATS; k++)
            free(run.values[i][k]);
    return ok;
}

bool path_pause(struct path_report *report)
{
    static const char *const heads[] = {"rings", "switch", "what", ">p50", ">95 %",
                                        ">p90",  ">p99",   ">max", NULL};
    const struct path_options *o = report->options;
    json_t *rows = json_array();
    struct bench_clock clock;
    struct svq_table table;
    bool ok = true;

    bench_clock_calibrate(&clock);
    svq_table_init(&table, heads);
    if (o->split)
        ok = run_one(report, false, 1e3 * clock.ticks_per_ns, rows, &table);
    if (o->packed && ok)
        ok = run_one(report, true, 1e3 * clock.ticks_per_ns, rows, &table);
    if (ok) {
        fprintf(path_out(report),
                "Switch pause under full load: microseconds, %u switches each way.\npause: the "
                "longest standstill of any queue, as the guest sees it; beyond-drain, "
                "beyond-back-end:\nless what the back-end took to stop its queues, and to handle "
                "all messages; svqd: what it\nreports; drain, back-end: those two; none: without a "
                "switch.\n\n",
                o->switches);
        svq_table_print(&table, 0, path_out(report));
        fputc('\n', path_out(report));
    }
    svq_table_release(&table);
    json_object_set_new(report->root, "pause", rows);
    return ok;
}
