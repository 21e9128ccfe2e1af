/* SPDX-License-Identifier: BSD-3-Clause */
#include "ends.h"

unsigned bench_ring_holds(unsigned num, const struct bench_shape *shape)
{
    return shape->indirect ? num : num / shape->descs;
}

struct bench_driver *bench_driver_new(const struct bench_driver_config *config)
{
    if (config->ring.format == SVQ_RING_PACKED)
        return bench_packed_driver_new(config);
    return bench_split_driver_new(config);
}

struct bench_device *bench_device_new(const struct bench_ring *ring)
{
    if (ring->format == SVQ_RING_PACKED)
        return bench_packed_device_new(ring);
    return bench_split_device_new(ring);
}
