/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdlib.h>
#include <string.h>

#include "region.h"

/* Fields by their offset, as the specification's structs have them in C. */
enum {
    AT_VERSION = 8,
    AT_DESC_NUM = 10,

    SPLIT_LAST_BATCH_HEAD = 12,
    SPLIT_USED_IDX = 14,
    SPLIT_DESC = 16,
    SPLIT_STRIDE = 16,
    SPLIT_NEXT = 6,

    PACKED_FREE_HEAD = 12,
    PACKED_OLD_FREE_HEAD = 14,
    PACKED_USED_IDX = 16,
    PACKED_OLD_USED_IDX = 18,
    PACKED_USED_WRAP = 20,
    PACKED_OLD_USED_WRAP = 21,
    PACKED_DESC = 32,
    PACKED_STRIDE = 32,
    PACKED_NEXT = 2,
    PACKED_LAST = 4,
    PACKED_NUM = 6,
    PACKED_ID = 16,
    PACKED_ADDR = 24,

    ANY_INFLIGHT = 0,
    ANY_COUNTER = 8,
};

struct look {
    struct kit_findings *findings;
    const uint8_t *part;
    unsigned entries;
    bool inflight[KIT_AGAIN_MAX]; /* as recovery leaves it */
};

static uint16_t get16(const struct look *look, size_t at)
{
    uint16_t value;

    memcpy(&value, look->part + at, sizeof(value));
    return value;
}

static uint64_t get64(const struct look *look, size_t at)
{
    uint64_t value;

    memcpy(&value, look->part + at, sizeof(value));
    return value;
}

static size_t split_at(unsigned i)
{
    return SPLIT_DESC + (size_t)i * SPLIT_STRIDE;
}

static size_t packed_at(unsigned i)
{
    return PACKED_DESC + (size_t)i * PACKED_STRIDE;
}

static void wrong(struct look *look, const char *what)
{
    if (!look->findings->wrong)
        look->findings->wrong = what;
}

/* "Resubmit inflight entries in order of their counter value": the smallest is next. */
static void list_by_counter(struct look *look, size_t (*at)(unsigned i))
{
    for (;;) {
        int smallest = -1;

        for (unsigned i = 0; i < look->entries; i++) {
            if (!look->inflight[i])
                continue;
            if (smallest >= 0 && get64(look, at(i) + ANY_COUNTER) ==
                                     get64(look, at((unsigned)smallest) + ANY_COUNTER))
                wrong(look, "two requests have one counter");
            if (smallest < 0 || get64(look, at(i) + ANY_COUNTER) <
                                    get64(look, at((unsigned)smallest) + ANY_COUNTER))
                smallest = (int)i;
        }
        if (smallest < 0)
            return;
        look->inflight[smallest] = false;
        look->findings->again[look->findings->count++].head = (uint16_t)smallest;
    }
}

static void read_marks(struct look *look, size_t (*at)(unsigned i))
{
    for (unsigned i = 0; i < look->entries; i++) {
        look->inflight[i] = look->part[at(i) + ANY_INFLIGHT] != 0;
        if (look->part[at(i) + ANY_INFLIGHT] > 1)
            wrong(look, "a mark is neither 0 nor 1");
    }
}

/* ---- Split ----------------------------------------------------------------------------------- */

static void look_split(struct look *look, const struct kit_ring *ring)
{
    uint16_t ring_idx = ring->split.used->idx, used_idx = get16(look, SPLIT_USED_IDX);
    uint16_t head = get16(look, SPLIT_LAST_BATCH_HEAD);

    read_marks(look, split_at);
    if ((uint16_t)(ring_idx - used_idx) > ring->num) {
        wrong(look, "the last batch is larger than the ring");
        return;
    }
    while (used_idx != ring_idx) {
        if (head >= ring->num) {
            wrong(look, "the last batch has a head out of range");
            return;
        }
        look->inflight[head] = false;
        head = get16(look, split_at(head) + SPLIT_NEXT);
        used_idx++;
    }
    look->findings->used_idx = used_idx;
    list_by_counter(look, split_at);
    for (unsigned i = 0; i < look->findings->count; i++)
        if (look->findings->again[i].head >= ring->num)
            wrong(look, "a head in flight is out of range");
}

/* ---- Packed ---------------------------------------------------------------------------------- */

/*
 * The specification's words: "if used_idx does not match old_used_idx". That overlooks an update by
 * a whole lap, which only a chain as long as the ring should make.
 */
static bool has_committed(struct look *look, const struct kit_ring *ring)
{
    uint16_t old = get16(look, PACKED_OLD_USED_IDX);
    bool wrap = look->part[PACKED_OLD_USED_WRAP];
    uint16_t flags;

    if (get16(look, PACKED_USED_IDX) == old)
        return false;
    if (old >= ring->num) {
        wrong(look, "the old used index is out of range");
        return false;
    }
    flags = ring->packed.desc[old].flags & (KIT_P_AVAIL | KIT_P_USED);
    return flags != kit_avail_flags(wrap);
}

static void walk_free(struct look *look, uint16_t head, bool *known)
{
    while (head < look->entries) {
        if (known[head]) {
            wrong(look, "the free list is no list");
            return;
        }
        known[head] = true;
        look->inflight[head] = false;
        head = get16(look, packed_at(head) + PACKED_NEXT);
    }
}

static void describe(struct look *look, struct kit_again *again, bool *known)
{
    size_t first = packed_at(again->head);
    unsigned at = again->head, before = at;

    again->descs = get16(look, first + PACKED_NUM);
    again->addr = get64(look, first + PACKED_ADDR);
    for (unsigned i = 0; i < again->descs; i++) {
        if (at >= look->entries || known[at]) {
            wrong(look, "a chain has entries that are not its own");
            return;
        }
        known[at] = true;
        before = at;
        at = get16(look, packed_at(at) + PACKED_NEXT);
    }
    if (before != get16(look, first + PACKED_LAST))
        wrong(look, "a chain ends elsewhere than it says");
    again->id = get16(look, packed_at(before) + PACKED_ID);
}

static void look_packed(struct look *look, const struct kit_ring *ring)
{
    bool known[KIT_AGAIN_MAX] = {false};
    bool committed = has_committed(look, ring);

    read_marks(look, packed_at);
    look->findings->used_idx = get16(look, committed ? PACKED_USED_IDX : PACKED_OLD_USED_IDX);
    look->findings->used_wrap = look->part[committed ? PACKED_USED_WRAP : PACKED_OLD_USED_WRAP];
    walk_free(look, get16(look, committed ? PACKED_FREE_HEAD : PACKED_OLD_FREE_HEAD), known);
    list_by_counter(look, packed_at);
    for (unsigned i = 0; i < look->findings->count; i++)
        describe(look, &look->findings->again[i], known);
    for (unsigned i = 0; i < look->entries; i++)
        look->findings->leaked += !known[i];
}

void kit_region_look(struct kit_findings *findings, const void *part, unsigned entries,
                     const struct kit_ring *ring)
{
    struct look look = {.findings = findings, .part = part, .entries = entries};

    kit_require(entries <= KIT_AGAIN_MAX && entries >= ring->num);
    memset(findings, 0, sizeof(*findings));
    if (get16(&look, AT_VERSION) != 1 || get64(&look, 0) != 0)
        wrong(&look, "not a part of version 1");
    else if (get16(&look, AT_DESC_NUM) != entries)
        wrong(&look, "the part has another size");
    else if (ring->format == SVQ_RING_SPLIT)
        look_split(&look, ring);
    else
        look_packed(&look, ring);
}
