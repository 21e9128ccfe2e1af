/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A live migration, with nothing but what a VMM has: its own tracking of what the CPUs write, and
 * the dirty log that it shares with the device.
 */
#include "demo.h"

#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "sim/clock.h"
#include "screen.h"

#define LINK_RATE   (UINT64_C(512) << 20) /* bytes per second */
#define DOWNTIME_MS 50                    /* the guest may stand still for so long */
#define ROUND_MS    50                    /* from one round to the next */
#define GIVE_UP_MS  20000

/* Collect and note what one round has to send. */
static int collect(struct demo *demo, struct sim_precopy_count *count)
{
    struct demo_results *results = &demo->results;

    sim_precopy_collect(demo->precopy, count);
    results->rounds++;
    results->sent += count->pages;
    /* In the first round it is all of memory. */
    if (results->rounds > 1)
        results->device_only += count->device_only;
    if (count->stray)
        return demo_fail(demo, "the dirty log has %" PRIu64 " pages that are no guest memory",
                         count->stray);
    return 0;
}

static void show_round(const struct demo *demo, const struct sim_precopy_count *count, bool stay)
{
    char text[128];

    snprintf(text, sizeof(text), "round %-3u %6" PRIu64 " pages, %" PRIu64 " by the device alone",
             demo->results.rounds, count->pages, count->device_only);
    if (stay)
        demo_note("%s", text);
    else
        demo_live("%s", text);
}

/*
 * Everything once, and then rounds until what is left can be sent while the guest stands still.
 * I/O is measured during the rounds, which leave most of the time to it.
 */
static int precopy(struct demo *demo)
{
    const uint64_t few = LINK_RATE / 1000 * DOWNTIME_MS / SIM_PAGE;
    struct sim_precopy_count count;
    struct demo_meter meter;
    uint64_t start;

    if (collect(demo, &count))
        return -1;
    show_round(demo, &count, true);
    sim_precopy_send(demo->precopy, LINK_RATE);

    start = sim_now();
    demo_meter_start(demo, &meter);
    for (;;) {
        uint64_t passed_ms;

        if (collect(demo, &count) || demo_check(demo))
            return -1;
        show_round(demo, &count, demo->results.rounds <= 3);
        passed_ms = (sim_now() - start) / 1000000;
        if (count.pages <= few && passed_ms >= (uint64_t)demo->plan.log)
            break;
        if (passed_ms > GIVE_UP_MS)
            return demo_fail(demo, "the migration does not converge: %" PRIu64 " pages are left",
                             count.pages);
        sim_precopy_send(demo->precopy, LINK_RATE);
        nanosleep(&(struct timespec){.tv_nsec = ROUND_MS * 1000000}, NULL);
    }
    demo_meter_read(demo, &meter, &demo->results.logging);
    return 0;
}

/* Stop the guest and its device, send the rest. */
static int complete(struct demo *demo)
{
    struct sim_precopy_count count;

    sim_blk_pause(demo->blk);
    if (demo_check(demo))
        return -1;
    if (sim_guest_stop(demo->guest))
        return demo_fail(demo, "stopping the device: %s", demo->guest->session.error);
    if (collect(demo, &count))
        return -1;
    show_round(demo, &count, true);
    sim_precopy_send(demo->precopy, 0);
    demo->results.travelled = sim_blk_in_flight(demo->blk);
    sim_guest_disconnect(demo->guest);
    return 0;
}

/* Nothing is left to chance: every page of both memories. */
static int compare_images(struct demo *demo)
{
    struct demo_results *results = &demo->results;
    uint64_t first = 0;
    uint64_t wrong = sim_memory_compare(demo->mem, sim_precopy_image(demo->precopy), &first);

    if (wrong)
        return demo_fail(
            demo, "%" PRIu64 " pages did not arrive as they were; the first is at 0x%" PRIx64,
            wrong, first);
    results->pages = sim_memory_size(demo->mem) / SIM_PAGE;
    results->blind = sim_memory_compare(demo->mem, sim_precopy_blind(demo->precopy), &first);
    if (!results->blind)
        return demo_fail(demo, "without the dirty log all pages would have arrived as well: "
                               "this migration proves nothing");
    demo_note("%sall %" PRIu64 " pages are equal%s; without the dirty log %" PRIu64
              " would be wrong",
              demo_colours.good, results->pages, demo_colours.off, results->blind);
    return 0;
}

/* Without svqd it is for the back-end to log; most cannot. */
static int expect_shadow(struct demo *demo)
{
    struct demo_device device;

    if (demo->options.direct)
        return 0;
    if (demo_query(demo, &device))
        return -1;
    if (!strcmp(device.logging, "off"))
        return demo_fail(demo, "logging is on, but svqd says that nobody logs");
    if (!strcmp(device.logging, "shadow") && strcmp(device.mode, "shadow"))
        return demo_fail(demo, "svqd says that the shadow logs, but the mode is %s", device.mode);
    demo_note("dirty log on: svqd went to mode \"%s\" by itself in %" PRIu64 " us", device.mode,
              device.last_us);
    return 0;
}

int demo_migration(struct demo *demo)
{
    int ret;

    demo_step("migration");
    if (sim_guest_log_start(demo->guest))
        return demo_fail(demo, "starting the dirty log: %s", demo->guest->session.error);
    if (expect_shadow(demo))
        return -1;
    ret = sim_precopy_new(demo->guest, &demo->precopy);
    if (ret)
        return demo_fail(demo, "making room for the migrated memory: %s", strerror(-ret));
    return precopy(demo);
}

/* The guest goes on in its copy: there what was in flight completes and is checked. */
int demo_destination(struct demo *demo)
{
    uint64_t stopped = sim_now();
    struct sim_memory *source = demo->mem;
    int ret;

    if (complete(demo))
        return -1;
    demo->results.downtime_us = (sim_now() - stopped) / 1000;
    if (compare_images(demo))
        return -1;
    stopped = sim_now();
    demo->mem = sim_precopy_take_image(demo->precopy);
    if (sim_guest_move(demo->guest, demo->mem))
        ret = demo_fail(demo, "%s", demo->guest->session.error);
    else
        ret = demo_start_device(demo);
    demo->results.downtime_us += (sim_now() - stopped) / 1000;
    sim_memory_free(source);
    if (ret)
        return ret;

    demo_step("destination");
    if (!demo->options.direct && demo_expect_mode(demo, "pass-through", "At the destination"))
        return -1;
    if (demo_measure(demo, demo->plan.destination, &demo->results.destination))
        return -1;
    if (sim_blk_finish(demo->blk) || sim_blk_scan(demo->blk))
        return demo_check(demo) ? -1 : demo_fail(demo, "the guest's threads do not start");
    demo->results.checked = demo->disk->sectors;
    demo_note("all %" PRIu64 " sectors of the disk read back and right", demo->results.checked);
    return sim_guest_stop(demo->guest) ? demo_fail(demo, "%s", demo->guest->session.error) : 0;
}
