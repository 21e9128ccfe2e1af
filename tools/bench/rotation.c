/* SPDX-License-Identifier: BSD-3-Clause */
#include "rotation.h"

#include <stddef.h>
#include <stdlib.h>

#include "sim/random.h"

/* One slot in so many may be a disturbed one without doing harm to a median. */
#define DISTURBED_MAX 4u

/* Rounds are begun so often, at most, for each that is to count. */
#define ATTEMPTS 3u

const char *const path_mode_names[PATH_MODES] = {"direct", "pass-through", "shadow", "shadow+log",
                                                 "relay",  "pass+spin",    "alone",  "among"};

/*
 * Direct wiring and another relay mean another connection: they stand at a round's ends, so that
 * svqd's modes follow each other under one connection.
 */
static bool is_apart(enum path_mode mode)
{
    return mode == MODE_DIRECT || mode == MODE_RELAY;
}

static void swap(enum path_mode *a, enum path_mode *b)
{
    enum path_mode was = *a;

    *a = *b;
    *b = was;
}

void path_shuffle(enum path_mode *modes, unsigned count, uint64_t *random)
{
    unsigned first = 0, last = count;

    for (unsigned i = count; i > 1; i--)
        swap(&modes[i - 1], &modes[sim_random_below(random, i)]);
    for (unsigned i = 0; i < last;) {
        if (!is_apart(modes[i]) || i < first)
            i++;
        else if (sim_random_below(random, 2))
            swap(&modes[i], &modes[--last]);
        else
            swap(&modes[i++], &modes[first++]);
    }
}

bool rotation_init(struct rotation *r, const enum path_mode *modes, unsigned count, unsigned rounds,
                   unsigned repeats)
{
    *r = (struct rotation){
        .mode_count = count, .rounds = rounds, .repeats = repeats * rounds * count};
    for (unsigned i = 0; i < count; i++) {
        r->modes[i].mode = modes[i];
        r->modes[i].samples = calloc((size_t)rounds * ATTEMPTS, sizeof(r->modes[i].samples[0]));
        if (!r->modes[i].samples)
            return false;
    }
    return true;
}

void rotation_release(struct rotation *r)
{
    for (unsigned i = 0; i < r->mode_count; i++)
        free(r->modes[i].samples);
    *r = (struct rotation){0};
}

static struct rotation_mode *find(struct rotation *r, enum path_mode mode)
{
    for (unsigned i = 0; i < r->mode_count; i++)
        if (r->modes[i].mode == mode)
            return &r->modes[i];
    return NULL;
}

const struct rotation_mode *rotation_find(const struct rotation *r, enum path_mode mode)
{
    return find((struct rotation *)r, mode);
}

/* ---- Rounds ---------------------------------------------------------------------------------- */

enum outcome { OUTCOME_FAILED, OUTCOME_MOVED, OUTCOME_DONE };

/* One slot, until it is undisturbed or there are no repeats left. @distance: the round's so far. */
static enum outcome run_slot(struct rotation *r, struct rotation_mode *m, const struct hop *hop,
                             double *distance, rotation_slot slot, void *opaque)
{
    struct rotation_sample *sample = &m->samples[r->round];
    bool again;

    do {
        double before = hop ? hop_measure(hop) : 0;

        *sample = (struct rotation_sample){0};
        if (path_interrupted()) {
            path_fail("rotation", "interrupted");
            return OUTCOME_FAILED;
        }
        if (!slot(opaque, m->mode, sample))
            return OUTCOME_FAILED;
        sample->hop = hop ? hop_measure(hop) : 0;
        if (!hop_same(before, *distance) || !hop_same(sample->hop, *distance) ||
            !hop_same(before, sample->hop))
            return OUTCOME_MOVED;
        if (*distance == 0)
            *distance = sample->hop;
        again = sample->disturbed && r->repeats;
        r->repeats -= again;
        r->repeated += again;
    } while (again);
    return OUTCOME_DONE;
}

static enum outcome run_round(struct rotation *r, uint64_t *random, const struct hop *hop,
                              rotation_slot slot, void *opaque)
{
    enum path_mode order[PATH_MODES];
    double distance = hop ? hop->wanted : 0;

    for (unsigned i = 0; i < r->mode_count; i++)
        order[i] = r->modes[i].mode;
    path_shuffle(order, r->mode_count, random);
    if (hop)
        hop_wait(hop);
    for (unsigned i = 0; i < r->mode_count; i++) {
        enum outcome outcome = run_slot(r, find(r, order[i]), hop, &distance, slot, opaque);

        if (outcome != OUTCOME_DONE)
            return outcome;
    }
    return OUTCOME_DONE;
}

