/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The races that notifications live by, as duels: one side publishes work and looks whether it has
 * to notify, the other asks to be notified and looks for work, both at the same moment. Whatever
 * the order, at least one of them must see the other. Each round lasts nanoseconds; hence so many.
 */
#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <time.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { ROUNDS = 60000, RING = 64 };

/* The relay's side of a duel, in its own thread. */
struct duel {
    struct rig rig;
    bool (*act)(struct svq_relay *relay);
    pthread_t thread;
    bool seen;
    bool stop;
    _Alignas(128) unsigned round;
    _Alignas(128) unsigned done;
};

static void wait_for(const unsigned *value, unsigned wanted)
{
    for (unsigned spin = 0; __atomic_load_n(value, __ATOMIC_ACQUIRE) != wanted; spin++)
        if (spin % 4096 == 4095)
            sched_yield();
}

/*
 * A store is overtaken by the load after it only while it waits for its cache line. So the relay's
 * thread has at hand what it is going to read, and the other one owns what the relay will write.
 */
static void fetch_what_the_relay_reads(const struct rig *rig)
{
    struct svq_ring_index guest = rig_state(rig).guest, backend = rig_state(rig).backend;

    if (rig->guest.format == SVQ_RING_PACKED) {
        kit_get16(&rig->guest.packed.desc[guest.avail].flags);
        kit_get16(&rig->guest.packed.driver->flags);
    } else {
        kit_get16(&rig->guest.split.avail->flags);
        kit_get16(&rig->guest.split.avail->idx);
        kit_get16(kit_used_event(&rig->guest));
    }
    if (rig->shadow.format == SVQ_RING_PACKED) {
        kit_get16(&rig->shadow.packed.desc[backend.used].flags);
        kit_get16(&rig->shadow.packed.device->flags);
    } else {
        kit_get16(&rig->shadow.split.used->flags);
        kit_get16(&rig->shadow.split.used->idx);
        kit_get16(kit_avail_event(&rig->shadow));
    }
}

static void own(uint16_t *p)
{
    __atomic_fetch_or(p, 0, __ATOMIC_SEQ_CST);
}

static void own_what_the_relay_writes(const struct rig *rig)
{
    struct svq_ring_index guest = rig_state(rig).guest, backend = rig_state(rig).backend;

    if (rig->guest.format == SVQ_RING_PACKED) {
        own(&rig->guest.packed.desc[guest.used].flags);
        own(&rig->guest.packed.device->flags);
    } else {
        own(&rig->guest.split.used->idx);
        own(kit_avail_event(&rig->guest));
    }
    if (rig->shadow.format == SVQ_RING_PACKED) {
        own(&rig->shadow.packed.desc[backend.avail].flags);
        own(&rig->shadow.packed.driver->flags);
    } else {
        own(&rig->shadow.split.avail->idx);
        own(kit_used_event(&rig->shadow));
    }
}

static void *relay_main(void *arg)
{
    struct duel *d = arg;

    for (unsigned round = 1;; round++) {
        wait_for(&d->round, round);
        if (d->stop)
            return NULL;
        fetch_what_the_relay_reads(&d->rig);
        d->seen = d->act(d->rig.relay);
        __atomic_store_n(&d->done, round, __ATOMIC_RELEASE);
    }
}

static bool polls_and_calls(struct svq_relay *relay)
{
    return svq_relay_poll(relay) & SVQ_RELAY_CALL_GUEST;
}

static bool polls_and_kicks(struct svq_relay *relay)
{
    return svq_relay_poll(relay) & SVQ_RELAY_KICK_BACKEND;
}

/* ---- The other side -------------------------------------------------------------------------- */

static void prepare_chain(struct rig *rig)
{
    rig_offer_simple(rig, 1);
}

/* A chain that the back-end has completed and the relay has not seen. */
static void prepare_completion(struct rig *rig)
{
    struct kit_buf bufs[2];

    rig_offer_simple(rig, 1);
    rig_settle(rig);
    rig_complete(rig, rig_take(rig, bufs, 2), 1);
}

