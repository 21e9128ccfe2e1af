/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A device: one front-end, one back-end and the queues between them; its state machine and its
 * switches. This is what the daemon (options, QMP) sees of it.
 *
 * Everything here belongs to the control thread. Calls marked "fiber" wait for the device and must
 * run inside a fiber.
 */
#ifndef SVQ_DEVICE_DEVICE_H
#define SVQ_DEVICE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include <shadowvq/relay.h>

struct svq_loop;
struct svq_engine;
struct svq_device;

enum svq_shadow_policy { SVQ_SHADOW_AUTO, SVQ_SHADOW_ON, SVQ_SHADOW_OFF };
enum svq_dirty_log_policy { SVQ_DIRTY_LOG_AUTO, SVQ_DIRTY_LOG_SHADOW, SVQ_DIRTY_LOG_BACKEND };
/* The format of the back-end's rings; auto: the guest's where the back-end has it, else split. */
enum svq_ring_choice { SVQ_RING_CHOICE_AUTO, SVQ_RING_CHOICE_SPLIT, SVQ_RING_CHOICE_PACKED };
/* Whose descriptors a shadowed back-end reads: the guest's, or copies that were checked. */
enum svq_descriptors { SVQ_DESCRIPTORS_SHARED, SVQ_DESCRIPTORS_COPIED };
enum svq_device_mode { SVQ_MODE_STOPPED, SVQ_MODE_PASS_THROUGH, SVQ_MODE_SHADOW };
/* Who writes the dirty log now. */
enum svq_logging { SVQ_LOGGING_OFF, SVQ_LOGGING_SHADOW, SVQ_LOGGING_BACKEND };

/* What a device is made of; strings are copied by svq_device_new(). */
struct svq_device_config {
    const char *id;
    const char *frontend; /* PATH to listen on, connect:PATH, or fd:N, a socket that listens */
    const char *backend;  /* vhost-user:PATH, or vhost-user:listen:PATH */
    enum svq_shadow_policy shadow;
    enum svq_dirty_log_policy dirty_log;
    enum svq_ring_choice ring;
    uint64_t offer;          /* of SVQ_RELAY_FEATURES: offered though the back-end may lack them */
    int64_t message_timeout; /* nanoseconds a peer may take to answer a message */
    int64_t drain_timeout;   /* nanoseconds a back-end may take to complete what it took */
    int64_t reconnect; /* nanoseconds between two attempts to reach a back-end that is gone, at
                          most; 0: the front-end goes with it */
    bool keep_backend; /* connected from one front-end to the next */
    enum svq_descriptors descriptors;
    int poll_us; /* microseconds to poll a shadowed queue without work for, or as in engine.h */
};

#define SVQ_DEFAULT_MESSAGE_TIMEOUT (INT64_C(10) * 1000000000)
#define SVQ_DEFAULT_DRAIN_TIMEOUT   (INT64_C(5) * 1000000000)
#define SVQ_DEFAULT_RECONNECT       (INT64_C(2) * 1000000000)

/* Something an operator wants to hear of. Strings live for the duration of the callback. */
enum svq_event_type {
    SVQ_EVENT_SHADOW_CHANGED,        /* shadow, microseconds, reason */
    SVQ_EVENT_FRONTEND_CONNECTED,    /* - */
    SVQ_EVENT_FRONTEND_DISCONNECTED, /* reason */
    SVQ_EVENT_BACKEND_CONNECTED,     /* - */
    SVQ_EVENT_BACKEND_DISCONNECTED,  /* reason, recovering */
    SVQ_EVENT_BACKEND_REFUSED,       /* reason: the one that came back does not fit */
    SVQ_EVENT_BACKEND_RECOVERED,     /* microseconds, attempts, resubmitted */
    SVQ_EVENT_BACKEND_CHANGED,       /* address, microseconds */
    SVQ_EVENT_QUEUE_ERROR,           /* queue, side ("guest" or "backend"), reason */
    SVQ_EVENT_DEVICE_ERROR           /* reason */
};

struct svq_event {
    enum svq_event_type type;
    const char *id;
    const char *reason;
    const char *side;
    const char *address;
    unsigned queue;
    bool shadow;
    bool recovering; /* the front-end stays, and svqd tries to get the back-end back */
    uint64_t microseconds;
    uint64_t attempts;    /* to reach the back-end */
    uint64_t resubmitted; /* requests that were in flight and were given to it again */
};

/* What all devices share. Must outlive them. */
struct svq_device_context {
    struct svq_loop *loop;
    struct svq_engine *engine;
    void (*event)(void *opaque, const struct svq_event *event);
    void *opaque;
};

/**
 * svq_device_check_config() - is this a device that could be made? No side effects.
 * @why: on failure a static text that says what to change
 *
 * Return: 0 or -EINVAL.
 */
int svq_device_check_config(const struct svq_device_config *config, const char **why);

/**
 * svq_device_new() - bind the front-end's socket and start serving.
 *
 * Return: 0, -EINVAL (see svq_device_check_config()), or the socket's error.
 */
int svq_device_new(const struct svq_device_context *context, const struct svq_device_config *config,
                   struct svq_device **out);

/* Fiber: disconnect both peers, wait for the device's own fibers to end, free it. */
void svq_device_delete(struct svq_device *device);

const char *svq_device_id(const struct svq_device *device);

