/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A relay between a guest and a back-end that both write what they like, in between any two calls.
 * Whatever they do: it touches nothing beside the rings (each part of a ring is an allocation of
 * its own, for AddressSanitizer to see), writes nothing but what is its to write, completes only
 * what is outstanding, and stays stopped after a fault.
 */
#include <stdbool.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#include <shadowvq/relay.h>
#include <shadowvq/vhost_user.h>

#include "fuzz.h"
#include "kit/split.h"

#define GPA     UINT64_C(0x10000)
#define SIZE    0x4000u
#define MAX_NUM 64u
#define MAX_OPS 300u

/* The dirty log lies in the middle of a page that is full of a pattern. */
#define LOG_OFFSET 100u
#define LOG_SIZE   ((GPA + SIZE) / 4096 / 8 + 1)
#define LOG_END    (LOG_OFFSET + LOG_SIZE)

enum op {
    OP_POLL,
    OP_ARM,
    OP_DISARM,
    OP_HOLD,
    OP_GO,
    OP_LOG,
    OP_NO_LOG,
    OP_DRAINED,
    OP_DETACH,
    OP_GUEST_DESC,
    OP_GUEST_CHAIN,
    OP_GUEST_AVAIL,
    OP_GUEST_TABLE,
    OP_GUEST_WORD,
    OP_BACKEND_COMPLETE,
    OP_BACKEND_USED,
    OP_BACKEND_WORD,
    OP_TURN,
    OP_COUNT
};

struct stage {
    struct fuzz_input in;
    unsigned num;
    struct kit_split guest;
    struct kit_split shadow;
    struct svq_relay *relay;
    uint64_t guest_used_total;
    /* What is out, by head: from what the shadow ring was seen to say right after a poll. */
    bool out[MAX_NUM];
    unsigned out_count;
    uint16_t seen_avail;
    bool faulted;
};

static struct kit_memory memory;
static uint8_t before[SIZE];
static int log_file = -1;
static uint8_t *log_bytes;
static uint8_t pattern[4096];

static void once(void)
{
    if (log_file >= 0)
        return;
    kit_memory_init(&memory, GPA, SIZE);
    log_file = kit_file(4096);
    log_bytes = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, log_file, 0);
    kit_require(log_bytes != MAP_FAILED);
    memset(pattern, 0x5a, sizeof(pattern));
}

static void new_ring(struct kit_split *ring, unsigned num)
{
    kit_split_at(ring, num, malloc(svq_split_desc_size(num)), malloc(svq_split_avail_size(num)),
                 malloc(svq_split_used_size(num)));
    kit_require(ring->desc && ring->avail && ring->used);
    memset(ring->desc, 0, svq_split_desc_size(num));
    memset(ring->avail, 0, svq_split_avail_size(num));
    memset(ring->used, 0, svq_split_used_size(num));
}

static void free_ring(struct kit_split *ring)
{
    free(ring->desc);
    free(ring->avail);
    free(ring->used);
}

/* ---- What must hold ------------------------------------------------------------------------ */

/* Everything but the used ring and, in guest memory, nothing at all. */
struct copy {
    struct kit_desc desc[MAX_NUM];
    uint16_t avail[3 + MAX_NUM];
    struct svq_relay_state state;
    struct svq_relay_stats stats;
};

static void take_copy(const struct stage *s, struct copy *copy)
{
    memset(copy, 0, sizeof(*copy));
    memcpy(copy->desc, s->guest.desc, svq_split_desc_size(s->num));
    memcpy(copy->avail, s->guest.avail, svq_split_avail_size(s->num));
    memcpy(before, memory.bytes, SIZE);
    svq_relay_state(s->relay, &copy->state);
    svq_relay_stats(s->relay, &copy->stats);
}

static void check_memory(const struct stage *s, const struct copy *copy)
{
    fuzz_check(!memcmp(copy->desc, s->guest.desc, svq_split_desc_size(s->num)));
    fuzz_check(!memcmp(copy->avail, s->guest.avail, svq_split_avail_size(s->num)));
    fuzz_check(!memcmp(before, memory.bytes, SIZE));
    fuzz_check(!memcmp(log_bytes, pattern, LOG_OFFSET));
    fuzz_check(!memcmp(log_bytes + LOG_END, pattern, 4096 - LOG_END));
}

