/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the two sides agree on before and beside their rings.
 *
 * The front-end is offered what the back-end has, less what the relay could not carry, plus what
 * svqd brings itself (the dirty log, acks, ring features by offer=). The back-end is acked what the
 * front-end acked, plus what svqd uses itself.
 *
 * A session is bound to the shadow when the back-end cannot serve the rings that the guest asked
 * for. Then the back-end's rings have features of their own: whatever makes them cheap.
 */
#include "device/internal.h"
#include "base/feature_name.h"

#include <stdio.h>
#include <string.h>

/* Bits 24 to 41 belong to the ring and the transport; all others to the device. */
#define RING_BITS (SVQ_BIT(42) - SVQ_BIT(24))

/*
 * Ring and transport features that mean nothing to the relay, or that it implements. RING_RESET:
 * a front-end resets one queue by stopping and starting it.
 */
#define RELAYED                                                                  \
    (SVQ_RELAY_FEATURES | SVQ_BIT(SVQ_F_ANY_LAYOUT) | SVQ_BIT(SVQ_F_VERSION_1) | \
     SVQ_BIT(SVQ_F_PROTOCOL_FEATURES) | SVQ_BIT(SVQ_F_ORDER_PLATFORM) | SVQ_BIT(SVQ_F_RING_RESET))

/* Features that can only pass through: offered where shadowing is not promised. */
#define DIRECT_ONLY SVQ_BIT(SVQ_F_ACCESS_PLATFORM)

/* What the front-end may have whatever its back-end has. */
#define BESIDE_BACKEND \
    (SVQ_RELAY_FEATURES | SVQ_BIT(SVQ_F_LOG_ALL) | SVQ_BIT(SVQ_F_PROTOCOL_FEATURES))

/* What decides how rings are read: it cannot change while any ring is with the back-end. */
#define RING_LAYOUT (SVQ_RELAY_FEATURES | SVQ_BIT(SVQ_F_VERSION_1))

#define P(name) SVQ_BIT(SVQ_VU_PROTOCOL_F_##name)

/* Protocol features whose messages svqd handles or forwards; docs/protocol.md says why not others.
 */
#define PROTOCOL_SERVED                                                                          \
    (P(MQ) | P(LOG_SHMFD) | P(RARP) | P(REPLY_ACK) | P(MTU) | P(BACKEND_REQ) | P(CROSS_ENDIAN) | \
     P(CRYPTO_SESSION) | P(CONFIG) | P(BACKEND_SEND_FD) | P(RESET_DEVICE) |                      \
     P(CONFIGURE_MEM_SLOTS) | P(STATUS) | P(SHARED_OBJECT) | P(DEVICE_STATE) | P(SHMEM))

/* What svqd itself uses of a back-end; crosvm reads configuration without having acked CONFIG. */
#define PROTOCOL_OWN (P(REPLY_ACK) | P(MQ) | P(CONFIG) | P(INFLIGHT_SHMFD))

/* ---- The offer ----------------------------------------------------------------------------------
 */

const char *setup_check_rings(enum svq_shadow_policy policy, enum svq_ring_choice ring,
                              uint64_t offer)
{
    if (offer & ~SVQ_RELAY_FEATURES)
        return "offer= takes packed, event_idx, indirect and in_order";
    if (policy != SVQ_SHADOW_OFF)
        return NULL;
    if (offer)
        return "offer= needs the shadow: it does not go with shadow=off";
    if (ring != SVQ_RING_CHOICE_AUTO)
        return "ring=split and ring=packed need the shadow: they do not go with shadow=off";
    return NULL;
}

/* May a session of this device be bound to the shadow? */
static bool may_be_bound(const struct svq_device *device)
{
    return device->offer || device->ring == SVQ_RING_CHOICE_PACKED;
}

static uint64_t offered_features(const struct svq_device *device)
{
    uint64_t theirs = device->link.backend->features;
    uint64_t features = theirs & (~RING_BITS | RELAYED);

    if (device->ring == SVQ_RING_CHOICE_SPLIT)
        features &= ~SVQ_BIT(SVQ_F_RING_PACKED);
    features |= device->offer;
    if (device->policy == SVQ_SHADOW_OFF ||
        (device->policy == SVQ_SHADOW_AUTO && dirty_backend_logs(device) && !may_be_bound(device)))
        features |= theirs & DIRECT_ONLY;
    if (dirty_possible(device))
        features |= SVQ_BIT(SVQ_F_LOG_ALL);
    /* svqd acks by itself, and needs protocol features for the log, whatever the back-end has. */
    return features | SVQ_BIT(SVQ_F_PROTOCOL_FEATURES);
}

