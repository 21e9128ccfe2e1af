/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What meets a restart (svq_relay_restart()): faults of either side, a lack of memory, switches
 * that begin right after it or that it falls into.
 */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "kit/rig.h"

enum { RING = 16 };

static const struct rig_sides split = {RING, 0, 0, 65530};
static const struct rig_sides split_events = {RING, EVENT_IDX, EVENT_IDX, 65530};
static const struct rig_sides split_shared = {RING, EVENT_IDX | INDIRECT, INDIRECT, 65530, true};
static const struct rig_sides split_pooled = {RING, 0, IN_ORDER, 0};
static const struct rig_sides split_restored = {RING, IN_ORDER, 0, 65530};
static const struct rig_sides split_shared_restored = {RING, IN_ORDER, 0, 65530, true};
static const struct rig_sides split_packed = {RING, INDIRECT, PACKED | EVENT_IDX | INDIRECT, 0};
static const struct rig_sides packed = {RING + 1, PACKED | EVENT_IDX, PACKED | EVENT_IDX, 0x8000};
static const struct rig_sides packed_tables = {RING, PACKED | INDIRECT, PACKED | INDIRECT, 0};
static const struct rig_sides packed_restored = {RING - 1, PACKED | IN_ORDER, PACKED, 3};
static const struct rig_sides packed_batches = {RING, PACKED, PACKED | IN_ORDER, 0x8003};
static const struct rig_sides packed_split = {RING, PACKED | INDIRECT, EVENT_IDX | INDIRECT, 3};

static bool in_order(const struct rig *rig)
{
    return (rig->features | rig->backend_features) & IN_ORDER;
}

/* The back-end takes the next chain, which is that one. Return: its id. */
static uint16_t take(struct rig *rig, uint64_t gpa)
{
    struct kit_buf bufs[2];
    uint16_t id = rig_take(rig, bufs, 2);

    assert_int_equal(bufs[0].gpa, gpa);
    return id;
}

/* Chains of two buffers. *gpa: of each one's first buffer */
static void offer(struct rig *rig, unsigned first, unsigned count, uint64_t *gpa)
{
    for (unsigned i = 0; i < count; i++) {
        gpa[i] = rig->next_data;
        rig_offer_simple(rig, first + i);
    }
    rig_settle(rig);
}

static void restart(struct rig *rig, unsigned resubmitted)
{
    uint64_t before = rig_stats(rig).resubmitted;

    assert_int_equal(rig_restart(rig), 0);
    assert_int_equal(rig_stats(rig).resubmitted - before, resubmitted);
}

/* Does the relay take that for the back-end's base, after so many chains of two descriptors? */
static int drained_at(struct rig *rig, unsigned taken, unsigned used)
{
    return svq_relay_drained(rig->relay, rig_shadow_base(rig, taken, used));
}

