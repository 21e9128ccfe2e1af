/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A ring's connection to the back-end.
 *
 * Back-ends forget a ring's kick, call and addresses when they answer GET_VRING_BASE, so every
 * (re)start tells all of it, in the order that suits them all: size, index, addresses, call, then
 * kick, which starts a crosvm back-end's ring and must find the call set, then enable. What comes
 * before the kick is acked before the kick goes out: a ring must not start on half of its settings.
 */
#include "device/internal.h"
#include "base/notify.h"

#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

/* Everything the back-end needs to serve a ring. */
struct wiring {
    struct svq_vu_vring_addr addr;
    unsigned num;
    uint32_t base;
    int call;
    int err;
};

static int tell(struct svq_queue *queue, const struct wiring *w)
{
    struct svq_backend *backend = queue->device->link.backend;
    const struct svq_backend_ops *ops = backend->ops;
    unsigned index = queue->index;
    int err;

    err = ops->set_vring_num(backend, index, w->num);
    if (!err)
        err = ops->set_vring_base(backend, index, w->base);
    if (!err)
        err = ops->set_vring_addr(backend, &w->addr);
    if (!err)
        err = ops->set_vring_fd(backend, SVQ_VU_SET_VRING_CALL, index, w->call);
    if (!err && w->err >= 0)
        err = ops->set_vring_fd(backend, SVQ_VU_SET_VRING_ERR, index, w->err);
    return device_backend_did(queue->device, err);
}

/* Forgotten with the connection, if not with the ring. */
static int tell_endian(struct svq_queue *queue)
{
    struct svq_backend *backend = queue->device->link.backend;
    struct svq_vu_message msg, reply;

    if (!queue->big_endian)
        return 0;
    svq_message_init(&msg, SVQ_VU_SET_VRING_ENDIAN);
    msg.payload.state = (struct svq_vu_vring_state){.index = queue->index, .num = 1};
    msg.header.size = sizeof(msg.payload.state);
    return device_backend_did(queue->device, backend->ops->forward(backend, &msg, &reply));
}

int wire_start(struct svq_queue *queue)
{
    struct svq_backend *backend = queue->device->link.backend;
    int kick = queue->wire == WIRE_SHADOW ? queue->backend_kick : queue->kick;
    int err;

    if (queue->owing)
        inflight_disown(queue, queue->base);
    queue->handed = true;
    err = backend->ops->set_vring_fd(backend, SVQ_VU_SET_VRING_KICK, queue->index, kick);
    /* A ring that was disabled while its back-end was away is to be drained first. */
    if (!err && (queue->enabled || queue->relay) &&
        queue->device->s.features_served & SVQ_BIT(SVQ_F_PROTOCOL_FEATURES))
        err = backend->ops->set_vring_enable(backend, queue->index, true);
    return device_backend_did(queue->device, err);
}

/*
 * DPDK's virtio-user in server mode reconnects with index 0 on a split ring that has been used, and
 * counts on the back-end to go on from used.idx.
 */
static uint16_t sane_base(const struct svq_queue *queue, const struct svq_vring *guest)
{
    return queue->base ? (uint16_t)queue->base : ring_used_index(guest);
}

/*
 * A packed ring's base in full. Peers that know 16 bits of it (DPDK, both its ends) leave the upper
 * half 0: nothing is in flight.
 */
static uint32_t packed_base(const struct svq_queue *queue)
{
    struct svq_ring_index index = svq_packed_index(queue->base);

    return queue->has_base ? svq_packed_base(&index) : SVQ_PACKED_START;
}

/*
 * Normally a split ring starts with both indices equal. Cloud Hypervisor reconnects at the
 * available index and leaves out what was in flight, so that the used index stays behind for ever.
 */
void wire_note_start(struct svq_queue *queue)
{
    struct svq_vring guest;

    inflight_starts(queue, false);
    if (queue->owing)
        return; /* they lie to each other as they did */
    queue->skew = 0;
    if (!queue_is_packed(queue) && queue_guest_ring(queue, queue->device->s.map, &guest))
        queue->skew = sane_base(queue, &guest) - ring_used_index(&guest);
}

