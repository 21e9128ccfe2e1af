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

#define SVQ_RING_MAX 32768u /* entries; virtio 1.3 sections 2.7 and 2.8 */

/* ---- Rings ------------------------------------------------------------------------------ */

enum svq_ring_format {
    SVQ_RING_SPLIT, /* virtio 1.3 section 2.7 */
    SVQ_RING_PACKED /* virtio 1.3 section 2.8 */
};

/*
 * The three areas of a virtqueue (virtio 1.3 section 2.6) in this process. Split: descriptor table,
 * available ring, used ring. Packed: descriptor ring, driver and device event suppression.
 */
struct svq_vring {
    void *desc;
    void *driver;
    void *device;
};

/* Bytes of each area for num entries; in split rings with the event index fields. */
size_t svq_vring_desc_size(enum svq_ring_format format, unsigned num);
size_t svq_vring_driver_size(enum svq_ring_format format, unsigned num);
size_t svq_vring_device_size(enum svq_ring_format format, unsigned num);

/* May a ring have that many entries? Only split ones need a power of two. */
bool svq_vring_num_valid(enum svq_ring_format format, unsigned num);

/*
 * How far the two ends of a ring have come. Split: free-running 16-bit indices of the available and
 * the used ring; packed: offsets into the descriptor ring, each with its wrap counter.
 */
struct svq_ring_index {
    uint16_t avail; /* the next one that the device takes */
    uint16_t used;  /* the next one that the device uses */
    bool avail_wrap;
    bool used_wrap;
};

/*
 * The packed ring's base as GET_VRING_BASE and SET_VRING_BASE carry it (vhost-user, "Vring state"):
 * bits 0-14 avail, 15 its wrap counter, 16-30 used, 31 its wrap counter. Some peers know the lower
 * half only; a word whose upper half is 0 is read as "nothing is in flight": used as avail.
 */
uint32_t svq_packed_base(const struct svq_ring_index *index);
struct svq_ring_index svq_packed_index(uint32_t base);

/*
 * Can a ring of num entries stand there? Packed: what was taken and is not used is at most a ring
 * full.
 */
bool svq_vring_base_valid(enum svq_ring_format format, unsigned num, uint32_t base);

/* The base of a ring that nobody has used yet. */
#define SVQ_SPLIT_START  0u
#define SVQ_PACKED_START 0x80008000u

/* ---- The relay -------------------------------------------------------------------------- */

/* Who broke the rules. */
enum svq_side { SVQ_SIDE_NONE, SVQ_SIDE_GUEST, SVQ_SIDE_BACKEND };

/* The ring features that a relay can have, on either side independently of the other. */
#define SVQ_RELAY_FEATURES                                                                  \
    (SVQ_BIT(SVQ_F_INDIRECT_DESC) | SVQ_BIT(SVQ_F_EVENT_IDX) | SVQ_BIT(SVQ_F_RING_PACKED) | \
     SVQ_BIT(SVQ_F_IN_ORDER))

static inline enum svq_ring_format svq_ring_format(uint64_t features)
{
    return features & SVQ_BIT(SVQ_F_RING_PACKED) ? SVQ_RING_PACKED : SVQ_RING_SPLIT;
}

struct svq_relay;

/* One of the two rings. */
struct svq_relay_side {
    unsigned num;          /* entries, up to SVQ_RING_MAX */
    uint64_t features;     /* acked ones of SVQ_RELAY_FEATURES */
    struct svq_vring ring; /* the guest's stays mapped as long as `map` is referenced */
};

/*
 * Memory that the back-end reads at another address: here go indirect tables whose format the
 * back-end does not know.
 */
struct svq_relay_tables {
    void *host;
    uint64_t addr; /* the same memory in the addresses that descriptors carry; 16-byte aligned */
    size_t size;   /* bytes; at least svq_relay_tables_size() */
};

struct svq_relay_config {
    struct svq_relay_side guest;
    struct svq_relay_side backend; /* the shadow ring: zeroed by svq_relay_new() */
    uint32_t base;                 /* the guest ring's, as in SET_VRING_BASE */
    struct svq_map *map;           /* guest memory; the relay takes a reference */
    struct svq_relay_tables tables;

    /*
     * The queue's part of the in-flight region (see inflight.h), mapped as long as the relay lives;
     * NULL: nobody wants to know. What it lists is taken again first, and then base does not count.
     */
    void *inflight;
    unsigned inflight_entries; /* of the part; at least guest.num */

    /*
     * May the back-end read the guest's own descriptor table, as it does without us? Then that is
     * what it is to be given where svq_relay_shares() says so, and the relay does not look into
     * descriptors while it does not log: a cache line that nobody else reads costs the guest
     * nothing to write. They reach the back-end unchecked, and used lengths the guest.
     */
    bool may_share;
};

/* Entries of the smallest shadow ring that holds what a guest's ring of num entries holds. */
unsigned svq_relay_shadow_num(enum svq_ring_format shadow, unsigned num);

