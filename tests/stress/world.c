/* SPDX-License-Identifier: BSD-3-Clause */
#include "world.h"
#include "combo.h"

#include <stdlib.h>
#include <string.h>

#define GPA        UINT64_C(0x40000000)
#define GPA_DESC   GPA
#define GPA_DRIVER (GPA + 0x10000)
#define GPA_DEVICE (GPA + 0x20000)
#define GPA_TABLES (GPA + 0x30000)
#define GPA_DATA   (GPA + 0x40000)
#define SIZE       UINT64_C(0x80000)

#define TABLE_BYTES 256u  /* of each chain */
#define DATA_BYTES  1024u /* of each chain */
#define REPLY_AT    512u  /* among them */
#define BUFS_MAX    6u
#define REPLY_BYTES 16u

void world_memory_init(struct world *w)
{
    memset(w, 0, sizeof(*w));
    kit_memory_init(&w->memory, GPA, SIZE);
}

void world_memory_free(struct world *w)
{
    kit_memory_free(&w->memory);
}

void world_broken(struct world *w, const char *trouble)
{
    const char *none = NULL;

    /* The first to speak tells the cause. */
    atomic_compare_exchange_strong(&w->trouble, &none, trouble);
}

/* ---- Starting ----------------------------------------------------------------------------------
 */

/* Small rings wrap often; a ring of one descriptor has no room to be wrong in. */
static unsigned draw_num(struct kit_rng *rng, bool packed)
{
    static const unsigned split[] = {1, 2, 2, 4, 4, 8, 16, 64, 256};
    static const unsigned any[] = {1, 2, 3, 4, 5, 7, 8, 16, 31, 64, 255, 256};

    if (packed)
        return any[kit_below(rng, sizeof(any) / sizeof(any[0]))];
    return split[kit_below(rng, sizeof(split) / sizeof(split[0]))];
}

/* Where the guest's ring stands, in the lower half of a base: often just before a wrap. */
static uint16_t draw_base(struct kit_rng *rng, bool packed, unsigned num)
{
    if (packed)
        return (uint16_t)(kit_below(rng, num) | (kit_below(rng, 2) << 15));
    return (uint16_t)(kit_percent(rng, 50) ? 65536 - kit_below(rng, 300) : kit_rand(rng));
}

static void start_relay(struct world *w, uint16_t base)
{
    struct svq_relay_config config = {
        .guest = {w->num, combo_guest(w->config.combo), w->guest.at},
        .base = base,
        .map = w->memory.map,
        .may_share = w->may_share,
    };
    struct kit_ring ring;
    uint64_t features = combo_backend(w->config.combo);
    enum svq_ring_format format = svq_ring_format(features);

    w->shadow_num = svq_relay_shadow_num(format, w->num);
    w->shadow = kit_ring_alloc(format, w->shadow_num, &w->shadow_memory);
    config.backend = (struct svq_relay_side){w->shadow_num, features, w->shadow.at};
    w->tables = (struct svq_relay_tables){.size = svq_relay_tables_size(&config)};
    if (w->tables.size) {
        kit_require(!posix_memalign(&w->tables.host, 4096, w->tables.size));
        w->tables.addr = UINT64_C(1) << 40;
    }
    config.tables = w->tables;
    kit_require(svq_relay_new(&config, &w->relay) == 0);
    ring = w->shadow;
    if (svq_relay_shares(w->relay))
        ring.at.desc = w->guest.at.desc;
    w->device = kit_device_new(w->memory.map, &ring, features,
                               format == SVQ_RING_PACKED ? SVQ_PACKED_START : SVQ_SPLIT_START);
    w->device->tables = w->tables;
    w->device->mixed = true;
    w->device->rng = &w->backend_rng;
}

void world_start(struct world *w, const struct world_config *config)
{
    struct kit_rng rng = {config->seed};
    uint64_t features = combo_guest(config->combo);
    enum svq_ring_format format = svq_ring_format(features);
    uint16_t base;

    w->config = *config;
    w->num = draw_num(&rng, format == SVQ_RING_PACKED);
    base = draw_base(&rng, format == SVQ_RING_PACKED, w->num);
    w->depth = 1;
    if (config->burst)
        w->depth = kit_between(&rng, 1, w->num < WORLD_DEPTH ? w->num : WORLD_DEPTH);
    w->guest_rng.state = kit_rand(&rng);
    w->backend_rng.state = kit_rand(&rng);
    w->relay_rng.state = kit_rand(&rng);
    w->may_share = kit_percent(&rng, 50);
    w->offered = w->served = 0;
    w->done = 0;
    w->out = w->taken_count = 0;
    w->trouble = NULL;
    w->spare = NULL;
    for (unsigned i = 0; i < w->depth; i++) {
        w->chains[i].next = w->spare;
        w->spare = &w->chains[i];
    }
    w->guest = kit_ring_in(&w->memory, format, w->num, GPA_DESC, GPA_DRIVER, GPA_DEVICE);
    w->driver = kit_driver_new(&w->memory, &w->guest, features, base, &w->guest_rng);
    start_relay(w, base);
}

