/* SPDX-License-Identifier: BSD-3-Clause */
/* Ring formats: the rest of the model knows drivers and devices only. */
#include <stdlib.h>
#include <string.h>

#include "kit/packed.h"
#include "kit/split.h"
#include "model.h"

#define DESC   MODEL_GPA
#define DRIVER (MODEL_GPA + 0x080000)
#define DEVICE (MODEL_GPA + 0x0a0000)

/* Where the back-end finds the relay's tables: no guest memory there. */
#define TABLES (UINT64_C(1) << 44)

/* The driver's ring in guest memory; the shadow's areas each in memory of their own, so that
 * AddressSanitizer sees who leaves one. */
struct rings {
    struct kit_ring guest;
    struct kit_ring shadow;
    struct svq_relay_tables tables;
    void *part; /* of the in-flight region */
    unsigned part_entries;
    struct kit_driver *driver;
    struct kit_device *device;

    /* Since rings_begin(). */
    uint32_t suppression;
    struct kit_seen *seen;
    unsigned seen_count;
    struct kit_place used; /* where the guest finds the next used entry; packed only */
};

static uint32_t suppression(const struct world *w)
{
    const struct kit_ring *ring = &w->rings->guest;
    uint32_t word;

    if (w->front.packed) {
        memcpy(&word, ring->packed.device, sizeof(word));
        return word;
    }
    return w->front.event_idx ? *kit_avail_event(ring) : ring->split.used->flags;
}

static void new_shadow(struct world *w)
{
    struct kit_ring *shadow = &w->rings->shadow;
    const struct side *back = &w->back;

    *shadow = kit_ring_at(back->format, back->num, malloc(kit_desc_bytes(back->num)),
                          malloc(kit_driver_bytes(back->format, back->num)),
                          malloc(kit_device_bytes(back->format, back->num)));
    kit_require(shadow->at.desc && shadow->at.driver && shadow->at.device);
    memset(shadow->at.desc, 0x5a, kit_desc_bytes(back->num));
    memset(shadow->at.driver, 0x5a, kit_driver_bytes(back->format, back->num));
    memset(shadow->at.device, 0x5a, kit_device_bytes(back->format, back->num));
}

static void free_shadow(struct world *w)
{
    free(w->rings->shadow.at.desc);
    free(w->rings->shadow.at.driver);
    free(w->rings->shadow.at.device);
}

static struct svq_relay_config config_of(const struct world *w, uint32_t base)
{
    return (struct svq_relay_config){
        .guest = {w->front.num, w->front.features, w->rings->guest.at},
        .backend = {w->back.num, w->back.features, w->rings->shadow.at},
        .base = base,
        .map = w->memory->map,
        .tables = w->rings->tables,
        .inflight = w->rings->part,
        .inflight_entries = w->rings->part_entries,
        .may_share = w->may_share,
    };
}

void rings_init(struct world *w)
{
    struct rings *r = calloc(1, sizeof(*r));
    const struct side *front = &w->front;
    struct svq_relay_config config;

    kit_require(r != NULL);
    w->rings = r;
    r->guest = kit_ring_in(w->memory, front->format, front->num, DESC, DRIVER, DEVICE);
    r->driver = kit_driver_new(w->memory, &r->guest, front->features, w->first, &w->rng);
    w->guest.driver = r->driver;
    r->seen = calloc(front->num, sizeof(*r->seen));
    kit_require(r->seen != NULL);
    r->used = kit_place_at(w->first);
    if (w->tracked) {
        r->part_entries = front->num + (kit_percent(&w->rng, 30) ? kit_below(&w->rng, 100) : 0);
        r->part = calloc(1, svq_inflight_size(front->format, r->part_entries));
        kit_require(r->part != NULL);
    }
    new_shadow(w);
    config = config_of(w, 0);
    r->tables.addr = TABLES;
    r->tables.size = svq_relay_tables_size(&config);
    model_check(w, r->tables.size <= svq_relay_tables_max(front->num),
                "tables of %zu bytes are more than the most", r->tables.size);
    if (r->tables.size)
        r->tables.host = malloc(r->tables.size);
    kit_require(!r->tables.size || r->tables.host);
    model_check(w, svq_relay_shadow_num(w->back.format, front->num) <= w->back.num,
                "svq_relay_shadow_num() is too large");
}

