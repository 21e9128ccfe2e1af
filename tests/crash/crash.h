/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The crash test's world: a simulated guest that verifies every byte, svqd, svq-ramdisk on a file;
 * and what is done to them.
 */
#ifndef CRASH_CRASH_H
#define CRASH_CRASH_H

#include <pthread.h>
#include <stdatomic.h>
#include <stdbool.h>
#include <stdint.h>

#include "sim/blk.h"
#include "sim/child.h"
#include "sim/folder.h"
#include "sim/guest.h"
#include "sim/precopy.h"
#include "sim/qmp.h"

#define DEVICE    "disk0"
#define MAX_KILLS 100000

enum mode { DIRECT, PASS_THROUGH, SHADOW, SWITCHING, MIGRATING, SWAPPING };
enum victim { BACKEND, SVQD, BOTH, ANY };

struct options {
    const char *svqd;
    const char *ramdisk;
    enum mode mode; /* DIRECT: no svqd */
    enum victim victim;
    bool packed;
    bool listen; /* svqd listens for its back-end */
    bool steps;  /* the back-end dies at chosen steps instead of at chosen times */
    bool keep;
    unsigned kills;
    unsigned delay_us;
    uint64_t seed;
};

struct tally {
    unsigned kills;
    atomic_uint backends; /* killed */
    unsigned svqds;
    unsigned frozen; /* survivors, for a while */
    unsigned midway; /* switches that failed, since somebody died in their middle */
    unsigned swaps;
    unsigned swapped;  /* the others were refused: one of the two back-ends was killed */
    unsigned verified; /* times that the whole disk was read back */
    unsigned retried;  /* connections of the guest that broke while they began */
    uint64_t in_flight;
    uint32_t outage_us[MAX_KILLS]; /* from a kill to the next completion */
    unsigned outages;
    uint32_t pause_us[MAX_KILLS]; /* of a swap, as svqd says */
};

struct world {
    struct options options;
    uint64_t random;
    char dir[SIM_FOLDER_MAX];
    char frontend[112]; /* where the guest connects */
    char backend[112];
    char qmp_path[112];
    char file[112];
    struct sim_child svqd;
    pthread_mutex_t lock; /* for the back-end and its fate */
    struct sim_child ramdisk;
    uint64_t step_random;
    atomic_bool minding; /* there is a thread that starts it again whenever it has killed itself */
    pthread_t minder;
    struct sim_qmp qmp;
    struct sim_memory *mem;
    struct sim_guest *guest;
    struct sim_disk *disk;
    struct sim_blk *blk;
    struct sim_precopy *precopy;
    bool running; /* the guest's threads */
    struct tally tally;
    atomic_bool failed;
    char error[500]; /* the first reason */
};

/* All return 0, or -1 with world->error. One thread, but for fail(). */

int fail(struct world *world, const char *format, ...) __attribute__((format(printf, 2, 3)));

int world_open(struct world *world);
/* Ends everything; shows logs after a failure. Return: -1 if a program did not end well. */
int world_close(struct world *world);

int start_ramdisk(struct world *world); /* with the lock held, if there is a minder */
int start_ramdisk_at(struct world *world, struct sim_child *child, const char *path);
int start_svqd(struct world *world);

/* Is nothing wrong? A back-end that dies by itself is none, if it was told to. */
int check(struct world *world);

/* With --steps: the back-end may kill itself any time, and is started again. */
int mind(struct world *world);
/* Not any more: from now on there is one that lives. */
int mind_no_more(struct world *world);

/* svqd's view: the mode it is in, and whether it says that a crash is safe. */
int expect_mode(struct world *world);

/* Switch the shadow; a back-end that is not there now is no failure. */
int switch_shadow(struct world *world);

/* A switch during which somebody dies. */
struct switching {
    struct world *world;
    pthread_t thread;
    bool runs;
    bool on;
    int result;
};

/* Half of the times, and if that is what this test is about; it may be half done then. */
int switching_begin(struct world *world, struct switching *switching);
/* Once somebody has died. */
int switching_end(struct switching *switching, bool svqd_died);

/* Go on with another back-end; sometimes the old or the new one is killed meanwhile. */
int swap(struct world *world);

/* A live migration that goes on all the time: begin, a round of it, the end with a comparison. */
int begin_migration(struct world *world);
int migrate(struct world *world);
int end_migration(struct world *world);

#endif
