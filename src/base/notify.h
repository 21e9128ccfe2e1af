/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef SVQ_BASE_NOTIFY_H
#define SVQ_BASE_NOTIFY_H

#include <stdint.h>
#include <unistd.h>

/* Signal an eventfd; -1: nobody wants to know. Any thread. */
static inline void svq_notify(int fd)
{
    uint64_t one = 1;

    /* EAGAIN: the counter is full, which notifies as well. Any other error is its owner's loss. */
    if (fd >= 0 && write(fd, &one, sizeof(one)) < 0)
        return;
}

#endif
