/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The shadow on and off, again and again, under full load.
 */
#include "demo.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/clock.h"
#include "sim/random.h"
#include "screen.h"

#define BAR 24

static int compare(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a;
    uint32_t right = *(const uint32_t *)b;

    return left < right ? -1 : left > right;
}

static void show_progress(unsigned done, unsigned all, const struct demo_device *device)
{
    char bar[BAR + 1];

    memset(bar, '.', BAR);
    memset(bar, '#', done * BAR / all);
    bar[BAR] = '\0';
    demo_live("[%s] %u of %u, %s after %" PRIu64 " us", bar, done, all, device->mode,
              device->last_us);
}

static int switch_once(struct demo *demo, bool shadow, struct demo_device *device)
{
    if (demo_set_shadow(demo, shadow) || demo_query(demo, device))
        return -1;
    if (strcmp(device->mode, shadow ? "shadow" : "pass-through") || device->last_shadow != shadow)
        return demo_fail(demo, "svqd was told to switch the shadow %s, but the mode is %s",
                         shadow ? "on" : "off", device->mode);
    return 0;
}

int demo_switching(struct demo *demo)
{
    struct demo_results *results = &demo->results;
    unsigned all = demo->options.switches;
    uint64_t random = demo->options.seed;
    struct demo_device device;

    demo_step("switching");
    sim_blk_take_longest(demo->blk);
    for (unsigned i = 0; i < all; i++) {
        uint64_t nap = sim_random_below(&random, 2 * (uint64_t)demo->plan.pause * 1000000u + 1);
        const struct timespec pause = {.tv_nsec = (long)nap};

        /* The last one switches off: it starts in the mode that an odd number leads away from. */
        if (switch_once(demo, (all - i) % 2 == 0, &device) || demo_check(demo))
            return -1;
        results->switch_us[i] = (uint32_t)device.last_us;
        results->switches++;
        show_progress(i + 1, all, &device);
        nanosleep(&pause, NULL);
    }
    results->switching_longest_us = sim_blk_take_longest(demo->blk);
    qsort(results->switch_us, results->switches, sizeof(results->switch_us[0]), compare);
    demo_note("%u times under load: median %" PRIu32 " us, slowest %" PRIu32 " us", all,
              results->switch_us[all / 2], results->switch_us[all - 1]);
    demo_note("no request took longer than %.1f ms", (double)results->switching_longest_us / 1000);
    return 0;
}
