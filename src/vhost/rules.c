/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The message table: one row per request, and the only place where a message's syntax is judged.
 * Everything in a message is hostile until svq_vu_check_request() has passed it; afterwards sizes,
 * counts and fds are what the row says, and only values (indices, addresses) remain to be checked
 * by whoever acts on them.
 */
#include <shadowvq/vhost_user.h>

#include <assert.h>
#include <errno.h>

#define STATE_SIZE  sizeof(struct svq_vu_vring_state)
#define TABLE_FIXED offsetof(struct svq_vu_mem_table, regions)

static_assert(sizeof(struct svq_vu_header) == SVQ_VU_HEADER_SIZE, "header");
static_assert(STATE_SIZE == 8, "vring state");
static_assert(sizeof(struct svq_vu_vring_addr) == 40, "vring address");
static_assert(sizeof(struct svq_vu_region) == 32, "memory region");
static_assert(TABLE_FIXED == 8, "memory table");
static_assert(sizeof(struct svq_vu_single_region) == 40, "single region");
static_assert(sizeof(struct svq_vu_log) == 16, "log");
static_assert(offsetof(struct svq_vu_config, data) == SVQ_VU_CONFIG_HEADER, "config");
static_assert(sizeof(struct svq_vu_inflight) == 24, "in-flight");
static_assert(sizeof(struct svq_vu_device_state) == 8, "device state");
static_assert(offsetof(struct svq_vu_message, payload) == SVQ_VU_HEADER_SIZE, "as on the wire");
static_assert(sizeof(union svq_vu_payload) == SVQ_VU_MAX_PAYLOAD, "payload");

#define NONE    SVQ_VU_REPLY_NONE
#define TYPED   SVQ_VU_REPLY_TYPED
#define LOG_FD  SVQ_VU_REPLY_LOG_FD
#define HANDLE  SVQ_VU_POLICY_HANDLE
#define FORWARD SVQ_VU_POLICY_FORWARD
#define REFUSE  SVQ_VU_POLICY_REFUSE
#define F(name) SVQ_VU_PROTOCOL_F_##name
#define ANY     (-1)

#define IOTLB_SIZE      32 /* struct vhost_iotlb_msg of <linux/vhost_types.h> */
#define UUID_SIZE       16
#define CRYPTO_MAX      SVQ_VU_MAX_PAYLOAD
#define SHMEM_MAP_SIZE  40
#define INFLIGHT_SHORT  20 /* what the specification's text implies */
#define CONFIG_MAX_SIZE (SVQ_VU_CONFIG_HEADER + SVQ_VU_MAX_CONFIG)
#define TABLE_MAX       sizeof(struct svq_vu_mem_table)

