/* SPDX-License-Identifier: BSD-3-Clause */
#include "stage.h"

#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#define GPA     UINT64_C(0x100000)
#define DRIVER  (GPA + 0x1000)
#define DEVICE  (GPA + 0x2000)
#define TABLES  (GPA + 0x10000)
#define DATA    (GPA + 0x40000)
#define SIZE    UINT64_C(0x80000)
#define STRIDE  1024u /* of requests in TABLES and DATA */
#define SHADOW  (UINT64_C(1) << 44)
#define LONGEST 3u

/* ---- From start to end ----------------------------------------------------------------------- */

void stage_open(struct stage *s, uint64_t guest, uint64_t backend, uint64_t seed)
{
    bool packed = guest & PACKED;
    enum svq_ring_format format = svq_ring_format(backend);
    struct svq_relay_config config = {0};
    unsigned num = packed ? 7 : 8;
    size_t at;

    memset(s, 0, sizeof(*s));
    s->rng.state = seed;
    s->side[0] = (struct stage_side){num, guest};
    s->side[1] = (struct stage_side){svq_relay_shadow_num(format, num), backend};
    s->entries = num + (seed % 3 == 0 ? 5 : 0);
    kit_memory_init(&s->memory, GPA, SIZE);
    s->guest = kit_ring_in(&s->memory, svq_ring_format(guest), num, GPA, DRIVER, DEVICE);
    s->shared = mmap(NULL, STAGE_SHARED, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
    kit_require(s->shared != MAP_FAILED);
    s->part = s->shared;
    at = svq_inflight_size(s->guest.format, s->entries);
    s->shadow = kit_ring_at(format, s->side[1].num, s->shared + at, s->shared + at + 512,
                            s->shared + at + 576);
    config.guest = (struct svq_relay_side){num, guest, s->guest.at};
    config.backend = (struct svq_relay_side){s->side[1].num, backend, s->shadow.at};
    s->tables.host = s->shared + at + 1024;
    s->tables.addr = SHADOW;
    s->tables.size = svq_relay_tables_size(&config);
    kit_require(at + 1024 + s->tables.size <= STAGE_SHARED);
    s->base = packed ? (seed % 2 ? 0x80058005 : 0x00050005) : 65533;
    s->driver = kit_driver_new(&s->memory, &s->guest, guest, s->base & 0xffff, NULL);
}

void stage_close(struct stage *s)
{
    svq_relay_free(s->relay);
    kit_device_free(s->device);
    kit_driver_free(s->driver);
    munmap(s->shared, STAGE_SHARED);
    kit_memory_free(&s->memory);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* Without the tables: nobody reads one before its ring refers to it. */
static size_t watched_size(const struct stage *s)
{
    return (size_t)((uint8_t *)s->tables.host - s->shared);
}

static size_t shared_size(const struct stage *s)
{
    return watched_size(s) + s->tables.size;
}

static const struct {
    uint64_t gpa;
    size_t size;
} areas[] = {{GPA, 512}, {DRIVER, 64}, {DEVICE, 256}};

void stage_save(const struct stage *s, struct stage_snapshot *to)
{
    memcpy(to->ring, s->memory.bytes, STAGE_KEPT);
    memcpy(to->shared, s->shared, shared_size(s));
}

void stage_restore(struct stage *s, const struct stage_snapshot *from)
{
    memcpy(s->memory.bytes, from->ring, STAGE_KEPT);
    memcpy(s->shared, from->shared, shared_size(s));
}

bool stage_changed(const struct stage *s, const struct stage_snapshot *since)
{
    for (unsigned i = 0; i < sizeof(areas) / sizeof(areas[0]); i++) {
        size_t at = areas[i].gpa - GPA;

        if (memcmp(since->ring + at, s->memory.bytes + at, areas[i].size) != 0)
            return true;
    }
    return memcmp(since->shared, s->shared, watched_size(s)) != 0;
}

/* ---- Guest and back-end ---------------------------------------------------------------------- */

unsigned stage_request_at(uint64_t addr)
{
    uint64_t at = addr - (addr < DATA ? TABLES : DATA);

    kit_require(addr >= TABLES && at / STRIDE < STAGE_REQUESTS);
    return (unsigned)(at / STRIDE);
}

/* Return: false when there is no room. */
bool stage_offer(struct stage *s)
{
    struct kit_buf bufs[LONGEST];
    unsigned count = kit_between(&s->rng, 1, LONGEST), direct = count;
    struct kit_chain chain;

    kit_require(s->offered < STAGE_REQUESTS);
    for (unsigned i = 0; i < count; i++)
        bufs[i] = (struct kit_buf){DATA + s->offered * STRIDE + 64 * i, 64, i > 0};
    if (s->side[0].features & INDIRECT && kit_percent(&s->rng, 60))
        direct = s->side[0].features & PACKED ? 0 : kit_below(&s->rng, count);
    chain = (struct kit_chain){.bufs = bufs,
                               .count = count,
                               .direct = direct,
                               .table = TABLES + s->offered * STRIDE,
                               .token = (void *)(uintptr_t)s->offered};
    if (!s->driver->ops->add(s->driver, &chain))
        return false;
    s->offered++;
    return true;
}

void stage_reap(struct stage *s)
{
    struct kit_done done;
    int result;

    while ((result = s->driver->ops->reap(s->driver, &done)) > 0) {
        unsigned request = (unsigned)(uintptr_t)done.token;

        kit_require(s->finished[request] && !s->got[request]);
        s->got[request] = true;
    }
    if (result < 0)
        fprintf(stderr, "# the guest says: %s\n", s->driver->broken);
    kit_require(result == 0);
}

/* Return: false when there is nothing to take. */
bool stage_take(struct stage *s)
{
    struct kit_buf bufs[16];
    uint16_t id;
    int count = s->device->ops->take(s->device, &id, bufs, 16);
    unsigned request;

    if (count < 0)
        fprintf(stderr, "# the back-end says: %s\n", s->device->broken);
    kit_require(count >= 0);
    if (!count)
        return false;
    request = stage_request_at(bufs[0].gpa);
    kit_require(!s->got[request] && bufs[0].gpa == DATA + request * STRIDE);
    s->taken[s->taken_count].id = id;
    s->taken[s->taken_count++].request = request;
    if (s->seen <= request)
        s->seen = request + 1;
    return true;
}

void stage_finish(struct stage *s)
{
    bool in_order = s->side[1].features & IN_ORDER;
    unsigned i = in_order ? 0 : kit_below(&s->rng, s->taken_count);
    unsigned batch = in_order ? kit_between(&s->rng, 1, s->taken_count) : 1;

    s->device->ops->complete(s->device, s->taken[i + batch - 1].id, 1, batch);
    for (unsigned n = 0; n < batch; n++)
        s->finished[s->taken[i + n].request] = true;
    s->taken_count -= batch;
    memmove(&s->taken[i], &s->taken[i + batch], (s->taken_count - i) * sizeof(s->taken[0]));
}

/* ---- The relay ------------------------------------------------------------------------------- */

void stage_attach(struct stage *s)
{
    struct kit_ring ring = s->shadow;

    if (svq_relay_shares(s->relay))
        ring.at.desc = s->guest.at.desc;
    kit_device_free(s->device);
    s->device = kit_device_new(s->memory.map, &ring, s->side[1].features,
                               s->shadow.format == SVQ_RING_PACKED ? SVQ_PACKED_START : 0);
    s->device->tables = s->tables;
    s->device->mixed = true;
    s->taken_count = 0;
}

void stage_start(struct stage *s)
{
    struct svq_relay_config config = {
        .guest = {s->side[0].num, s->side[0].features, s->guest.at},
        .backend = {s->shadow.num, s->side[1].features, s->shadow.at},
        .base = s->base,
        .map = s->memory.map,
        .tables = s->tables,
        .inflight = s->part,
        .inflight_entries = s->entries,
        .may_share = s->share,
    };

    kit_require(svq_relay_new(&config, &s->relay) == 0);
}

void stage_turn(struct stage *s)
{
    const char *reason = "";
    unsigned result = svq_relay_poll(s->relay);

    svq_relay_fault(s->relay, &reason);
    if (result & SVQ_RELAY_FAULT)
        fprintf(stderr, "# the relay says: %s\n", reason);
    kit_require(!(result & SVQ_RELAY_FAULT));
}

void stage_restart(struct stage *s)
{
    kit_require(svq_relay_restart(s->relay, &s->shadow.at, &s->tables) == 0);
}

void stage_detach(struct stage *s)
{
    s->base = svq_relay_detach(s->relay);
}
