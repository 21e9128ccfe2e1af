/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The in-flight region of a device.
 *
 * To the front-end, svqd is a back-end that keeps one, whatever the real one does: it makes the
 * region (GET_INFLIGHT_FD) and takes it back when the front-end meets svqd's successor
 * (SET_INFLIGHT_FD). A relay keeps its queue's part of it.
 *
 * A back-end that keeps a region must have one before any ring starts (libvhost-user insists):
 *
 *      rings in pass-through    the front-end's region, where that is large enough; else our own,
 *                               so that the back-end's successor can be told what was in flight
 *      shadow rings             a new one each time: what is in flight there is in the relay
 *
 * Who believes what, when a ring starts: while a part lists requests, it says where the ring goes
 * on. So it does the first time that this session starts the ring, since the front-end may have
 * handed it over after a crash. Otherwise SET_VRING_BASE decides, and the part is made to say the
 * same: of a ring that has been used, a part of zeros would be wrong at the next crash.
 *
 * A back-end that has not completed what it took before it was stopped may still complete it when
 * the ring goes on. Such a ring starts where it was stopped, and its part is disowned, or all that
 * would be done twice. So it is with shadow rings always: what is to be done again there, the relay
 * makes available again.
 *
 * Threat model: front-end and back-end may write anything at any time. Parts are judged in
 * svq_inflight_read(), on a copy; all else here goes by numbers that were checked once.
 */
#include "device/internal.h"
#include "mem/inflight_memory.h"

#include <string.h>

/* Entries of our own regions, unless a ring has more. */
#define USUAL_NUM 1024u

/* ---- Parts --------------------------------------------------------------------------------------
 */

static void *part_of(const struct inflight_memory *memory, const struct svq_queue *queue)
{
    return inflight_memory_part(memory, device_guest_format(queue->device), queue->index,
                                queue->num);
}

/* The rings that the back-end serves in this mode. */
static enum svq_ring_format format_of(const struct svq_device *device, bool shadow)
{
    return shadow ? device_backend_format(device) : device_guest_format(device);
}

static unsigned num_of(const struct svq_queue *queue, bool shadow)
{
    return shadow && queue->num
               ? svq_relay_shadow_num(device_backend_format(queue->device), queue->num)
               : queue->num;
}

/* Return: 0, or -errno: there is no such part, or it makes no sense. */
static int read_part(const struct inflight_memory *memory, const struct svq_queue *queue,
                     const struct svq_vring *guest, struct svq_inflight_report *report)
{
    const void *part = part_of(memory, queue);

    if (!part)
        return -ENOENT;
    return svq_inflight_read(part, device_guest_format(queue->device), memory->what.queue_size,
                             queue->num, guest, report);
}

/*
 * Make a part say that nothing is in flight, of a ring that starts as SET_VRING_BASE says. A
 * back-end takes its index from there, unless nobody has kept it yet. So nobody has where that
 * would be another index: a front-end without region leaves out what was in flight when its
 * back-end died.
 */
static void reset_part(const struct inflight_memory *memory, const struct svq_queue *queue,
                       const struct svq_vring *guest)
{
    enum svq_ring_format format = device_guest_format(queue->device);
    void *part = part_of(memory, queue);
    struct svq_ring_index index;
    bool apart;
    uint32_t base;

    if (!part)
        return;
    if (format == SVQ_RING_SPLIT) {
        base = ring_used_index(guest);
        apart = queue->base && queue->base != base; /* 0: see sane_base() */
    } else {
        index = svq_packed_index(queue->base);
        base = queue->has_base ? svq_packed_base(&index) : SVQ_PACKED_START;
        apart = (base & UINT16_MAX) != base >> 16;
    }
    if (apart)
        svq_inflight_disown(part, format, memory->what.queue_size, base);
    else
        svq_inflight_reset(part, format, memory->what.queue_size, base);
}

/* ---- Rules --------------------------------------------------------------------------------------
 */

/* Does the part of this ring in our own region list what a dead back-end left? */
static bool left_by_dead(const struct svq_queue *queue)
{
    return queue->device->s.inflight.left[queue->index] && queue->stranded;
}

/* What tells where this ring goes on; NULL: nothing but SET_VRING_BASE. */
static struct inflight_memory *witness(const struct svq_queue *queue)
{
    const struct inflight *in = &queue->device->s.inflight;

    return left_by_dead(queue) ? in->ours : in->theirs;
}

/* Does the region say where this ring goes on? */
static bool decides(const struct inflight_memory *memory, const struct svq_queue *queue,
                    const struct svq_vring *guest, struct svq_inflight_report *report)
{
    /* It counts from the used index: that is not where a ring with a skew goes on. */
    if (queue->skew || read_part(memory, queue, guest, report) || !report->tracked)
        return false;
    return report->in_flight || queue->stranded || !queue->device->s.inflight.ran[queue->index];
}

