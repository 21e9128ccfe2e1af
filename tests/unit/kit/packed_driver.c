/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#include "packed.h"

static struct kit_packed_driver *driver_of(struct kit_driver *driver)
{
    return (struct kit_packed_driver *)driver;
}

static int broken(struct kit_driver *driver, const char *rule)
{
    driver->broken = rule;
    return -EPROTO;
}

/* ---- Ids -------------------------------------------------------------------------------------
 *
 * An id may be any 16-bit number (virtio 1.3 section 2.8.6). Multiplying by an odd number and
 * adding another one maps the 16-bit numbers onto themselves.
 */

static uint16_t id_of(const struct kit_packed_driver *d, uint16_t index)
{
    return (uint16_t)((uint32_t)index * d->id_factor + d->id_offset);
}

/* Return: the index of the chain that is in the ring by that id, or -1. */
static int index_of(const struct kit_packed_driver *d, uint16_t id)
{
    uint32_t inverse = 1;
    uint16_t index;

    /* Newton's iteration modulo 2^16: each step doubles the bits that are right, from 1. */
    for (unsigned step = 0; step < 4; step++)
        inverse = (inverse * (2 - inverse * d->id_factor)) & 0xffff;
    index = (uint16_t)((uint16_t)(id - d->id_offset) * inverse);
    return index < d->driver.ring.num && d->chains[index].slots ? index : -1;
}

static uint16_t pop_spare(struct kit_packed_driver *d)
{
    unsigned at = d->spare_count - 1;
    uint16_t index;

    if (d->driver.rng)
        at = kit_below(d->driver.rng, d->spare_count);
    index = d->spare[at];
    d->spare[at] = d->spare[--d->spare_count];
    return index;
}

/* ---- Adding ---------------------------------------------------------------------------------- */

static uint16_t garbage(struct kit_packed_driver *d)
{
    return d->driver.rng ? (uint16_t)kit_rand(d->driver.rng) : 0xdead;
}

static void fill_table(struct kit_packed_driver *d, const struct kit_chain *chain)
{
    unsigned n = chain->count - chain->direct;
    const struct kit_buf *bufs = chain->bufs + chain->direct;
    struct kit_pdesc *table = kit_memory_at(d->driver.memory, chain->table, n * sizeof(*table));

    for (unsigned i = 0; i < n; i++) {
        uint16_t rest = chain->scatter ? garbage(d) & ~KIT_P_WRITE : 0;

        table[i].addr = bufs[i].gpa;
        table[i].len = bufs[i].len;
        table[i].id = chain->scatter ? garbage(d) : 0;
        table[i].flags = (uint16_t)((bufs[i].write ? KIT_P_WRITE : 0) | rest);
    }
}

static uint16_t desc_flags(struct kit_packed_driver *d, const struct kit_chain *chain, unsigned i,
                           bool last)
{
    uint16_t flags = kit_avail_flags(d->added.wrap);

    if (!last)
        flags |= KIT_P_NEXT;
    if (i == chain->direct)
        flags |= (uint16_t)(KIT_P_INDIRECT | (chain->scatter ? garbage(d) & KIT_P_WRITE : 0));
    else if (chain->bufs[i].write)
        flags |= KIT_P_WRITE;
    return flags;
}

/* The next descriptor. The flags of the first one since publish() are written by publish(). */
static void put(struct kit_packed_driver *d, uint64_t addr, uint32_t len, uint16_t id,
                uint16_t flags)
{
    struct kit_pdesc *desc = &d->driver.ring.packed.desc[d->added.off];

    d->written[d->added.off] = (struct kit_pdesc){addr, len, id, flags};
    desc->addr = addr;
    desc->len = len;
    desc->id = id;
    if (d->unpublished) {
        kit_set16(&desc->flags, flags);
    } else {
        d->first = d->added;
        d->first_flags = flags;
    }
    d->unpublished++;
    kit_place_move(&d->added, d->driver.ring.num, 1);
}

static bool packed_add(struct kit_driver *driver, const struct kit_chain *chain)
{
    struct kit_packed_driver *d = driver_of(driver);
    bool indirect = chain->direct < chain->count;
    unsigned needed = chain->direct + indirect;
    uint16_t index;

    kit_require(needed > 0);
    if (needed > d->free_slots)
        return false;
    if (indirect)
        fill_table(d, chain);
    index = pop_spare(d);
    d->chains[index] = (struct kit_packed_chain){chain->token, (uint16_t)needed, false};
    if (driver->in_order)
        d->order[(d->order_first + d->order_count++) % driver->ring.num] = index;
    d->free_slots -= needed;
    d->unseen += needed;
    for (unsigned i = 0; i < needed; i++) {
        bool last = i + 1 == needed;
        uint16_t flags = desc_flags(d, chain, i, last);
        /* The id is in the last one; the others' mean nothing. */
        uint16_t id = last ? id_of(d, index) : garbage(d);

        if (i < chain->direct)
            put(d, chain->bufs[i].gpa, chain->bufs[i].len, id, flags);
        else
            put(d, chain->table, (chain->count - chain->direct) * 16, id, flags);
    }
    return true;
}

