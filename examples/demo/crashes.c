/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a guest should not notice: its back-end is killed, its back-end is exchanged for another
 * process, svqd is killed. Each again and again, under full load.
 */
#include "demo.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "sim/clock.h"
#include "sim/random.h"
#include "screen.h"

#define PROGRESS_MS 15000

static double ms(uint32_t us)
{
    return us / 1000.0;
}

/* Nothing was lost up to here. */
static int verify(struct demo *demo)
{
    uint64_t checked = demo->disk->sectors;

    demo_live("reading the whole disk back");
    if (sim_blk_finish(demo->blk) || sim_blk_scan(demo->blk) || sim_blk_run(demo->blk))
        return demo_check(demo) ? -1 : demo_fail(demo, "the guest's threads do not start");
    if (demo_check(demo))
        return -1;
    demo_note("no error; all %" PRIu64 " sectors of the disk read back and right", checked);
    return 0;
}

/* Some load between two blows, so that they hit requests in flight. */
static int let_run(struct demo *demo)
{
    struct timespec pause = {
        .tv_nsec = 1000000 * (long)(10 + sim_random_below(&demo->random, 2 * demo->plan.blow))};

    nanosleep(&pause, NULL);
    return demo_check(demo);
}

/* Until the guest's disk answers again. Return: -1 when it does not. */
static int await_request(struct demo *demo)
{
    uint64_t start = sim_now();
    struct sim_blk_stats before, now;

    sim_blk_stats(demo->blk, &before);
    do {
        nanosleep(&(struct timespec){.tv_nsec = 200 * 1000}, NULL);
        if (demo_check(demo))
            return -1;
        if (sim_now() - start > PROGRESS_MS * UINT64_C(1000000))
            return demo_fail(demo, "no request completes any more");
        sim_blk_stats(demo->blk, &now);
    } while (now.requests == before.requests);
    return 0;
}

/* ---- The back-end -------------------------------------------------------------------------- */

/* Without svqd the guest's VMM sees the crash, and hands its in-flight region to the next one. */
static int recover_directly(struct demo *demo, uint64_t killed, struct demo_crashes *crashes)
{
    int in_flight = sim_guest_in_flight(demo->guest);

    if (sim_guest_reconnect(demo->guest, demo->frontend_path, PROGRESS_MS))
        return demo_fail(demo, "%s", demo->guest->session.error);
    crashes->again += in_flight > 0 ? (unsigned)in_flight : 0;
    crashes->us[crashes->count] = (uint32_t)((sim_now() - killed) / 1000);
    return 0;
}

static int await_recovery(struct demo *demo, struct demo_crashes *crashes)
{
    json_t *event, *data;

    if (sim_qmp_wait_event(&demo->qmp, "DEVICE_BACKEND_RECOVERED", &event))
        return demo_fail(demo, "%s", demo->qmp.error);
    data = json_object_get(event, "data");
    crashes->us[crashes->count] =
        (uint32_t)json_integer_value(json_object_get(data, "microseconds"));
    crashes->again += (uint64_t)json_integer_value(json_object_get(data, "resubmitted"));
    json_decref(event);
    return crashes->us[crashes->count] ? 0 : demo_fail(demo, "svqd says that it took no time");
}

static int kill_backend(struct demo *demo, struct demo_crashes *crashes)
{
    uint64_t killed = sim_now();

    if (sim_child_kill(&demo->ramdisk))
        return demo_fail(demo, "svq-ramdisk ended before it was killed");
    if (demo_start_ramdisk(demo, &demo->ramdisk, demo->backend_path))
        return -1;
    if (demo->options.direct ? recover_directly(demo, killed, crashes)
                             : await_recovery(demo, crashes))
        return -1;
    crashes->count++;
    return await_request(demo);
}

static int compare(const void *a, const void *b)
{
    uint32_t left = *(const uint32_t *)a, right = *(const uint32_t *)b;

    return left < right ? -1 : left > right;
}

static void sort(struct demo_crashes *crashes)
{
    qsort(crashes->us, crashes->count, sizeof(crashes->us[0]), compare);
}

/* The last half of the times in the other mode. */
static int change_mode(struct demo *demo)
{
    if (demo->options.direct)
        return 0;
    return demo_set_shadow(demo, true) || demo_expect_mode(demo, "shadow", "After switching on")
               ? -1
               : 0;
}

