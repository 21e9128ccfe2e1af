/* SPDX-License-Identifier: BSD-3-Clause */
#include "mem/region_file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

/* Each part starts on cache lines of its own: the two ends write different parts. */
#define PART_ALIGN UINT64_C(128)

static uint64_t round_up(uint64_t value, uint64_t to)
{
    return (value + to - 1) / to * to;
}

static uint64_t ring_size(unsigned num)
{
    return round_up(svq_split_desc_size(num), PART_ALIGN) +
           round_up(svq_split_avail_size(num), PART_ALIGN) +
           round_up(svq_split_used_size(num), PART_ALIGN);
}

int svq_region_file_new(unsigned slots, unsigned max_num, struct svq_region_file **out)
{
    struct svq_region_file *file = calloc(1, sizeof(*file));
    int err;

    if (!file)
        return -ENOMEM;
    file->slots = slots;
    file->slot_size = round_up(ring_size(max_num), 4096);
    file->size = round_up(file->slot_size * slots, SVQ_REGION_ALIGN);
    file->fd = memfd_create("shadowvq-rings", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (file->fd < 0 || ftruncate(file->fd, file->size) < 0)
        goto fail;
    /* The back-end must not be able to cut the file short under us. */
    if (fcntl(file->fd, F_ADD_SEALS, F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL) < 0)
        goto fail;
    file->host =
        mmap(NULL, file->size, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE, file->fd, 0);
    if (file->host == MAP_FAILED)
        goto fail;
    *out = file;
    return 0;
fail:
    err = -errno;
    if (file->fd >= 0)
        close(file->fd);
    free(file);
    return err;
}

void svq_region_file_free(struct svq_region_file *file)
{
    if (!file)
        return;
    munmap(file->host, file->size);
    close(file->fd);
    free(file);
}

bool svq_region_file_fits(const struct svq_region_file *file, unsigned slot, unsigned num)
{
    return slot < file->slots && ring_size(num) <= file->slot_size;
}

void svq_region_file_place(const struct svq_region_file *file, unsigned slot, unsigned num,
                           struct svq_ring_place *place)
{
    place->desc = slot * file->slot_size;
    place->avail = place->desc + round_up(svq_split_desc_size(num), PART_ALIGN);
    place->used = place->avail + round_up(svq_split_avail_size(num), PART_ALIGN);
    place->host = (struct svq_split_mem){
        .desc = file->host + place->desc,
        .avail = file->host + place->avail,
        .used = file->host + place->used,
    };
}
