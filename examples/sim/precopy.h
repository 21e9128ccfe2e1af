/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Live migration of a guest's memory by pre-copy: everything once, then again and again what was
 * written meanwhile, by the guest's CPUs and, says the dirty log, by its device.
 *
 * Beside the image that arrives a second one, "blind", is kept: what would arrive if nobody had
 * logged what the device writes. A migration that proves something leaves it wrong.
 */
#ifndef SIM_PRECOPY_H
#define SIM_PRECOPY_H

#include <stdint.h>

#include "guest.h"

/* Pages of one collection. */
struct sim_precopy_count {
    uint64_t pages;       /* in all */
    uint64_t cpu;         /* written by CPUs */
    uint64_t device;      /* written by the device */
    uint64_t device_only; /* written by the device alone */
    uint64_t stray;       /* set in the dirty log where there is no memory */
};

struct sim_precopy;

/* From now on sim_precopy_collect() finds every page, then what is written. Return: 0 or -errno. */
int sim_precopy_new(struct sim_guest *guest, struct sim_precopy **out);
/* The images too, unless taken. */
void sim_precopy_free(struct sim_precopy *precopy);

/* What has become dirty since the last time; it waits to be sent. */
void sim_precopy_collect(struct sim_precopy *precopy, struct sim_precopy_count *count);

/*
 * Copy what was collected, at most so many bytes per second (0: as fast as it goes). A page that
 * becomes dirty meanwhile is collected the next time.
 */
void sim_precopy_send(struct sim_precopy *precopy, uint64_t bytes_per_second);

/* The image that arrives, and what would arrive without the dirty log. */
const struct sim_memory *sim_precopy_image(const struct sim_precopy *precopy);
const struct sim_memory *sim_precopy_blind(const struct sim_precopy *precopy);
/* The image becomes the caller's. */
struct sim_memory *sim_precopy_take_image(struct sim_precopy *precopy);

#endif
