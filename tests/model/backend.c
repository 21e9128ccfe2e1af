/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The back-end: takes some, completes some, in any order or as IN_ORDER demands, and sleeps when
 * the ring is empty. What it takes is checked against the plain queue. Now and then it crashes.
 */
#include <stdlib.h>
#include <string.h>

#include "model.h"

void backend_attach(struct world *w, bool shadow, uint32_t base)
{
    struct backend *b = &w->backend;

    b->device = rings_device(w, shadow, base);
    b->shadow = shadow;
    b->stopping = false;
    b->awake = true;
}

/* ---- Taking -------------------------------------------------------------------------------- */

static void check_taken(struct world *w, const struct chain *chain, const struct kit_buf *bufs,
                        int count)
{
    unsigned long long number = chain->number;

    model_check(w, chain->state == CHAIN_OFFERED, "chain %llu arrives twice", number);
    model_check(w, (unsigned)count == chain->count, "chain %llu arrives with %d buffers, not %u",
                number, count, chain->count);
    for (int i = 0; i < count; i++) {
        const struct kit_buf *sent = &chain->bufs[i];

        model_check(
            w, bufs[i].gpa == sent->gpa && bufs[i].len == sent->len && bufs[i].write == sent->write,
            "chain %llu arrives with another buffer %d", number, i);
        if (!sent->write)
            model_check(w, chain_filled(w, chain, (unsigned)i, false),
                        "chain %llu arrives with other bytes", number);
    }
}

/*
 * A back-end with IN_ORDER may rely on split descriptors in the order of the table, from its start
 * (virtio 1.3 section 2.7.9). Where the slots are the guest's own that is the guest's business.
 */
static void check_slots(struct world *w, const struct chain *chain, uint16_t id)
{
    const struct side *front = &w->front, *back = &w->back;
    bool flat = front->indirect && !back->indirect;
    struct backend *b = &w->backend;
    unsigned slots = chain->count;

    if (!b->shadow || !back->in_order || back->packed)
        return;
    if (!front->packed && front->in_order && front->num == back->num && !flat)
        return;
    if (chain->table && !flat)
        slots = front->packed ? 1 : chain->direct + 1;
    model_check(w, id == b->next_slot, "chain %llu begins at slot %u, not %u",
                (unsigned long long)chain->number, id, b->next_slot);
    b->next_slot = (uint16_t)((id + slots) % back->num);
}

/* Which chain has to come. */
static struct chain *next_chain(struct world *w)
{
    struct backend *b = &w->backend;
    struct queue *q = &w->queue;

    if (b->redo_count) {
        b->redo_count--;
        w->totals->redone++;
        return b->redo[b->redo_first++];
    }
    model_check(w, q->taken < q->offered, "a chain arrives that nobody offered");
    return q->chains[q->taken++ & (q->room - 1)];
}

static bool take_one(struct world *w)
{
    struct backend *b = &w->backend;
    static struct kit_buf bufs[MODEL_MAX_BUFS];
    struct chain *chain;
    uint16_t id = 0;
    int count = b->device->ops->take(b->device, &id, bufs, MODEL_MAX_BUFS);

    model_check(w, count >= 0, "the back-end's ring is broken: %s", b->device->broken);
    if (!count)
        return false;
    model_check(w, !b->shadow || id < w->back.num, "the relay makes the id %u", id);
    chain = next_chain(w);
    check_taken(w, chain, bufs, count);
    check_slots(w, chain, id);
    chain->state = CHAIN_TAKEN;
    chain->id = id;
    b->taken[b->taken_count++] = chain;
    return true;
}

/* ---- Completing ---------------------------------------------------------------------------- */