/**
 * svq_device_enable_shadow() - switch by hand; idempotent. Fiber.
 * @cause: on failure the RFC's cause: "Device is not started", "Device use IOMMU" or "Error
 *         enabling (see monitor)"; or why the device cannot pass through (see svq_device_info).
 *         Lives as long as the device
 *
 * Return: 0 or -errno.
 */
int svq_device_enable_shadow(struct svq_device *device, bool enable, const char **cause);

/**
 * svq_device_set_policy() - change the policy; a started device switches at once when the new
 * policy asks for another mode. Fiber. @cause as above.
 */
int svq_device_set_policy(struct svq_device *device, enum svq_shadow_policy policy,
                          const char **cause);

/**
 * svq_device_set_backend() - serve from another back-end, or try to get the present one back now.
 *
 * The new one is connected and checked first; then the old one is drained and the new one goes on.
 * When anything fails before that, the old one goes on. Without a front-end only the address
 * changes, once the new one has been reached. Fiber.
 * @address: as in svq_device_config.backend
 * @microseconds: how long no queue was served
 * @cause: on failure what was wrong; lives as long as the device
 *
 * Return: 0 or -errno.
 */
int svq_device_set_backend(struct svq_device *device, const char *address, uint64_t *microseconds,
                           const char **cause);

/**
 * svq_device_set_worker() - let that worker serve a queue whenever it is shadowed; -1: any.
 * Return: 0, -ENOENT (no such queue), -EINVAL (no such worker), or -errno.
 */
int svq_device_set_worker(struct svq_device *device, unsigned queue, int worker);

/**
 * svq_device_log() - log what the shadow writes into a bitmap that nobody reads, to measure what a
 * dirty log costs. Until the front-end leaves; a log of the front-end's goes first.
 * Return: 0, -EAGAIN (there is no front-end with memory), or -errno.
 */
int svq_device_log(struct svq_device *device, bool enable);

/* ---- What status shows -------------------------------------------------------------------- */

/* The connection to the back-end. */
enum svq_link {
    SVQ_LINK_NONE, /* none is needed now */
    SVQ_LINK_UP,
    SVQ_LINK_LOST,   /* it is gone; queues are paused until it is back */
    SVQ_LINK_REFUSED /* it came back and does not fit; queues are paused */
};

struct svq_device_info {
    const char *id;
    const char *frontend;
    const char *backend;
    enum svq_device_mode mode;
    enum svq_shadow_policy shadow;
    enum svq_dirty_log_policy dirty_log;
    enum svq_logging logging;
    enum svq_ring_choice ring;
    uint64_t offer;
    const char *bound; /* why this session cannot pass through; NULL: it can */
    bool frontend_connected;
    bool backend_connected;
    enum svq_link link;
    const char *link_reason; /* why it is lost or refused; NULL otherwise */
    uint64_t link_attempts;  /* to reach it since then */
    uint64_t outages;        /* how often it was lost under a front-end */
    uint64_t last_outage_us; /* from loss to service; valid when one has ended */
    bool outage_ended;
    uint64_t resubmitted;     /* requests given to a back-end again, by all outages */
    const char *crash_unsafe; /* why a crash of the back-end now could lose requests or do some
                                 twice; NULL: it could not */
    int64_t reconnect;        /* as configured */
    bool keep_backend;        /* likewise */
    enum svq_descriptors descriptors;
    int poll_us; /* likewise, or SVQ_POLL_DEFAULT, SVQ_POLL_ALWAYS */
    uint64_t features_backend;
    uint64_t features_offered;
    uint64_t features_acked;
    uint64_t features_served; /* acked to the back-end */
    uint64_t features_masked; /* ring and transport bits that it has and that are not offered */
    uint64_t protocol_backend;
    uint64_t protocol_offered;
    uint64_t protocol_acked;
    uint64_t switches;
    bool last_switch_shadow;           /* valid when switches > 0 */
    uint64_t last_switch_microseconds; /* likewise */
    const char *last_error;            /* NULL: none */
    unsigned queues;                   /* highest vring index seen, plus one */
};

/* Why svqd does not offer that ring or transport feature of a back-end; never NULL. */
const char *svq_device_masked_reason(unsigned feature_bit);

/* One end's ring. In pass-through both are the guest's. */
struct svq_ring_info {
    enum svq_ring_format format;
    unsigned size;
    uint64_t features; /* acked ones of SVQ_RELAY_FEATURES */
    bool has_index;    /* how far it has come is known */
    struct svq_ring_index index;
};

struct svq_queue_info {
    unsigned index;
    bool enabled;
    bool started;
    bool shadow;
    bool shares; /* shadow: its back-end reads the guest's descriptors */
    struct svq_ring_info guest;
    struct svq_ring_info backend;
    unsigned in_flight;
    uint64_t chains;
    uint64_t bytes;
    uint64_t guest_kicks;
    uint64_t backend_kicks;
    uint64_t backend_calls;
    uint64_t guest_calls;
    unsigned worker;
    bool pinned;       /* to that worker */
    const char *error; /* NULL: none */
};

/* Strings live until the device changes, i.e. until the caller waits. */
void svq_device_info(const struct svq_device *device, struct svq_device_info *info);
/* Return: false when that vring was never configured. */
bool svq_device_queue_info(const struct svq_device *device, unsigned index,
                           struct svq_queue_info *info);

#endif