static void finish(struct rig *rig)
{
    rig_settle(rig);
    rig_serve(rig, 1);
    rig_settle(rig);
    rig_expect_done(rig, 1, 1);
}

struct side {
    void (*prepare)(struct rig *rig);
    /* Return: this side knows that there is something to do, or has notified. */
    bool (*act)(struct rig *rig);
    bool idle; /* no chain is on its way afterwards */
};

static bool guest_goes_to_sleep(struct rig *rig)
{
    struct kit_driver *driver = rig->driver;

    driver->ops->interrupts(driver, true);
    return driver->ops->pending(driver);
}

static void guest_polls(struct rig *rig)
{
    rig->driver->ops->interrupts(rig->driver, false);
    prepare_completion(rig);
}

static bool backend_goes_to_sleep(struct rig *rig)
{
    struct kit_device *device = rig->device;

    device->ops->kicks(device, true);
    return device->ops->pending(device);
}

static void backend_polls(struct rig *rig)
{
    rig->device->ops->kicks(rig->device, false);
    prepare_chain(rig);
}

static void relay_polls(struct rig *rig)
{
    svq_relay_disarm(rig->relay);
    rig_settle(rig);
}

static bool guest_offers(struct rig *rig)
{
    return rig_offer_simple(rig, 1);
}

static struct kit_buf offered[2];
static uint16_t taken;

static void backend_takes(struct rig *rig)
{
    svq_relay_disarm(rig->relay);
    rig_offer_simple(rig, 1);
    rig_settle(rig);
    taken = rig_take(rig, offered, 2);
}

static bool backend_completes(struct rig *rig)
{
    return rig_complete(rig, taken, 1);
}

static uint64_t now_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static void fight(const struct rig_sides *sides, bool (*relay)(struct svq_relay *),
                  struct side other)
{
    struct kit_rng rng = {7};
    struct duel *d = NULL;
    /* Without a chain a round takes next to no time. */
    unsigned rounds = other.idle ? 20 * ROUNDS : ROUNDS;
    unsigned missed = 0, aim = 200, round;
    uint64_t end = now_ms() + 1200; /* enough, even where the two have to share a processor */

    kit_require(!posix_memalign((void **)&d, 128, sizeof(*d)));
    rig_init(&d->rig, sides);
    d->act = relay;
    d->round = d->done = 0;
    d->stop = false;
    kit_require(!pthread_create(&d->thread, NULL, relay_main, d));
    for (round = 1; round <= rounds && now_ms() < end; round++) {
        unsigned delay = kit_below(&rng, 2 * aim);
        bool seen;

        other.prepare(&d->rig);
        own_what_the_relay_writes(&d->rig);
        __atomic_store_n(&d->round, round, __ATOMIC_RELEASE);
        while (delay--)
            __asm__ volatile("");
        seen = other.act(&d->rig);
        wait_for(&d->done, round);
        missed += !seen && !d->seen;
        /* Whoever sees the other came second: keep both as close together as can be. */
        if (!seen)
            aim += aim < 5000;
        else if (aim > 2)
            aim--;
        if (!other.idle)
            finish(&d->rig);
    }
    d->stop = true;
    __atomic_store_n(&d->round, round, __ATOMIC_RELEASE);
    kit_require(!pthread_join(d->thread, NULL));
    rig_free(&d->rig);
    free(d);
    assert_int_equal(missed, 0);
}

static const struct rig_sides split = {RING, 0, 0, 65000};
static const struct rig_sides shared = {RING, 0, 0, 65000, true};
static const struct rig_sides shared_events = {RING, EVENT_IDX, EVENT_IDX, 65000, true};
static const struct rig_sides split_events = {RING, EVENT_IDX, EVENT_IDX, 65000};
static const struct rig_sides packed = {RING, PACKED, PACKED, 0x8000};
static const struct rig_sides packed_events = {RING, PACKED | EVENT_IDX, PACKED | EVENT_IDX, 1};
static const struct rig_sides split_packed = {RING, EVENT_IDX, PACKED, 9};
static const struct rig_sides packed_split = {RING, PACKED | EVENT_IDX, EVENT_IDX, 0x8009};

