/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A clock for intervals of some nanoseconds: the time stamp counter, fenced, so that what it
 * encloses begins and ends between its two readings.
 */
#ifndef SVQ_BENCH_CLOCK_H
#define SVQ_BENCH_CLOCK_H

#include <stdbool.h>
#include <stdint.h>
#include <time.h>

struct bench_clock {
    double ticks_per_ns;
    double overhead;    /* ticks that an empty interval seems to take */
    uint64_t yardstick; /* ticks of a fixed piece of work, at its fastest so far */
};

/* Takes a tenth of a second. */
void bench_clock_calibrate(struct bench_clock *clock);

/*
 * Does the processor run at its full speed just now? It does not while something else runs on the
 * same core (its other thread, or another virtual machine). Takes some microseconds.
 */
bool bench_clock_quiet(struct bench_clock *clock);

static inline uint64_t bench_now_ns(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

static inline void bench_sleep_us(unsigned us)
{
    const struct timespec t = {us / 1000000, (long)(us % 1000000) * 1000};

    nanosleep(&t, NULL);
}

static inline void bench_sleep_ms(unsigned ms)
{
    bench_sleep_us(1000 * ms);
}

#if defined(__x86_64__)

#define BENCH_TICK "TSC cycle"

static inline uint64_t bench_ticks(void)
{
    uint32_t low, high;

    /* lfence waits for all before it, and lets nothing after it begin. */
    __asm__ volatile("lfence\n\trdtsc\n\tlfence" : "=a"(low), "=d"(high) : : "memory");
    return (uint64_t)high << 32 | low;
}

#elif defined(__aarch64__)

#define BENCH_TICK "timer tick"

static inline uint64_t bench_ticks(void)
{
    uint64_t ticks;

    __asm__ volatile("isb\n\tmrs %0, cntvct_el0\n\tisb" : "=r"(ticks) : : "memory");
    return ticks;
}

#else

#define BENCH_TICK "nanosecond"

static inline uint64_t bench_ticks(void)
{
    return bench_now_ns();
}

#endif
#endif
