/* SPDX-License-Identifier: BSD-3-Clause */
#include "mem/log.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

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
    return log_covers(log, gpa, len);
}

int svq_log_mark(struct svq_log *log, uint64_t gpa, uint64_t len)
{
    if (!log_covers(log, gpa, len))
        return -ERANGE;
    if (!len)
        return 0;
    /* Our own stores to the page before our look. Pairs with the front-end's exchange. */
    atomic_thread_fence(memory_order_seq_cst);
    log_set_bits(log, gpa, len);
    return 0;
}