/* clang-format off */
static const struct svq_vu_rule frontend_rules[SVQ_VU_REQUEST_MAX] = {
    /* request                         name                    size min, max                    fds    reply   policy   feature */
    [SVQ_VU_GET_FEATURES]          = { "GET_FEATURES",          0, 0,                            0, 0,  TYPED,  HANDLE,  ANY },
    [SVQ_VU_SET_FEATURES]          = { "SET_FEATURES",          8, 8,                            0, 0,  NONE,   HANDLE,  ANY },
    [SVQ_VU_SET_OWNER]             = { "SET_OWNER",             0, 0,                            0, 0,  NONE,   HANDLE,  ANY },
    [SVQ_VU_RESET_OWNER]           = { "RESET_OWNER",           0, 0,                            0, 0,  NONE,   HANDLE,  ANY },
    [SVQ_VU_SET_MEM_TABLE]         = { "SET_MEM_TABLE",         TABLE_FIXED, TABLE_MAX,          0, 32, NONE,   HANDLE,  ANY },
    [SVQ_VU_SET_LOG_BASE]          = { "SET_LOG_BASE",          16, 16,                          1, 1,  LOG_FD, HANDLE,  ANY },
    [SVQ_VU_SET_LOG_FD]            = { "SET_LOG_FD",            0, 0,                            1, 1,  NONE,   HANDLE,  ANY },
    [SVQ_VU_SET_VRING_NUM]         = { "SET_VRING_NUM",         STATE_SIZE, STATE_SIZE,          0, 0,  NONE,   HANDLE,  ANY },
    [SVQ_VU_SET_VRING_ADDR]        = { "SET_VRING_ADDR",        40, 40,                          0, 0,  NONE,   HANDLE,  ANY },
    [SVQ_VU_SET_VRING_BASE]        = { "SET_VRING_BASE",        STATE_SIZE, STATE_SIZE,          0, 0,  NONE,   HANDLE,  ANY },
    [SVQ_VU_GET_VRING_BASE]        = { "GET_VRING_BASE",        STATE_SIZE, STATE_SIZE,          0, 0,  TYPED,  HANDLE,  ANY },
    [SVQ_VU_SET_VRING_KICK]        = { "SET_VRING_KICK",        8, 8,                            0, 1,  NONE,   HANDLE,  ANY },
    [SVQ_VU_SET_VRING_CALL]        = { "SET_VRING_CALL",        8, 8,                            0, 1,  NONE,   HANDLE,  ANY },
    [SVQ_VU_SET_VRING_ERR]         = { "SET_VRING_ERR",         8, 8,                            0, 1,  NONE,   HANDLE,  ANY },
    [SVQ_VU_GET_PROTOCOL_FEATURES] = { "GET_PROTOCOL_FEATURES", 0, 0,                            0, 0,  TYPED,  HANDLE,  ANY },
    [SVQ_VU_SET_PROTOCOL_FEATURES] = { "SET_PROTOCOL_FEATURES", 8, 8,                            0, 0,  NONE,   HANDLE,  ANY },
    [SVQ_VU_GET_QUEUE_NUM]         = { "GET_QUEUE_NUM",         0, 0,                            0, 0,  TYPED,  HANDLE,  ANY },
    [SVQ_VU_SET_VRING_ENABLE]      = { "SET_VRING_ENABLE",      STATE_SIZE, STATE_SIZE,          0, 0,  NONE,   HANDLE,  ANY },
    [SVQ_VU_SEND_RARP]             = { "SEND_RARP",             8, 8,                            0, 0,  NONE,   FORWARD, F(RARP) },
    [SVQ_VU_NET_SET_MTU]           = { "NET_SET_MTU",           8, 8,                            0, 0,  NONE,   FORWARD, F(MTU) },
    [SVQ_VU_SET_BACKEND_REQ_FD]    = { "SET_BACKEND_REQ_FD",    0, 0,                            1, 1,  NONE,   HANDLE,  F(BACKEND_REQ) },
    [SVQ_VU_IOTLB_MSG]             = { "IOTLB_MSG",             IOTLB_SIZE, IOTLB_SIZE,          0, 0,  NONE,   FORWARD, ANY },
    [SVQ_VU_SET_VRING_ENDIAN]      = { "SET_VRING_ENDIAN",      STATE_SIZE, STATE_SIZE,          0, 0,  NONE,   HANDLE,  F(CROSS_ENDIAN) },
    [SVQ_VU_GET_CONFIG]            = { "GET_CONFIG",            SVQ_VU_CONFIG_HEADER, CONFIG_MAX_SIZE, 0, 0, TYPED, HANDLE, ANY },
    [SVQ_VU_SET_CONFIG]            = { "SET_CONFIG",            SVQ_VU_CONFIG_HEADER, CONFIG_MAX_SIZE, 0, 0, NONE, HANDLE, ANY },
    [SVQ_VU_CREATE_CRYPTO_SESSION] = { "CREATE_CRYPTO_SESSION", 0, CRYPTO_MAX,                   0, 0,  TYPED,  FORWARD, F(CRYPTO_SESSION) },
    [SVQ_VU_CLOSE_CRYPTO_SESSION]  = { "CLOSE_CRYPTO_SESSION",  8, 8,                            0, 0,  NONE,   FORWARD, F(CRYPTO_SESSION) },
    [SVQ_VU_POSTCOPY_ADVISE]       = { "POSTCOPY_ADVISE",       0, 0,                            0, 0,  TYPED,  REFUSE,  F(PAGEFAULT) },
    [SVQ_VU_POSTCOPY_LISTEN]       = { "POSTCOPY_LISTEN",       0, 0,                            0, 0,  NONE,   REFUSE,  F(PAGEFAULT) },
    [SVQ_VU_POSTCOPY_END]          = { "POSTCOPY_END",          0, 0,                            0, 0,  TYPED,  REFUSE,  F(PAGEFAULT) },
    [SVQ_VU_GET_INFLIGHT_FD]       = { "GET_INFLIGHT_FD",       INFLIGHT_SHORT, 24,              0, 0,  TYPED,  HANDLE,  F(INFLIGHT_SHMFD) },
    [SVQ_VU_SET_INFLIGHT_FD]       = { "SET_INFLIGHT_FD",       INFLIGHT_SHORT, 24,              1, 1,  NONE,   HANDLE,  F(INFLIGHT_SHMFD) },
    [SVQ_VU_GPU_SET_SOCKET]        = { "GPU_SET_SOCKET",        0, 0,                            1, 1,  NONE,   FORWARD, ANY },
    [SVQ_VU_RESET_DEVICE]          = { "RESET_DEVICE",          0, 0,                            0, 0,  NONE,   HANDLE,  F(RESET_DEVICE) },
    [SVQ_VU_VRING_KICK]            = { "VRING_KICK",            STATE_SIZE, STATE_SIZE,          0, 0,  NONE,   REFUSE,  F(INBAND_NOTIFICATIONS) },
    [SVQ_VU_GET_MAX_MEM_SLOTS]     = { "GET_MAX_MEM_SLOTS",     0, 0,                            0, 0,  TYPED,  HANDLE,  F(CONFIGURE_MEM_SLOTS) },
    [SVQ_VU_ADD_MEM_REG]           = { "ADD_MEM_REG",           40, 40,                          1, 1,  NONE,   HANDLE,  F(CONFIGURE_MEM_SLOTS) },
    [SVQ_VU_REM_MEM_REG]           = { "REM_MEM_REG",           40, 40,                          0, 1,  NONE,   HANDLE,  F(CONFIGURE_MEM_SLOTS) },
    [SVQ_VU_SET_STATUS]            = { "SET_STATUS",            8, 8,                            0, 0,  NONE,   HANDLE,  F(STATUS) },
    [SVQ_VU_GET_STATUS]            = { "GET_STATUS",            0, 0,                            0, 0,  TYPED,  FORWARD, F(STATUS) },
    [SVQ_VU_GET_SHARED_OBJECT]     = { "GET_SHARED_OBJECT",     UUID_SIZE, UUID_SIZE,            0, 0,  TYPED,  FORWARD, F(SHARED_OBJECT) },
    [SVQ_VU_SET_DEVICE_STATE_FD]   = { "SET_DEVICE_STATE_FD",   8, 8,                            1, 1,  TYPED,  FORWARD, F(DEVICE_STATE) },
    [SVQ_VU_CHECK_DEVICE_STATE]    = { "CHECK_DEVICE_STATE",    0, 0,                            0, 0,  TYPED,  FORWARD, F(DEVICE_STATE) },
    [SVQ_VU_GET_SHMEM_CONFIG]      = { "GET_SHMEM_CONFIG",      0, 0,                            0, 0,  TYPED,  FORWARD, F(SHMEM) },
};

