/* SPDX-License-Identifier: BSD-3-Clause */
#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include "relay_stage.h"

struct kit_memory stage_memory;

/* The dirty log lies in the middle of a page that is full of a pattern. */
#define LOG_OFFSET 100u
#define LOG_END    (LOG_OFFSET + STAGE_LOG_MAX)

static int log_file = -1;
static uint8_t *log_bytes;
static uint8_t pattern[4096];

static void once(void)
{
    if (log_file >= 0)
        return;
    kit_memory_init(&stage_memory, STAGE_GPA, STAGE_SIZE);
    log_file = kit_file(4096);
    log_bytes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, log_file, 0);
    kit_require(log_bytes != MAP_FAILED);
    memset(pattern, 0x5a, sizeof(pattern));
}

/* ---- Rings ----------------------------------------------------------------------------------- */

enum { DESC, DRIVER, DEVICE, AREAS };

static size_t area_size(const struct kit_ring *ring, unsigned area)
{
    if (area == DESC)
        return kit_desc_bytes(ring->num);
    return area == DRIVER ? kit_driver_bytes(ring->format, ring->num)
                          : kit_device_bytes(ring->format, ring->num);
}

static void *area_at(const struct kit_ring *ring, unsigned area)
{
    return area == DESC ? ring->at.desc : area == DRIVER ? ring->at.driver : ring->at.device;
}

static struct kit_ring new_ring(enum svq_ring_format format, unsigned num)
{
    struct kit_ring ring = {.format = format, .num = num};
    void *areas[AREAS];

    for (unsigned i = 0; i < AREAS; i++) {
        areas[i] = calloc(1, area_size(&ring, i));
        kit_require(areas[i] != NULL);
    }
    ring.at = (struct svq_vring){areas[DESC], areas[DRIVER], areas[DEVICE]};
    return ring;
}

static void free_ring(struct kit_ring *ring)
{
    free(ring->at.desc);
    free(ring->at.driver);
    free(ring->at.device);
}

/* A ring's bytes at some moment. */
struct ring_copy {
    struct kit_ring ring; /* points into the copy */
    union {
        struct kit_pdesc pdesc[STAGE_SHADOW];
        struct kit_desc desc[STAGE_SHADOW];
    };
    _Alignas(8) uint8_t driver[8 + 2 * STAGE_SHADOW];
    _Alignas(8) uint8_t device[8 + 8 * STAGE_SHADOW];
};

static void copy_ring(struct ring_copy *copy, const struct kit_ring *ring)
{
    copy->ring = *ring;
    copy->ring.at = (struct svq_vring){copy->desc, copy->driver, copy->device};
    for (unsigned i = 0; i < AREAS; i++)
        memcpy(area_at(&copy->ring, i), area_at(ring, i), area_size(ring, i));
}

static struct kit_place place(uint16_t off, bool wrap)
{
    return (struct kit_place){off, wrap};
}

static struct kit_place avail_of(const struct svq_ring_index *index)
{
    return place(index->avail, index->avail_wrap);
}

static struct kit_place used_of(const struct svq_ring_index *index)
{
    return place(index->used, index->used_wrap);
}

/* Entries or descriptors from one place to another. */
static unsigned distance(const struct kit_ring *ring, struct kit_place from, struct kit_place to)
{
    if (ring->format == SVQ_RING_SPLIT)
        return (uint16_t)(to.off - from.off);
    return kit_place_distance(from, to, ring->num);
}

static void move(const struct kit_ring *ring, struct kit_place *at, unsigned by)
{
    if (ring->format == SVQ_RING_SPLIT)
        at->off = (uint16_t)(at->off + by);
    else
        kit_place_move(at, ring->num, by);
}

/* ---- Before a call --------------------------------------------------------------------------- */

struct before {
    struct ring_copy guest;
    struct ring_copy shadow;
    uint8_t memory[STAGE_SIZE];
    struct svq_relay_state state;
    struct svq_relay_stats stats;
};

static struct before before;

static void look(const struct stage *s)
{
    copy_ring(&before.guest, &s->guest);
    copy_ring(&before.shadow, &s->shadow);
    memcpy(before.memory, stage_memory.bytes, STAGE_SIZE);
    svq_relay_state(s->relay, &before.state);
    svq_relay_stats(s->relay, &before.stats);
}

