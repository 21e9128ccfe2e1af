/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The model test's main: scenarios one after the other, each with ring formats, features, sizes and
 * habits of its own, all drawn from its seed. Scenario i of a run has seed S + i; a failure prints
 * the command that runs just that one.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include "model.h"

/* A run of so many chains must have had every combination of formats and features. */
#define FULL_RUN    1000000u
#define NIGHTLY_RUN 10000000u

static const char *program;

void model_fail(const struct world *w, const char *format, ...)
{
    va_list args;

    fflush(stdout);
    fprintf(stderr, "model: ");
    va_start(args, format);
    vfprintf(stderr, format, args);
    va_end(args);
    fprintf(stderr,
            "\nmodel: guest %s, %u entries; back-end %s, %u entries; first index 0x%x; %" PRIu64
            " offered, %" PRIu64 " taken, %" PRIu64 " completed, %" PRIu64
            " reaped\nmodel: again: %s --seed %" PRIu64 " --chains 1\n",
            scenario_kind_name(w->front.kind), w->front.num, scenario_kind_name(w->back.kind),
            w->back.num, w->first, w->queue.offered, w->queue.taken, w->queue.completed_count,
            w->queue.reaped, program, w->seed);
    exit(1);
}

/* ---- Command line --------------------------------------------------------------------------- */

struct options {
    uint64_t chains;
    uint64_t seed;
    uint64_t seconds; /* 0: until so many chains */
    bool verbose;
};

static void usage(FILE *out)
{
    fprintf(out,
            "usage: %s [--chains N | --nightly | --seconds T] [--seed S] [-v]\n"
            "Random guests and back-ends around the relay, checked against a plain queue.\n"
            "  --chains N   run scenarios until N chains are through (%u); from that many on, a\n"
            "               combination of formats and features that was never drawn is a failure\n"
            "  --nightly    --chains %u; `meson test -C build --setup nightly --suite nightly`\n"
            "  --seed S     of the first scenario (1); the next ones have S+1, S+2 ...\n"
            "  --seconds T  run for T seconds instead\n"
            "  -v           a line per scenario\n",
            program, FULL_RUN, NIGHTLY_RUN);
}

static bool parse(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {
        {"chains", required_argument, NULL, 'c'}, {"nightly", no_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'},   {"seconds", required_argument, NULL, 't'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "vh", names, NULL)) != -1) {
        char *end = NULL;
        uint64_t value = optarg ? strtoull(optarg, &end, 0) : 0;

        if (optarg && (end == optarg || *end))
            return false;
        if (c == 'c')
            o->chains = value;
        else if (c == 'n')
            o->chains = NIGHTLY_RUN;
        else if (c == 's')
            o->seed = value;
        else if (c == 't')
            o->seconds = value;
        else if (c == 'v')
            o->verbose = true;
        else if (c == 'h') {
            usage(stdout);
            exit(0);
        } else
            return false;
    }
    return optind == argc;
}

/* ---- The run --------------------------------------------------------------------------------- */

static void print_totals(const struct totals *t, uint64_t seed)
{
    static const char *const names[2] = {"split", "packed"};

    printf("model: %" PRIu64 " scenarios from seed %" PRIu64 ": %" PRIu64 " chains, %" PRIu64
           " buffers\nmodel: %" PRIu64 " switches, %" PRIu64 " renewals, %" PRIu64
           " resumptions, %" PRIu64 " rests, %" PRIu64 " logged, %" PRIu64 " waits, %" PRIu64
           " reordered, %" PRIu64 " kicks, %" PRIu64 " calls\n",
           t->scenarios, seed, t->chains, t->buffers, t->switches, t->renewals, t->resumptions,
           t->quiesces, t->logged_chains, t->waits, t->reorders, t->kicks, t->calls);
    printf("model: %" PRIu64 " crashes, %" PRIu64 " of them with a fault, %" PRIu64
           " deaths of svqd, %" PRIu64 " chains done again, %" PRIu64 " switches given up, %" PRIu64
           " looks at what is owed\n",
           t->crashes, t->faulty_crashes, t->deaths, t->redone, t->stuck, t->awaited);
    printf("model: %" PRIu64 " chains with shared descriptors, %" PRIu64 " of them unread\n",
           t->shared, t->unread);
    for (unsigned guest = 0; guest < 2; guest++)
        for (unsigned backend = 0; backend < 2; backend++)
            printf("model: %s guest, %s back-end: %" PRIu64 " scenarios, %" PRIu64 " chains\n",
                   names[guest], names[backend], t->pairs[guest][backend],
                   t->pair_chains[guest][backend]);
}

/* Return: what the run is meant to cover was covered. */
static bool covered(const struct totals *t)
{
    unsigned missing = 0;

    for (unsigned i = 0; i < COMBINATIONS; i++) {
        if (t->drawn[i])
            continue;
        fprintf(stderr, "model: never drawn: guest %s, back-end %s\n",
                scenario_kind_name(i % KINDS), scenario_kind_name(i / KINDS));
        missing++;
    }
    if (!t->switches || !t->renewals || !t->resumptions || !t->logged_chains || !t->waits ||
        !t->reorders || !t->faulty_crashes || !t->deaths || !t->redone || !t->stuck ||
        !t->awaited || !t->unread || t->unread == t->shared) {
        fprintf(stderr, "model: something never happened\n");
        missing++;
    }
    return !missing;
}

int main(int argc, char **argv)
{
    struct options o = {.chains = FULL_RUN, .seed = 1};
    struct totals totals = {0};
    struct kit_memory memory;
    struct world *w = malloc(sizeof(*w));
    time_t start = time(NULL);

    program = argv[0];
    if (!parse(argc, argv, &o)) {
        usage(stderr);
        return 2;
    }
    kit_require(w != NULL);
    kit_memory_init(&memory, MODEL_GPA, MODEL_END - MODEL_GPA);
    while (o.seconds ? (uint64_t)(time(NULL) - start) < o.seconds : totals.chains < o.chains) {
        scenario_init(w, o.seed + totals.scenarios, &memory, &totals);
        if (o.verbose) {
            printf("seed %" PRIu64 ": guest %s %u, back-end %s %u, %" PRIu64 " chains\n", w->seed,
                   scenario_kind_name(w->front.kind), w->front.num,
                   scenario_kind_name(w->back.kind), w->back.num, w->guest.goal);
            fflush(stdout);
        }
        scenario_run(w);
        scenario_free(w);
    }
    kit_memory_free(&memory);
    free(w);
    print_totals(&totals, o.seed);
    if (totals.chains >= FULL_RUN && !covered(&totals))
        return 1;
    printf("model: all right\n");
    return 0;
}
