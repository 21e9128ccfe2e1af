/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A program that the demo runs beside itself. It never outlives the demo: the kernel kills it when
 * the thread that started it ends, however that happens.
 */
#ifndef DEMO_CHILD_H
#define DEMO_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

struct demo_child {
    const char *name;
    pid_t pid;     /* 0: does not run */
    char log[128]; /* what it prints goes here */
};

/* Start argv[0]. Return: 0 or -errno. */
int demo_child_start(struct demo_child *child, const char *name, char *const argv[],
                     const char *log);

/* Has it ended by itself? Then say how. */
bool demo_child_ended(struct demo_child *child, char *how, size_t size);

/* Ask it to end, and make sure. Return: whether it ended well; otherwise say how it did. */
bool demo_child_stop(struct demo_child *child, char *how, size_t size);

/* CPU time it has used, in microseconds. */
uint64_t demo_child_cpu(const struct demo_child *child);

#endif
