/* SPDX-License-Identifier: BSD-3-Clause */
/* Buffers per second in each mode, and what CPU time svqd takes for them. */
#include "path_world.h"
#include "rotation.h"

#include <stdio.h>
#include <stdlib.h>

#include "../table.h"
#include "path_print.h"

/* What a row of the table is about. */
struct row {
    struct path_report *report;
    struct guest_end_config config;
    struct path_world world;
    struct rotation rotation; /* millions of buffers per second */
};

/* The last one only if asked for. */
static const enum path_mode modes[] = {MODE_DIRECT, MODE_PASS, MODE_SHADOW, MODE_LOG, MODE_SPIN};
#define MODES 5u

/* rotation_sample.more: svqd's CPU time, seconds per million buffers. */
#define MORE_CPU 0

static bool measure(void *opaque, enum path_mode mode, struct rotation_sample *sample)
{
    struct row *row = opaque;
    const struct path_options *o = row->report->options;
    struct path_slot slot;

    if (!path_world_enter(&row->world, mode) ||
        !path_world_slot(&row->world, o->drop_ms, o->slot_ms, &slot))
        return path_fail("throughput", row->world.error);
    *sample = (struct rotation_sample){
        .value = (double)slot.buffers / slot.seconds / 1e6,
        .count = (double)slot.buffers,
        .seconds = slot.seconds,
        .more[MORE_CPU] = (double)slot.svqd_ns / 1e3 / (double)slot.buffers,
        .disturbed = slot.disturbed,
    };
    return true;
}

static void name_row(const struct row *row, char *name, size_t size)
{
    const struct guest_end_config *c = &row->config;

    snprintf(name, size, "%s%s, %u bytes, batch %u, %u queues", c->packed ? "packed" : "split",
             c->in_order ? " in_order" : "", c->size, c->batch, c->queues);
}

/* Is it one? If not, say why. */
static bool judge(struct row *row)
{
    struct path_report *report = row->report;
    size_t before = json_array_size(report->refusals);
    char name[96];

    name_row(row, name, sizeof(name));
    rotation_control(&row->rotation, report, name);
    rotation_judge(&row->rotation, report, name);
    return json_array_size(report->refusals) == before;
}

static json_t *row_json(struct row *row, bool result)
{
    const struct guest_end_config *c = &row->config;
    const struct bench_summary control = rotation_ratio(&row->rotation, MODE_PASS, MODE_DIRECT);
    json_t *rotation = rotation_json(&row->rotation);
    json_t *by_mode = json_object_get(rotation, "modes");

    for (unsigned i = 0; i < row->rotation.mode_count; i++) {
        enum path_mode mode = modes[i];
        json_t *m = json_object_get(by_mode, path_mode_names[mode]);
        struct bench_summary cpu = rotation_more(&row->rotation, mode, MORE_CPU);

        json_object_set_new(m, "svqd-cpu-s-per-million", path_summary_json(&cpu));
    }
    json_object_update_new(rotation,
                           json_pack("{s:s, s:i, s:i, s:i, s:i, s:i, s:b, s:b, s:s, s:o, s:b}",
                                     "rings", c->packed ? "packed" : "split", "queues",
                                     (int)c->queues, "size", (int)c->size, "batch", (int)c->batch,
                                     "ring-size", (int)c->ring_size, "in-flight", (int)c->depth,
                                     "in-order", (int)c->in_order, "event-idx", (int)c->event_idx,
                                     "unit", "million buffers per second", "pass-through-to-direct",
                                     path_summary_json(&control), "result", (int)result));
    return rotation;
}

static void table_row(struct svq_table *table, struct row *row, bool result)
{
    const struct guest_end_config *c = &row->config;
    const struct rotation_mode *shadow = rotation_find(&row->rotation, MODE_SHADOW);
    const struct rotation_mode *log = rotation_find(&row->rotation, MODE_LOG);
    struct bench_summary cpu = rotation_more(&row->rotation, MODE_SHADOW, MORE_CPU);
    double spread =
        shadow->ratio.spread > log->ratio.spread ? shadow->ratio.spread : log->ratio.spread;

    svq_table_cell(table, "%s%s", c->packed ? "packed" : "split", c->in_order ? " in_order" : "");
    svq_table_cell(table, "%u", c->queues);
    svq_table_cell(table, "%u", c->size);
    svq_table_cell(table, "%u", c->batch);
    for (unsigned i = 0; i < row->rotation.mode_count; i++)
        svq_table_cell(table, "%.2f", rotation_find(&row->rotation, modes[i])->value.median);
    svq_table_cell(table, "%.3f", rotation_ratio(&row->rotation, MODE_PASS, MODE_DIRECT).median);
    path_ratio_cells(table, &shadow->ratio);
    path_ratio_cells(table, &log->ratio);
    svq_table_cell(table, "%.0f %%%s", 100 * spread, result ? "" : " !");
    svq_table_cell(table, "%.3f", cpu.median);
}