int wire_direct(struct svq_queue *queue)
{
    struct session *s = &queue->device->s;
    struct wiring w = {
        .addr = queue->addr,
        .num = queue->num,
        .call = queue->call,
        .err = queue->err,
    };
    int err;

    if (!(s->logging && s->log_backend))
        w.addr.flags &= ~SVQ_VU_VRING_F_LOG;
    queue->wire = WIRE_DIRECT;
    queue->absorbed = false;
    wire_note_start(queue);
    w.base = queue_is_packed(queue) ? packed_base(queue) : queue->base;
    err = tell_endian(queue);
    return err ? err : tell(queue, &w);
}

/* ---- Through a relay ----------------------------------------------------------------------------
 */

/* The ring broke: the relay stopped by itself; say so to everybody who may want to know. */
void wire_report_fault(struct svq_queue *queue, const char *side, const char *reason)
{
    struct svq_device *device = queue->device;
    const struct svq_event event = {
        .type = SVQ_EVENT_QUEUE_ERROR,
        .id = device->id,
        .queue = queue->index,
        .side = side,
        .reason = reason,
    };

    queue->fault = reason;
    svq_error(device->id, "queue %u stopped, the %s broke its ring: %s", queue->index, side,
              reason);
    device->context->event(device->context->opaque, &event);
    svq_notify(queue->err);
}

static void read_fault(struct svq_relay *relay, void *arg)
{
    struct svq_event *found = arg;
    enum svq_side side = svq_relay_fault(relay, &found->reason);

    found->side = side == SVQ_SIDE_BACKEND ? "backend" : "guest";
}

static void on_fault(void *opaque)
{
    struct svq_queue *queue = opaque;
    struct svq_event found = {0};

    svq_lane_call(queue->lane, read_fault, &found);
    wire_report_fault(queue, found.side, found.reason);
}

static int make_notifications(struct svq_queue *queue)
{
    if (queue->backend_kick < 0)
        queue->backend_kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (queue->backend_call < 0)
        queue->backend_call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return queue->backend_kick < 0 || queue->backend_call < 0 ? -errno : 0;
}

/* Put the shadow ring and its tables into their memory. Return: NULL or what is wrong. */
static const char *find_place(struct svq_queue *queue, struct svq_relay_config *config)
{
    struct link *link = &queue->device->link;
    struct svq_ring_place *place = &queue->place;
    size_t tables = svq_relay_tables_size(config);

    if (!link->rings_offered)
        return "the back-end has no room for the shadow rings' memory region";
    if (queue->rings != link->rings) {
        svq_region_file_unref(queue->rings);
        queue->rings = svq_region_file_ref(link->rings);
    }
    if (!svq_region_file_place(link->rings, queue->index, device_backend_format(queue->device),
                               config->backend.num, tables, place))
        return "the device's rings are too many and too large to be shadowed";
    config->backend.ring = place->host;
    config->tables = (struct svq_relay_tables){
        .host = place->tables_host,
        .addr = link->rings_addr + place->tables,
        .size = tables,
    };
    return NULL;
}

static struct wiring shadow_wiring(const struct svq_queue *queue, uint32_t base)
{
    uint64_t rings = queue->device->link.rings_addr;

    return (struct wiring){
        .addr =
            {
                .index = queue->index,
                .desc = rings + queue->place.desc,
                .avail = rings + queue->place.driver,
                .used = rings + queue->place.device,
            },
        .num = queue->shadow_num,
        .base = base,
        .call = queue->backend_call,
        .err = -1,
    };
}

static struct svq_relay_config relay_config(const struct svq_queue *queue)
{
    struct session *s = &queue->device->s;
    enum svq_ring_format format = device_backend_format(queue->device);

    return (struct svq_relay_config){
        .guest = {.num = queue->num, .features = s->features_acked & SVQ_RELAY_FEATURES},
        .backend = {.num = svq_relay_shadow_num(format, queue->num),
                    .features = s->features_served & SVQ_RELAY_FEATURES},
        .map = s->map,
    };
}

/* The back-end's view of a relay's ring, from that index on. Queued. */
static int tell_shadow(struct svq_queue *queue, uint32_t base)
{
    const struct wiring w = shadow_wiring(queue, base);

    queue->wire = WIRE_SHADOW;
    inflight_disown(queue, base);
    return tell(queue, &w);
}

static uint32_t shadow_start(const struct svq_queue *queue)
{
    return device_backend_format(queue->device) == SVQ_RING_PACKED ? SVQ_PACKED_START
                                                                   : SVQ_SPLIT_START;
}