static uint64_t offered_protocol(const struct svq_device *device)
{
    uint64_t theirs = device->link.backend->protocol_features;
    uint64_t protocol = theirs & PROTOCOL_SERVED & ~P(LOG_SHMFD);

    if (device->policy == SVQ_SHADOW_OFF)
        protocol |= theirs & P(HOST_NOTIFIER);
    if (dirty_possible(device))
        protocol |= P(LOG_SHMFD);
    return protocol | P(REPLY_ACK) | P(INFLIGHT_SHMFD);
}

void setup_offer(struct svq_device *device)
{
    struct session *s = &device->s;

    s->features_offered = offered_features(device);
    s->protocol_offered = offered_protocol(device);
    s->shadow = device->policy == SVQ_SHADOW_ON;
    if (device->ring == SVQ_RING_CHOICE_PACKED &&
        !(device->link.backend->features & SVQ_BIT(SVQ_F_RING_PACKED))) {
        s->over = "back-end has no packed rings";
        device_error(device, "ring=packed, but the back-end has no packed rings");
    }
}

uint64_t setup_masked(const struct svq_device *device)
{
    return device->link.backend->features & RING_BITS & ~device->s.features_offered;
}

const char *svq_device_masked_reason(unsigned feature_bit)
{
    switch (feature_bit) {
    case SVQ_F_NOTIFY_ON_EMPTY:
        return "only legacy drivers use it, and the relay does not implement it";
    case SVQ_F_LOG_ALL:
        return "nobody could write the log with this shadow= and dirty-log=";
    case SVQ_F_ACCESS_PLATFORM:
        return "a device whose addresses are translated cannot be shadowed";
    case SVQ_F_RING_PACKED:
        return "the device has ring=split";
    case SVQ_F_SR_IOV:
        return "virtual functions are the business of a PCI device, not of a socket";
    case SVQ_F_NOTIFICATION_DATA:
        return "notifications travel over eventfds, which carry no data";
    default:
        return "svqd does not know it";
    }
}

static void reply_u64(struct svq_vu_message *reply, uint64_t value)
{
    reply->payload.u64 = value;
    reply->header.size = sizeof(value);
}

/* ---- Bound to the shadow ------------------------------------------------------------------------
 */

static bool backend_has(const struct svq_device *device, unsigned feature)
{
    return device->link.backend->features & SVQ_BIT(feature);
}

/* The format of the back-end's rings once this has been acked. */
static enum svq_ring_format choose_format(const struct svq_device *device, uint64_t acked)
{
    if (device->ring == SVQ_RING_CHOICE_SPLIT || !backend_has(device, SVQ_F_RING_PACKED))
        return SVQ_RING_SPLIT;
    /* With packed rings comes all of virtio 1, such as longer net headers: not for legacy drivers.
     */
    if (device->ring == SVQ_RING_CHOICE_PACKED && acked & SVQ_BIT(SVQ_F_VERSION_1))
        return SVQ_RING_PACKED;
    return svq_ring_format(acked);
}

/* Say in why_bound what the back-end cannot serve. Return: is there anything? */
static bool explain_bound(struct svq_device *device, uint64_t acked)
{
    uint64_t missing = acked & SVQ_RELAY_FEATURES & ~device->link.backend->features;
    char *text = device->why_bound, *end = text + sizeof(device->why_bound);
    const char *between = "the guest uses ring features that the back-end lacks: ";

    *text = '\0';
    for (unsigned bit = 0; bit < 64; bit++) {
        if (!(missing & SVQ_BIT(bit)))
            continue;
        text += snprintf(text, end - text, "%s%s", between, svq_feature_name(bit));
        between = ", ";
    }
    if (!missing && choose_format(device, acked) != svq_ring_format(acked))
        text += snprintf(text, end - text, "the guest's rings are %s, the back-end's %s",
                         svq_ring_format(acked) == SVQ_RING_PACKED ? "packed" : "split",
                         svq_ring_format(acked) == SVQ_RING_PACKED ? "split" : "packed");
    return text != device->why_bound;
}

