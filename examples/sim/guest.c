/* SPDX-License-Identifier: BSD-3-Clause */
#include "guest.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#include "common/wire.h"

static const uint64_t required = SVQ_BIT(SVQ_F_VERSION_1) | SVQ_BIT(SVQ_F_PROTOCOL_FEATURES);
/* What rings look like does not change when a device offers less. */
static const uint64_t ring_features = SVQ_BIT(SVQ_F_EVENT_IDX) | SVQ_BIT(SVQ_F_RING_PACKED);
static const uint64_t protocol_known =
    SVQ_BIT(SVQ_VU_PROTOCOL_F_MQ) | SVQ_BIT(SVQ_VU_PROTOCOL_F_LOG_SHMFD) |
    SVQ_BIT(SVQ_VU_PROTOCOL_F_REPLY_ACK) | SVQ_BIT(SVQ_VU_PROTOCOL_F_CONFIG) |
    SVQ_BIT(SVQ_VU_PROTOCOL_F_INFLIGHT_SHMFD);

/* ---- Making a guest ---------------------------------------------------------------------- */

static void close_queue_fds(struct sim_guest_queue *queue)
{
    const int fds[] = {queue->kick, queue->call, queue->err};

    for (unsigned i = 0; i < 3; i++) {
        if (fds[i] >= 0)
            close(fds[i]);
    }
    queue->kick = queue->call = queue->err = -1;
}

static int open_queue_fds(struct sim_guest_queue *queue, bool polls)
{
    queue->kick = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    if (polls)
        return queue->kick < 0 ? -errno : 0;
    queue->call = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    queue->err = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    return queue->kick < 0 || queue->call < 0 || queue->err < 0 ? -errno : 0;
}

int sim_guest_new(const struct sim_guest_config *config, struct sim_memory *mem,
                  struct sim_guest **out)
{
    struct sim_vring_config ring = {
        .num = config->queue_size,
        .event_idx = config->features & SVQ_BIT(SVQ_F_EVENT_IDX),
        .packed = config->features & SVQ_BIT(SVQ_F_RING_PACKED),
    };
    struct sim_guest *guest = calloc(1, sizeof(*guest));
    int ret = 0;

    if (!guest)
        return -ENOMEM;
    guest->config = *config;
    guest->mem = mem;
    guest->session.sock = -1;
    guest->inflight.fd = -1;
    guest->session.ack_all = config->ack_all;
    if (config->queues && config->queues <= SIM_GUEST_MAX_QUEUES)
        guest->queues = calloc(config->queues, sizeof(*guest->queues));
    if (!guest->queues) {
        free(guest);
        return -EINVAL;
    }
    for (unsigned i = 0; i < config->queues; i++)
        guest->queues[i].kick = guest->queues[i].call = guest->queues[i].err = -1;
    for (unsigned i = 0; i < config->queues && !ret; i++) {
        ring.layout = i % 2 ? SIM_VRING_TOGETHER : SIM_VRING_APART;
        ret = open_queue_fds(&guest->queues[i], config->polls);
        if (!ret)
            ret = sim_vring_new(mem, &ring, &guest->queues[i].ring);
        if (!ret)
            guest->queues[i].base = sim_vring_first_base(guest->queues[i].ring);
    }
    if (ret) {
        sim_guest_free(guest);
        return ret;
    }
    *out = guest;
    return 0;
}

void sim_guest_free(struct sim_guest *guest)
{
    if (!guest)
        return;
    sim_guest_disconnect(guest);
    sim_guest_forget_inflight(guest);
    for (unsigned i = 0; i < guest->config.queues; i++) {
        close_queue_fds(&guest->queues[i]);
        sim_vring_free(guest->queues[i].ring);
    }
    free(guest->queues);
    free(guest);
}

int sim_guest_move(struct sim_guest *guest, struct sim_memory *mem)
{
    if (guest->session.sock >= 0)
        return sim_session_fail(&guest->session, -EBUSY,
                                "a guest moves while its device is disconnected");
    guest->mem = mem;
    sim_guest_forget_inflight(guest);
    for (unsigned i = 0; i < guest->config.queues; i++) {
        struct sim_guest_queue *queue = &guest->queues[i];

        /* Another VMM, other eventfds: nothing pending in the old ones comes along. */
        close_queue_fds(queue);
        if (open_queue_fds(queue, guest->config.polls))
            return sim_session_fail(&guest->session, -errno, "eventfd: %s", strerror(errno));
        sim_vring_attach(queue->ring, mem);
    }
    return 0;
}

/* ---- Connection -------------------------------------------------------------------------- */

