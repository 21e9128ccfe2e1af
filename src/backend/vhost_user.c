/* SPDX-License-Identifier: BSD-3-Clause */
/* A back-end that speaks vhost-user: we are its front-end. */
#include "backend/dial.h"
#include "backend/talk.h"
#include "base/log.h"
#include "event/fiber.h"
#include "vhost/conn.h"

#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static struct vhost_user *from_backend(struct svq_backend *backend)
{
    return (struct vhost_user *)backend;
}

static void vu_gather(struct svq_backend *backend)
{
    from_backend(backend)->gathering = true;
}

static int vu_push(struct svq_backend *backend)
{
    struct vhost_user *vu = from_backend(backend);

    vu->gathering = false;
    return vu_send_gathered(vu);
}

static int vu_flush(struct svq_backend *backend)
{
    struct vhost_user *vu = from_backend(backend);
    uint64_t ignored;
    int err;

    vu->gathering = false;
    err = vu_take_acks(vu);
    if (err || !vu->unsynced)
        return err;
    return vu_get_u64(vu, SVQ_VU_GET_FEATURES, &ignored);
}

static int vu_queue_u64(struct svq_backend *backend, uint32_t request, uint64_t value)
{
    struct vhost_user *vu = from_backend(backend);

    svq_message_u64(&vu->out, request, value);
    return vu_queue(vu, &vu->out);
}

static int vu_queue_state(struct svq_backend *backend, uint32_t request, unsigned index,
                          uint32_t num)
{
    struct vhost_user *vu = from_backend(backend);

    svq_message_init(&vu->out, request);
    vu->out.payload.state = (struct svq_vu_vring_state){.index = index, .num = num};
    vu->out.header.size = sizeof(vu->out.payload.state);
    return vu_queue(vu, &vu->out);
}

/* ---- Connection
 * ------------------------------------------------------------------------------------- */

static void vu_close(struct svq_backend *backend)
{
    struct vhost_user *vu = from_backend(backend);

    if (vu->fd >= 0)
        close(vu->fd);
    vu->fd = -1;
    vu->gathering = false;
    vu->gathered = 0;
    vu->pending = 0;
    vu->have = 0;
    vu->unsynced = false;
    backend->features = 0;
    backend->protocol_features = 0;
    backend->protocol_acked = 0;
}

static int vu_open(struct svq_backend *backend)
{
    struct vhost_user *vu = from_backend(backend);
    int fd = svq_dial_open(vu->dial);
    int err;

    if (fd < 0)
        return fd;
    vu->fd = fd;
    vu->opening = true;
    /* Those of its predecessor were kept while it was away. */
    backend->protocol_features = backend->protocol_acked = 0;
    err = vu_get_u64(vu, SVQ_VU_GET_FEATURES, &backend->features);
    if (!err && backend->features & SVQ_BIT(SVQ_F_PROTOCOL_FEATURES))
        err = vu_get_u64(vu, SVQ_VU_GET_PROTOCOL_FEATURES, &backend->protocol_features);
    vu->opening = false;
    if (err)
        vu_close(backend);
    /* It was in the middle of ending, or of starting again. */
    return vu_has_left(err) ? -EAGAIN : err;
}

static void vu_free(struct svq_backend *backend)
{
    struct vhost_user *vu = from_backend(backend);

    vu_close(backend);
    svq_dial_unref(vu->dial);
    free(vu);
}

static int vu_fd(const struct svq_backend *backend)
{
    return ((const struct vhost_user *)backend)->fd;
}

static int vu_wait_fd(const struct svq_backend *backend)
{
    return svq_dial_wait_fd(((const struct vhost_user *)backend)->dial);
}

/* A new connection's worth of it. Takes over the caller's reference to the dial. */
static int vu_new(struct svq_dial *dial, struct svq_backend **out);

static int vu_another(struct svq_backend *backend, struct svq_backend **out)
{
    int err = vu_new(svq_dial_ref(from_backend(backend)->dial), out);

    if (err)
        return err;
    (*out)->tag = backend->tag;
    (*out)->message_timeout = backend->message_timeout;
    (*out)->drain_timeout = backend->drain_timeout;
    return 0;
}

/* ---- Device
 * ------------------------------------------------------------------------------------------ */

static int vu_set_owner(struct svq_backend *backend)
{
    struct vhost_user *vu = from_backend(backend);

    svq_message_init(&vu->out, SVQ_VU_SET_OWNER);
    return vu_queue(vu, &vu->out);
}

static int vu_reset(struct svq_backend *backend, uint32_t request)
{
    struct vhost_user *vu = from_backend(backend);

    svq_message_init(&vu->out, request);
    return vu_queue(vu, &vu->out);
}

static int vu_set_protocol_features(struct svq_backend *backend, uint64_t features)
{
    struct vhost_user *vu = from_backend(backend);
    int err;

    /* No ack: whether acks exist is just being decided. */
    err = vu_take_acks(vu);
    if (err)
        return err;
    svq_message_u64(&vu->out, SVQ_VU_SET_PROTOCOL_FEATURES, features);
    err = vu_send(vu, &vu->out);
    backend->protocol_acked = features;
    return err;
}

