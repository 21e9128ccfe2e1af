/* SPDX-License-Identifier: BSD-3-Clause */
#include "inflight.h"

#include <errno.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define VERSION 1
#define ALIGN   64

#define PACKED_F_AVAIL (1u << 7)
#define PACKED_F_USED  (1u << 15)

struct split_entry {
    uint8_t inflight;
    uint8_t padding[5];
    uint16_t next;
    uint64_t counter;
};

struct split_part {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t last_batch_head;
    uint16_t used_idx;
    struct split_entry desc[];
};

struct packed_entry {
    uint8_t inflight;
    uint8_t padding;
    uint16_t next; /* in its chain, or in the free list, which ends beyond the last entry */
    uint16_t last; /* of a chain, in its first entry; likewise the next two */
    uint16_t num;
    uint64_t counter;
    uint16_t id;
    uint16_t flags;
    uint32_t len;
    uint64_t addr;
};

struct packed_part {
    uint64_t features;
    uint16_t version;
    uint16_t desc_num;
    uint16_t free_head;
    uint16_t old_free_head;
    uint16_t used_idx;
    uint16_t old_used_idx;
    uint8_t used_wrap;
    uint8_t old_used_wrap;
    uint8_t padding[7];
    struct packed_entry desc[];
};

_Static_assert(sizeof(struct split_entry) == 16 && sizeof(struct split_part) == 16, "split");
_Static_assert(sizeof(struct packed_entry) == 32 && sizeof(struct packed_part) == 32, "packed");

struct order {
    uint64_t counter;
    uint16_t entry;
};

/* ---- Dying --------------------------------------------------------------------------------- */

static unsigned long steps_left;

void rd_crash_after(unsigned long steps)
{
    steps_left = steps;
}

void rd_step(void)
{
    /*
     * Only the compiler could change the order: what a killed process has executed is in memory,
     * and what it has not executed is not.
     */
    atomic_signal_fence(memory_order_seq_cst);
    if (steps_left && !--steps_left)
        raise(SIGKILL);
}

/* ---- The region ---------------------------------------------------------------------------- */

static size_t part_size(bool packed, unsigned entries)
{
    size_t size = packed ? sizeof(struct packed_part) + entries * sizeof(struct packed_entry)
                         : sizeof(struct split_part) + entries * sizeof(struct split_entry);

    return (size + ALIGN - 1) / ALIGN * ALIGN;
}

int rd_region_create(struct svq_vu_inflight *what, bool packed)
{
    int fd;

    if (!what->num_queues || !what->queue_size || what->queue_size > 32768)
        return -EINVAL;
    what->mmap_offset = 0;
    what->mmap_size = what->num_queues * part_size(packed, what->queue_size);
    fd = memfd_create("ramdisk-inflight", MFD_CLOEXEC);
    if (fd < 0)
        return -errno;
    if (ftruncate(fd, (off_t)what->mmap_size)) {
        int ret = -errno;

        close(fd);
        return ret;
    }
    return fd;
}

int rd_region_open(struct rd_region *region, const struct svq_vu_inflight *what, int fd)
{
    uint64_t size = what->mmap_offset + what->mmap_size;
    struct stat st;
    void *map;

    rd_region_close(region);
    if (!what->mmap_size || size < what->mmap_size || !what->num_queues || !what->queue_size)
        return -EINVAL;
    if (fstat(fd, &st))
        return -errno;
    if ((uint64_t)st.st_size < size)
        return -ERANGE;
    /* From the file's start: the offset need not be a whole number of pages. */
    map = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (map == MAP_FAILED)
        return -errno;
    *region = (struct rd_region){.map = map,
                                 .map_size = size,
                                 .parts = (char *)map + what->mmap_offset,
                                 .room = what->mmap_size,
                                 .queues = what->num_queues,
                                 .entries = what->queue_size};
    return 0;
}

void rd_region_close(struct rd_region *region)
{
    if (region->map)
        munmap(region->map, region->map_size);
    *region = (struct rd_region){.map = NULL};
}

/* ---- A queue's part ------------------------------------------------------------------------ */

int rd_track_open(struct rd_track *track, const struct rd_region *region, unsigned index,
                  unsigned num, bool packed)
{
    size_t size = part_size(packed, region->entries);

    rd_track_close(track);
    if (!region->map || index >= region->queues)
        return 0;
    if (num > region->entries || (index + 1) * size > region->room ||
        (uintptr_t)(region->parts + index * size) % sizeof(uint64_t))
        return -EINVAL;
    track->part = region->parts + index * size;
    track->entries = region->entries;
    track->again = calloc(region->entries, sizeof(*track->again));
    if (!track->again) {
        rd_track_close(track);
        return -ENOMEM;
    }
    return 0;
}

void rd_track_close(struct rd_track *track)
{
    free(track->again);
    *track = (struct rd_track){.part = NULL};
}

static int by_counter(const void *a, const void *b)
{
    const struct order *left = a, *right = b;

    return left->counter < right->counter ? -1 : left->counter > right->counter;
}

