/* SPDX-License-Identifier: BSD-3-Clause */
#include "bitmap.h"

#include <errno.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "bits are counted from byte 0");
_Static_assert(sizeof(_Atomic uint64_t) == sizeof(uint64_t), "atomics must be plain words");

int sim_bitmap_new(uint64_t end, struct sim_bitmap **out)
{
    struct sim_bitmap *bitmap = calloc(1, sizeof(*bitmap));
    size_t size;
    void *ptr;

    if (!bitmap)
        return -ENOMEM;
    bitmap->words = (size_t)((end - 1) / SIM_PAGE / 64 + 1);
    size = sim_bitmap_size(bitmap);
    bitmap->fd = memfd_create("sim-dirty-log", MFD_CLOEXEC);
    if (bitmap->fd < 0)
        goto fail;
    if (ftruncate(bitmap->fd, (off_t)size))
        goto fail_fd;
    ptr = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, bitmap->fd, 0);
    if (ptr == MAP_FAILED)
        goto fail_fd;
    bitmap->bits = ptr;
    *out = bitmap;
    return 0;

fail_fd:
    close(bitmap->fd);
fail:
    free(bitmap);
    return -errno;
}

void sim_bitmap_free(struct sim_bitmap *bitmap)
{
    if (!bitmap)
        return;
    munmap((void *)bitmap->bits, sim_bitmap_size(bitmap));
    close(bitmap->fd);
    free(bitmap);
}

size_t sim_bitmap_size(const struct sim_bitmap *bitmap)
{
    return bitmap->words * sizeof(uint64_t);
}

void sim_bitmap_mark(struct sim_bitmap *bitmap, uint64_t gpa, uint64_t len)
{
    uint64_t last;

    if (!len)
        return;
    last = (gpa + len - 1) / SIM_PAGE;
    for (uint64_t page = gpa / SIM_PAGE; page <= last; page++) {
        /*
         * Always the atomic OR, never "is it set already?" first: that question could be answered
         * before the write that we report has left this CPU's store buffer, while the other side
         * clears the bit and copies the page as it was.
         */
        atomic_fetch_or(&bitmap->bits[page / 64], UINT64_C(1) << (page % 64));
    }
}

void sim_bitmap_harvest(struct sim_bitmap *bitmap, uint64_t *into, size_t words)
{
    if (words > bitmap->words)
        words = bitmap->words;
    for (size_t i = 0; i < words; i++) {
        if (!atomic_load_explicit(&bitmap->bits[i], memory_order_relaxed))
            continue;
        /* Pairs with the OR in sim_bitmap_mark() and in the back-end: their data comes first. */
        into[i] |= atomic_exchange(&bitmap->bits[i], 0);
    }
}
