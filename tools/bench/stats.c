/* SPDX-License-Identifier: BSD-3-Clause */
#include "stats.h"

#include <math.h>
#include <stdlib.h>

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

double bench_quantile(const double *sorted, size_t count, double q)
{
    double at = q * (double)(count - 1);
    size_t below = (size_t)at;

    if (below + 1 >= count)
        return sorted[count - 1];
    return sorted[below] + (at - (double)below) * (sorted[below + 1] - sorted[below]);
}

struct bench_summary bench_summary(double *samples, size_t count)
{
    struct bench_summary s = {0};
    /*
     * How many samples fall below the true median is binomial with n and 1/2: the order statistics
     * 1.96 standard deviations either side of the middle enclose it in 95 of 100 cases.
     */
    double reach = 0.98 * sqrt((double)count);
    double first = floor((double)count / 2 - reach), last = ceil((double)count / 2 + reach);

    if (!count)
        return s;
    qsort(samples, count, sizeof(*samples), compare);
    s.median = bench_quantile(samples, count, 0.5);
    s.low = samples[first < 1 ? 0 : (size_t)first - 1];
    s.high = samples[last >= (double)count ? count - 1 : (size_t)last];
    if (s.median > 0)
        s.spread = (bench_quantile(samples, count, 0.75) - bench_quantile(samples, count, 0.25)) /
                   s.median;
    return s;
}
