/* SPDX-License-Identifier: BSD-3-Clause */
/* Bars with intervals, in groups, as an SVG file: a plot of what was measured. */
#ifndef SVQ_BENCH_BARS_H
#define SVQ_BENCH_BARS_H

#include <stddef.h>

struct bar {
    char group[96]; /* bars of one group stand together and have a scale of their own */
    char label[64];
    char unit[24];
    double value;
    double low; /* the interval's ends */
    double high;
};

struct bars {
    struct bar *all;
    size_t count;
    size_t capacity;
};

/* Bars of a group come one after the other. Out of memory: the bar is missing. */
void bars_add(struct bars *bars, const struct bar *bar);
/* Return: 0 or -errno. */
int bars_write(const struct bars *bars, const char *title, const char *path);
void bars_release(struct bars *bars);

#endif