void rings_free(struct world *w)
{
    kit_driver_free(w->rings->driver);
    kit_device_free(w->rings->device);
    free_shadow(w);
    free(w->rings->tables.host);
    free(w->rings->seen);
    free(w->rings->part);
    free(w->rings);
}

struct kit_device *rings_device(struct world *w, bool shadow, uint32_t base)
{
    struct rings *r = w->rings;

    struct kit_ring ring = shadow ? r->shadow : r->guest;

    if (shadow && w->host.shared)
        ring.at.desc = r->guest.at.desc;
    kit_device_free(r->device);
    r->device = kit_device_new(w->memory->map, &ring, w->back.features, base);
    r->device->rng = &w->rng;
    r->device->tables = r->tables;
    /* Such chains are not what a packed ring's driver should make: then only if the guest does. */
    r->device->mixed = w->front.packed;
    r->device->short_base = w->backend.short_base;
    return r->device;
}

struct svq_relay *rings_relay(struct world *w, uint32_t base)
{
    struct svq_relay *relay = NULL;
    struct svq_relay_config config;
    int err;

    free_shadow(w);
    new_shadow(w);
    if (w->rings->tables.size)
        memset(w->rings->tables.host, 0x5a, w->rings->tables.size);
    config = config_of(w, base);
    err = svq_relay_new(&config, &relay);
    model_check(w, err == 0, "svq_relay_new() returns %d", err);
    return relay;
}

void rings_forget(struct world *w, uint32_t base)
{
    struct rings *r = w->rings;
    size_t size = svq_inflight_size(w->front.format, r->part_entries);

    rings_skip(w);
    r->used = kit_place_at((uint16_t)base); /* everything is, up to there */
    if (!w->tracked)
        return;
    if (kit_percent(&w->rng, 50))
        memset(r->part, 0, size);
    else
        svq_inflight_reset(r->part, w->front.format, r->part_entries, base);
}

unsigned rings_listed(const struct world *w)
{
    const struct rings *r = w->rings;
    struct svq_inflight_report report;
    int err = svq_inflight_read(r->part, w->front.format, r->part_entries, w->front.num,
                                &r->guest.at, &report);

    model_check(w, err == 0, "svq_inflight_read() returns %d", err);
    model_check(w, report.tracked, "the in-flight region is not used");
    return report.in_flight;
}

void rings_restart(struct world *w, struct svq_relay *relay)
{
    struct rings *r = w->rings;
    struct rings old = *r;
    int err;

    new_shadow(w);
    if (r->tables.size) {
        r->tables.host = malloc(r->tables.size);
        kit_require(r->tables.host != NULL);
        memset(r->tables.host, 0x5a, r->tables.size);
        r->tables.addr = old.tables.addr ^ (TABLES << 1);
    }
    err = svq_relay_restart(relay, &r->shadow.at, &r->tables);
    model_check(w, err == 0, "svq_relay_restart() returns %d", err);
    /* AddressSanitizer sees who still looks there. */
    free(old.shadow.at.desc);
    free(old.shadow.at.driver);
    free(old.shadow.at.device);
    if (r->tables.size)
        free(old.tables.host);
}

uint32_t rings_shadow_start(const struct world *w)
{
    return w->back.packed ? SVQ_PACKED_START : SVQ_SPLIT_START;
}

uint32_t rings_base(const struct world *w, uint16_t index)
{
    return w->front.packed ? (uint32_t)index << 16 | index : index;
}

