/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What instructions.py lets valgrind count: every way to use a relay, one after the other, the same
 * steps each time. The counts of each are dumped under its name and the number of buffers, for two
 * numbers of buffers: their difference is free of what a beginning costs.
 *
 * Usage: count_relay [SETUP...]
 */
#include <stdio.h>
#include <string.h>

#include <valgrind/callgrind.h>

#include "bench/relay.h"

#define RING       256u
#define CHAIN      4u /* descriptors, where there are several */
#define SHORT_LAPS 1u
#define LONG_LAPS  3u

static int count_laps(struct bench_world *world, const char *name, unsigned batch, unsigned laps)
{
    char label[100];

    CALLGRIND_ZERO_STATS;
    for (unsigned i = 0; i < laps; i++)
        if (bench_world_lap(world, batch))
            return -1;
    snprintf(label, sizeof(label), "%s, %u buffers", name,
             laps * bench_world_lap_buffers(world, batch));
    CALLGRIND_DUMP_STATS_AT(label);
    return 0;
}

static int count_case(const struct relay_setup *setup, enum relay_pair pair, unsigned batch,
                      bool log)
{
    struct bench_world_config config = relay_world_config(setup, pair);
    struct bench_world *world;
    char name[80];
    int err;

    config.num = RING;
    config.shape.descs = setup->chained ? CHAIN : 1;
    config.log = log;
    snprintf(name, sizeof(name), "%s %s, batch %u, log %s", setup->name, relay_pair_names[pair],
             batch, log ? "on" : "off");
    err = bench_world_new(&config, &world);
    if (err) {
        fprintf(stderr, "count_relay: %s: %s\n", name, strerror(-err));
        return -1;
    }
    /* The first lap is another one: nothing has been used yet. */
    err = bench_world_lap(world, batch);
    if (!err)
        err = count_laps(world, name, batch, SHORT_LAPS);
    if (!err)
        err = count_laps(world, name, batch, LONG_LAPS);
    if (err)
        fprintf(stderr, "count_relay: %s: %s\n", name, bench_world_trouble(world));
    bench_world_free(world);
    return err;
}

static int count_setup(const struct relay_setup *setup)
{
    static const unsigned batches[] = {1, 32};

    for (unsigned pair = 0; pair < RELAY_PAIRS; pair++)
        for (unsigned b = 0; b < 2; b++)
            for (unsigned log = 0; log < 2; log++)
                if (count_case(setup, pair, batches[b], log))
                    return -1;
    return 0;
}

static bool named(const char *name, char **names)
{
    bool any = !*names;

    for (; *names && !any; names++)
        any = !strcmp(*names, name);
    return any;
}

int main(int argc, char **argv)
{
    (void)argc;
    for (unsigned i = 0; i < RELAY_SETUPS; i++)
        if (named(relay_setups[i].name, argv + 1) && count_setup(&relay_setups[i]))
            return 1;
    return 0;
}
