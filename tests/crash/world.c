/* SPDX-License-Identifier: BSD-3-Clause */
#include "crash.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sim/clock.h"
#include "sim/random.h"

#define QUEUES     4
#define QUEUE_SIZE 128
#define DEPTH      32
#define DISK_MIB   16
#define MEMORY     (UINT64_C(48) << 20)
#define WAIT_MS    20000
#define STEPS_MAX  4000
#define LOG_TAIL   4000 /* bytes */

int fail(struct world *world, const char *format, ...)
{
    va_list args;

    /* The first reason stays, whichever thread has it. */
    if (atomic_exchange(&world->failed, true))
        return -1;
    va_start(args, format);
    vsnprintf(world->error, sizeof(world->error), format, args);
    va_end(args);
    return -1;
}

int check(struct world *world)
{
    char how[128];

    if (sim_child_ended(&world->svqd, how, sizeof(how)))
        return fail(world, "%s", how);
    if (!world->options.steps && sim_child_ended(&world->ramdisk, how, sizeof(how)))
        return fail(world, "%s", how);
    if (atomic_load(&world->failed))
        return -1;
    for (unsigned i = 0; i < QUEUES; i++) {
        if (sim_guest_queue_error(world->guest, i))
            return fail(world, "queue %u: the device reports an error", i);
    }
    return sim_blk_error(world->blk) ? fail(world, "%s", sim_blk_error(world->blk)) : 0;
}

/* ---- Programs ------------------------------------------------------------------------------ */

static int start(struct world *world, struct sim_child *child, const char *name,
                 const char *const *argv)
{
    char log[128];
    int ret;

    snprintf(log, sizeof(log), "%s/%s.log", world->dir, name);
    ret = sim_child_start(child, name, (char *const *)argv, log);
    return ret ? fail(world, "starting %s: %s", argv[0], strerror(-ret)) : 0;
}

int start_ramdisk_at(struct world *world, struct sim_child *child, const char *path)
{
    const struct options *options = &world->options;
    char size[16], queues[16], delay[16], steps[24];
    const char *argv[20] = {options->ramdisk,
                            options->listen ? "--connect" : "--socket",
                            path,
                            "--file",
                            world->file,
                            "--size",
                            size,
                            "--queues",
                            queues,
                            "--delay-us",
                            delay};
    unsigned count = 11;

    snprintf(size, sizeof(size), "%u", DISK_MIB);
    snprintf(queues, sizeof(queues), "%u", QUEUES);
    snprintf(delay, sizeof(delay), "%u", options->delay_us);
    if (atomic_load(&world->minding)) {
        uint64_t few = sim_random_below(&world->step_random, 2) ? 40 : STEPS_MAX;

        snprintf(steps, sizeof(steps), "%llu",
                 1 + (unsigned long long)sim_random_below(&world->step_random, few));
        argv[count++] = "--crash-after";
        argv[count++] = steps;
    }
    return start(world, child, "svq-ramdisk", argv);
}

int start_ramdisk(struct world *world)
{
    return start_ramdisk_at(world, &world->ramdisk, world->backend);
}

static void *run_minder(void *opaque)
{
    struct world *world = opaque;
    char how[128];

    while (atomic_load(&world->minding)) {
        pthread_mutex_lock(&world->lock);
        if (!world->ramdisk.pid) {
            start_ramdisk(world);
        } else if (sim_child_ended(&world->ramdisk, how, sizeof(how))) {
            atomic_fetch_add(&world->tally.backends, 1);
            if (!strstr(how, "signal 9"))
                fail(world, "%s", how);
        }
        pthread_mutex_unlock(&world->lock);
        nanosleep(&(struct timespec){.tv_nsec = 500 * 1000}, NULL);
    }
    pthread_mutex_lock(&world->lock);
    /* It dies with the thread that started it. */
    sim_child_kill(&world->ramdisk);
    pthread_mutex_unlock(&world->lock);
    return NULL;
}

int mind(struct world *world)
{
    sim_child_kill(&world->ramdisk);
    atomic_store(&world->minding, true);
    if (!pthread_create(&world->minder, NULL, run_minder, world))
        return 0;
    atomic_store(&world->minding, false);
    return fail(world, "starting a thread");
}

int mind_no_more(struct world *world)
{
    if (!atomic_exchange(&world->minding, false))
        return 0;
    pthread_join(world->minder, NULL);
    return start_ramdisk(world);
}

int start_svqd(struct world *world)
{
    const struct options *options = &world->options;
    char device[500];
    const char *argv[] = {options->svqd,   "--device",    device, "--qmp",
                          world->qmp_path, "--log-level", "info", NULL};

    snprintf(device, sizeof(device),
             "id=" DEVICE ",frontend=%s,backend=vhost-user:%s%s,shadow=%s,reconnect=0.1%s",
             world->frontend, options->listen ? "listen:" : "", world->backend,
             options->mode == SHADOW ? "on" : "auto",
             /* Not to wait so long for a new one that was killed before it was there. */
             options->mode == SWAPPING ? ",message-timeout=2" : "");
    sim_qmp_close(&world->qmp);
    if (start(world, &world->svqd, "svqd", argv))
        return -1;
    /* Of a killed one the socket is still there: nobody answers there. */
    if (sim_qmp_connect(&world->qmp, world->qmp_path, WAIT_MS))
        return check(world) ? -1 : fail(world, "%s", world->qmp.error);
    return 0;
}

/* ---- svqd ---------------------------------------------------------------------------------- */

