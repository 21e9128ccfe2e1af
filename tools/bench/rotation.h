/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Rotation: modes take turns in short slots, round after round, in random order within a round.
 * What is reported is the median over all rounds, and of each mode's ratio to another one, taken
 * round by round; so what changes slowly does not matter, and neither do a few bad moments.
 *
 * A round in which the distance between the processors changes (hop.h) is done again; and of those
 * that were done at different distances, the largest group that agrees counts.
 */
#ifndef SVQ_BENCH_ROTATION_H
#define SVQ_BENCH_ROTATION_H

#include "hop.h"
#include "path.h"

#define ROTATION_MORE 8u

/* What was found in a slot. */
struct rotation_sample {
    double value;               /* what is compared */
    double count;               /* of what was counted, */
    double seconds;             /* and in what time */
    double more[ROTATION_MORE]; /* what else belongs to it */
    double hop;                 /* a cache line's round trip, nanoseconds; set by rotation_run() */
    bool disturbed;             /* something else ran meanwhile */
};

struct rotation_mode {
    enum path_mode mode;
    struct rotation_sample *samples; /* one for each round */
    struct bench_summary value;      /* set by rotation_sum() */
    struct bench_summary ratio;      /* to the reference */
    struct bench_summary differ;     /* from the reference */
};

struct rotation {
    unsigned mode_count;
    struct rotation_mode modes[PATH_MODES];
    unsigned rounds;    /* that are to count */
    unsigned round;     /* that do */
    unsigned broken;    /* in which the distance changed */
    unsigned elsewhere; /* at another distance than those that count */
    unsigned repeats;   /* slots that may be repeated yet */
    unsigned repeated;  /* that were, since something else ran meanwhile */
    unsigned disturbed; /* that count all the same, since no repeats were left */
    struct bench_summary hop;
};

/* One slot: enter the mode, measure. Return: false: could not. */
typedef bool (*rotation_slot)(void *opaque, enum path_mode mode, struct rotation_sample *sample);

/* Return: false: out of memory. */
bool rotation_init(struct rotation *r, const enum path_mode *modes, unsigned count, unsigned rounds,
                   unsigned repeats);
void rotation_release(struct rotation *r);

/* @hop: between which processors the distance matters; may be NULL. */
bool rotation_run(struct rotation *r, uint64_t *random, const struct hop *hop, rotation_slot slot,
                  void *opaque);

/* @reference: a mode that all others are compared with. Return: false: out of memory. */
bool rotation_sum(struct rotation *r, enum path_mode reference);

/* NULL: it is not in there. */
const struct rotation_mode *rotation_find(const struct rotation *r, enum path_mode mode);

/* The median, and 95 % around it, of one mode's ratio to another one, round by round. */
struct bench_summary rotation_ratio(const struct rotation *r, enum path_mode mode,
                                    enum path_mode to);

/* The same of what else belongs to a mode's slots. */
struct bench_summary rotation_more(const struct rotation *r, enum path_mode mode, unsigned which);

/* No result: refuse it, for what disturbed it, for where it ran. */
void rotation_judge_rounds(const struct rotation *r, struct path_report *report, const char *name);
/* The same, and for its ratios' spread. */
void rotation_judge(const struct rotation *r, struct path_report *report, const char *name);
/* Pass-through and direct wiring are the same thing: refuse it if they differ. */
void rotation_control(const struct rotation *r, struct path_report *report, const char *name);

json_t *rotation_json(const struct rotation *r);

#endif