static const struct svq_vu_rule backend_rules[SVQ_VU_BE_REQUEST_MAX] = {
    [SVQ_VU_BE_IOTLB_MSG]               = { "BACKEND_IOTLB_MSG",            IOTLB_SIZE, IOTLB_SIZE, 0, 0, NONE, FORWARD, ANY },
    [SVQ_VU_BE_CONFIG_CHANGE_MSG]       = { "BACKEND_CONFIG_CHANGE_MSG",    0, 0,                   0, 0, NONE, FORWARD, F(CONFIG) },
    [SVQ_VU_BE_VRING_HOST_NOTIFIER_MSG] = { "BACKEND_VRING_HOST_NOTIFIER_MSG", 24, 24,              0, 1, NONE, FORWARD, F(HOST_NOTIFIER) },
    [SVQ_VU_BE_VRING_CALL]              = { "BACKEND_VRING_CALL",           STATE_SIZE, STATE_SIZE, 0, 0, NONE, REFUSE,  F(INBAND_NOTIFICATIONS) },
    [SVQ_VU_BE_VRING_ERR]               = { "BACKEND_VRING_ERR",            STATE_SIZE, STATE_SIZE, 0, 0, NONE, REFUSE,  F(INBAND_NOTIFICATIONS) },
    [SVQ_VU_BE_SHARED_OBJECT_ADD]       = { "BACKEND_SHARED_OBJECT_ADD",    UUID_SIZE, UUID_SIZE,   0, 0, NONE, FORWARD, F(SHARED_OBJECT) },
    [SVQ_VU_BE_SHARED_OBJECT_REMOVE]    = { "BACKEND_SHARED_OBJECT_REMOVE", UUID_SIZE, UUID_SIZE,   0, 0, NONE, FORWARD, F(SHARED_OBJECT) },
    [SVQ_VU_BE_SHARED_OBJECT_LOOKUP]    = { "BACKEND_SHARED_OBJECT_LOOKUP", UUID_SIZE, UUID_SIZE,   0, 0, TYPED, FORWARD, F(SHARED_OBJECT) },
    [SVQ_VU_BE_SHMEM_MAP]               = { "BACKEND_SHMEM_MAP",            SHMEM_MAP_SIZE, SHMEM_MAP_SIZE, 1, 1, NONE, FORWARD, F(SHMEM) },
    [SVQ_VU_BE_SHMEM_UNMAP]             = { "BACKEND_SHMEM_UNMAP",          SHMEM_MAP_SIZE, SHMEM_MAP_SIZE, 0, 0, NONE, FORWARD, F(SHMEM) },
};
/* clang-format on */

