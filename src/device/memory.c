/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The guest's memory, and one region of our own in the back-end's view of it: the shadow rings.
 * That region is offered with the first table, so that a switch never has to change the table.
 *
 * Its guest-physical and its user address are the same number, far above what VMMs use: descriptors
 * never name it, and the relay refuses a guest that does, since it is not part of the guest's map.
 */
#include "device/internal.h"

#include <stdlib.h>
#include <string.h>

/* 32 TiB: above any guest's memory, below any 47-bit user mapping of a VMM (those grow down). */
#define RINGS_ADDR (UINT64_C(1) << 45)

/* A back-end without CONFIGURE_MEM_SLOTS takes 8 regions ("Multiple memory regions"). */
#define DEFAULT_SLOTS 8u

/* ---- The shadow rings' region -------------------------------------------------------------------
 */

static bool collides(const struct svq_map *map, uint64_t addr, uint64_t size)
{
    for (size_t i = 0; i < svq_map_count(map); i++) {
        const struct svq_region *r = svq_map_region(map, i);

        if ((r->gpa < addr + size && addr < r->gpa + r->size) ||
            (r->uaddr < addr + size && addr < r->uaddr + r->size))
            return true;
    }
    return false;
}

/* An address that neither space uses; 0: none. */
static uint64_t place_rings(const struct svq_map *map, uint64_t size)
{
    for (uint64_t addr = RINGS_ADDR; addr < UINT64_C(1) << 51; addr <<= 1)
        if (!collides(map, addr, size))
            return addr;
    return 0;
}

/* How many rings this device may get: some back-ends count pairs. */
static unsigned most_rings(const struct svq_device *device)
{
    uint64_t num = device->s.queue_num * 2;

    return num < 8 ? 8 : num > MAX_QUEUES ? MAX_QUEUES : num;
}

/* What was in flight when its back-end died goes on through them, whatever the policy is now. */
static bool has_relays(const struct svq_device *device)
{
    for_each_queue(device, i, queue)
        if (queue->relay)
            return true;
    return false;
}

static int new_rings(struct svq_device *device)
{
    /* Only where formats may differ are there indirect tables of our own. */
    bool tables =
        device->ring == SVQ_RING_CHOICE_PACKED || device->offer & SVQ_BIT(SVQ_F_RING_PACKED);

    return svq_region_file_new(most_rings(device), tables, &device->link.rings);
}

static int make_rings(struct svq_device *device)
{
    if (device->link.rings || (device->policy == SVQ_SHADOW_OFF && !has_relays(device)))
        return 0;
    return new_rings(device);
}

static struct svq_region rings_region(const struct svq_device *device)
{
    return (struct svq_region){
        .gpa = device->link.rings_addr,
        .uaddr = device->link.rings_addr,
        .size = device->link.rings->size,
        .fd = device->link.rings->fd,
    };
}

/* ---- The back-end's table -----------------------------------------------------------------------
 */

/* Append a region, or extend the last one when both are one stretch of one file. */
static unsigned merge_region(struct svq_region *table, unsigned count, const struct svq_region *r,
                             bool same_file)
{
    struct svq_region *last = count ? &table[count - 1] : NULL;

    if (last && same_file && last->gpa + last->size == r->gpa &&
        last->uaddr + last->size == r->uaddr && last->offset + last->size == r->offset) {
        last->size += r->size;
        return count;
    }
    table[count] = *r;
    return count + 1;
}

static unsigned copy_table(const struct svq_map *map, struct svq_region *table, bool merge)
{
    unsigned count = 0;

    for (size_t i = 0; i < svq_map_count(map); i++)
        count = merge_region(table, count, svq_map_region(map, i),
                             merge && i && svq_map_same_file(map, i - 1, i));
    return count;
}

/* Does the back-end use the shadow rings now? Then they cannot move. */
static bool rings_in_use(const struct svq_device *device)
{
    for_each_queue(device, i, queue)
        if (queue->wire == WIRE_SHADOW)
            return true;
    return false;
}

/* Where the shadow rings are to be beside this map: where they are, if that is possible. */
static uint64_t choose_place(const struct svq_device *device, const struct svq_map *map)
{
    uint64_t size = device->link.rings->size;

    if (device->link.rings_offered && !collides(map, device->link.rings_addr, size))
        return device->link.rings_addr;
    return place_rings(map, size);
}

