/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A migration during which programs are killed: whatever was written to the guest's memory before a
 * crash or by what is done again after it must be in the dirty log.
 */
#include "crash.h"

#include <inttypes.h>
#include <string.h>

int begin_migration(struct world *world)
{
    int ret;

    if (sim_guest_log_start(world->guest))
        return fail(world, "%s", world->guest->session.error);
    ret = sim_precopy_new(world->guest, &world->precopy);
    return ret ? fail(world, "making room for the image: %s", strerror(-ret)) : 0;
}

int migrate(struct world *world)
{
    struct sim_precopy_count count;

    sim_precopy_collect(world->precopy, &count);
    sim_precopy_send(world->precopy, 0);
    return count.stray ? fail(world, "the dirty log has %" PRIu64 " pages that are no guest memory",
                              count.stray)
                       : 0;
}

int end_migration(struct world *world)
{
    uint64_t first, wrong;

    if (migrate(world))
        return -1;
    wrong = sim_memory_compare(world->mem, sim_precopy_image(world->precopy), &first);
    if (wrong)
        return fail(world, "%" PRIu64 " pages did not arrive; the first is at 0x%" PRIx64, wrong,
                    first);
    if (!sim_memory_compare(world->mem, sim_precopy_blind(world->precopy), &first))
        return fail(world, "all pages would have arrived without the dirty log as well");
    return 0;
}
