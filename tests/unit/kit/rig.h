/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A relay between a guest's driver and a back-end's device, all in one thread: the stage for the
 * relay's unit tests. For use inside cmocka tests: it asserts.
 */
#ifndef SVQ_TESTS_KIT_RIG_H
#define SVQ_TESTS_KIT_RIG_H

#include "packed.h"
#include "ring.h"
#include "split.h"

/* Guest memory: the ring's areas, indirect tables and buffers, each on pages of their own. */
#define RIG_GPA    UINT64_C(0x100000)
#define RIG_DESC   RIG_GPA
#define RIG_DRIVER (RIG_GPA + 0x080000)
#define RIG_DEVICE (RIG_GPA + 0x0a0000)
#define RIG_TABLES (RIG_GPA + 0x100000)
#define RIG_DATA   (RIG_GPA + 0x200000)
#define RIG_SIZE   UINT64_C(0x1000000)
#define RIG_END    (RIG_GPA + RIG_SIZE)
#define RIG_PAGE   UINT64_C(4096)
/* Where the back-end finds the relay's tables: no guest memory there. */
#define RIG_SHADOW (UINT64_C(1) << 44)

struct rig {
    struct kit_memory memory;
    struct kit_ring guest;
    struct kit_ring shadow; /* shared: the back-end has the guest's descriptors, and not these */
    void *shadow_memory;
    struct svq_relay_tables tables;
    struct kit_driver *driver;
    struct kit_device *device;
    struct svq_relay *relay;
    unsigned num;              /* of the guest's ring */
    uint64_t features;         /* of the guest's side */
    uint64_t backend_features; /* of the other */
    uint32_t base;             /* the guest ring's first one */
    bool share;                /* may the back-end have the guest's descriptor table? */
    uint64_t next_data;        /* where rig_buf() takes the next buffer from */
    unsigned completed;        /* see rig_completed() */
};

/* What a rig is made of. */
struct rig_sides {
    unsigned num;     /* of the guest's ring */
    uint64_t guest;   /* features */
    uint64_t backend; /* features */
    uint32_t base;    /* as in SET_VRING_BASE; packed: its lower half */
    bool share;       /* as in svq_relay_config.may_share */
};

/*
 * A cmocka test on such sides; the name of the struct is the end of the test's name.
 */
/* clang-format off */
#define RIG_TEST(name, sides) \
    {#name "_" #sides, name, rig_setup, rig_teardown, (void *)(uintptr_t)&(sides)}
/* clang-format on */

/* Fixtures: *state is a struct rig_sides before the setup, the rig after it. */
int rig_setup(void **state);
int rig_teardown(void **state);

void rig_init(struct rig *rig, const struct rig_sides *sides);
void rig_free(struct rig *rig);

/* A relay from the guest ring's present state; the shadow ring starts afresh. */
void rig_start(struct rig *rig, uint32_t base);
/*
 * The back-end is gone and another one begins: svq_relay_restart() with a ring and tables of its
 * own. Return: its result; unless that is 0 everything is as it was.
 */
int rig_restart(struct rig *rig);
/* Without a device: the config that rig_start() uses. */
struct svq_relay_config rig_config(const struct rig *rig, uint32_t base);
/* Another device: on the shadow ring, or on the guest's own with the guest's features. */
void rig_attach(struct rig *rig, bool shadow, uint32_t base);
/* The device stops. Return: its base. */
uint32_t rig_stop(struct rig *rig);

/*
 * Bases of rings that only chains of two descriptors have gone through, as rig_offer_simple() makes
 * them: so many taken, so many used.
 */
uint32_t rig_guest_base(const struct rig *rig, unsigned taken, unsigned used);
uint32_t rig_shadow_base(const struct rig *rig, unsigned taken, unsigned used);

/* A fresh buffer of guest memory. */
struct kit_buf rig_buf(struct rig *rig, uint32_t len, bool write);

/* Add a chain and publish it. The token is any number. Return: whether to kick. */
bool rig_offer_chain(struct rig *rig, const struct kit_chain *chain);
bool rig_offer(struct rig *rig, const struct kit_buf *bufs, unsigned count, uintptr_t token);
/* One readable, one writable buffer of 64 bytes. */
bool rig_offer_simple(struct rig *rig, uintptr_t token);

/* One turn that must not fault. */
unsigned rig_poll(struct rig *rig);
/* Turns until nothing moves. Return: all their bits. */
unsigned rig_settle(struct rig *rig);

/* The device takes one chain; it must exist. Return: its id. */
uint16_t rig_take(struct rig *rig, struct kit_buf *bufs, int count);
/* Nothing for the device to take. */
void rig_expect_idle_device(struct rig *rig);
/* Complete and publish. Return: whether to call. */
bool rig_complete(struct rig *rig, uint16_t id, uint32_t len);
/* The device takes everything there is and completes it with len. Return: how many. */
unsigned rig_serve(struct rig *rig, uint32_t len);

/*
 * Change all that the guest's descriptors say, as a guest may at any moment, without taking back
 * those that are available.
 */
void rig_scribble(struct rig *rig);

/* The guest finds this completion next. */
void rig_expect_done(struct rig *rig, uintptr_t token, uint32_t len);
void rig_expect_nothing_done(struct rig *rig);
/* So many chains have been completed in the guest's ring altogether, reaped or not. */
unsigned rig_completed(struct rig *rig);

/* The relay has stopped over a fault of that side, says why, and moves nothing more. */
void rig_expect_fault(struct rig *rig, enum svq_side side);
void rig_expect_no_fault(const struct rig *rig);

struct svq_relay_state rig_state(const struct rig *rig);
struct svq_relay_stats rig_stats(const struct rig *rig);

#endif
