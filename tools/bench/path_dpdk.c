/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * DPDK's testpmd on both sides. One process on one processor has three vhost ports, and a
 * virtio-user port for each: the two of a pair throw frames to each other. Between the first pair
 * is nothing (direct), between the second svqd, between the third another testpmd, which relays.
 * They take turns, and who is not on stands still (SIGSTOP): so all is measured with the same
 * process, the same memory of frames, and svqd's modes even on the same rings.
 */
#include "clock.h"
#include "hop.h"
#include "path_print.h"
#include "proxy.h"
#include "rotation.h"
#include "spinner.h"
#include "testpmd.h"

#include <signal.h>
#include <stdlib.h>

#define FRAMES   512u /* in flight: 8 bursts of 32 from each port */
#define LOST_MAX 64u  /* of them in hands when they are counted, or lost */

struct row_kind {
    const char *name;
    bool packed;
    bool in_order;
    unsigned size;
};

static const struct row_kind kinds[] = {
    {"split in_order", false, true, 64},   {"split", false, false, 64},  {"packed", true, true, 64},
    {"split in_order", false, true, 1500}, {"packed", true, true, 1500},
};

/* Pairs of ports: vhost port `pair`, virtio-user port PAIRS + `pair`. */
enum pair { PAIR_DIRECT, PAIR_SVQD, PAIR_RELAY, PAIRS };
#define NOBODY PAIRS

struct row {
    struct path_report *report;
    const struct row_kind *kind;
    struct proxy proxy;
    struct testpmd ends;
    struct testpmd relay;
    char vhosts[PAIRS][96]; /* sockets of the vhost ports, */
    char fronts[PAIRS][96]; /* and those that virtio-user ports connect to */
    enum pair on;           /* NOBODY: frames rest */
    struct spinner spinner;
    struct hop hop; /* from the ends' processor to svqd's worker's */
    bool can_log;
    bool logs;
    struct rotation control; /* millions of frames per second and direction; pass-through, direct */
    struct rotation rotation; /* and all modes */
    unsigned fewest;          /* frames in flight */
};

/* ---- The processes --------------------------------------------------------------------------- */

static bool fail(const char *error)
{
    return path_fail("dpdk", error);
}

static bool tell(struct testpmd *t, const char *command)
{
    return testpmd_command(t, "%s", command) ? fail(t->error) : true;
}

static void virtio_port(const struct row *row, char *text, size_t size, const char *name,
                        const char *path)
{
    snprintf(text, size, "%s,path=%s,queues=1,queue_size=1024,packed_vq=%d,in_order=%d,mrg_rxbuf=1",
             name, path, row->kind->packed, row->kind->in_order);
}

/* The process with both ends, its vhost ports, which listen, only. */
static bool start_ends(struct row *row)
{
    const struct path_options *o = row->report->options;
    struct testpmd_config config = {.program = o->testpmd,
                                    .name = "ends",
                                    .folder = row->proxy.folder,
                                    .cpu = o->ends_cpu < 0 ? 0 : o->ends_cpu,
                                    .topology = "loop"};
    char vhosts[PAIRS][160];

    for (unsigned i = 0; i < PAIRS; i++) {
        snprintf(vhosts[i], sizeof(vhosts[i]), "eth_vhost%u,iface=%s,queues=1", i, row->vhosts[i]);
        config.vdevs[i] = vhosts[i];
    }
    return testpmd_start(&row->ends, &config) ? fail(row->ends.error) : true;
}

/* A pair's other port, which connects; and frames, which then rest. */
static bool complete_pair(struct row *row, enum pair pair)
{
    struct testpmd *t = &row->ends;
    char name[24], port[200], text[48];

    snprintf(name, sizeof(name), "net_virtio_user%u", pair);
    virtio_port(row, port, sizeof(port), name, row->fronts[pair]);
    if (testpmd_command(t, "port attach %s", port))
        return fail(t->error);
    snprintf(text, sizeof(text), "Port %u is attached", PAIRS + pair);
    if (!strstr(t->text, text))
        return fail("testpmd cannot attach a virtio-user port");
    if (testpmd_command(t, "port start %u", PAIRS + pair) ||
        testpmd_command(t, "set portlist %u,%u", pair, PAIRS + pair))
        return fail(t->error);
    return tell(t, "start tx_first 8") && tell(t, "stop");
}