static void row_bars(struct row *row)
{
    struct bar bar = {.unit = "M buffers/s"};

    name_row(row, bar.group, sizeof(bar.group));
    for (unsigned i = 0; i < row->rotation.mode_count; i++) {
        const struct bench_summary *s = &rotation_find(&row->rotation, modes[i])->value;

        snprintf(bar.label, sizeof(bar.label), "%s", path_mode_names[modes[i]]);
        bar.value = s->median;
        bar.low = s->low;
        bar.high = s->high;
        bars_add(&row->report->bars, &bar);
    }
}

static bool prepare(struct row *row)
{
    const struct path_options *o = row->report->options;

    if (!rotation_init(&row->rotation, modes, o->spin ? MODES : MODES - 1, o->slots, o->repeats))
        return path_fail("throughput", "out of memory");
    if (!path_world_open(&row->world, o, &row->config, false))
        return path_fail("throughput", row->world.error);
    return true;
}

static bool run_row(struct path_report *report, const struct guest_end_config *config,
                    uint64_t *random, json_t *rows, struct svq_table *table)
{
    struct row row = {.report = report, .config = *config};
    bool ok = prepare(&row) && rotation_run(&row.rotation, random, &row.world.hop, measure, &row) &&
              rotation_sum(&row.rotation, MODE_PASS);

    path_world_close(&row.world);
    if (ok) {
        bool result = judge(&row);

        row_bars(&row);
        table_row(table, &row, result);
        json_array_append_new(rows, row_json(&row, result));
    }
    rotation_release(&row.rotation);
    return ok;
}

static bool run_rows(struct path_report *report, json_t *rows, struct svq_table *table)
{
    const struct path_options *o = report->options;
    uint64_t random = o->seed;
    unsigned spins = spins_of_ns(o->work_ns);
    unsigned combinations = 2 * o->queues.count * o->sizes.count * o->batches.count;

    for (unsigned i = 0; i < combinations; i++) {
        unsigned rest = i;
        struct guest_end_config config = {.ring_size = o->ring_size,
                                          .depth = o->in_flight,
                                          .in_order = o->in_order,
                                          .event_idx = o->event_idx,
                                          .spins = spins};

        config.batch = o->batches.values[rest % o->batches.count];
        rest /= o->batches.count;
        config.size = o->sizes.values[rest % o->sizes.count];
        rest /= o->sizes.count;
        config.queues = o->queues.values[rest % o->queues.count];
        config.packed = rest / o->queues.count;
        if (config.packed ? !o->packed : !o->split)
            continue;
        if (!run_row(report, &config, &random, rows, table))
            return false;
    }
    return true;
}

bool path_throughput(struct path_report *report)
{
    const struct path_options *o = report->options;
    const char *heads[17] = {"rings",   ">queues", ">bytes",  ">batch",
                             ">direct", ">pass",   ">shadow", ">+log"};
    static const char *const more[] = {">p/d",  ">s/p",    ">95 %",    ">l/p",
                                       ">95 %", ">spread", ">CPU s/M", NULL};
    unsigned columns = 8;
    json_t *rows = json_array();
    struct svq_table table;
    bool ok;

    if (o->spin)
        heads[columns++] = ">p+spin";
    memcpy(&heads[columns], more, sizeof(more));
    svq_table_init(&table, heads);
    ok = run_rows(report, rows, &table);
    if (ok) {
        FILE *out = path_out(report);

        fprintf(out,
                "Throughput: million buffers per second, medians of %u slots of %u ms of each "
                "mode.\np/d: pass-through against direct; s/p, l/p: shadow and shadow+log against "
                "pass-through,\nslot by slot; CPU s/M: svqd's CPU time in shadow mode, seconds "
                "per million buffers.\n\n",
                o->slots, o->slot_ms);
        svq_table_print(&table, 0, out);
        path_print_hops(out, rows);
    }
    svq_table_release(&table);
    json_object_set_new(report->root, "throughput", rows);
    return ok;
}
