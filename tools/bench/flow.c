/* SPDX-License-Identifier: BSD-3-Clause */
#include "flow.h"
#include "spinner.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>

/* Not fenced: it is for intervals of more than some nanoseconds. */
static inline uint64_t quick_ticks(void)
{
#if defined(__x86_64__)
    return __builtin_ia32_rdtsc();
#else
    return bench_ticks();
#endif
}

/* ---- Driver ---------------------------------------------------------------------------------- */

int flow_driver_init(struct flow_driver *d, const struct flow_config *config, unsigned ids)
{
    d->config = *config;
    d->pool = calloc(config->depth, sizeof(*d->pool));
    d->held = calloc(ids, sizeof(*d->held));
    d->ids = calloc(ids, sizeof(*d->ids));
    if (!d->pool || !d->held || !d->ids)
        return -ENOMEM;
    flow_driver_restart(d);
    return 0;
}

void flow_driver_release(struct flow_driver *d)
{
    free(d->pool);
    free(d->held);
    free(d->ids);
    free(d->samples);
    d->pool = d->held = d->ids = NULL;
    d->samples = NULL;
}

/* As many chains as the ring has room for. */
static unsigned id_count(const struct flow_driver *d)
{
    return d->vq.num / d->vq.stride;
}

void flow_driver_restart(struct flow_driver *d)
{
    for (unsigned i = 0; i < id_count(d); i++) {
        d->ids[i] = (uint16_t)i;
        d->held[i] = FLOW_NONE;
    }
    for (unsigned i = 0; i < d->config.depth; i++)
        d->pool[i] = (uint16_t)i;
    d->pool_count = d->config.depth;
    d->id_first = d->id_last = 0;
    d->number = 0;
    d->in_flight = 0;
    d->fault = NULL;
}

VQ_INLINE struct flow_header *buffer(const struct flow_driver *d, unsigned index)
{
    return (void *)(d->config.memory + (size_t)index * d->config.stride);
}

VQ_INLINE bool header_is(const struct flow_header *header, uint64_t number, uint32_t length)
{
    return header->number == number && header->length == length && header->unlike == ~length;
}

VQ_INLINE bool fail(struct flow_driver *d, const char *fault)
{
    d->fault = fault;
    return false;
}

/* A buffer has come back. */
VQ_INLINE bool check_back(struct flow_driver *d, uint32_t id, uint32_t len)
{
    unsigned held;

    if (id >= d->vq.num / d->vq.stride || d->held[id] == FLOW_NONE)
        return fail(d, "guest: a buffer came back that was not in flight");
    held = d->held[id];
    if (len != (d->config.transmit ? 0 : d->config.size))
        return fail(d, "guest: a buffer came back with a wrong length");
    if (!d->config.transmit && !header_is(buffer(d, held), d->number++, len))
        return fail(d, "guest: what was received is not what comes next");
    d->held[id] = FLOW_NONE;
    d->pool[d->pool_count++] = (uint16_t)held;
    d->ids[d->id_last] = (uint16_t)id;
    d->id_last = d->id_last + 1 == id_count(d) ? 0 : d->id_last + 1;
    d->in_flight--;
    spin(d->config.spins);
    return true;
}

VQ_INLINE void offer(struct flow_driver *d, const bool packed)
{
    uint16_t id = d->ids[d->id_first];
    unsigned index = d->pool[--d->pool_count];
    struct vq_seg seg = {d->config.gpa + (uint64_t)index * d->config.stride, d->config.size,
                         !d->config.transmit};

    d->id_first = d->id_first + 1 == id_count(d) ? 0 : d->id_first + 1;
    d->held[id] = (uint16_t)index;
    if (d->config.transmit)
        *buffer(d, index) = (struct flow_header){d->number++, seg.len, ~seg.len};
    vq_put(&d->vq, packed, id, &seg);
    d->in_flight++;
}

static void look_at_clock(struct flow_driver *d)
{
    uint64_t now = quick_ticks();

    if (d->timed && d->sample_count < d->sample_room)
        d->samples[d->sample_count++] = now - d->offered_at;
    if (d->watched && d->last_at && now - d->last_at > d->longest)
        d->longest = now - d->last_at;
    d->last_at = now;
}

VQ_INLINE unsigned driver_turn(struct flow_driver *d, const bool packed)
{
    unsigned back = 0, offered = 0;

    while (back < d->config.batch && vq_has_used(&d->vq, packed)) {
        uint32_t id, len;

        if (d->fault)
            return 0;
        vq_take_back(&d->vq, packed, &id, &len);
        if (!check_back(d, id, len))
            return back;
        back++;
    }
    d->done += back;
    if (back && (d->timed || d->watched))
        look_at_clock(d);
    if (!d->offering)
        return back;
    for (; offered < d->config.batch && d->pool_count; offered++)
        offer(d, packed);
    if (d->timed && offered)
        d->offered_at = quick_ticks();
    if (vq_publish(&d->vq, packed)) {
        d->kicks++;
        eventfd_write(d->kick, 1);
    }
    return back + offered;
}

unsigned flow_driver_turn(struct flow_driver *d)
{
    return d->vq.packed ? driver_turn(d, true) : driver_turn(d, false);
}

/* ---- Device ---------------------------------------------------------------------------------- */

VQ_INLINE uint8_t *translate(const struct flow_device *d, const struct vq_seg *seg)
{
    for (unsigned i = 0; i < d->region_count; i++) {
        uint64_t offset = seg->addr - d->regions[i].gpa;

        if (offset < d->regions[i].size && seg->len <= d->regions[i].size - offset)
            return d->regions[i].memory + offset;
    }
    return NULL;
}

VQ_INLINE void copy(uint8_t *to, const uint8_t *from, uint32_t len)
{
    /* The usual small frame, without a call. */
    if (len == 64)
        __builtin_memcpy(to, from, 64);
    else
        memcpy(to, from, len);
}

/* Fill or read a buffer. Return: false: it is not what it should be. */
VQ_INLINE bool serve(struct flow_device *d, const struct vq_seg *seg)
{
    struct flow_header *header = (void *)d->copy;
    uint8_t *memory = translate(d, seg);

    if (!memory || seg->len < FLOW_SIZE_MIN || seg->len > FLOW_SIZE_MAX) {
        d->fault = "device: a buffer outside of memory, or too small, or too large";
        return false;
    }
    if (seg->write) {
        *header = (struct flow_header){d->sent++, seg->len, ~seg->len};
        copy(memory, d->copy, seg->len);
        return true;
    }
    copy(d->copy, memory, seg->len);
    if (header_is(header, d->seen++, seg->len))
        return true;
    d->fault = "device: what was transmitted is not what comes next";
    return false;
}

VQ_INLINE unsigned device_turn(struct flow_device *d, const bool packed)
{
    unsigned count = 0;

    for (; count < d->batch && vq_has_avail(&d->vq, packed); count++) {
        struct vq_seg seg;
        uint16_t id;

        if (d->fault)
            return 0;
        if (!vq_take(&d->vq, packed, &id, &seg)) {
            d->fault = "device: a chain that the guest never made";
            return count;
        }
        if (!serve(d, &seg))
            return count;
        spin(d->spins);
        vq_use(&d->vq, packed, id, seg.write ? seg.len : 0);
    }
    d->done += count;
    if (vq_complete(&d->vq, packed) && d->call >= 0) {
        d->calls++;
        eventfd_write(d->call, 1);
    }
    return count;
}

unsigned flow_device_turn(struct flow_device *d)
{
    if (!d->running)
        return 0;
    return d->vq.packed ? device_turn(d, true) : device_turn(d, false);
}
