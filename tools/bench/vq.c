/* SPDX-License-Identifier: BSD-3-Clause */
#include "vq.h"

void vq_init(struct vq *q, bool packed, bool event_idx, unsigned num, unsigned stride)
{
    *q = (struct vq){
        .packed = packed,
        .event_idx = event_idx,
        .mask = (uint16_t)(num - 1),
        .num = num,
        .stride = stride,
        .avail_wrap = true,
        .used_wrap = true,
    };
}

void vq_device_resume(struct vq *q, uint32_t base)
{
    if (q->packed) {
        q->avail = base & 0x7fff;
        q->avail_wrap = base >> 15 & 1;
        q->used = base >> 16 & 0x7fff;
        q->used_wrap = base >> 31;
    } else {
        q->avail = q->limit = (uint16_t)base;
        q->used = __atomic_load_n(&((struct vq_used *)q->device)->idx, __ATOMIC_RELAXED);
    }
}

uint32_t vq_device_base(const struct vq *q)
{
    if (!q->packed)
        return q->avail;
    return (uint32_t)q->used_wrap << 31 | (uint32_t)q->used << 16 | (uint32_t)q->avail_wrap << 15 |
           q->avail;
}

static void write_event(void *word, unsigned flags, uint16_t at, bool wrap)
{
    __atomic_store_n((uint32_t *)word, flags << 16 | (uint32_t)wrap << 15 | at, __ATOMIC_RELAXED);
}

bool vq_want_calls(struct vq *q)
{
    struct vq_avail *avail = q->driver;

    if (q->packed)
        write_event(q->driver, q->event_idx ? VQ_EVENT_DESC : VQ_EVENT_ENABLE,
                    q->event_idx ? q->used : 0, q->event_idx && q->used_wrap);
    else if (q->event_idx)
        __atomic_store_n(&avail->ring[q->num], q->used, __ATOMIC_RELAXED);
    else
        __atomic_store_n(&avail->flags, 0, __ATOMIC_RELAXED);
    /* Pairs with the device's: it publishes, fences, and looks whether a call is wanted. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return vq_has_used(q, q->packed);
}

bool vq_want_kicks(struct vq *q)
{
    struct vq_used *used = q->device;
    uint16_t *avail_event = (void *)&used->ring[q->num];

    if (q->packed)
        write_event(q->device, q->event_idx ? VQ_EVENT_DESC : VQ_EVENT_ENABLE,
                    q->event_idx ? q->avail : 0, q->event_idx && q->avail_wrap);
    else if (q->event_idx)
        __atomic_store_n(avail_event, q->avail, __ATOMIC_RELAXED);
    else
        __atomic_store_n(&used->flags, 0, __ATOMIC_RELAXED);
    /* Pairs with the driver's: it publishes, fences, and looks whether a kick is wanted. */
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return vq_has_avail(q, q->packed);
}

void vq_refuse_calls(struct vq *q)
{
    struct vq_avail *avail = q->driver;

    if (q->packed)
        write_event(q->driver, VQ_EVENT_DISABLE, 0, false);
    else if (q->event_idx)
        __atomic_store_n(&avail->ring[q->num], (uint16_t)(q->used - 1), __ATOMIC_RELAXED);
    else
        __atomic_store_n(&avail->flags, 1, __ATOMIC_RELAXED);
}

void vq_refuse_kicks(struct vq *q)
{
    struct vq_used *used = q->device;
    uint16_t *avail_event = (void *)&used->ring[q->num];

    if (q->packed)
        write_event(q->device, VQ_EVENT_DISABLE, 0, false);
    else if (q->event_idx)
        __atomic_store_n(avail_event, (uint16_t)(q->avail - 1), __ATOMIC_RELAXED);
    else
        __atomic_store_n(&used->flags, 1, __ATOMIC_RELAXED);
}
