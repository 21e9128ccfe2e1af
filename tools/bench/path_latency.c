/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One buffer at a time: from the moment when it is published to the one when it is back. First with
 * both ends in one thread, which polls one and the other in turn; then with ends that sleep, in a
 * thread each: everybody asks for notifications and waits for them. What svqd adds there is not
 * only time: for each buffer it is woken twice and wakes somebody twice. That is counted.
 */
#include "path_world.h"
#include "path_print.h"
#include "rotation.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

/* Parts of less than this are the clock's. */
#define CLOCK_US 0.2

#define SAMPLES_MAX (1u << 20) /* of a slot */

static const enum path_mode modes[] = {MODE_DIRECT, MODE_PASS, MODE_SHADOW, MODE_LOG};
#define MODES 4u

static const struct {
    const char *name;
    double part;
} ranks[] = {{"p50", 0.5}, {"p90", 0.9}, {"p99", 0.99}, {"p99.9", 0.999}, {"max", 1}};
#define RANKS 5u

/* For each buffer, in svqd. */
enum { READS, WRITES, SLEEPS, COSTS };
static const char *const cost_names[COSTS] = {"reads", "writes", "sleeps"};

_Static_assert(RANKS + COSTS <= ROTATION_MORE, "all of them belong to a slot");

struct run {
    struct path_report *report;
    bool packed;
    bool sleeps;
    double ticks_per_us;
    struct path_world world;
    struct rotation rotation; /* medians of slots, microseconds */
};

static int compare(const void *a, const void *b)
{
    uint64_t x = *(const uint64_t *)a, y = *(const uint64_t *)b;

    return (x > y) - (x < y);
}

static void forget_samples(void *arg)
{
    struct flow_driver *d = arg;

    d->sample_count = 0;
}

/* The samples are not to change while they are sorted. */
static void stop_samples(void *arg)
{
    ((struct flow_driver *)arg)->timed = false;
}

static void start_samples(void *arg)
{
    ((struct flow_driver *)arg)->timed = true;
    forget_samples(arg);
}

static bool slot_ranks(struct run *run, struct rotation_sample *sample)
{
    struct flow_driver *d = &run->world.guest.drivers[0];

    bench_loop_call(run->world.loop, stop_samples, d);
    if (!d->sample_count)
        return path_fail("latency", "no buffer came back");
    qsort(d->samples, d->sample_count, sizeof(d->samples[0]), compare);
    for (unsigned i = 0; i < RANKS; i++) {
        size_t at = (size_t)(ranks[i].part * (double)(d->sample_count - 1));

        sample->more[i] = (double)d->samples[at] / run->ticks_per_us;
    }
    return true;
}

static bool measure(void *opaque, enum path_mode mode, struct rotation_sample *sample)
{
    struct run *run = opaque;
    const struct path_options *o = run->report->options;
    struct proxy_calls before, after;
    struct path_slot slot;

    if (!path_world_enter(&run->world, mode) ||
        !path_world_slot(&run->world, 0, o->drop_ms ? o->drop_ms : 1, &slot))
        return path_fail("latency", run->world.error);
    bench_loop_call(run->world.loop, start_samples, &run->world.guest.drivers[0]);
    if (proxy_calls(&run->world.proxy, &before))
        return path_fail("latency", run->world.proxy.error);
    if (!path_world_slot(&run->world, 0, o->slot_ms, &slot))
        return path_fail("latency", run->world.error);
    if (proxy_calls(&run->world.proxy, &after))
        return path_fail("latency", run->world.proxy.error);
    *sample = (struct rotation_sample){
        .count = (double)slot.buffers,
        .seconds = slot.seconds,
        .disturbed = slot.disturbed,
    };
    if (!slot_ranks(run, sample))
        return false;
    sample->value = sample->more[0];
    sample->more[RANKS + READS] = (double)(after.reads - before.reads) / (double)slot.buffers;
    sample->more[RANKS + WRITES] = (double)(after.writes - before.writes) / (double)slot.buffers;
    sample->more[RANKS + SLEEPS] = (double)(after.sleeps - before.sleeps) / (double)slot.buffers;
    return true;
}

static bool prepare(struct run *run)
{
    const struct path_options *o = run->report->options;
    struct guest_end_config config = {.queues = 1,
                                      .ring_size = o->ring_size,
                                      .packed = run->packed,
                                      .in_order = o->in_order,
                                      .event_idx = o->event_idx,
                                      .depth = 1,
                                      .batch = 1,
                                      .size = o->sizes.values[0],
                                      .spins = spins_of_ns(o->work_ns)};
    struct flow_driver *driver;

    if (!rotation_init(&run->rotation, modes, MODES, o->slots, o->repeats))
        return path_fail("latency", "out of memory");
    if (!path_world_open(&run->world, o, &config, run->sleeps))
        return path_fail("latency", run->world.error);
    driver = &run->world.guest.drivers[0];
    driver->samples = calloc(SAMPLES_MAX, sizeof(driver->samples[0]));
    driver->sample_room = driver->samples ? SAMPLES_MAX : 0;
    if (!driver->samples)
        return path_fail("latency", "out of memory");
    return true;
}

static void release(struct run *run)
{
    path_world_close(&run->world);
    rotation_release(&run->rotation);
}

static double floor_us(double us)
{
    return us > CLOCK_US ? us : CLOCK_US;
}

