/* SPDX-License-Identifier: BSD-3-Clause */
/* What both ring formats have in common, and which one it is. */
#include <stdlib.h>
#include <string.h>

#include "packed.h"
#include "split.h"

struct kit_ring kit_ring_at(enum svq_ring_format format, unsigned num, void *desc, void *driver,
                            void *device)
{
    return (struct kit_ring){.format = format, .num = num, .at = {desc, driver, device}};
}

struct kit_ring kit_ring_in(const struct kit_memory *memory, enum svq_ring_format format,
                            unsigned num, uint64_t desc, uint64_t driver, uint64_t device)
{
    return kit_ring_at(format, num, kit_memory_at(memory, desc, kit_desc_bytes(num)),
                       kit_memory_at(memory, driver, kit_driver_bytes(format, num)),
                       kit_memory_at(memory, device, kit_device_bytes(format, num)));
}

struct kit_ring kit_ring_alloc(enum svq_ring_format format, unsigned num, void **memory)
{
    size_t desc = kit_desc_bytes(num);
    size_t driver = (kit_driver_bytes(format, num) + 63) / 64 * 64;
    size_t size = desc + driver + kit_device_bytes(format, num);
    uint8_t *p;

    kit_require(posix_memalign(memory, 4096, size) == 0);
    p = *memory;
    memset(p, 0xa5, size);
    return kit_ring_at(format, num, p, p + desc, p + desc + driver);
}

void kit_driver_init(struct kit_driver *driver, const struct kit_driver_ops *ops,
                     const struct kit_memory *memory, const struct kit_ring *ring,
                     uint64_t features, struct kit_rng *rng)
{
    kit_require(driver != NULL);
    *driver = (struct kit_driver){
        .ops = ops,
        .memory = memory,
        .ring = *ring,
        .rng = rng,
        .event_idx = features & SVQ_BIT(SVQ_F_EVENT_IDX),
        .indirect = features & SVQ_BIT(SVQ_F_INDIRECT_DESC),
        .in_order = features & SVQ_BIT(SVQ_F_IN_ORDER),
    };
}

struct kit_driver *kit_driver_new(const struct kit_memory *memory, const struct kit_ring *ring,
                                  uint64_t features, uint32_t base, struct kit_rng *rng)
{
    if (ring->format == SVQ_RING_PACKED)
        return kit_packed_driver_new(memory, ring, features, (uint16_t)base, rng);
    return kit_split_driver_new(memory, ring, features, (uint16_t)base, rng);
}

void kit_driver_free(struct kit_driver *driver)
{
    if (driver)
        driver->ops->free(driver);
}

void kit_device_init(struct kit_device *device, const struct kit_device_ops *ops,
                     const struct svq_map *map, const struct kit_ring *ring, uint64_t features)
{
    kit_require(device != NULL);
    *device = (struct kit_device){
        .ops = ops,
        .map = map,
        .ring = *ring,
        .event_idx = features & SVQ_BIT(SVQ_F_EVENT_IDX),
        .indirect = features & SVQ_BIT(SVQ_F_INDIRECT_DESC),
        .in_order = features & SVQ_BIT(SVQ_F_IN_ORDER),
    };
}

struct kit_device *kit_device_new(const struct svq_map *map, const struct kit_ring *ring,
                                  uint64_t features, uint32_t base)
{
    if (ring->format == SVQ_RING_PACKED)
        return kit_packed_device_new(map, ring, features, base);
    return kit_split_device_new(map, ring, features, (uint16_t)base);
}

void kit_device_free(struct kit_device *device)
{
    if (device)
        device->ops->free(device);
}

const void *kit_device_table(const struct kit_device *device, uint64_t addr, uint32_t len)
{
    const struct svq_relay_tables *tables = &device->tables;

    if (len == 0 || len % 16)
        return NULL;
    if (tables->size && addr >= tables->addr && addr - tables->addr <= tables->size &&
        len <= tables->size - (addr - tables->addr))
        return (const uint8_t *)tables->host + (addr - tables->addr);
    return svq_map_gpa(device->map, addr, len);
}