/* Completions were outstanding; new chains were not; never more than the ring holds. */
static void check_movement(struct stage *s, const struct copy *copy)
{
    struct svq_relay_state now;
    struct svq_relay_stats stats;
    uint16_t moved;

    svq_relay_state(s->relay, &now);
    svq_relay_stats(s->relay, &stats);
    moved = (uint16_t)(now.guest_used - copy->state.guest_used);
    fuzz_check(stats.chains - copy->stats.chains == moved);
    fuzz_check(moved <= s->out_count);
    for (uint16_t i = copy->state.guest_used; i != now.guest_used; i++) {
        uint32_t id = s->guest.used->ring[i & (s->num - 1)].id;

        fuzz_check(id < s->num && s->out[id]);
        s->out[id] = false;
        s->out_count--;
    }
    if (moved)
        fuzz_check(s->guest.used->idx == now.guest_used);
    for (uint16_t i = copy->state.backend_avail; i != now.backend_avail; i++) {
        uint16_t id = s->shadow.avail->ring[i & (s->num - 1)];

        fuzz_check(id < s->num && !s->out[id]);
        s->out[id] = true;
        s->out_count++;
    }
    if (now.backend_avail != copy->state.backend_avail)
        fuzz_check(s->shadow.avail->idx == now.backend_avail);
    fuzz_check(now.in_flight == s->out_count && now.in_flight <= s->num);
    s->seen_avail = now.backend_avail;
}

static void check_fault(struct stage *s, const struct copy *copy, unsigned bits)
{
    struct svq_relay_state now;
    const char *reason = "";
    enum svq_side side = svq_relay_fault(s->relay, &reason);

    fuzz_check((side == SVQ_SIDE_NONE) == (reason == NULL));
    fuzz_check(!(bits & SVQ_RELAY_FAULT) || side != SVQ_SIDE_NONE);
    if (s->faulted) {
        svq_relay_state(s->relay, &now);
        fuzz_check(!memcmp(&now, &copy->state, sizeof(now)));
        fuzz_check(!(bits & ~SVQ_RELAY_FAULT));
    }
    s->faulted = side != SVQ_SIDE_NONE;
}

static void poll_once(struct stage *s)
{
    struct copy copy;
    unsigned bits;

    take_copy(s, &copy);
    bits = svq_relay_poll(s->relay);
    check_memory(s, &copy);
    check_movement(s, &copy);
    check_fault(s, &copy, bits);
}

/* ---- What may happen ------------------------------------------------------------------------ */

/* Any number, but mostly one that makes sense. */
static uint64_t read_gpa(struct fuzz_input *in)
{
    uint16_t value = (uint16_t)fuzz_number(in, 2);

    return value & 0x8000 ? fuzz_number(in, 8) : GPA + value % (SIZE + 64);
}

static struct kit_desc read_desc(struct stage *s)
{
    struct kit_desc desc;
    uint8_t kind = (uint8_t)fuzz_number(&s->in, 1);

    desc.addr = read_gpa(&s->in);
    desc.len = (uint32_t)(kind & 0x80 ? fuzz_number(&s->in, 4) : fuzz_number(&s->in, 1));
    desc.flags = (uint16_t)(kind & 0x40 ? fuzz_number(&s->in, 2) : kind & 7);
    desc.next = (uint16_t)(kind & 0x20 ? fuzz_number(&s->in, 2) : fuzz_number(&s->in, 1) % s->num);
    if (desc.flags & KIT_F_INDIRECT && !(kind & 0x10))
        desc.len &= ~15u;
    return desc;
}

static void offer(struct stage *s, uint16_t head)
{
    s->guest.avail->ring[s->guest.avail->idx & (s->num - 1)] = head;
    s->guest.avail->idx++;
}

