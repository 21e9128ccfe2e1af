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
 *   ring_relay.c  its relay: made, told of changes, ended
 *   halt.c      stopping rings until nothing is in flight
 *   dry.c       before that, for back-ends that want nothing to be in flight
 *   shadow.c    the switch between the two
 *   link.c      the back-end's connection: made, lost, made again
 *   introduce.c what a back-end must be told that takes over
 *   recover.c   rings whose back-end is gone, and how they go on
 *   replace.c   another back-end, by command
 *   inflight.c  the in-flight region: what it says, and which one the back-end gets
 *   inflight_fd.c  the front-end's
 *   dirty.c     the dirty log and who writes it
 *   channel.c   the back-end's requests to the front-end
 *   info.c      what status shows
 */
#ifndef SVQ_DEVICE_INTERNAL_H
#define SVQ_DEVICE_INTERNAL_H

#include <errno.h>

#include <shadowvq/inflight.h>

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
    bool owing;    /* direct: stopped with requests in flight; its back-end may still do them */
    bool stranded; /* in pass-through its back-end left with requests in flight, maybe */

    /* While wired through a relay. */
    struct svq_relay *relay;
    struct svq_relay *ahead;       /* in a switch: made for it, not in use yet ... */
    struct svq_relay *retired;     /* ... and no longer in use */
    struct svq_lane *lane;         /* NULL until the back-end was told to start it */
    struct svq_lane *spare;        /* in a switch: a lane that is ready, or has stopped */
    unsigned shadow_num;           /* entries of the shadow ring */
    struct svq_ring_place place;   /* where that is ... */
    struct svq_region_file *rings; /* ... in which memory */
    bool halted;                   /* the back-end has stopped the shadow ring ... */
    uint32_t halted_at;            /* ... and answered with this base */
    int backend_kick;              /* ours; kept from the first relay to the end of the session */
    int backend_call;              /* likewise */
    const char *fault;             /* who broke the ring and how; cleared when the ring stops */
    int worker;                    /* that it is pinned to; -1: none */
    struct svq_relay_stats kept;   /* of earlier relays of this session */
};

struct command {
    struct command *next;
    int (*fn)(struct svq_device *device, struct command *command, const char **cause);
    bool enable;
    enum svq_shadow_policy policy;
    struct svq_backend *backend; /* another one, connected; the command takes it over */
    const char *address;
    uint64_t microseconds; /* that it took */
    const char *cause;
    int result;
    bool done;
    struct svq_fiber *waiter;
};

/* One who changes the back-end, or waits for that. */
struct changer {
    struct changer *next;
    struct svq_fiber *fiber;
};

/*
 * What an operator ordered by hand, or what the first ring needed since its region lists requests
 * that only a relay can do again; lasts until the device stops.
 */
enum order { ORDER_NONE, ORDER_SHADOW, ORDER_DIRECT };

struct channel;

/* What is known of a byte of the configuration space. */
#define CONFIG_READ    0x1u /* the back-end answered it to the front-end */
#define CONFIG_WRITTEN 0x2u /* the front-end set it */

/* One connection to a back-end, and what belongs to it alone. */
struct link {
    struct svq_backend *backend;
    bool open;
    bool owner_set;
    bool wide_bases; /* it answers with packed bases of 32 bits */
    bool lazy;       /* it was seen to complete after it had stopped */
    bool has_region; /* it was given an in-flight region */

    struct svq_region_file *rings; /* the shadow rings' memory */
    uint64_t rings_addr;           /* its guest-physical and its user address */
    bool rings_offered;            /* the back-end has it */
};

/* A back-end that is gone under a front-end, and the way back. */
struct outage {
    enum svq_link state;
    bool unchecked; /* lost, and its rings have not been seen to */
    char reason[192];
    int64_t since;     /* when it was lost */
    int64_t tried;     /* when the last attempt was made */
    int64_t next;      /* when the next one is due */
    int64_t delay;     /* between attempts; doubles */
    uint64_t attempts; /* since it was lost */
    uint64_t resubmitted_before;

    /* Of all outages of this device. */
    uint64_t count;
    uint64_t last_us;
    bool ended; /* last_us is valid */
};

