/* SPDX-License-Identifier: BSD-3-Clause */
#include "vring_driver.h"

#include <errno.h>
#include <stdlib.h>

#include "vring_internal.h"

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "rings are little endian");

static struct sim_vring_sizes sizes_of(const struct sim_vring *ring)
{
    return ring->is_packed ? sim_packed_sizes(ring->num) : sim_split_sizes(ring->num);
}

static int place(struct sim_vring *ring, struct sim_memory *mem, enum sim_vring_layout layout)
{
    struct sim_vring_sizes size = sizes_of(ring);

    if (layout == SIM_VRING_APART) {
        ring->desc_gpa = sim_memory_alloc(mem, size.desc, SIM_PAGE);
        ring->avail_gpa = sim_memory_alloc(mem, size.avail, SIM_PAGE);
        ring->used_gpa = sim_memory_alloc(mem, size.used, SIM_PAGE);
    } else {
        uint64_t used_offset = (size.desc + size.avail + 63) / 64 * 64;

        ring->desc_gpa = sim_memory_alloc(mem, used_offset + size.used, SIM_PAGE);
        ring->avail_gpa = ring->desc_gpa + size.desc;
        ring->used_gpa = ring->desc_gpa + used_offset;
    }
    if (ring->desc_gpa == SIM_NO_GPA || ring->avail_gpa == SIM_NO_GPA ||
        ring->used_gpa == SIM_NO_GPA)
        return -ENOMEM;
    sim_vring_attach(ring, mem);
    return 0;
}

int sim_vring_new(struct sim_memory *mem, const struct sim_vring_config *config,
                  struct sim_vring **out)
{
    unsigned num = config->num;
    struct sim_vring *ring;
    int ret = -ENOMEM;

    if (!num || num > 32768 || (num & (num - 1)))
        return -EINVAL;
    ring = calloc(1, sizeof(*ring));
    if (!ring)
        return -ENOMEM;
    ring->num = num;
    ring->event_idx = config->event_idx;
    ring->is_packed = config->packed;
    ring->packed.avail.wrap = ring->packed.used.wrap = true;
    ring->free_count = num;
    ring->calls_wanted = true;
    ring->chains = calloc(num, sizeof(*ring->chains));
    ring->next = calloc(num, sizeof(*ring->next));
    if (!ring->chains || !ring->next)
        goto fail;
    for (unsigned i = 0; i < num; i++)
        ring->next[i] = (uint16_t)(i + 1);
    ret = place(ring, mem, config->layout);
    if (ret)
        goto fail;
    *out = ring;
    return 0;

fail:
    sim_vring_free(ring);
    return ret;
}

void sim_vring_free(struct sim_vring *ring)
{
    if (!ring)
        return;
    free(ring->chains);
    free(ring->next);
    free(ring);
}

void sim_vring_attach(struct sim_vring *ring, struct sim_memory *mem)
{
    ring->mem = mem;
    if (ring->is_packed)
        sim_packed_attach(ring);
    else
        sim_split_attach(ring);
}

int sim_vring_add(struct sim_vring *ring, const struct sim_segment *segments, unsigned out,
                  unsigned in, uint64_t table, void *token)
{
    unsigned count = out + in;
    unsigned needed = table == SIM_NO_GPA ? count : 1;
    struct sim_chain *chain;

    if (!count || count > SIM_VRING_MAX_SEGMENTS || !token)
        return -EINVAL;
    if (table != SIM_NO_GPA && !sim_memory_ptr(ring->mem, table, (uint64_t)count * DESC_BYTES))
        return -EINVAL;
    if (needed > ring->free_count)
        return -ENOSPC;

    chain = &ring->chains[ring->free_head];
    chain->token = token;
    chain->length = (uint16_t)needed;
    chain->room = 0;
    for (unsigned i = out; i < count; i++)
        chain->room += segments[i].len;
    if (ring->is_packed)
        sim_packed_add(ring, chain, segments, out, count, table);
    else
        sim_split_add(ring, chain, segments, out, count, table);
    ring->free_count -= needed;
    ring->outstanding++;
    return 0;
}

void *sim_vring_complete(struct sim_vring *ring, uint32_t id, uint32_t len)
{
    struct sim_chain *chain;
    void *token;

    if (id >= ring->num) {
        ring->error = "the device completed a chain beyond the ring";
        return NULL;
    }
    chain = &ring->chains[id];
    token = chain->token;
    if (!token) {
        ring->error = "the device completed a chain that is not outstanding (twice?)";
        return NULL;
    }
    if (len > chain->room) {
        ring->error = "the device says that it wrote more than there was room for";
        return NULL;
    }
    chain->token = NULL;
    ring->next[chain->last] = ring->free_head;
    ring->free_head = (uint16_t)id;
    ring->free_count += chain->length;
    ring->outstanding--;
    return token;
}

bool sim_vring_publish(struct sim_vring *ring)
{
    return ring->is_packed ? sim_packed_publish(ring) : sim_split_publish(ring);
}

void *sim_vring_pop(struct sim_vring *ring, uint32_t *len)
{
    if (ring->error)
        return NULL;
    return ring->is_packed ? sim_packed_pop(ring, len) : sim_split_pop(ring, len);
}

bool sim_vring_want_calls(struct sim_vring *ring, unsigned after)
{
    bool there;

    if (!after || !ring->event_idx)
        after = 1;
    there =
        ring->is_packed ? sim_packed_want_calls(ring, after) : sim_split_want_calls(ring, after);
    ring->calls_wanted = true;
    if (there)
        sim_vring_refuse_calls(ring);
    return there;
}

void sim_vring_refuse_calls(struct sim_vring *ring)
{
    if (!ring->calls_wanted)
        return;
    ring->calls_wanted = false;
    /* With event_idx the old event does the same: the device has stepped over it already. */
    if (ring->event_idx)
        return;
    if (ring->is_packed)
        sim_packed_refuse_calls(ring);
    else
        sim_split_refuse_calls(ring);
}

bool sim_vring_call_due(const struct sim_vring *ring)
{
    if (!ring->calls_wanted)
        return false;
    return ring->is_packed ? sim_packed_call_due(ring) : sim_split_call_due(ring);
}

uint16_t sim_vring_device_idx(const struct sim_vring *ring)
{
    return ring->is_packed ? sim_packed_device_idx(ring) : sim_split_device_idx(ring);
}

uint32_t sim_vring_first_base(const struct sim_vring *ring)
{
    /* Both wrap counters are 1 at first. */
    return ring->is_packed ? 0x80008000u : 0;
}

const char *sim_vring_check_base(const struct sim_vring *ring, uint32_t base)
{
    return ring->is_packed ? sim_packed_check_base(ring, base) : sim_split_check_base(ring, base);
}