const struct svq_vu_rule *svq_vu_rule(enum svq_vu_direction dir, uint32_t request)
{
    const struct svq_vu_rule *rules = dir == SVQ_VU_TO_BACKEND ? frontend_rules : backend_rules;
    uint32_t end =
        dir == SVQ_VU_TO_BACKEND ? (uint32_t)SVQ_VU_REQUEST_MAX : (uint32_t)SVQ_VU_BE_REQUEST_MAX;

    return request < end && rules[request].name ? &rules[request] : NULL;
}

const char *svq_vu_name(enum svq_vu_direction dir, uint32_t request)
{
    const struct svq_vu_rule *rule = svq_vu_rule(dir, request);

    return rule ? rule->name : "UNKNOWN";
}

int svq_vu_check_header(const struct svq_vu_header *header)
{
    if ((header->flags & SVQ_VU_VERSION_MASK) != SVQ_VU_VERSION)
        return -EPROTO;
    if (header->flags & SVQ_VU_REPLY)
        return -EPROTO;
    if (header->size > SVQ_VU_MAX_PAYLOAD)
        return -EMSGSIZE;
    return 0;
}

/* Does the vring message say that an fd comes with it? */
static bool vring_has_fd(const struct svq_vu_message *msg)
{
    return !(msg->payload.u64 & SVQ_VU_VRING_NOFD);
}

unsigned svq_vu_fds_expected(enum svq_vu_direction dir, const struct svq_vu_message *msg)
{
    const struct svq_vu_rule *rule = svq_vu_rule(dir, msg->header.request);

    if (!rule)
        return 0;
    if (dir == SVQ_VU_TO_BACKEND) {
        switch (msg->header.request) {
        case SVQ_VU_SET_MEM_TABLE:
            return msg->payload.table.count;
        case SVQ_VU_SET_VRING_KICK:
        case SVQ_VU_SET_VRING_CALL:
        case SVQ_VU_SET_VRING_ERR:
            return vring_has_fd(msg) ? 1 : 0;
        default:
            break;
        }
    }
    return rule->fds_min;
}

static int check_mem_table(const struct svq_vu_message *msg)
{
    uint32_t count = msg->payload.table.count;

    if (count == 0 || count > SVQ_VU_MAX_TABLE_REGIONS)
        return -EMSGSIZE;
    if (msg->header.size != TABLE_FIXED + count * sizeof(struct svq_vu_region))
        return -EMSGSIZE;
    return 0;
}

static int check_config(const struct svq_vu_message *msg)
{
    if (msg->payload.config.size != msg->header.size - SVQ_VU_CONFIG_HEADER)
        return -EMSGSIZE;
    return 0;
}

int svq_vu_check_request(enum svq_vu_direction dir, const struct svq_vu_message *msg)
{
    const struct svq_vu_rule *rule = svq_vu_rule(dir, msg->header.request);
    int err = 0;

    if (!rule)
        return -ENOSYS;
    if (msg->header.size < rule->size_min || msg->header.size > rule->size_max)
        return -EMSGSIZE;
    if (dir == SVQ_VU_TO_BACKEND) {
        if (msg->header.request == SVQ_VU_SET_MEM_TABLE)
            err = check_mem_table(msg);
        else if (msg->header.request == SVQ_VU_GET_CONFIG ||
                 msg->header.request == SVQ_VU_SET_CONFIG)
            err = check_config(msg);
    }
    if (err)
        return err;
    return msg->fd_count < svq_vu_fds_expected(dir, msg) ? -EBADF : 0;
}