static int vu_set_features(struct svq_backend *backend, uint64_t features)
{
    return vu_queue_u64(backend, SVQ_VU_SET_FEATURES, features);
}

static int vu_get_queue_num(struct svq_backend *backend, uint64_t *num)
{
    return vu_get_u64(from_backend(backend), SVQ_VU_GET_QUEUE_NUM, num);
}

static int vu_get_max_mem_slots(struct svq_backend *backend, uint64_t *slots)
{
    return vu_get_u64(from_backend(backend), SVQ_VU_GET_MAX_MEM_SLOTS, slots);
}

static struct svq_vu_region wire_region(const struct svq_region *r)
{
    return (struct svq_vu_region){
        .guest_addr = r->gpa,
        .size = r->size,
        .user_addr = r->uaddr,
        .mmap_offset = r->offset,
    };
}

static int vu_set_mem_table(struct svq_backend *backend, const struct svq_region *regions,
                            unsigned count)
{
    struct vhost_user *vu = from_backend(backend);
    struct svq_vu_message *msg = &vu->out;

    svq_message_init(msg, SVQ_VU_SET_MEM_TABLE);
    msg->payload.table.count = count;
    msg->payload.table.padding = 0;
    for (unsigned i = 0; i < count; i++) {
        msg->payload.table.regions[i] = wire_region(&regions[i]);
        msg->fds[i] = regions[i].fd;
    }
    msg->fd_count = count;
    msg->header.size =
        offsetof(struct svq_vu_mem_table, regions) + count * sizeof(struct svq_vu_region);
    return vu_queue(vu, msg);
}

static int vu_one_region(struct svq_backend *backend, uint32_t request,
                         const struct svq_region *region, bool with_fd)
{
    struct vhost_user *vu = from_backend(backend);
    struct svq_vu_message *msg = &vu->out;

    svq_message_init(msg, request);
    msg->payload.region = (struct svq_vu_single_region){.region = wire_region(region)};
    msg->header.size = sizeof(msg->payload.region);
    if (with_fd) {
        msg->fds[0] = region->fd;
        msg->fd_count = 1;
    }
    return vu_queue(vu, msg);
}

static int vu_add_region(struct svq_backend *backend, const struct svq_region *region)
{
    return vu_one_region(backend, SVQ_VU_ADD_MEM_REG, region, true);
}

static int vu_remove_region(struct svq_backend *backend, const struct svq_region *region)
{
    return vu_one_region(backend, SVQ_VU_REM_MEM_REG, region, false);
}

static int vu_set_log(struct svq_backend *backend, int fd, uint64_t size, uint64_t offset)
{
    struct vhost_user *vu = from_backend(backend);
    struct svq_vu_message *msg = &vu->out;
    int err;

    svq_message_init(msg, SVQ_VU_SET_LOG_BASE);
    msg->payload.log = (struct svq_vu_log){.size = size, .offset = offset};
    msg->header.size = sizeof(msg->payload.log);
    msg->fds[0] = fd;
    msg->fd_count = 1;
    err = vu_ask(vu, msg);
    if (err)
        return err;
    /* Back-ends answer with anything: nothing (DPDK), the request's size (libvhost-user) or all of
     * it. */
    svq_message_close_fds(&vu->in);
    return 0;
}

static int vu_set_inflight(struct svq_backend *backend, int fd, const struct svq_vu_inflight *what)
{
    struct vhost_user *vu = from_backend(backend);
    struct svq_vu_message *msg = &vu->out;

    svq_message_init(msg, SVQ_VU_SET_INFLIGHT_FD);
    msg->payload.inflight = *what;
    msg->header.size = sizeof(msg->payload.inflight);
    msg->fds[0] = fd;
    msg->fd_count = 1;
    return vu_queue(vu, msg);
}

/* ---- Rings
 * ------------------------------------------------------------------------------------------- */

static int vu_set_vring_num(struct svq_backend *backend, unsigned index, unsigned num)
{
    return vu_queue_state(backend, SVQ_VU_SET_VRING_NUM, index, num);
}

static int vu_set_vring_addr(struct svq_backend *backend, const struct svq_vu_vring_addr *addr)
{
    struct vhost_user *vu = from_backend(backend);

    svq_message_init(&vu->out, SVQ_VU_SET_VRING_ADDR);
    vu->out.payload.addr = *addr;
    vu->out.header.size = sizeof(*addr);
    return vu_queue(vu, &vu->out);
}

static int vu_set_vring_base(struct svq_backend *backend, unsigned index, uint32_t base)
{
    return vu_queue_state(backend, SVQ_VU_SET_VRING_BASE, index, base);
}

static int vu_set_vring_fd(struct svq_backend *backend, uint32_t request, unsigned index, int fd)
{
    struct vhost_user *vu = from_backend(backend);

    svq_message_u64(&vu->out, request, index | (fd < 0 ? SVQ_VU_VRING_NOFD : 0));
    if (fd >= 0) {
        vu->out.fds[0] = fd;
        vu->out.fd_count = 1;
    }
    return vu_queue(vu, &vu->out);
}

