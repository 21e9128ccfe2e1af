/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * An svqd of our own: started for a measurement, spoken to by QMP, watched from outside. Everything
 * it needs (sockets, its log) lies in a folder that goes away with it.
 */
#ifndef SVQ_BENCH_PROXY_H
#define SVQ_BENCH_PROXY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "loop.h"
#include "sim/child.h"
#include "sim/qmp.h"

#define PROXY_WORKERS_MAX 16u

struct proxy_config {
    const char *program; /* svqd */
    const char *poll_us; /* as in --poll-us; NULL: svqd's default */
    unsigned workers;
    int worker_cpu; /* where all workers run; -1: anywhere */
};

struct proxy {
    struct proxy_config config;
    char folder[64];
    struct sim_child child;
    struct sim_qmp qmp;
    bool connected;
    unsigned worker_count;
    int workers[PROXY_WORKERS_MAX]; /* thread ids */
    char error[600];
};

/* Calls that can fail: 0, or -errno with proxy->error. */

int proxy_start(struct proxy *proxy, const struct proxy_config *config);
/* Can be called whatever proxy_start() returned. Return: -EIO: it did not end well. */
int proxy_stop(struct proxy *proxy);

/* A path in the folder, for a socket. */
void proxy_path(const struct proxy *proxy, char *path, size_t size, const char *format, ...)
    __attribute__((format(printf, 4, 5)));

/* A device whose front-end's socket is there when this returns. */
int proxy_add(struct proxy *proxy, const char *id, const char *frontend, const char *backend,
              bool shadow);
int proxy_del(struct proxy *proxy, const char *id);

/* Switch; `microseconds`: what svqd says it took, 0 if there was nothing to switch; may be NULL. */
int proxy_shadow(struct proxy *proxy, const char *id, bool on, uint64_t *microseconds);
/* Log all writes of a shadowed device into a bitmap of svqd's own. */
int proxy_device_log(struct proxy *proxy, const char *id, bool on);

/* The last line of a program's log, "" if there is none. */
void proxy_last_line(const char *log, char *line, size_t size);

/* CPU time of all of svqd, in nanoseconds. */
uint64_t proxy_cpu(const struct proxy *proxy);
/* What its workers have had of their processors, all together. */
struct bench_use proxy_workers_use(const struct proxy *proxy);

/* Pages in memory, in bytes. */
struct proxy_memory {
    uint64_t rings; /* the shadow rings' */
    uint64_t guest; /* guests' that it has looked at */
    uint64_t own;   /* all others, but for what is only read of programs and libraries */
};
int proxy_memory(struct proxy *proxy, struct proxy_memory *memory);

/* Of all queues of a device, or of all devices (id NULL). */
struct proxy_counters {
    uint64_t chains;
    uint64_t guest_kicks;
    uint64_t backend_kicks;
    uint64_t backend_calls;
    uint64_t guest_calls;
};
int proxy_counters(struct proxy *proxy, const char *id, struct proxy_counters *counters);

/* read() and write() calls of all threads so far, and how often they went to sleep. */
struct proxy_calls {
    uint64_t reads;
    uint64_t writes;
    uint64_t sleeps; /* of the workers */
};
int proxy_calls(struct proxy *proxy, struct proxy_calls *calls);

#endif
