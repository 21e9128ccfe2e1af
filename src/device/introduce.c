/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What a back-end must be told that takes another one's place: everything that the front-end has
 * said so far, in the order in which front-ends say it, less the rings. Before that: could it take
 * that place? The guest has read features and configuration of its predecessor and goes on by them.
 *
 * Nothing here counts as the loss of the back-end: the caller knows what its failure means.
 */
#include "device/internal.h"
#include "base/feature_name.h"

#include <stdio.h>
#include <string.h>

#define P(name) SVQ_BIT(SVQ_VU_PROTOCOL_F_##name)

/* Protocol features that svqd brings itself, or can do without. */
#define PROTOCOL_DISPENSABLE \
    (P(REPLY_ACK) | P(LOG_SHMFD) | P(INFLIGHT_SHMFD) | P(MQ) | P(BACKEND_SEND_FD))

/* VIRTIO_CONFIG_S_DRIVER_OK: the device may work from then on. */
#define DRIVER_OK UINT64_C(4)

struct newcomer {
    struct svq_device *device;
    struct svq_backend *backend;
    char *text; /* why it does not fit */
    size_t size;
};

/* ---- Does it fit? -------------------------------------------------------------------------------
 */

static bool lacks_features(const struct newcomer *n)
{
    uint64_t missing = n->device->s.features_served & ~n->backend->features;
    char *text = n->text, *end = n->text + n->size;
    const char *between = "it lacks features that are in use: ";

    for (unsigned bit = 0; bit < 64; bit++) {
        if (!(missing & SVQ_BIT(bit)) || text >= end)
            continue;
        text += snprintf(text, end - text, "%s%s", between, svq_feature_name(bit));
        between = ", ";
    }
    return missing;
}

static bool lacks_protocol(const struct newcomer *n)
{
    const struct session *s = &n->device->s;
    uint64_t needed = s->protocol_served & s->protocol_acked & ~PROTOCOL_DISPENSABLE;
    uint64_t missing;

    if (s->logging && s->log_backend)
        needed |= P(LOG_SHMFD);
    missing = needed & ~n->backend->protocol_features;
    if (missing)
        snprintf(n->text, n->size, "it lacks protocol features that are in use: 0x%llx",
                 (unsigned long long)missing);
    return missing;
}

/* Rings that the front-end uses, as the back-end may count them: one by one or in pairs. */
static bool lacks_queues(const struct newcomer *n)
{
    uint64_t had = n->device->s.queue_num, num = 0;

    if (!had || !(n->backend->protocol_acked & P(MQ)))
        return false;
    if (n->backend->ops->get_queue_num(n->backend, &num) || num >= had)
        return false; /* that it cannot be asked will show soon enough */
    snprintf(n->text, n->size, "it has %llu queues, and %llu are in use", (unsigned long long)num,
             (unsigned long long)had);
    return true;
}

static bool lacks_region(const struct newcomer *n)
{
    if (!inflight_needs_keeper(n->device))
        return false;
    snprintf(n->text, n->size,
             "it keeps no in-flight region, and with shadow=off nobody else can do again what was "
             "in flight");
    return true;
}

/* ---- Configuration space ------------------------------------------------------------------------
 */

static void config_message(struct svq_vu_message *msg, uint32_t request, unsigned offset,
                           unsigned size)
{
    svq_message_init(msg, request);
    msg->payload.config = (struct svq_vu_config){.offset = offset, .size = size};
    msg->header.size = offsetof(struct svq_vu_config, data) + size;
}

/* The next run of bytes of that mark from *offset on. Return: its length; 0: none. */
static unsigned next_run(const struct session *s, uint8_t mark, unsigned *offset)
{
    unsigned end;

    while (*offset < SVQ_VU_MAX_CONFIG && !(s->config_known[*offset] & mark))
        ++*offset;
    for (end = *offset; end < SVQ_VU_MAX_CONFIG && s->config_known[end] & mark;)
        end++;
    return end - *offset;
}

/* What the guest has read must still be so; what the front-end has written is about to be. */
static bool config_run_differs(const struct newcomer *n, unsigned offset, unsigned size)
{
    const struct session *s = &n->device->s;
    struct svq_vu_message msg, answer = {.header.size = 0};
    bool differs = false;

    config_message(&msg, SVQ_VU_GET_CONFIG, offset, size);
    if (n->backend->ops->forward(n->backend, &msg, &answer) ||
        answer.header.size != msg.header.size)
        return false; /* some back-ends have none to show; nor had their predecessor */
    for (unsigned i = 0; i < size && !differs; i++)
        differs = !(s->config_known[offset + i] & CONFIG_WRITTEN) &&
                  answer.payload.config.data[i] != s->config[offset + i];
    svq_message_close_fds(&answer);
    if (differs)
        snprintf(n->text, n->size,
                 "its configuration space differs from what the guest has read (bytes %u to %u): "
                 "another size or kind of device?",
                 offset, offset + size - 1);
    return differs;
}