/* Bytes of tables that a relay of this configuration may need; 0: none. */
size_t svq_relay_tables_size(const struct svq_relay_config *config);
/* The most that it can be for a guest's ring of num entries. */
size_t svq_relay_tables_max(unsigned num);

/* Everything an operator may want to read; all counters only grow. */
struct svq_relay_stats {
    uint64_t chains;        /* completed: used entries given to the guest */
    uint64_t resubmitted;   /* given to a back-end again, after a crash */
    uint64_t bytes;         /* of buffers in completed chains, both directions; of a chain whose
                               descriptors nobody has looked into: what the back-end wrote */
    uint64_t guest_kicks;   /* received */
    uint64_t backend_kicks; /* sent */
    uint64_t backend_calls; /* received */
    uint64_t guest_calls;   /* sent */
};

struct svq_relay_state {
    struct svq_ring_index guest;   /* avail: next to take; used: next to write */
    struct svq_ring_index backend; /* avail: next to write; used: next to take */
    unsigned in_flight;            /* chains between the two */
};

/* Where and what to log. */
struct svq_relay_log {
    struct svq_log *log; /* NULL: nothing; the relay takes a reference */
    bool ring;           /* log what we write in the guest's ring, too */
    uint64_t desc_gpa;   /* guest-physical address of its descriptor area; packed only */
    uint64_t device_gpa; /* and of its device area */
};

/* What svqd does with the result of a turn: bits of svq_relay_poll()'s return value. */
#define SVQ_RELAY_BUSY         0x1u /* something moved: poll again */
#define SVQ_RELAY_KICK_BACKEND 0x2u /* notify the back-end */
#define SVQ_RELAY_CALL_GUEST   0x4u /* notify the guest */
#define SVQ_RELAY_FAULT        0x8u /* a side broke the rules: see svq_relay_fault() */

/**
 * svq_relay_new() - a relay that starts at config->base with nothing in flight.
 *
 * A split guest's used index continues from what its ring says. The shadow ring starts from
 * SVQ_SPLIT_START or SVQ_PACKED_START.
 *
 * Return: 0, -EINVAL (size, NULL ring, base, tables), -ENOTSUP (features the relay cannot do),
 * -EBADMSG (the in-flight region makes no sense), -ENOMEM.
 */
int svq_relay_new(const struct svq_relay_config *config, struct svq_relay **out);

/**
 * svq_relay_begin() - a relay that was made ahead, without an in-flight region, and has not moved
 * anything, starts somewhere else: at config->base, or where the in-flight region says.
 * @config: for the rest, what it was made with
 *
 * Return: as svq_relay_new(); after an error it can only be freed.
 */
int svq_relay_begin(struct svq_relay *relay, const struct svq_relay_config *config);
void svq_relay_free(struct svq_relay *relay);

/*
 * Does the back-end read the guest's descriptor table, and not the shadow ring's? Both rings are
 * split then, and of one size. Never changes; any thread may ask.
 */
bool svq_relay_shares(const struct svq_relay *relay);

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
int svq_relay_drained(const struct svq_relay *relay, uint32_t base);

/**
 * svq_relay_owes() - is anything in flight that an earlier back-end was given already, and that can
 * no longer go back to the guest's ring, since a younger chain was completed? A back-end that stops
 * before it has taken that could not be drained: let it go on until this is false.
 */
bool svq_relay_owes(const struct svq_relay *relay);

/* The shadow ring's base for a back-end that stopped at `base` and is to go on. */
uint32_t svq_relay_resume_base(const struct svq_relay *relay, uint32_t base);

/**
 * svq_relay_restart() - the back-end is gone; another one begins, with a shadow ring of its own.
 *
 * What the old one has completed, as far as its ring shows, is returned to the guest first. All
 * that is left is put into the new ring, in the order in which the guest made it available; a fault
 * of the old back-end is forgotten. The new ring, zeroed by this, starts from SVQ_SPLIT_START or
 * SVQ_PACKED_START, has the old one's size, format and features, and wants one kick.
 * @ring, tables: the new one's, as in svq_relay_config; the old ones are not used any more
 *
 * The caller polls once afterwards, and calls the guest once.
 *
 * Return: 0; -EINVAL (NULL ring, tables too small); -ENOMEM: the relay is as it was.
 */
int svq_relay_restart(struct svq_relay *relay, const struct svq_vring *ring,
                      const struct svq_relay_tables *tables);

/**
 * svq_relay_detach() - end of this shadow: leave the guest's ring as a device that starts at the
 * returned index expects it, with notifications asked for. Call once drained; called earlier,
 * chains that are in flight and older than a completed one are lost with the back-end.
 *
 * Return: the guest ring's base.
 */
uint32_t svq_relay_detach(struct svq_relay *relay);

/**
 * svq_relay_set_log() - from the next turn on write dirty pages there, or nowhere.
 *
 * Chains already in flight count too.
 */
void svq_relay_set_log(struct svq_relay *relay, const struct svq_relay_log *log);

/**
 * svq_relay_set_guest() - the same guest ring at new pointers, after the memory map changed.
 */
void svq_relay_set_guest(struct svq_relay *relay, const struct svq_vring *guest,
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
