/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the two sides agree on before and beside their rings.
 *
 * The front-end is offered what the back-end has, less what the relay could not carry, plus what
 * svqd brings itself (the dirty log, acks). The back-end is acked what the front-end acked, plus
 * what svqd uses itself.
 */
#include "device/internal.h"

#include <string.h>

/* Bits 24 to 41 belong to the ring and the transport; all others to the device. */
#define RING_BITS (SVQ_BIT(42) - SVQ_BIT(24))

/* Ring and transport features that mean nothing to the relay, or that it implements. */
#define RELAYED                                                                              \
    (SVQ_BIT(SVQ_F_ANY_LAYOUT) | SVQ_BIT(SVQ_F_INDIRECT_DESC) | SVQ_BIT(SVQ_F_EVENT_IDX) |   \
     SVQ_BIT(SVQ_F_PROTOCOL_FEATURES) | SVQ_BIT(SVQ_F_VERSION_1) | SVQ_BIT(SVQ_F_IN_ORDER) | \
     SVQ_BIT(SVQ_F_ORDER_PLATFORM))

/* Features that can only pass through: offered where shadowing is not promised. */
#define DIRECT_ONLY (SVQ_BIT(SVQ_F_ACCESS_PLATFORM) | SVQ_BIT(SVQ_F_RING_PACKED))

#define P(name) SVQ_BIT(SVQ_VU_PROTOCOL_F_##name)

/* Protocol features whose messages svqd handles or forwards; docs/protocol.md says why not others.
 */
#define PROTOCOL_SERVED                                                                          \
    (P(MQ) | P(LOG_SHMFD) | P(RARP) | P(REPLY_ACK) | P(MTU) | P(BACKEND_REQ) | P(CROSS_ENDIAN) | \
     P(CRYPTO_SESSION) | P(CONFIG) | P(BACKEND_SEND_FD) | P(RESET_DEVICE) |                      \
     P(CONFIGURE_MEM_SLOTS) | P(STATUS) | P(SHARED_OBJECT) | P(DEVICE_STATE) | P(SHMEM))

/* What svqd itself uses of a back-end; crosvm reads configuration without having acked CONFIG. */
#define PROTOCOL_OWN (P(REPLY_ACK) | P(MQ) | P(CONFIG))

void setup_offer(struct svq_device *device)
{
    struct session *s = &device->s;
    uint64_t features = device->backend->features & (~RING_BITS | RELAYED);
    uint64_t protocol = device->backend->protocol_features & PROTOCOL_SERVED;

    if (device->policy == SVQ_SHADOW_OFF ||
        (device->policy == SVQ_SHADOW_AUTO && dirty_backend_logs(device)))
        features |= device->backend->features & DIRECT_ONLY;
    if (device->policy == SVQ_SHADOW_OFF)
        protocol |= device->backend->protocol_features & P(HOST_NOTIFIER);
    protocol &= ~P(LOG_SHMFD);
    if (dirty_possible(device)) {
        features |= SVQ_BIT(SVQ_F_LOG_ALL);
        protocol |= P(LOG_SHMFD);
    }
    /* svqd acks by itself, and needs protocol features for the log, whatever the back-end has. */
    features |= SVQ_BIT(SVQ_F_PROTOCOL_FEATURES);
    protocol |= P(REPLY_ACK);
    s->features_offered = features;
    s->protocol_offered = protocol;
    s->shadow = device->policy == SVQ_SHADOW_ON;
}

static void reply_u64(struct svq_vu_message *reply, uint64_t value)
{
    reply->payload.u64 = value;
    reply->header.size = sizeof(value);
}

/* ---- Features ---------------------------------------------------------------------------------
 */

int setup_get_features(struct svq_device *device, struct svq_vu_message *msg,
                       struct svq_vu_message *reply)
{
    (void)msg;
    reply_u64(reply, device->s.features_offered);
    return 0;
}

int setup_send_features(struct svq_device *device)
{
    uint64_t features = device->s.features_acked & ~SVQ_BIT(SVQ_F_LOG_ALL);

    /* rust-vmm back-ends refuse bits that they did not offer. */
    features &= device->backend->features;
    if (device->s.logging && device->s.log_backend)
        features |= SVQ_BIT(SVQ_F_LOG_ALL);
    return device->backend->ops->set_features(device->backend, features);
}

static int send_owner(struct svq_device *device)
{
    if (device->s.owner_set)
        return 0;
    device->s.owner_set = true;
    return device->backend->ops->set_owner(device->backend);
}

int setup_set_features(struct svq_device *device, struct svq_vu_message *msg,
                       struct svq_vu_message *reply)
{
    uint64_t features = msg->payload.u64;
    bool logging = features & SVQ_BIT(SVQ_F_LOG_ALL);
    uint64_t before = device->s.features_acked;
    int err;

    (void)reply;
    if (features & ~device->s.features_offered) {
        svq_error(device->id, "front-end acked features that were not offered: 0x%llx",
                  (unsigned long long)(features & ~device->s.features_offered));
        return -EINVAL;
    }
    /* A server-mode virtio-user never sends SET_OWNER; crosvm's back-end insists on it. */
    err = device_backend_did(device, send_owner(device));
    if (err)
        return err;
    device->s.features_acked = features;
    if (device->s.features_set && (features ^ before) == SVQ_BIT(SVQ_F_LOG_ALL))
        return dirty_set_logging(device, logging);
    device->s.features_set = true;
    err = setup_send_features(device);
    if (!err)
        err = device->backend->ops->flush(device->backend);
    if (device_backend_did(device, err))
        return err;
    return logging == device->s.logging ? 0 : dirty_set_logging(device, logging);
}