static bool packed_publish(struct kit_driver *driver)
{
    struct kit_packed_driver *d = driver_of(driver);
    unsigned count = d->unpublished;
    int wanted;

    if (!count)
        return false;
    kit_set16(&driver->ring.packed.desc[d->first.off].flags, d->first_flags);
    d->unpublished = 0;
    /* The flags before the suppression state: pairs with the device's fence in pending(). */
    __sync_synchronize();
    wanted = kit_event_wanted(driver->ring.packed.device, driver->event_idx, d->first, count,
                              driver->ring.num);
    if (wanted < 0)
        broken(driver, "the device's event suppression is invalid");
    return wanted != 0;
}

/* ---- Completions ----------------------------------------------------------------------------- */

static bool is_used(const struct kit_packed_driver *d)
{
    const struct kit_pdesc *desc = &d->driver.ring.packed.desc[d->used.off];

    return (kit_get16(&desc->flags) & (KIT_P_AVAIL | KIT_P_USED)) == kit_used_flags(d->used.wrap);
}

/* The chains that one used entry completes, all or none of them. Return: their descriptors, or 0.
 */
static unsigned complete_batch(struct kit_packed_driver *d, int last, unsigned *chains)
{
    unsigned slots = 0;

    *chains = 0;
    if (!d->driver.in_order) {
        *chains = 1;
        return d->chains[last].slots;
    }
    for (unsigned i = d->order_seen; i < d->order_count; i++) {
        uint16_t index = d->order[(d->order_first + i) % d->driver.ring.num];

        slots += d->chains[index].slots;
        (*chains)++;
        if (index == last)
            return slots;
    }
    return 0;
}

/* A device writes one descriptor for a chain or a batch, and leaves the rest of it alone. */
static bool rest_untouched(const struct kit_packed_driver *d, unsigned slots)
{
    struct kit_place at = d->used;

    while (--slots) {
        const struct kit_pdesc *now, *was;

        kit_place_move(&at, d->driver.ring.num, 1);
        now = &d->driver.ring.packed.desc[at.off];
        was = &d->written[at.off];
        if (now->addr != was->addr || now->len != was->len || now->id != was->id ||
            now->flags != was->flags)
            return false;
    }
    return true;
}

/* Take in the next used entry. 1, 0 or -EPROTO, as reap(). */
static int see_next(struct kit_packed_driver *d)
{
    struct kit_driver *driver = &d->driver;
    const struct kit_pdesc *desc = &driver->ring.packed.desc[d->used.off];
    struct kit_packed_seen *seen;
    unsigned slots, chains;
    int index;

    if (driver->broken)
        return -EPROTO;
    if (!is_used(d))
        return 0;
    if (d->unseen == d->unpublished)
        return broken(driver, "a used entry although nothing is out");
    index = index_of(d, desc->id);
    if (index < 0 || d->chains[index].seen)
        return broken(driver, "a used id is not out");
    slots = complete_batch(d, index, &chains);
    if (!slots || slots > d->unseen - d->unpublished)
        return broken(driver, "a used id is out of order or was not published");
    if (!rest_untouched(d, slots))
        return broken(driver, "a descriptor was written that is not the used entry's");
    d->chains[index].seen = true;
    seen = &d->seen[(d->seen_first + d->seen_count++) % driver->ring.num];
    *seen = (struct kit_packed_seen){
        .seen = {d->chains[index].token, chains, d->used.off, slots},
        .index = (uint16_t)index,
        .len = desc->flags & KIT_P_WRITE ? desc->len : 0,
    };
    d->order_seen += driver->in_order ? chains : 0;
    d->unseen -= slots;
    kit_place_move(&d->used, driver->ring.num, slots);
    return 1;
}

static int packed_peek(struct kit_driver *driver, struct kit_seen *seen)
{
    struct kit_packed_driver *d = driver_of(driver);
    int result = see_next(d);

    if (result > 0)
        *seen = d->seen[(d->seen_first + d->seen_count - 1) % driver->ring.num].seen;
    return result;
}

static void release(struct kit_packed_driver *d, uint16_t index, struct kit_done *done)
{
    struct kit_packed_chain *chain = &d->chains[index];

    done->token = chain->token;
    d->free_slots += chain->slots;
    d->spare[d->spare_count++] = index;
    chain->slots = 0;
}

