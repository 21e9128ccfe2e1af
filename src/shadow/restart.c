/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Another back-end goes on where one was lost. For the guest nothing happens: what was in flight
 * stays so, and the in-flight table, which no back-end ever saw, says all that the next one has to
 * know.
 *
 * What the old one had completed is worth the trouble of looking: the guest must not have that done
 * twice. Whether the rest was begun, or even done and not said so, nobody knows: it is done again,
 * in the guest's order.
 */
#include <errno.h>
#include <string.h>

#include "shadow/emit.h"
#include "shadow/tracker.h"

/* The driver's end of a ring like the present one that nobody has used yet. */
static void begin_ring(struct relay_ring *backend, const struct svq_vring *ring)
{
    enum svq_ring_format format = backend->is_packed ? SVQ_RING_PACKED : SVQ_RING_SPLIT;
    unsigned num = backend->is_packed ? backend->packed.num : backend->split.num;

    memset(ring->desc, 0, svq_vring_desc_size(format, num));
    memset(ring->driver, 0, svq_vring_driver_size(format, num));
    memset(ring->device, 0, svq_vring_device_size(format, num));
    if (backend->is_packed)
        packed_init(&backend->packed, ring, num, backend->packed.event_idx, SVQ_PACKED_START);
    else
        split_init(&backend->split, ring, num, backend->split.event_idx);
}

/* All that is left goes into the new ring. Return: how many chains. */
static unsigned emit_all(struct svq_relay *relay)
{
    const struct inflight *t = &relay->inflight;
    unsigned emitted = 0;

    for (unsigned i = 0; i < t->count; i++) {
        const struct inflight_chain *chain = &t->chains[t->order[i]];
        bool converted = t->rest[t->order[i]].block != TABLES_NONE;

        if (chain->done)
            continue;
        emit(relay, relay->backend.is_packed, relay->shares,
             converted ? TABLES_CONVERT : TABLES_KEEP, t->order[i]);
        emitted++;
    }
    return emitted;
}

/* The batch ends here; whether the back-end wants to be told is not asked: nobody is there yet. */
static void publish(struct relay_ring *backend)
{
    if (backend->is_packed) {
        packed_driver_publish(&backend->packed);
        (void)packed_driver_must_kick(&backend->packed);
    } else {
        split_driver_publish(&backend->split);
        (void)split_driver_must_kick(&backend->split);
    }
}

int svq_relay_restart(struct svq_relay *relay, const struct svq_vring *ring,
                      const struct svq_relay_tables *tables)
{
    struct inflight *t = &relay->inflight;
    unsigned emitted;
    int err;

    if (!ring->desc || !ring->driver || !ring->device || !tables_fit(&t->tables, tables))
        return -EINVAL;
    /* Once is enough: nobody adds to that ring. */
    if (!relay->fault)
        relay->complete(relay);
    err = inflight_restart(t);
    if (err)
        return err;
    if (t->tables.units)
        tables_move(&t->tables, tables);
    if (relay->fault_side == SVQ_SIDE_BACKEND) {
        relay->fault_side = SVQ_SIDE_NONE;
        relay->fault = NULL;
    }
    begin_ring(&relay->backend, ring);
    emitted = emit_all(relay);
    /* For a guest at fault nothing moves any more: what nobody sees can at least be taken back. */
    if (emitted && !relay->fault) {
        publish(&relay->backend);
        relay->stats.resubmitted += emitted;
    }
    svq_relay_hold(relay, relay->hold);
    return 0;
}

bool svq_relay_owes(const struct svq_relay *relay)
{
    const struct inflight *t = &relay->inflight;
    uint64_t returnable = t->number - inflight_newest(t, t->with).chains;
    uint64_t earlier = t->fresh > t->fixed ? t->fresh : t->fixed;

    if (relay->fault)
        return false;
    for (unsigned i = 0; i < t->num; i++) {
        const struct inflight_chain *chain = &t->chains[i];

        if (chain->slots && !chain->done && chain->number < earlier && chain->number < returnable)
            return true;
    }
    return !tracker_left_in_ring(relay);
}
