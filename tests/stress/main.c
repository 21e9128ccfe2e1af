/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The lost wake-up stress: rounds (a chain from the guest to the back-end and back) in every
 * combination of ring formats and features, in blocks. Each block is a world of its own, with
 * sizes, indices and shapes drawn from the seed, the combination and the block's number.
 */
#include "combo.h"
#include "stress.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

/* ThreadSanitizer slows everything down by an order of magnitude. */
#if defined(__SANITIZE_THREAD__)
#define SLOWER 10u
#elif defined(__has_feature)
#if __has_feature(thread_sanitizer)
#define SLOWER 10u
#endif
#endif
#ifndef SLOWER
#define SLOWER 1u
#endif

struct options {
    struct stress_options stress;
    uint64_t rounds; /* of each combination */
    uint64_t total;  /* of all together; when rounds is 0 */
    uint64_t block;
    uint64_t first_block;
    uint64_t seed;
    unsigned burst;
    bool vary; /* IN_ORDER and INDIRECT_DESC are drawn for each block */
    bool quiet;
    bool chosen[COMBOS];
    const char *state;
};

static const char help[] =
    "Usage: stress-schedule|stress-threads [OPTION]...\n"
    "\n"
    "Pass chains through a relay whose every side sleeps whenever it can, and find out whether "
    "all\n"
    "of them wake again.\n"
    "\n"
    "  --relay own|engine       threads: in a loop of its own, or in an engine\n"
    "  --rounds N               chains for each combination\n"
    "  --total N                or for all of them together (default 10000000)\n"
    "  --combos all|basic|NAME[,NAME]...\n"
    "                           all 256; or 16 formats and EVENT_IDX, the rest drawn at random;\n"
    "                           or those, by name: split+event_idx>packed+in_order+indirect\n"
    "  --burst PERCENT          blocks with many chains out, not just one (default 25)\n"
    "  --block N                chains of a block (default 10000)\n"
    "  --first-block N          begin there: to see a failure again\n"
    "  --sleep PERCENT          threads: idle moments that do not spin first (default 30)\n"
    "  --between N              schedule: others act before one in N accesses (default 30; 0: "
    "never)\n"
    "  --stall SECONDS          threads: so long without progress is a stall (default 20)\n"
    "  --seed N                 default 1\n"
    "  --state FILE             remember which combinations are done, and leave them out\n"
    "  --quiet                  no line for each combination\n";

enum {
    OPT_RELAY = 256,
    OPT_ROUNDS,
    OPT_TOTAL,
    OPT_COMBOS,
    OPT_BURST,
    OPT_BLOCK,
    OPT_FIRST,
    OPT_SLEEP,
    OPT_BETWEEN,
    OPT_STALL,
    OPT_SEED,
    OPT_STATE,
    OPT_QUIET
};