/* ---- Memory ---------------------------------------------------------------------------------- */

/* What the relay may have changed is taken over into the copy; then both must be the same. */
static void allow_used(const struct stage *s, const struct svq_relay_state *now)
{
    struct kit_place at = used_of(&before.state.guest);
    unsigned moved = distance(&s->guest, at, used_of(&now->guest));

    fuzz_check(moved <= s->guest.num);
    for (; moved; moved--) {
        unsigned i = at.off % s->guest.num;

        if (s->guest.format == SVQ_RING_SPLIT) {
            before.guest.ring.split.used->ring[i] = s->guest.split.used->ring[i];
            before.guest.ring.split.used->idx = now->guest.used;
        } else { /* all but the address */
            memcpy((uint8_t *)&before.guest.pdesc[i] + 8, (uint8_t *)&s->guest.packed.desc[i] + 8,
                   8);
        }
        move(&s->guest, &at, 1);
    }
}

static void allow_suppression(const struct stage *s)
{
    if (s->guest.format == SVQ_RING_PACKED) {
        memcpy(before.guest.device, s->guest.at.device, 4);
        return;
    }
    before.guest.ring.split.used->flags = s->guest.split.used->flags;
    *kit_avail_event(&before.guest.ring) = *kit_avail_event(&s->guest);
}

static void check_memory(const struct stage *s)
{
    for (unsigned i = 0; i < AREAS; i++)
        fuzz_check(!memcmp(area_at(&before.guest.ring, i), area_at(&s->guest, i),
                           area_size(&s->guest, i)));
    fuzz_check(!memcmp(before.memory, stage_memory.bytes, STAGE_SIZE));
    fuzz_check(!memcmp(log_bytes, pattern, LOG_OFFSET));
    fuzz_check(!memcmp(log_bytes + LOG_END, pattern, 4096 - LOG_END));
}

/* ---- Completions ----------------------------------------------------------------------------- */

static void forget(struct stage *s, unsigned i)
{
    s->count--;
    memmove(&s->chains[i], &s->chains[i + 1], (s->count - i) * sizeof(s->chains[0]));
}

/* The next thing in the guest's ring is the used entry of that chain. */
static void expect_delivered(struct stage *s, unsigned i, struct kit_place *at)
{
    const struct stage_chain *chain = &s->chains[i];
    unsigned slot = at->off % s->guest.num;

    if (s->guest.format == SVQ_RING_SPLIT) {
        fuzz_check(s->guest.split.used->ring[slot].id == chain->guest_id);
        move(&s->guest, at, 1);
    } else {
        const struct kit_pdesc *d = &s->guest.packed.desc[slot];
        uint16_t mine = (uint16_t)(d->flags & (KIT_P_AVAIL | KIT_P_USED));

        fuzz_check(d->id == chain->guest_id && mine == kit_used_flags(at->wrap));
        fuzz_check(!(d->flags & ~(KIT_P_AVAIL | KIT_P_USED | KIT_P_WRITE)));
        move(&s->guest, at, chain->guest_slots);
    }
    forget(s, i);
}

static unsigned find_with_backend(const struct stage *s, uint32_t id)
{
    for (unsigned i = 0; i < s->count; i++)
        if (s->chains[i].backend_id == id && !s->chains[i].done)
            return i;
    fuzz_check(!"completed what is not outstanding");
    return 0;
}

/* One used entry of the back-end, as it was before the call. Return: how far it leads. */
static unsigned follow_used(struct stage *s, const struct kit_place *from, struct kit_place *to)
{
    const struct kit_ring *ring = &before.shadow.ring;
    unsigned slot = from->off % ring->num, slots, i;
    bool split = ring->format == SVQ_RING_SPLIT;

    i = find_with_backend(s, split ? ring->split.used->ring[slot].id : ring->packed.desc[slot].id);
    slots = split ? 1 : s->chains[i].backend_slots;
    if (s->config.backend.features & SVQ_BIT(SVQ_F_IN_ORDER)) {
        slots = 0;
        for (unsigned n = 0; n <= i; n++) {
            slots += split ? 1 : s->chains[0].backend_slots;
            expect_delivered(s, 0, to);
        }
        return slots;
    }
    if (!(s->config.guest.features & SVQ_BIT(SVQ_F_IN_ORDER))) {
        expect_delivered(s, i, to);
        return slots;
    }
    s->chains[i].done = true;
    while (s->count && s->chains[0].done)
        expect_delivered(s, 0, to);
    return slots;
}