/*
 * libvhost-user forgets the call fd when it answers GET_VRING_BASE, and gives up the connection
 * when a request that was in flight then wants to notify. So a call fd follows right behind, before
 * the back-end can get round to completing anything; its ack comes after the answer.
 */
static int vu_stop_vring(struct vhost_user *vu, const struct svq_vring_stop *stop)
{
    int err;

    svq_message_init(&vu->out, SVQ_VU_GET_VRING_BASE);
    vu->out.payload.state = (struct svq_vu_vring_state){.index = stop->index};
    vu->out.header.size = sizeof(vu->out.payload.state);
    vu_expect_base(vu);
    err = vu_send(vu, &vu->out);
    if (err || stop->call < 0)
        return err;
    svq_message_u64(&vu->out, SVQ_VU_SET_VRING_CALL, stop->index);
    vu->out.fds[0] = stop->call;
    vu->out.fd_count = 1;
    vu_expect_ack(vu, &vu->out);
    return vu_send(vu, &vu->out);
}

static int vu_stop_vrings(struct vhost_user *vu, struct svq_vring_stop *stops, unsigned count)
{
    bool before = vu->gathering;
    int err = 0;

    vu->stop = stops;
    vu->gathering = true;
    for (unsigned i = 0; i < count && !err; i++)
        err = vu_stop_vring(vu, &stops[i]);
    vu->gathering = before;
    if (!err)
        err = vu_take_acks(vu);
    /* The rings have stopped in any case: that one will not have its call fd is no failure. */
    return err == -EREMOTEIO ? 0 : err;
}

static int vu_get_vring_bases(struct svq_backend *backend, struct svq_vring_stop *stops,
                              unsigned count)
{
    const unsigned together = VU_MAX_PENDING / 2; /* each with a call fd */
    struct vhost_user *vu = from_backend(backend);
    int err = vu_take_acks(vu);

    for (unsigned i = 0; i < count && !err; i += together)
        err = vu_stop_vrings(vu, &stops[i], count - i < together ? count - i : together);
    return err;
}

static int vu_set_vring_enable(struct svq_backend *backend, unsigned index, bool enable)
{
    return vu_queue_state(backend, SVQ_VU_SET_VRING_ENABLE, index, enable);
}

/* ---- Everything else
 * --------------------------------------------------------------------------------- */

static int vu_forward(struct svq_backend *backend, const struct svq_vu_message *request,
                      struct svq_vu_message *reply)
{
    struct vhost_user *vu = from_backend(backend);
    int err;

    vu->out = *request;
    vu->out.header.flags = SVQ_VU_VERSION;
    /* What a front-end sends beyond that is nobody's. */
    vu->out.fd_count = svq_vu_fds_expected(SVQ_VU_TO_BACKEND, request);
    if (svq_vu_rule(SVQ_VU_TO_BACKEND, request->header.request)->reply != SVQ_VU_REPLY_TYPED) {
        err = vu_queue(vu, &vu->out);
        return err ? err : vu_flush(backend);
    }
    err = vu_ask(vu, &vu->out);
    if (!err)
        *reply = vu->in;
    return err;
}

static const struct svq_backend_ops vhost_user_ops = {
    .open = vu_open,
    .close = vu_close,
    .free = vu_free,
    .fd = vu_fd,
    .wait_fd = vu_wait_fd,
    .another = vu_another,
    .gather = vu_gather,
    .push = vu_push,
    .flush = vu_flush,
    .set_owner = vu_set_owner,
    .reset = vu_reset,
    .set_protocol_features = vu_set_protocol_features,
    .set_features = vu_set_features,
    .get_queue_num = vu_get_queue_num,
    .get_max_mem_slots = vu_get_max_mem_slots,
    .set_mem_table = vu_set_mem_table,
    .add_region = vu_add_region,
    .remove_region = vu_remove_region,
    .set_log = vu_set_log,
    .set_inflight = vu_set_inflight,
    .set_vring_num = vu_set_vring_num,
    .set_vring_addr = vu_set_vring_addr,
    .set_vring_base = vu_set_vring_base,
    .get_vring_bases = vu_get_vring_bases,
    .set_vring_fd = vu_set_vring_fd,
    .set_vring_enable = vu_set_vring_enable,
    .forward = vu_forward,
};

static int vu_new(struct svq_dial *dial, struct svq_backend **out)
{
    struct vhost_user *vu = calloc(1, sizeof(*vu));

    if (!vu) {
        svq_dial_unref(dial);
        return -ENOMEM;
    }
    vu->backend.ops = &vhost_user_ops;
    vu->dial = dial;
    vu->fd = -1;
    *out = &vu->backend;
    return 0;
}

int svq_backend_vhost_user_new(const char *where, struct svq_backend **out)
{
    struct svq_dial *dial;
    int err = svq_dial_new(where, &dial);

    return err ? err : vu_new(dial, out);
}
