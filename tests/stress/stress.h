/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * No notification may get lost. Every side suppresses notifications while it is awake and asks for
 * one before it sleeps; with a single chain out, a lost one brings all to a standstill.
 *
 * Two programs look for it. In stress-schedule (schedule.c) one thread plays all three parts in
 * random order and lets the others act between any two accesses of the relay's (probe.h): it
 * reproduces from a seed, and knows at once that nobody will ever wake again. In stress-threads
 * (threads.c) real threads race and sleep on eventfds, and a watchdog looks at progress.
 */
#ifndef SVQ_STRESS_STRESS_H
#define SVQ_STRESS_STRESS_H

#include "world.h"

enum actor { GUEST, RELAY, BACKEND };
#define ACTORS 3u

/* What happened; only grows. */
struct tally {
    uint64_t rounds;           /* chains there and back */
    uint64_t sleeps[ACTORS];   /* nothing to do, nothing pending: really slept */
    uint64_t notified[ACTORS]; /* notifications received, awake or asleep */
    uint64_t between;          /* times that another side acted between two accesses */
    uint64_t accesses;         /* places where it could have */
    uint64_t blocks;           /* worlds */
    uint64_t burst_blocks;
};

struct stress_options {
    bool engine;            /* threads: the relay runs in an engine, not in a loop of ours */
    unsigned sleep;         /* threads: per cent of idle moments that do not spin first */
    unsigned stall_seconds; /* threads: so long without progress is a stall */
    unsigned between;       /* schedule: others act before one in so many accesses; 0: never */
};

/* The program's name. */
extern const char stress_program[];

/*
 * Pass so many chains through a world. Return: false when it stalled or broke; `out` then has a
 * dump, and threads may be left behind: the process must end.
 */
bool stress_run(struct world *world, uint64_t rounds, const struct stress_options *options,
                struct tally *tally, FILE *out);

#endif
