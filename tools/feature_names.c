/* SPDX-License-Identifier: BSD-3-Clause */
#include "feature_names.h"

#include <inttypes.h>
#include <stddef.h>

#include <shadowvq/vhost_user.h>

#include "base/feature_name.h"

static const char *const protocol_names[] = {
    [SVQ_VU_PROTOCOL_F_MQ] = "mq",
    [SVQ_VU_PROTOCOL_F_LOG_SHMFD] = "log_shmfd",
    [SVQ_VU_PROTOCOL_F_RARP] = "rarp",
    [SVQ_VU_PROTOCOL_F_REPLY_ACK] = "reply_ack",
    [SVQ_VU_PROTOCOL_F_MTU] = "mtu",
    [SVQ_VU_PROTOCOL_F_BACKEND_REQ] = "backend_req",
    [SVQ_VU_PROTOCOL_F_CROSS_ENDIAN] = "cross_endian",
    [SVQ_VU_PROTOCOL_F_CRYPTO_SESSION] = "crypto_session",
    [SVQ_VU_PROTOCOL_F_PAGEFAULT] = "pagefault",
    [SVQ_VU_PROTOCOL_F_CONFIG] = "config",
    [SVQ_VU_PROTOCOL_F_BACKEND_SEND_FD] = "backend_send_fd",
    [SVQ_VU_PROTOCOL_F_HOST_NOTIFIER] = "host_notifier",
    [SVQ_VU_PROTOCOL_F_INFLIGHT_SHMFD] = "inflight_shmfd",
    [SVQ_VU_PROTOCOL_F_RESET_DEVICE] = "reset_device",
    [SVQ_VU_PROTOCOL_F_INBAND_NOTIFICATIONS] = "inband_notifications",
    [SVQ_VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS] = "configure_mem_slots",
    [SVQ_VU_PROTOCOL_F_STATUS] = "status",
    [SVQ_VU_PROTOCOL_F_XEN_MMAP] = "xen_mmap",
    [SVQ_VU_PROTOCOL_F_SHARED_OBJECT] = "shared_object",
    [SVQ_VU_PROTOCOL_F_DEVICE_STATE] = "device_state",
    [SVQ_VU_PROTOCOL_F_GET_VRING_BASE_INFLIGHT] = "get_vring_base_inflight",
    [SVQ_VU_PROTOCOL_F_GPA_ADDRESSES] = "gpa_addresses",
    [SVQ_VU_PROTOCOL_F_SHMEM] = "shmem",
};

static const char *protocol_name(unsigned bit)
{
    return bit < sizeof(protocol_names) / sizeof(protocol_names[0]) ? protocol_names[bit] : NULL;
}

static void print_names(uint64_t word, const char *(*name)(unsigned bit), const char *rest,
                        FILE *out)
{
    const char *space = "";
    unsigned bit;

    if (word == 0) {
        fputs("none", out);
        return;
    }
    for (bit = 0; bit < 64; bit++) {
        if (!(word & SVQ_BIT(bit)) || !name(bit))
            continue;
        fprintf(out, "%s%s", space, name(bit));
        space = " ";
        word &= ~SVQ_BIT(bit);
    }
    if (word)
        fprintf(out, "%s%s 0x%" PRIx64, space, rest, word);
}

void svq_features_print(uint64_t word, FILE *out)
{
    print_names(word, svq_feature_name, "+ device bits", out);
}

void svq_protocol_features_print(uint64_t word, FILE *out)
{
    print_names(word, protocol_name, "+ unknown bits", out);
}