/* Decide what the back-end is to serve. */
static void bind_session(struct svq_device *device)
{
    struct session *s = &device->s;
    uint64_t acked = s->features_acked, helpful;
    bool before = s->bound;

    s->bound = explain_bound(device, acked);
    s->features_served = acked;
    if (s->bound) {
        helpful = SVQ_BIT(SVQ_F_EVENT_IDX) | SVQ_BIT(SVQ_F_INDIRECT_DESC);
        s->features_served = (acked & ~SVQ_BIT(SVQ_F_RING_PACKED)) | helpful;
        if (choose_format(device, acked) == SVQ_RING_PACKED)
            s->features_served |= SVQ_BIT(SVQ_F_RING_PACKED);
    }
    /* rust-vmm back-ends refuse bits that they did not offer. */
    s->features_served &= device->link.backend->features & ~SVQ_BIT(SVQ_F_LOG_ALL);
    if (s->bound && !before)
        svq_info(device->id, "shadowed from its start: %s", device->why_bound);
    /* No ring is with the back-end: this only says where the front-end's settings go. */
    if (s->bound != before)
        shadow_settle(device, "features", &(const char *){NULL});
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
    struct session *s = &device->s;

    s->features_served &= ~SVQ_BIT(SVQ_F_LOG_ALL);
    if (s->logging && s->log_backend)
        s->features_served |= SVQ_BIT(SVQ_F_LOG_ALL);
    return device->link.backend->ops->set_features(device->link.backend, s->features_served);
}

static int send_owner(struct svq_device *device)
{
    device->s.owned = true;
    if (device->link.owner_set || !link_up(device))
        return 0;
    device->link.owner_set = true;
    return device->link.backend->ops->set_owner(device->link.backend);
}

/* Return: what is wrong with acking these features now, as -errno. */
static int check_features(const struct svq_device *device, uint64_t features)
{
    if (features & ~device->s.features_offered) {
        svq_error(device->id, "front-end acked features that were not offered: 0x%llx",
                  (unsigned long long)(features & ~device->s.features_offered));
        return -EINVAL;
    }
    if (features & ~(device->link.backend->features | BESIDE_BACKEND)) {
        svq_error(
            device->id, "front-end acked features that its present back-end lacks: 0x%llx",
            (unsigned long long)(features & ~(device->link.backend->features | BESIDE_BACKEND)));
        return -EINVAL;
    }
    if ((features ^ device->s.features_acked) & RING_LAYOUT && shadow_device_wired(device)) {
        svq_error(device->id, "front-end changed the rings' features while they run");
        return -EBUSY;
    }
    return 0;
}

int setup_set_features(struct svq_device *device, struct svq_vu_message *msg,
                       struct svq_vu_message *reply)
{
    uint64_t features = msg->payload.u64;
    bool logging = features & SVQ_BIT(SVQ_F_LOG_ALL);
    uint64_t before = device->s.features_acked;
    int err = check_features(device, features);

    (void)reply;
    if (err)
        return err;
    /* A server-mode virtio-user never sends SET_OWNER; crosvm's back-end insists on it. */
    err = device_told(device, send_owner(device));
    if (err)
        return err;
    device->s.features_acked = features;
    if (device->s.features_set && (features ^ before) == SVQ_BIT(SVQ_F_LOG_ALL))
        return dirty_set_logging(device, logging);
    device->s.features_set = true;
    bind_session(device);
    err = setup_send_features(device);
    if (!err)
        err = device->link.backend->ops->flush(device->link.backend);
    err = device_told(device, err);
    if (err)
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
        err = device->link.backend->ops->flush(device->link.backend);
    return device_told(device, err);
}