/* The device in query-devices; a new reference. */
static json_t *query(struct world *world)
{
    json_t *devices = NULL, *device;

    if (sim_qmp_execute(&world->qmp, "query-devices", NULL, &devices)) {
        fail(world, "%s", world->qmp.error);
        return NULL;
    }
    device = json_incref(json_array_get(devices, 0));
    json_decref(devices);
    if (!device)
        fail(world, "query-devices shows no device");
    return device;
}

int expect_mode(struct world *world)
{
    const char *wanted = world->options.mode == SHADOW ? "shadow" : "pass-through";
    const char *mode, *why;
    json_t *device, *safe;

    if (world->options.mode == DIRECT)
        return 0;
    device = query(world);
    if (!device)
        return -1;
    mode = json_string_value(json_object_get(device, "mode"));
    safe = json_object_get(device, "crash-safe");
    why = json_string_value(json_object_get(safe, "reason"));
    if (!mode || strcmp(mode, wanted) != 0)
        fail(world, "the device is in mode %s instead of %s", mode ? mode : "?", wanted);
    else if (!json_is_true(json_object_get(safe, "safe")))
        fail(world, "svqd says that the device is not crash-safe: %s", why ? why : "?");
    json_decref(device);
    return atomic_load(&world->failed) ? -1 : 0;
}

/* ---- The guest ----------------------------------------------------------------------------- */

static int make_guest(struct world *world)
{
    const struct options *options = &world->options;
    const struct sim_guest_config guest = {
        .queues = QUEUES,
        .queue_size = QUEUE_SIZE,
        .features = SVQ_BIT(SVQ_F_EVENT_IDX) | SVQ_BIT(SVQ_F_INDIRECT_DESC) |
                    SVQ_BIT(SIM_BLK_F_FLUSH) | SVQ_BIT(SIM_BLK_F_MQ) |
                    (options->packed ? SVQ_BIT(SVQ_F_RING_PACKED) : 0),
        .mem_slots = true,
    };
    const struct sim_blk_config blk = {
        .depth = DEPTH, .max_bytes = 16384, .stall_ms = 30000, .seed = options->seed};
    int ret = sim_memory_new(MEMORY / 2, MEMORY / 2, &world->mem);

    if (!ret)
        ret = sim_guest_new(&guest, world->mem, &world->guest);
    if (!ret)
        ret = sim_disk_new(((uint64_t)DISK_MIB << 20) / SIM_SECTOR, options->seed, &world->disk);
    if (!ret)
        ret = sim_blk_new(&blk, world->guest, world->disk, &world->blk);
    return ret ? fail(world, "making a guest: %s", strerror(-ret)) : 0;
}

static int start_guest(struct world *world)
{
    if (sim_guest_connect(world->guest, world->frontend, WAIT_MS) || sim_guest_start(world->guest))
        return fail(world, "%s", world->guest->session.error);
    if (world->guest->inflight.fd < 0)
        return fail(world, "the device keeps no in-flight region");
    if (sim_blk_run(world->blk))
        return fail(world, "the guest's threads do not start");
    world->running = true;
    return 0;
}

int world_open(struct world *world)
{
    int ret;

    world->qmp.sock = -1;
    world->random = world->options.seed;
    world->step_random = ~world->options.seed;
    pthread_mutex_init(&world->lock, NULL);
    ret = sim_folder_make(world->dir, "svq-crash");
    if (ret)
        return fail(world, "making a folder: %s", strerror(-ret));
    snprintf(world->frontend, sizeof(world->frontend), "%s/guest.sock", world->dir);
    snprintf(world->backend, sizeof(world->backend), "%s/disk.sock", world->dir);
    snprintf(world->qmp_path, sizeof(world->qmp_path), "%s/qmp.sock", world->dir);
    snprintf(world->file, sizeof(world->file), "%s/disk.raw", world->dir);
    if (world->options.mode == DIRECT)
        strcpy(world->frontend, world->backend);
    if (make_guest(world))
        return -1;
    ret = start_ramdisk(world);
    if (!ret && world->options.mode != DIRECT)
        ret = start_svqd(world);
    return ret ? ret : start_guest(world);
}

/* ---- The end ------------------------------------------------------------------------------- */

static void show_log(const char *path)
{
    FILE *file = path[0] ? fopen(path, "r") : NULL;
    char text[LOG_TAIL + 1];
    size_t len;

    if (!file)
        return;
    if (fseek(file, -LOG_TAIL, SEEK_END))
        rewind(file);
    len = fread(text, 1, LOG_TAIL, file);
    text[len] = '\0';
    fclose(file);
    fprintf(stderr, "---- the end of %s\n%s\n", path, text);
}

int world_close(struct world *world)
{
    char how[128];

    if (atomic_exchange(&world->minding, false))
        pthread_join(world->minder, NULL);
    if (world->blk)
        sim_blk_free(world->blk);
    if (world->guest)
        sim_guest_free(world->guest);
    sim_qmp_close(&world->qmp);
    if (!sim_child_stop(&world->svqd, how, sizeof(how)))
        fail(world, "%s", how);
    if (!sim_child_stop(&world->ramdisk, how, sizeof(how)))
        fail(world, "%s", how);
    sim_precopy_free(world->precopy);
    sim_disk_free(world->disk);
    sim_memory_free(world->mem);
    if (atomic_load(&world->failed)) {
        show_log(world->svqd.log);
        show_log(world->ramdisk.log);
    }
    if (world->options.keep)
        fprintf(stderr, "kept: %s\n", world->dir);
    else
        sim_folder_remove(world->dir);
    return atomic_load(&world->failed) ? -1 : 0;
}
