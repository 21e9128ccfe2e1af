/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A relay of any configuration between a guest and a back-end that both write what they like, in
 * between any two calls. Whatever they do: it touches nothing beside the rings, writes nothing but
 * what is its to write, completes only what is outstanding, in the order it must, and stays stopped
 * after a fault; see relay_stage.c.
 */
#include "relay_stage.h"

#define MAX_OPS 300u

enum op {
    OP_POLL,
    OP_ARM,
    OP_DISARM,
    OP_HOLD,
    OP_GO,
    OP_LOG,
    OP_NO_LOG,
    OP_STOPPED,
    OP_TOGGLE,
    OP_MOVE,
    OP_GUEST_CHAIN,
    OP_GUEST_TABLE,
    OP_GUEST_DESC,
    OP_GUEST_OFFER,
    OP_GUEST_WORD,
    OP_GUEST_BYTES,
    OP_BACKEND_COMPLETE,
    OP_BACKEND_USED,
    OP_BACKEND_WORD,
    OP_BACKEND_BYTES,
    OP_TURN,
    OP_COUNT
};

static uint8_t byte(struct stage *s)
{
    return (uint8_t)fuzz_number(&s->in, 1);
}

/* Any number, but mostly one that makes sense. */
static uint64_t read_gpa(struct stage *s)
{
    uint16_t value = (uint16_t)fuzz_number(&s->in, 2);

    return value & 0x8000 ? fuzz_number(&s->in, 8) : STAGE_GPA + value % (STAGE_SIZE + 64);
}

static bool packed(const struct kit_ring *ring)
{
    return ring->format == SVQ_RING_PACKED;
}

/* ---- The guest ------------------------------------------------------------------------------- */

/* Both formats' descriptors are 16 bytes: address, length, and flags here or there. */
static void write_desc(struct stage *s, void *at, uint64_t addr, uint32_t len, uint16_t flags,
                       uint16_t rest)
{
    if (packed(&s->guest))
        *(struct kit_pdesc *)at = (struct kit_pdesc){addr, len, rest, flags};
    else
        *(struct kit_desc *)at = (struct kit_desc){addr, len, flags, rest};
}

static void write_any_desc(struct stage *s, void *at)
{
    uint8_t kind = byte(s);
    uint64_t addr = read_gpa(s);
    uint32_t len = (uint32_t)(kind & 0x80 ? fuzz_number(&s->in, 4) : byte(s));
    uint16_t flags = (uint16_t)(kind & 0x40 ? fuzz_number(&s->in, 2) : kind & 7);
    uint16_t rest = (uint16_t)(kind & 0x20 ? fuzz_number(&s->in, 2) : byte(s) % s->guest.num);

    if (flags & KIT_F_INDIRECT && !(kind & 0x10))
        len &= ~15u;
    if (packed(&s->guest) && !(kind & 0x08))
        flags |= kit_avail_flags(s->next.wrap);
    write_desc(s, at, addr, len, flags, rest);
}

/* The next entry of the available ring, or the next descriptor. */
static void offer(struct stage *s, uint16_t head)
{
    struct kit_avail *avail = s->guest.split.avail;

    if (packed(&s->guest)) {
        struct kit_pdesc *desc = &s->guest.packed.desc[s->next.off];

        desc->flags &= (uint16_t) ~(KIT_P_AVAIL | KIT_P_USED);
        desc->flags |= kit_avail_flags(s->next.wrap);
        kit_place_move(&s->next, s->guest.num, 1);
        return;
    }
    avail->ring[avail->idx & (s->guest.num - 1)] = head;
    avail->idx++;
}

/*
 * A good chain, for depth: some direct descriptors, then perhaps a table at any place of guest
 * memory, filled or as it is.
 */
