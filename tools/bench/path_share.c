/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Busy devices: does one notice idle ones, and do many get the same share?
 *
 * For the first, two svqd run all the time, one with a single device and one with all the idle ones
 * beside it, and the two take turns at being busy. Where guest and rings lie in memory is worth
 * some percent, so both devices come back elsewhere every few rounds.
 */
#include "path_print.h"
#include "path_scale.h"
#include "rotation.h"

#include <stdlib.h>
#include <unistd.h>

#define RENEWALS     10u
#define BUSY         16u
#define BUSY_WORKERS 2u

static bool fail(const struct fleet *fleet)
{
    return path_fail("scale", fleet->error);
}

/* ---- One among idle ones --------------------------------------------------------------------- */

struct pair {
    struct scale *scale;
    struct fleet *among;
    struct fleet alone;
    unsigned slots; /* so far */
};

static uint64_t waited(const struct fleet *fleet)
{
    return bench_thread_use(getpid(), bench_loop_tid(fleet->loop)).waited +
           proxy_workers_use(&fleet->proxy).waited;
}

static bool measure_one(struct fleet *fleet, const struct path_options *o,
                        struct rotation_sample *sample)
{
    uint64_t before, after, start, end, waited_ns;

    bench_sleep_ms(o->drop_ms);
    waited_ns = waited(fleet);
    if (!fleet_counts(fleet, &before, &start))
        return false;
    bench_sleep_ms(o->slot_ms);
    if (!fleet_counts(fleet, &after, &end))
        return false;
    waited_ns = waited(fleet) - waited_ns;
    sample->count = (double)(after - before);
    sample->seconds = (double)(end - start) / 1e9;
    sample->value = sample->count / sample->seconds / 1e6;
    sample->disturbed = (double)waited_ns > BENCH_WAITED_MAX * (double)(end - start);
    return true;
}

static bool measure_mode(void *opaque, enum path_mode mode, struct rotation_sample *sample)
{
    struct pair *pair = opaque;
    const struct path_options *o = pair->scale->report->options;
    struct fleet *fleet = mode == MODE_AMONG ? pair->among : &pair->alone;
    unsigned life = 2 * o->slots / RENEWALS + 2;
    bool ok = true;

    if (++pair->slots % life == 0)
        ok = (fleet_renew(pair->among, 0) || fail(pair->among)) &&
             (fleet_renew(&pair->alone, 0) || fail(&pair->alone));
    if (!ok)
        return false;
    fleet_offer(fleet, true);
    ok = measure_one(fleet, o, sample);
    fleet_offer(fleet, false);
    return ok || fail(fleet);
}

static void report_among(struct pair *pair, const struct rotation *r)
{
    struct path_report *report = pair->scale->report;
    const struct rotation_mode *m = rotation_find(r, MODE_AMONG);
    struct bench_summary s = m->ratio;
    unsigned idle = pair->among->count - 1;
    struct bar bar = {.group = "one busy device among idle ones, against alone",
                      .unit = "",
                      .value = s.median,
                      .low = s.low,
                      .high = s.high};
    json_t *json = rotation_json(r);

    fprintf(path_out(report),
            "\nOne busy device among %u idle ones: %.2f million buffers per second, %.3f of alone "
            "(%.3f-%.3f).\nA cache line's round trip between the processors: %.0f ns "
            "(%.0f-%.0f).\n",
            idle, m->value.median, s.median, s.low, s.high, r->hop.median, r->hop.low, r->hop.high);
    scale_judge(pair->scale, &(struct scale_goal){"throughput of a busy device among idle ones, of "
                                                  "alone",
                                                  s.median, 0.95, true});
    snprintf(bar.label, sizeof(bar.label), "%u idle", idle);
    bars_add(&report->bars, &bar);
    json_object_set_new(json, "idle", json_integer(idle));
    json_object_set_new(json, "ratio", path_summary_json(&s));
    json_object_set_new(pair->scale->json, "busy-among-idle", json);
    rotation_judge(r, report, "scale");
}

