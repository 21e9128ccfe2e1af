/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Somebody who only polls, on a processor of his own. What he takes away from the others (a share
 * of a core's or of a package's power) is not the relay's fault, but its presence's.
 */
#ifndef SVQ_BENCH_SPINNER_H
#define SVQ_BENCH_SPINNER_H

#include "loop.h"

struct spinner {
    struct bench_loop *loop; /* NULL: never used yet */
    bool on;
};

/* Return: 0 or -errno. Idempotent. */
int spinner_set(struct spinner *spinner, int cpu, bool on);
void spinner_release(struct spinner *spinner);

/* How long somebody who has work to do has to count to be busy for so long. */
unsigned spins_of_ns(unsigned ns);

/* About a cycle for each. */
static inline void spin(unsigned spins)
{
    for (; spins; spins--)
        __asm__ volatile("" : "+r"(spins));
}

#endif
