/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Reproducible random numbers (the splitmix64 generator), one state per thread.
 */
#ifndef SIM_RANDOM_H
#define SIM_RANDOM_H

#include <stdint.h>

static inline uint64_t sim_random(uint64_t *state)
{
    uint64_t x = *state += UINT64_C(0x9e3779b97f4a7c15);

    x = (x ^ (x >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    x = (x ^ (x >> 27)) * UINT64_C(0x94d049bb133111eb);
    return x ^ (x >> 31);
}

/* A number from 0 to below - 1. */
static inline uint64_t sim_random_below(uint64_t *state, uint64_t below)
{
    return sim_random(state) % below;
}

#endif