int demo_backend_crashes(struct demo *demo)
{
    struct demo_crashes *crashes = &demo->results.backend_crashes;
    unsigned all = demo->plan.crashes;

    demo_step("back-end dies");
    for (unsigned i = 0; i < all; i++) {
        if (i == all / 2 && change_mode(demo))
            return -1;
        if (let_run(demo) || kill_backend(demo, crashes))
            return -1;
        demo_live("%u of %u, back after %.1f ms", i + 1, all, ms(crashes->us[i]));
    }
    sort(crashes);
    if (!crashes->again)
        return demo_fail(demo, "no request was in flight at any crash: this proves nothing");
    if (!demo->options.direct && demo_set_shadow(demo, false))
        return -1;
    demo_note("kill -9 %u times%s: outage median %.1f ms, longest %.1f ms", all,
              demo->options.direct ? "" : " (half of them shadowed)", ms(crashes->us[all / 2]),
              ms(crashes->us[all - 1]));
    demo_note("%" PRIu64 " requests that were in flight were done again by the next one",
              crashes->again);
    return verify(demo);
}

/* ---- Another back-end ---------------------------------------------------------------------- */

static int swap_once(struct demo *demo, unsigned number, struct demo_crashes *swaps)
{
    struct sim_child next = {.pid = 0};
    char path[sizeof(demo->backend_path)], how[128];
    uint64_t us;

    snprintf(path, sizeof(path), "%s/ramdisk-%u.sock", demo->dir, number);
    if (demo_start_ramdisk(demo, &next, path))
        return -1;
    if (demo_set_backend(demo, path, &us)) {
        sim_child_stop(&next, how, sizeof(how));
        return -1;
    }
    /* The old one is not needed any more, and must have survived. */
    if (!sim_child_stop(&demo->ramdisk, how, sizeof(how)))
        return demo_fail(demo, "%s", how);
    demo->ramdisk = next;
    memcpy(demo->backend_path, path, sizeof(path));
    swaps->us[swaps->count++] = (uint32_t)us;
    return await_request(demo);
}

int demo_swaps(struct demo *demo)
{
    struct demo_crashes *swaps = &demo->results.swaps;
    unsigned all = demo->plan.swaps;

    demo_step("swap");
    for (unsigned i = 0; i < all; i++) {
        if (let_run(demo) || swap_once(demo, i, swaps))
            return -1;
        demo_live("%u of %u, paused for %.2f ms", i + 1, all, ms(swaps->us[i]));
    }
    sort(swaps);
    demo_note("%u times to a new process: pause median %.1f ms, longest %.1f ms", all,
              ms(swaps->us[all / 2]), ms(swaps->us[all - 1]));
    return verify(demo);
}

/* ---- svqd ---------------------------------------------------------------------------------- */

static int kill_svqd(struct demo *demo, struct demo_crashes *crashes)
{
    uint64_t killed = sim_now();
    int in_flight;

    if (sim_child_kill(&demo->svqd))
        return demo_fail(demo, "svqd ended before it was killed");
    in_flight = sim_guest_in_flight(demo->guest);
    if (demo_start_svqd(demo))
        return -1;
    if (sim_guest_reconnect(demo->guest, demo->frontend_path, PROGRESS_MS))
        return demo_check(demo) ? -1 : demo_fail(demo, "%s", demo->guest->session.error);
    if (await_request(demo))
        return -1;
    crashes->us[crashes->count++] = (uint32_t)((sim_now() - killed) / 1000);
    crashes->again += in_flight > 0 ? (unsigned)in_flight : 0;
    return 0;
}

int demo_svqd_crashes(struct demo *demo)
{
    struct demo_crashes *crashes = &demo->results.svqd_crashes;
    unsigned all = demo->plan.svqd_crashes;
    struct demo_device device;

    demo_step("svqd dies");
    if (demo_query(demo, &device))
        return -1;
    if (!device.safe) {
        demo_note("not with this back-end: %s", device.unsafe);
        return demo->options.backend ? 0 : demo_fail(demo, "not crash-safe: %s", device.unsafe);
    }
    for (unsigned i = 0; i < all; i++) {
        /* A new svqd begins in pass-through. */
        if (i % 2 && change_mode(demo))
            return -1;
        if (let_run(demo) || kill_svqd(demo, crashes))
            return -1;
        demo_live("%u of %u, back after %.1f ms", i + 1, all, ms(crashes->us[i]));
    }
    sort(crashes);
    if (!crashes->again)
        return demo_fail(demo, "no request was in flight at any crash: this proves nothing");
    demo_note("kill -9 %u times (half of them shadowed): outage median %.1f ms, longest %.1f ms",
              all, ms(crashes->us[all / 2]), ms(crashes->us[all - 1]));
    demo_note("%" PRIu64 " requests were in flight by the region that the VMM keeps",
              crashes->again);
    return verify(demo);
}