static void offer_chain(struct stage *s, bool table)
{
    unsigned at = byte(s) % s->guest.num, how = byte(s), direct = how % 4 + !table;
    unsigned entries = table ? 1 + how / 4 % 16 : 0, num = s->guest.num;
    struct kit_place place = s->next;
    uint64_t gpa = STAGE_GPA + byte(s) % 31 * 256;
    uint8_t id = byte(s);

    if (direct + table > num)
        direct = num - table;
    if (how & 0x40)
        entries *= 16;
    if (16 * entries > STAGE_GPA + STAGE_SIZE - gpa)
        entries = (unsigned)(STAGE_GPA + STAGE_SIZE - gpa) / 16;
    for (unsigned i = 0; i < direct + table; i++) {
        bool last = i + 1 == direct + table, indirect = table && last;
        uint16_t flags = (uint16_t)((last ? 0 : KIT_F_NEXT) | (indirect ? KIT_F_INDIRECT : 0) |
                                    (i >= 2 ? KIT_F_WRITE : 0));
        uint64_t addr = indirect ? gpa : STAGE_GPA + id * 16u;
        uint32_t len = indirect ? 16 * entries : 64;

        if (packed(&s->guest)) {
            flags |= kit_avail_flags(place.wrap);
            write_desc(s, &s->guest.packed.desc[place.off], addr, len, flags, id);
            kit_place_move(&place, num, 1);
        } else {
            write_desc(s, &s->guest.split.desc[(at + i) % num], addr, len, flags,
                       (uint16_t)((at + i + 1) % num));
        }
    }
    for (unsigned i = 0; i < entries && how & 0x80; i++)
        write_desc(s, (uint8_t *)kit_memory_at(&stage_memory, gpa, 16 * entries) + 16 * i,
                   STAGE_GPA + 16 * i, i,
                   (uint16_t)((i + 1 < entries ? KIT_F_NEXT : 0) |
                              (i >= 2 || direct > 2 ? KIT_F_WRITE : 0)),
                   (uint16_t)(i + 1));
    if (packed(&s->guest))
        s->next = place;
    else
        offer(s, (uint16_t)at);
}

/* An event suppression word: mostly a place in the ring. */
static struct kit_event any_event(const struct kit_ring *ring, uint8_t how, uint16_t value)
{
    uint16_t place = (uint16_t)((value & 0x8000) | (value & 0x7fff) % ring->num);

    return (struct kit_event){how & 0x40 ? value : place,
                              (uint16_t)(how & 0x80 ? how >> 1 & 0x3f : how >> 1 & 3)};
}

/* Any word that the guest has in the areas beside its descriptors. */
static void guest_word(struct stage *s)
{
    uint8_t at = byte(s);
    uint16_t value = (uint16_t)fuzz_number(&s->in, 2);

    if (packed(&s->guest)) {
        *(at & 1 ? s->guest.packed.driver : s->guest.packed.device) =
            any_event(&s->guest, at, value);
    } else if (at & 1) {
        s->guest.split.avail->flags = value;
    } else if (at & 2) {
        s->guest.split.avail->idx += value;
    } else if (at & 4) {
        *kit_used_event(&s->guest) = value;
    } else {
        s->guest.split.used->idx = value;
    }
}

/* Bytes anywhere in one of the three areas of a ring. */
static void any_bytes(struct stage *s, const struct kit_ring *ring)
{
    uint8_t what = byte(s), len = what >> 2 & 15;
    uint8_t *areas[3] = {ring->at.desc, ring->at.driver, ring->at.device};
    size_t sizes[3] = {kit_desc_bytes(ring->num), kit_driver_bytes(ring->format, ring->num),
                       kit_device_bytes(ring->format, ring->num)};
    size_t area = what % 3, at = (size_t)fuzz_number(&s->in, 2) % sizes[area];

    fuzz_bytes(&s->in, areas[area] + at, len < sizes[area] - at ? len : sizes[area] - at);
}

static void guest_acts(struct stage *s, enum op op)
{
    switch (op) {
    case OP_GUEST_CHAIN:
        offer_chain(s, false);
        break;
    case OP_GUEST_TABLE:
        offer_chain(s, true);
        break;
    case OP_GUEST_DESC: /* in the ring, or in a table */
        if (byte(s) & 0x80)
            write_any_desc(s, stage_memory.bytes + byte(s) * 16);
        else
            write_any_desc(s, (struct kit_desc *)s->guest.at.desc + byte(s) % s->guest.num);
        break;
    case OP_GUEST_OFFER:
        offer(s, byte(s));
        break;
    case OP_GUEST_WORD:
        guest_word(s);
        break;
    default:
        any_bytes(s, &s->guest);
    }
}

/* ---- The back-end ---------------------------------------------------------------------------- */

static void use(struct stage *s, uint32_t id, uint32_t len, unsigned forth)
{
    struct kit_used *used = s->shadow.split.used;
    struct kit_pdesc *desc = &s->shadow.packed.desc[s->completed.off];

    if (packed(&s->shadow)) {
        *desc = (struct kit_pdesc){0, len, (uint16_t)id,
                                   (uint16_t)(KIT_P_WRITE | kit_used_flags(s->completed.wrap))};
        kit_place_move(&s->completed, s->shadow.num, forth);
    } else {
        used->ring[(used->idx + forth - 1) & (s->shadow.num - 1)] = (struct kit_used_elem){id, len};
        used->idx = (uint16_t)(used->idx + forth);
    }
}