/* At what distance a round was done; 0: nobody knows. */
static double round_hop(const struct rotation *r, unsigned round)
{
    double most = 0;

    for (unsigned i = 0; i < r->mode_count; i++)
        if (r->modes[i].samples[round].hop > most)
            most = r->modes[i].samples[round].hop;
    return most;
}

/*
 * Is a round in the group that begins at this distance? Two that are the same as a third one need
 * not be the same; two that are the same as the nearest one of all, and not nearer, are.
 */
static bool belongs(const struct rotation *r, unsigned round, double nearest)
{
    double ns = round_hop(r, round);

    return hop_same(ns, nearest) && (ns <= 0 || ns >= nearest);
}

static unsigned group_size(const struct rotation *r, double nearest)
{
    unsigned count = 0;

    for (unsigned i = 0; i < r->round; i++)
        count += belongs(r, i, nearest);
    return count;
}

/* Where the largest group begins. @size: how many there are. */
static double largest_group(const struct rotation *r, unsigned *size)
{
    double best = 0;

    *size = 0;
    for (unsigned i = 0; i < r->round; i++) {
        unsigned count = group_size(r, round_hop(r, i));

        if (count > *size) {
            *size = count;
            best = round_hop(r, i);
        }
    }
    return best;
}

/* Only the largest group of rounds counts. */
static void keep_usual(struct rotation *r)
{
    unsigned size, kept = 0;
    double nearest = largest_group(r, &size);

    for (unsigned i = 0; i < r->round; i++) {
        if (!belongs(r, i, nearest)) {
            r->elsewhere++;
            continue;
        }
        for (unsigned k = 0; k < r->mode_count; k++)
            r->modes[k].samples[kept] = r->modes[k].samples[i];
        kept++;
    }
    r->round = kept;
    for (unsigned k = 0; k < r->mode_count; k++)
        for (unsigned i = 0; i < kept; i++)
            r->disturbed += r->modes[k].samples[i].disturbed;
}

bool rotation_run(struct rotation *r, uint64_t *random, const struct hop *hop, rotation_slot slot,
                  void *opaque)
{
    unsigned size;

    for (unsigned i = 0; i < ATTEMPTS * r->rounds; i++) {
        enum outcome outcome = run_round(r, random, hop, slot, opaque);

        if (outcome == OUTCOME_FAILED)
            return false;
        r->broken += outcome == OUTCOME_MOVED;
        r->round += outcome == OUTCOME_DONE;
        if (r->round < r->rounds)
            continue;
        /* A round makes no group larger by more than one: none has more than this. */
        largest_group(r, &size);
        if (size == r->rounds)
            break;
    }
    keep_usual(r);
    return true;
}

/* ---- Sums ------------------------------------------------------------------------------------ */

/* One of the doubles of a sample. */
static double field(const struct rotation_sample *sample, size_t offset)
{
    return *(const double *)(const void *)((const char *)sample + offset);
}

static struct bench_summary sum_field(const struct rotation *r, enum path_mode mode, size_t offset)
{
    const struct rotation_mode *m = rotation_find(r, mode);
    double *scratch = m ? calloc(r->rounds, sizeof(*scratch)) : NULL;
    struct bench_summary summary = {0};

    if (!scratch)
        return summary;
    for (unsigned i = 0; i < r->round; i++)
        scratch[i] = field(&m->samples[i], offset);
    summary = bench_summary(scratch, r->round);
    free(scratch);
    return summary;
}

struct bench_summary rotation_more(const struct rotation *r, enum path_mode mode, unsigned which)
{
    return sum_field(r, mode, offsetof(struct rotation_sample, more) + which * sizeof(double));
}

/* Over all slots in which it could be told. */
static bool sum_hops(struct rotation *r)
{
    double *known = calloc((size_t)r->mode_count * r->rounds, sizeof(double));
    unsigned count = 0;

    if (!known)
        return false;
    for (unsigned i = 0; i < r->mode_count; i++)
        for (unsigned k = 0; k < r->round; k++)
            if (r->modes[i].samples[k].hop > 0)
                known[count++] = r->modes[i].samples[k].hop;
    r->hop = bench_summary(known, count);
    free(known);
    return true;
}

