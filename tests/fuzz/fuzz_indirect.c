/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Chains with indirect tables, any bytes in descriptors and tables, in either format: kept,
 * converted or flattened. A plain reading of the specification says which buffers a chain has, or
 * that it breaks a rule; the back-end's device must find the same buffers, or the relay the fault.
 */
#include <stdlib.h>

#include "fuzz.h"
#include "kit/packed.h"
#include "kit/split.h"

#define GPA        UINT64_C(0x10000)
#define SIZE       0x4000u
#define TABLE_SIZE 0x1000u /* tables begin below that */
#define SHADOW     (UINT64_C(1) << 44)
#define MAX_NUM    16u
#define MAX_BUFS   2048u
#define MAX_CHAINS 64u

struct stage {
    struct fuzz_input in;
    struct svq_relay_config config;
    struct kit_ring guest;
    struct kit_ring shadow;
    void *shadow_memory;
    struct kit_device *device;
    struct svq_relay *relay;
    bool late; /* shared descriptors: the relay looks into a chain only when it comes back */
    struct kit_place next; /* packed: where the guest puts the next chain */
    struct kit_place used; /* and where it finds the next completion */
};

static struct kit_memory memory;
static struct kit_log dirty;

/* A chain as the specification reads it. */
struct reading {
    bool bad;
    bool write_seen;
    unsigned false_write; /* this buffer, counted from 1; see read_table() */
    unsigned count;
    unsigned slots; /* descriptors in the guest's ring */
    unsigned direct;
    uint64_t bytes;
    uint64_t writable;
    uint16_t id;
    struct kit_buf bufs[MAX_BUFS];
};

static struct reading reading;
static struct kit_buf found[MAX_BUFS];

/* ---- The specification ----------------------------------------------------------------------- */

/* Both formats' descriptors, read as one. */
struct any_desc {
    uint64_t addr;
    uint32_t len;
    uint16_t flags;
    uint16_t rest; /* split: next; packed: id */
};

static struct any_desc read_desc(const struct stage *s, const void *table, unsigned i)
{
    const uint8_t *at = (const uint8_t *)table + 16 * (size_t)i;
    struct kit_pdesc p;
    struct kit_desc d;

    memcpy(&p, at, sizeof(p));
    memcpy(&d, at, sizeof(d));
    if (s->guest.format == SVQ_RING_PACKED)
        return (struct any_desc){p.addr, p.len, p.flags, p.id};
    return (struct any_desc){d.addr, d.len, d.flags, d.next};
}

static bool in_memory(uint64_t addr, uint64_t len)
{
    return addr >= GPA && addr - GPA <= SIZE && len <= SIZE - (addr - GPA);
}

/* One more buffer. Return: whether the chain is good so far. */
static bool add_buf(const struct any_desc *d)
{
    bool write = d->flags & KIT_F_WRITE;

    if ((!write && reading.write_seen) || (d->len && !in_memory(d->addr, d->len)) ||
        reading.count == MAX_BUFS)
        return false;
    reading.write_seen = write;
    reading.bytes += d->len;
    reading.writable += write ? d->len : 0;
    reading.bufs[reading.count++] = (struct kit_buf){d->addr, d->len, write};
    return reading.bytes <= UINT64_C(1) << 32;
}

/*
 * A packed table's first entry that is writable before a readable one is readable: DPDK's driver
 * makes such. The back-end sees what the guest wrote where tables are kept.
 */
static bool read_table(const struct stage *s, const struct any_desc *d)
{
    bool packed = s->guest.format == SVQ_RING_PACKED;
    unsigned entries = d->len / 16, longest = s->guest.num > 1024 ? s->guest.num : 1024;
    const void *table;

    if (!(s->config.guest.features & SVQ_BIT(SVQ_F_INDIRECT_DESC)) || d->flags & KIT_F_NEXT ||
        !d->len || d->len % 16 || entries > longest || !in_memory(d->addr, d->len))
        return false;
    table = kit_memory_at(&memory, d->addr, d->len);
    for (unsigned i = 0, n = 0; n < entries; n++) {
        struct any_desc e = read_desc(s, table, i);

        if (!packed && e.flags & KIT_F_INDIRECT)
            return false;
        if (packed && !i && entries > 1 && e.flags & KIT_P_WRITE &&
            !(read_desc(s, table, 1).flags & KIT_P_WRITE)) {
            e.flags &= (uint16_t)~KIT_P_WRITE;
            reading.false_write = reading.count + 1;
        }
        if (!add_buf(&e))
            return false;
        if (!packed && !(e.flags & KIT_F_NEXT))
            return true;
        i = packed ? i + 1 : e.rest;
        if (i >= entries)
            return packed;
    }
    return packed;
}