static bool keeps_region(const struct svq_backend *backend)
{
    return backend->protocol_acked & SVQ_BIT(SVQ_VU_PROTOCOL_F_INFLIGHT_SHMFD);
}

static bool completes_in_order(const struct svq_device *device)
{
    return device_acked(device, SVQ_F_IN_ORDER) && device_guest_format(device) == SVQ_RING_SPLIT;
}

bool inflight_base(const struct svq_queue *queue, const struct svq_vring *guest, uint32_t *base)
{
    const struct inflight *in = &queue->device->s.inflight;
    const struct inflight_memory *memory = witness(queue);
    struct svq_inflight_report report;

    if (queue->owing)
        return false;
    if (decides(memory, queue, guest, &report)) {
        *base = report.used_base;
        return true;
    }
    /*
     * Cloud Hypervisor passes the available index when there is a region and counts on that to know
     * what was in flight. If nobody could keep it, order says the same.
     */
    if (!part_of(memory, queue) || in->ran[queue->index] || !completes_in_order(queue->device))
        return false;
    *base = ring_used_index(guest);
    return true;
}

/* The ring starts here, and if need be again: from now on the region is not asked. */
static void settle_base(struct svq_queue *queue, const struct svq_vring *guest)
{
    queue->has_base |= inflight_base(queue, guest, &queue->base);
    queue->device->s.inflight.ran[queue->index] = true;
}

void *inflight_part(const struct svq_queue *queue, unsigned *entries)
{
    const struct inflight_memory *memory = witness(queue);

    *entries = memory ? memory->what.queue_size : 0;
    return part_of(memory, queue);
}

/* The region that a back-end has for the guest's rings; NULL: it has none. */
static struct inflight_memory *given_direct(const struct svq_device *device)
{
    const struct inflight *in = &device->s.inflight;

    return in->given == in->scratch ? NULL : in->given;
}

/* Are there requests that the region alone knows, and the back-end does not ask it? */
static bool lists_unheard(const struct svq_queue *queue)
{
    const struct svq_device *device = queue->device;
    struct svq_inflight_report report;
    struct svq_vring guest;

    return !keeps_region(device->link.backend) && !completes_in_order(device) &&
           queue_guest_ring(queue, device->s.map, &guest) &&
           !read_part(witness(queue), queue, &guest, &report) && report.in_flight;
}

bool inflight_needs_relay(const struct svq_queue *queue)
{
    return queue->device->policy != SVQ_SHADOW_OFF && lists_unheard(queue);
}

bool inflight_needs_keeper(const struct svq_device *device)
{
    for_each_queue(device, i, queue)
        if (queue->stranded && device->policy == SVQ_SHADOW_OFF && lists_unheard(queue))
            return true;
    return false;
}

static void forget(const struct inflight_memory *memory, const struct svq_queue *queue)
{
    void *part = part_of(memory, queue);

    if (part)
        memset(part, 0,
               svq_inflight_size(device_guest_format(queue->device), memory->what.queue_size));
}

/* Make the part that the back-end goes by say what is so. */
static void prepare_direct(struct svq_queue *queue, const struct svq_vring *guest,
                           const struct svq_inflight_report *left)
{
    struct svq_device *device = queue->device;
    const struct inflight_memory *given = given_direct(device), *theirs = device->s.inflight.theirs;

    if (left && given == witness(queue))
        return;
    if (left && left->in_flight && !completes_in_order(device))
        device_error(device,
                     "queue %u: %u requests that were in flight are lost: the back-end keeps no "
                     "in-flight region",
                     queue->index, left->in_flight);
    reset_part(given, queue, guest);
    /* Nobody keeps the front-end's meanwhile: zeros say so. */
    if (given != theirs)
        forget(theirs, queue);
}

void inflight_starts(struct svq_queue *queue, bool shadow)
{
    struct svq_device *device = queue->device;
    struct svq_inflight_report report;
    struct svq_vring guest;
    bool decided, ran = device->s.inflight.ran[queue->index];

    if (shadow)
        queue->owing = false;
    if (queue->owing || !queue_guest_ring(queue, device->s.map, &guest))
        return;
    decided = decides(witness(queue), queue, &guest, &report);
    settle_base(queue, &guest);
    if (!shadow)
        prepare_direct(queue, &guest, decided ? &report : NULL);
    else if (ran && !decided)
        reset_part(witness(queue), queue, &guest); /* or the relay would go by it */
}

