/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "logged.h"

int logged_setup(void **state)
{
    const struct rig_sides *sides = *state;
    struct logged *s = calloc(1, sizeof(*s));

    kit_require(s != NULL);
    rig_init(&s->rig, sides);
    kit_log_init(&s->log, LOGGED_PAGES);
    *state = s;
    return 0;
}

int logged_teardown(void **state)
{
    struct logged *s = *state;

    rig_free(&s->rig);
    kit_log_free(&s->log);
    free(s);
    return 0;
}

void logged_set(struct logged *s, struct svq_log *log, bool ring, uint64_t desc, uint64_t device)
{
    struct svq_relay_log where = {log, ring, desc, device};

    svq_relay_set_log(s->rig.relay, &where);
}

void logged_start(struct logged *s, bool ring)
{
    logged_set(s, s->log.log, ring, ring ? RIG_DESC : 0, ring ? RIG_DEVICE : 0);
}

void logged_expect(struct logged *s, uint64_t gpa, uint64_t len)
{
    for (uint64_t page = gpa / RIG_PAGE; len && page <= (gpa + len - 1) / RIG_PAGE; page++)
        s->expected[page] = true;
}

void logged_expect_bufs(struct logged *s, const struct kit_buf *bufs, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        if (bufs[i].write)
            logged_expect(s, bufs[i].gpa, bufs[i].len);
}

void logged_check(struct logged *s, struct kit_log *log)
{
    for (uint64_t page = 0; page < LOGGED_PAGES; page++)
        if (kit_log_test(log, page) != s->expected[page] && !(s->may[page] && !s->expected[page]))
            fail_msg("page 0x%llx is %s", (unsigned long long)page,
                     s->expected[page] ? "missing" : "marked although nobody wrote it");
    kit_log_clear(log);
    memset(s->expected, 0, sizeof(s->expected));
    memset(s->may, 0, sizeof(s->may));
}

void logged_remember_ring(struct logged *s)
{
    memcpy(s->ring, s->rig.memory.bytes, sizeof(s->ring));
}

void logged_expect_changes(struct logged *s)
{
    for (uint64_t i = 0; i < sizeof(s->ring); i++)
        if (s->rig.memory.bytes[i] != s->ring[i])
            logged_expect(s, RIG_GPA + i, 1);
}

unsigned logged_expect_used(struct logged *s)
{
    struct rig *rig = &s->rig;
    struct kit_seen seen;
    unsigned count = 0;

    for (; rig->driver->ops->peek(rig->driver, &seen) > 0; count++) {
        if (rig->guest.format == SVQ_RING_SPLIT) {
            logged_expect(s, RIG_DEVICE + 4 + 8 * (uint64_t)seen.slot, 8);
            logged_expect(s, RIG_DEVICE + 2, 2);
            continue;
        }
        logged_expect(s, RIG_DESC + 16 * (uint64_t)seen.slot, 16);
        for (unsigned i = 0; i < seen.slots; i++)
            s->may[(RIG_DESC + 16 * (uint64_t)((seen.slot + i) % rig->num)) / RIG_PAGE] = true;
    }
    rig->completed += count;
    return count;
}
