/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The model test's main: scenarios one after the other, each with a ring size, features and habits
 * of its own, all drawn from its seed. Scenario i of a run has seed S + i; a failure prints the
 * command that runs just that one.
 */
#include <getopt.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include <shadowvq/vhost_user.h>

#include "model.h"

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
            "\nmodel: size %u,%s%s%s first index %u, %" PRIu64 " offered, %" PRIu64
            " taken, %" PRIu64 " reaped\nmodel: again: %s --seed %" PRIu64 " --chains 1\n",
            w->num, w->event_idx ? " event_idx," : "", w->indirect ? " indirect," : "",
            w->in_order ? " in_order," : "", w->first, w->queue.offered, w->queue.taken,
            w->queue.reaped, program, w->seed);
    exit(1);
}

/* ---- Bytes --------------------------------------------------------------------------------- */

static size_t end_size(const struct kit_buf *buf)
{
    return buf->len < 8 ? buf->len : 8;
}

void model_fill(const struct world *w, const struct kit_buf *buf, uint64_t value)
{
    uint8_t *p = kit_memory_at(w->memory, buf->gpa, buf->len);

    memcpy(p, &value, end_size(buf));
    memcpy(p + buf->len - end_size(buf), &value, end_size(buf));
}

bool model_filled(const struct world *w, const struct kit_buf *buf, uint64_t value)
{
    const uint8_t *p = kit_memory_at(w->memory, buf->gpa, buf->len);
    size_t end = end_size(buf);

    /* Between 8 and 16 bytes the ends overlap: the second one was written last. */
    if (memcmp(p + buf->len - end, &value, end))
        return false;
    return buf->len < 16 || !memcmp(p, &value, end);
}

uint64_t model_value(const struct chain *chain, unsigned i, bool answer)
{
    uint64_t value = chain->number * UINT64_C(0x9e3779b97f4a7c15) + i;

    return (answer ? ~value : value) | 1;
}

/* ---- One scenario -------------------------------------------------------------------------- */

static void draw_scenario(struct world *w)
{
    w->num = 1u << kit_below(&w->rng, 16);
    w->event_idx = kit_percent(&w->rng, 60);
    w->indirect = kit_percent(&w->rng, 60);
    w->in_order = kit_percent(&w->rng, 20);
    w->features = (w->event_idx ? SVQ_BIT(SVQ_F_EVENT_IDX) : 0) |
                  (w->indirect ? SVQ_BIT(SVQ_F_INDIRECT_DESC) : 0) |
                  (w->in_order ? SVQ_BIT(SVQ_F_IN_ORDER) : 0);
    /* Close before a wrap, often. */
    w->first = (uint16_t)(kit_percent(&w->rng, 50) ? kit_rand(&w->rng)
                                                   : 65536 - kit_below(&w->rng, 2 * w->num));
    w->guest.goal = kit_between(&w->rng, 1000, 6000) + w->num * kit_between(&w->rng, 1, 2);
    w->guest.burst_percent = kit_percent(&w->rng, 50) ? 0 : kit_between(&w->rng, 1, 20);
    w->guest.long_percent = kit_percent(&w->rng, 30) ? 10 : 1;
}

static void scenario_init(struct world *w, uint64_t seed, struct kit_memory *memory,
                          struct totals *totals)
{
    memset(w, 0, sizeof(*w));
    w->seed = seed;
    w->rng.state = seed;
    w->memory = memory;
    w->totals = totals;
    draw_scenario(w);
    w->queue.room = w->num;
    w->queue.chains = calloc(w->queue.room, sizeof(w->queue.chains[0]));
    w->queue.completed = calloc(w->queue.room, sizeof(w->queue.completed[0]));
    kit_require(w->queue.chains && w->queue.completed);
    guest_init(w);
    rings_init(w);
    host_init(w);
    backend_init(w);
}

static void scenario_free(struct world *w)
{
    host_free(w);
    backend_free(w);
    rings_free(w);
    guest_free(w);
    free(w->queue.chains);
    free(w->queue.completed);
}