static bool config_differs(const struct newcomer *n)
{
    unsigned offset = 0, size;

    if (!(n->backend->protocol_acked & P(CONFIG)))
        return false;
    while ((size = next_run(&n->device->s, CONFIG_READ, &offset))) {
        if (config_run_differs(n, offset, size))
            return true;
        offset += size;
    }
    return false;
}

static int write_config(const struct newcomer *n)
{
    const struct session *s = &n->device->s;
    unsigned offset = 0, size;
    int err = 0;

    if (!(n->backend->protocol_acked & P(CONFIG)))
        return 0;
    while (!err && (size = next_run(s, CONFIG_WRITTEN, &offset))) {
        struct svq_vu_message msg, reply;

        config_message(&msg, SVQ_VU_SET_CONFIG, offset, size);
        memcpy(msg.payload.config.data, s->config + offset, size);
        err = n->backend->ops->forward(n->backend, &msg, &reply);
        offset += size;
    }
    return err;
}

/* ---- What it is told ----------------------------------------------------------------------------
 */

static int forward_u64(struct svq_backend *backend, uint32_t request, uint64_t value)
{
    struct svq_vu_message msg, reply;

    svq_message_u64(&msg, request, value);
    return backend->ops->forward(backend, &msg, &reply);
}

static int tell_protocol(const struct newcomer *n)
{
    const struct session *s = &n->device->s;
    uint64_t served = s->protocol_served & n->backend->protocol_features;

    if (!(n->backend->features & SVQ_BIT(SVQ_F_PROTOCOL_FEATURES)) || !s->protocol_served)
        return 0;
    return n->backend->ops->set_protocol_features(n->backend, served);
}

static int tell_log(const struct newcomer *n)
{
    const struct session *s = &n->device->s;

    if (s->log_fd < 0 || !(n->backend->protocol_acked & P(LOG_SHMFD)) ||
        !dirty_backend_logs(n->device))
        return 0;
    return n->backend->ops->set_log(n->backend, s->log_fd, s->log_place.size, s->log_place.offset);
}

static int tell_features(const struct newcomer *n)
{
    const struct session *s = &n->device->s;
    struct link *link = &n->device->link;
    int err = 0;

    if (s->owned && !link->owner_set)
        err = n->backend->ops->set_owner(n->backend);
    link->owner_set = s->owned;
    if (!err && s->features_set)
        err = n->backend->ops->set_features(n->backend, s->features_served);
    return err;
}

static int tell_status(const struct newcomer *n)
{
    const struct session *s = &n->device->s;

    if (!s->status || !(n->backend->protocol_acked & P(STATUS)))
        return 0;
    return forward_u64(n->backend, SVQ_VU_SET_STATUS, s->status & ~DRIVER_OK);
}

static int tell_all(const struct newcomer *n)
{
    const struct session *s = &n->device->s;
    int err = tell_features(n);

    if (!err && s->mtu && n->backend->protocol_acked & P(MTU))
        err = forward_u64(n->backend, SVQ_VU_NET_SET_MTU, s->mtu);
    if (!err)
        err = tell_status(n);
    if (!err)
        err = channel_introduce(n->device);
    if (!err && s->map)
        err = memory_introduce(n->device);
    if (!err)
        err = tell_log(n);
    if (!err)
        err = write_config(n);
    return err ? err : n->backend->ops->flush(n->backend);
}

int introduce(struct svq_device *device, char *text, size_t size)
{
    const struct newcomer n = {device, device->link.backend, text, size};
    int err;

    snprintf(text, size, "it refused what the other one has accepted");
    if (lacks_features(&n) || lacks_protocol(&n))
        return -EREMOTEIO;
    err = tell_protocol(&n);
    if (!err && (lacks_region(&n) || lacks_queues(&n) || config_differs(&n)))
        return -EREMOTEIO;
    return err ? err : tell_all(&n);
}

int introduce_start(struct svq_device *device)
{
    struct svq_backend *backend = device->link.backend;

    if (!(device->s.status & DRIVER_OK) || !(backend->protocol_acked & P(STATUS)))
        return 0;
    return forward_u64(backend, SVQ_VU_SET_STATUS, device->s.status);
}
