/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The memory of a device's shadow rings: one memfd, offered to the back-end as one more region of
 * guest memory, cut into equal slots of one ring each. Pages appear when a ring is used.
 *
 * Size and place are multiples of 2 MiB, because SPDK registers memory in such chunks.
 */
#ifndef SVQ_MEM_REGION_FILE_H
#define SVQ_MEM_REGION_FILE_H

#include <stdbool.h>
#include <stdint.h>

#include <shadowvq/relay.h>

#define SVQ_REGION_ALIGN (UINT64_C(2) << 20)

struct svq_region_file {
    int fd;
    uint8_t *host;
    uint64_t size;
    uint64_t slot_size;
    unsigned slots;
};

/* Room for `slots` rings of up to `max_num` entries. Return: 0 or -errno. */
int svq_region_file_new(unsigned slots, unsigned max_num, struct svq_region_file **out);
void svq_region_file_free(struct svq_region_file *file);

/* Does a ring of num entries fit a slot? */
bool svq_region_file_fits(const struct svq_region_file *file, unsigned slot, unsigned num);

/* Where the parts of a ring of num entries lie in its slot: here, and as offsets into the file. */
struct svq_ring_place {
    struct svq_split_mem host;
    uint64_t desc;
    uint64_t avail;
    uint64_t used;
};

void svq_region_file_place(const struct svq_region_file *file, unsigned slot, unsigned num,
                           struct svq_ring_place *place);

#endif