void world_stop(struct world *w)
{
    svq_relay_free(w->relay);
    kit_driver_free(w->driver);
    kit_device_free(w->device);
    free(w->shadow_memory);
    free(w->tables.host);
}

/* ---- The guest's steps -------------------------------------------------------------------------
 */

static uint64_t *words(struct world *w, uint64_t gpa)
{
    return kit_memory_at(&w->memory, gpa, REPLY_BYTES);
}

static uint64_t data_of(const struct world *w, const struct world_chain *chain)
{
    return GPA_DATA + (uint64_t)(chain - w->chains) * DATA_BYTES;
}

unsigned guest_reap(struct world *w)
{
    unsigned count = 0;
    struct kit_done done;
    int result;

    while ((result = w->driver->ops->reap(w->driver, &done)) > 0) {
        struct world_chain *chain = done.token;
        const uint64_t *reply = words(w, data_of(w, chain) + REPLY_AT);

        if (!done.skipped && done.len != REPLY_BYTES)
            world_broken(w, "the guest got a wrong length");
        if (reply[0] != chain->number || reply[1] != ~chain->number)
            world_broken(w, "the guest got a wrong answer");
        chain->next = w->spare;
        w->spare = chain;
        w->out--;
        count++;
    }
    if (result < 0)
        world_broken(w, w->driver->broken ? w->driver->broken : "the guest's used ring is broken");
    if (count) /* the only writer */
        atomic_store_explicit(&w->done, w->done + count, memory_order_relaxed);
    return count;
}

/* What a chain may have, wherever its buffers stand. */
static unsigned bufs_max(const struct world *w)
{
    unsigned most = BUFS_MAX;

    if (!w->driver->indirect && most > w->num)
        most = w->num;
    /* Flattened, it must fit as well. */
    if (!w->device->indirect && most > w->shadow_num)
        most = w->shadow_num;
    return most;
}

/* First the request, last the answer, between them what nobody looks at. */
static unsigned draw_bufs(struct world *w, uint64_t gpa, struct kit_buf *bufs)
{
    unsigned most = bufs_max(w), count = 2;

    /* A ring of one descriptor: one buffer for both. */
    if (most < 2) {
        bufs[0] = (struct kit_buf){gpa + REPLY_AT, REPLY_BYTES, true};
        return 1;
    }
    if (kit_percent(&w->guest_rng, 30))
        count = kit_between(&w->guest_rng, 2, most);
    bufs[0] = (struct kit_buf){gpa, 8, false};
    for (unsigned i = 1; i + 1 < count; i++)
        bufs[i] = (struct kit_buf){gpa + 16 * i, kit_below(&w->guest_rng, 16), false};
    bufs[count - 1] = (struct kit_buf){gpa + REPLY_AT, REPLY_BYTES, true};
    return count;
}

/* How many of the buffers stand in the ring itself. */
static unsigned draw_direct(struct world *w, unsigned count)
{
    unsigned direct = count;

    if (!w->driver->indirect)
        return count;
    if (count > w->num || kit_percent(&w->guest_rng, 50))
        direct = 0;
    /* A packed ring's chain is one or the other. */
    if (w->guest.format == SVQ_RING_SPLIT && kit_percent(&w->guest_rng, 20))
        direct = kit_below(&w->guest_rng, count < w->num ? count : w->num);
    return direct;
}

