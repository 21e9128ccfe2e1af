/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * All worlds exist at once, and every round gives each of them one short slot: whatever changes
 * while this runs (other programs, the processor's frequency) changes for all of them alike. Pairs
 * of one case are neighbours, and their ratios are taken round by round.
 */
#include "relay.h"
#include "bench.h"

#include <errno.h>
#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

/* One in so many may be a disturbed one without doing harm to a median. */
#define DISTURBED_MAX 4u

static bool pin(int cpu)
{
    cpu_set_t set;

    if (cpu < 0)
        cpu = sched_getcpu();
    if (cpu < 0)
        return true;
    CPU_ZERO(&set);
    CPU_SET(cpu, &set);
    return sched_setaffinity(0, sizeof(set), &set) == 0;
}

/* ---- Worlds ---------------------------------------------------------------------------------- */

static void free_cases(struct relay_run *run)
{
    for (unsigned i = 0; i < run->case_count; i++) {
        for (unsigned p = 0; p < RELAY_PAIRS; p++) {
            bench_world_free(run->cases[i].pairs[p].world);
            free(run->cases[i].pairs[p].forward);
            free(run->cases[i].pairs[p].back);
        }
    }
    free(run->cases);
}

static bool make_pair(const struct relay_run *run, const struct relay_case *c, enum relay_pair pair,
                      struct relay_figures *figures)
{
    const struct relay_options *o = run->options;
    struct bench_world_config config = relay_world_config(c->setup, pair);
    int err;

    config.num = o->size;
    config.shape.descs = c->descriptors;
    config.log = c->log;
    config.hand = run->hand;
    err = bench_world_new(&config, &figures->world);

    figures->config = config;
    figures->forward = calloc(o->slots, sizeof(double));
    figures->back = calloc(o->slots, sizeof(double));
    if (!err && figures->forward && figures->back)
        return true;
    fprintf(stderr, "svq-bench: cannot set up %s, %s: %s\n", c->setup->name, relay_pair_names[pair],
            err ? strerror(-err) : "out of memory");
    return false;
}

static bool add_case(struct relay_run *run, const struct relay_setup *setup, unsigned batch,
                     bool log)
{
    const struct relay_options *o = run->options;
    struct relay_case *c = &run->cases[run->case_count++];

    c->setup = setup;
    c->descriptors = setup->chained ? o->descriptors : 1;
    c->batch = batch;
    c->log = log;
    for (unsigned p = 0; p < RELAY_PAIRS; p++)
        if ((o->pairs & 1u << p) && !make_pair(run, c, p, &c->pairs[p]))
            return false;
    return true;
}

static bool make_cases(struct relay_run *run)
{
    const struct relay_options *o = run->options;

    run->cases = calloc((size_t)RELAY_SETUPS * o->batch_count * 2, sizeof(*run->cases));
    if (!run->cases)
        return false;
    for (unsigned s = 0; s < RELAY_SETUPS; s++) {
        if (!(o->setups & 1u << s))
            continue;
        for (unsigned b = 0; b < o->batch_count; b++) {
            if (o->log_off && !add_case(run, &relay_setups[s], o->batches[b], false))
                return false;
            if (o->log_on && !add_case(run, &relay_setups[s], o->batches[b], true))
                return false;
        }
    }
    return true;
}

/* ---- Measuring ------------------------------------------------------------------------------- */

/* How often another thread took the processor away from one of ours. */
static long interruptions(void)
{
    struct rusage usage;

    return getrusage(RUSAGE_SELF, &usage) < 0 ? 0 : usage.ru_nivcsw;
}

/*
 * How fast a relay is depends on where its parts lie in memory: about one place in twenty costs
 * half as much again, always. So every slot has a world of its own, somewhere else: it is made
 * while the one before is still there, beside a piece of memory of random size.
 */
static bool move_world(struct relay_figures *figures)
{
    void *gap = malloc((size_t)rand() % 500000 + 1);
    struct bench_world *world = NULL;
    int err = gap ? bench_world_new(&figures->config, &world) : -ENOMEM;

    free(gap);
    if (err) {
        fprintf(stderr, "svq-bench: cannot set up another world: %s\n", strerror(-err));
        return false;
    }
    bench_world_free(figures->world);
    figures->world = world;
    return true;
}

/*
 * A slot counts when nothing else ran on this processor or, as far as we can see, on another thread
 * of its core. What decides is a look beside the slot, never what it measured.
 */
static bool measure_slot(struct relay_run *run, struct relay_case *c, unsigned pair, unsigned slot)
{
    struct relay_figures *figures = &c->pairs[pair];
    struct bench_sample sample;
    bool quiet, again;

    if (!move_world(figures))
        return false;
    do {
        long before;

        if (run->hand)
            bench_hand_wait(run->hand);
        before = interruptions();
        quiet = bench_clock_quiet(&run->clock);
        if (bench_world_slot(figures->world, c->batch, run->options->slot_us * UINT64_C(1000),
                             &run->clock, &sample) < 0) {
            fprintf(stderr, "svq-bench: %s, %s, batch %u: %s\n", c->setup->name,
                    relay_pair_names[pair], c->batch, bench_world_trouble(figures->world));
            return false;
        }
        quiet = bench_clock_quiet(&run->clock) && quiet && interruptions() == before &&
                (!run->hand || bench_hand_near(run->hand));
        again = !quiet && run->repeated < run->repeats;
        run->repeated += again;
        run->disturbed += !quiet && !again;
    } while (again);
    run->measured++;
    figures->forward[slot] = sample.forward / (double)sample.buffers;
    figures->back[slot] = sample.back / (double)sample.buffers;
    return true;
}

static bool measure(struct relay_run *run)
{
    uint64_t start = bench_now_ns();

    run->repeats = run->options->repeats * run->options->slots * run->case_count * RELAY_PAIRS;
    for (; run->slots < run->options->slots; run->slots++)
        for (unsigned i = 0; i < run->case_count; i++)
            for (unsigned p = 0; p < RELAY_PAIRS; p++)
                if (run->cases[i].pairs[p].world &&
                    !measure_slot(run, &run->cases[i], p, run->slots))
                    return false;
    run->seconds = (double)(bench_now_ns() - start) / 1e9;
    return true;
}

/* ---- Figures --------------------------------------------------------------------------------- */

static void summarize_pair(const struct relay_run *run, struct relay_figures *f, double *scratch)
{
    double ticks = run->clock.ticks_per_ns;

    for (unsigned i = 0; i < run->slots; i++)
        scratch[i] = f->forward[i] / ticks;
    f->ns_forward = bench_summary(scratch, run->slots);
    for (unsigned i = 0; i < run->slots; i++)
        scratch[i] = f->back[i] / ticks;
    f->ns_back = bench_summary(scratch, run->slots);
    for (unsigned i = 0; i < run->slots; i++)
        scratch[i] = (f->forward[i] + f->back[i]) / ticks;
    f->ns_total = bench_summary(scratch, run->slots);
}

static void compare_pair(const struct relay_run *run, struct relay_figures *f,
                         const struct relay_figures *fastest, double *scratch)
{
    for (unsigned i = 0; i < run->slots; i++)
        scratch[i] = (f->forward[i] + f->back[i]) / (fastest->forward[i] + fastest->back[i]);
    f->ratio = bench_summary(scratch, run->slots);
}

static void summarize_case(const struct relay_run *run, struct relay_case *c, double *scratch)
{
    bool first = true;

    for (unsigned p = 0; p < RELAY_PAIRS; p++) {
        struct relay_figures *f = &c->pairs[p];

        if (!f->world)
            continue;
        summarize_pair(run, f, scratch);
        c->noisy |= f->ns_total.spread > run->options->max_spread;
        if (first || f->ns_total.median < c->pairs[c->fastest].ns_total.median)
            c->fastest = p;
        first = false;
    }
    for (unsigned p = 0; p < RELAY_PAIRS; p++)
        if (c->pairs[p].world)
            compare_pair(run, &c->pairs[p], &c->pairs[c->fastest], scratch);
}

static bool summarize(struct relay_run *run)
{
    double *scratch = calloc(run->slots, sizeof(*scratch));
    double worst = 0;

    if (!scratch)
        return false;
    for (unsigned i = 0; i < run->case_count; i++) {
        struct relay_case *c = &run->cases[i];

        summarize_case(run, c, scratch);
        run->noisy_cases += c->noisy;
        for (unsigned p = 0; p < RELAY_PAIRS && relay_pairs_alike(c->setup); p++) {
            if (c->pairs[p].ratio.median > worst) {
                worst = c->pairs[p].ratio.median;
                run->worst = c;
                run->worst_pair = p;
            }
        }
    }
    run->noisy = run->noisy_cases || run->disturbed > run->measured / DISTURBED_MAX;
    free(scratch);
    return true;
}

enum bench_status bench_relay(int argc, char **argv)
{
    enum bench_status status = BENCH_FAILED;
    struct relay_options options;
    struct relay_run run = {.options = &options};
    int early = relay_parse(argc, argv, &options);

    if (early >= 0)
        return (enum bench_status)early;
    if (!pin(options.cpu)) {
        fprintf(stderr, "svq-bench: cannot run on processor %d\n", options.cpu);
        return BENCH_FAILED;
    }
    if (options.relay_cpu >= 0 && bench_hand_new(options.relay_cpu, &run.hand)) {
        fprintf(stderr, "svq-bench: the relay cannot run on processor %d\n", options.relay_cpu);
        return BENCH_FAILED;
    }
    bench_clock_calibrate(&run.clock);
    if (make_cases(&run) && measure(&run) && summarize(&run)) {
        if (options.json)
            relay_print_json(&run, stdout);
        else
            relay_print(&run, stdout);
        status = run.noisy ? BENCH_NOISY : BENCH_OK;
    }
    free_cases(&run);
    bench_hand_free(run.hand);
    return status;
}
