/* SPDX-License-Identifier: BSD-3-Clause */
/* Event suppression of packed rings (virtio 1.3 section 2.8.14), for both ends. */
#include <errno.h>

#include "packed.h"

union event_word {
    struct kit_event event;
    uint32_t word;
};

int kit_event_wanted(const struct kit_event *event, bool event_idx, struct kit_place old,
                     unsigned count, unsigned num)
{
    union event_word now;
    struct kit_place at;

    now.word = __atomic_load_n((const uint32_t *)(const void *)event, __ATOMIC_ACQUIRE);
    at = kit_place_at(now.event.desc);
    if (now.event.flags == KIT_EVENT_ENABLE)
        return count > 0;
    if (now.event.flags == KIT_EVENT_DISABLE)
        return 0;
    if (now.event.flags != KIT_EVENT_DESC || !event_idx || at.off >= num)
        return -EPROTO;
    return kit_place_distance(old, at, num) < count;
}

void kit_event_set(struct kit_event *event, uint16_t desc, uint16_t flags)
{
    union event_word now = {.event = {desc, flags}};

    __atomic_store_n((uint32_t *)(void *)event, now.word, __ATOMIC_RELEASE);
}