/* The whole table, the shadow rings last, if they fit. Queued. */
static int send_table(struct svq_device *device, const struct svq_map *map)
{
    struct svq_region table[MAX_REGIONS + 1];
    unsigned limit = svq_backend_has(device->link.backend, SVQ_VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS)
                         ? MAX_REGIONS
                         : DEFAULT_SLOTS;
    unsigned count = copy_table(map, table, false);
    uint64_t addr = 0;

    if (device->link.rings) {
        if (count + 1 > limit)
            count = copy_table(map, table, true);
        if (count + 1 <= limit)
            addr = choose_place(device, map);
        else
            svq_warning(device->id,
                        "the front-end uses all %u memory regions that the back-end takes: no "
                        "room for shadow rings",
                        limit);
    }
    if (device->link.rings_offered && rings_in_use(device) && addr != device->link.rings_addr) {
        svq_error(device->id, "refused a memory table that takes the place of the shadow rings");
        return -EBUSY;
    }
    device->link.rings_offered = addr;
    if (addr) {
        device->link.rings_addr = addr;
        table[count++] = rings_region(device);
    }
    return device->link.backend->ops->set_mem_table(device->link.backend, table, count);
}

/* Take a new map into use; relays stop using the old one before it goes. */
static void use_map(struct svq_device *device, struct svq_map *map)
{
    struct svq_map *old = device->s.map;

    device->s.map = map;
    for_each_queue(device, i, queue)
        wire_set_map(queue);
    svq_map_unref(old);
}

static struct svq_region from_wire(const struct svq_vu_region *r, int fd)
{
    return (struct svq_region){
        .gpa = r->guest_addr,
        .size = r->size,
        .uaddr = r->user_addr,
        .offset = r->mmap_offset,
        .fd = fd,
    };
}

/* Map a whole table, keeping the mappings that stay. */
static int new_map(struct svq_device *device, const struct svq_region *regions, unsigned count,
                   struct svq_map **out)
{
    int err = svq_map_new(regions, count, device->s.map, out);

    if (err == -ERANGE)
        svq_error(device->id, "a memory region is larger than its file");
    else if (err == -EINVAL)
        svq_error(device->id, "memory regions are empty, wrap or overlap");
    else if (err)
        svq_error(device->id, "cannot map guest memory: %s", strerror(-err));
    return err;
}

/* ---- Requests -----------------------------------------------------------------------------------
 */

/* What was queued takes effect; or it is remembered, for a back-end that is gone. */
static int tell(struct svq_device *device, int err)
{
    if (!err)
        err = device->link.backend->ops->flush(device->link.backend);
    /* -EBUSY, -EINVAL: our own refusals. */
    return err == -EBUSY || err == -EINVAL ? err : device_told(device, err);
}

int memory_set_table(struct svq_device *device, struct svq_vu_message *msg,
                     struct svq_vu_message *reply)
{
    const struct svq_vu_mem_table *wire = &msg->payload.table;
    struct svq_region regions[MAX_REGIONS];
    struct svq_map *map;
    int err;

    (void)reply;
    for (unsigned i = 0; i < wire->count; i++)
        regions[i] = from_wire(&wire->regions[i], msg->fds[i]);
    err = new_map(device, regions, wire->count, &map);
    if (err)
        return err;
    device->s.by_slots = false;
    if (link_up(device)) {
        err = make_rings(device);
        if (!err)
            err = tell(device, send_table(device, map));
    }
    if (err)
        svq_map_unref(map);
    else
        use_map(device, map);
    return err;
}

int memory_get_max_slots(struct svq_device *device, struct svq_vu_message *msg,
                         struct svq_vu_message *reply)
{
    uint64_t *slots = &device->s.max_slots;
    int err = 0;

    (void)msg;
    if (link_up(device))
        err = device->link.backend->ops->get_max_mem_slots(device->link.backend, slots);
    /* One is ours; and no more than a map of ours holds. */
    if (*slots > MAX_REGIONS)
        *slots = MAX_REGIONS;
    reply->payload.u64 = *slots ? *slots - 1 : 0;
    reply->header.size = sizeof(uint64_t);
    return device_told(device, err);
}

/* The regions of the present map, with their (own) fds. */
static unsigned present_regions(const struct svq_device *device, struct svq_region *regions)
{
    unsigned count = device->s.map ? svq_map_count(device->s.map) : 0;

    for (unsigned i = 0; i < count; i++)
        regions[i] = *svq_map_region(device->s.map, i);
    return count;
}

/* With slots, a front-end may never send a table: then our region comes first. */
static int offer_rings(struct svq_device *device, const struct svq_map *map)
{
    struct svq_region region;
    int err;

    if (device->link.rings_offered)
        return collides(map, device->link.rings_addr, device->link.rings->size) ? -EINVAL : 0;
    err = make_rings(device);
    if (err || !device->link.rings)
        return err;
    device->link.rings_addr = place_rings(map, device->link.rings->size);
    if (!device->link.rings_addr)
        return 0;
    region = rings_region(device);
    err = device->link.backend->ops->add_region(device->link.backend, &region);
    device->link.rings_offered = !err;
    return err;
}

