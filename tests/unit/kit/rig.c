/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "rig.h"

static void shadow_init(struct rig *rig)
{
    size_t desc = 16 * (size_t)rig->num;
    size_t avail = (6 + 2 * (size_t)rig->num + 63) / 64 * 64;
    size_t size = desc + avail + kit_split_used_bytes(rig->num);
    uint8_t *p = NULL;

    if (!rig->shadow_memory)
        kit_require(posix_memalign(&rig->shadow_memory, 4096, size) == 0);
    p = rig->shadow_memory;
    /* Garbage: the relay has to clear it. */
    memset(p, 0xa5, size);
    kit_split_at(&rig->shadow, rig->num, p, p + desc, p + desc + avail);
}

struct svq_relay_config rig_config(const struct rig *rig, uint16_t base)
{
    return (struct svq_relay_config){
        .num = rig->num,
        .features = rig->features,
        .guest = kit_split_mem(&rig->guest),
        .backend = kit_split_mem(&rig->shadow),
        .base = base,
        .map = rig->memory.map,
    };
}

void rig_start(struct rig *rig, uint16_t base)
{
    struct svq_relay_config config;

    shadow_init(rig);
    config = rig_config(rig, base);
    rig->relay = NULL;
    assert_int_equal(svq_relay_new(&config, &rig->relay), 0);
    assert_non_null(rig->relay);
    kit_split_device_init(&rig->device, rig->memory.map, &rig->shadow, rig->features, 0);
    /* As a back-end that waits for its first kick. */
    rig->device.device.ops->kicks(&rig->device.device, true);
}

void rig_init(struct rig *rig, unsigned num, uint64_t features, uint16_t base)
{
    memset(rig, 0, sizeof(*rig));
    rig->num = num;
    rig->features = features;
    rig->next_data = RIG_DATA;
    kit_memory_init(&rig->memory, RIG_GPA, RIG_SIZE);
    kit_split_at(&rig->guest, num, kit_memory_at(&rig->memory, RIG_DESC, 16 * (uint64_t)num),
                 kit_memory_at(&rig->memory, RIG_AVAIL, 6 + 2 * (uint64_t)num),
                 kit_memory_at(&rig->memory, RIG_USED, kit_split_used_bytes(num)));
    kit_split_driver_init(&rig->driver, &rig->memory, &rig->guest, features, base, NULL);
    rig_start(rig, base);
}

void rig_free(struct rig *rig)
{
    svq_relay_free(rig->relay);
    rig->driver.driver.ops->free(&rig->driver.driver);
    free(rig->shadow_memory);
    kit_memory_free(&rig->memory);
}

struct kit_buf rig_buf(struct rig *rig, uint32_t len, bool write)
{
    struct kit_buf buf = {rig->next_data, len, write};

    rig->next_data += len;
    if (rig->next_data > RIG_END) {
        buf.gpa = RIG_DATA;
        rig->next_data = RIG_DATA + len;
    }
    return buf;
}

bool rig_offer(struct rig *rig, const struct kit_buf *bufs, unsigned count, uintptr_t token)
{
    struct kit_chain chain = {bufs, count, count, 0, false, (void *)token};

    assert_true(rig->driver.driver.ops->add(&rig->driver.driver, &chain));
    return rig->driver.driver.ops->publish(&rig->driver.driver);
}

bool rig_offer_simple(struct rig *rig, uintptr_t token)
{
    struct kit_buf bufs[2] = {rig_buf(rig, 64, false), rig_buf(rig, 64, true)};

    return rig_offer(rig, bufs, rig->num > 1 ? 2 : 1, token);
}

unsigned rig_poll(struct rig *rig)
{
    unsigned bits = svq_relay_poll(rig->relay);

    rig_expect_no_fault(rig);
    assert_int_equal(bits & ~(SVQ_RELAY_BUSY | SVQ_RELAY_KICK_BACKEND | SVQ_RELAY_CALL_GUEST), 0);
    return bits;
}

unsigned rig_settle(struct rig *rig)
{
    unsigned bits = 0, turn;

    for (turn = 0; turn < 1000; turn++) {
        unsigned now = rig_poll(rig);

        bits |= now;
        if (!(now & SVQ_RELAY_BUSY))
            return bits;
    }
    fail_msg("the relay is busy for ever");
    return bits;
}