static void finish(struct world *w, struct chain *chain, bool skipped, uint32_t len)
{
    struct queue *q = &w->queue;

    for (unsigned i = 0; i < chain->count; i++)
        if (chain->bufs[i].write)
            chain_fill(w, chain, i, true);
    chain->state = CHAIN_COMPLETED;
    chain->skipped = skipped;
    chain->said = len;
    chain->expected = len < chain->writable ? len : (uint32_t)chain->writable;
    q->completed[q->completed_count++ & (q->room - 1)] = chain;
}

/* What a device says it wrote; on a shadow ring also more than there was room for. */
static uint32_t pick_len(struct world *w, const struct chain *chain)
{
    if (w->backend.shadow && kit_percent(&w->rng, 5))
        return (uint32_t)kit_rand(&w->rng);
    if (kit_percent(&w->rng, 50))
        return (uint32_t)chain->writable;
    return kit_below(&w->rng, (uint32_t)chain->writable + 1);
}

static void remove_taken(struct backend *b, unsigned at, unsigned count)
{
    b->taken_count -= count;
    memmove(b->taken + at, b->taken + at + count, (b->taken_count - at) * sizeof(b->taken[0]));
}

static void complete_one(struct world *w)
{
    struct backend *b = &w->backend;
    bool in_order = w->back.in_order;
    unsigned at = in_order ? 0 : kit_below(&w->rng, b->taken_count), batch = 1;
    struct chain *last;
    uint32_t len;

    if (in_order && kit_percent(&w->rng, 50))
        batch = kit_between(&w->rng, 1, b->taken_count);
    if (!in_order && at < b->taken_count - 1 && b->taken_count > 64)
        at = b->taken_count - 1 - at % 64; /* near the end: less to move */
    last = b->taken[at + batch - 1];
    len = pick_len(w, last);
    for (unsigned i = 0; i + 1 < batch; i++)
        finish(w, b->taken[at + i], true, 0);
    finish(w, last, false, len);
    b->device->ops->complete(b->device, last->id, len, batch);
    remove_taken(b, at, batch);
}

static void complete_some(struct world *w, unsigned most)
{
    struct backend *b = &w->backend;

    for (unsigned n = kit_between(&w->rng, 1, most); n && b->taken_count; n--)
        complete_one(w);
    if (b->device->ops->publish(b->device)) {
        w->totals->calls++;
        host_backend_calls(w);
    }
    model_check(w, !b->device->broken, "the back-end's ring is broken: %s", b->device->broken);
}

uint32_t backend_stop(struct world *w)
{
    struct backend *b = &w->backend;
    uint32_t base = b->device->ops->stop(b->device);

    b->stopping = true;
    if (!b->shadow || !kit_percent(&w->rng, 20))
        return base;
    /* As virtiofsd: the answer is from before its last chains, and by now it has completed all. */
    for (unsigned most = kit_below(&w->rng, 8); most && take_one(w); most--)
        ;
    while (b->taken_count)
        complete_some(w, b->taken_count);
    return base;
}

/* ---- Death --------------------------------------------------------------------------------- */

/* It dies between writing used entries and publishing them: so they count for nothing. */
static void leave_unpublished(struct world *w)
{
    struct backend *b = &w->backend;
    unsigned count = kit_between(&w->rng, 1, b->taken_count);

    for (unsigned i = 0; i < count; i++)
        b->device->ops->complete(b->device, b->taken[i]->id, 0, 1);
}

/* The end of what it does is nonsense. */
static void leave_fault(struct world *w)
{
    struct kit_device *device = w->backend.device;

    device->ops->complete(device, (uint16_t)kit_between(&w->rng, w->back.num, 65535), 0, 1);
    device->ops->publish(device);
}

/* So must the chains come again: those that it had taken, then those that it should have. */
static void plan_redo(struct backend *b)
{
    for (unsigned i = 0; i < b->taken_count; i++)
        b->taken[i]->state = CHAIN_OFFERED;
    memmove(b->redo + b->taken_count, b->redo + b->redo_first, b->redo_count * sizeof(b->redo[0]));
    memcpy(b->redo, b->taken, b->taken_count * sizeof(b->redo[0]));
    b->redo_first = 0;
    b->redo_count += b->taken_count;
    b->taken_count = 0;
}