/* What an error of a relay's making says of its ring. */
static const char *relay_error(int err)
{
    switch (err) {
    case -EBADMSG:
        return "what its in-flight region says contradicts itself or the ring";
    case -EINVAL:
        return "its size or index is none that such a ring can have";
    default:
        return "out of resources";
    }
}

/* Return: 0, -EBADMSG (its in-flight region) or another error; *why says what it means. */
static int make_relay(struct svq_queue *queue, const char **why)
{
    struct svq_relay_config config = relay_config(queue);
    int err;

    if (queue->big_endian)
        *why = "it is big endian";
    else if (!queue_guest_ring(queue, queue->device->s.map, &config.guest.ring))
        *why = "its ring is not in guest memory, or not aligned";
    else
        *why = find_place(queue, &config);
    if (*why)
        return -EINVAL;
    queue->shadow_num = config.backend.num;
    inflight_starts(queue, true);
    config.base =
        queue_is_packed(queue) ? packed_base(queue) : sane_base(queue, &config.guest.ring);
    config.inflight = inflight_part(queue, &config.inflight_entries);
    err = make_notifications(queue);
    if (!err)
        err = svq_relay_new(&config, &queue->relay);
    if (err) {
        *why = relay_error(err);
        return err == -EBADMSG ? err : -EINVAL;
    }
    wire_set_log(queue);
    return 0;
}

int wire_shadow(struct svq_queue *queue)
{
    const char *why;
    int err = make_relay(queue, &why);

    if (err) {
        device_error(queue->device, "queue %u cannot be shadowed: %s", queue->index, why);
        return err;
    }
    return tell_shadow(queue, shadow_start(queue));
}

int wire_shadow_go(struct svq_queue *queue)
{
    struct svq_lane_config config = {
        .relay = queue->relay,
        .guest_kick = queue->kick,
        .guest_call = queue->call,
        .backend_kick = queue->backend_kick,
        .backend_call = queue->backend_call,
        .fault = on_fault,
        .opaque = queue,
    };

    return svq_lane_new(queue->device->context->engine, &config, &queue->lane);
}

void wire_call_guest(struct svq_queue *queue)
{
    svq_notify(queue->call);
}

void wire_wake(struct svq_queue *queue)
{
    svq_notify(queue->wire == WIRE_SHADOW ? queue->backend_kick : queue->kick);
    svq_notify(queue->call);
}

/* ---- After a halt -------------------------------------------------------------------------------
 */

static void find_resume_base(struct svq_relay *relay, void *arg)
{
    uint32_t *base = arg;

    *base = svq_relay_resume_base(relay, *base);
}

int wire_resume(struct svq_queue *queue)
{
    uint32_t base = queue->halted_at;

    if (queue->lane)
        svq_lane_call(queue->lane, find_resume_base, &base);
    else
        find_resume_base(queue->relay, &base);
    queue->halted = false;
    wire_hold(queue, false);
    return tell_shadow(queue, base);
}

/*
 * The old back-end may be alive in some corner: it keeps its shadow ring and its eventfds, and the
 * new one gets others.
 */
static int renew_surroundings(struct svq_queue *queue, struct svq_relay_config *config,
                              const char **why)
{
    int err;

    *why = find_place(queue, config);
    if (*why)
        return -EINVAL;
    close(queue->backend_kick);
    close(queue->backend_call);
    queue->backend_kick = queue->backend_call = -1;
    err = make_notifications(queue);
    if (err)
        *why = relay_error(err);
    return err;
}

int wire_restart(struct svq_queue *queue)
{
    struct svq_relay_config config = relay_config(queue);
    struct svq_ring_place place = queue->place;
    struct svq_region_file *rings = queue->rings;
    const char *why;
    int err;

    if (svq_relay_fault(queue->relay, &why) == SVQ_SIDE_GUEST) {
        wire_dismantle(queue);
        return 0;
    }
    /* Nobody else touches the relay meanwhile; and there will be other notifications. */
    svq_lane_free(queue->lane);
    queue->lane = NULL;
    queue->rings = NULL;
    err = renew_surroundings(queue, &config, &why);
    if (!err) {
        err = svq_relay_restart(queue->relay, &config.backend.ring, &config.tables);
        if (err)
            why = relay_error(err);
    }
    if (err) {
        device_error(queue->device, "queue %u cannot go on: %s", queue->index, why);
        svq_region_file_unref(queue->rings);
        queue->rings = rings;
        queue->place = place;
        return err;
    }
    svq_region_file_unref(rings);
    queue->fault = NULL;
    /* One that was disabled meanwhile completes what it has, and is stopped then. */
    svq_relay_hold(queue->relay, !queue_runs(queue));
    queue->halted = false;
    queue->handed = false;
    return tell_shadow(queue, shadow_start(queue));
}

