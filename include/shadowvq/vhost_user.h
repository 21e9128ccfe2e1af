/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The vhost-user wire: numbers, payloads and the checks a message must pass before anybody acts on
 * it. From the vhost-user protocol specification; section names below refer to it.
 *
 * All integers on the wire are in host byte order. A message is a header, then `size` bytes of
 * payload; file descriptors travel as SCM_RIGHTS beside the header.
 *
 * Everything here is pure: no allocation, no system call, safe from any thread.
 */
#ifndef SHADOWVQ_VHOST_USER_H
#define SHADOWVQ_VHOST_USER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* "Front-end message types". */
enum svq_vu_request {
    SVQ_VU_GET_FEATURES = 1,
    SVQ_VU_SET_FEATURES = 2,
    SVQ_VU_SET_OWNER = 3,
    SVQ_VU_RESET_OWNER = 4,
    SVQ_VU_SET_MEM_TABLE = 5,
    SVQ_VU_SET_LOG_BASE = 6,
    SVQ_VU_SET_LOG_FD = 7,
    SVQ_VU_SET_VRING_NUM = 8,
    SVQ_VU_SET_VRING_ADDR = 9,
    SVQ_VU_SET_VRING_BASE = 10,
    SVQ_VU_GET_VRING_BASE = 11,
    SVQ_VU_SET_VRING_KICK = 12,
    SVQ_VU_SET_VRING_CALL = 13,
    SVQ_VU_SET_VRING_ERR = 14,
    SVQ_VU_GET_PROTOCOL_FEATURES = 15,
    SVQ_VU_SET_PROTOCOL_FEATURES = 16,
    SVQ_VU_GET_QUEUE_NUM = 17,
    SVQ_VU_SET_VRING_ENABLE = 18,
    SVQ_VU_SEND_RARP = 19,
    SVQ_VU_NET_SET_MTU = 20,
    SVQ_VU_SET_BACKEND_REQ_FD = 21,
    SVQ_VU_IOTLB_MSG = 22,
    SVQ_VU_SET_VRING_ENDIAN = 23,
    SVQ_VU_GET_CONFIG = 24,
    SVQ_VU_SET_CONFIG = 25,
    SVQ_VU_CREATE_CRYPTO_SESSION = 26,
    SVQ_VU_CLOSE_CRYPTO_SESSION = 27,
    SVQ_VU_POSTCOPY_ADVISE = 28,
    SVQ_VU_POSTCOPY_LISTEN = 29,
    SVQ_VU_POSTCOPY_END = 30,
    SVQ_VU_GET_INFLIGHT_FD = 31,
    SVQ_VU_SET_INFLIGHT_FD = 32,
    SVQ_VU_GPU_SET_SOCKET = 33,
    SVQ_VU_RESET_DEVICE = 34,
    SVQ_VU_VRING_KICK = 35,
    SVQ_VU_GET_MAX_MEM_SLOTS = 36,
    SVQ_VU_ADD_MEM_REG = 37,
    SVQ_VU_REM_MEM_REG = 38,
    SVQ_VU_SET_STATUS = 39,
    SVQ_VU_GET_STATUS = 40,
    SVQ_VU_GET_SHARED_OBJECT = 41,
    SVQ_VU_SET_DEVICE_STATE_FD = 42,
    SVQ_VU_CHECK_DEVICE_STATE = 43,
    SVQ_VU_GET_SHMEM_CONFIG = 44,
    SVQ_VU_REQUEST_MAX
};

/* "Back-end message types": sent on the channel that SET_BACKEND_REQ_FD opens. */
enum svq_vu_backend_request {
    SVQ_VU_BE_IOTLB_MSG = 1,
    SVQ_VU_BE_CONFIG_CHANGE_MSG = 2,
    SVQ_VU_BE_VRING_HOST_NOTIFIER_MSG = 3,
    SVQ_VU_BE_VRING_CALL = 4,
    SVQ_VU_BE_VRING_ERR = 5,
    SVQ_VU_BE_SHARED_OBJECT_ADD = 6,
    SVQ_VU_BE_SHARED_OBJECT_REMOVE = 7,
    SVQ_VU_BE_SHARED_OBJECT_LOOKUP = 8,
    SVQ_VU_BE_SHMEM_MAP = 9,
    SVQ_VU_BE_SHMEM_UNMAP = 10,
    SVQ_VU_BE_REQUEST_MAX
};