static int negotiate_protocol(struct sim_guest *guest)
{
    uint64_t wanted = protocol_known;
    uint64_t offered;
    uint64_t queues = 1;
    int ret;

    if (guest->config.mem_slots)
        wanted |= SVQ_BIT(SVQ_VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS);
    if (guest->config.no_inflight)
        wanted &= ~SVQ_BIT(SVQ_VU_PROTOCOL_F_INFLIGHT_SHMFD);
    ret = sim_session_ask_u64(&guest->session, SVQ_VU_GET_PROTOCOL_FEATURES, &offered);
    if (!ret)
        ret = sim_session_tell_u64(&guest->session, SVQ_VU_SET_PROTOCOL_FEATURES, offered & wanted,
                                   false);
    if (ret)
        return ret;
    guest->session.protocol = offered & wanted;
    if (sim_session_has(&guest->session, SVQ_VU_PROTOCOL_F_MQ))
        ret = sim_session_ask_u64(&guest->session, SVQ_VU_GET_QUEUE_NUM, &queues);
    if (ret)
        return ret;
    guest->device_queues = (unsigned)queues;
    if (queues < guest->config.queues)
        return sim_session_fail(&guest->session, -ENODEV, "the device has %u queues, %u are needed",
                                guest->device_queues, guest->config.queues);
    if (sim_session_has(&guest->session, SVQ_VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS)) {
        uint64_t slots;

        ret = sim_session_ask_u64(&guest->session, SVQ_VU_GET_MAX_MEM_SLOTS, &slots);
        if (!ret && slots < guest->mem->count)
            ret =
                sim_session_fail(&guest->session, -ENOSPC,
                                 "the device has room for %u memory regions only", (unsigned)slots);
    }
    return ret;
}

static int negotiate(struct sim_guest *guest)
{
    struct svq_vu_message owner = SIM_REQUEST(SET_OWNER);
    int ret = sim_session_ask_u64(&guest->session, SVQ_VU_GET_FEATURES, &guest->offered);

    if (ret)
        return ret;
    if ((guest->offered & required) != required)
        return sim_session_fail(&guest->session, -ENOTSUP,
                                "the device is no modern one: its features are 0x%llx",
                                (unsigned long long)guest->offered);
    ret = negotiate_protocol(guest);
    if (!ret)
        ret = sim_session_tell(&guest->session, &owner, false);
    if (!ret)
        ret = sim_session_ask_u64(&guest->session, SVQ_VU_GET_FEATURES, &guest->offered);
    if (ret)
        return ret;
    guest->features = guest->offered & (guest->config.features | required);
    if (guest->config.features & ring_features & ~guest->features)
        return sim_session_fail(&guest->session, -ENOTSUP,
                                "the device lacks EVENT_IDX or RING_PACKED, which this guest uses");
    for (unsigned i = 0; i < guest->config.queues && !ret; i++) {
        ret = sim_session_tell_vring_fd(&guest->session, SVQ_VU_SET_VRING_CALL, i,
                                        guest->queues[i].call);
        if (!ret && !guest->config.polls)
            ret = sim_session_tell_vring_fd(&guest->session, SVQ_VU_SET_VRING_ERR, i,
                                            guest->queues[i].err);
    }
    return ret;
}

int sim_guest_connect(struct sim_guest *guest, const char *path, int wait_ms)
{
    int timeout = guest->config.timeout_ms ? guest->config.timeout_ms : 20000;
    int sock = wire_connect(path, wait_ms);
    int ret;

    if (sock < 0)
        return sim_session_fail(&guest->session, sock, "connecting to %s: %s", path,
                                strerror(-sock));
    guest->session.sock = sock;
    guest->session.protocol = 0;
    guest->regions_added = false;
    ret = wire_set_timeout(sock, timeout);
    if (!ret)
        ret = negotiate(guest);
    if (ret)
        sim_guest_disconnect(guest);
    return ret;
}

void sim_guest_disconnect(struct sim_guest *guest)
{
    if (guest->session.sock >= 0)
        close(guest->session.sock);
    guest->session.sock = -1;
    sim_bitmap_free(guest->log);
    guest->log = NULL;
}

