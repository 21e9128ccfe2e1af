/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Switching the shadow while programs die: the command is given by a thread of its own, so that
 * they die in its middle.
 */
#include "crash.h"

#include <errno.h>
#include <time.h>

#include "sim/random.h"

#define SWITCH_US 4000 /* about what a switch takes */

/* Return: as sim_qmp_execute(). */
static int command(struct world *world, bool on)
{
    json_t *args = json_pack("{s:s, s:b}", "name", DEVICE, "enable", on);

    return sim_qmp_execute(&world->qmp, "x-vhost-enable-shadow-vq", args, NULL);
}

int switch_shadow(struct world *world)
{
    int ret = command(world, sim_random_below(&world->random, 2));

    /* A refusal is right when a peer is gone: svqd knows that better than we. */
    return ret && ret != -EREMOTEIO ? fail(world, "%s", world->qmp.error) : 0;
}

static void *run_command(void *opaque)
{
    struct switching *switching = opaque;

    switching->result = command(switching->world, switching->on);
    return NULL;
}

int switching_begin(struct world *world, struct switching *switching)
{
    *switching = (struct switching){.world = world, .on = sim_random_below(&world->random, 2)};
    if (world->options.mode != SWITCHING || sim_random_below(&world->random, 2))
        return 0;
    if (pthread_create(&switching->thread, NULL, run_command, switching))
        return fail(world, "starting a thread");
    switching->runs = true;
    nanosleep(
        &(struct timespec){.tv_nsec = 1000 * (long)sim_random_below(&world->random, SWITCH_US)},
        NULL);
    return 0;
}

int switching_end(struct switching *switching, bool svqd_died)
{
    if (!switching->runs)
        return 0;
    switching->runs = false;
    pthread_join(switching->thread, NULL);
    switching->world->tally.midway += switching->result != 0;
    if (!switching->result || switching->result == -EREMOTEIO || svqd_died)
        return 0;
    return fail(switching->world, "%s", switching->world->qmp.error);
}
