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
    kit_get16(&rig->guest.avail->flags);
    kit_get16(&rig->guest.avail->idx);
    kit_get16(kit_used_event(&rig->guest));
    kit_get16(&rig->shadow.used->flags);
    kit_get16(&rig->shadow.used->idx);
    kit_get16(kit_avail_event(&rig->shadow));
}

static void own(uint16_t *p)
{
    __atomic_fetch_or(p, 0, __ATOMIC_SEQ_CST);
}

static void own_what_the_relay_writes(const struct rig *rig)
{
    own(&rig->guest.used->idx);
    own(kit_avail_event(&rig->guest));
    own(&rig->shadow.avail->idx);
    own(kit_used_event(&rig->shadow));
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
};

static bool guest_goes_to_sleep(struct rig *rig)
{
    struct kit_driver *driver = &rig->driver.driver;

    driver->ops->interrupts(driver, true);
    return driver->ops->pending(driver);
}

static void guest_polls(struct rig *rig)
{
    rig->driver.driver.ops->interrupts(&rig->driver.driver, false);
    prepare_completion(rig);
}

static bool backend_goes_to_sleep(struct rig *rig)
{
    struct kit_device *device = &rig->device.device;

    device->ops->kicks(device, true);
    return device->ops->pending(device);
}

static void backend_polls(struct rig *rig)
{
    rig->device.device.ops->kicks(&rig->device.device, false);
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

static void fight(uint64_t features, bool (*relay)(struct svq_relay *), struct side other)
{
    struct kit_rng rng = {7};
    struct duel *d = NULL;
    unsigned missed = 0, aim = 200, round;
    time_t end = time(NULL) + 3; /* enough, even where the two have to share a processor */

    kit_require(!posix_memalign((void **)&d, 128, sizeof(*d)));
    rig_init(&d->rig, RING, features, 65000);
    d->act = relay;
    d->round = d->done = 0;
    d->stop = false;
    kit_require(!pthread_create(&d->thread, NULL, relay_main, d));
    for (round = 1; round <= ROUNDS && time(NULL) < end; round++) {
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
        finish(&d->rig);
    }
    d->stop = true;
    __atomic_store_n(&d->round, round, __ATOMIC_RELEASE);
    kit_require(!pthread_join(d->thread, NULL));
    rig_free(&d->rig);
    free(d);
    assert_int_equal(missed, 0);
}

static void test_call_or_seen(void **state)
{
    struct side guest = {guest_polls, guest_goes_to_sleep};

    (void)state;
    fight(0, polls_and_calls, guest);
    fight(EVENT_IDX, polls_and_calls, guest);
}

static void test_kick_or_seen(void **state)
{
    struct side backend = {backend_polls, backend_goes_to_sleep};

    (void)state;
    fight(0, polls_and_kicks, backend);
    fight(EVENT_IDX, polls_and_kicks, backend);
}

static void test_arm_sees_the_chain_or_is_kicked(void **state)
{
    struct side guest = {relay_polls, guest_offers};

    (void)state;
    fight(0, svq_relay_arm, guest);
    fight(EVENT_IDX, svq_relay_arm, guest);
}

static void test_arm_sees_the_completion_or_is_called(void **state)
{
    struct side backend = {backend_takes, backend_completes};

    (void)state;
    fight(0, svq_relay_arm, backend);
    fight(EVENT_IDX, svq_relay_arm, backend);
}

/* ---- Descriptors that change under the relay's eyes -------------------------------------------
 */

struct flipper {
    struct rig *rig;
    pthread_t thread;
    bool stop;
};

/* Good, bad, good: where it points at any one moment is anyone's guess. */
static void *flip_address(void *arg)
{
    struct flipper *f = arg;
    uint64_t *addr = &f->rig->guest.desc[0].addr;

    while (!__atomic_load_n(&f->stop, __ATOMIC_RELAXED)) {
        __atomic_store_n(addr, RIG_DATA, __ATOMIC_RELAXED);
        __atomic_store_n(addr, RIG_END - 1, __ATOMIC_RELAXED);
    }
    return NULL;
}

/* One look is all a descriptor gets: what was checked is what the back-end reads. */
static void test_descriptors_are_read_once(void **state)
{
    unsigned passed = 0, refused = 0;
    time_t end = time(NULL) + 3;
    struct kit_log log;
    struct flipper f;
    struct rig rig;

    (void)state;
    rig_init(&rig, RING, 0, 0);
    kit_log_init(&log, RIG_END / RIG_PAGE + 8);
    /* A long chain: much time passes between its first descriptor's turn and its end. */
    for (unsigned i = 0; i < RING; i++)
        rig.guest.desc[i] = (struct kit_desc){
            RIG_DATA, 64, (uint16_t)(KIT_F_WRITE | (i + 1 < RING ? KIT_F_NEXT : 0)),
            (uint16_t)(i + 1)};
    f = (struct flipper){.rig = &rig};
    kit_require(!pthread_create(&f.thread, NULL, flip_address, &f));
    while ((passed < 10000 || refused < 10000) && time(NULL) < end) {
        uint16_t base = rig_state(&rig).guest_avail;

        rig.guest.avail->ring[base % RING] = 0;
        kit_set16(&rig.guest.avail->idx, (uint16_t)(base + 1));
        if (svq_relay_poll(rig.relay) & SVQ_RELAY_FAULT) {
            refused++;
            svq_relay_free(rig.relay);
            rig_start(&rig, base);
            continue;
        }
        passed++;
        assert_int_equal(rig.shadow.desc[0].addr, RIG_DATA);
        svq_relay_set_log(rig.relay, log.log, false, 0);
        rig.shadow.used->ring[rig_state(&rig).backend_used % RING] = (struct kit_used_elem){0, 1};
        kit_set16(&rig.shadow.used->idx, rig.shadow.avail->idx);
        rig_poll(&rig);
        assert_false(kit_log_test(&log, RIG_END / RIG_PAGE));
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
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_call_or_seen),
        cmocka_unit_test(test_kick_or_seen),
        cmocka_unit_test(test_arm_sees_the_chain_or_is_kicked),
        cmocka_unit_test(test_arm_sees_the_completion_or_is_called),
        cmocka_unit_test(test_descriptors_are_read_once),
    };

    return cmocka_run_group_tests_name("races", tests, NULL, NULL);
}