/* "Protocol features": bit numbers. */
enum svq_vu_protocol_feature {
    SVQ_VU_PROTOCOL_F_MQ = 0,
    SVQ_VU_PROTOCOL_F_LOG_SHMFD = 1,
    SVQ_VU_PROTOCOL_F_RARP = 2,
    SVQ_VU_PROTOCOL_F_REPLY_ACK = 3,
    SVQ_VU_PROTOCOL_F_MTU = 4,
    SVQ_VU_PROTOCOL_F_BACKEND_REQ = 5,
    SVQ_VU_PROTOCOL_F_CROSS_ENDIAN = 6,
    SVQ_VU_PROTOCOL_F_CRYPTO_SESSION = 7,
    SVQ_VU_PROTOCOL_F_PAGEFAULT = 8,
    SVQ_VU_PROTOCOL_F_CONFIG = 9,
    SVQ_VU_PROTOCOL_F_BACKEND_SEND_FD = 10,
    SVQ_VU_PROTOCOL_F_HOST_NOTIFIER = 11,
    SVQ_VU_PROTOCOL_F_INFLIGHT_SHMFD = 12,
    SVQ_VU_PROTOCOL_F_RESET_DEVICE = 13,
    SVQ_VU_PROTOCOL_F_INBAND_NOTIFICATIONS = 14,
    SVQ_VU_PROTOCOL_F_CONFIGURE_MEM_SLOTS = 15,
    SVQ_VU_PROTOCOL_F_STATUS = 16,
    SVQ_VU_PROTOCOL_F_XEN_MMAP = 17,
    SVQ_VU_PROTOCOL_F_SHARED_OBJECT = 18,
    SVQ_VU_PROTOCOL_F_DEVICE_STATE = 19,
    SVQ_VU_PROTOCOL_F_GET_VRING_BASE_INFLIGHT = 20,
    SVQ_VU_PROTOCOL_F_GPA_ADDRESSES = 21,
    SVQ_VU_PROTOCOL_F_SHMEM = 22
};

/* Feature bits with a meaning of their own to a vhost-user peer (virtio 1.3 section 6, vhost). */
enum svq_virtio_feature {
    SVQ_F_NOTIFY_ON_EMPTY = 24,
    SVQ_F_LOG_ALL = 26,
    SVQ_F_ANY_LAYOUT = 27,
    SVQ_F_INDIRECT_DESC = 28,
    SVQ_F_EVENT_IDX = 29,
    SVQ_F_PROTOCOL_FEATURES = 30,
    SVQ_F_VERSION_1 = 32,
    SVQ_F_ACCESS_PLATFORM = 33,
    SVQ_F_RING_PACKED = 34,
    SVQ_F_IN_ORDER = 35,
    SVQ_F_ORDER_PLATFORM = 36,
    SVQ_F_SR_IOV = 37,
    SVQ_F_NOTIFICATION_DATA = 38,
    SVQ_F_RING_RESET = 40
};

#define SVQ_BIT(n) (UINT64_C(1) << (n))

/* Header flags: "Header". */
#define SVQ_VU_VERSION      0x1u
#define SVQ_VU_VERSION_MASK 0x3u
#define SVQ_VU_REPLY        0x4u
#define SVQ_VU_NEED_REPLY   0x8u

/* A vring message's u64: the index, and the bit that says "no fd, poll instead". */
#define SVQ_VU_VRING_IDX_MASK 0xffu
#define SVQ_VU_VRING_NOFD     0x100u

/* SET_VRING_ADDR flags. */
#define SVQ_VU_VRING_F_LOG 0x1u

/* Limits: what a peer may send at most. Regions: the specification's 8, or 509 with slots. */
#define SVQ_VU_MAX_TABLE_REGIONS 32
#define SVQ_VU_MAX_FDS           32
#define SVQ_VU_MAX_CONFIG        256
#define SVQ_VU_CONFIG_HEADER     12
#define SVQ_VU_MAX_PAYLOAD       4096
#define SVQ_VU_HEADER_SIZE       12

struct svq_vu_header {
    uint32_t request;
    uint32_t flags;
    uint32_t size; /* bytes of payload */
} __attribute__((packed));

struct svq_vu_vring_state {
    uint32_t index;
    uint32_t num;
} __attribute__((packed));

struct svq_vu_vring_addr {
    uint32_t index;
    uint32_t flags;
    uint64_t desc;  /* front-end user address */
    uint64_t used;  /* front-end user address */
    uint64_t avail; /* front-end user address */
    uint64_t log;   /* guest-physical address of the used ring, for the dirty log */
} __attribute__((packed));

struct svq_vu_region {
    uint64_t guest_addr;
    uint64_t size;
    uint64_t user_addr;
    uint64_t mmap_offset;
} __attribute__((packed));