/* The in-flight region; see inflight.c, which alone looks inside (and inflight_fd.c). */
struct inflight {
    struct inflight_memory *theirs;  /* the front-end's; NULL: it has none */
    struct inflight_memory *ours;    /* for the back-end while the front-end has none */
    struct inflight_memory *scratch; /* for the back-end while it serves shadow rings */
    struct inflight_memory *given;   /* the one of these that the back-end was told of last */
    bool ran[MAX_QUEUES];            /* that ring was started while the front-end had this one */
    bool left[MAX_QUEUES];           /* ours holds what a dead back-end left of that ring */
};

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
    int64_t reconnect;
    bool keep_backend;
    enum svq_descriptors descriptors;
    int poll_us;

    struct svq_fiber *fiber;
    struct svq_frontend *frontend;
    struct link link;
    struct outage outage;
    struct command *commands; /* oldest first */
    struct changer *changers; /* the first one is at it */
    bool stopping;
    bool ended;
    struct svq_fiber *deleter;

    /* One session: from here on all is cleared when the front-end leaves. */
    struct session {
        int fd;           /* the front-end; -1: none */
        const char *over; /* why the session must end; NULL: it goes on */

        uint64_t features_offered;
        uint64_t features_acked;
        uint64_t features_served; /* what the back-end was acked of them, and of our own */
        bool features_set;
        bool bound; /* the back-end cannot serve the guest's rings: see why_bound */
        uint64_t protocol_offered;
        uint64_t protocol_acked;
        uint64_t protocol_served; /* what the back-end was acked */
        uint64_t queue_num;       /* as the back-end counts; 0: unknown */

        struct svq_map *map;
        struct inflight inflight;

        struct svq_log *log;
        struct svq_log *trial_log; /* nobody reads it; see svq_device_log() */
        uint64_t trial_top;        /* guest memory ended there when it was made */
        int log_fd;                /* of that memory; -1: none */
        struct svq_vu_log log_place;
        bool logging;     /* the front-end acked VHOST_F_LOG_ALL */
        bool log_backend; /* the back-end writes it */
        bool log_gap;     /* writes escape the log: see dirty.c */

        bool shadow; /* mode of the rings; with no ring wired, of the next one */
        enum order order;
        struct channel *channel;
        struct svq_queue *queues[MAX_QUEUES];

        uint8_t config[SVQ_VU_MAX_CONFIG];       /* what the back-end last answered, or was told */
        uint8_t config_known[SVQ_VU_MAX_CONFIG]; /* by byte: CONFIG_READ, CONFIG_WRITTEN */
        uint64_t max_slots;                      /* as answered; 0: not asked for */
        bool owned;                              /* SET_OWNER came, or was ours to send */
        uint64_t mtu;                            /* SET_MTU's; 0: none came */
        uint64_t status;                         /* SET_STATUS's, likewise */
        bool by_slots;                           /* memory came by ADD_MEM_REG */
    } s;

    uint64_t resubmitted; /* by rings that have ended */
    uint64_t switches;
    bool last_switch_shadow;
    uint64_t last_switch_us;
    char last_error[192];
    char why_not[256];   /* of the last command that failed */
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
 * talked to, it is lost. Return: 0, -EREMOTEIO (refused), or -ENOTCONN (lost).
 */
int device_backend_did(struct svq_device *device, int result);
/**
 * device_told() - the same for a setter, whose effect is remembered: a back-end that comes back
 * will be told then, so that its loss is no failure. Return: 0 or -EREMOTEIO.
 */
static inline int device_told(struct svq_device *device, int result)
{
    result = device_backend_did(device, result);
    return result == -ENOTCONN && !device->s.over ? 0 : result;
}

/* Hand a command to the device's fiber and wait for it. */
int device_command(struct svq_device *device, struct command *command, const char **cause);

/* ---- link.c -----------------------------------------------------------------------------------
 */

static inline bool link_up(const struct svq_device *device)
{
    return device->outage.state == SVQ_LINK_UP;
}

