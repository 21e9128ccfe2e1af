/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Random reads of 4 KiB from a real vhost-user-blk back-end, by default a qemu-storage-daemon of
 * our own whose image is a null device. Three programs, at least two processors: guest and back-end
 * sleep when they have nothing to do, and may share one.
 */
#include "blk_end.h"
#include "clock.h"
#include "path_print.h"
#include "proxy.h"
#include "rotation.h"

#include <sched.h>
#include <stdlib.h>
#include <unistd.h>

struct run {
    struct path_report *report;
    unsigned depth;
    struct bench_loop *loop;
    struct proxy proxy;
    struct sim_child storage;
    struct blk_end guest;
    char frontend[96];
    char backend[128];
    bool connected;
    enum path_mode mode;
    struct rotation rotation; /* thousands of requests per second */
};

static const enum path_mode modes[] = {MODE_DIRECT, MODE_PASS, MODE_SHADOW, MODE_LOG};
#define MODES 4u

/* rotation_sample.more: svqd's CPU time, microseconds per request. */
#define MORE_CPU 0

static bool fail(const char *error)
{
    return path_fail("block", error);
}

/* The guest's error; or the back-end's last words, if it has ended. */
static bool fail_guest(struct run *run)
{
    char how[160], line[256];

    if (!sim_child_ended(&run->storage, how, sizeof(how)))
        return fail(run->guest.error);
    proxy_last_line(run->storage.log, line, sizeof(line));
    return fail(line[0] ? line : how);
}

/* ---- The programs ---------------------------------------------------------------------------- */

static bool start_storage(struct run *run)
{
    const struct path_options *o = run->report->options;
    char export[256], log[96];
    char *argv[] = {(char *)o->storage_daemon,
                    (char *)"--blockdev",
                    (char *)"driver=null-co,node-name=d0,size=1073741824,read-zeroes=on",
                    (char *)"--export",
                    export,
                    NULL};
    cpu_set_t cpus;

    snprintf(export, sizeof(export),
             "type=vhost-user-blk,id=e0,node-name=d0,addr.type=unix,addr.path=%s,writable=on,"
             "num-queues=1",
             run->backend);
    proxy_path(&run->proxy, log, sizeof(log), "storage.log");
    if (sim_child_start(&run->storage, "qemu-storage-daemon", argv, log))
        return fail("cannot start qemu-storage-daemon");
    if (o->backend_cpu < 0)
        return true;
    CPU_ZERO(&cpus);
    CPU_SET(o->backend_cpu, &cpus);
    return !sched_setaffinity(run->storage.pid, sizeof(cpus), &cpus) ||
           fail("the back-end cannot run on the processor that --backend-cpu names");
}

static bool open_run(struct run *run)
{
    const struct path_options *o = run->report->options;
    struct proxy_config config = {o->svqd, o->poll_us, 1, o->worker_cpu};

    if (proxy_start(&run->proxy, &config))
        return fail(run->proxy.error);
    proxy_path(&run->proxy, run->frontend, sizeof(run->frontend), "frontend.sock");
    if (o->blk_socket)
        snprintf(run->backend, sizeof(run->backend), "%s", o->blk_socket);
    else
        proxy_path(&run->proxy, run->backend, sizeof(run->backend), "backend.sock");
    if (!o->blk_socket && !start_storage(run))
        return false;
    if (bench_loop_new(o->ends_cpu, &run->loop))
        return fail("cannot run on the processor that --ends-cpu names");
    bench_loop_sleeps(run->loop, !o->guest_polls);
    if (blk_end_init(&run->guest, run->depth, !o->blk_socket, o->seed, run->loop))
        return fail(run->guest.error);
    if (proxy_add(&run->proxy, "bench", run->frontend, run->backend, false))
        return fail(run->proxy.error);
    return true;
}

static void close_run(struct run *run)
{
    char how[128];

    if (run->connected)
        blk_end_disconnect(&run->guest);
    if (run->guest.guest)
        blk_end_release(&run->guest);
    bench_loop_free(run->loop);
    sim_child_stop(&run->storage, how, sizeof(how));
    proxy_stop(&run->proxy);
    rotation_release(&run->rotation);
}

/* ---- Slots ----------------------------------------------------------------------------------- */

static bool reconnect(struct run *run, bool direct)
{
    if (run->connected && blk_end_disconnect(&run->guest))
        return fail(run->guest.error);
    run->connected = false;
    if (blk_end_connect(&run->guest, direct ? run->backend : run->frontend))
        return fail_guest(run);
    run->connected = true;
    run->mode = direct ? MODE_DIRECT : MODE_PASS;
    return true;
}

static bool enter(struct run *run, enum path_mode mode)
{
    struct sim_guest *guest = run->guest.guest;

    if (!run->connected || (run->mode == MODE_DIRECT) != (mode == MODE_DIRECT))
        if (!reconnect(run, mode == MODE_DIRECT))
            return false;
    if (mode == MODE_DIRECT)
        return true;
    if (mode != MODE_LOG && guest->log && sim_guest_log_stop(guest))
        return fail(guest->session.error);
    if (proxy_shadow(&run->proxy, "bench", mode != MODE_PASS, NULL))
        return fail(run->proxy.error);
    if (mode == MODE_LOG && !guest->log && sim_guest_log_start(guest))
        return fail(guest->session.error);
    run->mode = mode;
    return true;
}