int sim_guest_read_config(struct sim_guest *guest, uint32_t offset, void *data, uint32_t len)
{
    struct svq_vu_message msg = SIM_REQUEST(GET_CONFIG);
    uint32_t size = SVQ_VU_CONFIG_HEADER + len;
    int ret;

    if (!sim_session_has(&guest->session, SVQ_VU_PROTOCOL_F_CONFIG))
        return sim_session_fail(&guest->session, -ENOTSUP,
                                "the device does not show its configuration");
    if (len > SVQ_VU_MAX_CONFIG)
        return sim_session_fail(&guest->session, -EINVAL,
                                "a configuration space ends after %u bytes", SVQ_VU_MAX_CONFIG);
    msg.header.size = size;
    msg.payload.config.offset = offset;
    msg.payload.config.size = len;
    ret = sim_session_ask(&guest->session, &msg, size);
    if (ret)
        return ret;
    if (msg.payload.config.offset != offset || msg.payload.config.size != len)
        return sim_session_fail(&guest->session, -EPROTO,
                                "answer to GET_CONFIG: other offset or size than asked");
    memcpy(data, msg.payload.config.data, len);
    return 0;
}

/* ---- Start and stop ---------------------------------------------------------------------- */

static struct svq_vu_region describe(const struct sim_region *region)
{
    return (struct svq_vu_region){.guest_addr = region->gpa,
                                  .size = region->size,
                                  .user_addr = (uintptr_t)region->ptr,
                                  .mmap_offset = region->offset};
}

static int add_regions(struct sim_guest *guest)
{
    for (unsigned i = 0; i < guest->mem->count && !guest->regions_added; i++) {
        struct svq_vu_message msg = SIM_REQUEST(ADD_MEM_REG);
        int ret;

        msg.header.size = sizeof(msg.payload.region);
        msg.payload.region.region = describe(&guest->mem->regions[i]);
        msg.fds[0] = guest->mem->fd;
        msg.fd_count = 1;
        ret = sim_session_tell(&guest->session, &msg, true);
        if (ret)
            return ret;
    }
    guest->regions_added = true;
    return 0;
}

static int set_memory(struct sim_guest *guest)
{
    struct svq_vu_message msg = SIM_REQUEST(SET_MEM_TABLE);
    unsigned count = guest->mem->count;

    if (sim_session_has(&guest->session, SVQ_VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS))
        return add_regions(guest);
    msg.header.size = (uint32_t)(8 + count * sizeof(msg.payload.table.regions[0]));
    msg.payload.table.count = count;
    for (unsigned i = 0; i < count; i++) {
        msg.payload.table.regions[i] = describe(&guest->mem->regions[i]);
        msg.fds[i] = guest->mem->fd;
    }
    msg.fd_count = count;
    return sim_session_tell(&guest->session, &msg, true);
}

static uint64_t uaddr(const struct sim_guest *guest, uint64_t gpa)
{
    return (uintptr_t)sim_memory_ptr(guest->mem, gpa, 1);
}

int sim_guest_set_addresses(struct sim_guest *guest, unsigned index, bool log)
{
    const struct sim_vring *ring = guest->queues[index].ring;
    struct svq_vu_message msg = SIM_REQUEST(SET_VRING_ADDR);

    msg.header.size = sizeof(msg.payload.addr);
    msg.payload.addr = (struct svq_vu_vring_addr){.index = index,
                                                  .flags = log ? SVQ_VU_VRING_F_LOG : 0,
                                                  .desc = uaddr(guest, ring->desc_gpa),
                                                  .avail = uaddr(guest, ring->avail_gpa),
                                                  .used = uaddr(guest, ring->used_gpa),
                                                  .log = ring->used_gpa};
    return sim_session_tell(&guest->session, &msg, log);
}

static int start_queue(struct sim_guest *guest, unsigned index)
{
    struct sim_guest_queue *queue = &guest->queues[index];
    int ret = sim_session_tell_vring(&guest->session, SVQ_VU_SET_VRING_NUM, index, queue->ring->num,
                                     false);

    if (!ret)
        ret = sim_session_tell_vring(&guest->session, SVQ_VU_SET_VRING_BASE, index, queue->base,
                                     false);
    if (!ret)
        ret = sim_guest_set_addresses(guest, index, guest->log);
    if (!ret)
        ret = sim_session_tell_vring_fd(&guest->session, SVQ_VU_SET_VRING_KICK, index, queue->kick);
    if (!ret)
        ret = sim_session_tell_vring_fd(&guest->session, SVQ_VU_SET_VRING_CALL, index, queue->call);
    return ret;
}

int sim_guest_start(struct sim_guest *guest)
{
    uint64_t log = guest->log ? SVQ_BIT(SVQ_F_LOG_ALL) : 0;
    int ret =
        sim_session_tell_u64(&guest->session, SVQ_VU_SET_FEATURES, guest->features | log, false);

    if (!ret)
        ret = sim_guest_hand_inflight(guest);
    if (!ret)
        ret = set_memory(guest);
    for (unsigned i = 0; i < guest->config.queues && !ret; i++)
        ret = start_queue(guest, i);
    if (!ret)
        ret = sim_guest_tell_log(guest);
    /* Not to return before the device has heard it all: as newer QEMUs do. */
    for (unsigned i = 0; i < guest->config.queues && !ret; i++)
        ret = sim_session_tell_vring(&guest->session, SVQ_VU_SET_VRING_ENABLE, i, 1, true);
    /* A ring starts with its first kick, and there may be requests from before a stop in it. */
    for (unsigned i = 0; i < guest->config.queues && !ret; i++)
        eventfd_write(guest->queues[i].kick, 1);
    return ret;
}