/* The front-end's first connection to its back-end. Return: NULL, or why it cannot be had. */
const char *link_connect(struct svq_device *device);
/* The back-end is gone. Its rings are seen to by link_check(), when what was being done is over. */
void link_lost(struct svq_device *device, const char *why);
/* After whatever may have lost the back-end: pause what is recoverable, or end the session. */
void link_check(struct svq_device *device);
/* What to wait for, and until when, on the back-end's side. */
struct pollfd link_poll(const struct svq_device *device, int64_t *deadline);
/* After waiting for that: has the time come to try again, or is somebody there? */
bool link_due(const struct svq_device *device, const struct pollfd *fd);
/* Try to get the back-end back. */
void link_try(struct svq_device *device);
/* The same with a connection that has just been made. Return: 0 when the outage is over. */
int link_take_over(struct svq_device *device);
/*
 * A request needs the back-end: wait for one that is gone, until its outage has lasted
 * message-timeout. Return: is it there?
 */
bool link_wait(struct svq_device *device);
/* The front-end has left: the connection ends, or stays for the next one. Before queues end. */
void link_leave(struct svq_device *device, const char *why);
void link_close(struct link *link);
/* Between front-ends: has a kept connection ended? */
void link_idle(struct svq_device *device);

/* ---- introduce.c ------------------------------------------------------------------------------
 */

/**
 * introduce() - tell a back-end that has just been opened everything that the front-end has told
 * its predecessor, less the rings; but first see whether it fits.
 *
 * Return: 0; -EREMOTEIO when it does not fit, with the reason in `text`; or, as it was lost,
 * another error.
 */
int introduce(struct svq_device *device, char *text, size_t size);
/* The rings are there: the rest of the device's status. Queued. */
int introduce_start(struct svq_device *device);

/* ---- recover.c --------------------------------------------------------------------------------
 */

/* Pause every ring of a back-end that is gone. Return: NULL, or why they could not go on. */
const char *recover_strand(struct svq_device *device);
/* Give the rings to a back-end that has been introduced. Return: 0 or -errno. */
int recover_rings(struct svq_device *device);
/* All run again: see to what was ordered meanwhile. */
void recover_finish(struct svq_device *device);
/* Requests given to a back-end again, by rings that run now and by earlier ones. */
uint64_t recover_resubmitted(const struct svq_device *device);
/* Does what the back-end took of this ring, and has not completed, wait for its return? */
bool recover_pending(const struct svq_queue *queue);

/* ---- replace.c --------------------------------------------------------------------------------
 */

int replace_command(struct svq_device *device, struct command *command, const char **cause);

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
handler_fn setup_get_config, setup_set_config, setup_set_mtu;
handler_fn setup_get_status, setup_set_status;
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

/* Tell a new back-end of the present memory, with shadow rings of its own. Queued. */
int memory_introduce(struct svq_device *device);
/* Take guest memory away from a back-end without front-end. */
int memory_withdraw(struct svq_device *device);
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

/* Where a split ring of the guest's has been used up to (flags come first, then idx) ... */
static inline uint16_t ring_used_index(const struct svq_vring *guest)
{
    /* Acquire: pairs with the device's release of used.idx. */
    return __atomic_load_n((uint16_t *)guest->device + 1, __ATOMIC_ACQUIRE);
}

/* ... and filled up to. */
static inline uint16_t ring_avail_index(const struct svq_vring *guest)
{
    /* Acquire: pairs with the driver's release of avail.idx. */
    return __atomic_load_n((uint16_t *)guest->driver + 1, __ATOMIC_ACQUIRE);
}

/*
 * Take a shadow ring back from the back-end when what that took of it is complete; the ring goes on
 * at queue->base. @how: what happened to it, for the log. Return: 0, -ETIMEDOUT if something was
 * not complete, or the back-end's error.
 */
int queue_unshadow(struct svq_queue *queue, int64_t deadline, const char *how);
/*
 * Bring a ring to rest, if need be by a back-end that must come back first. Return: 0, -ETIMEDOUT,
 * or -ENOTCONN: there is none, and what is in flight stays so.
 */
int queue_rest(struct svq_queue *queue, const char *how);
/* The ring is no longer started; the shadow, if any, is gone. */
void queue_stop(struct svq_queue *queue);
/* The same by status 0: in pass-through its back-end has it until GET_VRING_BASE, if that comes. */
void queue_abandon(struct svq_queue *queue);
void queue_end(struct svq_queue *queue);