static bool start_relay(struct row *row)
{
    const struct path_options *o = row->report->options;
    struct testpmd_config config = {.program = o->testpmd,
                                    .name = "relay",
                                    .folder = row->proxy.folder,
                                    .cpu = o->worker_cpu < 0 ? 1 : o->worker_cpu,
                                    .topology = "paired"};
    char vhost[160], virtio[200];

    snprintf(vhost, sizeof(vhost), "eth_vhost0,iface=%s,queues=1", row->fronts[PAIR_RELAY]);
    virtio_port(row, virtio, sizeof(virtio), "net_virtio_user0", row->vhosts[PAIR_RELAY]);
    config.vdevs[0] = vhost;
    config.vdevs[1] = virtio;
    if (testpmd_start(&row->relay, &config))
        return fail(row->relay.error);
    return tell(&row->relay, "set fwd io") && tell(&row->relay, "start");
}

static void name_sockets(struct row *row)
{
    static const char *const names[PAIRS] = {"direct", "svqd", "relay"};

    for (unsigned i = 0; i < PAIRS; i++) {
        proxy_path(&row->proxy, row->vhosts[i], sizeof(row->vhosts[i]), "%s-b", names[i]);
        proxy_path(&row->proxy, row->fronts[i], sizeof(row->fronts[i]), "%s-%s", names[i],
                   i == PAIR_DIRECT ? "b" : "f");
    }
}

static bool open_row(struct row *row)
{
    const struct path_options *o = row->report->options;
    struct proxy_config config = {o->svqd, o->poll_us ? o->poll_us : PATH_POLL, 1, o->worker_cpu};
    struct testpmd *t = &row->ends;

    if (proxy_start(&row->proxy, &config))
        return fail(row->proxy.error);
    row->hop = (struct hop){NULL, o->ends_cpu, o->worker_cpu, o->hop_ns};
    name_sockets(row);
    /* A switch stops a ring for a moment: without retries testpmd drops what it wants to send. */
    if (!start_ends(row) || !tell(t, "set burst tx delay 10 retry 100000") ||
        !tell(t, "set fwd io retry") ||
        !tell(t, row->kind->size == 64 ? "set txpkts 64" : "set txpkts 1500"))
        return false;
    if (proxy_add(&row->proxy, "bench", row->fronts[PAIR_SVQD], row->vhosts[PAIR_SVQD], false))
        return fail(row->proxy.error);
    if (!start_relay(row))
        return false;
    for (unsigned i = 0; i < PAIRS; i++)
        if (!complete_pair(row, (enum pair)i))
            return false;
    return true;
}

static void hold_svqd(struct row *row, bool hold)
{
    if (row->proxy.child.pid)
        kill(row->proxy.child.pid, hold ? SIGSTOP : SIGCONT);
}

static void close_row(struct row *row)
{
    hold_svqd(row, false);
    testpmd_hold(&row->relay, false);
    testpmd_end(&row->ends);
    testpmd_end(&row->relay);
    spinner_release(&row->spinner);
    proxy_stop(&row->proxy);
    rotation_release(&row->control);
    rotation_release(&row->rotation);
}

/* ---- Slots ----------------------------------------------------------------------------------- */

static enum pair pair_of(enum path_mode mode)
{
    return mode == MODE_DIRECT ? PAIR_DIRECT : mode == MODE_RELAY ? PAIR_RELAY : PAIR_SVQD;
}