static void check_completions(struct stage *s, const struct svq_relay_state *now)
{
    struct kit_place from = used_of(&before.state.backend), to = used_of(&before.state.guest);
    unsigned left = distance(&s->shadow, from, used_of(&now->backend));
    struct svq_relay_stats stats;
    unsigned count = s->count;

    fuzz_check(left <= s->shadow.num);
    while (left) {
        unsigned slots = follow_used(s, &from, &to);

        fuzz_check(slots <= left);
        left -= slots;
        move(&s->shadow, &from, slots);
    }
    fuzz_check(distance(&s->guest, to, used_of(&now->guest)) == 0);
    svq_relay_stats(s->relay, &stats);
    fuzz_check(stats.chains - before.stats.chains == count - s->count);
}

/* ---- New chains ------------------------------------------------------------------------------ */

/* A chain that was taken from the guest. Return: how far it leads. */
static unsigned follow_taken(const struct stage *s, struct kit_place at, struct stage_chain *chain)
{
    const struct kit_ring *ring = &before.guest.ring;

    if (ring->format == SVQ_RING_SPLIT) {
        chain->guest_id = ring->split.avail->ring[at.off % ring->num];
        return 1;
    }
    for (unsigned slots = 1;; slots++) {
        const struct kit_pdesc *d = &ring->packed.desc[at.off];

        fuzz_check(slots <= s->guest.num);
        chain->guest_id = d->id;
        chain->guest_slots = (uint16_t)slots;
        if (d->flags & KIT_P_INDIRECT || !(d->flags & KIT_P_NEXT))
            return slots;
        move(ring, &at, 1);
    }
}

/* The same chain in the back-end's ring. */
static unsigned follow_emitted_packed(const struct stage *s, struct kit_place at,
                                      struct stage_chain *chain)
{
    for (unsigned slots = 1;; slots++) {
        const struct kit_pdesc *d = &s->shadow.packed.desc[at.off];
        uint16_t mine = (uint16_t)(d->flags & (KIT_P_AVAIL | KIT_P_USED));

        fuzz_check(slots <= s->shadow.num && mine == kit_avail_flags(at.wrap));
        fuzz_check(slots == 1 || chain->backend_id == d->id);
        chain->backend_id = d->id;
        chain->backend_slots = (uint16_t)slots;
        if (!(d->flags & KIT_P_NEXT))
            return slots;
        move(&s->shadow, &at, 1);
    }
}

static unsigned follow_emitted(const struct stage *s, struct kit_place at,
                               struct stage_chain *chain)
{
    unsigned i;

    if (s->shadow.format == SVQ_RING_PACKED)
        return follow_emitted_packed(s, at, chain);
    chain->backend_id = s->shadow.split.avail->ring[at.off % s->shadow.num];
    i = chain->backend_id;
    chain->backend_slots = 1;
    /* Of a shared descriptor table only heads are known. */
    for (unsigned slots = 1; !svq_relay_shares(s->relay); slots++) {
        const struct kit_desc *d = &s->shadow.split.desc[i];

        fuzz_check(i < s->shadow.num && slots <= s->shadow.num);
        chain->backend_slots = (uint16_t)slots;
        if (!(d->flags & KIT_F_NEXT))
            break;
        i = d->next;
    }
    return 1;
}

static void check_new_chains(struct stage *s, const struct svq_relay_state *now)
{
    struct kit_place from = avail_of(&before.state.guest), to = avail_of(&before.state.backend);
    unsigned left = distance(&s->guest, from, avail_of(&now->guest));
    unsigned room = distance(&s->shadow, to, avail_of(&now->backend));
    unsigned slots = 0;

    fuzz_check(left <= s->guest.num && room <= s->shadow.num);
    while (left) {
        struct stage_chain chain = {0};
        unsigned taken = follow_taken(s, from, &chain), emitted = follow_emitted(s, to, &chain);

        fuzz_check(taken <= left && emitted <= room && s->count < STAGE_SHADOW);
        fuzz_check(chain.backend_id < s->shadow.num);
        for (unsigned i = 0; i < s->count; i++)
            fuzz_check(s->chains[i].backend_id != chain.backend_id);
        s->chains[s->count++] = chain;
        left -= taken;
        room -= emitted;
        move(&s->guest, &from, taken);
        move(&s->shadow, &to, emitted);
    }
    fuzz_check(room == 0);
    for (unsigned i = 0; i < s->count; i++)
        slots += s->chains[i].backend_slots;
    fuzz_check(slots <= s->shadow.num);
    if (s->shadow.format == SVQ_RING_SPLIT)
        fuzz_check(avail_of(&before.state.backend).off == avail_of(&now->backend).off ||
                   s->shadow.split.avail->idx == now->backend.avail);
}