/* ---- shadow.c ---------------------------------------------------------------------------------
 */

/* Bring the device into the mode that policy, orders and logging ask for. @reason: for the event */
int shadow_settle(struct svq_device *device, const char *reason, const char **cause);
/* NULL, or the RFC's cause why this device cannot be shadowed. */
const char *shadow_obstacle(struct svq_device *device);
int shadow_command(struct svq_device *device, struct command *command, const char **cause);
int shadow_policy_command(struct svq_device *device, struct command *command, const char **cause);
/* Take the rings from the back-end and give them back, in the mode that the device has. */
int shadow_renew(struct svq_device *device);
/* Bring all rings to rest, or none: then they go on. */
int shadow_pause(struct svq_device *device);
int shadow_wire_all(struct svq_device *device);
void shadow_wake_all(struct svq_device *device);
/* The mode that the device should have. */
bool shadow_wanted(const struct svq_device *device);
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
/* A ring's back-end died that logs by itself: it may have written the ring and not said so. */
void dirty_ring_lost(const struct svq_queue *queue);
/* The device is shadowed from now on. */
void dirty_close_gap(struct svq_device *device);
void dirty_end(struct svq_device *device);

/* ---- inflight_fd.c ----------------------------------------------------------------------------
 */

handler_fn inflight_get_fd, inflight_set_fd;

/* ---- inflight.c -------------------------------------------------------------------------------
 */

/*
 * The part of this ring in the region that a relay is to keep: the front-end's, or ours as long as
 * it holds what a dead back-end left. NULL: there is none, or the ring is larger.
 */
void *inflight_part(const struct svq_queue *queue, unsigned *entries);
/*
 * Where does a ring start by what is known of requests in flight, whatever SET_VRING_BASE said?
 * Return: false: nothing is known; SET_VRING_BASE decides.
 */
bool inflight_base(const struct svq_queue *queue, const struct svq_vring *guest, uint32_t *base);
/*
 * Does the region list requests that the back-end would not do again? They were in flight through a
 * relay, or in a back-end that knew of the region, and a relay must take them up.
 */
bool inflight_needs_relay(const struct svq_queue *queue);
/* The same of a dead back-end's, where no relay may: must its successor keep a region as well? */
bool inflight_needs_keeper(const struct svq_device *device);
/* A ring is about to start in that mode: settles queue->base, and what its part says. */
void inflight_starts(struct svq_queue *queue, bool shadow);
/*
 * The back-end is to start this ring at that index, and to do nothing again: a shadow ring, or one
 * of the guest's on which it may still be at work.
 */
void inflight_disown(const struct svq_queue *queue, uint32_t base);
/* The device is reset: nothing is in flight any more, whatever a region lists. */
void inflight_reset(struct svq_device *device);
/*
 * Give the back-end the region it needs for the rings that are about to start in the device's mode:
 * the front-end's or our own for the guest's rings, another one for shadow rings. No ring may be
 * with it. Return: 0, also when it wants none; -EINVAL, -ENOMEM: there is none; -ENOTCONN.
 */
int inflight_tell(struct svq_device *device);
/* Is the region that the back-end has large enough for this ring to start in the present mode? */
bool inflight_covers(const struct svq_queue *queue);
/*
 * A direct ring's back-end is gone: where does the ring go on? Sets queue->base.
 * Return: NULL, or why nobody can tell (static).
 */
const char *inflight_recover(struct svq_queue *queue);
/* Why the back-end's crash now could lose requests or do some twice (static); NULL: it could not.
 */
const char *inflight_unsafe(const struct svq_device *device);
void inflight_end(struct svq_device *device);

/* ---- channel.c --------------------------------------------------------------------------------
 */

/* Give a new back-end its end of the channel, if the front-end has one. Queued. */
int channel_introduce(struct svq_device *device);
void channel_end(struct svq_device *device);

#include "device/wire.h"

#define for_each_queue(device, i, queue)      \
    for (unsigned i = 0; i < MAX_QUEUES; i++) \
        for (struct svq_queue *queue = (device)->s.queues[i]; queue; queue = NULL)

#endif