static int packed_reap(struct kit_driver *driver, struct kit_done *done)
{
    struct kit_packed_driver *d = driver_of(driver);
    struct kit_packed_seen *seen = &d->seen[d->seen_first];
    uint16_t index;

    if (!d->seen_count) {
        int result = see_next(d);

        if (result <= 0)
            return result;
    }
    index = seen->index;
    if (driver->in_order) {
        index = d->order[d->order_first];
        d->order_first = (d->order_first + 1) % driver->ring.num;
        d->order_count--;
        d->order_seen--;
    }
    done->skipped = index != seen->index;
    done->len = done->skipped ? 0 : seen->len;
    release(d, index, done);
    if (!done->skipped) {
        d->seen_first = (d->seen_first + 1) % driver->ring.num;
        d->seen_count--;
    }
    return 1;
}

/* ---- Notifications --------------------------------------------------------------------------- */

static void ask(struct kit_packed_driver *d, unsigned distance)
{
    struct kit_place at = d->used;

    kit_place_move(&at, d->driver.ring.num, distance);
    kit_event_set(d->driver.ring.packed.driver, kit_place_word(at), KIT_EVENT_DESC);
}

static void packed_interrupts(struct kit_driver *driver, bool on)
{
    struct kit_packed_driver *d = driver_of(driver);
    struct kit_event *event = driver->ring.packed.driver;

    if (!on)
        kit_event_set(event, garbage(d), KIT_EVENT_DISABLE);
    else if (!driver->event_idx || (driver->rng && kit_percent(driver->rng, 30)))
        kit_event_set(event, garbage(d), KIT_EVENT_ENABLE);
    else
        ask(d, 0);
}

static void packed_delay(struct kit_driver *driver, unsigned percent)
{
    struct kit_packed_driver *d = driver_of(driver);
    unsigned distance = (d->unseen - d->unpublished) * percent / 100;

    if (!driver->event_idx || distance >= driver->ring.num)
        packed_interrupts(driver, true);
    else
        ask(d, distance);
}

static bool packed_pending(struct kit_driver *driver)
{
    struct kit_packed_driver *d = driver_of(driver);

    __sync_synchronize();
    return d->seen_count || is_used(d);
}

static uint16_t packed_next(struct kit_driver *driver)
{
    return kit_place_word(driver_of(driver)->added);
}

static void packed_free(struct kit_driver *driver)
{
    struct kit_packed_driver *d = driver_of(driver);

    free(d->written);
    free(d->chains);
    free(d->spare);
    free(d->order);
    free(d->seen);
    free(d);
}

static const struct kit_driver_ops packed_ops = {
    .add = packed_add,
    .publish = packed_publish,
    .reap = packed_reap,
    .peek = packed_peek,
    .interrupts = packed_interrupts,
    .delay = packed_delay,
    .pending = packed_pending,
    .next = packed_next,
    .free = packed_free,
};

/* The ring as a driver leaves it that has come so far: all used, each in its last round. */
static void prepare_ring(struct kit_packed_driver *d)
{
    struct kit_ring *ring = &d->driver.ring;

    for (unsigned i = 0; i < ring->num; i++) {
        bool wrap = i < d->added.off ? d->added.wrap : !d->added.wrap;

        ring->packed.desc[i] = (struct kit_pdesc){0, 0, garbage(d), kit_used_flags(wrap)};
    }
    kit_event_set(ring->packed.device, 0, KIT_EVENT_ENABLE);
}

struct kit_driver *kit_packed_driver_new(const struct kit_memory *memory,
                                         const struct kit_ring *ring, uint64_t features,
                                         uint16_t base, struct kit_rng *rng)
{
    struct kit_packed_driver *d = calloc(1, sizeof(*d));
    unsigned num = ring->num;

    kit_require(d != NULL);
    kit_driver_init(&d->driver, &packed_ops, memory, ring, features, rng);
    d->added = d->used = kit_place_at(base);
    kit_require(d->added.off < num);
    d->free_slots = d->spare_count = num;
    d->written = calloc(num, sizeof(*d->written));
    d->chains = calloc(num, sizeof(*d->chains));
    d->spare = calloc(num, sizeof(*d->spare));
    d->order = calloc(num, sizeof(*d->order));
    d->seen = calloc(num, sizeof(*d->seen));
    kit_require(d->written && d->chains && d->spare && d->order && d->seen);
    for (unsigned i = 0; i < num; i++)
        d->spare[i] = (uint16_t)(num - 1 - i);
    d->id_factor = 1;
    if (rng && kit_percent(rng, 70)) {
        d->id_factor = (uint16_t)(kit_rand(rng) | 1);
        d->id_offset = (uint16_t)kit_rand(rng);
    }
    prepare_ring(d);
    packed_interrupts(&d->driver, true);
    return &d->driver;
}