void inflight_disown(const struct svq_queue *queue, uint32_t base)
{
    const struct svq_device *device = queue->device;
    const struct inflight_memory *given = device->s.inflight.given;
    bool shadow = queue->wire == WIRE_SHADOW;
    enum svq_ring_format format = format_of(device, shadow);
    struct svq_vring guest;
    void *part;

    if (!device->link.has_region || (given == device->s.inflight.scratch) != shadow)
        return;
    part = inflight_memory_part(given, format, queue->index, num_of(queue, shadow));
    if (!part)
        return;
    if (shadow && format == SVQ_RING_SPLIT)
        base = ring_used_index(&queue->place.host);
    else if (format == SVQ_RING_SPLIT && queue_guest_ring(queue, device->s.map, &guest))
        base = ring_used_index(&guest);
    svq_inflight_disown(part, format, given->what.queue_size, base);
}

void inflight_reset(struct svq_device *device)
{
    struct inflight *in = &device->s.inflight;

    for_each_queue(device, i, queue) {
        forget(in->theirs, queue);
        forget(in->ours, queue);
        in->ran[i] = in->left[i] = false;
    }
}

/* ---- What the back-end gets ---------------------------------------------------------------------
 */

static bool covers_queue(const struct inflight_memory *memory, const struct svq_queue *queue,
                         bool shadow)
{
    return inflight_memory_part(memory, format_of(queue->device, shadow), queue->index,
                                num_of(queue, shadow));
}

/* Every ring that has a size? */
static bool covers_all(const struct inflight_memory *memory, const struct svq_device *device,
                       bool shadow)
{
    if (!memory)
        return false;
    for_each_queue(device, i, queue)
        if (queue->num && !covers_queue(memory, queue, shadow))
            return false;
    return true;
}

/*
 * A new region for all rings of the device. Not for more than the back-end counts: libvhost-user
 * believes the number of queues. But some count pairs, and some do not count.
 */
static int make_for_all(const struct svq_device *device, bool shadow, struct inflight_memory **out)
{
    unsigned num_queues = device->s.queue_num < MAX_QUEUES ? device->s.queue_num : MAX_QUEUES;
    unsigned queue_size = USUAL_NUM;

    for_each_queue(device, i, queue) {
        if (num_queues <= i)
            num_queues = i + 1;
        if (queue_size < num_of(queue, shadow))
            queue_size = num_of(queue, shadow);
    }
    return inflight_memory_new(format_of(device, shadow), num_queues ? num_queues : 1, queue_size,
                               out);
}

/* Keep what dead back-ends left in the old region of ours. */
static int carry_over(struct svq_device *device, struct inflight_memory *memory,
                      const struct inflight_memory *old)
{
    bool left = false;

    for_each_queue(device, i, queue)
        left |= left_by_dead(queue);
    if (!left)
        return 0;
    if (memory->what.queue_size != old->what.queue_size ||
        memory->what.mmap_size < old->what.mmap_size) {
        device_error(device, "a ring has grown, but other rings' requests are in flight");
        return -EINVAL;
    }
    memcpy(memory->host, old->host, old->what.mmap_size);
    return 0;
}

static int need_ours(struct svq_device *device)
{
    struct inflight *in = &device->s.inflight;
    struct inflight_memory *memory;
    int err;

    if (covers_all(in->ours, device, false))
        return 0;
    err = make_for_all(device, false, &memory);
    if (err)
        return err;
    err = carry_over(device, memory, in->ours);
    if (err) {
        inflight_memory_free(memory);
        return err;
    }
    inflight_memory_free(in->ours);
    in->ours = memory;
    return 0;
}

/* What is in a part of it, inflight_disown() says before each start of its ring. */
static int need_scratch(struct svq_device *device)
{
    struct inflight_memory *memory;
    int err = make_for_all(device, true, &memory);

    if (err)
        return err;
    inflight_memory_free(device->s.inflight.scratch);
    device->s.inflight.scratch = memory;
    return 0;
}

/* The region that fits the mode. Return: 0, or -errno: there is none. */
static int choose(struct svq_device *device, struct inflight_memory **out)
{
    struct inflight *in = &device->s.inflight;
    int err = 0;

    if (device->s.shadow) {
        err = need_scratch(device);
        *out = in->scratch;
    } else if (covers_all(in->theirs, device, false)) {
        *out = in->theirs;
    } else {
        err = need_ours(device);
        *out = in->ours;
    }
    return err;
}

