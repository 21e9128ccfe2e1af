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

#include <shadowvq/relay.h>
#include <shadowvq/vhost_user.h>

#include "memory.h"
#include "rng.h"

/* Ring features. */
#define EVENT_IDX SVQ_BIT(SVQ_F_EVENT_IDX)
#define INDIRECT  SVQ_BIT(SVQ_F_INDIRECT_DESC)
#define IN_ORDER  SVQ_BIT(SVQ_F_IN_ORDER)
#define PACKED    SVQ_BIT(SVQ_F_RING_PACKED)

/* ---- Memory -------------------------------------------------------------------------------- */

struct kit_desc;  /* split.h */
struct kit_avail; /* split.h */
struct kit_used;  /* split.h */
struct kit_pdesc; /* packed.h */
struct kit_event; /* packed.h */

/* A ring laid bare, for tests that look at it or break its rules. */
struct kit_ring {
    enum svq_ring_format format;
    unsigned num;
    union {
        struct svq_vring at;
        struct {
            struct kit_desc *desc;
            struct kit_avail *avail;
            struct kit_used *used;
        } split;
        struct {
            struct kit_pdesc *desc;
            struct kit_event *driver; /* which calls the driver wants */
            struct kit_event *device; /* which kicks the device wants */
        } packed;
    };
};

/* Bytes of the three areas (virtio 1.3 sections 2.7 and 2.8.10.1). */
static inline size_t kit_desc_bytes(unsigned num)
{
    return 16 * (size_t)num;
}

static inline size_t kit_driver_bytes(enum svq_ring_format format, unsigned num)
{
    return format == SVQ_RING_PACKED ? 4 : 6 + 2 * (size_t)num;
}

static inline size_t kit_device_bytes(enum svq_ring_format format, unsigned num)
{
    return format == SVQ_RING_PACKED ? 4 : 6 + 8 * (size_t)num;
}

/* A ring whose areas lie there. */
struct kit_ring kit_ring_at(enum svq_ring_format format, unsigned num, void *desc, void *driver,
                            void *device);
/* The same in guest memory. */
struct kit_ring kit_ring_in(const struct kit_memory *memory, enum svq_ring_format format,
                            unsigned num, uint64_t desc, uint64_t driver, uint64_t device);
/* A ring in memory of its own, full of garbage. *memory: to be freed with free(). */
struct kit_ring kit_ring_alloc(enum svq_ring_format format, unsigned num, void **memory);

/* ---- Driver -------------------------------------------------------------------------------- */

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
    bool scatter;   /* split: link the table in an order other than its own; packed: fill what
                       means nothing there with garbage */
    void *token;    /* comes back with the completion */
};

struct kit_done {
    void *token;
    uint32_t len;
    bool skipped; /* IN_ORDER: part of a batch, no used entry of its own, no len */
};

/* One used entry in the ring: what the device wrote, and where. */
struct kit_seen {
    void *token;     /* of the chain that it names, the last one of its batch */
    unsigned chains; /* completed by it */
    unsigned slot;   /* of the used or of the descriptor ring */
    unsigned slots;  /* of the descriptor ring that came free; split: `chains` */
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
    /* The next used entry that nobody has seen or reaped yet; it stays to be reaped. As reap(). */
    int (*peek)(struct kit_driver *driver, struct kit_seen *seen);
    /* Ask for a call on the next completion, or for none. */
    void (*interrupts)(struct kit_driver *driver, bool on);
    /* EVENT_IDX: ask for a call when so many per cent of what is out are through, or a bit later.
     */
    void (*delay)(struct kit_driver *driver, unsigned percent);
    /* Is there something to reap? To be asked after interrupts() or delay(). */
    bool (*pending)(struct kit_driver *driver);
    /* Index of the next chain to be added, as in the lower half of a base. */
    uint16_t (*next)(struct kit_driver *driver);
    void (*free)(struct kit_driver *driver);
};

struct kit_driver {
    const struct kit_driver_ops *ops;
    const struct kit_memory *memory;
    struct kit_ring ring;
    struct kit_rng *rng; /* draws what the specification leaves open; NULL: the plain way */
    const char *broken;  /* which rule the device broke, once reap() or peek() has said -EPROTO */
    bool event_idx;
    bool indirect;
    bool in_order;
};

/* A driver on an empty ring, both of whose indices stand at base (packed: its lower half). */
struct kit_driver *kit_driver_new(const struct kit_memory *memory, const struct kit_ring *ring,
                                  uint64_t features, uint32_t base, struct kit_rng *rng);
void kit_driver_free(struct kit_driver *driver);

/* ---- Device -------------------------------------------------------------------------------- */

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
    uint32_t (*stop)(struct kit_device *device);
    void (*free)(struct kit_device *device);
};

struct kit_device {
    const struct kit_device_ops *ops;
    const struct svq_map *map;
    struct kit_ring ring;
    struct kit_rng *rng;            /* as a driver's */
    const char *broken;             /* which rule the driver broke, once take() has said -EPROTO */
    struct svq_relay_tables tables; /* memory beside the guest's where indirect tables may lie */
    bool event_idx;
    bool indirect;
    bool in_order;
    bool mixed;      /* packed: direct descriptors before an indirect one are tolerated */
    bool short_base; /* packed: bases have 16 bits, as DPDK's have */
};

/*
 * A device that starts at base. Split: its used index continues from the ring; packed: from the
 * upper half of base, or as avail when that is 0.
 */
struct kit_device *kit_device_new(const struct svq_map *map, const struct kit_ring *ring,
                                  uint64_t features, uint32_t base);
void kit_device_free(struct kit_device *device);

/* An indirect table as the device finds it, or NULL. */
const void *kit_device_table(const struct kit_device *device, uint64_t addr, uint32_t len);

/* For the files that know a format: the common part of a new driver or device. */
void kit_driver_init(struct kit_driver *driver, const struct kit_driver_ops *ops,
                     const struct kit_memory *memory, const struct kit_ring *ring,
                     uint64_t features, struct kit_rng *rng);
void kit_device_init(struct kit_device *device, const struct kit_device_ops *ops,
                     const struct svq_map *map, const struct kit_ring *ring, uint64_t features);

/* ---- Words that both sides access ------------------------------------------------------------ */

static inline uint16_t kit_get16(const uint16_t *p)
{
    return __atomic_load_n(p, __ATOMIC_ACQUIRE);
}

static inline void kit_set16(uint16_t *p, uint16_t value)
{
    __atomic_store_n(p, value, __ATOMIC_RELEASE);
}

#endif