int memory_add_region(struct svq_device *device, struct svq_vu_message *msg,
                      struct svq_vu_message *reply)
{
    struct svq_region regions[MAX_REGIONS];
    unsigned count = present_regions(device, regions);
    struct svq_region region = from_wire(&msg->payload.region.region, msg->fds[0]);
    struct svq_map *map;
    int err;

    (void)reply;
    if (count + 1 >= MAX_REGIONS)
        return -ENOSPC;
    regions[count] = region;
    err = new_map(device, regions, count + 1, &map);
    if (err)
        return err;
    device->s.by_slots = true;
    if (link_up(device)) {
        err = offer_rings(device, map);
        if (!err)
            err = device->link.backend->ops->add_region(device->link.backend, &region);
        err = tell(device, err);
    }
    if (err)
        svq_map_unref(map);
    else
        use_map(device, map);
    return err;
}

int memory_remove_region(struct svq_device *device, struct svq_vu_message *msg,
                         struct svq_vu_message *reply)
{
    const struct svq_vu_region *wire = &msg->payload.region.region;
    struct svq_region regions[MAX_REGIONS];
    unsigned count = present_regions(device, regions), i = 0;
    struct svq_region region;
    struct svq_map *map;
    int err;

    (void)reply;
    while (i < count && (regions[i].gpa != wire->guest_addr || regions[i].size != wire->size ||
                         regions[i].uaddr != wire->user_addr))
        i++;
    if (i == count)
        return -ENOENT;
    region = regions[i];
    memmove(&regions[i], &regions[i + 1], (count - i - 1) * sizeof(regions[0]));
    err = new_map(device, regions, count - 1, &map);
    if (err)
        return err;
    if (link_up(device))
        err = tell(device, device->link.backend->ops->remove_region(device->link.backend, &region));
    if (err) {
        svq_map_unref(map);
        return err;
    }
    /* Rings inside the region break; relays are off the memory when this returns. */
    use_map(device, map);
    return 0;
}

/* ---- Other back-ends, other front-ends ----------------------------------------------------------
 */

int memory_introduce(struct svq_device *device)
{
    const struct svq_backend_ops *ops = device->link.backend->ops;
    const struct svq_map *map = device->s.map;
    int err = make_rings(device);

    if (err)
        return err;
    if (!device->s.by_slots)
        return send_table(device, map);
    err = offer_rings(device, map);
    for (size_t i = 0; i < svq_map_count(map) && !err; i++)
        err = ops->add_region(device->link.backend, svq_map_region(map, i));
    return err;
}

/* The shadow rings' memory beside the guest's, if there is room for it. Queued. */
static int offer_rings_too(struct svq_device *device)
{
    if (device->link.rings_offered)
        return 0;
    return device->s.by_slots ? offer_rings(device, device->s.map)
                              : send_table(device, device->s.map);
}

/* Where a ring can be that nobody uses: of a shadow ring, where it is. */
static bool park_place(struct svq_queue *queue, struct svq_ring_place *place)
{
    *place = queue->place;
    return queue->wire == WIRE_SHADOW ||
           svq_region_file_place(queue->device->link.rings, queue->index,
                                 device_backend_format(queue->device), queue->num, 0, place);
}

/*
 * libvhost-user looks for all rings that it was ever told of in every new table, stopped or not,
 * and gives up the connection when one is not there, or a shared descriptor table. Queued.
 */
static int park_rings(struct svq_device *device)
{
    const struct svq_backend_ops *ops = device->link.backend->ops;
    struct link *link = &device->link;

    for_each_queue(device, i, queue) {
        struct svq_vu_vring_addr addr = {.index = i};
        struct svq_ring_place place;
        int err;

        if (!queue->has_addr || !queue->num || !park_place(queue, &place))
            continue;
        addr.desc = link->rings_addr + place.desc;
        addr.avail = link->rings_addr + place.driver;
        addr.used = link->rings_addr + place.device;
        err = ops->set_vring_addr(link->backend, &addr);
        if (err)
            return err;
    }
    return 0;
}

int memory_withdraw(struct svq_device *device)
{
    const struct svq_backend_ops *ops = device->link.backend->ops;
    struct svq_region rings;
    int err = 0;

    if (!device->s.map)
        return 0; /* it has none */
    /* A table of no regions is more than most back-ends understand. */
    if (!device->link.rings)
        err = new_rings(device);
    if (!err)
        err = offer_rings_too(device);
    if (!err && device->link.rings_offered)
        err = park_rings(device);
    if (err)
        return err;
    if (!device->link.rings_offered)
        device->link.rings_addr = RINGS_ADDR;
    device->link.rings_offered = true;
    rings = rings_region(device);
    err = ops->set_mem_table(device->link.backend, &rings, 1);
    return err ? err : ops->flush(device->link.backend);
}

void memory_end(struct svq_device *device)
{
    svq_map_unref(device->s.map);
    device->s.map = NULL;
}
