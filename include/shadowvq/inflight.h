/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The in-flight region: memory that outlives a back-end, in which it writes down the requests that
 * it has taken and not completed (vhost-user, "Inflight I/O tracking"). The front-end keeps it and
 * hands it to the back-end's successor, which does those again, in their old order, before it takes
 * anything new.
 *
 * The region has one part for each queue, one behind the other. Whoever may write it may write
 * anything: a part is read once, copied and checked, and what makes no sense is refused.
 *
 * Everything here is memory only. A part belongs to whoever serves its queue.
 */
#ifndef SHADOWVQ_INFLIGHT_H
#define SHADOWVQ_INFLIGHT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <shadowvq/relay.h>

#ifdef __cplusplus
extern "C" {
#endif

/* Bytes of a queue's part for num entries: a multiple of 64, as libvhost-user and DPDK have it. */
size_t svq_inflight_size(enum svq_ring_format format, unsigned num);

/* What a part says of its ring. */
struct svq_inflight_report {
    bool tracked;       /* somebody has used it; if not, the rest is 0 */
    unsigned in_flight; /* chains to be done again */
    uint32_t base;      /* of the ring once those have been taken again, as in SET_VRING_BASE */
    uint32_t used_base; /* of the ring as it is to one that knows of nothing in flight */
};

/**
 * svq_inflight_read() - what would the next one to serve this ring find? Changes nothing.
 * @part: svq_inflight_size() bytes for `entries`, at a multiple of 8
 * @entries: of the part (SET_INFLIGHT_FD's queue size)
 * @num: of the ring; not more than entries
 * @guest: the ring
 *
 * Return: 0, -EINVAL (sizes, @part), -ENOMEM, or -EBADMSG when it contradicts itself or the ring.
 */
int svq_inflight_read(const void *part, enum svq_ring_format format, unsigned entries, unsigned num,
                      const struct svq_vring *guest, struct svq_inflight_report *report);

/**
 * svq_inflight_reset() - make a part say: nothing is in flight, and the ring has been used up to
 * here. To be done before a ring starts that was used before, or the first crash clears a request
 * that it should not (the part of a new ring may as well be zero).
 * @base: the ring's, as in SET_VRING_BASE; of a split ring, its used index
 */
void svq_inflight_reset(void *part, enum svq_ring_format format, unsigned entries, uint32_t base);

/**
 * svq_inflight_disown() - the same, and that nobody keeps the part yet. Whoever starts the ring
 * then goes by SET_VRING_BASE alone, also where that lies ahead of what is used: it may still be at
 * work on what it took before it was stopped.
 */
void svq_inflight_disown(void *part, enum svq_ring_format format, unsigned entries, uint32_t base);

#ifdef __cplusplus
}
#endif
#endif
