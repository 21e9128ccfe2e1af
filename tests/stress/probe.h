/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Gets between any two accesses that the relay makes to memory that it shares, and lets its stores
 * linger as a processor's store buffer does.
 *
 * The relay is compiled as for ThreadSanitizer, which turns each atomic access into a call. Those
 * calls end here instead of in the sanitizer's runtime: before each, another side may act; a store
 * may wait in the buffer, seen by the relay alone, until a fence or chance lets it out. So a single
 * thread plays what takes several processors and much luck, and plays it again from the same seed.
 */
#ifndef SVQ_STRESS_PROBE_H
#define SVQ_STRESS_PROBE_H

#include <stdbool.h>
#include <stdint.h>

enum probe_memory {
    PROBE_STRICT, /* stores are seen at once */
    PROBE_TSO,    /* later, in their order: x86 */
    PROBE_WEAK    /* later, in any order that release and fences allow */
};

/* From now on: between accesses, one time in `chance`, call act(arg). 0: never. */
void probe_start(enum probe_memory memory, uint64_t seed, unsigned chance, void (*act)(void *arg),
                 void *arg);
/* Only between start and stop accesses are probed, and not within act(). */
void probe_stop(void);

/* All stores are seen. */
void probe_flush(void);

/* Accesses probed so far; none: the relay was not compiled for it. */
uint64_t probe_count(void);

#endif