void wire_dismantle(struct svq_queue *queue)
{
    struct svq_relay_stats stats;

    if (!queue->relay)
        return;
    svq_lane_free(queue->lane);
    queue->lane = NULL;
    queue->base = svq_relay_detach(queue->relay);
    queue->has_base = true;
    svq_relay_stats(queue->relay, &stats);
    queue->kept.chains += stats.chains;
    queue->kept.bytes += stats.bytes;
    queue->kept.guest_kicks += stats.guest_kicks;
    queue->kept.backend_kicks += stats.backend_kicks;
    queue->kept.backend_calls += stats.backend_calls;
    queue->kept.guest_calls += stats.guest_calls;
    queue->device->resubmitted += stats.resubmitted;
    svq_relay_free(queue->relay);
    queue->relay = NULL;
    svq_region_file_unref(queue->rings);
    queue->rings = NULL;
    queue->halted = false;
    queue->handed = false;
    queue->wire = WIRE_NONE;
    queue->absorbed = true;
}

void wire_break(struct svq_queue *queue, const char *reason)
{
    wire_report_fault(queue, "guest", reason);
    wire_halt(queue, svq_now());
    wire_dismantle(queue);
}

/* ---- While it runs
 * ------------------------------------------------------------------------------- */

static void set_log(struct svq_relay *relay, void *arg)
{
    svq_relay_set_log(relay, arg);
}

/*
 * Where a packed ring lies in guest-physical memory. SET_VRING_ADDR has one address for the log,
 * and no two peers mean the same by it (QEMU gives the device area's); the map says both for sure.
 */
static void find_packed_ring(const struct svq_queue *queue, struct svq_relay_log *setting)
{
    const struct svq_map *map = queue->device->s.map;
    const struct svq_vu_vring_addr *addr = &queue->addr;
    size_t desc = svq_vring_desc_size(SVQ_RING_PACKED, queue->num);
    size_t device = svq_vring_device_size(SVQ_RING_PACKED, queue->num);

    /* A relay's ring is in the map; if ever it is not, no log covers it: its queue breaks. */
    if (!svq_map_uaddr_to_gpa(map, addr->desc, desc, &setting->desc_gpa) ||
        !svq_map_uaddr_to_gpa(map, addr->used, device, &setting->device_gpa))
        setting->desc_gpa = setting->device_gpa = UINT64_MAX;
}

static struct svq_relay_log log_setting(const struct svq_queue *queue)
{
    struct svq_relay_log setting = {
        .log = dirty_relay_log(queue->device),
        .ring = queue->addr.flags & SVQ_VU_VRING_F_LOG,
        .device_gpa = queue->addr.log,
    };

    if (queue_is_packed(queue))
        find_packed_ring(queue, &setting);
    return setting;
}

void wire_set_log(struct svq_queue *queue)
{
    struct svq_relay_log setting;

    if (!queue->relay)
        return;
    setting = log_setting(queue);
    if (queue->lane)
        svq_lane_call(queue->lane, set_log, &setting);
    else
        set_log(queue->relay, &setting);
}

struct map_setting {
    struct svq_vring guest;
    struct svq_map *map;
    struct svq_relay_log log; /* the ring may have moved in guest-physical memory */
};

static void set_map(struct svq_relay *relay, void *arg)
{
    const struct map_setting *setting = arg;

    svq_relay_set_guest(relay, &setting->guest, setting->map);
    svq_relay_set_log(relay, &setting->log);
}

void wire_set_map(struct svq_queue *queue)
{
    struct map_setting setting = {.map = queue->device->s.map};

    if (!queue->relay)
        return;
    if (!queue_guest_ring(queue, setting.map, &setting.guest)) {
        wire_break(queue, "its memory was removed");
        return;
    }
    setting.log = log_setting(queue);
    if (queue->lane)
        svq_lane_call(queue->lane, set_map, &setting);
    else
        set_map(queue->relay, &setting);
}
