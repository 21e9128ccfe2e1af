/* SPDX-License-Identifier: BSD-3-Clause */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

#include "blind.h"

void blind_seal(const struct rig *rig, int access)
{
    kit_require(mprotect(rig->guest.split.desc, RIG_PAGE, access) == 0);
}

/* Without any access to descriptors. */
void blind_settle(struct rig *rig)
{
    blind_seal(rig, PROT_NONE);
    rig_settle(rig);
    svq_relay_disarm(rig->relay);
    svq_relay_arm(rig->relay);
    blind_seal(rig, PROT_READ | PROT_WRITE);
}

/* What the back-end never sees need not be written. */
void blind_expect_no_copies(const struct rig *rig)
{
    static const struct kit_desc zero[BLIND_RING];

    assert_memory_equal(rig->shadow.split.desc, zero, sizeof(zero));
}

/* Descriptor 0 of chains that must not be. */
static const struct kit_desc garbage[BLIND_GARBAGE] = {
    {RIG_END, 1, KIT_F_WRITE, 0},
    {UINT64_MAX, 8, KIT_F_WRITE, 0},
    {RIG_DATA, UINT32_MAX, KIT_F_WRITE, 0},
    {RIG_DATA, 8, KIT_F_NEXT, BLIND_RING},
    {RIG_DATA, 8, KIT_F_NEXT, 0},
    {RIG_DATA, 8, KIT_F_WRITE | KIT_F_NEXT, 1}, /* 1 is readable */
    {RIG_TABLES, 24, KIT_F_INDIRECT, 0},
    {RIG_TABLES, 0, KIT_F_INDIRECT, 0},
    {RIG_END, 16, KIT_F_INDIRECT, 0},
    {RIG_TABLES, 16, KIT_F_INDIRECT | KIT_F_NEXT, 1},
    {RIG_TABLES, 16, 0xffff, 0xffff},
};

void blind_offer_garbage(struct rig *rig, unsigned i)
{
    struct kit_avail *avail = rig->guest.split.avail;

    rig->guest.split.desc[0] = garbage[i];
    rig->guest.split.desc[1] = (struct kit_desc){RIG_DATA, 8, 0, 0};
    avail->ring[avail->idx % BLIND_RING] = 0;
    kit_set16(&avail->idx, (uint16_t)(avail->idx + 1));
}

/* The back-end says so, whatever it makes of the chain. */
void blind_put_used(struct rig *rig, uint32_t id, uint32_t len)
{
    struct kit_used *used = rig->shadow.split.used;

    used->ring[used->idx % rig->shadow.num] = (struct kit_used_elem){id, len};
    kit_set16(&used->idx, (uint16_t)(used->idx + 1));
}

#define PAGE_OF(i) (RIG_DATA + (i)*4 * RIG_PAGE)

/* Chains of all kinds; no two write to one page. */
struct kit_buf blind_kinds[BLIND_KINDS][3] = {
    {{PAGE_OF(0), 8192, true}},
    {{PAGE_OF(1), 10, false}},
    {{PAGE_OF(2), 10, false}, {PAGE_OF(3), 4097, true}, {PAGE_OF(4) + 1, 4096, true}},
    {{PAGE_OF(5), 4096, true}, {PAGE_OF(6), 1, true}, {PAGE_OF(7), 1, true}}, /* a table */
    {{PAGE_OF(8), 1, false}, {PAGE_OF(9), 1, true}, {PAGE_OF(10), 1, true}},  /* at its end */
};
const unsigned blind_lengths[BLIND_KINDS] = {1, 1, 3, 3, 3};
const unsigned blind_direct[BLIND_KINDS] = {1, 1, 3, 0, 2};

uint32_t blind_writable(unsigned i)
{
    uint32_t sum = 0;

    for (unsigned n = 0; n < blind_lengths[i]; n++)
        sum += blind_kinds[i][n].write ? blind_kinds[i][n].len : 0;
    return sum;
}

uint32_t blind_bytes(unsigned i)
{
    uint32_t sum = 0;

    for (unsigned n = 0; n < blind_lengths[i]; n++)
        sum += blind_kinds[i][n].len;
    return sum;
}

void blind_offer(struct rig *rig, unsigned i)
{
    struct kit_chain chain = {blind_kinds[i],  blind_lengths[i],
                              blind_direct[i], RIG_TABLES + i * RIG_PAGE,
                              false,           (void *)(uintptr_t)i};

    rig_offer_chain(rig, &chain);
}

/* All of them with the back-end, and unread. */
void blind_all_out(struct rig *rig, uint16_t *ids)
{
    struct kit_buf seen[3];

    for (unsigned i = 0; i < BLIND_KINDS; i++)
        blind_offer(rig, i);
    blind_settle(rig);
    for (unsigned i = 0; i < BLIND_KINDS; i++)
        ids[i] = rig_take(rig, seen, (int)blind_lengths[i]);
}
