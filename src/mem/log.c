/* SPDX-License-Identifier: BSD-3-Clause */
#include <shadowvq/mem.h>

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

struct svq_log {
    _Atomic unsigned refs;
    uint8_t *bits; /* first byte of the log, inside the mapping */
    uint64_t size; /* bytes */
    void *mapping;
    size_t mapped;
};

int svq_log_new(int fd, uint64_t size, uint64_t offset, struct svq_log **out)
{
    uint64_t page = sysconf(_SC_PAGESIZE);
    uint64_t start = offset & ~(page - 1), end;
    struct svq_log *log;
    struct stat st;

    /* The file's own size bounds offset + size, so a huge size cannot wrap or exhaust us. */
    if (!size || __builtin_add_overflow(offset, size, &end))
        return -EINVAL;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < 0 || end > (uint64_t)st.st_size)
        return -ERANGE;

    log = calloc(1, sizeof(*log));
    if (!log)
        return -ENOMEM;
    log->mapped = end - start;
    log->mapping = mmap(NULL, log->mapped, PROT_READ | PROT_WRITE, MAP_SHARED, fd, start);
    if (log->mapping == MAP_FAILED) {
        int err = -errno;

        free(log);
        return err;
    }
    atomic_init(&log->refs, 1);
    log->bits = (uint8_t *)log->mapping + (offset - start);
    log->size = size;
    *out = log;
    return 0;
}

struct svq_log *svq_log_ref(struct svq_log *log)
{
    atomic_fetch_add_explicit(&log->refs, 1, memory_order_relaxed);
    return log;
}

void svq_log_unref(struct svq_log *log)
{
    /* acq_rel: the last holder must see every other holder's writes before it unmaps. */
    if (!log || atomic_fetch_sub_explicit(&log->refs, 1, memory_order_acq_rel) != 1)
        return;
    munmap(log->mapping, log->mapped);
    free(log);
}

bool svq_log_covers(const struct svq_log *log, uint64_t gpa, uint64_t len)
{
    uint64_t last;

    if (!len)
        return true;
    if (__builtin_add_overflow(gpa, len - 1, &last))
        return false;
    return last / SVQ_LOG_PAGE / 8 < log->size;
}

int svq_log_mark(struct svq_log *log, uint64_t gpa, uint64_t len)
{
    uint64_t page, last;

    if (!len)
        return 0;
    if (!svq_log_covers(log, gpa, len))
        return -ERANGE;
    last = (gpa + len - 1) / SVQ_LOG_PAGE;
    /*
     * The front-end clears bits with an atomic exchange and then reads the pages. Most bits are set
     * already, and looking is cheaper than a locked OR; but the look must not happen before our own
     * stores to the page are visible. Pairs with that exchange: either we see its zero and set the
     * bit again, or it comes after us and its reader sees the data.
     */
    atomic_thread_fence(memory_order_seq_cst);
    for (page = gpa / SVQ_LOG_PAGE; page <= last; page++) {
        uint8_t *byte = &log->bits[page / 8];
        uint8_t bit = 1u << (page % 8);

        if (!(__atomic_load_n(byte, __ATOMIC_RELAXED) & bit))
            __atomic_fetch_or(byte, bit, __ATOMIC_RELEASE);
    }
    return 0;
}