/* Put what is in flight into its old order. */
static void set_again(struct rd_track *track, struct order *found, unsigned count)
{
    qsort(found, count, sizeof(*found), by_counter);
    for (unsigned i = 0; i < count; i++)
        track->again[i] = found[i].entry;
    track->again_count = count;
    track->again_next = 0;
    track->counter = count ? found[count - 1].counter + 1 : 0;
}

static int check(struct rd_track *track, unsigned version, unsigned count)
{
    track->count = count;
    return version == VERSION && count && count <= track->entries ? 0 : -EBADMSG;
}

bool rd_track_next(struct rd_track *track, uint16_t *entry)
{
    if (track->again_next == track->again_count)
        return false;
    *entry = track->again[track->again_next++];
    return true;
}

/* ---- Split --------------------------------------------------------------------------------- */

/* The last `count` of what was given back is published: it is in flight no longer. */
static int clear_batch(struct rd_track *track, unsigned count)
{
    struct split_part *part = track->part;
    unsigned i = part->last_batch_head;

    for (; count; count--) {
        if (i >= track->count)
            return -EBADMSG;
        part->desc[i].inflight = 0;
        rd_step();
        i = part->desc[i].next;
    }
    return 0;
}

int rd_track_resume_split(struct rd_track *track, uint16_t used_idx)
{
    struct split_part *part = track->part;
    struct order *found;
    unsigned count = 0;
    uint16_t batch;

    track->fresh = !part->version;
    if (track->fresh) {
        part->desc_num = (uint16_t)track->entries;
        /* A ring that was used before: not to be taken for a batch of that many. */
        part->used_idx = used_idx;
        rd_step();
        part->version = VERSION;
    }
    if (check(track, part->version, part->desc_num))
        return -EBADMSG;
    batch = (uint16_t)(used_idx - part->used_idx);
    if (batch > track->count || clear_batch(track, batch))
        return -EBADMSG;
    part->used_idx = used_idx;
    rd_step();

    found = calloc(track->count, sizeof(*found));
    if (!found)
        return -ENOMEM;
    for (unsigned i = 0; i < track->count; i++) {
        if (part->desc[i].inflight)
            found[count++] = (struct order){.counter = part->desc[i].counter, .entry = (uint16_t)i};
    }
    set_again(track, found, count);
    free(found);
    return 0;
}

void rd_track_take_split(struct rd_track *track, uint16_t head)
{
    struct split_part *part = track->part;

    if (!part)
        return;
    part->desc[head].counter = track->counter++;
    rd_step();
    part->desc[head].inflight = 1;
    rd_step();
}

void rd_track_give_split(struct rd_track *track, uint16_t head)
{
    struct split_part *part = track->part;

    if (!part)
        return;
    part->desc[head].next = part->last_batch_head;
    rd_step();
    part->last_batch_head = head;
    rd_step();
    track->batch++;
}

void rd_track_commit_split(struct rd_track *track, uint16_t used_idx)
{
    struct split_part *part = track->part;

    if (!part)
        return;
    rd_step();
    clear_batch(track, track->batch);
    track->batch = 0;
    part->used_idx = used_idx;
    rd_step();
}

/* ---- Packed -------------------------------------------------------------------------------- */

static void begin_packed(struct packed_part *part, unsigned entries, const struct rd_place *used)
{
    for (unsigned i = 0; i < entries; i++)
        part->desc[i] = (struct packed_entry){.next = (uint16_t)(i + 1)};
    part->desc_num = (uint16_t)entries;
    part->free_head = part->old_free_head = 0;
    part->used_idx = part->old_used_idx = used->index;
    part->used_wrap = part->old_used_wrap = used->wrap;
    rd_step();
    part->version = VERSION;
    rd_step();
}

/* Was the descriptor at the old place overwritten by a used one? Then the batch was published. */
static bool was_published(const struct rd_packed_desc *ring, struct rd_place old)
{
    unsigned flags = atomic_load_explicit((const _Atomic uint16_t *)&ring[old.index].flags,
                                          memory_order_acquire);

    return (flags & (PACKED_F_AVAIL | PACKED_F_USED)) !=
           (old.wrap ? PACKED_F_AVAIL : PACKED_F_USED);
}

static void commit(struct packed_part *part)
{
    /* The free list first: what it has is not in flight, and a descriptor's flags tell no more. */
    part->old_free_head = part->free_head;
    rd_step();
    part->old_used_idx = part->used_idx;
    rd_step();
    part->old_used_wrap = part->used_wrap;
    rd_step();
}

/* Everything that is free is not in flight. Return: how many entries are free, or -EBADMSG. */
static int clear_free(struct rd_track *track)
{
    struct packed_part *part = track->part;
    unsigned count = 0;

    for (unsigned i = part->free_head; i < track->count; i = part->desc[i].next) {
        if (++count > track->count)
            return -EBADMSG;
        part->desc[i].inflight = 0;
    }
    rd_step();
    return (int)count;
}

/*
 * All of these belong to us. A predecessor that was killed while it wrote a batch may have left
 * used descriptors behind the one whose flags would have published them: the guest must not find
 * them there once we use the first.
 */