uint16_t rig_take(struct rig *rig, struct kit_buf *bufs, int count)
{
    uint16_t id = 0xffff;

    assert_int_equal(rig->device.device.ops->take(&rig->device.device, &id, bufs, (unsigned)count),
                     count);
    return id;
}

void rig_expect_idle_device(struct rig *rig)
{
    assert_false(rig->device.device.ops->pending(&rig->device.device));
}

bool rig_complete(struct rig *rig, uint16_t id, uint32_t len)
{
    rig->device.device.ops->complete(&rig->device.device, id, len, 1);
    return rig->device.device.ops->publish(&rig->device.device);
}

unsigned rig_serve(struct rig *rig, uint32_t len)
{
    struct kit_device *device = &rig->device.device;
    struct kit_buf *bufs = calloc(rig->num, sizeof(*bufs));
    unsigned count = 0;
    uint16_t id;
    int taken;

    while ((taken = device->ops->take(device, &id, bufs, rig->num)) > 0) {
        device->ops->complete(device, id, len, 1);
        count++;
    }
    assert_int_equal(taken, 0);
    device->ops->publish(device);
    free(bufs);
    return count;
}

void rig_expect_done(struct rig *rig, uintptr_t token, uint32_t len)
{
    struct kit_done done = {0};

    assert_int_equal(rig->driver.driver.ops->reap(&rig->driver.driver, &done), 1);
    assert_int_equal((uintptr_t)done.token, token);
    if (!done.skipped)
        assert_int_equal(done.len, len);
}

void rig_expect_nothing_done(struct rig *rig)
{
    struct kit_done done;

    assert_int_equal(rig->driver.driver.ops->reap(&rig->driver.driver, &done), 0);
}

void rig_expect_fault(struct rig *rig, enum svq_side side)
{
    size_t used_size = kit_split_used_bytes(rig->num);
    struct svq_relay_state before, after;
    struct svq_relay_stats stats = rig_stats(rig);
    uint8_t *used = malloc(used_size);
    const char *reason = NULL;
    uint16_t shadow_idx = rig->shadow.avail->idx;

    kit_require(used != NULL);
    assert_int_equal(svq_relay_fault(rig->relay, &reason), side);
    assert_non_null(reason);
    assert_true(strlen(reason) > 0);
    /* From here on: nothing. Not even with good work on both sides. */
    before = rig_state(rig);
    memcpy(used, rig->guest.used, used_size);
    for (unsigned turn = 0; turn < 3; turn++) {
        unsigned bits = svq_relay_poll(rig->relay);

        assert_int_equal(bits & ~SVQ_RELAY_FAULT, 0);
        rig->guest.avail->idx++;
        rig->shadow.used->idx++;
    }
    after = rig_state(rig);
    assert_memory_equal(used, rig->guest.used, used_size);
    assert_int_equal(rig->shadow.avail->idx, shadow_idx);
    assert_int_equal(after.guest_avail, before.guest_avail);
    assert_int_equal(after.guest_used, before.guest_used);
    assert_int_equal(after.backend_avail, before.backend_avail);
    assert_int_equal(after.backend_used, before.backend_used);
    assert_int_equal(rig_stats(rig).chains, stats.chains);
    assert_int_equal(svq_relay_fault(rig->relay, &reason), side);
    free(used);
}

void rig_expect_no_fault(const struct rig *rig)
{
    const char *reason = NULL;

    if (svq_relay_fault(rig->relay, &reason) != SVQ_SIDE_NONE)
        fail_msg("unexpected fault: %s", reason);
    assert_null(reason);
}

struct svq_relay_state rig_state(const struct rig *rig)
{
    struct svq_relay_state state;

    memset(&state, 0xee, sizeof(state));
    svq_relay_state(rig->relay, &state);
    return state;
}

struct svq_relay_stats rig_stats(const struct rig *rig)
{
    struct svq_relay_stats stats;

    memset(&stats, 0xee, sizeof(stats));
    svq_relay_stats(rig->relay, &stats);
    return stats;
}
