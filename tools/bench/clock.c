/* SPDX-License-Identifier: BSD-3-Clause */
#include "clock.h"
#include "stats.h"

#define CALIBRATION_NS 100000000u

static double measure_overhead(void)
{
    double samples[1001];
    size_t count = sizeof(samples) / sizeof(samples[0]);

    for (size_t i = 0; i < count; i++) {
        uint64_t start = bench_ticks();

        samples[i] = (double)(bench_ticks() - start);
    }
    return bench_summary(samples, count).median;
}

/* Work for as many of the core's units as possible: whoever shares the core shows. */
static uint64_t yardstick(void)
{
    static uint64_t table[512];
    uint64_t v[6] = {0}, start = bench_ticks();

    for (unsigned i = 0; i < 2000; i++) {
        for (unsigned k = 0; k < 6; k++) {
            v[k] += i;
            /* Keeps the compiler from computing it beforehand, or all of them at once. */
            __asm__ volatile("" : "+r"(v[k]));
        }
        v[0] += table[i * 7 & 511];
        v[1] += table[i * 5 & 511];
        table[i & 511] = v[0] + v[1];
        __asm__ volatile("" : : : "memory");
    }
    return bench_ticks() - start;
}

bool bench_clock_quiet(struct bench_clock *clock)
{
    uint64_t now = yardstick();

    if (now < clock->yardstick)
        clock->yardstick = now;
    return now - clock->yardstick <= clock->yardstick / 20;
}

void bench_clock_calibrate(struct bench_clock *clock)
{
    uint64_t ns = bench_now_ns(), ticks = bench_ticks(), now;

    clock->overhead = measure_overhead();
    clock->yardstick = UINT64_MAX;
    do {
        bench_clock_quiet(clock);
        now = bench_now_ns();
    } while (now - ns < CALIBRATION_NS);
    clock->ticks_per_ns = (double)(bench_ticks() - ticks) / (double)(now - ns);
}
