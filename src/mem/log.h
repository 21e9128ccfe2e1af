/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The dirty log from the inside. Most bits are set already, and looking is cheaper than a locked
 * OR. The front-end clears bits with an atomic exchange and then reads the pages: either we see its
 * zero and set the bit again, or its exchange comes after our look, and then it must see the data.
 */
#ifndef SVQ_MEM_LOG_H
#define SVQ_MEM_LOG_H

#include <errno.h>
#include <stdatomic.h>

#include <shadowvq/mem.h>

struct svq_log {
    _Atomic unsigned refs;
    uint8_t *bits; /* first byte of the log, inside the mapping */
    uint64_t size; /* bytes */
    void *mapping;
    size_t mapped;
};

static inline bool log_covers(const struct svq_log *log, uint64_t gpa, uint64_t len)
{
    uint64_t last;

    return !len ||
           (!__builtin_add_overflow(gpa, len - 1, &last) && last / SVQ_LOG_PAGE / 8 < log->size);
}

/* Is nothing to do, as mostly: all in one page, whose bit is set? (Nothing is, too, for len 0.) */
static inline bool log_is_set(const struct svq_log *log, uint64_t gpa, uint64_t len)
{
    uint64_t page = gpa / SVQ_LOG_PAGE;

    return (gpa + len - 1) / SVQ_LOG_PAGE == page && page / 8 < log->size &&
           __atomic_load_n(&log->bits[page / 8], __ATOMIC_RELAXED) & 1u << page % 8;
}

/* len is not 0, and covered. */
static inline void log_set_bits(struct svq_log *log, uint64_t gpa, uint64_t len)
{
    uint64_t last = (gpa + len - 1) / SVQ_LOG_PAGE;

    for (uint64_t page = gpa / SVQ_LOG_PAGE; page <= last; page++) {
        uint8_t *byte = &log->bits[page / 8];
        uint8_t bit = 1u << (page % 8);

        /* Release: pairs with the front-end's exchange of the byte, which then reads the page. */
        if (!(__atomic_load_n(byte, __ATOMIC_RELAXED) & bit))
            __atomic_fetch_or(byte, bit, __ATOMIC_RELEASE);
    }
}

/* svq_log_mark() for what was written before a full fence of the caller's. */
static inline int log_mark_fenced(struct svq_log *log, uint64_t gpa, uint64_t len)
{
    if (!log_covers(log, gpa, len))
        return -ERANGE;
    if (len)
        log_set_bits(log, gpa, len);
    return 0;
}

/*
 * svq_log_mark() for what a back-end wrote and we know by an acquire. Where a store that one other
 * thread sees is seen by all (x86, AArch64), that acquire is enough: the data is everywhere before
 * we look at the bit, so a front-end whose exchange our look has missed reads it. Elsewhere only a
 * full fence makes it so.
 */
static inline int log_mark_acquired(struct svq_log *log, uint64_t gpa, uint64_t len)
{
#if defined(__x86_64__) || defined(__aarch64__)
    /* Pairs with the front-end's exchange; orders our acquire of the used entry before the look. */
    atomic_thread_fence(memory_order_acquire);
#else
    atomic_thread_fence(memory_order_seq_cst);
#endif
    if (log_is_set(log, gpa, len))
        return 0;
    return log_mark_fenced(log, gpa, len);
}

#endif