void rings_remap(struct world *w, struct svq_relay *relay)
{
    struct svq_region region = *svq_map_region(w->memory->map, 0);
    const struct side *front = &w->front;
    struct svq_vring guest;
    struct svq_map *map = NULL;

    kit_require(svq_map_new(&region, 1, NULL, &map) == 0);
    guest.desc = svq_map_gpa(map, DESC, svq_vring_desc_size(front->format, front->num));
    guest.driver = svq_map_gpa(map, DRIVER, svq_vring_driver_size(front->format, front->num));
    guest.device = svq_map_gpa(map, DEVICE, svq_vring_device_size(front->format, front->num));
    kit_require(guest.desc && guest.driver && guest.device);
    svq_relay_set_guest(relay, &guest, map);
    svq_map_unref(map);
}

struct svq_relay_log rings_log(const struct world *w)
{
    return (struct svq_relay_log){.log = w->host.log.log,
                                  .ring = w->host.log_ring,
                                  .desc_gpa = w->front.packed ? DESC : 0,
                                  .device_gpa = DEVICE};
}

/* ---- What the relay does ------------------------------------------------------------------- */

void rings_begin(struct world *w)
{
    w->rings->suppression = suppression(w);
    w->rings->seen_count = 0;
}

static bool see(struct world *w, struct kit_seen *seen)
{
    struct rings *r = w->rings;
    int result = r->driver->ops->peek(r->driver, seen);

    model_check(w, result >= 0, "the guest's ring is broken: %s", r->driver->broken);
    if (result && w->front.packed)
        kit_place_move(&r->used, w->front.num, seen->slots);
    return result;
}

struct chain *rings_next(struct world *w)
{
    struct rings *r = w->rings;
    struct kit_seen *seen = &r->seen[r->seen_count];

    if (r->seen_count == w->front.num || !see(w, seen))
        return NULL;
    model_check(w, seen->chains == 1, "a used entry of the relay completes %u chains",
                seen->chains);
    r->seen_count++;
    return seen->token;
}

void rings_skip(struct world *w)
{
    struct kit_seen seen;

    while (see(w, &seen))
        ;
}

void rings_written(const struct world *w, uint8_t *must, uint8_t *may)
{
    const struct rings *r = w->rings;
    bool changed = suppression(w) != r->suppression;
    uint64_t event = DEVICE + 4 + 8 * (uint64_t)w->front.num;

    for (unsigned i = 0; i < r->seen_count; i++) {
        const struct kit_seen *seen = &r->seen[i];
        unsigned slot = seen->slot;

        if (!w->front.packed) {
            model_set_range(must, DEVICE + 4 + 8 * (uint64_t)slot, 8);
            continue;
        }
        model_set_range(must, DESC + 16 * (uint64_t)slot, 16);
        /* The whole of a chain's range may be marked. */
        for (unsigned n = 0; n < seen->slots; n++)
            model_set_range(may, DESC + 16 * (uint64_t)((slot + n) % w->front.num), 16);
    }
    if (w->front.packed) {
        if (changed)
            model_set_range(must, DEVICE, 4);
        model_set_range(may, DEVICE, 4);
        return;
    }
    if (r->seen_count)
        model_set_range(must, DEVICE + 2, 2);
    if (changed)
        model_set_range(must, w->front.event_idx ? event : DEVICE, 2);
    model_set_range(may, DEVICE, 4);
    model_set_range(may, event, 2);
}

void rings_check_state(const struct world *w, const struct svq_relay_state *state)
{
    const struct rings *r = w->rings;
    uint16_t used = w->front.packed ? r->used.off : r->guest.split.used->idx;

    model_check(w, state->guest.used == used, "the state's guest.used is %u, not %u",
                state->guest.used, used);
    if (w->front.packed)
        model_check(w, state->guest.used_wrap == r->used.wrap,
                    "the state's guest.used_wrap is wrong");
    model_check(w, state->in_flight <= w->front.num, "%u chains in flight", state->in_flight);
}