bool rotation_sum(struct rotation *r, enum path_mode reference)
{
    const struct rotation_mode *to = rotation_find(r, reference);
    double *scratch = calloc(r->rounds, sizeof(*scratch));

    if (!scratch)
        return false;
    for (unsigned i = 0; i < r->mode_count; i++) {
        struct rotation_mode *m = &r->modes[i];

        m->value = sum_field(r, m->mode, offsetof(struct rotation_sample, value));
        for (unsigned k = 0; k < r->round; k++)
            scratch[k] = m->samples[k].value - to->samples[k].value;
        m->differ = bench_summary(scratch, r->round);
        m->ratio = rotation_ratio(r, m->mode, reference);
    }
    free(scratch);
    return sum_hops(r);
}

struct bench_summary rotation_ratio(const struct rotation *r, enum path_mode mode,
                                    enum path_mode to)
{
    const struct rotation_mode *a = rotation_find(r, mode), *b = rotation_find(r, to);
    struct bench_summary summary = {0};
    double *scratch = a && b ? calloc(r->rounds, sizeof(*scratch)) : NULL;

    if (!scratch)
        return summary;
    for (unsigned i = 0; i < r->round; i++)
        scratch[i] = b->samples[i].value > 0 ? a->samples[i].value / b->samples[i].value : 0;
    summary = bench_summary(scratch, r->round);
    free(scratch);
    return summary;
}

/* ---- Verdicts, JSON -------------------------------------------------------------------------- */

void rotation_judge_rounds(const struct rotation *r, struct path_report *report, const char *name)
{
    if (r->round < r->rounds)
        path_refuse(report,
                    "%s: the processors moved: %u of %u rounds were done at one distance, %u at "
                    "another, in %u it changed",
                    name, r->round, r->rounds, r->elsewhere, r->broken);
    if (r->disturbed > r->round * r->mode_count / DISTURBED_MAX)
        path_refuse(report, "%s: %u of %u slots were disturbed", name, r->disturbed,
                    r->round * r->mode_count);
}

void rotation_judge(const struct rotation *r, struct path_report *report, const char *name)
{
    double most = report->options->max_spread;

    rotation_judge_rounds(r, report, name);
    /* Another program may be as unsteady as it likes: its interval says so. */
    for (unsigned i = 0; i < r->mode_count; i++)
        if (r->modes[i].mode != MODE_RELAY && r->modes[i].ratio.spread > most)
            path_refuse(report, "%s: %s spreads by %.0f %%, round by round", name,
                        path_mode_names[r->modes[i].mode], 100 * r->modes[i].ratio.spread);
}

void rotation_control(const struct rotation *r, struct path_report *report, const char *name)
{
    double apart = report->options->max_apart;
    double control = rotation_ratio(r, MODE_PASS, MODE_DIRECT).median;

    if (control > 1 + apart || control < 1 - apart)
        path_refuse(report, "%s: pass-through is %.3f of direct", name, control);
}

json_t *path_summary_json(const struct bench_summary *s)
{
    return json_pack("{s:f, s:f, s:f, s:f}", "median", s->median, "low", s->low, "high", s->high,
                     "spread", s->spread);
}

static json_t *numbers(const struct rotation *r, const struct rotation_mode *m, size_t offset)
{
    json_t *array = json_array();

    for (unsigned i = 0; i < r->round; i++)
        json_array_append_new(array, json_real(field(&m->samples[i], offset)));
    return array;
}

static json_t *mode_json(const struct rotation *r, const struct rotation_mode *m)
{
    return json_pack("{s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "value", path_summary_json(&m->value),
                     "ratio", path_summary_json(&m->ratio), "difference",
                     path_summary_json(&m->differ), "slots",
                     numbers(r, m, offsetof(struct rotation_sample, value)), "counts",
                     numbers(r, m, offsetof(struct rotation_sample, count)), "seconds",
                     numbers(r, m, offsetof(struct rotation_sample, seconds)),
                     "line-round-trips-ns", numbers(r, m, offsetof(struct rotation_sample, hop)));
}

json_t *rotation_json(const struct rotation *r)
{
    json_t *modes = json_object();

    for (unsigned i = 0; i < r->mode_count; i++)
        json_object_set_new(modes, path_mode_names[r->modes[i].mode], mode_json(r, &r->modes[i]));
    return json_pack("{s:i, s:i, s:i, s:i, s:i, s:o, s:o}", "rounds", (int)r->round,
                     "rounds-elsewhere", (int)r->elsewhere, "rounds-broken", (int)r->broken,
                     "repeated-slots", (int)r->repeated, "disturbed-slots", (int)r->disturbed,
                     "line-round-trip-ns", path_summary_json(&r->hop), "modes", modes);
}