/* Something that is out: the i-th oldest; with IN_ORDER and all that are older. */
static void complete(struct stage *s)
{
    bool in_order = s->config.backend.features & SVQ_BIT(SVQ_F_IN_ORDER);
    unsigned i = byte(s), slots = 0, count = 0;
    const struct stage_chain *chain;
    uint32_t len = byte(s);

    while (stage_with_backend(s, count))
        count++;
    if (!count)
        return;
    i %= count;
    for (unsigned n = in_order ? 0 : i; n <= i; n++)
        slots += packed(&s->shadow) ? stage_with_backend(s, n)->backend_slots : 1;
    chain = stage_with_backend(s, i);
    use(s, chain->backend_id, len, slots);
}

static void backend_word(struct stage *s)
{
    uint8_t at = byte(s);
    uint16_t value = (uint16_t)fuzz_number(&s->in, 2);

    if (packed(&s->shadow)) {
        *(at & 1 ? s->shadow.packed.device : s->shadow.packed.driver) =
            any_event(&s->shadow, at, value);
    } else if (at & 1) {
        s->shadow.split.used->idx += value;
    } else if (at & 2) {
        s->shadow.split.used->flags = value;
    } else if (at & 4) {
        *kit_avail_event(&s->shadow) = value;
    } else {
        s->shadow.split.avail->idx = value;
    }
}

static void backend_acts(struct stage *s, enum op op)
{
    uint8_t id;

    switch (op) {
    case OP_BACKEND_COMPLETE:
        complete(s);
        break;
    case OP_BACKEND_USED:
        id = byte(s);
        use(s, id & 0x80 ? (uint32_t)fuzz_number(&s->in, 4) : id, byte(s), 1);
        break;
    case OP_BACKEND_WORD:
        backend_word(s);
        break;
    default:
        if (s->config.tables.size && byte(s) & 1)
            fuzz_bytes(&s->in, (uint8_t *)s->config.tables.host + byte(s) * 16u, 16);
        else
            any_bytes(s, &s->shadow);
    }
}

/* ---- svqd ------------------------------------------------------------------------------------ */

static void arm(struct stage *s)
{
    svq_relay_arm(s->relay);
}

static void disarm(struct stage *s)
{
    svq_relay_disarm(s->relay);
}

static void hold(struct stage *s)
{
    s->held = true;
    svq_relay_hold(s->relay, true);
}

static void go(struct stage *s)
{
    s->held = false;
    svq_relay_hold(s->relay, false);
}

/* What a back-end answers to GET_VRING_BASE: the truth, or anything. */
static void stopped(struct stage *s)
{
    uint32_t base = (uint32_t)fuzz_number(&s->in, 4);
    struct svq_relay_state state;
    int drained;

    if (base & 0x4000) {
        svq_relay_state(s->relay, &state);
        base = packed(&s->shadow) ? svq_packed_base(&state.backend) : state.backend.avail;
    }
    drained = svq_relay_drained(s->relay, base);
    fuzz_check(drained <= 1);
    base = svq_relay_resume_base(s->relay, base);
    if (!packed(&s->shadow) && drained >= 0)
        fuzz_check(base <= UINT16_MAX);
}

static void log_on(struct stage *s)
{
    uint8_t how = byte(s);
    uint64_t desc = read_gpa(s), device = read_gpa(s);

    stage_log(s, 1 + how % STAGE_LOG_MAX, how & 0x80, desc, device);
}

/* Off and on again. A ring that others took part in must do for any base that we make. */
static void toggle(struct stage *s)
{
    stage_again(s, svq_relay_detach(s->relay));
}

static void act(struct stage *s)
{
    enum op op = byte(s) % OP_COUNT;

    if (op >= OP_GUEST_CHAIN && op <= OP_GUEST_BYTES) {
        guest_acts(s, op);
    } else if (op >= OP_BACKEND_COMPLETE && op <= OP_BACKEND_BYTES) {
        backend_acts(s, op);
    } else if (op == OP_LOG) {
        log_on(s);
    } else if (op == OP_NO_LOG) {
        stage_log(s, 0, false, 0, 0);
    } else if (op == OP_TOGGLE) {
        toggle(s);
    } else if (op == OP_MOVE) {
        stage_move_guest(s);
    } else if (op == OP_POLL || op == OP_TURN) {
        stage_poll(s);
    } else {
        stage_control(s, op == OP_ARM      ? arm
                         : op == OP_DISARM ? disarm
                         : op == OP_HOLD   ? hold
                         : op == OP_GO     ? go
                                           : stopped);
    }
}