static const struct option long_options[] = {
    {"relay", required_argument, NULL, OPT_RELAY},
    {"rounds", required_argument, NULL, OPT_ROUNDS},
    {"total", required_argument, NULL, OPT_TOTAL},
    {"combos", required_argument, NULL, OPT_COMBOS},
    {"burst", required_argument, NULL, OPT_BURST},
    {"block", required_argument, NULL, OPT_BLOCK},
    {"first-block", required_argument, NULL, OPT_FIRST},
    {"sleep", required_argument, NULL, OPT_SLEEP},
    {"between", required_argument, NULL, OPT_BETWEEN},
    {"stall", required_argument, NULL, OPT_STALL},
    {"seed", required_argument, NULL, OPT_SEED},
    {"state", required_argument, NULL, OPT_STATE},
    {"quiet", no_argument, NULL, OPT_QUIET},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* ---- Options ----------------------------------------------------------------------------------
 */

static void wrong(const char *what)
{
    fprintf(stderr, "stress: wrong usage: %s\n%s", what, help);
    exit(2);
}

static uint64_t number(const char *text)
{
    char *end;
    uint64_t value = strtoull(text, &end, 0);

    if (end == text || *end)
        wrong(text);
    return value;
}

static void choose(struct options *o, const char *names)
{
    char *list = strdup(names), *rest = list, *name;
    unsigned combo;

    kit_require(list != NULL);
    o->vary = !strcmp(names, "basic");
    memset(o->chosen, 0, sizeof(o->chosen));
    for (combo = 0; combo < COMBOS; combo++)
        o->chosen[combo] = !strcmp(names, "all") || (o->vary && combo_basic(combo));
    while ((name = strsep(&rest, ",")) && !o->vary && strcmp(names, "all") != 0) {
        if (!combo_parse(name, &combo))
            wrong(name);
        o->chosen[combo] = true;
    }
    free(list);
}

static void take_option(struct options *o, int code)
{
    switch (code) {
    case OPT_RELAY:
        o->stress.engine = !strcmp(optarg, "engine");
        if (!o->stress.engine && strcmp(optarg, "own") != 0)
            wrong(optarg);
        break;
    case OPT_ROUNDS:
        o->rounds = number(optarg);
        break;
    case OPT_TOTAL:
        o->total = number(optarg);
        break;
    case OPT_COMBOS:
        choose(o, optarg);
        break;
    case OPT_BURST:
        o->burst = (unsigned)number(optarg);
        break;
    case OPT_BLOCK:
        o->block = number(optarg);
        break;
    case OPT_FIRST:
        o->first_block = number(optarg);
        break;
    case OPT_SLEEP:
        o->stress.sleep = (unsigned)number(optarg);
        break;
    case OPT_BETWEEN:
        o->stress.between = (unsigned)number(optarg);
        break;
    case OPT_STALL:
        o->stress.stall_seconds = (unsigned)number(optarg);
        break;
    case OPT_SEED:
        o->seed = number(optarg);
        break;
    case OPT_STATE:
        o->state = optarg;
        break;
    case OPT_QUIET:
        o->quiet = true;
        break;
    case 'h':
        fputs(help, stdout);
        exit(0);
    default:
        exit(2);
    }
}

static void parse(struct options *o, int argc, char **argv)
{
    unsigned count = 0;
    int code;

    *o = (struct options){
        .stress = {.sleep = 30, .between = 30, .stall_seconds = 20 * SLOWER},
        .total = 10000000,
        .block = 10000,
        .seed = 1,
        .burst = 25,
    };
    choose(o, "all");
    while ((code = getopt_long(argc, argv, "h", long_options, NULL)) != -1)
        take_option(o, code);
    if (optind < argc)
        wrong(argv[optind]);
    for (unsigned i = 0; i < COMBOS; i++)
        count += o->chosen[i];
    if (!o->rounds)
        o->rounds = (o->total + count - 1) / count / SLOWER;
    if (!o->rounds || !o->block)
        wrong("no rounds");
}

/* ---- Which are done ---------------------------------------------------------------------------
 */

static void state_line(const struct options *o, unsigned combo, char *line, size_t size)
{
    char name[COMBO_NAME];

    combo_name(combo, name);
    snprintf(line, size, "%s%s %s%s %llu rounds from seed %llu\n", stress_program,
             o->stress.engine ? " engine" : "", name, o->vary ? " and others" : "",
             (unsigned long long)o->rounds, (unsigned long long)o->seed);
}

static bool is_done(const struct options *o, unsigned combo)
{
    FILE *file = o->state ? fopen(o->state, "re") : NULL;
    char wanted[256], line[256];
    bool found = false;

    if (!file)
        return false;
    state_line(o, combo, wanted, sizeof(wanted));
    while (!found && fgets(line, sizeof(line), file))
        found = !strcmp(line, wanted);
    fclose(file);
    return found;
}

static void set_done(const struct options *o, unsigned combo)
{
    FILE *file = o->state ? fopen(o->state, "ae") : NULL;
    char line[256];

    if (!file)
        return;
    state_line(o, combo, line, sizeof(line));
    fputs(line, file);
    fclose(file);
}

/* ---- Running ----------------------------------------------------------------------------------
 */

static double now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

static struct world_config draw_config(const struct options *o, unsigned combo, uint64_t block)
{
    struct kit_rng rng = {o->seed * 0x9e3779b97f4a7c15 + combo * UINT64_C(1000003) + block};
    struct world_config config = {.combo = combo};

    kit_rand(&rng);
    config.seed = kit_rand(&rng);
    config.burst = kit_percent(&rng, o->burst);
    if (o->vary)
        config.combo |= kit_below(&rng, 256) & 0xccu;
    return config;
}

static void tell(const char *name, const struct tally *t, double seconds)
{
    printf("%-72s %9llu rounds, %7.1f thousand a second; slept: guest %llu, relay %llu, back-end "
           "%llu",
           name, (unsigned long long)t->rounds, (double)t->rounds / seconds / 1000,
           (unsigned long long)t->sleeps[GUEST], (unsigned long long)t->sleeps[RELAY],
           (unsigned long long)t->sleeps[BACKEND]);
    printf("; %llu notifications",
           (unsigned long long)(t->notified[GUEST] + t->notified[RELAY] + t->notified[BACKEND]));
    if (t->accesses)
        printf("; others acted before %llu of %llu accesses", (unsigned long long)t->between,
               (unsigned long long)t->accesses);
    printf("; %llu worlds, %llu with bursts\n", (unsigned long long)t->blocks,
           (unsigned long long)t->burst_blocks);
    fflush(stdout);
}

static void add(struct tally *all, const struct tally *t)
{
    all->rounds += t->rounds;
    all->between += t->between;
    all->accesses += t->accesses;
    all->blocks += t->blocks;
    all->burst_blocks += t->burst_blocks;
    for (unsigned i = 0; i < ACTORS; i++) {
        all->sleeps[i] += t->sleeps[i];
        all->notified[i] += t->notified[i];
    }
}

static void fail(const struct options *o, unsigned combo, uint64_t block, uint64_t rounds)
{
    char name[COMBO_NAME];

    combo_name(combo, name);
    printf("FAILED; to see it again: %s --relay %s --combos '%s' --seed %llu --block %llu "
           "--first-block %llu --rounds %llu --burst %u --sleep %u --between %u\n",
           stress_program, o->stress.engine ? "engine" : "own", o->vary ? "basic" : name,
           (unsigned long long)o->seed, (unsigned long long)o->block, (unsigned long long)block,
           (unsigned long long)rounds, o->burst, o->stress.sleep, o->stress.between);
    fflush(stdout);
    /* Threads may still be asleep in there. */
    _exit(1);
}

static void run_combo(const struct options *o, struct world *world, unsigned combo,
                      struct tally *tally)
{
    uint64_t left = o->rounds;

    for (uint64_t block = o->first_block; left; block++) {
        struct world_config config = draw_config(o, combo, block);
        uint64_t rounds = left < o->block ? left : o->block;

        tally->blocks++;
        tally->burst_blocks += config.burst;
        world_start(world, &config);
        if (!stress_run(world, rounds, &o->stress, tally, stdout))
            fail(o, combo, block, rounds);
        world_stop(world);
        left -= rounds;
    }
}

int main(int argc, char **argv)
{
    struct options options;
    struct tally all = {0};
    struct world *world = NULL;
    double start = now();

    parse(&options, argc, argv);
    kit_require(!posix_memalign((void **)&world, 128, sizeof(*world)));
    world_memory_init(world);
    for (unsigned combo = 0; combo < COMBOS; combo++) {
        struct tally tally = {0};
        char name[COMBO_NAME];
        double began = now();

        if (!options.chosen[combo] || is_done(&options, combo))
            continue;
        run_combo(&options, world, combo, &tally);
        combo_name(combo, name);
        if (!options.quiet)
            tell(name, &tally, now() - began);
        set_done(&options, combo);
        add(&all, &tally);
    }
    tell("all", &all, now() - start);
    world_memory_free(world);
    free(world);
    return 0;
}