/* This pair goes on; what stands between the others stands still. */
static bool choose(struct row *row, enum pair pair)
{
    struct testpmd *t = &row->ends;

    if (row->on == pair)
        return true;
    if (row->on != NOBODY && !tell(t, "stop"))
        return false;
    row->on = NOBODY;
    hold_svqd(row, pair != PAIR_SVQD);
    testpmd_hold(&row->relay, pair != PAIR_RELAY);
    if (testpmd_command(t, "set portlist %u,%u", pair, PAIRS + pair))
        return fail(t->error);
    /* Frames that rest in the rings go on. */
    if (!tell(t, "start"))
        return false;
    row->on = pair;
    return true;
}

static bool enter(struct row *row, enum path_mode mode)
{
    struct proxy *proxy = &row->proxy;

    if (!choose(row, pair_of(mode)))
        return false;
    if (spinner_set(&row->spinner, row->report->options->worker_cpu, mode == MODE_SPIN))
        return fail("a thread that spins");
    if (pair_of(mode) != PAIR_SVQD)
        return true;
    /* DPDK's front-end never asks for a log: svqd writes one for itself. */
    if (row->logs && mode != MODE_LOG) {
        if (proxy_device_log(proxy, "bench", false))
            return fail(proxy->error);
        row->logs = false;
    }
    if (proxy_shadow(proxy, "bench", mode == MODE_SHADOW || mode == MODE_LOG, NULL))
        return fail(proxy->error);
    if (mode == MODE_LOG && !row->logs) {
        if (proxy_device_log(proxy, "bench", true))
            return fail(proxy->error);
        row->logs = true;
    }
    return true;
}

/* For how long those who poll did not have their processors. */
static uint64_t waited(const struct row *row)
{
    uint64_t ns = bench_thread_use(row->ends.pid, row->ends.lcore).waited;

    if (row->on == PAIR_SVQD)
        ns += proxy_workers_use(&row->proxy).waited;
    if (row->on == PAIR_RELAY)
        ns += bench_thread_use(row->relay.pid, row->relay.lcore).waited;
    return ns;
}

static uint64_t received(const struct row *row, const struct testpmd_stats *s)
{
    return s->ports[row->on].rx + s->ports[PAIRS + row->on].rx;
}

/* What one port has sent is received by the other, or on its way. */
static bool count_frames(struct row *row, const struct testpmd_stats *s)
{
    uint64_t sent = s->ports[row->on].tx + s->ports[PAIRS + row->on].tx;
    uint64_t got = received(row, s);
    char text[160];

    if (got > sent || sent - got > FRAMES) {
        snprintf(text, sizeof(text), "counts disagree: %llu frames sent, %llu received",
                 (unsigned long long)sent, (unsigned long long)got);
        return fail(text);
    }
    if (sent - got < row->fewest)
        row->fewest = (unsigned)(sent - got);
    return true;
}

static bool measure(void *opaque, enum path_mode mode, struct rotation_sample *sample)
{
    struct row *row = opaque;
    const struct path_options *o = row->report->options;
    struct testpmd *t = &row->ends;
    struct testpmd_stats before, after;
    uint64_t waited_ns;
    double frames, ns;

    if (!enter(row, mode))
        return false;
    bench_sleep_ms(o->drop_ms);
    if (testpmd_stats(t, &before))
        return fail(t->error);
    waited_ns = waited(row);
    bench_sleep_ms(o->slot_ms);
    /* Before testpmd's own main thread takes time for the statistics. */
    waited_ns = waited(row) - waited_ns;
    if (testpmd_stats(t, &after))
        return fail(t->error);
    if (!count_frames(row, &after))
        return false;
    frames = (double)(received(row, &after) - received(row, &before));
    ns = (double)(after.ns - before.ns);
    *sample = (struct rotation_sample){
        .value = frames / 2 / ns * 1e3,
        .count = frames,
        .seconds = ns / 1e9,
        .disturbed = (double)waited_ns > BENCH_WAITED_MAX * ns || frames == 0,
    };
    return true;
}