static void take_back(struct rd_packed_desc *ring, unsigned num, struct rd_place at, unsigned count)
{
    for (; count; count--) {
        _Atomic uint16_t *flags = (_Atomic uint16_t *)&ring[at.index].flags;
        unsigned old = atomic_load_explicit(flags, memory_order_relaxed);

        old &= ~(PACKED_F_AVAIL | PACKED_F_USED);
        atomic_store_explicit(flags, (uint16_t)(old | (at.wrap ? PACKED_F_AVAIL : PACKED_F_USED)),
                              memory_order_relaxed);
        if (++at.index == num) {
            at.index = 0;
            at.wrap = !at.wrap;
        }
    }
}

static int find_packed(struct rd_track *track, unsigned free_count, unsigned *in_flight)
{
    const struct packed_part *part = track->part;
    struct order *found = calloc(track->count, sizeof(*found));
    unsigned count = 0, descs = 0;

    if (!found)
        return -ENOMEM;
    for (unsigned i = 0; i < track->count; i++) {
        if (!part->desc[i].inflight)
            continue;
        found[count++] = (struct order){.counter = part->desc[i].counter, .entry = (uint16_t)i};
        descs += part->desc[i].num;
    }
    set_again(track, found, count);
    free(found);
    *in_flight = descs;
    /* Each entry is in the free list or in a chain. */
    return free_count + descs == track->count ? 0 : -EBADMSG;
}

int rd_track_resume_packed(struct rd_track *track, struct rd_packed_desc *ring, unsigned num,
                           struct rd_place *used, unsigned *in_flight)
{
    struct packed_part *part = track->part;
    struct rd_place old, new;
    int ret;

    track->fresh = !part->version;
    if (track->fresh)
        begin_packed(part, track->entries, used);
    if (check(track, part->version, part->desc_num))
        return -EBADMSG;
    old = (struct rd_place){.index = part->old_used_idx, .wrap = part->old_used_wrap};
    new = (struct rd_place){.index = part->used_idx, .wrap = part->used_wrap};
    if (old.index >= num || new.index >= num)
        return -EBADMSG;
    if ((new.index != old.index || new.wrap != old.wrap) && was_published(ring, old)) {
        commit(part);
        old = new;
    }
    /* What was not published never was. */
    part->free_head = part->old_free_head;
    part->used_idx = part->old_used_idx;
    part->used_wrap = part->old_used_wrap;
    rd_step();
    ret = clear_free(track);
    if (ret >= 0)
        ret = find_packed(track, (unsigned)ret, in_flight);
    if (ret || *in_flight > num)
        return ret ? ret : -EBADMSG;
    *used = old;
    take_back(ring, num, old, *in_flight);
    return 0;
}

int rd_track_take_packed(struct rd_track *track, const struct rd_packed_desc *descs, unsigned count)
{
    struct packed_part *part = track->part;
    uint16_t first;

    if (!part)
        return 0;
    first = part->old_free_head;
    if (first >= track->count)
        return -EBADMSG;
    part->desc[first].num = 0;
    part->desc[first].counter = track->counter++;
    rd_step();
    part->desc[first].inflight = 1;
    rd_step();
    for (unsigned i = 0; i < count; i++) {
        unsigned at = part->free_head;

        if (at >= track->count)
            return -EBADMSG;
        if (i == count - 1)
            part->desc[first].last = (uint16_t)at;
        part->desc[first].num++;
        part->desc[at].addr = descs[i].addr;
        part->desc[at].len = descs[i].len;
        part->desc[at].flags = descs[i].flags;
        part->desc[at].id = descs[i].id;
        rd_step();
        part->free_head = part->desc[at].next;
        rd_step();
    }
    /* Up to here it is still in the free list, and so was not taken. */
    part->old_free_head = part->free_head;
    rd_step();
    return first;
}

unsigned rd_track_recall(const struct rd_track *track, uint16_t entry, struct rd_packed_desc *descs,
                         unsigned max)
{
    const struct packed_part *part = track->part;
    unsigned count = part->desc[entry].num;
    unsigned at = entry;

    if (!count || count > max)
        return 0;
    for (unsigned i = 0; i < count; i++) {
        if (at >= track->count)
            return 0;
        descs[i] = (struct rd_packed_desc){.addr = part->desc[at].addr,
                                           .len = part->desc[at].len,
                                           .id = part->desc[at].id,
                                           .flags = part->desc[at].flags};
        if (i == count - 1 && at != part->desc[entry].last)
            return 0;
        at = part->desc[at].next;
    }
    return count;
}

void rd_track_give_packed(struct rd_track *track, uint16_t entry, struct rd_place used)
{
    struct packed_part *part = track->part;
    unsigned last;

    if (!part)
        return;
    last = part->desc[entry].last;
    if (last < track->count)
        part->desc[last].next = part->free_head;
    rd_step();
    part->free_head = entry;
    rd_step();
    part->used_idx = used.index;
    rd_step();
    part->used_wrap = used.wrap;
    rd_step();
}

void rd_track_commit_packed(struct rd_track *track, uint16_t entry)
{
    struct packed_part *part = track->part;

    if (!part)
        return;
    rd_step();
    part->desc[entry].inflight = 0;
    rd_step();
    commit(part);
}
