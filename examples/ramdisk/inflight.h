/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The in-flight region (vhost-user, "Inflight I/O tracking"): which requests this back-end has
 * taken and not completed, in memory that the front-end keeps. When we are killed a successor reads
 * it, does those requests again, and the guest never knows.
 *
 * It works because each step below is one store: a kill comes between two of them, and the reader
 * can tell between which. rd_step() stands at those places; --crash-after dies there.
 */
#ifndef RAMDISK_INFLIGHT_H
#define RAMDISK_INFLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <shadowvq/vhost_user.h>

/* A packed descriptor (virtio 1.3 section 2.8.13). */
struct rd_packed_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t id;
    uint16_t flags;
};

/* A place in a packed ring. */
struct rd_place {
    uint16_t index;
    bool wrap;
};

/* The region as SET_INFLIGHT_FD brought it. */
struct rd_region {
    void *map;
    size_t map_size;
    char *parts; /* in there */
    size_t room; /* bytes of all parts */
    unsigned queues;
    unsigned entries; /* of each part */
};

/* A queue's part of it, and what need not survive us. */
struct rd_track {
    void *part;       /* NULL: nothing is tracked */
    unsigned entries; /* it has */
    unsigned count;   /* of them in use: its desc_num, which the front-end could change */
    bool fresh;       /* nobody had used it before */
    uint64_t counter; /* of the next request */
    unsigned batch;   /* given back, but not published yet */
    uint16_t *again;  /* requests to be done again: heads, or entries */
    unsigned again_count;
    unsigned again_next;
};

/* ---- The region ---------------------------------------------------------------------------- */

/* Make one of what->num_queues parts for rings of what->queue_size. Return: its fd or -errno. */
int rd_region_create(struct svq_vu_inflight *what, bool packed);

/* Map one; the fd stays the caller's. Return: 0 or -errno: then there is none. */
int rd_region_open(struct rd_region *region, const struct svq_vu_inflight *what, int fd);
void rd_region_close(struct rd_region *region);

/* ---- A queue's part ------------------------------------------------------------------------ */

/* Find it; without a region there is none. Return: 0 or -EINVAL: it does not fit the ring. */
int rd_track_open(struct rd_track *track, const struct rd_region *region, unsigned index,
                  unsigned num, bool packed);
void rd_track_close(struct rd_track *track);

/*
 * Read what a predecessor left and go on from there, or begin with `used`, if there was none. Then
 * `again` has what to do again, in its old order.
 * @used_idx: as the guest sees it; a split ring's used index tells what has been published
 *
 * Return: 0, -EBADMSG when it contradicts itself or the ring, -ENOMEM.
 */
int rd_track_resume_split(struct rd_track *track, uint16_t used_idx);

/*
 * The same for a packed ring, where the descriptor at the old place tells. Corrects `used`, and
 * says how many descriptors are in flight behind it.
 */
int rd_track_resume_packed(struct rd_track *track, struct rd_packed_desc *ring, unsigned num,
                           struct rd_place *used, unsigned *in_flight);

/* The next one to do again. Return: false when there is none (left). */
bool rd_track_next(struct rd_track *track, uint16_t *entry);

/* Before a request can have any effect. */
void rd_track_take_split(struct rd_track *track, uint16_t head);
/* Return: the entry that stands for it, or -EBADMSG. `count` descriptors, NEXT in all but one. */
int rd_track_take_packed(struct rd_track *track, const struct rd_packed_desc *descs,
                         unsigned count);
/* What was taken there. Return: how many descriptors, at most max; 0: nonsense. */
unsigned rd_track_recall(const struct rd_track *track, uint16_t entry, struct rd_packed_desc *descs,
                         unsigned max);

/* Before a completion is published, and after. */
void rd_track_give_split(struct rd_track *track, uint16_t head);
void rd_track_commit_split(struct rd_track *track, uint16_t used_idx);
void rd_track_give_packed(struct rd_track *track, uint16_t entry, struct rd_place used);
void rd_track_commit_packed(struct rd_track *track, uint16_t entry);

/* ---- Dying --------------------------------------------------------------------------------- */

/* Be killed at the steps'th step from now; 0: never. */
void rd_crash_after(unsigned long steps);
/* What was stored before is stored when a kill comes after. */
void rd_step(void);

#endif