/* ---- A row ----------------------------------------------------------------------------------- */

static bool judge(struct row *row)
{
    struct path_report *report = row->report;
    size_t before = json_array_size(report->refusals);
    char name[64];

    snprintf(name, sizeof(name), "dpdk, %s, %u bytes", row->kind->name, row->kind->size);
    rotation_control(&row->control, report, name);
    rotation_judge(&row->control, report, name);
    rotation_judge(&row->rotation, report, name);
    if (row->fewest + LOST_MAX < FRAMES)
        path_refuse(report, "%s: only %u of %u frames were left in flight", name, row->fewest,
                    FRAMES);
    return json_array_size(report->refusals) == before;
}

/* The modes in the order in which people read them: cells, and bars. */
static void show_modes(struct row *row, struct svq_table *table)
{
    static const enum path_mode order[] = {MODE_DIRECT, MODE_PASS, MODE_SPIN,
                                           MODE_SHADOW, MODE_LOG,  MODE_RELAY};
    struct bar bar = {.unit = "Mpps"};

    snprintf(bar.group, sizeof(bar.group), "testpmd, %s, %u bytes", row->kind->name,
             row->kind->size);
    for (unsigned i = 0; i < sizeof(order) / sizeof(order[0]); i++) {
        const struct rotation_mode *m = rotation_find(&row->rotation, order[i]);

        if (order[i] == MODE_SPIN && !m)
            continue;
        if (!m) {
            svq_table_cell(table, "-");
            continue;
        }
        svq_table_cell(table, "%.2f", m->value.median);
        snprintf(bar.label, sizeof(bar.label), "%s", path_mode_names[m->mode]);
        bar.value = m->value.median;
        bar.low = m->value.low;
        bar.high = m->value.high;
        bars_add(&row->report->bars, &bar);
    }
}

static void report_row(struct row *row, json_t *rows, struct svq_table *table)
{
    const struct rotation *r = &row->rotation;
    struct bench_summary control = rotation_ratio(&row->control, MODE_PASS, MODE_DIRECT);
    struct bench_summary ahead = rotation_ratio(r, MODE_SHADOW, MODE_RELAY);
    struct bench_summary relay = rotation_ratio(r, MODE_RELAY, MODE_DIRECT);
    bool result = judge(row);
    json_t *json = rotation_json(r);

    svq_table_cell(table, "%s", row->kind->name);
    svq_table_cell(table, "%u", row->kind->size);
    show_modes(row, table);
    svq_table_cell(table, "%.3f", control.median);
    path_ratio_cells(table, &rotation_find(r, MODE_SHADOW)->ratio);
    if (row->can_log) {
        path_ratio_cells(table, &rotation_find(r, MODE_LOG)->ratio);
    } else {
        svq_table_cell(table, "-");
        svq_table_cell(table, "-");
    }
    svq_table_cell(table, "%.2f", relay.median);
    path_ratio_cells(table, &ahead);
    svq_table_cell(table, "%s", result ? "" : "!");
    json_object_update_new(
        json, json_pack("{s:s, s:i, s:b, s:s, s:o, s:o, s:o, s:o, s:i, s:b}", "rings",
                        row->kind->name, "size", (int)row->kind->size, "in-order",
                        (int)row->kind->in_order, "unit", "million frames per second and direction",
                        "pass-through-to-direct", path_summary_json(&control), "control",
                        rotation_json(&row->control), "shadow-to-relay", path_summary_json(&ahead),
                        "relay-to-direct", path_summary_json(&relay), "fewest-in-flight",
                        (int)row->fewest, "result", (int)result));
    json_array_append_new(rows, json);
}