/* Where the n-th descriptor of a chain lies: at `at`, the next one, or anywhere. */
static bool read_chain(const struct stage *s, unsigned at)
{
    bool packed = s->guest.format == SVQ_RING_PACKED;
    struct kit_place place = s->next;

    while (reading.slots < s->guest.num) {
        struct any_desc d = read_desc(s, s->guest.at.desc, packed ? place.off : at);

        if (packed && (d.flags & (KIT_P_AVAIL | KIT_P_USED)) != kit_avail_flags(place.wrap))
            return false;
        reading.slots++;
        reading.id = d.rest;
        kit_place_move(&place, s->guest.num, 1);
        if (d.flags & KIT_F_INDIRECT)
            return read_table(s, &d);
        if (!add_buf(&d))
            return false;
        reading.direct++;
        if (!(d.flags & KIT_F_NEXT))
            return true;
        at = d.rest;
        if (!packed && at >= s->guest.num)
            return false;
    }
    return false;
}

static void read_it(const struct stage *s, unsigned head)
{
    bool flat = !(s->config.backend.features & SVQ_BIT(SVQ_F_INDIRECT_DESC));

    reading.bad = reading.write_seen = false;
    reading.count = reading.slots = reading.direct = reading.false_write = 0;
    reading.bytes = reading.writable = 0;
    reading.bad = !read_chain(s, head) || (flat && reading.count > s->shadow.num);
    if (s->guest.format == SVQ_RING_SPLIT)
        reading.id = (uint16_t)head;
}

/* ---- The guest ------------------------------------------------------------------------------- */

static uint64_t read_gpa(struct fuzz_input *in)
{
    uint16_t value = (uint16_t)fuzz_number(in, 2);

    return value & 0x8000 ? fuzz_number(in, 8) : GPA + value % (SIZE + 16);
}

/*
 * Any descriptor, mostly one of a good chain. @in_ring: number of those left in the ring's chain;
 * -1: in a table
 */
static void write_desc(struct stage *s, void *at, unsigned next, bool last, bool table)
{
    uint8_t kind = (uint8_t)fuzz_number(&s->in, 1);
    uint64_t addr = kind & 0x80 ? read_gpa(&s->in) : GPA + (kind & 3) * 64;
    uint32_t len = (uint32_t)(kind & 0x40 ? fuzz_number(&s->in, 4) : kind & 0x3c);
    uint16_t flags = (uint16_t)((last ? 0 : KIT_F_NEXT) | (kind & 1 ? KIT_F_WRITE : 0));
    uint16_t rest = (uint16_t)next;

    if (table) {
        flags = (uint16_t)(KIT_F_INDIRECT | (flags & KIT_F_WRITE));
        addr = GPA + fuzz_number(&s->in, 2) % TABLE_SIZE;
        len = (uint32_t)(16 * (1 + fuzz_number(&s->in, 1) % 24));
    }
    if (kind & 0x20 && kind & 0x10) {
        flags ^= (uint16_t)fuzz_number(&s->in, 1) & 0x7f;
        rest = (uint16_t)fuzz_number(&s->in, 2);
        len += (uint32_t)fuzz_number(&s->in, 1) & 0x1f;
    }
    if (s->guest.format == SVQ_RING_PACKED)
        *(struct kit_pdesc *)at = (struct kit_pdesc){addr, len, rest, flags};
    else
        *(struct kit_desc *)at = (struct kit_desc){addr, len, flags, rest};
}

/* A table's entries, after each other at any place; often those of the next chain. */
static void write_table(struct stage *s)
{
    uint64_t gpa = GPA + fuzz_number(&s->in, 2) % TABLE_SIZE;
    unsigned count = (unsigned)fuzz_number(&s->in, 1) % 32;
    struct kit_desc *at = kit_memory_at(&memory, gpa & ~UINT64_C(15), 32 * 16);

    for (unsigned i = 0; i < count; i++)
        write_desc(s, &at[i], i + 1, i + 1 == count, false);
}

/* Return: the head. */
static unsigned write_chain(struct stage *s)
{
    uint8_t how = (uint8_t)fuzz_number(&s->in, 1);
    unsigned head = how % s->guest.num, direct = how / 16 % 4, count = direct + 1;
    bool packed = s->guest.format == SVQ_RING_PACKED, table = !(how & 0x80);
    struct kit_place place = s->next;

    for (unsigned i = 0; i < count && i < s->guest.num; i++) {
        unsigned at = packed ? place.off : (head + i) % s->guest.num;
        void *desc = (struct kit_desc *)s->guest.at.desc + at;

        write_desc(s, desc, (at + 1) % s->guest.num, i + 1 == count, table && i + 1 == count);
        if (packed)
            ((struct kit_pdesc *)desc)->flags |= kit_avail_flags(place.wrap);
        kit_place_move(&place, s->guest.num, 1);
    }
    if (packed)
        return 0;
    s->guest.split.avail->ring[s->guest.split.avail->idx % s->guest.num] = (uint16_t)head;
    s->guest.split.avail->idx++;
    return head;
}

