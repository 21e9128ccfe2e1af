/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The relay of one virtqueue: a device towards the guest's ring, a driver towards the back-end's
 * (the shadow ring), with a private table of what is in flight between them.
 *
 *      guest ring --avail--> [ in-flight table ] --avail--> shadow ring
 *      guest ring <--used--- [ in-flight table ] <--used--- shadow ring
 *
 * Ownership: a relay belongs to one thread at a time (its worker). Nothing here locks, prints or
 * sleeps; after svq_relay_new() memory is allocated only to grow the private copy of an indirect
 * table beyond the largest that its slot has held. Guest and back-end may write anything into their
 * rings: that stops the relay with a fault, and nothing else.
 */
#ifndef SHADOWVQ_RELAY_H
#define SHADOWVQ_RELAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <shadowvq/mem.h>
#include <shadowvq/vhost_user.h>

#ifdef __cplusplus
extern "C" {
#endif

#define SVQ_RING_MAX 32768u /* entries; virtio 1.3 section 2.7 */

/* The parts of a split virtqueue in this process (virtio 1.3 section 2.7). */
struct svq_split_mem {
    void *desc;
    void *avail;
    void *used;
};

/* Bytes of each part of a split ring of num entries, with the event index fields. */
size_t svq_split_desc_size(unsigned num);
size_t svq_split_avail_size(unsigned num);
size_t svq_split_used_size(unsigned num);

/* Who broke the rules. */
enum svq_side { SVQ_SIDE_NONE, SVQ_SIDE_GUEST, SVQ_SIDE_BACKEND };

/* The ring features that a relay can have on both its sides. */
#define SVQ_RELAY_FEATURES \
    (SVQ_BIT(SVQ_F_INDIRECT_DESC) | SVQ_BIT(SVQ_F_EVENT_IDX) | SVQ_BIT(SVQ_F_IN_ORDER))

struct svq_relay;

struct svq_relay_config {
    unsigned num;                 /* entries of both rings, a power of two up to SVQ_RING_MAX */
    uint64_t features;            /* acked ones of SVQ_RELAY_FEATURES */
    struct svq_split_mem guest;   /* stays mapped as long as `map` is referenced */
    struct svq_split_mem backend; /* the shadow ring: zeroed by svq_relay_new() */
    uint16_t base;                /* the guest's next available index */
    struct svq_map *map;          /* guest memory; the relay takes a reference */
};

/* Everything an operator may want to read; all counters only grow. */
struct svq_relay_stats {
    uint64_t chains;        /* completed: used entries given to the guest */
    uint64_t bytes;         /* of buffers in completed chains, both directions */
    uint64_t guest_kicks;   /* received */
    uint64_t backend_kicks; /* sent */
    uint64_t backend_calls; /* received */
    uint64_t guest_calls;   /* sent */
};

struct svq_relay_state {
    uint16_t guest_avail;   /* next entry to take from the guest's available ring */
    uint16_t guest_used;    /* next entry to write in the guest's used ring */
    uint16_t backend_avail; /* next entry to write in the shadow's available ring */
    uint16_t backend_used;  /* next entry to take from the shadow's used ring */
    unsigned in_flight;     /* chains between the two */
};

/* What svqd does with the result of a turn: bits of svq_relay_poll()'s return value. */
#define SVQ_RELAY_BUSY         0x1u /* something moved: poll again */
#define SVQ_RELAY_KICK_BACKEND 0x2u /* notify the back-end */
#define SVQ_RELAY_CALL_GUEST   0x4u /* notify the guest */
#define SVQ_RELAY_FAULT        0x8u /* a side broke the rules: see svq_relay_fault() */

/**
 * svq_relay_new() - a relay that starts at config->base with nothing in flight.
 *
 * The guest's used index continues from what the ring says. The shadow ring starts from 0.
 *
 * Return: 0, -EINVAL (size, NULL ring), -ENOTSUP (features the relay cannot do), -ENOMEM.
 */
int svq_relay_new(const struct svq_relay_config *config, struct svq_relay **out);
void svq_relay_free(struct svq_relay *relay);

/**
 * svq_relay_poll() - one turn: completions to the guest, then new chains to the back-end, each at
 * most one ring's worth, each index published once.
 *
 * Return: SVQ_RELAY_* bits. After a fault the relay moves nothing any more.
 */
unsigned svq_relay_poll(struct svq_relay *relay);

/**
 * svq_relay_arm() - ask both sides to notify from now on, then look again.
 *
 * Return: true when there is work, or a new fault, after all (poll again), false when it is safe to
 * sleep until a kick or a call arrives.
 */
bool svq_relay_arm(struct svq_relay *relay);

/* svq_relay_disarm() - ask both sides not to notify: the caller polls. */
void svq_relay_disarm(struct svq_relay *relay);

/**
 * svq_relay_hold() - stop (or go on) taking chains from the guest.
 *
 * Completions still flow, but while held the back-end is asked not to call, since a back-end that
 * is about to stop may trip over its call fd: the caller polls. Poll once after the hold ends, too.
 */
void svq_relay_hold(struct svq_relay *relay, bool hold);

/**
 * svq_relay_drained() - after the back-end stopped at `base` (its GET_VRING_BASE answer): has it
 * completed every chain it took? Chains it never took do not count: they stay in the guest's ring.
 *
 * A base behind what has been completed counts as that: some back-ends read their index first and
 * then complete more before they stop.
 *
 * Return: 1 drained, 0 not yet (poll and ask again), -EPROTO when base is impossible.
 */
int svq_relay_drained(const struct svq_relay *relay, uint16_t base);

/**
 * svq_relay_detach() - end of this shadow: leave the guest's ring as a device that starts at the
 * returned index expects it, with notifications asked for. Call once drained; called earlier,
 * chains that are in flight and older than a completed one are lost with the back-end.
 *
 * Return: the guest's next available index.
 */
uint16_t svq_relay_detach(struct svq_relay *relay);

/**
 * svq_relay_set_log() - from the next turn on write dirty pages to `log`, or to none (NULL).
 * @log: the relay takes a reference
 * @used_gpa: guest-physical address of the guest's used ring; @log_used: whether to log that ring
 *
 * Chains already in flight count too.
 */
void svq_relay_set_log(struct svq_relay *relay, struct svq_log *log, bool log_used,
                       uint64_t used_gpa);

/**
 * svq_relay_set_guest() - the same guest ring at new pointers, after the memory map changed.
 */
void svq_relay_set_guest(struct svq_relay *relay, const struct svq_split_mem *guest,
                         struct svq_map *map);

/* The caller saw a notification; only counts it. */
void svq_relay_count_kick(struct svq_relay *relay);
void svq_relay_count_call(struct svq_relay *relay);

/* Who broke the rules, and how; NONE and NULL while nobody did. Strings are static. */
enum svq_side svq_relay_fault(const struct svq_relay *relay, const char **reason);

void svq_relay_state(const struct svq_relay *relay, struct svq_relay_state *state);
void svq_relay_stats(const struct svq_relay *relay, struct svq_relay_stats *stats);

#ifdef __cplusplus
}
#endif
#endif
