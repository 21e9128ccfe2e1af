/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A program that runs beside us. It never outlives us: the kernel kills it when the thread that
 * started it ends, however that happens.
 */
#ifndef SIM_CHILD_H
#define SIM_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct sim_child {
    const char *name;
    pid_t pid;     /* 0: does not run */
    char log[128]; /* what it prints goes here, behind what is there already */
};

/* Start argv[0]. Return: 0 or -errno. */
int sim_child_start(struct sim_child *child, const char *name, char *const argv[], const char *log);

/* Has it ended by itself? Then say how. */
bool sim_child_ended(struct sim_child *child, char *how, size_t size);

/* Ask it to end, and make sure. Return: whether it ended well; otherwise say how it did. */
bool sim_child_stop(struct sim_child *child, char *how, size_t size);

/* Kill it, here and now: a crash. Return: 0, or -ESRCH when it had ended before. */
int sim_child_kill(struct sim_child *child);

/* CPU time it has used, in microseconds. */
uint64_t sim_child_cpu(const struct sim_child *child);

#endif
