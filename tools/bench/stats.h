/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What to say about a handful of samples that come from a busy machine: no means, no assumption
 * about how they are distributed.
 */
#ifndef SVQ_BENCH_STATS_H
#define SVQ_BENCH_STATS_H

#include <stddef.h>

struct bench_summary {
    double median;
    double low; /* the median lies between these two with a confidence of 95 % */
    double high;
    double spread; /* interquartile range over median */
};

/* Sorts the samples. */
struct bench_summary bench_summary(double *samples, size_t count);

/* Of sorted samples, one at least: the one at this part of them, or a mean of two neighbours. */
double bench_quantile(const double *sorted, size_t count, double q);

#endif
