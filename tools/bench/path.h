/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svq-bench path: guest, svqd and device as they are in life, on sockets of their own. Its parts
 * are files of their own, and each fills in its part of the report.
 */
#ifndef SVQ_BENCH_PATH_H
#define SVQ_BENCH_PATH_H

#include <stdbool.h>
#include <stdint.h>

#include <jansson.h>

#include "bars.h"
#include "stats.h"

enum path_part {
    PATH_THROUGHPUT = 1u << 0,
    PATH_LATENCY = 1u << 1,
    PATH_PAUSE = 1u << 2,
    PATH_SCALE = 1u << 3,
    PATH_BLOCK = 1u << 4,
    PATH_DPDK = 1u << 5,
};

#define PATH_LIST_MAX 8u
#define PATH_SAME_CPU (-2)

struct path_list {
    unsigned count;
    unsigned values[PATH_LIST_MAX];
};

struct path_options {
    unsigned parts; /* of enum path_part */
    bool split;
    bool packed;
    struct path_list queues;
    struct path_list batches;
    struct path_list sizes;
    bool sized;               /* sizes were given */
    struct path_list depths;  /* block: requests in flight */
    struct path_list devices; /* scale */
    unsigned ring_size;
    unsigned in_flight;
    bool in_order;
    bool event_idx;
    unsigned slots;
    unsigned slot_ms;
    unsigned drop_ms; /* at the beginning of each slot */
    unsigned repeats; /* of disturbed slots, for each that counts */
    unsigned switches;
    double max_spread;
    double max_apart; /* pass-through from direct */
    unsigned hop_ns;  /* round trip of a cache line to measure at; 0: find out */
    unsigned work_ns; /* of either end, for each buffer */
    bool spin;        /* measure MODE_SPIN, too */
    bool guest_polls; /* block: does not sleep */
    int ends_cpu;     /* -1: any; likewise below */
    int device_cpu;   /* PATH_SAME_CPU: in one thread with the guest */
    int worker_cpu;
    int backend_cpu;
    const char *poll_us; /* for svqd; NULL: the part's own choice */
    const char *svqd;
    const char *testpmd;
    const char *storage_daemon;
    const char *blk_socket; /* NULL: a storage daemon of our own */
    const char *json;
    const char *svg;
    uint64_t seed;
};

/* Return: -1 to go on, or an exit status. */
int path_parse(int argc, char **argv, struct path_options *options);

/* What comes out. */
struct path_report {
    const struct path_options *options;
    json_t *root;
    json_t *refusals; /* of the root: sentences that say why this is no result */
    struct bars bars;
};

/* This is no result. */
void path_refuse(struct path_report *report, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Somebody wants us to end (SIGINT, SIGTERM): an orderly end is a matter of a second. */
bool path_interrupted(void);
/* Could not measure. Return: false. */
bool path_fail(const char *part, const char *error);

json_t *path_summary_json(const struct bench_summary *summary);

/* The parts. Return: false: could not measure, and has said why. */
bool path_throughput(struct path_report *report);
bool path_latency(struct path_report *report);
bool path_pause(struct path_report *report);
bool path_scale(struct path_report *report);
bool path_block(struct path_report *report);
bool path_dpdk(struct path_report *report);

/* ---- Modes ----------------------------------------------------------------------------------- */

/* How guest and device are connected. */
enum path_mode {
    MODE_DIRECT, /* without svqd */
    MODE_PASS,
    MODE_SHADOW,
    MODE_LOG,   /* shadow, and a dirty log is written */
    MODE_RELAY, /* DPDK's relay instead of svqd */
    MODE_SPIN,  /* pass-through, while somebody else polls on the worker's processor */
    MODE_ALONE, /* --scale: the only device of its svqd, */
    MODE_AMONG, /* or one of many, all others idle */
};
#define PATH_MODES 8u

extern const char *const path_mode_names[PATH_MODES];

/* All of a round's modes in random order, but those without svqd at one of its ends. */
void path_shuffle(enum path_mode *modes, unsigned count, uint64_t *random);

#endif