static void guest_acts(struct stage *s, enum op op)
{
    uint16_t at = (uint16_t)fuzz_number(&s->in, 1);
    unsigned count;

    switch (op) {
    case OP_GUEST_DESC:
        s->guest.desc[at % s->num] = read_desc(s);
        break;
    case OP_GUEST_CHAIN: /* a good one, for depth */
        count = 1 + fuzz_number(&s->in, 1) % 4;
        for (unsigned i = 0; i < count; i++)
            s->guest.desc[(at + i) % s->num] = (struct kit_desc){
                GPA + fuzz_number(&s->in, 1) * 16, 64,
                (uint16_t)((i + 1 < count ? KIT_F_NEXT : 0) | (i >= count / 2 ? KIT_F_WRITE : 0)),
                (uint16_t)((at + i + 1) % s->num)};
        offer(s, at % s->num);
        break;
    case OP_GUEST_AVAIL:
        offer(s, at);
        break;
    case OP_GUEST_TABLE:
        ((struct kit_desc *)memory.bytes)[at] = read_desc(s);
        break;
    default: /* any word of the driver's area or of the used ring */
        if (at & 1)
            s->guest.avail->flags = (uint16_t)fuzz_number(&s->in, 2);
        else if (at & 2)
            s->guest.avail->idx += (uint16_t)fuzz_number(&s->in, 2);
        else if (at & 4)
            *kit_used_event(&s->guest) = (uint16_t)fuzz_number(&s->in, 2);
        else
            s->guest.used->idx = (uint16_t)fuzz_number(&s->in, 2);
    }
}

static void backend_acts(struct stage *s, enum op op)
{
    uint16_t at = (uint16_t)fuzz_number(&s->in, 1);
    uint32_t id;

    switch (op) {
    case OP_BACKEND_COMPLETE: /* something that is out, if anything is */
        for (id = at % s->num; s->out_count && !s->out[id];)
            id = (id + 1) % s->num;
        break;
    case OP_BACKEND_USED:
        id = (uint32_t)(at & 0x80 ? fuzz_number(&s->in, 4) : at);
        break;
    default: /* any word of the shadow ring */
        if (at & 1)
            s->shadow.used->idx += (uint16_t)fuzz_number(&s->in, 1);
        else if (at & 2)
            s->shadow.used->flags = (uint16_t)fuzz_number(&s->in, 2);
        else if (at & 4)
            *kit_avail_event(&s->shadow) = (uint16_t)fuzz_number(&s->in, 2);
        else if (at & 8)
            s->shadow.avail->idx = (uint16_t)fuzz_number(&s->in, 2);
        else
            fuzz_bytes(&s->in, &s->shadow.desc[at / 16 % s->num], 16);
        return;
    }
    s->shadow.used->ring[s->shadow.used->idx & (s->num - 1)] =
        (struct kit_used_elem){id, (uint32_t)fuzz_number(&s->in, 2)};
    s->shadow.used->idx++;
}

static void set_log(struct stage *s, bool on)
{
    uint8_t how = (uint8_t)fuzz_number(&s->in, 1);
    uint64_t used = read_gpa(&s->in), size = 1 + how % LOG_SIZE;
    struct svq_log *log = NULL;

    if (on) {
        kit_require(svq_log_new(log_file, size, LOG_OFFSET, &log) == 0);
        memset(log_bytes + LOG_OFFSET, 0, LOG_SIZE);
    }
    svq_relay_set_log(s->relay, log, how & 0x80, used);
    svq_log_unref(log);
}

/* Calls beside poll that may write suppression state, but move nothing. */
static void control(struct stage *s, enum op op)
{
    struct copy copy;
    struct svq_relay_state now;
    int drained;

    take_copy(s, &copy);
    if (op == OP_ARM)
        svq_relay_arm(s->relay);
    else if (op == OP_DISARM)
        svq_relay_disarm(s->relay);
    else if (op == OP_DRAINED) {
        drained = svq_relay_drained(s->relay, (uint16_t)fuzz_number(&s->in, 2));
        fuzz_check(drained <= 1);
    } else
        svq_relay_hold(s->relay, op == OP_HOLD);
    check_memory(s, &copy);
    svq_relay_state(s->relay, &now);
    fuzz_check(!memcmp(&now, &copy.state, sizeof(now)));
    check_fault(s, &copy, 0);
}