/* The relay's part in the guest's ring ends; another one begins, and its back-end does the rest. */
static void hand_over(struct rig *rig, unsigned used, unsigned left)
{
    uint32_t base = svq_relay_detach(rig->relay);

    assert_int_equal(base, rig_guest_base(rig, used, used));
    svq_relay_free(rig->relay);
    rig_start(rig, base);
    rig_settle(rig);
    assert_int_equal(rig_serve(rig, 7), left);
    rig_settle(rig);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

static void leave_nonsense(struct rig *rig)
{
    rig->device->ops->complete(rig->device, (uint16_t)(rig->shadow.num + 5), 0, 1);
    rig->device->ops->publish(rig->device);
}

/* What it had completed before counts, whoever finds the fault. */
static void test_fault_is_cured(void **state)
{
    struct rig *rig = *state;
    const char *reason;
    uint64_t gpa[4];

    for (unsigned round = 0; round < 6; round++) {
        offer(rig, 0, 4, gpa);
        rig_complete(rig, take(rig, gpa[0]), 5);
        take(rig, gpa[1]);
        leave_nonsense(rig);
        if (round % 2) {
            assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
            assert_int_equal(svq_relay_fault(rig->relay, &reason), SVQ_SIDE_BACKEND);
            /* This is found by nobody: the fault came first. */
            rig_complete(rig, take(rig, gpa[2]), 5);
        }
        restart(rig, 3);
        rig_expect_no_fault(rig);
        rig_expect_done(rig, 0, 5);
        rig_expect_nothing_done(rig);
        for (unsigned i = 1; i < 4; i++)
            rig_complete(rig, take(rig, gpa[i]), i);
        rig_settle(rig);
        for (unsigned i = 1; i < 4; i++)
            rig_expect_done(rig, i, i);
    }
}

static void break_guest(struct rig *rig)
{
    struct svq_ring_index at = rig_state(rig).guest;

    if (rig->guest.format == SVQ_RING_SPLIT)
        rig->guest.split.avail->idx = (uint16_t)(at.avail + RING + 1);
    else
        rig->guest.packed.desc[at.avail] =
            (struct kit_pdesc){0, 8, 0, kit_avail_flags(at.avail_wrap)};
}

/* A guest that broke its ring is past help; but the relay can still be taken down in order. */
static void test_fault_of_the_guest_stays(void **state)
{
    struct rig *rig = *state;
    const char *reason;
    uint64_t gpa[3];
    uint16_t id;

    offer(rig, 0, 3, gpa);
    rig_complete(rig, take(rig, gpa[0]), 5);
    rig_settle(rig);
    id = take(rig, gpa[1]);
    break_guest(rig);
    assert_true(svq_relay_poll(rig->relay) & SVQ_RELAY_FAULT);
    rig_complete(rig, id, 5); /* comes too late */
    for (unsigned round = 0; round < 2; round++) {
        restart(rig, 0);
        assert_int_equal(svq_relay_fault(rig->relay, &reason), SVQ_SIDE_GUEST);
        assert_int_equal(svq_relay_poll(rig->relay), SVQ_RELAY_FAULT);
        rig_expect_idle_device(rig);
        assert_int_equal(rig_state(rig).in_flight, 2);
        assert_int_equal(drained_at(rig, 0, 0), 1);
    }
    assert_int_equal(svq_relay_detach(rig->relay), rig_guest_base(rig, 1, 1));
}

/* ---- Refusals -------------------------------------------------------------------------------- */

/* Nothing has changed: the old back-end could go on. */
static void expect_refused(struct rig *rig, const struct svq_vring *ring,
                           const struct svq_relay_tables *tables)
{
    struct svq_relay_state before = rig_state(rig), after;

    assert_int_equal(svq_relay_restart(rig->relay, ring, tables), -EINVAL);
    after = rig_state(rig);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_int_equal(rig_stats(rig).resubmitted, 0);
}

static void test_bad_arguments(void **state)
{
    struct rig *rig = *state;
    struct svq_relay_tables tables = rig->tables;
    struct svq_vring ring = rig->shadow.at;
    uint64_t gpa[2];

    offer(rig, 0, 2, gpa);
    ring.desc = NULL;
    expect_refused(rig, &ring, &tables);
    ring = rig->shadow.at;
    ring.driver = NULL;
    expect_refused(rig, &ring, &tables);
    ring = rig->shadow.at;
    ring.device = NULL;
    expect_refused(rig, &ring, &tables);
    ring = rig->shadow.at;
    if (tables.size) {
        expect_refused(rig, &ring, NULL);
        tables.size--;
        expect_refused(rig, &ring, &tables);
        tables = rig->tables;
        tables.addr += 8;
        expect_refused(rig, &ring, &tables);
        tables = rig->tables;
        tables.host = NULL;
        expect_refused(rig, &ring, &tables);
    }
    assert_int_equal(rig_serve(rig, 9), 2);
    rig_settle(rig);
    rig_expect_done(rig, 0, 9);
    rig_expect_done(rig, 1, 9);
}

/* Allocations that succeed before one fails; less than 0: all do. Linked with --wrap. */
static int allocations = -1;

static bool may_allocate(void)
{
    return allocations < 0 || allocations-- > 0;
}

/* NOLINTBEGIN(bugprone-reserved-identifier): the linker's names */
void *__real_malloc(size_t size);
void *__real_calloc(size_t count, size_t size);
void *__real_realloc(void *old, size_t size);
void *__real_aligned_alloc(size_t alignment, size_t size);
void *__wrap_malloc(size_t size);
void *__wrap_calloc(size_t count, size_t size);
void *__wrap_realloc(void *old, size_t size);
void *__wrap_aligned_alloc(size_t alignment, size_t size);

void *__wrap_malloc(size_t size)
{
    return may_allocate() ? __real_malloc(size) : NULL;
}

void *__wrap_calloc(size_t count, size_t size)
{
    return may_allocate() ? __real_calloc(count, size) : NULL;
}

void *__wrap_realloc(void *old, size_t size)
{
    return may_allocate() ? __real_realloc(old, size) : NULL;
}

void *__wrap_aligned_alloc(size_t alignment, size_t size)
{
    return may_allocate() ? __real_aligned_alloc(alignment, size) : NULL;
}
/* NOLINTEND(bugprone-reserved-identifier) */

static int restart_with(struct rig *rig, int count, void **memory)
{
    struct kit_ring ring = kit_ring_alloc(rig->shadow.format, rig->shadow.num, memory);
    int err;

    allocations = count;
    err = svq_relay_restart(rig->relay, &ring.at, &rig->tables);
    allocations = -1;
    return err;
}

/* Each allocation in turn fails; the ring as it is is served until the next attempt. */
static void test_out_of_memory(void **state)
{
    struct rig *rig = *state;
    unsigned failures = 0, next = 3, done = 0;
    uint64_t gpa[64];
    void *memory;
    int err;

    offer(rig, 0, 3, gpa);
    do {
        /* Taken by the restart, also if that fails then. */
        rig_complete(rig, take(rig, gpa[done]), done);
        err = restart_with(rig, (int)failures, &memory);
        free(memory);
        rig_expect_done(rig, done, done);
        done++;
        assert_int_equal(rig_state(rig).in_flight, 2);
        if (!err)
            break;
        assert_int_equal(err, -ENOMEM);
        assert_int_equal(rig_stats(rig).resubmitted, 0);
        offer(rig, next, 1, &gpa[next]);
        next++;
        failures++;
    } while (failures < 20);
    assert_int_equal(err, 0);
    assert_in_range(failures, 2, 19);
    assert_int_equal(rig_stats(rig).resubmitted, 2);
    rig_expect_nothing_done(rig);
}

/* Memory for private copies of tables is kept, whichever slots the next ones get. */
static void test_memory_is_kept(void **state)
{
    struct rig *rig = *state;
    struct kit_buf bufs[40], seen[40];
    struct kit_chain chain = {bufs, 40, 0, RIG_TABLES, false, NULL};

    for (unsigned i = 0; i < 40; i++)
        bufs[i] = (struct kit_buf){RIG_DATA + 64 * i, 64, true};
    for (unsigned round = 0; round < 10; round++) {
        /* Two with such tables: one is in flight at the first crash, none at the second. */
        for (unsigned i = 0; i < 2; i++) {
            chain.table = RIG_TABLES + i * 4096;
            rig_offer_chain(rig, &chain);
        }
        allocations = round ? 0 : -1;
        rig_settle(rig);
        allocations = -1;
        rig_complete(rig, rig_take(rig, seen, 40), 1);
        restart(rig, 1);
        rig_complete(rig, rig_take(rig, seen, 40), 1);
        restart(rig, 0);
        rig_expect_done(rig, 0, 1);
        rig_expect_done(rig, 0, 1);
    }
}

/* ---- Switches -------------------------------------------------------------------------------- */

static void test_drained_after_a_restart(void **state)
{
    struct rig *rig = *state;
    uint64_t gpa[4];
    uint16_t id;

    offer(rig, 0, 4, gpa);
    rig_complete(rig, take(rig, gpa[0]), 1);
    rig_settle(rig);
    take(rig, gpa[1]);
    restart(rig, 3);
    /* It has taken nothing yet, and all that is left can go back to the guest's ring. */
    assert_int_equal(drained_at(rig, 0, 0), 1);
    assert_int_equal(svq_relay_resume_base(rig->relay, rig_shadow_base(rig, 0, 0)),
                     rig_shadow_base(rig, 0, 0));
    id = take(rig, gpa[1]);
    assert_int_equal(drained_at(rig, 1, 0), 0);
    assert_int_equal(drained_at(rig, 4, 0), -EPROTO);
    rig_complete(rig, id, 2);
    rig_settle(rig);
    assert_int_equal(drained_at(rig, 1, 1), 1);
    assert_int_equal(drained_at(rig, 0, 0), 1); /* as some say: what is used was taken */
    assert_int_equal(svq_relay_resume_base(rig->relay, rig_shadow_base(rig, 1, 1)),
                     rig_shadow_base(rig, 1, 1));
    hand_over(rig, 2, 2);
    for (unsigned i = 0; i < 4; i++)
        rig_expect_done(rig, i, i < 2 ? i + 1 : 7);
    rig_expect_nothing_done(rig);
}

/* New chains behind the old ones, and none of both taken. */
static void test_detach_leaves_all_to_the_guest(void **state)
{
    struct rig *rig = *state;
    uint64_t gpa[5];

    for (unsigned round = 0; round < 4; round++) {
        offer(rig, 0, 3, gpa);
        for (unsigned i = 0; i < round; i++)
            take(rig, gpa[i]);
        restart(rig, 3);
        offer(rig, 3, 2, gpa + 3);
        assert_int_equal(drained_at(rig, 0, 0), 1);
        hand_over(rig, 5 * round, 5);
        for (unsigned i = 0; i < 5; i++)
            rig_expect_done(rig, i, 7);
        rig_expect_nothing_done(rig);
    }
}

/*
 * The oldest chain was resubmitted, a younger one is completed: the guest's ring cannot say that
 * the next device has to begin with the oldest. So the back-end must do that one first.
 */
static void test_not_drained_with_a_gap(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[3];
    uint64_t gpa[3];

    offer(rig, 0, 3, gpa);
    for (unsigned i = 0; i < 3; i++)
        ids[i] = take(rig, gpa[i]);
    rig_complete(rig, ids[1], 1);
    restart(rig, 2);
    if (!in_order(rig))
        rig_expect_done(rig, 1, 1);
    rig_expect_nothing_done(rig);
    assert_int_equal(drained_at(rig, 0, 0), 0);
    assert_int_equal(svq_relay_resume_base(rig->relay, rig_shadow_base(rig, 0, 0)),
                     rig_shadow_base(rig, 0, 0));
    ids[0] = take(rig, gpa[0]);
    assert_int_equal(drained_at(rig, 1, 0), 0);
    rig_complete(rig, ids[0], 0);
    rig_settle(rig);
    assert_int_equal(drained_at(rig, 1, 1), 1);
    hand_over(rig, 2, 1);
    rig_expect_done(rig, 0, 0);
    if (in_order(rig))
        rig_expect_done(rig, 1, 1);
    rig_expect_done(rig, 2, 7);
    rig_expect_nothing_done(rig);
}

/* It cannot have left untaken what it has completed: not in the new ring either. */
static void test_drained_knows_which_chains(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[4];
    uint64_t gpa[4];

    offer(rig, 0, 4, gpa);
    for (unsigned i = 0; i < 4; i++)
        ids[i] = take(rig, gpa[i]);
    rig_complete(rig, ids[2], 1);
    restart(rig, 3);
    take(rig, gpa[0]);
    take(rig, gpa[1]);
    rig_complete(rig, take(rig, gpa[3]), 3);
    rig_settle(rig);
    assert_int_equal(drained_at(rig, 2, 0), -EPROTO);
    assert_int_equal(drained_at(rig, 3, 0), 0);
}

static void test_crash_while_held(void **state)
{
    struct rig *rig = *state;
    uint16_t ids[2];
    uint64_t gpa[3];

    offer(rig, 0, 2, gpa);
    svq_relay_hold(rig->relay, true);
    offer(rig, 2, 1, gpa + 2);
    restart(rig, 2);
    rig_settle(rig);
    for (unsigned i = 0; i < 2; i++)
        ids[i] = take(rig, gpa[i]);
    rig_expect_idle_device(rig);
    /* Whatever it completes, it is not to call. */
    for (unsigned i = 0; i < 2; i++)
        assert_false(rig_complete(rig, ids[i], i));
    rig_settle(rig);
    rig_expect_done(rig, 0, 0);
    rig_expect_done(rig, 1, 1);
    assert_int_equal(drained_at(rig, 2, 2), 1);
    svq_relay_hold(rig->relay, false);
    rig_settle(rig);
    assert_false(svq_relay_arm(rig->relay));
    assert_true(rig_complete(rig, take(rig, gpa[2]), 2));
    rig_settle(rig);
    rig_expect_done(rig, 2, 2);
}

/* ---- Notifications and the log --------------------------------------------------------------- */

/* From the first poll on the new ring is like any other. */
static void test_notifications(void **state)
{
    struct rig *rig = *state;
    uint64_t gpa[2];
    uint16_t id;

    for (unsigned round = 0; round < 20; round++) {
        offer(rig, 0, 1, gpa);
        restart(rig, 1);
        rig_settle(rig);
        assert_false(svq_relay_arm(rig->relay));
        id = take(rig, gpa[0]);
        rig->device->ops->kicks(rig->device, true);
        gpa[1] = rig->next_data;
        rig_offer_simple(rig, 1);
        assert_true(svq_relay_arm(rig->relay));
        assert_true(rig_poll(rig) & SVQ_RELAY_KICK_BACKEND);
        assert_true(rig_complete(rig, id, 0));
        assert_true(svq_relay_arm(rig->relay));
        rig_settle(rig);
        svq_relay_disarm(rig->relay);
        rig_complete(rig, take(rig, gpa[1]), 1);
        rig_settle(rig);
        for (unsigned i = 0; i < 2; i++)
            rig_expect_done(rig, i, i);
    }
}

/* What is taken from the old ring is logged, and so is what the new one's back-end writes. */
static void test_log(void **state)
{
    struct rig *rig = *state;
    struct svq_relay_log where = {0};
    struct kit_buf bufs[2], seen;
    struct kit_log log;

    kit_log_init(&log, RIG_END / RIG_PAGE);
    where.log = log.log;
    svq_relay_set_log(rig->relay, &where);
    for (unsigned i = 0; i < 2; i++) {
        bufs[i] = (struct kit_buf){RIG_DATA + i * 8 * RIG_PAGE, 4096, true};
        rig_offer(rig, &bufs[i], 1, i);
    }
    rig_settle(rig);
    rig_complete(rig, rig_take(rig, &seen, 1), 1);
    restart(rig, 1);
    assert_int_equal(kit_log_count(&log), 1);
    assert_true(kit_log_test(&log, bufs[0].gpa / RIG_PAGE));
    rig_complete(rig, rig_take(rig, &seen, 1), 1);
    rig_settle(rig);
    assert_int_equal(kit_log_count(&log), 2);
    assert_true(kit_log_test(&log, bufs[1].gpa / RIG_PAGE));
    rig_expect_done(rig, 0, 1);
    rig_expect_done(rig, 1, 1);
    kit_log_free(&log);
}

int main(void)
{
#define LOOSE(name)                                                                    \
    RIG_TEST(name, split), RIG_TEST(name, split_shared), RIG_TEST(name, split_events), \
        RIG_TEST(name, split_packed), RIG_TEST(name, packed), RIG_TEST(name, packed_split)
#define RESTORED(name)                                                     \
    RIG_TEST(name, split_restored), RIG_TEST(name, split_shared_restored), \
        RIG_TEST(name, packed_restored)
#define EACH(name) \
    LOOSE(name), RESTORED(name), RIG_TEST(name, split_pooled), RIG_TEST(name, packed_batches)
    const struct CMUnitTest tests[] = {
        EACH(test_fault_is_cured),
        EACH(test_fault_of_the_guest_stays),
        EACH(test_bad_arguments),
        EACH(test_out_of_memory),
        RIG_TEST(test_memory_is_kept, split_packed),
        RIG_TEST(test_memory_is_kept, packed_split),
        RIG_TEST(test_memory_is_kept, packed_tables),
        EACH(test_drained_after_a_restart),
        EACH(test_detach_leaves_all_to_the_guest),
        LOOSE(test_not_drained_with_a_gap),
        RESTORED(test_not_drained_with_a_gap),
        LOOSE(test_drained_knows_which_chains),
        RESTORED(test_drained_knows_which_chains),
        EACH(test_crash_while_held),
        EACH(test_notifications),
        EACH(test_log),
    };

    return cmocka_run_group_tests_name("restart_ends", tests, NULL, NULL);
}
