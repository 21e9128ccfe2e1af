/* SPDX-License-Identifier: BSD-3-Clause */
#include "mem/inflight_memory.h"
#include "mem/region_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static bool sane(const struct svq_vu_inflight *what, enum svq_ring_format format)
{
    return what->num_queues && what->num_queues <= SVQ_REGION_RINGS && what->queue_size &&
           what->queue_size <= SVQ_RING_MAX && what->mmap_offset % sizeof(uint64_t) == 0 &&
           what->mmap_size / what->num_queues >= svq_inflight_size(format, what->queue_size);
}

int inflight_memory_map(int fd, const struct svq_vu_inflight *what, enum svq_ring_format format,
                        struct inflight_memory **out)
{
    uint64_t page = sysconf(_SC_PAGESIZE);
    uint64_t start = what->mmap_offset & ~(page - 1), end;
    struct inflight_memory *memory;
    struct stat st;
    int err;

    /* The file's own size bounds offset + size, so a huge size cannot wrap or exhaust us. */
    if (!sane(what, format) || __builtin_add_overflow(what->mmap_offset, what->mmap_size, &end))
        return -EINVAL;
    if (fstat(fd, &st) < 0)
        return -errno;
    if (st.st_size < 0 || end > (uint64_t)st.st_size)
        return -ERANGE;
    memory = calloc(1, sizeof(*memory));
    if (!memory)
        return -ENOMEM;
    memory->mapped = end - start;
    memory->mapping =
        mmap(NULL, memory->mapped, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, fd, start);
    if (memory->mapping == MAP_FAILED) {
        err = -errno;
        free(memory);
        return err;
    }
    memory->host = (uint8_t *)memory->mapping + (what->mmap_offset - start);
    memory->what = *what;
    memory->what.padding = 0;
    memory->fd = fd;
    memory->dev = st.st_dev;
    memory->ino = st.st_ino;
    *out = memory;
    return 0;
}

int inflight_memory_new(enum svq_ring_format format, unsigned num_queues, unsigned queue_size,
                        struct inflight_memory **out)
{
    const struct svq_vu_inflight what = {
        .mmap_size = num_queues * svq_inflight_size(format, queue_size),
        .num_queues = num_queues,
        .queue_size = queue_size,
    };
    int fd, err;

    if (!sane(&what, format))
        return -EINVAL;
    fd = memfd_create("shadowvq-inflight", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (fd < 0)
        return -errno;
    /* Nobody who gets it may cut it short under the others. */
    if (ftruncate(fd, what.mmap_size) < 0 ||
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        err = -errno;
    else
        err = inflight_memory_map(fd, &what, format, out);
    if (err)
        close(fd);
    return err;
}

void inflight_memory_free(struct inflight_memory *memory)
{
    if (!memory)
        return;
    munmap(memory->mapping, memory->mapped);
    close(memory->fd);
    free(memory);
}

bool inflight_memory_is(const struct inflight_memory *memory, int fd,
                        const struct svq_vu_inflight *what)
{
    struct stat st;

    return memory && fstat(fd, &st) == 0 && st.st_dev == memory->dev && st.st_ino == memory->ino &&
           what->mmap_size == memory->what.mmap_size &&
           what->mmap_offset == memory->what.mmap_offset &&
           what->num_queues == memory->what.num_queues &&
           what->queue_size == memory->what.queue_size;
}

void *inflight_memory_part(const struct inflight_memory *memory, enum svq_ring_format format,
                           unsigned index, unsigned num)
{
    uint64_t size;

    if (!memory || !num || index >= memory->what.num_queues || num > memory->what.queue_size)
        return NULL;
    /* The format may have changed since the region came. */
    size = svq_inflight_size(format, memory->what.queue_size);
    return (index + 1) * size <= memory->what.mmap_size ? memory->host + index * size : NULL;
}