/* Return: go on. */
static bool act(struct stage *s)
{
    enum op op = fuzz_number(&s->in, 1) % OP_COUNT;

    switch (op) {
    case OP_POLL:
    case OP_TURN:
        poll_once(s);
        break;
    case OP_ARM:
    case OP_DISARM:
    case OP_HOLD:
    case OP_GO:
    case OP_DRAINED:
        control(s, op);
        break;
    case OP_LOG:
    case OP_NO_LOG:
        set_log(s, op == OP_LOG);
        break;
    case OP_DETACH:
        svq_relay_detach(s->relay);
        return false;
    case OP_BACKEND_COMPLETE:
    case OP_BACKEND_USED:
    case OP_BACKEND_WORD:
        backend_acts(s, op);
        break;
    default:
        guest_acts(s, op);
    }
    return true;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct stage s = {.in = {data, size}};
    uint8_t how = (uint8_t)fuzz_number(&s.in, 1);
    struct svq_relay_config config = {.base = (uint16_t)fuzz_number(&s.in, 2)};

    once();
    memset(memory.bytes, 0, SIZE);
    memcpy(log_bytes, pattern, sizeof(pattern));
    s.num = 1u << how % 7;
    new_ring(&s.guest, s.num);
    new_ring(&s.shadow, s.num);
    s.guest.avail->idx = s.guest.used->idx = config.base;
    config.num = s.num;
    config.features = (how & 0x20 ? SVQ_BIT(SVQ_F_EVENT_IDX) : 0) |
                      (how & 0x40 ? SVQ_BIT(SVQ_F_INDIRECT_DESC) : 0) |
                      (how & 0x80 ? SVQ_BIT(SVQ_F_IN_ORDER) : 0);
    config.guest = kit_split_mem(&s.guest);
    config.backend = kit_split_mem(&s.shadow);
    config.map = memory.map;
    kit_require(svq_relay_new(&config, &s.relay) == 0);
    for (unsigned ops = 0; ops < MAX_OPS && s.in.size && act(&s);)
        ops++;
    svq_relay_free(s.relay);
    free_ring(&s.guest);
    free_ring(&s.shadow);
    return 0;
}

/* ---- Seeds: some turns of ordinary traffic, each with other features
 * ----------------------------- */

size_t fuzz_seed(unsigned i, uint8_t data[FUZZ_MAX])
{
    size_t at = 0;

    if (i >= 16)
        return 0;
    data[at++] = (uint8_t)(i << 5 | (i % 5 + 2));
    data[at++] = 0xfe;
    data[at++] = i & 8 ? 0xff : 0;
    for (unsigned turn = 0; turn < 12; turn++) {
        const uint8_t chain[] = {OP_GUEST_CHAIN, (uint8_t)(turn * 3), 2, 1, 2, 3};
        const uint8_t table[] = {OP_GUEST_TABLE, 0, 2, 0x10, 0, 8, 0};
        const uint8_t indirect[] = {OP_GUEST_DESC, 1, 4, 0, 0, 16, 0, OP_GUEST_AVAIL, 1};
        const uint8_t rest[] = {OP_POLL, OP_BACKEND_COMPLETE, 0, 9, 0, OP_POLL, OP_ARM};
        const uint8_t logs[] = {OP_LOG, 0x82, 0, 1};

        memcpy(data + at, chain, sizeof(chain));
        at += sizeof(chain);
        if (turn == 3 && i & 2) {
            memcpy(data + at, table, sizeof(table));
            memcpy(data + at + sizeof(table), indirect, sizeof(indirect));
            at += sizeof(table) + sizeof(indirect);
        }
        if (turn == 5 && i & 1) {
            memcpy(data + at, logs, sizeof(logs));
            at += sizeof(logs);
        }
        memcpy(data + at, rest, sizeof(rest));
        at += sizeof(rest);
    }
    data[at++] = OP_DRAINED;
    data[at++] = 12;
    data[at++] = 0;
    data[at++] = OP_DETACH;
    return at;
}
