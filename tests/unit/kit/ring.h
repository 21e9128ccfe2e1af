/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The two ends of a virtqueue, for tests: a driver (the guest) and a device (the back-end), behind
 * an interface that knows no ring format. Written from the virtio specification, sharing nothing
 * with the code under test.
 *
 * Publishing is separate from adding and completing, so that tests choose the batches. Index and
 * suppression accesses are ordered as the specification asks: either end may run in its own thread.
 */
#ifndef SVQ_TESTS_KIT_RING_H
#define SVQ_TESTS_KIT_RING_H

#include <stdbool.h>
#include <stdint.h>

struct kit_buf {
    uint64_t gpa;
    uint32_t len;
    bool write; /* device writes it */
};

/* A chain to offer: `direct` buffers in the ring's own table, the others in an indirect table. */
struct kit_chain {
    const struct kit_buf *bufs;
    unsigned count;
    unsigned direct;
    uint64_t table; /* guest-physical address of that table: 16 bytes per buffer */
    bool scatter;   /* link the indirect table in an order other than its own */
    void *token;    /* comes back with the completion */
};

struct kit_done {
    void *token;
    uint32_t len;
    bool skipped; /* IN_ORDER: part of a batch, no used entry of its own, no len */
};

struct kit_driver;
struct kit_device;

struct kit_driver_ops {
    /* false: no room. */
    bool (*add)(struct kit_driver *driver, const struct kit_chain *chain);
    /* Make the added chains visible. Return: whether the device wants a kick. */
    bool (*publish)(struct kit_driver *driver);
    /* 1: a completion; 0: none; -EPROTO: the device broke the rules. */
    int (*reap)(struct kit_driver *driver, struct kit_done *done);
    /* Ask for a call on the next completion, or for none. */
    void (*interrupts)(struct kit_driver *driver, bool on);
    /* Is there something to reap? To be asked after interrupts(). */
    bool (*pending)(struct kit_driver *driver);
    void (*free)(struct kit_driver *driver);
};

struct kit_device_ops {
    /* Number of buffers of the next chain; 0: none; -EPROTO: the driver broke the rules. */
    int (*take)(struct kit_device *device, uint16_t *id, struct kit_buf *bufs, unsigned max);
    /* One used entry for `batch` chains ending with `id`; more than 1 with IN_ORDER only. */
    void (*complete)(struct kit_device *device, uint16_t id, uint32_t len, unsigned batch);
    /* Make the completions visible. Return: whether the driver wants a call. */
    bool (*publish)(struct kit_device *device);
    /* Ask for a kick on the next chain, or for none. */
    void (*kicks)(struct kit_device *device, bool on);
    /* Is there something to take? To be asked after kicks(). */
    bool (*pending)(struct kit_device *device);
    /* Leave the ring. Return: what GET_VRING_BASE would. */
    uint16_t (*stop)(struct kit_device *device);
};

struct kit_driver {
    const struct kit_driver_ops *ops;
};

struct kit_device {
    const struct kit_device_ops *ops;
};

#endif
