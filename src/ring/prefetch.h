/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A cache line that another processor has written takes as long to come as a hundred instructions;
 * asked for in advance, many come at once. Any address will do: nothing happens where no memory is.
 */
#ifndef SVQ_RING_PREFETCH_H
#define SVQ_RING_PREFETCH_H

#define PREFETCH_LINE 64u /* bytes */

static inline void prefetch_read(const void *at)
{
    __builtin_prefetch(at, 0);
}

/* For a line that is about to be written: nobody else has it then. */
static inline void prefetch_write(void *at)
{
#if defined(__x86_64__)
    /* The compiler would ask for the line as a reader, unless told that every processor can. */
    __asm__ volatile("prefetchw %0" : : "m"(*(const char *)at));
#else
    __builtin_prefetch(at, 1);
#endif
}

#endif
