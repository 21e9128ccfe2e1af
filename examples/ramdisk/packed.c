/* SPDX-License-Identifier: BSD-3-Clause */
/* Packed rings (virtio 1.3 section 2.8). */
#include <errno.h>
#include <stdatomic.h>

#include "ring.h"

#define DESC_F_AVAIL (1u << 7)
#define DESC_F_USED  (1u << 15)

#define EVENT_ENABLE  0u
#define EVENT_DISABLE 1u
#define EVENT_DESC    2u

/* An event suppression structure, read and written in one piece: offset and wrap, then flags. */
struct rd_event {
    _Atomic uint32_t word;
};

static uint32_t event_word(unsigned flags, struct rd_place at)
{
    return (uint32_t)flags << 16 | (uint32_t)at.wrap << 15 | at.index;
}

static _Atomic uint16_t *flags_of(struct rd_packed_desc *desc)
{
    return (_Atomic uint16_t *)&desc->flags;
}

static void advance(struct rd_place *place, unsigned num, unsigned slots)
{
    unsigned index = place->index + slots;

    if (index >= num) {
        index -= num;
        place->wrap = !place->wrap;
    }
    place->index = (uint16_t)index;
}

int rd_packed_attach(struct rd_queue *queue, const struct rd_memory *mem)
{
    const struct svq_vu_vring_addr *addr = &queue->addr;
    struct rd_packed *p = &queue->p;

    if (!queue->num || addr->desc % 16 || addr->avail % 4 || addr->used % 4)
        return -EINVAL;
    p->desc = rd_memory_uaddr(mem, addr->desc, queue->num * sizeof(struct rd_packed_desc));
    p->driver = rd_memory_uaddr(mem, addr->avail, sizeof(struct rd_event));
    p->device = rd_memory_uaddr(mem, addr->used, sizeof(struct rd_event));
    return p->desc && p->driver && p->device ? 0 : -EINVAL;
}

int rd_packed_start(struct rd_queue *queue)
{
    struct rd_packed *p = &queue->p;
    unsigned in_flight;
    int ret;

    p->avail = (struct rd_place){.index = queue->base & 0x7fff, .wrap = queue->base >> 15 & 1};
    p->used = (struct rd_place){.index = queue->base >> 16 & 0x7fff, .wrap = queue->base >> 31};
    p->uncalled = 0;
    if (p->avail.index >= queue->num || p->used.index >= queue->num)
        return -EINVAL;
    if (!queue->track.part)
        return 0;
    ret = rd_track_resume_packed(&queue->track, p->desc, queue->num, &p->used, &in_flight);
    if (ret)
        return ret;
    /* What the front-end says cannot be right: only the region knows what is in flight. */
    if (!queue->track.fresh) {
        p->avail = p->used;
        advance(&p->avail, queue->num, in_flight);
    }
    return 0;
}

static bool add_table(struct rd_queue *queue, struct rd_chain *chain,
                      const struct rd_packed_desc *desc)
{
    unsigned count;
    const struct rd_packed_desc *table = rd_chain_table(queue, desc->addr, desc->len, &count);

    for (unsigned i = 0; table && i < count; i++) {
        const struct rd_packed_desc inner = *(const volatile struct rd_packed_desc *)&table[i];

        if (!rd_chain_add(queue, chain, inner.addr, inner.len, inner.flags & DESC_F_WRITE))
            return false;
    }
    return table;
}

/* The buffers of a chain whose descriptors have been copied. */
static bool add_all(struct rd_queue *queue, struct rd_chain *chain,
                    const struct rd_packed_desc *descs, unsigned count)
{
    for (unsigned i = 0; i < count; i++) {
        if (descs[i].flags & DESC_F_INDIRECT) {
            if (i + 1 < count)
                return rd_queue_fault(queue, "an indirect table where none may be");
            return add_table(queue, chain, &descs[i]);
        }
        if (!rd_chain_add(queue, chain, descs[i].addr, descs[i].len, descs[i].flags & DESC_F_WRITE))
            return false;
    }
    return true;
}

/* Copy an available chain. Return: how many descriptors; 0: it has no end. */
static unsigned copy_chain(struct rd_queue *queue, struct rd_packed_desc *descs)
{
    const struct rd_packed *p = &queue->p;
    struct rd_place at = p->avail;

    for (unsigned i = 0; i < queue->num && i < RD_MAX_SEGMENTS; i++) {
        descs[i] = *(const volatile struct rd_packed_desc *)&p->desc[at.index];
        if (!(descs[i].flags & DESC_F_NEXT))
            return i + 1;
        advance(&at, queue->num, 1);
    }
    return 0;
}