struct svq_vu_mem_table {
    uint32_t count;
    uint32_t padding;
    struct svq_vu_region regions[SVQ_VU_MAX_TABLE_REGIONS];
} __attribute__((packed));

struct svq_vu_single_region {
    uint64_t padding;
    struct svq_vu_region region;
} __attribute__((packed));

struct svq_vu_log {
    uint64_t size;   /* bytes */
    uint64_t offset; /* bytes into the file */
} __attribute__((packed));

struct svq_vu_config {
    uint32_t offset;
    uint32_t size;
    uint32_t flags;
    uint8_t data[SVQ_VU_MAX_CONFIG];
} __attribute__((packed));

struct svq_vu_inflight {
    uint64_t mmap_size;
    uint64_t mmap_offset;
    uint16_t num_queues;
    uint16_t queue_size;
    uint32_t padding; /* the specification implies 20 bytes; every peer sends C's 24 */
} __attribute__((packed));

struct svq_vu_device_state {
    uint32_t direction;
    uint32_t phase;
} __attribute__((packed));

union svq_vu_payload {
    uint64_t u64;
    struct svq_vu_vring_state state;
    struct svq_vu_vring_addr addr;
    struct svq_vu_mem_table table;
    struct svq_vu_single_region region;
    struct svq_vu_log log;
    struct svq_vu_config config;
    struct svq_vu_inflight inflight;
    struct svq_vu_device_state device_state;
    uint8_t bytes[SVQ_VU_MAX_PAYLOAD];
} __attribute__((packed, aligned(4)));

/*
 * One message in memory. The fds belong to whoever holds the message: a taker replaces the entry by
 * -1, and the holder closes what remains.
 */
struct svq_vu_message {
    struct svq_vu_header header;
    union svq_vu_payload payload; /* right behind the header, as on the wire */
    int fds[SVQ_VU_MAX_FDS];
    unsigned fd_count;
};

/* Who a message is addressed to: the two directions number their requests independently. */
enum svq_vu_direction {
    SVQ_VU_TO_BACKEND, /* a front-end's request */
    SVQ_VU_TO_FRONTEND /* a back-end's request */
};

/* How a request is answered. */
enum svq_vu_reply {
    SVQ_VU_REPLY_NONE,   /* only an ack, if NEED_REPLY asks for one */
    SVQ_VU_REPLY_TYPED,  /* always, with a payload of its own */
    SVQ_VU_REPLY_LOG_FD, /* typed once LOG_SHMFD is negotiated (SET_LOG_BASE) */
};

/* What svqd does with a message; the columns of docs/protocol.md. */
enum svq_vu_policy {
    SVQ_VU_POLICY_HANDLE,  /* svqd acts on it, and tells the back-end what it must know */
    SVQ_VU_POLICY_FORWARD, /* goes to the peer as it is, and the answer comes back as it is */
    SVQ_VU_POLICY_REFUSE   /* belongs to a feature that svqd does not offer */
};

/* One row of the message table. */
struct svq_vu_rule {
    const char *name;
    uint16_t size_min; /* payload bytes, request */
    uint16_t size_max;
    uint8_t fds_min;
    uint8_t fds_max;
    enum svq_vu_reply reply;
    enum svq_vu_policy policy;
    int16_t feature; /* protocol feature bit that a peer must have acked, or -1 */
};

/**
 * svq_vu_rule() - the table's row for a request number, NULL when no such request exists.
 */
const struct svq_vu_rule *svq_vu_rule(enum svq_vu_direction dir, uint32_t request);

/**
 * svq_vu_name() - a request's name for messages; "UNKNOWN" for a number without a row.
 */
const char *svq_vu_name(enum svq_vu_direction dir, uint32_t request);

/**
 * svq_vu_check_header() - may the payload of this request be read at all?
 *
 * Return: 0; -EPROTO when version or flags are wrong or a REPLY came where a request belongs;
 * -EMSGSIZE when the payload is longer than any message may be.
 */
int svq_vu_check_header(const struct svq_vu_header *header);

/**
 * svq_vu_check_request() - syntax of a whole request: payload size, inner counts, number of fds.
 * Run it before any handler looks into the payload.
 *
 * Return: 0; -ENOSYS for an unknown request; -EMSGSIZE for a wrong payload size; -EBADF for too few
 * fds. Surplus fds are no error: the holder of the message closes what nobody took.
 */
int svq_vu_check_request(enum svq_vu_direction dir, const struct svq_vu_message *msg);

/**
 * svq_vu_fds_expected() - how many fds this request carries; to be called after the check.
 */
unsigned svq_vu_fds_expected(enum svq_vu_direction dir, const struct svq_vu_message *msg);

#ifdef __cplusplus
}
#endif
#endif