bool scale_among(struct scale *scale, struct fleet *fleet)
{
    static const enum path_mode modes[] = {MODE_ALONE, MODE_AMONG};
    const struct path_options *o = scale->report->options;
    const struct hop hop = {scale->loop, o->ends_cpu, o->worker_cpu, o->hop_ns};
    struct pair pair = {.scale = scale, .among = fleet};
    uint64_t random = o->seed;
    struct rotation rotation;
    bool ok = rotation_init(&rotation, modes, 2, o->slots, o->repeats) ||
              path_fail("scale", "out of memory");

    ok = ok &&
         (fleet_open(&pair.alone, o, &scale->config, scale->loop, 1, 1, 1) || fail(&pair.alone));
    ok = ok && (fleet_resize(&pair.alone, 1) || fail(&pair.alone));
    ok = ok && rotation_run(&rotation, &random, &hop, measure_mode, &pair) &&
         rotation_sum(&rotation, MODE_ALONE);
    if (ok)
        report_among(&pair, &rotation);
    fleet_close(&pair.alone);
    rotation_release(&rotation);
    return ok;
}

/* ---- Many busy devices ----------------------------------------------------------------------- */

/* How far apart are the device that got most and the one that got least, as a part of the mean? */
static double apart_of(const uint64_t *before, const uint64_t *after, uint64_t *sum)
{
    uint64_t most = 0, least = UINT64_MAX;

    *sum = 0;
    for (unsigned i = 0; i < BUSY; i++) {
        uint64_t moved = after[i] - before[i];

        *sum += moved;
        most = moved > most ? moved : most;
        least = moved < least ? moved : least;
    }
    return *sum ? (double)(most - least) * BUSY / (double)*sum : 1;
}

static bool measure_shares(struct fleet *fleet, const struct path_options *o, double *apart,
                           double *rates)
{
    uint64_t before[BUSY], after[BUSY], start, end, sum;

    if (!fleet_resize(fleet, BUSY))
        return fail(fleet);
    fleet_offer(fleet, true);
    bench_sleep_ms(o->drop_ms + o->slot_ms);
    for (unsigned i = 0; i < o->slots; i++) {
        if (path_interrupted())
            return path_fail("scale", "interrupted");
        if (!fleet_counts(fleet, before, &start))
            return fail(fleet);
        bench_sleep_ms(o->slot_ms);
        if (!fleet_counts(fleet, after, &end))
            return fail(fleet);
        apart[i] = apart_of(before, after, &sum);
        rates[i] = (double)sum / (double)(end - start) * 1e3;
    }
    return true;
}

static void report_shares(struct scale *scale, double *apart, double *rates)
{
    const struct path_options *o = scale->report->options;
    struct bench_summary a = bench_summary(apart, o->slots), r = bench_summary(rates, o->slots);

    fprintf(path_out(scale->report),
            "\n%u busy devices on %u workers: %.2f million buffers per second; most to least, of "
            "the mean, slot by\nslot: %.1f %% (%.1f-%.1f).\n",
            BUSY, BUSY_WORKERS, r.median, 100 * a.median, 100 * a.low, 100 * a.high);
    scale_judge(scale, &(struct scale_goal){"most to least of busy devices, percent of the mean",
                                            100 * a.median, 10, false});
    fputc('\n', path_out(scale->report));
    json_object_set_new(scale->json, "busy",
                        json_pack("{s:i, s:i, s:o, s:o}", "devices", (int)BUSY, "workers",
                                  (int)BUSY_WORKERS, "most-to-least", path_summary_json(&a),
                                  "million-buffers-per-second", path_summary_json(&r)));
    if (r.spread > scale->report->options->max_spread)
        path_refuse(scale->report, "scale: %u busy devices spread by %.0f %%", BUSY,
                    100 * r.spread);
}

bool scale_shares(struct scale *scale)
{
    const struct path_options *o = scale->report->options;
    double *samples = calloc(2 * (size_t)o->slots, sizeof(double));
    struct fleet fleet;
    bool ok;

    if (!samples)
        return path_fail("scale", "out of memory");
    ok = (fleet_open(&fleet, o, &scale->config, scale->loop, BUSY, BUSY, BUSY_WORKERS) ||
          fail(&fleet)) &&
         measure_shares(&fleet, o, samples, samples + o->slots);
    fleet_close(&fleet);
    if (ok)
        report_shares(scale, samples, samples + o->slots);
    free(samples);
    return ok;
}
