/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The memory of an in-flight region (vhost-user, GET_INFLIGHT_FD and SET_INFLIGHT_FD): mapped, and
 * known by the fd that others can be given. What is in it, see shadowvq/inflight.h.
 */
#ifndef SVQ_MEM_INFLIGHT_MEMORY_H
#define SVQ_MEM_INFLIGHT_MEMORY_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>

#include <shadowvq/inflight.h>
#include <shadowvq/vhost_user.h>

struct inflight_memory {
    struct svq_vu_inflight what;
    uint8_t *host; /* the first queue's part */
    int fd;

    void *mapping;
    size_t mapped;
    dev_t dev; /* which file it is */
    ino_t ino;
};

/**
 * inflight_memory_map() - map the region that a message describes.
 * @fd: on success it belongs to the result
 *
 * Return: 0, -EINVAL (counts, alignment, too few bytes for its parts), -ERANGE (not in the file),
 * -ENOMEM or mmap()'s error.
 */
int inflight_memory_map(int fd, const struct svq_vu_inflight *what, enum svq_ring_format format,
                        struct inflight_memory **out);

/* A new region of zeros, sealed; num_queues and queue_size as above. */
int inflight_memory_new(enum svq_ring_format format, unsigned num_queues, unsigned queue_size,
                        struct inflight_memory **out);
void inflight_memory_free(struct inflight_memory *memory);

/* Is it the one that this message describes? */
bool inflight_memory_is(const struct inflight_memory *memory, int fd,
                        const struct svq_vu_inflight *what);

/*
 * The part of a ring of num entries; NULL: it is not in there. Parts lie one behind the other, each
 * of the size that follows from the region's queue size: there libvhost-user and DPDK find them.
 */
void *inflight_memory_part(const struct inflight_memory *memory, enum svq_ring_format format,
                           unsigned index, unsigned num);

#endif