/*
 * Nobody can say here that somebody had to wait for a processor: those who sleep wait for a moment
 * whenever they wake up, and some share a processor by design.
 */
static bool measure(void *opaque, enum path_mode mode, struct rotation_sample *sample)
{
    struct run *run = opaque;
    const struct path_options *o = run->report->options;
    uint64_t before, after, start, end, cpu;

    if (!enter(run, mode))
        return false;
    bench_sleep_ms(o->drop_ms);
    cpu = proxy_cpu(&run->proxy);
    if (blk_end_count(&run->guest, &before, &start))
        return fail(run->guest.error);
    bench_sleep_ms(o->slot_ms);
    if (blk_end_count(&run->guest, &after, &end))
        return fail(run->guest.error);
    cpu = proxy_cpu(&run->proxy) - cpu;
    *sample = (struct rotation_sample){
        .value = (double)(after - before) / (double)(end - start) * 1e6,
        .count = (double)(after - before),
        .seconds = (double)(end - start) / 1e9,
        .more[MORE_CPU] = after > before ? (double)cpu / 1e3 / (double)(after - before) : 0,
    };
    return true;
}

/* ---- A row ----------------------------------------------------------------------------------- */

static void judge(struct run *run)
{
    char name[32];

    snprintf(name, sizeof(name), "block, depth %u", run->depth);
    rotation_control(&run->rotation, run->report, name);
    rotation_judge(&run->rotation, run->report, name);
}

static void report_row(struct run *run, json_t *rows, struct svq_table *table)
{
    const struct rotation *r = &run->rotation;
    struct bench_summary cpu = rotation_more(r, MODE_SHADOW, MORE_CPU);
    json_t *json = rotation_json(r);
    struct bar bar = {.unit = "k IOPS"};

    judge(run);
    snprintf(bar.group, sizeof(bar.group), "4 KiB random reads, depth %u", run->depth);
    svq_table_cell(table, "%u", run->depth);
    for (unsigned i = 0; i < MODES; i++) {
        const struct rotation_mode *m = rotation_find(r, modes[i]);

        svq_table_cell(table, "%.1f", m->value.median);
        snprintf(bar.label, sizeof(bar.label), "%s", path_mode_names[m->mode]);
        bar.value = m->value.median;
        bar.low = m->value.low;
        bar.high = m->value.high;
        bars_add(&run->report->bars, &bar);
    }
    for (unsigned i = 1; i < MODES; i++)
        path_ratio_cells(table, &rotation_find(r, modes[i])->ratio);
    svq_table_cell(table, "%.2f", cpu.median);
    json_object_update_new(json, json_pack("{s:i, s:s, s:o}", "depth", (int)run->depth, "unit",
                                           "thousand requests per second",
                                           "svqd-cpu-us-per-request", path_summary_json(&cpu)));
    json_array_append_new(rows, json);
}

static bool run_row(struct path_report *report, unsigned depth, uint64_t *random, json_t *rows,
                    struct svq_table *table)
{
    const struct path_options *o = report->options;
    struct run run = {.report = report, .depth = depth};
    bool ok =
        (rotation_init(&run.rotation, modes, MODES, o->slots, o->repeats)) || fail("out of memory");
    ok = ok && open_run(&run) && rotation_run(&run.rotation, random, NULL, measure, &run) &&
         rotation_sum(&run.rotation, MODE_DIRECT);
    if (ok)
        report_row(&run, rows, table);
    close_run(&run);
    return ok;
}

bool path_block(struct path_report *report)
{
    static const char *const heads[] = {">depth", ">direct", ">pass", ">shadow", ">+log",
                                        ">p/d",   ">95 %",   ">s/d",  ">95 %",   ">l/d",
                                        ">95 %",  ">CPU us", NULL};
    const struct path_options *o = report->options;
    json_t *rows = json_array();
    uint64_t random = o->seed;
    struct svq_table table;
    bool ok = true;

    svq_table_init(&table, heads);
    for (unsigned i = 0; i < o->depths.count && ok; i++)
        ok = run_row(report, o->depths.values[i], &random, rows, &table);
    if (ok) {
        fprintf(path_out(report),
                "Block: random reads of 4 KiB, thousands per second; medians of %u slots of %u ms "
                "of each mode.\np/d, s/d, l/d: pass-through, shadow, shadow+log against direct, "
                "slot by slot; CPU us: svqd's,\nper request, in shadow mode.\n\n",
                o->slots, o->slot_ms);
        svq_table_print(&table, 0, path_out(report));
        fputc('\n', path_out(report));
    }
    svq_table_release(&table);
    json_object_set_new(report->root, "block", rows);
    return ok;
}