bool backend_crash(struct world *w)
{
    struct backend *b = &w->backend;
    bool fault = false;

    /* Without a chain out nobody would look at the entries before the wrong one. */
    if (b->taken_count && kit_percent(&w->rng, 60)) {
        fault = kit_percent(&w->rng, 50);
        if (fault)
            leave_fault(w);
        else
            leave_unpublished(w);
    }
    plan_redo(b);
    return fault;
}

static int by_number(const void *a, const void *b)
{
    uint64_t one = (*(struct chain *const *)a)->number, other = (*(struct chain *const *)b)->number;

    return one < other ? -1 : one > other;
}

void backend_lose(struct world *w)
{
    struct backend *b = &w->backend;
    struct queue *q = &w->queue;

    if (w->front.in_order) {
        for (uint64_t n = q->relayed; n != q->taken; n++)
            if (q->chains[n & (q->room - 1)]->state == CHAIN_COMPLETED)
                b->taken[b->taken_count++] = q->chains[n & (q->room - 1)];
    } else {
        for (uint64_t n = q->relayed; n != q->completed_count; n++)
            b->taken[b->taken_count++] = q->completed[n & (q->room - 1)];
    }
    q->completed_count = q->relayed;
    plan_redo(b);
    qsort(b->redo, b->redo_count, sizeof(b->redo[0]), by_number);
}

bool backend_untaken_in_row(const struct world *w)
{
    const struct backend *b = &w->backend;

    return !b->redo_count || b->redo[b->redo_first]->number + b->redo_count == w->queue.taken;
}

uint64_t backend_oldest(const struct world *w)
{
    const struct backend *b = &w->backend;
    uint64_t oldest = w->queue.taken;

    if (b->redo_count)
        oldest = b->redo[b->redo_first]->number;
    if (b->taken_count && b->taken[0]->number < oldest)
        oldest = b->taken[0]->number;
    return oldest;
}

/* ---- Life ---------------------------------------------------------------------------------- */

bool backend_step(struct world *w)
{
    struct backend *b = &w->backend;
    unsigned most;

    if (b->taken_count && !b->keeping && kit_percent(&w->rng, 40)) {
        complete_some(w, kit_percent(&w->rng, b->greedy_percent) ? b->taken_count : 4);
        return true;
    }
    if (b->stopping)
        return b->taken_count > 0;
    if (!b->awake) {
        if (!b->kick)
            return b->taken_count > 0 && !b->keeping;
        b->kick = false;
        b->awake = true;
        if (kit_percent(&w->rng, 80))
            b->device->ops->kicks(b->device, false);
        return true;
    }
    if (!w->quiescing && kit_percent(&w->rng, b->lazy_percent))
        return true;
    most = kit_percent(&w->rng, b->greedy_percent) ? w->back.num : kit_between(&w->rng, 1, 3);
    while (most && take_one(w))
        most--;
    if (!b->device->ops->pending(b->device) && kit_percent(&w->rng, 50)) {
        b->device->ops->kicks(b->device, true);
        b->awake = b->device->ops->pending(b->device);
    }
    return true;
}

void backend_init(struct world *w)
{
    struct backend *b = &w->backend;

    b->taken = malloc(w->front.num * sizeof(b->taken[0]));
    b->redo = malloc(w->front.num * sizeof(b->redo[0]));
    kit_require(b->taken && b->redo);
    b->lazy_percent = kit_percent(&w->rng, 30) ? 90 : kit_below(&w->rng, 50);
    b->greedy_percent = kit_percent(&w->rng, 50) ? 2 : 30;
    b->short_base = w->back.packed && kit_percent(&w->rng, 30);
}

void backend_free(struct world *w)
{
    free(w->backend.taken);
    free(w->backend.redo);
}
