/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A device from the inside. Everything here belongs to the control thread; apart from what status
 * reads and faults write, only the device's own fiber changes it, so that messages of the front-end
 * and commands of the operator come strictly one after the other.
 *
 *   device.c    the device's fiber: front-ends come and go; commands
 *   session.c   one front-end's visit: receive, dispatch, reply
 *   setup.c     features, protocol features, configuration, status, reset
 *   memory.c    memory table, and the shadow rings' place in it
 *   queue.c     what the front-end says of each ring
 *   wire.c      a ring's connection to the back-end: direct, or through a relay
 *   halt.c      stopping a ring until nothing is in flight
 *   shadow.c    the switch between the two
 *   dirty.c     the dirty log and who writes it
 *   channel.c   the back-end's requests to the front-end
 *   info.c      what status shows
 */
#ifndef SVQ_DEVICE_INTERNAL_H
#define SVQ_DEVICE_INTERNAL_H

#include <errno.h>

#include "backend/backend.h"
#include "base/log.h"
#include "device/device.h"
#include "engine/engine.h"
#include "event/fiber.h"
#include "frontend/frontend.h"
#include "mem/region_file.h"
#include "vhost/conn.h"

#define MAX_QUEUES  SVQ_REGION_RINGS
#define MAX_REGIONS SVQ_VU_MAX_TABLE_REGIONS

/* How a ring is connected to the back-end now. */
enum wire {
    WIRE_NONE,   /* the back-end does not serve it */
    WIRE_DIRECT, /* the back-end has the guest's ring, kick and call */
    WIRE_SHADOW  /* the back-end has the shadow ring; a relay serves the guest's */
};

struct svq_queue {
    struct svq_device *device;
    unsigned index;

    /* What the front-end said. */
    unsigned num;
    uint32_t base; /* where the ring goes on, as in SET_VRING_BASE */
    struct svq_vu_vring_addr addr;
    bool has_base;
    bool has_addr;
    bool has_kick; /* SET_VRING_KICK came, with an fd or without */
    bool enabled;
    bool big_endian;
    int kick;
    int call;
    int err;
    bool absorbed; /* the back-end has not heard all of the above */

    bool started; /* between SET_VRING_KICK and GET_VRING_BASE */
    enum wire wire;
    bool handed;   /* the back-end was told to start it */
    uint16_t skew; /* direct, split: available minus used index with nothing in flight */

    /* While wired through a relay. */
    struct svq_relay *relay;
    struct svq_lane *lane;       /* NULL until the back-end has accepted the shadow ring */
    unsigned shadow_num;         /* entries of the shadow ring */
    struct svq_ring_place place; /* where that is */
    bool halted;                 /* the back-end has stopped the shadow ring ... */
    uint32_t halted_at;          /* ... and answered with this base */
    int backend_kick;            /* ours; kept from the first relay to the end of the session */
    int backend_call;            /* likewise */
    const char *fault;           /* who broke the ring and how; cleared when the ring stops */
    struct svq_relay_stats kept; /* of earlier relays of this session */
};

struct command {
    struct command *next;
    int (*fn)(struct svq_device *device, const struct command *command, const char **cause);
    bool enable;
    enum svq_shadow_policy policy;
    const char *cause;
    int result;
    bool done;
    struct svq_fiber *waiter;
};

/* What an operator ordered by hand; lasts until the device stops. */
enum order { ORDER_NONE, ORDER_SHADOW, ORDER_DIRECT };

struct channel;

struct svq_device {
    const struct svq_device_context *context;
    char *id;
    char *frontend_address;
    char *backend_address;
    enum svq_shadow_policy policy;
    enum svq_dirty_log_policy dirty_log;
    enum svq_ring_choice ring;
    uint64_t offer;
    int64_t message_timeout;

    struct svq_fiber *fiber;
    struct svq_frontend *frontend;
    struct svq_backend *backend;
    bool lazy_backend;        /* it was seen to complete after it had stopped */
    struct command *commands; /* oldest first */
    bool stopping;
    bool ended;
    struct svq_fiber *deleter;

    /* One session: from here on all is cleared when the front-end leaves. */
    struct session {
        int fd; /* the front-end; -1: none */
        bool backend_open;
        bool owner_set;
        const char *over; /* why the session must end; NULL: it goes on */

        uint64_t features_offered;
        uint64_t features_acked;
        uint64_t features_served; /* what the back-end was acked of them, and of our own */
        bool features_set;
        bool bound; /* the back-end cannot serve the guest's rings: see why_bound */
        uint64_t protocol_offered;
        uint64_t protocol_acked;
        uint64_t queue_num; /* as the back-end counts; 0: unknown */