/* One step of somebody. Return: somebody could do something. */
static bool step(struct world *w)
{
    static bool (*const steps[])(struct world *) = {guest_step, backend_step, host_step};
    unsigned who = kit_below(&w->rng, 3);

    for (unsigned i = 0; i < 3; i++)
        if (steps[(who + i) % 3](w))
            return true;
    return false;
}

/*
 * Nothing new is offered, and everybody goes on by notifications alone until all are asleep.
 * Whatever is not back by then, nobody would ever have brought.
 */
static void quiesce(struct world *w)
{
    uint64_t patience = 1000000 + 100 * (w->queue.offered - w->queue.reaped);

    w->quiescing = true;
    while (step(w))
        model_check(w, patience--, "no rest: somebody stays awake without work");
    model_check(w, w->queue.reaped == w->queue.offered,
                "a lost wake-up: all sleep with %" PRIu64 " chains under way",
                w->queue.offered - w->queue.reaped);
    w->quiescing = false;
    w->totals->quiesces++;
}

static void spurious_notifications(struct world *w)
{
    switch (kit_below(&w->rng, 4)) {
    case 0:
        host_guest_kicks(w);
        break;
    case 1:
        host_backend_calls(w);
        break;
    case 2:
        w->backend.kick = true;
        break;
    default:
        w->guest.call = true;
    }
}

static void scenario_run(struct world *w)
{
    while (w->queue.offered < w->guest.goal) {
        unsigned draw = kit_below(&w->rng, 1000);

        step(w);
        if (draw < 8)
            host_toggle(w);
        else if (draw < 28)
            host_change_log(w);
        else if (draw < 32)
            quiesce(w);
        else if (draw < 36)
            spurious_notifications(w);
        else if (draw < 37)
            host_change_memory(w);
    }
    quiesce(w);
    w->totals->chains += w->queue.reaped;
    w->totals->scenarios++;
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
            "usage: %s [--chains N] [--seed S] [--seconds T] [-v]\n"
            "Random guests and back-ends around the relay, checked against a plain queue.\n"
            "  --chains N   run scenarios until N chains are through (1000000)\n"
            "  --seed S     of the first scenario (1); the next ones have S+1, S+2 ...\n"
            "  --seconds T  run for T seconds instead\n"
            "  -v           a line per scenario\n",
            program);
}

static bool parse(int argc, char **argv, struct options *o)
{
    static const struct option names[] = {{"chains", required_argument, NULL, 'c'},
                                          {"seed", required_argument, NULL, 's'},
                                          {"seconds", required_argument, NULL, 't'},
                                          {"help", no_argument, NULL, 'h'},
                                          {NULL, 0, NULL, 0}};
    int c;

    while ((c = getopt_long(argc, argv, "vh", names, NULL)) != -1) {
        char *end = NULL;
        uint64_t value = optarg ? strtoull(optarg, &end, 0) : 0;

        if (optarg && (end == optarg || *end))
            return false;
        if (c == 'c')
            o->chains = value;
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

int main(int argc, char **argv)
{
    struct options o = {.chains = 1000000, .seed = 1};
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
        if (o.verbose)
            printf("seed %" PRIu64 ": size %u, features 0x%" PRIx64 ", %" PRIu64 " chains\n",
                   w->seed, w->num, w->features, w->guest.goal);
        scenario_run(w);
        scenario_free(w);
    }
    printf("model: %" PRIu64 " scenarios from seed %" PRIu64 ": %" PRIu64 " chains, %" PRIu64
           " buffers, %" PRIu64 " switches, %" PRIu64 " rests, %" PRIu64 " logged, %" PRIu64
           " kicks, %" PRIu64 " calls; all right\n",
           totals.scenarios, o.seed, totals.chains, totals.buffers, totals.switches,
           totals.quiesces, totals.logged_chains, totals.kicks, totals.calls);
    kit_memory_free(&memory);
    free(w);
    return 0;
}
