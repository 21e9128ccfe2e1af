/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * device-set-backend to another process on the same disk, while one of the two may be killed.
 */
#include "crash.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "sim/random.h"

#define SWAP_US  5000  /* about what a swap takes */
#define REACH_US 45000 /* about when svqd sees a back-end that connects to it */

enum { NOBODY, OLD, NEW };

struct killer {
    pid_t pid; /* 0: nobody */
    long us;
};

static void *kill_soon(void *opaque)
{
    const struct killer *killer = opaque;

    nanosleep(&(struct timespec){.tv_nsec = killer->us * 1000}, NULL);
    kill(killer->pid, SIGKILL);
    return NULL;
}

/* The command, with somebody dying beside it. Return: as sim_qmp_execute(). */
static int set_backend(struct world *world, const char *path, struct killer *killer)
{
    char address[160];
    pthread_t thread;
    json_t *result = NULL;
    long long us;
    int ret;

    if (killer->pid && pthread_create(&thread, NULL, kill_soon, killer))
        return fail(world, "starting a thread");
    snprintf(address, sizeof(address), "vhost-user:%s%s", world->options.listen ? "listen:" : "",
             path);
    ret = sim_qmp_execute(&world->qmp, "device-set-backend",
                          json_pack("{s:s, s:s}", "id", DEVICE, "backend", address), &result);
    if (killer->pid)
        pthread_join(thread, NULL);
    us = json_integer_value(json_object_get(result, "pause-microseconds"));
    json_decref(result);
    if (!ret && us <= 0)
        fail(world, "device-set-backend took no time");
    else if (!ret)
        world->tally.pause_us[world->tally.swapped++] = (uint32_t)us;
    return ret;
}

/* The one that is not needed any more; when it was killed that must be why it is gone. */
static int end_other(struct world *world, struct sim_child *child, bool killed)
{
    char how[128];

    /* One that has only just begun does not catch the signal yet. */
    if (!sim_child_stop(child, how, sizeof(how)) && !killed && !strstr(how, "signal 15"))
        return fail(world, "%s", how);
    return 0;
}

/* The new one is there, or will be soon. */
static void await_socket(const char *path)
{
    for (unsigned i = 0; i < 5000 && access(path, F_OK); i++)
        nanosleep(&(struct timespec){.tv_nsec = 1000 * 1000}, NULL);
}

int swap(struct world *world)
{
    unsigned who = sim_random_below(&world->random, 3) ? NOBODY : OLD;
    struct sim_child next = {.pid = 0};
    struct killer killer = {.pid = 0};
    char path[sizeof(world->backend)];
    int ret;

    if (who && sim_random_below(&world->random, 2))
        who = NEW;
    snprintf(path, sizeof(path), "%s/disk-%u.sock", world->dir, ++world->tally.swaps);
    if (start_ramdisk_at(world, &next, path))
        return -1;
    if (!world->options.listen)
        await_socket(path);
    killer.us = (long)sim_random_below(&world->random, SWAP_US);
    if (who == NEW && world->options.listen)
        killer.us = REACH_US + 4 * killer.us;
    killer.pid = who == OLD ? world->ramdisk.pid : who == NEW ? next.pid : 0;
    ret = set_backend(world, path, &killer);
    if (ret && (ret != -EREMOTEIO || !who))
        fail(world, "%s", world->qmp.error);
    if (ret) {
        if (end_other(world, &next, who == NEW))
            return -1;
    } else {
        if (end_other(world, &world->ramdisk, who == OLD))
            return -1;
        world->ramdisk = next;
        memcpy(world->backend, path, sizeof(path));
    }
    /* Is the one that serves now the one that was killed? */
    if (who == (ret ? OLD : NEW)) {
        sim_child_kill(&world->ramdisk);
        return start_ramdisk(world);
    }
    return check(world);
}