static void test_call_or_seen(void **state)
{
    struct side guest = {guest_polls, guest_goes_to_sleep};

    fight(*state, polls_and_calls, guest);
}

static void test_kick_or_seen(void **state)
{
    struct side backend = {backend_polls, backend_goes_to_sleep};

    fight(*state, polls_and_kicks, backend);
}

static void test_arm_sees_the_chain_or_is_kicked(void **state)
{
    struct side guest = {relay_polls, guest_offers};

    fight(*state, svq_relay_arm, guest);
}

static void test_arm_sees_the_completion_or_is_called(void **state)
{
    struct side backend = {backend_takes, backend_completes};

    fight(*state, svq_relay_arm, backend);
}

/* ---- The dirty log --------------------------------------------------------------------------- */

static struct kit_log harvested;
static bool logs;

/* The front-end takes the bit of the page with the relay's wishes; it has been set before. */
static uint8_t *wishes_bit(void)
{
    uint64_t page = RIG_DEVICE / RIG_PAGE;

    return &harvested.bits[page / 8];
}

static void relay_polls_and_logs(struct rig *rig)
{
    const struct svq_relay_log where = {
        .log = harvested.log, .ring = true, .desc_gpa = RIG_DESC, .device_gpa = RIG_DEVICE};

    /* Once: the relay's thread is to have at hand what else it reads. */
    if (!logs)
        svq_relay_set_log(rig->relay, &where);
    logs = true;
    svq_relay_disarm(rig->relay);
    *wishes_bit() |= 1u << RIG_DEVICE / RIG_PAGE % 8;
}

static bool arms_and_is_logged(struct svq_relay *relay)
{
    /* As before: what it is going to read is at hand. */
    __atomic_load_n(wishes_bit(), __ATOMIC_RELAXED);
    svq_relay_arm(relay);
    return kit_log_test(&harvested, RIG_DEVICE / RIG_PAGE);
}

static bool wants_kicks(const struct rig *rig)
{
    if (rig->guest.format == SVQ_RING_PACKED)
        return kit_get16(&rig->guest.packed.device->flags) != KIT_EVENT_DISABLE;
    return !kit_get16(&rig->guest.split.used->flags);
}

/* Return: the copy of the page that it takes now shows what the relay wrote. */
static bool frontend_harvests(struct rig *rig)
{
    __atomic_exchange_n(wishes_bit(), 0, __ATOMIC_SEQ_CST);
    return wants_kicks(rig);
}

/* What the relay asks for is in the harvest's copy, or the page is dirty again. */
static void test_wishes_are_logged(void **state)
{
    struct side frontend = {relay_polls_and_logs, frontend_harvests, .idle = true};

    logs = false;
    kit_log_init(&harvested, RIG_END / RIG_PAGE);
    fight(*state, arms_and_is_logged, frontend);
    kit_log_free(&harvested);
}

/* ---- Descriptors that change under the relay's eyes -------------------------------------------
 */

struct flipper {
    uint64_t *addr;
    pthread_t thread;
    bool stop;
};