static bool add_one(struct world *w)
{
    struct world_chain *chain = w->spare;
    uint64_t gpa = data_of(w, chain), *reply = words(w, gpa + REPLY_AT);
    struct kit_buf bufs[BUFS_MAX];
    unsigned count = draw_bufs(w, gpa, bufs);
    struct kit_chain offer = {
        .bufs = bufs,
        .count = count,
        .direct = draw_direct(w, count),
        .table = GPA_TABLES + (uint64_t)(chain - w->chains) * TABLE_BYTES,
        .scatter = kit_percent(&w->guest_rng, 50),
        .token = chain,
    };

    if (!w->driver->ops->add(w->driver, &offer))
        return false;
    w->spare = chain->next;
    chain->number = w->offered++;
    words(w, gpa)[0] = chain->number;
    reply[0] = count == 1 ? chain->number : ~UINT64_C(0);
    reply[1] = 0;
    w->out++;
    return true;
}

unsigned guest_add(struct world *w, uint64_t most)
{
    unsigned count = 0, wanted = 1;

    if (w->config.burst)
        wanted = kit_between(&w->guest_rng, 1, w->depth);
    while (count < wanted && w->spare && w->offered < most && add_one(w))
        count++;
    return count;
}

bool guest_publish(struct world *w)
{
    bool kick = w->driver->ops->publish(w->driver);

    if (w->driver->broken)
        world_broken(w, w->driver->broken);
    return kick;
}

void guest_ask(struct world *w, bool on)
{
    w->driver->ops->interrupts(w->driver, on);
}

bool guest_pending(struct world *w)
{
    return w->driver->ops->pending(w->driver);
}

/* ---- The back-end's steps ----------------------------------------------------------------------
 */

/* Return: bytes written. */
static uint32_t answer(struct world *w, const struct kit_buf *bufs, int count)
{
    const struct kit_buf *last = &bufs[count - 1];
    uint64_t *reply, number;

    if (!last->write || last->len != REPLY_BYTES || (count > 1 && bufs[0].write)) {
        world_broken(w, "the back-end got a wrong chain");
        return 0;
    }
    reply = words(w, last->gpa);
    number = count > 1 ? *words(w, bufs[0].gpa) : reply[0];
    reply[0] = number;
    reply[1] = ~number;
    w->served++;
    return REPLY_BYTES;
}

unsigned backend_take(struct world *w)
{
    struct kit_buf bufs[BUFS_MAX];
    unsigned count = 0;
    uint16_t id;
    int result = 0;

    while (w->taken_count < WORLD_DEPTH &&
           (result = w->device->ops->take(w->device, &id, bufs, BUFS_MAX)) > 0) {
        w->taken[w->taken_count++] = (struct world_taken){id, answer(w, bufs, result)};
        count++;
        if (w->config.burst && kit_percent(&w->backend_rng, 20))
            break;
    }
    if (result < 0)
        world_broken(w, w->device->broken ? w->device->broken
                                          : "the back-end's available ring is broken");
    return count;
}

/* The oldest: alone, or up to it together, in one used entry for all of them. */
static void complete_in_order(struct world *w, unsigned count)
{
    unsigned first = 0;

    while (first < count) {
        unsigned batch = kit_between(&w->backend_rng, 1, count - first);
        struct world_taken *last = &w->taken[first + batch - 1];

        w->device->ops->complete(w->device, last->id, last->len, batch);
        first += batch;
    }
    w->taken_count -= count;
    memmove(w->taken, w->taken + count, w->taken_count * sizeof(w->taken[0]));
}

unsigned backend_complete(struct world *w)
{
    unsigned count = w->taken_count;

    if (!count)
        return 0;
    if (w->config.burst)
        count = kit_between(&w->backend_rng, 1, count);
    if (w->device->in_order) {
        complete_in_order(w, count);
        return count;
    }
    for (unsigned i = 0; i < count; i++) {
        unsigned pick = kit_below(&w->backend_rng, w->taken_count);

        w->device->ops->complete(w->device, w->taken[pick].id, w->taken[pick].len, 1);
        w->taken[pick] = w->taken[--w->taken_count];
    }
    return count;
}

bool backend_publish(struct world *w)
{
    bool call = w->device->ops->publish(w->device);

    if (w->device->broken)
        world_broken(w, w->device->broken);
    return call;
}

void backend_ask(struct world *w, bool on)
{
    w->device->ops->kicks(w->device, on);
}

bool backend_pending(struct world *w)
{
    return w->device->ops->pending(w->device);
}

/* ---- The relay's -------------------------------------------------------------------------------
 */

unsigned relay_poll(struct world *w)
{
    unsigned bits = svq_relay_poll(w->relay);

    if (bits & SVQ_RELAY_FAULT) {
        const char *reason = NULL;

        svq_relay_fault(w->relay, &reason);
        world_broken(w, reason);
    }
    return bits;
}
