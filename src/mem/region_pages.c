/* SPDX-License-Identifier: BSD-3-Clause */
#include "mem/region_pages.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/log.h"

/* Since Linux 5.14; younger than some C libraries. */
#ifndef MADV_POPULATE_WRITE
#define MADV_POPULATE_WRITE 23
#endif

static struct svq_region_policy policy = {SVQ_HUGE_PAGES_AUTO, SVQ_NUMA_ANY};

void svq_region_pages_policy(const struct svq_region_policy *new_policy)
{
    policy = *new_policy;
}

static int open_file(uint64_t size, unsigned flags)
{
    int fd = memfd_create("shadowvq-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING | flags), err;

    if (fd < 0)
        return -errno;
    /* The back-end must not be able to cut the file short under us. */
    if (ftruncate(fd, (off_t)size) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) == 0)
        return fd;
    err = -errno;
    close(fd);
    return err;
}

static void prefer_node(const struct svq_region_pages *pages)
{
    int err = 0;

    if (policy.node != SVQ_NUMA_ANY)
        err = svq_numa_prefer(pages->host, pages->size, policy.node);
    if (err)
        svq_debug(NULL, "shadow rings are not bound to node %d: %s", policy.node, strerror(-err));
}

/* ---- Reserved huge pages ---- */

/*
 * All pages are taken now: later there may be none left, or not for our control group, and that
 * would be a SIGBUS.
 */
static int map_reserved(struct svq_region_pages *pages)
{
    void *host = mmap(NULL, pages->size, PROT_READ | PROT_WRITE, MAP_SHARED, pages->fd, 0);
    int err;

    if (host == MAP_FAILED)
        return -errno;
    pages->host = host;
    prefer_node(pages);
    if (madvise(host, pages->size, MADV_POPULATE_WRITE) == 0)
        return 0;
    err = -errno;
    munmap(host, pages->size);
    return err;
}

static int new_reserved(struct svq_region_pages *pages)
{
    int err;

    pages->fd = open_file(pages->size, MFD_HUGETLB | MFD_HUGE_2MB);
    if (pages->fd < 0)
        return pages->fd;
    err = map_reserved(pages);
    if (err)
        close(pages->fd);
    pages->reserved = !err;
    return err;
}

/* ---- Usual pages ---- */

/* At a multiple of the size of a huge page: elsewhere none fits. */
static int map_aligned(struct svq_region_pages *pages)
{
    uint64_t room = pages->size + SVQ_HUGE_PAGE, before, after;
    uint8_t *start =
        mmap(NULL, room, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    int err;

    if (start == MAP_FAILED)
        return -errno;
    before = -(uintptr_t)start & (SVQ_HUGE_PAGE - 1);
    after = SVQ_HUGE_PAGE - before;
    if (mmap(start + before, pages->size, PROT_READ | PROT_WRITE,
             MAP_SHARED | MAP_NORESERVE | MAP_FIXED, pages->fd, 0) == MAP_FAILED) {
        err = -errno;
        munmap(start, room);
        return err;
    }
    if (before)
        munmap(start, before);
    munmap(start + before + pages->size, after);
    pages->host = start + before;
    return 0;
}

static int new_usual(struct svq_region_pages *pages)
{
    int err;

    pages->fd = open_file(pages->size, 0);
    if (pages->fd < 0)
        return pages->fd;
    err = map_aligned(pages);
    if (err) {
        close(pages->fd);
        return err;
    }
    prefer_node(pages);
    /* Whatever the system does otherwise: a few small rings are not to take 2 MiB. */
    madvise(pages->host, pages->size, MADV_NOHUGEPAGE);
    return 0;
}

int svq_region_pages_new(uint64_t size, struct svq_region_pages *pages)
{
    int err;

    *pages = (struct svq_region_pages){.fd = -1, .size = size};
    if (policy.huge_pages == SVQ_HUGE_PAGES_RESERVED) {
        err = new_reserved(pages);
        if (!err)
            return 0;
        svq_warning(NULL, "no reserved huge pages for shadow rings (%llu KiB): %s",
                    (unsigned long long)size >> 10, strerror(-err));
    }
    return new_usual(pages);
}

void svq_region_pages_release(struct svq_region_pages *pages)
{
    munmap(pages->host, pages->size);
    close(pages->fd);
}

void svq_region_pages_used(const struct svq_region_pages *pages, uint64_t offset, uint64_t bytes)
{
    if (pages->reserved || policy.huge_pages == SVQ_HUGE_PAGES_OFF || bytes < SVQ_HUGE_PAGE / 2)
        return;
    /* A system without transparent huge pages, or without those for files, goes on without. */
    if (madvise(pages->host + offset, SVQ_HUGE_PAGE, MADV_HUGEPAGE) == 0)
        svq_debug(NULL, "shadow rings: a huge page at offset %llu KiB, if the system has any",
                  (unsigned long long)offset >> 10);
}