int sim_guest_reconnect(struct sim_guest *guest, const char *path, int wait_ms)
{
    struct sim_bitmap *log = guest->log;
    int ret;

    if (guest->inflight.fd < 0)
        return sim_session_fail(&guest->session, -ENODATA,
                                "the device kept no in-flight region: nobody can go on");
    guest->log = NULL;
    sim_guest_disconnect(guest);
    for (unsigned i = 0; i < guest->config.queues; i++) {
        struct sim_guest_queue *queue = &guest->queues[i];

        /*
         * Nobody asked the device where it was. QEMU takes a split ring's used index then; a packed
         * ring's place it does not know, and what it has is out of date. The region counts.
         */
        if (!queue->ring->is_packed)
            queue->base = sim_vring_device_idx(queue->ring);
    }
    ret = sim_guest_connect(guest, path, wait_ms);
    guest->log = log;
    return ret ? ret : sim_guest_start(guest);
}

/* Does the base fit the ring? What its device completed last may take until the time is over. */
static const char *settle(const struct sim_guest *guest, const struct sim_vring *ring,
                          uint32_t base)
{
    const struct timespec pause = {.tv_nsec = 1000 * 1000};
    const char *wrong = sim_vring_check_base(ring, base);

    for (int waited = 0; wrong && waited < guest->config.settle_ms; waited++) {
        nanosleep(&pause, NULL);
        wrong = sim_vring_check_base(ring, base);
    }
    return wrong;
}

/* GET_VRING_BASE, and with settle_ms at once SET_VRING_CALL. */
static int get_base(struct sim_guest *guest, unsigned index, uint32_t *base)
{
    struct svq_vu_message msg = SIM_REQUEST(GET_VRING_BASE);
    struct svq_vu_message call = SIM_REQUEST(SET_VRING_CALL);
    int ret;

    msg.header.size = sizeof(msg.payload.state);
    msg.payload.state.index = index;
    call.header.size = sizeof(call.payload.u64);
    call.payload.u64 = index;
    call.fds[0] = guest->queues[index].call;
    call.fd_count = 1;
    ret = sim_session_send(&guest->session, &msg);
    if (!ret && guest->config.settle_ms)
        ret = sim_session_send(&guest->session, &call);
    if (!ret)
        ret = sim_session_receive(&guest->session, &msg);
    if (ret)
        return ret;
    if (msg.header.size != sizeof(msg.payload.state))
        return sim_session_fail(&guest->session, -EPROTO, "answer to GET_VRING_BASE: %u bytes",
                                msg.header.size);
    *base = msg.payload.state.num;
    if (msg.payload.state.index != index)
        return sim_session_fail(&guest->session, -EPROTO,
                                "answer to GET_VRING_BASE of queue %u: queue %u", index,
                                msg.payload.state.index);
    return 0;
}

static int stop_queue(struct sim_guest *guest, unsigned index)
{
    struct sim_guest_queue *queue = &guest->queues[index];
    const struct sim_vring *ring = queue->ring;
    const char *wrong;
    uint32_t base;
    int ret = get_base(guest, index, &base);

    if (ret)
        return ret;
    queue->base = base;
    wrong = settle(guest, ring, base);
    if (wrong)
        return sim_session_fail(&guest->session, -EPROTO,
                                "queue %u stopped at 0x%x %s (published %u, used %u)", index, base,
                                wrong, ring->published_idx, sim_vring_device_idx(ring));
    return 0;
}

int sim_guest_stop(struct sim_guest *guest)
{
    int ret = 0;

    for (unsigned i = 0; i < guest->config.queues && !ret; i++)
        ret = sim_session_tell_vring(&guest->session, SVQ_VU_SET_VRING_ENABLE, i, 0, true);
    for (unsigned i = 0; i < guest->config.queues && !ret; i++)
        ret = stop_queue(guest, i);
    return ret;
}

bool sim_guest_queue_error(const struct sim_guest *guest, unsigned index)
{
    struct pollfd pfd = {.fd = guest->queues[index].err, .events = POLLIN};

    return poll(&pfd, 1, 0) == 1;
}
