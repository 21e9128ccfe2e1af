/* SPDX-License-Identifier: BSD-3-Clause */
#include "demo.h"

#include <stdio.h>

#include "sim/clock.h"
#include "screen.h"

#define SLICE_MS 50

void demo_meter_start(struct demo *demo, struct demo_meter *meter)
{
    sim_blk_take_longest(demo->blk);
    sim_blk_stats(demo->blk, &meter->stats);
    meter->cpu = sim_child_cpu(&demo->svqd);
    meter->start = sim_now();
}

void demo_meter_read(struct demo *demo, const struct demo_meter *meter, struct demo_rate *rate)
{
    struct sim_blk_stats stats;

    sim_blk_stats(demo->blk, &stats);
    rate->seconds = (double)(sim_now() - meter->start) / 1e9;
    rate->bytes = (double)(stats.bytes - meter->stats.bytes) / rate->seconds;
    rate->requests = (double)(stats.requests - meter->stats.requests) / rate->seconds;
    rate->svqd_cpu = (double)(sim_child_cpu(&demo->svqd) - meter->cpu) / 1e6 / rate->seconds;
    rate->longest_us = sim_blk_take_longest(demo->blk);
}

int demo_wait(struct demo *demo, int ms, const char *what)
{
    uint64_t end = sim_now() + (uint64_t)ms * 1000000u;
    struct sim_blk_stats before, now;

    sim_blk_stats(demo->blk, &before);
    do {
        struct timespec slice = {.tv_nsec = SLICE_MS * 1000000};
        uint64_t left = end - sim_now();

        if (left < SLICE_MS * 1000000u)
            slice.tv_nsec = (long)left;
        nanosleep(&slice, NULL);
        if (demo_check(demo))
            return -1;
        sim_blk_stats(demo->blk, &now);
        demo_live("%s%6.0f MiB/s", what, (double)(now.bytes - before.bytes) / SLICE_MS / 1049);
        before = now;
    } while (sim_now() < end);
    return 0;
}

int demo_measure(struct demo *demo, int ms, struct demo_rate *rate)
{
    struct demo_meter meter;
    char cpu[48] = "";

    if (demo_wait(demo, demo->plan.warm_up, ""))
        return -1;
    demo_meter_start(demo, &meter);
    if (demo_wait(demo, ms, ""))
        return -1;
    demo_meter_read(demo, &meter, rate);
    if (!demo->options.direct)
        snprintf(cpu, sizeof(cpu), ", svqd uses %.0f %% of a CPU", rate->svqd_cpu * 100);
    demo_note("%6.0f MiB/s, %.0f requests/s%s", rate->bytes / 1048576, rate->requests, cpu);
    return 0;
}