/* What was written behind the chain's end would be another chain. */
static void cut_chain(struct stage *s)
{
    struct kit_place place = s->next;

    if (s->guest.format != SVQ_RING_PACKED || reading.slots == s->guest.num)
        return;
    kit_place_move(&place, s->guest.num, reading.slots);
    s->guest.packed.desc[place.off].flags = kit_used_flags(!place.wrap);
}

/* The guest finds the chain used. */
static void expect_used(struct stage *s, uint32_t len)
{
    if (s->guest.format == SVQ_RING_PACKED) {
        const struct kit_pdesc *d = &s->guest.packed.desc[s->used.off];

        fuzz_check((d->flags & (KIT_P_AVAIL | KIT_P_USED)) == kit_used_flags(s->used.wrap));
        fuzz_check(!(d->flags & KIT_P_WRITE) == !len);
        fuzz_check(d->id == reading.id && d->len == len);
        kit_place_move(&s->used, s->guest.num, reading.slots);
        s->next = s->used;
    } else {
        uint16_t idx = (uint16_t)(s->guest.split.used->idx - 1);
        const struct kit_used_elem *e = &s->guest.split.used->ring[idx % s->guest.num];

        fuzz_check(s->guest.split.used->idx == s->guest.split.avail->idx);
        fuzz_check(e->id == reading.id && e->len == len);
    }
}

/* ---- One chain ------------------------------------------------------------------------------- */

static void expect_refused(const struct stage *s, unsigned bits)
{
    struct svq_relay_state state;
    const char *reason = NULL;

    fuzz_check(bits == SVQ_RELAY_FAULT);
    fuzz_check(svq_relay_fault(s->relay, &reason) == SVQ_SIDE_GUEST && reason);
    svq_relay_state(s->relay, &state);
    fuzz_check(state.in_flight == 0);
    fuzz_check(!s->device->ops->pending(s->device));
}

static void look_late(struct stage *s, bool look)
{
    const struct svq_relay_log where = {.log = look ? dirty.log : NULL};

    if (s->late)
        svq_relay_set_log(s->relay, &where);
}

/* A bad chain has gone to the back-end unread. It is found out once somebody wants to know. */
static void expect_found_late(struct stage *s, unsigned head, unsigned bits)
{
    struct kit_used *used = s->shadow.split.used;
    const char *reason = NULL;
    struct svq_relay_state state;

    fuzz_check(bits & SVQ_RELAY_BUSY && !(bits & SVQ_RELAY_FAULT));
    used->ring[used->idx % s->shadow.num] = (struct kit_used_elem){head, 1};
    used->idx++;
    look_late(s, true);
    fuzz_check((svq_relay_poll(s->relay) & ~SVQ_RELAY_BUSY) == SVQ_RELAY_FAULT);
    fuzz_check(svq_relay_fault(s->relay, &reason) == SVQ_SIDE_GUEST && reason);
    svq_relay_state(s->relay, &state);
    fuzz_check(state.in_flight == 1);
}

static void expect_forwarded(struct stage *s, unsigned bits)
{
    uint32_t len = (uint32_t)fuzz_number(&s->in, 2);
    uint16_t id = 0;
    int count;

    fuzz_check(bits & SVQ_RELAY_BUSY && !(bits & SVQ_RELAY_FAULT));
    count = s->device->ops->take(s->device, &id, found, MAX_BUFS);
    fuzz_check(count == (int)reading.count);
    if (reading.false_write && s->shadow.format == SVQ_RING_PACKED &&
        s->config.backend.features & SVQ_BIT(SVQ_F_INDIRECT_DESC))
        found[reading.false_write - 1].write = false;
    for (unsigned i = 0; i < reading.count; i++)
        fuzz_check(found[i].gpa == reading.bufs[i].gpa && found[i].len == reading.bufs[i].len &&
                   found[i].write == reading.bufs[i].write);
    /* Nothing behind it. */
    fuzz_check(!s->device->ops->pending(s->device));
    s->device->ops->complete(s->device, id, len, 1);
    s->device->ops->publish(s->device);
    look_late(s, true);
    bits = svq_relay_poll(s->relay);
    look_late(s, false);
    fuzz_check(bits & SVQ_RELAY_BUSY && !(bits & SVQ_RELAY_FAULT));
    expect_used(s, len < reading.writable ? len : (uint32_t)reading.writable);
}

