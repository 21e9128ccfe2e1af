/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A virtqueue as a guest's driver has it (virtio 1.3 sections 2.7 and 2.8): chains in, completions
 * out. It lives in a sim_memory, and every write to it is reported there as a CPU's write.
 *
 * A vring belongs to one thread at a time. What the driver must remember is kept privately and
 * never read back from shared memory; that is why a ring can move to a copy of its memory.
 */
#ifndef SIM_VRING_DRIVER_H
#define SIM_VRING_DRIVER_H

#include <stdbool.h>
#include <stdint.h>

#include "memory.h"

#define SIM_VRING_MAX_SEGMENTS 128

/* Where things lie: each part in pages of its own, or close together as Linux has them. */
enum sim_vring_layout { SIM_VRING_APART, SIM_VRING_TOGETHER };

struct sim_segment {
    uint64_t gpa;
    uint32_t len;
};

struct sim_vring_desc;
struct sim_vring_avail;
struct sim_vring_used;
struct sim_packed_desc;
struct sim_packed_event;

/* The driver's own record of a chain, at the index of its head, or its buffer id. */
struct sim_chain {
    void *token;     /* NULL: not outstanding */
    uint32_t room;   /* writable bytes */
    uint16_t length; /* descriptors taken */
    uint16_t last;   /* index of the last of them; packed: the id again */
};

/* A place in a packed ring. */
struct sim_place {
    uint16_t index;
    bool wrap;
};

/* What only a packed ring has. */
struct sim_packed {
    struct sim_packed_desc *desc;
    struct sim_packed_event *driver; /* when we want to be called */
    struct sim_packed_event *device; /* when the device wants to be kicked */
    struct sim_place avail;          /* next descriptor to fill */
    struct sim_place used;           /* next one to be used */
    struct sim_place first;          /* filled and not shown: flags to be stored, */
    uint16_t first_flags;            /* last of all */
    unsigned hidden;                 /* descriptors filled and not shown */
    struct sim_place event;          /* last one written to driver */
};

struct sim_vring {
    /* Fixed by sim_vring_new(). */
    unsigned num;
    bool event_idx;
    bool is_packed;
    uint64_t desc_gpa;
    uint64_t avail_gpa; /* packed: the driver's event structure */
    uint64_t used_gpa;  /* packed: the device's */

    /* Follow the memory: sim_vring_attach(). */
    struct sim_memory *mem;
    struct sim_vring_desc *desc;
    struct sim_vring_avail *avail;
    struct sim_vring_used *used;

    /* The driver's own state. */
    struct sim_chain *chains; /* by head or id */
    uint16_t *next;           /* by descriptor or id: what follows, in a chain or when free */
    uint16_t free_head;
    unsigned free_count;
    unsigned outstanding;   /* chains the device has not completed */
    uint16_t avail_idx;     /* next entry to fill */
    uint16_t published_idx; /* what the device was told */
    uint16_t used_idx;      /* next entry to read */
    uint16_t used_event;    /* last one written */
    struct sim_packed packed;
    bool calls_wanted; /* from the device, since sim_vring_want_calls() */
    const char *error; /* what the device did wrong, static text */
};

struct sim_vring_config {
    unsigned num;
    enum sim_vring_layout layout;
    bool event_idx;
    bool packed;
};

/* Return: 0, -EINVAL unless num is a power of two up to 32768, -ENOMEM (guest's or ours). */
int sim_vring_new(struct sim_memory *mem, const struct sim_vring_config *config,
                  struct sim_vring **out);
void sim_vring_free(struct sim_vring *ring);

/* Go on in another memory that holds a copy of this ring. */
void sim_vring_attach(struct sim_vring *ring, struct sim_memory *mem);

/*
 * Put a chain into the available ring; the device does not see it before sim_vring_publish().
 * @out, @in: how many segments the device reads, and how many after them it writes
 * @table: gpa of room for an indirect table of all segments, or SIM_NO_GPA for a direct chain
 * @token: comes back from sim_vring_pop(); not NULL
 *
 * Return: 0, -ENOSPC when the ring is full, -EINVAL.
 */
int sim_vring_add(struct sim_vring *ring, const struct sim_segment *segments, unsigned out,
                  unsigned in, uint64_t table, void *token);

/* Show the device what was added. Return: whether it wants to be kicked. */
bool sim_vring_publish(struct sim_vring *ring);

/* Take a completed chain. Return: its token, NULL when there is none or the ring is in error. */
void *sim_vring_pop(struct sim_vring *ring, uint32_t *len);

/*
 * Ask to be called once `after` more chains than now are completed (at least 1). With event_idx
 * that is what happens; without, the device calls for each.
 *
 * Return: true when that many (of a packed ring: any) are there already, so that nobody will call:
 * pop instead.
 */
bool sim_vring_want_calls(struct sim_vring *ring, unsigned after);
void sim_vring_refuse_calls(struct sim_vring *ring);

/* Should the device have called by now, by what stands in the used ring? */
bool sim_vring_call_due(const struct sim_vring *ring);

/*
 * The device's own view, for messages and checks: its used index as it stands in memory; of a
 * packed ring the place up to which there are used descriptors.
 */
uint16_t sim_vring_device_idx(const struct sim_vring *ring);

/* Where a device begins, as in SET_VRING_BASE. */
uint32_t sim_vring_first_base(const struct sim_vring *ring);
/*
 * A device stopped at this base: has it completed all that it took, and is that possible? What it
 * has completed may have to arrive yet: looks at memory. Return: NULL, or a text that says no.
 */
const char *sim_vring_check_base(const struct sim_vring *ring, uint32_t base);

#endif
