/* SPDX-License-Identifier: BSD-3-Clause */
/* Random numbers that a seed reproduces everywhere (splitmix64). */
#ifndef SVQ_TESTS_KIT_RNG_H
#define SVQ_TESTS_KIT_RNG_H

#include <stdbool.h>
#include <stdint.h>

struct kit_rng {
    uint64_t state;
};

static inline uint64_t kit_rand(struct kit_rng *rng)
{
    uint64_t z = (rng->state += UINT64_C(0x9e3779b97f4a7c15));

    z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
    z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
    return z ^ (z >> 31);
}

/* 0 to n - 1. */
static inline uint32_t kit_below(struct kit_rng *rng, uint32_t n)
{
    return (uint32_t)(((kit_rand(rng) >> 32) * n) >> 32);
}

/* lo to hi, both included. */
static inline uint32_t kit_between(struct kit_rng *rng, uint32_t lo, uint32_t hi)
{
    return lo + kit_below(rng, hi - lo + 1);
}

static inline bool kit_percent(struct kit_rng *rng, uint32_t percent)
{
    return kit_below(rng, 100) < percent;
}

#endif
