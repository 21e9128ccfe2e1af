/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A ring's relay, seen from the device: made, told of changes, ended.
 *
 * While rings are stopped the guest waits, so a switch makes relays ahead, with all that is slow:
 * memory is found, cleared and touched. Where the ring goes on is all that is left for later.
 * Likewise, relays that have ended are freed when the rings run again.
 */
#include "device/internal.h"

#include <sys/eventfd.h>
#include <sys/mman.h>
#include <unistd.h>

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

static struct svq_relay_config relay_config(const struct svq_queue *queue)
{
    struct session *s = &queue->device->s;
    enum svq_ring_format format = device_backend_format(queue->device);

    return (struct svq_relay_config){
        .guest = {.num = queue->num, .features = s->features_acked & SVQ_RELAY_FEATURES},
        .backend = {.num = svq_relay_shadow_num(format, queue->num),
                    .features = s->features_served & SVQ_RELAY_FEATURES},
        .map = s->map,
        .may_share = queue->device->descriptors == SVQ_DESCRIPTORS_SHARED,
    };
}

/* What an error of a relay's making says of its ring. */
static const char *relay_error(int err)
{
    switch (err) {
    case -EBADMSG:
        return "what its in-flight region says contradicts itself or the ring";
    case -EINVAL:
        return "its size or index is none that such a ring can have";
    case -EMFILE:
        return "too many open files";
    default:
        return "out of resources";
    }
}

/* If one was made ahead it is that one. */
static int new_relay(struct svq_queue *queue, const struct svq_relay_config *config)
{
    struct svq_relay *ahead = queue->ahead;
    int err;

    if (!ahead)
        return svq_relay_new(config, &queue->relay);
    queue->ahead = NULL;
    err = svq_relay_begin(ahead, config);
    if (err)
        svq_relay_free(ahead);
    else
        queue->relay = ahead;
    return err;
}

int relay_make(struct svq_queue *queue, const char **why)
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
    config.base = queue_is_packed(queue) ? wire_packed_base(queue)
                                         : wire_sane_base(queue, &config.guest.ring);
    config.inflight = inflight_part(queue, &config.inflight_entries);
    err = make_notifications(queue);
    if (!err)
        err = new_relay(queue, &config);
    if (err) {
        *why = relay_error(err);
        return err == -EBADMSG ? err : -EINVAL;
    }
    wire_set_log(queue);
    return 0;
}

/* ---- Ahead --------------------------------------------------------------------------------------
 */

/* Memory that will be written soon; if it cannot be had, that shows then. */
static void touch(void *start, size_t size)
{
    uintptr_t page = sysconf(_SC_PAGESIZE), first = (uintptr_t)start & -page;

    madvise((void *)first, (uintptr_t)start + size - first, MADV_POPULATE_WRITE);
}

static void touch_ring(const struct svq_vring *ring, enum svq_ring_format format, unsigned num)
{
    touch(ring->desc, svq_vring_desc_size(format, num));
    touch(ring->driver, svq_vring_driver_size(format, num));
    touch(ring->device, svq_vring_device_size(format, num));
}

void relay_prepare(struct svq_queue *queue)
{
    enum svq_ring_format format = device_guest_format(queue->device);
    struct svq_relay_config config = relay_config(queue);

    if (queue->big_endian || queue->ahead ||
        !queue_guest_ring(queue, config.map, &config.guest.ring) || find_place(queue, &config) ||
        make_notifications(queue))
        return;
    config.base = format == SVQ_RING_PACKED ? SVQ_PACKED_START : SVQ_SPLIT_START;
    if (svq_relay_new(&config, &queue->ahead))
        queue->ahead = NULL;
    touch_ring(&config.guest.ring, format, queue->num);
}

void relay_drop_spares(struct svq_device *device)
{
    struct svq_lane *lanes[MAX_QUEUES];
    unsigned count = 0;

    for_each_queue(device, i, queue) {
        lanes[count++] = queue->spare;
        queue->spare = NULL;
    }
    svq_lanes_free(lanes, count);
    for_each_queue(device, i, queue) {
        svq_relay_free(queue->ahead);
        svq_relay_free(queue->retired);
        queue->ahead = queue->retired = NULL;
        if (!queue->relay) {
            svq_region_file_unref(queue->rings);
            queue->rings = NULL;
        }
    }
}

/* ---- With another back-end ----------------------------------------------------------------------
 */

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

int relay_restart(struct svq_queue *queue, const char **why)
{
    struct svq_relay_config config = relay_config(queue);
    struct svq_ring_place place = queue->place;
    struct svq_region_file *rings = queue->rings;
    int err;

    queue->rings = NULL;
    err = renew_surroundings(queue, &config, why);
    if (!err) {
        err = svq_relay_restart(queue->relay, &config.backend.ring, &config.tables);
        if (err)
            *why = relay_error(err);
    }
    if (err) {
        svq_region_file_unref(queue->rings);
        queue->rings = rings;
        queue->place = place;
        return err;
    }
    svq_region_file_unref(rings);
    return 0;
}

/* ---- The end ------------------------------------------------------------------------------------
 */

struct svq_relay *relay_end(struct svq_queue *queue)
{
    struct svq_relay *relay = queue->relay;
    struct svq_relay_stats stats;

    if (!relay)
        return NULL;
    queue->base = svq_relay_detach(relay);
    queue->has_base = true;
    svq_relay_stats(relay, &stats);
    queue->kept.chains += stats.chains;
    queue->kept.bytes += stats.bytes;
    queue->kept.guest_kicks += stats.guest_kicks;
    queue->kept.backend_kicks += stats.backend_kicks;
    queue->kept.backend_calls += stats.backend_calls;
    queue->kept.guest_calls += stats.guest_calls;
    queue->device->resubmitted += stats.resubmitted;
    queue->relay = NULL;
    svq_region_file_unref(queue->rings);
    queue->rings = NULL;
    queue->halted = false;
    queue->handed = false;
    queue->wire = WIRE_NONE;
    queue->absorbed = true;
    return relay;
}

/* ---- While it runs ------------------------------------------------------------------------------
 */

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

/* Where a split ring is that is logged by command: its front-end need not have said so. */
static void find_split_ring(const struct svq_queue *queue, struct svq_relay_log *setting)
{
    size_t device = svq_vring_device_size(SVQ_RING_SPLIT, queue->num);

    setting->ring =
        svq_map_uaddr_to_gpa(queue->device->s.map, queue->addr.used, device, &setting->device_gpa);
}

static struct svq_relay_log log_setting(const struct svq_queue *queue)
{
    struct svq_relay_log setting = {
        .log = dirty_relay_log(queue->device),
        .ring = queue->addr.flags & SVQ_VU_VRING_F_LOG || !queue->device->s.logging,
        .device_gpa = queue->addr.log,
    };

    if (queue_is_packed(queue))
        find_packed_ring(queue, &setting);
    else if (!queue->device->s.logging)
        find_split_ring(queue, &setting);
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