int inflight_tell(struct svq_device *device)
{
    struct svq_backend *backend = device->link.backend;
    struct inflight_memory *memory;
    int err;

    device->s.inflight.given = NULL;
    device->link.has_region = false;
    if (!keeps_region(backend))
        return 0;
    err = choose(device, &memory);
    if (err)
        return err;
    err = backend->ops->set_inflight(backend, memory->fd, &memory->what);
    if (!err)
        err = backend->ops->flush(backend);
    if (err == -EREMOTEIO) {
        svq_warning(device->id,
                    "back-end refused the in-flight region that it has offered to keep");
        return 0;
    }
    err = device_backend_did(device, err);
    if (err)
        return err;
    device->s.inflight.given = memory;
    device->link.has_region = true;
    return 0;
}

bool inflight_covers(const struct svq_queue *queue)
{
    const struct svq_device *device = queue->device;

    /* None: it does not want one, or has refused it. */
    return !device->link.has_region ||
           covers_queue(device->s.inflight.given, queue, device->s.shadow);
}

/* ---- After a crash ------------------------------------------------------------------------------
 */

/* Without a region: does the ring itself tell? */
static const char *recover_by_ring(struct svq_queue *queue, const struct svq_vring *guest)
{
    uint16_t next;

    if (queue_is_packed(queue))
        return "the back-end keeps no in-flight region for its packed rings";
    next = ring_used_index(guest) + queue->skew;
    /* What it took out of order, it has completed; or it has taken nothing else. */
    if (!device_acked(queue->device, SVQ_F_IN_ORDER) && next != ring_avail_index(guest))
        return "the back-end keeps no in-flight region and completes out of order";
    queue->base = next;
    queue->has_base = true;
    return NULL;
}

/*
 * It went on while it may have been at work on requests of before. Those are not in the region; is
 * all that it can have taken listed there, or complete?
 */
static bool lists_all(const struct svq_queue *queue, const struct svq_vring *guest,
                      const struct svq_inflight_report *report)
{
    return !queue->owing || !queue->handed ||
           (!queue_is_packed(queue) &&
            (uint16_t)(report->base + queue->skew) == ring_avail_index(guest));
}

const char *inflight_recover(struct svq_queue *queue)
{
    const struct inflight_memory *given = given_direct(queue->device);
    struct inflight *in = &queue->device->s.inflight;
    struct svq_inflight_report report;
    struct svq_vring guest;
    int err;

    in->left[queue->index] = false;
    if (!queue_guest_ring(queue, queue->device->s.map, &guest))
        return "its ring is not in guest memory";
    err = read_part(given, queue, &guest, &report);
    if (err && err != -ENOENT)
        return "what the in-flight region says contradicts itself or the ring";
    if (err || !report.tracked)
        return recover_by_ring(queue, &guest);
    if (!lists_all(queue, &guest, &report))
        return "the back-end had been stopped with requests in flight and had gone on";
    if (queue->skew && report.in_flight && !completes_in_order(queue->device))
        return "the front-end had left out requests when it started the ring";
    if (!queue->started && given != in->theirs && report.in_flight &&
        !completes_in_order(queue->device))
        return "the front-end was just stopping its ring, and has no in-flight region";
    queue->base = queue->skew ? (uint16_t)(report.used_base + queue->skew) : report.used_base;
    queue->has_base = true;
    in->left[queue->index] = given == in->ours && !queue->skew;
    return NULL;
}

const char *inflight_unsafe(const struct svq_device *device)
{
    const struct svq_backend *backend = device->link.backend;
    bool shadow = device->s.fd < 0 ? device->policy == SVQ_SHADOW_ON : device->s.shadow;

    for_each_queue(device, i, queue) {
        struct svq_vring guest;

        if (queue->wire != WIRE_DIRECT)
            continue;
        if (!queue_guest_ring(queue, device->s.map, &guest))
            return "a ring is not where svqd can read it";
        if (queue->owing)
            return "the back-end goes on with requests that it had not completed when it was "
                   "stopped";
        if (queue->skew && !completes_in_order(device))
            return "the front-end has left out requests when it started a ring";
    }
    if (shadow || given_direct(device))
        return NULL;
    if (device->link.open && !shadow_device_wired(device) && keeps_region(backend))
        return NULL;
    if (device_guest_format(device) == SVQ_RING_PACKED)
        return "the back-end keeps no in-flight region for its packed rings; shadow=on makes it "
               "crash-safe";
    if (completes_in_order(device))
        return NULL;
    return "the back-end keeps no in-flight region and completes out of order; shadow=on makes it "
           "crash-safe";
}

void inflight_end(struct svq_device *device)
{
    struct inflight *in = &device->s.inflight;

    inflight_memory_free(in->theirs);
    inflight_memory_free(in->ours);
    inflight_memory_free(in->scratch);
    *in = (struct inflight){0};
}
