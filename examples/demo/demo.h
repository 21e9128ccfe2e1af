/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The demo's world: the programs that run, the guest between them, and what was measured.
 *
 *      guest simulator  <-- vhost-user -->  svqd  <-- vhost-user -->  svq-ramdisk
 *      (this program)                         ^
 *                 '------------- QMP ---------'
 */
#ifndef DEMO_DEMO_H
#define DEMO_DEMO_H

#include <stdbool.h>
#include <stdint.h>

#include "sim/blk.h"
#include "sim/child.h"
#include "sim/folder.h"
#include "sim/guest.h"
#include "sim/precopy.h"
#include "sim/qmp.h"

#define DEMO_DEVICE   "disk0"
#define DEMO_SWITCHES 10000 /* at most */
#define DEMO_CRASHES  200   /* at most */

struct demo_options {
    const char *svqd;
    const char *ramdisk;
    const char *backend; /* socket of a back-end that runs already, or NULL */
    bool direct;         /* no svqd */
    bool quick;
    bool packed; /* the guest's rings */
    bool keep;   /* the temporary directory */
    unsigned queues;
    unsigned memory_mib;
    unsigned disk_mib;
    unsigned switches;
    uint64_t seed;
};

/* How long the parts take, in milliseconds. */
struct demo_plan {
    int warm_up;
    int measure;
    int pause; /* between two switches, on average */
    int log;   /* pre-copy goes on for at least so long */
    int destination;
    unsigned blow;    /* load between two crashes, on average */
    unsigned crashes; /* how many, each */
    unsigned swaps;
    unsigned svqd_crashes;
};

/* Crashes, or swaps: how long each took. */
struct demo_crashes {
    unsigned count;
    uint32_t us[DEMO_CRASHES];
    uint64_t again; /* requests in flight, done again */
};

/* I/O over some time. */
struct demo_rate {
    double seconds; /* 0: not measured */
    double bytes;   /* per second */
    double requests;
    double svqd_cpu;     /* 1.0 is one CPU */
    uint64_t longest_us; /* that one request took */
};

struct demo_results {
    struct demo_rate pass_through;
    struct demo_rate shadow;
    struct demo_rate logging;
    struct demo_rate destination;
    unsigned switches;
    uint32_t switch_us[DEMO_SWITCHES];
    uint64_t switching_longest_us;
    struct demo_crashes backend_crashes;
    struct demo_crashes swaps;
    struct demo_crashes svqd_crashes;
    unsigned rounds;
    uint64_t pages;       /* of guest memory */
    uint64_t sent;        /* pages, in all rounds */
    uint64_t device_only; /* of these, written by the device alone */
    uint64_t blind;       /* pages that would have arrived wrong without the dirty log */
    uint64_t downtime_us;
    unsigned travelled; /* requests in flight that moved along */
    uint64_t checked;   /* sectors read back at the end */
};

struct demo {
    struct demo_options options;
    struct demo_plan plan;
    char dir[SIM_FOLDER_MAX];
    uint64_t random;
    int disk_fd;             /* what is on the disk, whoever serves it */
    char backend_path[112];  /* where the back-end listens */
    char frontend_path[112]; /* where the guest connects */
    char qmp_path[96];
    struct sim_child svqd;
    struct sim_child ramdisk;
    struct sim_qmp qmp;
    bool has_qmp;
    struct sim_memory *mem;
    struct sim_guest *guest;
    struct sim_disk *disk;
    struct sim_blk *blk;
    struct sim_precopy *precopy;
    struct demo_results results;
    char error[400]; /* why it failed; the first reason stays */
};

/* ---- world.c: all return 0, or -1 with demo->error set ----------------------------------- */

/* Note why the demo fails. Return: -1. */
int demo_fail(struct demo *demo, const char *format, ...) __attribute__((format(printf, 2, 3)));

/* Start the programs, connect the guest, start its I/O. */
int demo_open(struct demo *demo);
/* End and remove everything, whatever there is. Return: -1 if a program did not end well. */
int demo_close(struct demo *demo);

/* The guest's device from connecting to the first request; again after a migration. */
int demo_start_device(struct demo *demo);

/* Programs, when one has been killed or another is wanted; both listen when this returns. */
int demo_start_ramdisk(struct demo *demo, struct sim_child *child, const char *socket);
int demo_start_svqd(struct demo *demo);

/* Is everybody well, and has nobody pressed Ctrl-C? */
int demo_check(struct demo *demo);
/* The end of what programs have printed, after a failure. */
void demo_show_logs(const struct demo *demo);

/* ---- control.c: svqd by QMP ---------------------------------------------------------------- */

struct demo_device {
    char mode[16];
    char logging[16];
    uint64_t switches;
    bool last_shadow;
    uint64_t last_us;
    char last_error[160]; /* empty: none */
    bool safe;            /* crash-safe */
    char unsafe[160];     /* why not */
};

int demo_query(struct demo *demo, struct demo_device *device);
int demo_set_shadow(struct demo *demo, bool enable);
/* Go on with the back-end that listens there; how long was the guest's I/O paused? */
int demo_set_backend(struct demo *demo, const char *path, uint64_t *us);
/* The device must be in this mode now. */
int demo_expect_mode(struct demo *demo, const char *mode, const char *when);

/* ---- meter.c ------------------------------------------------------------------------------- */

struct demo_meter {
    uint64_t start;
    uint64_t cpu;
    struct sim_blk_stats stats;
};

void demo_meter_start(struct demo *demo, struct demo_meter *meter);
void demo_meter_read(struct demo *demo, const struct demo_meter *meter, struct demo_rate *rate);

/* Let I/O run for so long, watching it. `what` shows beside the live figures. */
int demo_wait(struct demo *demo, int ms, const char *what);
/* The same, measured, and a line that says what came out. */
int demo_measure(struct demo *demo, int ms, struct demo_rate *rate);

/* ---- The steps ----------------------------------------------------------------------------- */

int demo_switching(struct demo *demo);       /* switching.c */
int demo_backend_crashes(struct demo *demo); /* crashes.c */
int demo_swaps(struct demo *demo);
int demo_svqd_crashes(struct demo *demo);
int demo_migration(struct demo *demo); /* migration.c */
int demo_destination(struct demo *demo);
void demo_table(struct demo *demo); /* table.c */

#endif