/* RESET_OWNER and RESET_DEVICE: every ring stops; what was negotiated stays. */
int setup_reset(struct svq_device *device, struct svq_vu_message *msg, struct svq_vu_message *reply)
{
    int err = device->link.backend->ops->reset(device->link.backend, msg->header.request);

    (void)reply;
    if (!err)
        err = device->link.backend->ops->flush(device->link.backend);
    /* The back-end has let go of the rings, or is gone: no relay may go on. */
    for_each_queue(device, i, queue) {
        queue_stop(queue);
        queue->enabled = false;
    }
    inflight_reset(device);
    return device_told(device, err);
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
    if (!(device->link.backend->features & SVQ_BIT(SVQ_F_PROTOCOL_FEATURES)))
        return 0;
    theirs = (acked | PROTOCOL_OWN) & device->link.backend->protocol_features;
    device->s.protocol_served = acked | PROTOCOL_OWN;
    err = device->link.backend->ops->set_protocol_features(device->link.backend, theirs);
    if (!err && theirs & P(MQ) && !device->s.queue_num)
        err = device->link.backend->ops->get_queue_num(device->link.backend, &device->s.queue_num);
    return device_told(device, err);
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

static void learn_config(struct svq_device *device, const struct svq_vu_config *config,
                         uint8_t mark)
{
    memcpy(device->s.config + config->offset, config->data, config->size);
    for (unsigned i = 0; i < config->size; i++)
        device->s.config_known[config->offset + i] |= mark;
}

static bool config_known(const struct session *s, const struct svq_vu_config *config)
{
    for (unsigned i = 0; i < config->size; i++)
        if (!s->config_known[config->offset + i])
            return false;
    return true;
}

static int ask_config(struct svq_device *device, const struct svq_vu_message *question,
                      struct svq_vu_message *answer)
{
    struct svq_backend *backend = device->link.backend;

    if (!(backend->protocol_acked & P(CONFIG)) || !link_up(device))
        return 0;
    return device_told(device, backend->ops->forward(backend, question, answer));
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
    int err;

    *reply = *msg;
    reply->fd_count = 0;
    reply->header.flags = SVQ_VU_VERSION;
    memset(reply->payload.config.data, 0, config->size);
    if (config->offset > SVQ_VU_MAX_CONFIG || config->size > SVQ_VU_MAX_CONFIG - config->offset)
        return -EINVAL;
    err = ask_config(device, msg, &answer);
    /* Zeros, which nobody has read, would be a disk of no size. */
    if (!err && !link_up(device) && !config_known(&device->s, config))
        err = link_wait(device) ? ask_config(device, msg, &answer) : -ENOTCONN;
    if (err)
        return err;
    svq_message_close_fds(&answer);
    if (good_config(msg, &answer))
        learn_config(device, &answer.payload.config, CONFIG_READ);
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
    const struct svq_vu_config *config = &msg->payload.config;
    int err;

    if (!(device->link.backend->protocol_acked & P(CONFIG)))
        return -EOPNOTSUPP;
    err = device_told(device, device->link.backend->ops->forward(device->link.backend, msg, reply));
    if (!err && config->offset <= SVQ_VU_MAX_CONFIG &&
        config->size <= SVQ_VU_MAX_CONFIG - config->offset)
        learn_config(device, config, CONFIG_WRITTEN);
    return err;
}

int setup_set_mtu(struct svq_device *device, struct svq_vu_message *msg,
                  struct svq_vu_message *reply)
{
    int err =
        device_told(device, device->link.backend->ops->forward(device->link.backend, msg, reply));

    if (!err)
        device->s.mtu = msg->payload.u64;
    return err;
}

/* ---- Status -----------------------------------------------------------------------------------
 */

/*
 * QEMU 7.2 stops a device, be it for a pause, by status 0 first and GET_VRING_BASE second, and DPDK
 * goes on after the one and stops at the other. So a shadow ends here as it would end there:
 * drained and with the back-end told, which will not hear of the front-end's GET_VRING_BASE.
 */
static int unshadow_all(struct svq_device *device)
{
    int err = 0;

    for_each_queue(device, i, queue)
        if ((queue->wire == WIRE_SHADOW || recover_pending(queue)) && !device->s.over)
            err = queue_rest(queue, "reset");
    return device->s.over ? err : 0;
}

int setup_get_status(struct svq_device *device, struct svq_vu_message *msg,
                     struct svq_vu_message *reply)
{
    struct svq_backend *backend = device->link.backend;
    int err = link_up(device) ? device_told(device, backend->ops->forward(backend, msg, reply)) : 0;

    if (!link_up(device))
        reply_u64(reply, device->s.status);
    return err;
}

int setup_set_status(struct svq_device *device, struct svq_vu_message *msg,
                     struct svq_vu_message *reply)
{
    int err = msg->payload.u64 ? 0 : unshadow_all(device);

    if (!err)
        err = device->link.backend->ops->forward(device->link.backend, msg, reply);
    device->s.status = msg->payload.u64;
    /*
     * Status 0 resets the device; its rings are gone even if the front-end never stopped them. But
     * nothing in flight is forgotten: QEMU says the same for a pause, and stops the rings after it.
     */
    if (msg->payload.u64 == 0)
        for_each_queue(device, i, queue)
            queue_abandon(queue);
    return device_told(device, err);
}
