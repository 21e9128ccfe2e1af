/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How far two processors are from each other: for how long a cache line travels there and back.
 * What a relay between two processors costs is mostly a number of such journeys, and a virtual
 * machine's host may move a processor from one core to another at any time: then each of them takes
 * four times as long, or a quarter, for a second or for an hour. So it is looked at beside every
 * slot, and what was not measured at the usual distance does not count.
 */
#ifndef SVQ_BENCH_HOP_H
#define SVQ_BENCH_HOP_H

#include "loop.h"

/* Who measures the way between two processors. */
struct hop {
    struct bench_loop *loop; /* its thread is on one of them; NULL: a thread of our own is */
    int cpu;                 /* the loop's, if it has one; -1: anywhere, nothing is measured */
    int other;               /* likewise */
    double wanted;           /* nanoseconds; 0: any */
};

/* As it is now, in nanoseconds; 0: cannot tell. */
double hop_measure(const struct hop *hop);

/* The same distance? What could not be told may be any. */
bool hop_same(double ns, double other_ns);

/* Wait for the wanted distance, but not for ever. */
void hop_wait(const struct hop *hop);

#endif