/* Return: whether there may be another one. */
static bool one_chain(struct stage *s)
{
    unsigned head, bits;

    for (unsigned tables = (unsigned)fuzz_number(&s->in, 1) % 3; tables; tables--)
        write_table(s);
    head = write_chain(s);
    read_it(s, head);
    cut_chain(s);
    bits = svq_relay_poll(s->relay);
    if (reading.bad && s->late && head < s->guest.num)
        expect_found_late(s, head, bits);
    else if (reading.bad)
        expect_refused(s, bits);
    else
        expect_forwarded(s, bits);
    return !reading.bad;
}

/* ---- The stage ------------------------------------------------------------------------------- */

static uint64_t features(unsigned bits)
{
    return (bits & 1 ? SVQ_BIT(SVQ_F_RING_PACKED) : 0) |
           (bits & 2 ? 0 : SVQ_BIT(SVQ_F_INDIRECT_DESC)) | (bits & 4 ? SVQ_BIT(SVQ_F_IN_ORDER) : 0);
}

static void open_stage(struct stage *s, uint8_t how, uint8_t size)
{
    struct svq_relay_config *config = &s->config;
    enum svq_ring_format shadow;
    struct kit_ring ring;

    config->guest.features = features(how & 7);
    config->backend.features = features(how >> 3 & 7);
    config->guest.num = how & 1 ? 1 + size % MAX_NUM : 1u << size % 5;
    config->base = how & 1 ? SVQ_PACKED_START : 0;
    config->map = memory.map;
    config->may_share = how & 0x40;
    shadow = svq_ring_format(config->backend.features);
    s->guest = kit_ring_at(svq_ring_format(config->guest.features), config->guest.num,
                           calloc(1, 16 * MAX_NUM), calloc(1, 6 + 2 * MAX_NUM),
                           calloc(1, 6 + 8 * MAX_NUM));
    config->backend.num = svq_relay_shadow_num(shadow, config->guest.num);
    s->shadow = kit_ring_alloc(shadow, config->backend.num, &s->shadow_memory);
    config->guest.ring = s->guest.at;
    config->backend.ring = s->shadow.at;
    config->tables.size = svq_relay_tables_size(config);
    config->tables.host = config->tables.size ? calloc(1, config->tables.size) : NULL;
    config->tables.addr = SHADOW;
    kit_require(svq_relay_new(config, &s->relay) == 0);
    ring = s->shadow;
    s->late = svq_relay_shares(s->relay);
    if (s->late)
        ring.at.desc = s->guest.at.desc;
    s->device = kit_device_new(memory.map, &ring, config->backend.features,
                               shadow == SVQ_RING_PACKED ? SVQ_PACKED_START : 0);
    /* A guest that has IN_ORDER and keeps none is passed on as it is, where formats agree. */
    s->device->in_order &= shadow != s->guest.format;
    s->device->tables = config->tables;
    s->device->mixed = true;
    s->next = s->used = kit_place_at(0x8000);
}

static void close_stage(struct stage *s)
{
    kit_device_free(s->device);
    svq_relay_free(s->relay);
    free(s->guest.at.desc);
    free(s->guest.at.driver);
    free(s->guest.at.device);
    free(s->shadow_memory);
    free(s->config.tables.host);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stage s = {.in = {data, size}};
    uint8_t how = (uint8_t)fuzz_number(&s.in, 1);

    if (!memory.bytes) {
        kit_memory_init(&memory, GPA, SIZE);
        kit_log_init(&dirty, (GPA + SIZE + 4095) / 4096);
    }
    memset(memory.bytes, 0, SIZE);
    open_stage(&s, how, (uint8_t)fuzz_number(&s.in, 1));
    for (unsigned n = 0; n < MAX_CHAINS && s.in.size && one_chain(&s);)
        n++;
    close_stage(&s);
    return 0;
}

/* ---- Seeds: good chains with a table each, in every combination -------------------------------
 */

size_t fuzz_seed(unsigned i, uint8_t data[FUZZ_MAX])
{
    size_t at = 0;

    if (i >= 128)
        return 0;
    data[at++] = (uint8_t)i;
    data[at++] = (uint8_t)(i / 64 ? 15 : 4);
    for (unsigned chain = 0; chain < 12; chain++) {
        unsigned entries = 1 + chain * 5 % 11, direct = chain % 3;

        data[at++] = 1; /* a table at GPA, its second half writable */
        data[at++] = 0;
        data[at++] = 0;
        data[at++] = (uint8_t)entries;
        for (unsigned e = 0; e < entries; e++)
            data[at++] = (uint8_t)(4 * (e % 3) | (e >= entries / 2));
        data[at++] = (uint8_t)(direct << 4 | chain);
        for (unsigned d = 0; d <= direct; d++)
            data[at++] = 8;
        data[at++] = 0;
        data[at++] = 0;
        data[at++] = (uint8_t)(entries - 1);
        data[at++] = 5; /* written */
        data[at++] = 0;
    }
    return at;
}