/* Does this svqd know x-device-log? It needs shadow mode. */
static bool try_log(struct row *row)
{
    if (!choose(row, PAIR_SVQD))
        return false;
    if (proxy_shadow(&row->proxy, "bench", true, NULL))
        return fail(row->proxy.error);
    row->can_log = !proxy_device_log(&row->proxy, "bench", true);
    row->logs = row->can_log;
    if (!row->can_log)
        fprintf(stderr, "svq-bench: dpdk: no shadow+log: %s\n", row->proxy.error);
    return true;
}

/* Take turns, and sum up. */
static bool rotate(struct row *row, struct rotation *rotation, const enum path_mode *modes,
                   unsigned count, uint64_t *random)
{
    const struct path_options *o = row->report->options;

    if (!rotation_init(rotation, modes, count, o->slots, o->repeats))
        return fail("out of memory");
    return rotation_run(rotation, random, &row->hop, measure, row) &&
           rotation_sum(rotation, MODE_PASS);
}

/*
 * Pass-through and direct wiring are compared first, while they are alike: a relay makes bursts of
 * all sizes, and these mix up the order of the frames in memory for good; so after the first slot
 * with one, even pass-through is slower than it was.
 */
static bool run_row(struct path_report *report, const struct row_kind *kind, uint64_t *random,
                    json_t *rows, struct svq_table *table)
{
    static const enum path_mode pure[] = {MODE_DIRECT, MODE_PASS};
    enum path_mode modes[PATH_MODES] = {MODE_DIRECT, MODE_PASS, MODE_SHADOW, MODE_RELAY};
    struct row row = {.report = report, .kind = kind, .on = NOBODY, .fewest = FRAMES};
    unsigned count = 4;
    bool ok;

    fprintf(stderr, "svq-bench: dpdk: %s, %u bytes\n", kind->name, kind->size);
    ok = open_row(&row) && rotate(&row, &row.control, pure, 2, random) && try_log(&row);
    if (row.can_log)
        modes[count++] = MODE_LOG;
    if (report->options->spin)
        modes[count++] = MODE_SPIN;
    ok = ok && rotate(&row, &row.rotation, modes, count, random);
    if (ok)
        report_row(&row, rows, table);
    close_row(&row);
    return ok;
}

bool path_dpdk(struct path_report *report)
{
    const struct path_options *o = report->options;
    const char *heads[18] = {"rings", ">bytes", ">direct", ">pass"};
    static const char *const more[] = {">shadow", ">+log", ">relay", ">p/d", ">s/p",
                                       ">95 %",   ">l/p",  ">95 %",  ">r/d", ">s/r",
                                       ">95 %",   "",      NULL};
    unsigned columns = 4;
    json_t *rows = json_array();
    uint64_t random = o->seed;
    struct svq_table table;
    bool ok = true;

    /* A testpmd that ended must not end us. */
    signal(SIGPIPE, SIG_IGN);
    if (o->spin)
        heads[columns++] = ">p+spin";
    memcpy(&heads[columns], more, sizeof(more));
    svq_table_init(&table, heads);
    for (unsigned i = 0; i < sizeof(kinds) / sizeof(kinds[0]) && ok; i++) {
        if (kinds[i].packed ? !o->packed : !o->split)
            continue;
        if ((o->sized && kinds[i].size != o->sizes.values[0]) ||
            (o->in_order && !kinds[i].in_order))
            continue;
        ok = run_row(report, &kinds[i], &random, rows, &table);
    }
    if (ok) {
        fprintf(path_out(report),
                "DPDK testpmd on both sides: million frames per second and direction, medians of "
                "%u slots\nof %u ms of each mode. p/d: pass-through against direct, before "
                "any relay has\nmixed up the frames; s/p, l/p: shadow and shadow+log\nagainst "
                "pass-through; r/d: testpmd's relay against direct; "
                "s/r: shadow against testpmd's relay.\n\n",
                o->slots, o->slot_ms);
        svq_table_print(&table, 0, path_out(report));
        path_print_hops(path_out(report), rows);
    }
    svq_table_release(&table);
    json_object_set_new(report->root, "dpdk", rows);
    return ok;
}