/* ---- Configurations -------------------------------------------------------------------------- */

/* Four bits: which of the ring features. */
static uint64_t features(unsigned bits)
{
    return (bits & 1 ? SVQ_BIT(SVQ_F_RING_PACKED) : 0) | (bits & 2 ? SVQ_BIT(SVQ_F_EVENT_IDX) : 0) |
           (bits & 4 ? SVQ_BIT(SVQ_F_INDIRECT_DESC) : 0) | (bits & 8 ? SVQ_BIT(SVQ_F_IN_ORDER) : 0);
}

static void read_config(struct fuzz_input *in, struct svq_relay_config *config)
{
    uint8_t sides = (uint8_t)fuzz_number(in, 1), size = (uint8_t)fuzz_number(in, 1);
    uint32_t base = (uint32_t)fuzz_number(in, 4);
    enum svq_ring_format shadow;

    memset(config, 0, sizeof(*config));
    config->guest.features = features(sides & 15);
    config->backend.features = features(sides >> 4);
    config->guest.num = sides & 1 ? 1 + size % STAGE_NUM : 1u << size % 7;
    shadow = svq_ring_format(config->backend.features);
    config->backend.num = svq_relay_shadow_num(shadow, config->guest.num) << (size >> 7);
    config->base = base & UINT16_MAX;
    config->may_share = !(sides & 1) && base >> 16 & 1;
    if (sides & 1) /* any two places in the ring, or just behind it */
        config->base = (base & 0x80008000) | (base & 0x7fff) % (config->guest.num + 1) |
                       ((base >> 16 & 0x7fff) % (config->guest.num + 1)) << 16;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stage s = {.in = {data, size}};
    struct svq_relay_config config;

    read_config(&s.in, &config);
    if (stage_open(&s, &config))
        for (unsigned ops = 0; ops < MAX_OPS && s.in.size; ops++)
            act(&s);
    stage_close(&s);
    return 0;
}

/* ---- Seeds: some turns of ordinary traffic for every pair of features -------------------------
 */

static size_t put(uint8_t *data, size_t at, const void *bytes, size_t len)
{
    memcpy(data + at, bytes, len);
    return at + len;
}

size_t fuzz_seed(unsigned i, uint8_t data[FUZZ_MAX])
{
    const uint8_t start[] = {(uint8_t)i, (uint8_t)(i * 37 | 4), 0xfe, 0xff, i >> 1 & 1, 0};
    const uint8_t packed_start[] = {(uint8_t)i, (uint8_t)(i * 37 | 4), 0, 0x80, 0, 0x80};
    size_t at = put(data, 0, i & 1 ? packed_start : start, sizeof(start));

    if (i >= 256)
        return 0;
    for (unsigned turn = 0; turn < 14; turn++) {
        const uint8_t chain[] = {OP_GUEST_CHAIN, (uint8_t)(turn * 5), (uint8_t)(turn % 4), 1, 3};
        const uint8_t table[] = {OP_GUEST_TABLE, (uint8_t)(turn * 5 + 4),
                                 (uint8_t)(0x80 | turn * 13), (uint8_t)turn, 5};
        const uint8_t logs[] = {OP_LOG, 0x82, 0, 1, 0, 2};
        const uint8_t events[] = {OP_GUEST_WORD,   5, (uint8_t)(turn * 3), (uint8_t)(turn << 7),
                                  OP_BACKEND_WORD, 5, (uint8_t)(turn * 3), (uint8_t)(turn << 7)};
        const uint8_t rest[] = {OP_POLL, OP_BACKEND_COMPLETE, 1, 9, OP_POLL, OP_ARM};
        const uint8_t most[] = {OP_BACKEND_COMPLETE, 0, 9, OP_POLL, OP_DISARM};

        at = put(data, at, chain, sizeof(chain));
        if (i & 4 && turn % 2)
            at = put(data, at, table, sizeof(table));
        if (turn == 5 && i & 2)
            at = put(data, at, logs, sizeof(logs));
        if (turn >= 6 && i & 0x22)
            at = put(data, at, events, sizeof(events));
        at = put(data, at, rest, sizeof(rest));
        if (turn % 3)
            at = put(data, at, most, sizeof(most));
        if (turn == 9)
            data[at++] = OP_MOVE;
        if (turn == 11)
            data[at++] = OP_TOGGLE;
    }
    data[at++] = OP_HOLD;
    data[at++] = OP_STOPPED;
    at = put(data, at, "\0\x40\0\0", 4);
    data[at++] = OP_TOGGLE;
    return at;
}