static bool is_available(const struct rd_packed *p)
{
    unsigned flags = atomic_load_explicit(flags_of(&p->desc[p->avail.index]), memory_order_acquire);

    return (flags & (DESC_F_AVAIL | DESC_F_USED)) == (p->avail.wrap ? DESC_F_AVAIL : DESC_F_USED);
}

bool rd_packed_pop(struct rd_queue *queue, struct rd_chain *chain)
{
    static struct rd_packed_desc descs[RD_MAX_SEGMENTS];
    struct rd_packed *p = &queue->p;
    bool again = rd_track_next(&queue->track, &chain->entry);
    unsigned count;
    int entry;

    if (!again && !is_available(p))
        return false;
    /* The ring's own descriptors of an old request may have been overwritten by used ones since. */
    count = again ? rd_track_recall(&queue->track, chain->entry, descs, RD_MAX_SEGMENTS)
                  : copy_chain(queue, descs);
    if (!count)
        return rd_queue_fault(queue, "a chain without end");
    chain->id = descs[count - 1].id;
    chain->slots = (uint16_t)count;
    if (!add_all(queue, chain, descs, count))
        return false;
    if (again)
        return true;
    entry = rd_track_take_packed(&queue->track, descs, count);
    if (entry < 0)
        return rd_queue_fault(queue, "no room in the in-flight region");
    chain->entry = (uint16_t)entry;
    advance(&p->avail, queue->num, count);
    return true;
}

/*
 * Each completion is published on its own: the in-flight region is right only then. (Used
 * descriptors that wait for an earlier one's flags would outlive us, were we killed meanwhile.)
 */
void rd_packed_push(struct rd_queue *queue, const struct rd_chain *chain, uint32_t len)
{
    struct rd_packed *p = &queue->p;
    struct rd_packed_desc *desc = &p->desc[p->used.index];
    unsigned flags = p->used.wrap ? DESC_F_AVAIL | DESC_F_USED : 0;

    advance(&p->used, queue->num, chain->slots);
    rd_track_give_packed(&queue->track, chain->entry, p->used);
    desc->id = chain->id;
    desc->len = len;
    if (len)
        flags |= DESC_F_WRITE;
    /* Release: whoever sees these flags sees the rest, and what was written to the buffers. */
    atomic_store_explicit(flags_of(desc), (uint16_t)flags, memory_order_release);
    rd_track_commit_packed(&queue->track, chain->entry);
    p->uncalled += chain->slots;
}

bool rd_packed_publish(struct rd_queue *queue)
{
    struct rd_packed *p = &queue->p;
    unsigned since = p->uncalled;
    uint32_t word;
    int event;

    if (!since)
        return false;
    p->uncalled = 0;
    /* The flags must be seen before we look at what the guest asked for; see rd_split_publish(). */
    atomic_thread_fence(memory_order_seq_cst);
    word = atomic_load_explicit(&p->driver->word, memory_order_relaxed);
    if (word >> 16 != EVENT_DESC)
        return word >> 16 == EVENT_ENABLE;
    /* How far behind the next place to be used lies the one that the guest waits for? */
    event = p->used.index - (int)(word & 0x7fff);
    if ((word >> 15 & 1) != p->used.wrap)
        event += (int)queue->num;
    return event > 0 && (unsigned)event <= since;
}

bool rd_packed_arm(struct rd_queue *queue)
{
    struct rd_packed *p = &queue->p;
    unsigned flags = queue->event_idx ? EVENT_DESC : EVENT_ENABLE;

    atomic_exchange(&p->device->word,
                    event_word(flags, queue->event_idx ? p->avail : (struct rd_place){.index = 0}));
    /* Whoever makes a chain available stores its flags and then looks at that word. */
    atomic_thread_fence(memory_order_seq_cst);
    return is_available(p);
}

void rd_packed_disarm(struct rd_queue *queue)
{
    if (!queue->event_idx)
        atomic_store_explicit(&queue->p.device->word,
                              event_word(EVENT_DISABLE, (struct rd_place){.index = 0}),
                              memory_order_relaxed);
}