static void judge(struct run *run)
{
    struct path_report *report = run->report;
    const struct path_options *o = report->options;
    const struct rotation_mode *pass = rotation_find(&run->rotation, MODE_PASS);
    char name[64];

    snprintf(name, sizeof(name), "latency, %s, %s", run->packed ? "packed" : "split",
             run->sleeps ? "sleeping" : "polling");
    rotation_judge_rounds(&run->rotation, report, name);
    /* A ratio of such times is of no interest, a difference is: its own spread counts. */
    for (unsigned i = 0; i < MODES; i++) {
        const struct rotation_mode *m = &run->rotation.modes[i];
        double spread = m->value.spread * m->value.median / floor_us(m->value.median);

        if (spread > o->max_spread)
            path_refuse(report, "%s: %s spreads by %.0f %%", name, path_mode_names[m->mode],
                        100 * spread);
    }
    if (fabs(pass->differ.median) > o->max_apart * floor_us(pass->value.median))
        path_refuse(report, "%s: pass-through is %+.2f us from direct", name, pass->differ.median);
}

static void report_mode(struct run *run, const struct rotation_mode *m, json_t *json,
                        struct svq_table *table)
{
    json_t *percentiles = json_object(), *costs = json_object();
    struct bar bar = {.unit = "us"};

    svq_table_cell(table, "%s", run->packed ? "packed" : "split");
    svq_table_cell(table, "%s", run->sleeps ? "sleeping" : "polling");
    svq_table_cell(table, "%s", path_mode_names[m->mode]);
    for (unsigned i = 0; i < RANKS; i++) {
        struct bench_summary s = rotation_more(&run->rotation, m->mode, i);

        svq_table_cell(table, "%.2f", s.median);
        json_object_set_new(percentiles, ranks[i].name, path_summary_json(&s));
    }
    svq_table_cell(table, "%+.2f", m->differ.median);
    svq_table_cell(table, "%+.2f..%+.2f", m->differ.low, m->differ.high);
    for (unsigned i = 0; i < COSTS; i++) {
        struct bench_summary s = rotation_more(&run->rotation, m->mode, RANKS + i);

        svq_table_cell(table, "%.2f", s.median);
        json_object_set_new(costs, cost_names[i], path_summary_json(&s));
    }
    json_object_set_new(json, "percentiles-us", percentiles);
    json_object_set_new(json, "svqd-per-buffer", costs);
    snprintf(bar.group, sizeof(bar.group), "ping-pong, %s, %s", run->packed ? "packed" : "split",
             run->sleeps ? "sleeping" : "polling");
    snprintf(bar.label, sizeof(bar.label), "%s", path_mode_names[m->mode]);
    bar.value = m->value.median;
    bar.low = m->value.low;
    bar.high = m->value.high;
    bars_add(&run->report->bars, &bar);
}

static void report(struct run *run, json_t *rows, struct svq_table *table)
{
    json_t *json = rotation_json(&run->rotation);
    json_t *by_mode = json_object_get(json, "modes");

    for (unsigned i = 0; i < MODES; i++) {
        const struct rotation_mode *m = rotation_find(&run->rotation, modes[i]);

        report_mode(run, m, json_object_get(by_mode, path_mode_names[m->mode]), table);
    }
    json_object_update_new(
        json, json_pack("{s:s, s:s, s:s}", "rings", run->packed ? "packed" : "split", "ends",
                        run->sleeps ? "sleep" : "poll", "unit", "microseconds, medians of slots"));
    json_array_append_new(rows, json);
}

static bool run_one(struct path_report *r, bool packed, bool sleeps, uint64_t *random,
                    double ticks_per_us, json_t *rows, struct svq_table *table)
{
    struct run run = {
        .report = r, .packed = packed, .sleeps = sleeps, .ticks_per_us = ticks_per_us};
    bool ok = prepare(&run) && rotation_run(&run.rotation, random, &run.world.hop, measure, &run) &&
              rotation_sum(&run.rotation, MODE_DIRECT);

    if (ok) {
        judge(&run);
        report(&run, rows, table);
    }
    release(&run);
    return ok;
}

bool path_latency(struct path_report *r)
{
    static const char *const heads[] = {"rings",  "ends",    "mode",    ">p50",   ">p90",
                                        ">p99",   ">p99.9",  ">max",    ">added", ">95 %",
                                        ">reads", ">writes", ">sleeps", NULL};
    const struct path_options *o = r->options;
    json_t *rows = json_array();
    uint64_t random = o->seed;
    struct bench_clock clock;
    struct svq_table table;
    bool ok = true;

    bench_clock_calibrate(&clock);
    svq_table_init(&table, heads);
    for (unsigned i = 0; i < 4 && ok; i++) {
        bool packed = i & 1;

        if (packed ? o->packed : o->split)
            ok = run_one(r, packed, i & 2, &random, 1e3 * clock.ticks_per_ns, rows, &table);
    }
    if (ok) {
        fprintf(path_out(r),
                "Latency: one buffer there and back, microseconds; medians of %u slots of %u ms of "
                "each mode.\nadded: p50 against direct, slot by slot. For each buffer in svqd: "
                "read() and write() calls,\nand how often its worker went to sleep.\n\n",
                o->slots, o->slot_ms);
        svq_table_print(&table, 0, path_out(r));
        path_print_hops(path_out(r), rows);
    }
    svq_table_release(&table);
    json_object_set_new(r->root, "latency", rows);
    return ok;
}