/* Good, bad, good: where it points at any one moment is anyone's guess. */
static void *flip_address(void *arg)
{
    struct flipper *f = arg;

    while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
        __atomic_store_n(f->addr, RIG_DATA, __ATOMIC_RELAXED);
        __atomic_store_n(f->addr, RIG_END - 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* A chain of the whole ring, written with the address under the flipper's hands left alone. */
static void offer_long_chain(struct rig *rig, const uint64_t *flipped)
{
    struct svq_ring_index at = rig_state(rig).guest;

    for (unsigned i = 0; i < RING; i++) {
        bool last = i + 1 == RING;

        if (rig->guest.format == SVQ_RING_PACKED) {
            struct kit_pdesc *desc = &rig->guest.packed.desc[(at.avail + i) % RING];
            bool wrap = at.avail_wrap ^ (at.avail + i >= RING);

            if (&desc->addr != flipped)
                desc->addr = RIG_DATA;
            desc->len = 64;
            desc->id = 1;
            kit_set16(&desc->flags,
                      (uint16_t)(kit_avail_flags(wrap) | KIT_P_WRITE | (last ? 0 : KIT_P_NEXT)));
        } else {
            struct kit_desc *desc = &rig->guest.split.desc[i];

            if (&desc->addr != flipped)
                desc->addr = RIG_DATA;
            desc->len = 64;
            desc->flags = (uint16_t)(KIT_F_WRITE | (last ? 0 : KIT_F_NEXT));
            desc->next = (uint16_t)(i + 1);
        }
    }
    if (rig->guest.format == SVQ_RING_SPLIT) {
        rig->guest.split.avail->ring[at.avail % RING] = 0;
        kit_set16(&rig->guest.split.avail->idx, (uint16_t)(at.avail + 1));
    }
}

/* The back-end has the chain as it was checked, whatever the guest's ring says now. */
static void serve_long_chain(struct rig *rig, const struct kit_log *log)
{
    struct svq_relay_log where = {.log = log->log};
    struct kit_buf bufs[RING];

    svq_relay_set_log(rig->relay, &where);
    rig_complete(rig, rig_take(rig, bufs, RING), 1);
    for (unsigned i = 0; i < RING; i++)
        assert_int_equal(bufs[i].gpa, RIG_DATA);
    rig_poll(rig);
    assert_false(kit_log_test(log, RIG_END / RIG_PAGE));
}

/* One look is all a descriptor gets: what was checked is what the back-end reads. */
static void test_descriptors_are_read_once(void **state)
{
    unsigned passed = 0, refused = 0;
    /* On a machine with much else to do the other thread may not run for a long time. */
    uint64_t enough = now_ms() + 2500, end = enough + 60000;
    struct kit_log log;
    struct flipper f;
    struct rig rig;

    rig_init(&rig, *state);
    kit_log_init(&log, RIG_END / RIG_PAGE + 8);
    f.stop = false;
    f.addr = rig.guest.format == SVQ_RING_PACKED ? &rig.guest.packed.desc[0].addr
                                                 : &rig.guest.split.desc[0].addr;
    kit_require(!pthread_create(&f.thread, NULL, flip_address, &f));
    while (passed < 10000 || refused < 10000) {
        uint64_t limit = passed > 100 && refused > 100 ? enough : end;
        struct svq_ring_index at = rig_state(&rig).guest;
        uint32_t base = rig.guest.format == SVQ_RING_PACKED ? svq_packed_base(&at) : at.avail;

        if (now_ms() >= limit)
            break;
        offer_long_chain(&rig, f.addr);
        if (svq_relay_poll(rig.relay) & SVQ_RELAY_FAULT) {
            refused++;
            svq_relay_free(rig.relay);
            rig_start(&rig, base);
            continue;
        }
        passed++;
        serve_long_chain(&rig, &log);
    }
    __atomic_store_n(&f.stop, true, __ATOMIC_RELAXED);
    kit_require(!pthread_join(f.thread, NULL));
    assert_true(passed > 100);
    assert_true(refused > 100);
    kit_log_free(&log);
    rig_free(&rig);
}

int main(void)
{
#define DUEL(name, sides)                                                 \
    {                                                                     \
#name "_" #sides, name, NULL, NULL, (void *)(uintptr_t) & (sides) \
    }
#define ALL(name)                                                                               \
    DUEL(name, split), DUEL(name, split_events), DUEL(name, packed), DUEL(name, packed_events), \
        DUEL(name, split_packed), DUEL(name, packed_split), DUEL(name, shared),                 \
        DUEL(name, shared_events)
    const struct CMUnitTest tests[] = {
        ALL(test_call_or_seen),
        ALL(test_kick_or_seen),
        ALL(test_arm_sees_the_chain_or_is_kicked),
        ALL(test_arm_sees_the_completion_or_is_called),
        DUEL(test_wishes_are_logged, split),
        DUEL(test_wishes_are_logged, packed),
        DUEL(test_descriptors_are_read_once, split),
        DUEL(test_descriptors_are_read_once, packed),
        DUEL(test_descriptors_are_read_once, split_packed),
        DUEL(test_descriptors_are_read_once, packed_split),
    };

    return cmocka_run_group_tests_name("races", tests, NULL, NULL);
}
