/* SPDX-License-Identifier: BSD-3-Clause */
#include "feature_names.h"

#include <inttypes.h>
#include <stddef.h>

#include <shadowvq/vhost_user.h>

struct name {
    int bit;
    const char *name;
};

static const struct name ring_names[] = {
    {SVQ_F_NOTIFY_ON_EMPTY, "NOTIFY_ON_EMPTY"},
    {SVQ_F_LOG_ALL, "LOG_ALL"},
    {SVQ_F_ANY_LAYOUT, "ANY_LAYOUT"},
    {SVQ_F_INDIRECT_DESC, "INDIRECT_DESC"},
    {SVQ_F_EVENT_IDX, "EVENT_IDX"},
    {SVQ_F_PROTOCOL_FEATURES, "PROTOCOL_FEATURES"},
    {SVQ_F_VERSION_1, "VERSION_1"},
    {SVQ_F_ACCESS_PLATFORM, "ACCESS_PLATFORM"},
    {SVQ_F_RING_PACKED, "RING_PACKED"},
    {SVQ_F_IN_ORDER, "IN_ORDER"},
    {SVQ_F_ORDER_PLATFORM, "ORDER_PLATFORM"},
    {SVQ_F_SR_IOV, "SR_IOV"},
    {SVQ_F_NOTIFICATION_DATA, "NOTIFICATION_DATA"},
    {39, "NOTIF_CONFIG_DATA"},
    {SVQ_F_RING_RESET, "RING_RESET"},
    {41, "ADMIN_VQ"},
    {-1, NULL},
};

static const struct name protocol_names[] = {
    {SVQ_VU_PROTOCOL_F_MQ, "MQ"},
    {SVQ_VU_PROTOCOL_F_LOG_SHMFD, "LOG_SHMFD"},
    {SVQ_VU_PROTOCOL_F_RARP, "RARP"},
    {SVQ_VU_PROTOCOL_F_REPLY_ACK, "REPLY_ACK"},
    {SVQ_VU_PROTOCOL_F_MTU, "MTU"},
    {SVQ_VU_PROTOCOL_F_BACKEND_REQ, "BACKEND_REQ"},
    {SVQ_VU_PROTOCOL_F_CROSS_ENDIAN, "CROSS_ENDIAN"},
    {SVQ_VU_PROTOCOL_F_CRYPTO_SESSION, "CRYPTO_SESSION"},
    {SVQ_VU_PROTOCOL_F_PAGEFAULT, "PAGEFAULT"},
    {SVQ_VU_PROTOCOL_F_CONFIG, "CONFIG"},
    {SVQ_VU_PROTOCOL_F_BACKEND_SEND_FD, "BACKEND_SEND_FD"},
    {SVQ_VU_PROTOCOL_F_HOST_NOTIFIER, "HOST_NOTIFIER"},
    {SVQ_VU_PROTOCOL_F_INFLIGHT_SHMFD, "INFLIGHT_SHMFD"},
    {SVQ_VU_PROTOCOL_F_RESET_DEVICE, "RESET_DEVICE"},
    {SVQ_VU_PROTOCOL_F_INBAND_NOTIFICATIONS, "INBAND_NOTIFICATIONS"},
    {SVQ_VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS, "CONFIGURE_MEM_SLOTS"},
    {SVQ_VU_PROTOCOL_F_STATUS, "STATUS"},
    {SVQ_VU_PROTOCOL_F_XEN_MMAP, "XEN_MMAP"},
    {SVQ_VU_PROTOCOL_F_SHARED_OBJECT, "SHARED_OBJECT"},
    {SVQ_VU_PROTOCOL_F_DEVICE_STATE, "DEVICE_STATE"},
    {SVQ_VU_PROTOCOL_F_GET_VRING_BASE_INFLIGHT, "GET_VRING_BASE_INFLIGHT"},
    {SVQ_VU_PROTOCOL_F_GPA_ADDRESSES, "GPA_ADDRESSES"},
    {SVQ_VU_PROTOCOL_F_SHMEM, "SHMEM"},
    {-1, NULL},
};

static void print_names(uint64_t word, const struct name *names, const char *rest, FILE *out)
{
    const char *space = "";

    if (word == 0) {
        fputs("none", out);
        return;
    }
    for (; names->name; names++) {
        if (!(word & SVQ_BIT(names->bit)))
            continue;
        fprintf(out, "%s%s", space, names->name);
        space = " ";
        word &= ~SVQ_BIT(names->bit);
    }
    if (word)
        fprintf(out, "%s%s 0x%" PRIx64, space, rest, word);
}

void svq_features_print(uint64_t word, FILE *out)
{
    print_names(word, ring_names, "+ device bits", out);
}

void svq_protocol_features_print(uint64_t word, FILE *out)
{
    print_names(word, protocol_names, "+ unknown bits", out);
}
