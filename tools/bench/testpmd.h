/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A dpdk-testpmd, driven through its prompt. Its forwarding thread polls on one processor. Its main
 * thread polls the prompt on the same one, so it gets next to no time but while it has a command.
 */
#ifndef SVQ_BENCH_TESTPMD_H
#define SVQ_BENCH_TESTPMD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

#define TESTPMD_VDEVS 3u
#define TESTPMD_PORTS 6u

struct testpmd_config {
    const char *program;
    const char *name;   /* for its log, and for what DPDK keeps in /var/run */
    const char *folder; /* its log's */
    int cpu;
    const char *vdevs[TESTPMD_VDEVS]; /* NULL: none */
    const char *topology;             /* loop or paired */
};

struct testpmd {
    pid_t pid; /* 0: does not run */
    int in;
    int out;
    int lcore; /* thread id of the one that forwards */
    bool stopped;
    char prefix[48];
    char log[128];
    char *text; /* what it printed since the last command */
    size_t length;
    size_t room;
    char error[400];
};

/* Calls that can fail: 0, or -errno with t->error. */

/* Start, and wait for the prompt. To be ended whatever this returns. */
int testpmd_start(struct testpmd *t, const struct testpmd_config *config);
void testpmd_end(struct testpmd *t);

/* Run a command, and wait for the next prompt. t->text: what it printed. */
int testpmd_command(struct testpmd *t, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Stop the whole process as it stands (SIGSTOP), or let it go on. */
void testpmd_hold(struct testpmd *t, bool hold);

struct testpmd_stats {
    uint64_t ns; /* when they were read */
    struct {     /* packets; zeroes where there is no such port */
        uint64_t rx;
        uint64_t tx;
    } ports[TESTPMD_PORTS];
};

int testpmd_stats(struct testpmd *t, struct testpmd_stats *stats);

#endif