/* ---- Faults ---------------------------------------------------------------------------------- */

static bool same_state(const struct svq_relay_state *a, const struct svq_relay_state *b)
{
    return !memcmp(a, b, sizeof(*a));
}

static void check_fault(struct stage *s, unsigned bits, const struct svq_relay_state *now)
{
    const char *reason = "";
    enum svq_side side = svq_relay_fault(s->relay, &reason);

    fuzz_check((side == SVQ_SIDE_NONE) == (reason == NULL));
    fuzz_check(!(bits & SVQ_RELAY_FAULT) || side != SVQ_SIDE_NONE);
    if (s->faulted) {
        fuzz_check(side != SVQ_SIDE_NONE);
        fuzz_check(same_state(now, &before.state));
        fuzz_check(!(bits & ~SVQ_RELAY_FAULT));
    }
    s->faulted = side != SVQ_SIDE_NONE;
    /* Chains that are looked into only when they come back may turn out to be bad then. */
    if (reason && (strstr(reason, "does not cover a buffer") ||
                   (side == SVQ_SIDE_GUEST && svq_relay_shares(s->relay))))
        s->blind = true;
}

/* ---- Notifications --------------------------------------------------------------------------- */

/*
 * Does the other end of a ring want to hear of what moved there? -1: it asks for nonsense, or (with
 * EVENT_IDX in split rings) it depends on older history.
 */
static int wanted(const struct kit_ring *ring, bool event_idx, bool guest, struct kit_place from,
                  unsigned moved)
{
    if (!moved)
        return 0;
    if (ring->format == SVQ_RING_PACKED)
        return kit_event_wanted(guest ? ring->packed.driver : ring->packed.device, event_idx, from,
                                moved, ring->num);
    if (event_idx)
        return -1;
    return !((guest ? ring->split.avail->flags : ring->split.used->flags) & 1);
}

static void check_notifications(const struct stage *s, unsigned bits,
                                const struct svq_relay_state *now)
{
    struct kit_place used = used_of(&before.state.guest), avail = avail_of(&before.state.backend);
    int call = wanted(&before.guest.ring, s->config.guest.features & SVQ_BIT(SVQ_F_EVENT_IDX), true,
                      used, distance(&s->guest, used, used_of(&now->guest)));
    int kick = wanted(&before.shadow.ring, s->config.backend.features & SVQ_BIT(SVQ_F_EVENT_IDX),
                      false, avail, distance(&s->shadow, avail, avail_of(&now->backend)));

    fuzz_check(call < 0 || call == !!(bits & SVQ_RELAY_CALL_GUEST));
    fuzz_check(kick < 0 || kick == !!(bits & SVQ_RELAY_KICK_BACKEND));
}

/* ---- Calls ----------------------------------------------------------------------------------- */

static bool guest_waits(const struct stage *s, const struct svq_relay_state *now)
{
    uint16_t flags;

    if (s->guest.format == SVQ_RING_SPLIT)
        return s->guest.split.avail->idx != now->guest.avail;
    flags = s->guest.packed.desc[now->guest.avail].flags;
    return (flags & (KIT_P_AVAIL | KIT_P_USED)) == kit_avail_flags(now->guest.avail_wrap);
}

void stage_poll(struct stage *s)
{
    struct svq_relay_state now;
    bool blind = s->blind;
    unsigned bits;

    look(s);
    memset(&now, 0, sizeof(now));
    bits = svq_relay_poll(s->relay);
    svq_relay_state(s->relay, &now);
    allow_used(s, &now);
    check_memory(s);
    check_fault(s, bits, &now);
    fuzz_check(now.in_flight <= s->guest.num);
    if (s->blind || blind)
        return;
    check_completions(s, &now);
    check_new_chains(s, &now);
    check_notifications(s, bits, &now);
    fuzz_check(now.in_flight == s->count);
    /* Whoever waits, waits for a chain that is in flight. */
    fuzz_check(s->count || s->held || s->faulted || !guest_waits(s, &now));
}

