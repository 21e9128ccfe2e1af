/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svq-bench relay. A case is one way to use a relay (a setup, a batch size, with or without log);
 * it is measured for all pairs of ring formats, which take turns in short slots.
 */
#ifndef SVQ_BENCH_RELAY_H
#define SVQ_BENCH_RELAY_H

#include <stdbool.h>
#include <stdio.h>

#include "clock.h"
#include "stats.h"
#include "world.h"

/* Guest's format first. */
enum relay_pair { PAIR_SPLIT_SPLIT, PAIR_SPLIT_PACKED, PAIR_PACKED_SPLIT, PAIR_PACKED_PACKED };
#define RELAY_PAIRS 4u

extern const char *const relay_pair_names[RELAY_PAIRS];

/* Features and chains. */
struct relay_setup {
    const char *name;
    const char *what;          /* for --help */
    uint64_t guest_features;   /* without RING_PACKED, which the pair adds */
    uint64_t backend_features; /* the same */
    bool chained;              /* several descriptors per chain */
    bool indirect;
    bool reverse;
    bool share; /* the back-end may read the guest's descriptors */
};

#define RELAY_SETUPS 9u
extern const struct relay_setup relay_setups[RELAY_SETUPS];

/*
 * Do all pairs do the same work? Descriptors are shared between split rings only: to hold the other
 * pairs against that one says nothing about how well they are done.
 */
static inline bool relay_pairs_alike(const struct relay_setup *setup)
{
    return !setup->share;
}

/* With one descriptor per chain, no log, and a ring whose size is for the caller to say. */
struct bench_world_config relay_world_config(const struct relay_setup *setup, enum relay_pair pair);

#define RELAY_LIST_MAX  8u
#define RELAY_SLOTS_MAX 10001u

struct relay_options {
    unsigned size;
    unsigned descriptors; /* of a chain, in setups that have several */
    unsigned batches[RELAY_LIST_MAX];
    unsigned batch_count;
    unsigned setups; /* bits, by position in relay_setups */
    unsigned pairs;  /* bits, by enum relay_pair */
    bool log_off;
    bool log_on;
    unsigned slots;
    unsigned slot_us;
    unsigned repeats; /* of disturbed slots, for each that counts */
    double max_spread;
    int cpu;       /* -1: the one it starts on */
    int relay_cpu; /* -1: the same */
    bool json;
    bool detail;
};

/* Return: -1 to go on, or an exit status. */
int relay_parse(int argc, char **argv, struct relay_options *options);

/* Of one pair in one case, per buffer. */
struct relay_figures {
    struct bench_world_config config;
    struct bench_world *world;
    double *forward; /* samples: ticks per buffer, one for each slot */
    double *back;
    struct bench_summary ns_forward, ns_back, ns_total;
    struct bench_summary ratio; /* to the fastest pair, slot by slot */
};

struct relay_case {
    const struct relay_setup *setup;
    unsigned descriptors;
    unsigned batch;
    bool log;
    struct relay_figures pairs[RELAY_PAIRS]; /* world NULL: not measured */
    unsigned fastest;                        /* a pair */
    bool noisy;
};

struct relay_run {
    const struct relay_options *options;
    struct bench_clock clock;
    struct bench_hand *hand; /* on relay_cpu; NULL: none */
    struct relay_case *cases;
    unsigned case_count;
    unsigned slots;     /* measured of each pair in each case */
    unsigned repeats;   /* slots may be repeated so often, all together */
    unsigned repeated;  /* were, since something else ran on this core meanwhile */
    unsigned disturbed; /* count all the same, since there were no repeats left */
    unsigned measured;  /* slots that count, disturbed or not */
    unsigned noisy_cases;
    bool noisy;                     /* no result */
    const struct relay_case *worst; /* where the slowest pair is farthest from the fastest; NULL:
                                       no case has pairs that are alike */
    unsigned worst_pair;
    double seconds;
};

void relay_print(const struct relay_run *run, FILE *out);
void relay_print_json(const struct relay_run *run, FILE *out);

#endif