int setup_set_owner(struct svq_device *device, struct svq_vu_message *msg,
                    struct svq_vu_message *reply)
{
    int err;

    (void)msg, (void)reply;
    err = send_owner(device);
    if (!err)
        err = device->backend->ops->flush(device->backend);
    return device_backend_did(device, err);
}

/* RESET_OWNER and RESET_DEVICE: every ring stops; what was negotiated stays. */
int setup_reset(struct svq_device *device, struct svq_vu_message *msg, struct svq_vu_message *reply)
{
    int err = device->backend->ops->reset(device->backend, msg->header.request);

    (void)reply;
    if (!err)
        err = device->backend->ops->flush(device->backend);
    /* The back-end has let go of the rings, or is gone: no relay may go on. */
    for_each_queue(device, i, queue) {
        queue_stop(queue);
        queue->enabled = false;
    }
    return device_backend_did(device, err);
}

int setup_get_protocol_features(struct svq_device *device, struct svq_vu_message *msg,
                                struct svq_vu_message *reply)
{
    (void)msg;
    reply_u64(reply, device->s.protocol_offered);
    return 0;
}

int setup_set_protocol_features(struct svq_device *device, struct svq_vu_message *msg,
                                struct svq_vu_message *reply)
{
    uint64_t acked = msg->payload.u64;
    uint64_t theirs;
    int err;

    (void)reply;
    if (acked & ~device->s.protocol_offered) {
        /* Cloud Hypervisor's restore acks what it saved without asking again. */
        svq_warning(device->id, "front-end acked protocol features that were not offered: 0x%llx",
                    (unsigned long long)(acked & ~device->s.protocol_offered));
        acked &= device->s.protocol_offered;
    }
    device->s.protocol_acked = acked;
    if (!(device->backend->features & SVQ_BIT(SVQ_F_PROTOCOL_FEATURES)))
        return 0;
    theirs = (acked | PROTOCOL_OWN) & device->backend->protocol_features;
    err = device->backend->ops->set_protocol_features(device->backend, theirs);
    if (!err && theirs & P(MQ) && !device->s.queue_num)
        err = device->backend->ops->get_queue_num(device->backend, &device->s.queue_num);
    return device_backend_did(device, err);
}

int setup_get_queue_num(struct svq_device *device, struct svq_vu_message *msg,
                        struct svq_vu_message *reply)
{
    uint64_t num = device->s.queue_num;

    (void)msg;
    reply_u64(reply, num > MAX_QUEUES ? MAX_QUEUES : num ? num : 1);
    return 0;
}

/* ---- Configuration space ----------------------------------------------------------------------
 */

/* Is this an answer to that question, with data? */
static bool good_config(const struct svq_vu_message *question, const struct svq_vu_message *answer)
{
    const struct svq_vu_config *q = &question->payload.config, *a = &answer->payload.config;

    return answer->header.size == question->header.size && a->size == q->size &&
           a->offset == q->offset;
}

/*
 * Cloud Hypervisor and crosvm read exactly as many bytes as they asked for: an answer of another
 * size, which is how back-ends report an error, would hang them. They get what is known instead.
 */
int setup_get_config(struct svq_device *device, struct svq_vu_message *msg,
                     struct svq_vu_message *reply)
{
    struct svq_vu_config *config = &msg->payload.config;
    struct svq_vu_message answer = {.header.size = 0};
    uint8_t *known = device->s.config;
    int err = 0;

    *reply = *msg;
    reply->fd_count = 0;
    reply->header.flags = SVQ_VU_VERSION;
    memset(reply->payload.config.data, 0, config->size);
    if (config->offset > SVQ_VU_MAX_CONFIG || config->size > SVQ_VU_MAX_CONFIG - config->offset)
        return -EINVAL;
    if (device->backend->protocol_acked & P(CONFIG))
        err = device->backend->ops->forward(device->backend, msg, &answer);
    if (device_backend_did(device, err))
        return err;
    svq_message_close_fds(&answer);
    if (good_config(msg, &answer))
        memcpy(known + config->offset, answer.payload.config.data, config->size);
    else
        svq_debug(device->id,
                  "back-end has no config of %u bytes at %u; answered from what is "
                  "known",
                  config->size, config->offset);
    memcpy(reply->payload.config.data, known + config->offset, config->size);
    return 0;
}

int setup_set_config(struct svq_device *device, struct svq_vu_message *msg,
                     struct svq_vu_message *reply)
{
    if (!(device->backend->protocol_acked & P(CONFIG)))
        return -EOPNOTSUPP;
    return device_backend_did(device, device->backend->ops->forward(device->backend, msg, reply));
}

/* ---- Status -----------------------------------------------------------------------------------
 */

int setup_set_status(struct svq_device *device, struct svq_vu_message *msg,
                     struct svq_vu_message *reply)
{
    int err = device->backend->ops->forward(device->backend, msg, reply);

    /* Status 0 resets the device; its rings are gone even if the front-end never stopped them. */
    if (msg->payload.u64 == 0)
        for_each_queue(device, i, queue)
            queue_stop(queue);
    return device_backend_did(device, err);
}