void stage_control(struct stage *s, void (*call)(struct stage *s))
{
    struct svq_relay_state now;

    look(s);
    call(s);
    svq_relay_state(s->relay, &now);
    allow_suppression(s);
    check_memory(s);
    fuzz_check(same_state(&now, &before.state));
    check_fault(s, 0, &now);
}

void stage_log(struct stage *s, unsigned size, bool ring, uint64_t desc_gpa, uint64_t device_gpa)
{
    struct svq_relay_log log = {.ring = ring, .desc_gpa = desc_gpa, .device_gpa = device_gpa};

    if (size) {
        kit_require(svq_log_new(log_file, size, LOG_OFFSET, &log.log) == 0);
        memset(log_bytes + LOG_OFFSET, 0, STAGE_LOG_MAX);
    }
    svq_relay_set_log(s->relay, &log);
    svq_log_unref(log.log);
}

struct stage_chain *stage_with_backend(struct stage *s, unsigned i)
{
    for (unsigned at = 0; at < s->count; at++)
        if (!s->chains[at].done && !i--)
            return &s->chains[at];
    return NULL;
}

/* ---- Opening and closing --------------------------------------------------------------------- */

static int new_relay(struct stage *s)
{
    int err;

    s->config.guest.ring = s->guest.at;
    s->config.backend.ring = s->shadow.at;
    err = svq_relay_new(&s->config, &s->relay);
    fuzz_check(err == 0 || err == -EINVAL);
    s->completed = place(0, true);
    s->faulted = s->blind = s->held = false;
    s->count = 0;
    return err;
}

/* Can a ring stand there: what was taken and is not used is at most all of it? */
static bool good_base(const struct kit_ring *ring, uint32_t base)
{
    struct kit_place avail = kit_place_at((uint16_t)base);
    struct kit_place used = base >> 16 ? kit_place_at((uint16_t)(base >> 16)) : avail;

    if (ring->format == SVQ_RING_SPLIT)
        return true;
    return avail.off < ring->num && used.off < ring->num &&
           kit_place_distance(used, avail, ring->num) <= ring->num;
}

bool stage_open(struct stage *s, const struct svq_relay_config *config)
{
    struct svq_ring_index index = svq_packed_index(config->base);
    int err;

    once();
    memset(stage_memory.bytes, 0, STAGE_SIZE);
    memcpy(log_bytes, pattern, sizeof(pattern));
    s->config = *config;
    s->config.map = stage_memory.map;
    s->config.tables.addr = STAGE_TABLES;
    s->config.tables.size = svq_relay_tables_size(config);
    s->config.tables.host = s->config.tables.size ? calloc(1, s->config.tables.size) : NULL;
    s->guest = new_ring(svq_ring_format(config->guest.features), config->guest.num);
    s->shadow = new_ring(svq_ring_format(config->backend.features), config->backend.num);
    if (s->guest.format == SVQ_RING_SPLIT)
        s->guest.split.avail->idx = s->guest.split.used->idx = (uint16_t)config->base;
    s->next = avail_of(&index);
    err = new_relay(s);
    fuzz_check((err == 0) == good_base(&s->guest, config->base));
    return err == 0;
}

void stage_again(struct stage *s, uint32_t base)
{
    struct svq_ring_index index = svq_packed_index(base);

    svq_relay_free(s->relay);
    s->relay = NULL;
    s->config.base = base;
    s->next = avail_of(&index);
    fuzz_check(new_relay(s) == 0);
}

void stage_move_guest(struct stage *s)
{
    struct kit_ring old = s->guest;

    s->guest = new_ring(old.format, old.num);
    for (unsigned i = 0; i < AREAS; i++)
        memcpy(area_at(&s->guest, i), area_at(&old, i), area_size(&old, i));
    svq_relay_set_guest(s->relay, &s->guest.at, stage_memory.map);
    free_ring(&old);
}

void stage_close(struct stage *s)
{
    svq_relay_free(s->relay);
    free_ring(&s->guest);
    free_ring(&s->shadow);
    free(s->config.tables.host);
}
