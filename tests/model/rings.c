/* SPDX-License-Identifier: BSD-3-Clause */
/* Ring formats: the rest of the model knows drivers and devices only. Split, for now. */
#include <stdlib.h>
#include <string.h>

#include "kit/split.h"
#include "model.h"

#define DESC  MODEL_GPA
#define AVAIL (MODEL_GPA + 0x080000)
#define USED  (MODEL_GPA + 0x0a0000)

struct rings {
    struct kit_split guest;
    struct kit_split shadow;
    void *shadow_memory;
    struct kit_split_driver driver;
    struct kit_split_device device;
};

void rings_init(struct world *w)
{
    struct rings *r = calloc(1, sizeof(*r));
    size_t desc = 16 * (size_t)w->num, avail = (6 + 2 * (size_t)w->num + 7) / 8 * 8;
    char *shadow = malloc(desc + avail + kit_split_used_bytes(w->num));

    kit_require(r && shadow);
    kit_split_at(&r->guest, w->num, kit_memory_at(w->memory, DESC, 16 * (uint64_t)w->num),
                 kit_memory_at(w->memory, AVAIL, 6 + 2 * (uint64_t)w->num),
                 kit_memory_at(w->memory, USED, kit_split_used_bytes(w->num)));
    kit_split_at(&r->shadow, w->num, shadow, shadow + desc, shadow + desc + avail);
    r->shadow_memory = shadow;
    kit_split_driver_init(&r->driver, w->memory, &r->guest, w->features, w->first, &w->rng);
    w->rings = r;
    w->guest.driver = &r->driver.driver;
}

void rings_free(struct world *w)
{
    w->rings->driver.driver.ops->free(&w->rings->driver.driver);
    free(w->rings->shadow_memory);
    free(w->rings);
}

struct kit_device *rings_device(struct world *w, bool shadow, uint16_t base)
{
    struct rings *r = w->rings;

    kit_split_device_init(&r->device, w->memory->map, shadow ? &r->shadow : &r->guest, w->features,
                          base);
    return &r->device.device;
}

struct svq_relay *rings_relay(struct world *w, uint16_t base)
{
    struct svq_relay_config config = {
        .num = w->num,
        .features = w->features,
        .guest = kit_split_mem(&w->rings->guest),
        .backend = kit_split_mem(&w->rings->shadow),
        .base = base,
        .map = w->memory->map,
    };
    struct svq_relay *relay = NULL;
    int err = svq_relay_new(&config, &relay);

    model_check(w, err == 0, "svq_relay_new() returns %d", err);
    return relay;
}

void rings_remap(struct world *w, struct svq_relay *relay)
{
    struct svq_region region = *svq_map_region(w->memory->map, 0);
    struct svq_split_mem guest;
    struct svq_map *map = NULL;

    kit_require(svq_map_new(&region, 1, NULL, &map) == 0);
    guest.desc = svq_map_gpa(map, DESC, svq_split_desc_size(w->num));
    guest.avail = svq_map_gpa(map, AVAIL, svq_split_avail_size(w->num));
    guest.used = svq_map_gpa(map, USED, svq_split_used_size(w->num));
    kit_require(guest.desc && guest.avail && guest.used);
    svq_relay_set_guest(relay, &guest, map);
    svq_map_unref(map);
}

struct ring_mark rings_mark(const struct world *w)
{
    const struct kit_split *ring = &w->rings->guest;

    return (struct ring_mark){
        .used = ring->used->idx,
        .suppression = w->event_idx ? *kit_avail_event(ring) : ring->used->flags,
    };
}

void rings_written(const struct world *w, struct ring_mark before, uint8_t *must, uint8_t *may)
{
    struct ring_mark now = rings_mark(w);
    uint64_t event = USED + 4 + 8 * (uint64_t)w->num;

    for (uint16_t i = before.used; i != now.used; i++)
        model_set_range(must, USED + 4 + 8 * (uint64_t)(i & (w->num - 1)), 8);
    if (now.used != before.used)
        model_set_range(must, USED + 2, 2);
    if (now.suppression != before.suppression)
        model_set_range(must, w->event_idx ? event : USED, 2);
    model_set_range(may, USED, 4);
    model_set_range(may, event, 2);
}

uint64_t rings_log_address(const struct world *w)
{
    (void)w;
    return USED;
}