        struct svq_map *map;
        struct svq_region_file *rings; /* the shadow rings' memory */
        uint64_t rings_addr;           /* its guest-physical and its user address */
        bool rings_offered;            /* the back-end has it */
        bool wide_bases;               /* it answers with packed bases of 32 bits */

        struct svq_log *log;
        bool logging;     /* the front-end acked VHOST_F_LOG_ALL */
        bool log_backend; /* the back-end writes it */
        bool log_gap;     /* writes escape the log: see dirty.c */

        bool shadow; /* mode of the rings; with no ring wired, of the next one */
        enum order order;
        struct channel *channel;
        struct svq_queue *queues[MAX_QUEUES];

        uint8_t config[SVQ_VU_MAX_CONFIG]; /* what the back-end last answered */
    } s;

    uint64_t switches;
    bool last_switch_shadow;
    uint64_t last_switch_us;
    char last_error[192];
    char why_bound[192]; /* outside of the session: operators read it a little later */
};

/* ---- device.c ---------------------------------------------------------------------------------
 */

void device_event(struct svq_device *device, enum svq_event_type type, const char *reason);
/* An error worth an event and status's last-error; logs it too. */
void device_error(struct svq_device *device, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
/* Take the operator's commands. */
void device_run_commands(struct svq_device *device);

/**
 * device_backend_did() - pass on what a back-end call returned; when the back-end can no longer be
 * talked to, the session is over.
 */
int device_backend_did(struct svq_device *device, int result);

/* ---- session.c --------------------------------------------------------------------------------
 */

/* Serve the front-end until it leaves. Return: why it ended. */
const char *session_serve(struct svq_device *device);
void session_begin(struct svq_device *device, int fd);
void session_end(struct svq_device *device);

/*
 * A handler acts on a checked request. Typed requests put their payload into reply (whose header is
 * ready but for the size).
 *
 * Return: 0; or -errno, which becomes a refusal if the front-end asked for an ack.
 */
typedef int handler_fn(struct svq_device *device, struct svq_vu_message *msg,
                       struct svq_vu_message *reply);

handler_fn setup_get_features, setup_set_features, setup_set_owner, setup_reset;
handler_fn setup_get_protocol_features, setup_set_protocol_features, setup_get_queue_num;
handler_fn setup_get_config, setup_set_config, setup_set_status;
handler_fn memory_set_table, memory_get_max_slots, memory_add_region, memory_remove_region;
handler_fn dirty_set_log_base, dirty_set_log_fd;
handler_fn queue_set_num, queue_set_addr, queue_set_base, queue_get_base;
handler_fn queue_set_kick, queue_set_call, queue_set_err, queue_set_enable, queue_set_endian;
handler_fn channel_set;

/* ---- setup.c ----------------------------------------------------------------------------------
 */

/* What to offer, now that the back-end is known. */
void setup_offer(struct svq_device *device);
/* What the back-end must know of the acked features, with or without VHOST_F_LOG_ALL. */
int setup_send_features(struct svq_device *device);
/* Ring and transport features that the back-end has and the front-end is not offered. */
uint64_t setup_masked(const struct svq_device *device);
/* What a device's ring= and offer= cannot go with; NULL: they can. Static. */
const char *setup_check_rings(enum svq_shadow_policy policy, enum svq_ring_choice ring,
                              uint64_t offer);

static inline bool device_acked(const struct svq_device *device, unsigned feature)
{
    return device->s.features_acked & SVQ_BIT(feature);
}

static inline enum svq_ring_format device_guest_format(const struct svq_device *device)
{
    return svq_ring_format(device->s.features_acked);
}

/* The format of the back-end's rings while shadowed; the guest's, unless the session is bound. */
static inline enum svq_ring_format device_backend_format(const struct svq_device *device)
{
    return svq_ring_format(device->s.features_served);
}

/* Is it a packed ring to the guest? */
static inline bool queue_is_packed(const struct svq_queue *queue)
{
    return device_guest_format(queue->device) == SVQ_RING_PACKED;
}

/* ---- memory.c ---------------------------------------------------------------------------------
 */

void memory_end(struct svq_device *device);

/* ---- queue.c ----------------------------------------------------------------------------------
 */

/* The queue of that index, made when first named; NULL when there can be none. */
struct svq_queue *queue_get(struct svq_device *device, uint32_t index);
/* Is it for the back-end to serve now? */
bool queue_runs(const struct svq_queue *queue);
/* Where the guest's ring is, through this map; false when it is nowhere, or not aligned. */
bool queue_guest_ring(const struct svq_queue *queue, const struct svq_map *map,
                      struct svq_vring *ring);
/*
 * Take a shadow ring back from the back-end when what that took of it is complete; the ring goes on
 * at queue->base. @how: what happened to it, for the log. Return: 0, -ETIMEDOUT if something was
 * not complete, or the back-end's error.
 */
int queue_unshadow(struct svq_queue *queue, int64_t deadline, const char *how);
/* The ring is no longer started; the shadow, if any, is gone. */
void queue_stop(struct svq_queue *queue);
void queue_end(struct svq_queue *queue);

/* ---- wire.c -----------------------------------------------------------------------------------
 */

/* Describe the guest's ring to the back-end, from queue->base on. Queued; flush, then wire_start().
 */
int wire_direct(struct svq_queue *queue);
/* Make a relay and describe its shadow ring to the back-end. Likewise. */
int wire_shadow(struct svq_queue *queue);
/* The ring as described starts. Queued; flush, then wire_shadow_go() for a relay. */
int wire_start(struct svq_queue *queue);
int wire_shadow_go(struct svq_queue *queue);
/* Wake both ends of a ring that has just been wired: neither may wait for the other. */
void wire_wake(struct svq_queue *queue);
void wire_call_guest(struct svq_queue *queue);
/* A direct ring starts: remember how its two indices lie to each other. */
void wire_note_start(struct svq_queue *queue);

/* Describe a shadow ring that was halted, from where it stopped. Queued; flush, then wire_start().
 */
int wire_resume(struct svq_queue *queue);
/* End a relay; queue->base is where the next device starts. The back-end no longer serves it. */
void wire_dismantle(struct svq_queue *queue);
/* Tell a relay what to log. */
void wire_set_log(struct svq_queue *queue);
/* Point a relay at its guest's ring after the memory map changed. */
void wire_set_map(struct svq_queue *queue);
/* The ring at queue->index is gone from the table. */
void wire_break(struct svq_queue *queue, const char *reason);

/* Say everywhere that a ring broke. @reason: static */
void wire_report_fault(struct svq_queue *queue, const char *side, const char *reason);

/* ---- halt.c -----------------------------------------------------------------------------------
 */

/* A relay stops, or goes on, taking chains from the guest. */
void wire_hold(struct svq_queue *queue, bool on);
/**
 * wire_halt() - stop the back-end's side of a ring and wait until it has completed what it took.
 * A direct ring then has its next index in queue->base; a shadow ring keeps its relay.
 * @deadline: for the drain
 *
 * Return: 0; -ETIMEDOUT when the back-end stopped but did not complete; or the back-end's error.
 */
int wire_halt(struct svq_queue *queue, int64_t deadline);

/* ---- shadow.c ---------------------------------------------------------------------------------
 */

/* Bring the device into the mode that policy, orders and logging ask for. @reason: for the event */
int shadow_settle(struct svq_device *device, const char *reason, const char **cause);
/* NULL, or the RFC's cause why this device cannot be shadowed. */
const char *shadow_obstacle(struct svq_device *device);
int shadow_command(struct svq_device *device, const struct command *command, const char **cause);
int shadow_policy_command(struct svq_device *device, const struct command *command,
                          const char **cause);
/* Does any ring run? */
bool shadow_device_started(const struct svq_device *device);
/* Is any ring with the back-end now? */
bool shadow_device_wired(const struct svq_device *device);

/* ---- dirty.c ----------------------------------------------------------------------------------
 */

/* Who would write the log of this device. */
bool dirty_backend_logs(const struct svq_device *device);
bool dirty_possible(const struct svq_device *device);
/* The front-end acked or dropped VHOST_F_LOG_ALL. */
int dirty_set_logging(struct svq_device *device, bool logging);
/* What a relay writes to now; NULL: nothing. */
struct svq_log *dirty_relay_log(const struct svq_device *device);
/* A ring in pass-through has stopped: what it wrote must be in the log before the front-end knows.
 */
void dirty_ring_stopped(struct svq_device *device);
/* The device is shadowed from now on. */
void dirty_close_gap(struct svq_device *device);
void dirty_end(struct svq_device *device);

/* ---- channel.c --------------------------------------------------------------------------------
 */

void channel_end(struct svq_device *device);

#define for_each_queue(device, i, queue)      \
    for (unsigned i = 0; i < MAX_QUEUES; i++) \
        for (struct svq_queue *queue = (device)->s.queues[i]; queue; queue = NULL)

#endif
