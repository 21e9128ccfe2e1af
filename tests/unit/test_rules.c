/* SPDX-License-Identifier: BSD-3-Clause */
/* The vhost-user message table against the specification, row by row, and the checks it drives. */
#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <string.h>

#include <cmocka.h>
#include <shadowvq/vhost_user.h>

#define ANY (-1)

/* What the specification and the peers send: a request that must pass. */
struct expected {
    uint32_t request;
    const char *name;
    uint32_t size;
    unsigned fds; /* that it needs */
    enum svq_vu_reply reply;
    int feature;
};

#define NONE  SVQ_VU_REPLY_NONE
#define TYPED SVQ_VU_REPLY_TYPED
#define F(x)  SVQ_VU_PROTOCOL_F_##x
#define ROW(name, size, fds, reply, feature)            \
    {                                                   \
        SVQ_VU_##name, #name, size, fds, reply, feature \
    }

static const struct expected frontend[] = {
    ROW(GET_FEATURES, 0, 0, TYPED, ANY),
    ROW(SET_FEATURES, 8, 0, NONE, ANY),
    ROW(SET_OWNER, 0, 0, NONE, ANY),
    ROW(RESET_OWNER, 0, 0, NONE, ANY),
    ROW(SET_MEM_TABLE, 8 + 32, 1, NONE, ANY),
    ROW(SET_LOG_BASE, 16, 1, SVQ_VU_REPLY_LOG_FD, ANY),
    ROW(SET_LOG_FD, 0, 1, NONE, ANY),
    ROW(SET_VRING_NUM, 8, 0, NONE, ANY),
    ROW(SET_VRING_ADDR, 40, 0, NONE, ANY),
    ROW(SET_VRING_BASE, 8, 0, NONE, ANY),
    ROW(GET_VRING_BASE, 8, 0, TYPED, ANY),
    ROW(SET_VRING_KICK, 8, 1, NONE, ANY),
    ROW(SET_VRING_CALL, 8, 1, NONE, ANY),
    ROW(SET_VRING_ERR, 8, 1, NONE, ANY),
    ROW(GET_PROTOCOL_FEATURES, 0, 0, TYPED, ANY),
    ROW(SET_PROTOCOL_FEATURES, 8, 0, NONE, ANY),
    ROW(GET_QUEUE_NUM, 0, 0, TYPED, ANY), /* QEMU and CH ask only with MQ, crosvm always */
    ROW(SET_VRING_ENABLE, 8, 0, NONE, ANY),
    ROW(SEND_RARP, 8, 0, NONE, F(RARP)),
    ROW(NET_SET_MTU, 8, 0, NONE, F(MTU)),
    ROW(SET_BACKEND_REQ_FD, 0, 1, NONE, F(BACKEND_REQ)),
    ROW(IOTLB_MSG, 32, 0, NONE, ANY),
    ROW(SET_VRING_ENDIAN, 8, 0, NONE, F(CROSS_ENDIAN)),
    ROW(GET_CONFIG, 12 + 60, 0, TYPED, ANY), /* crosvm asks without CONFIG, too */
    ROW(SET_CONFIG, 12 + 1, 0, NONE, ANY),
    ROW(CLOSE_CRYPTO_SESSION, 8, 0, NONE, F(CRYPTO_SESSION)),
    ROW(POSTCOPY_ADVISE, 0, 0, TYPED, F(PAGEFAULT)),
    ROW(POSTCOPY_LISTEN, 0, 0, NONE, F(PAGEFAULT)),
    ROW(POSTCOPY_END, 0, 0, TYPED, F(PAGEFAULT)),
    ROW(GET_INFLIGHT_FD, 24, 0, TYPED, F(INFLIGHT_SHMFD)),
    ROW(SET_INFLIGHT_FD, 24, 1, NONE, F(INFLIGHT_SHMFD)),
    ROW(GPU_SET_SOCKET, 0, 1, NONE, ANY),
    ROW(RESET_DEVICE, 0, 0, NONE, F(RESET_DEVICE)),
    ROW(VRING_KICK, 8, 0, NONE, F(INBAND_NOTIFICATIONS)),
    ROW(GET_MAX_MEM_SLOTS, 0, 0, TYPED, F(CONFIGURE_MEM_SLOTS)),
    ROW(ADD_MEM_REG, 40, 1, NONE, F(CONFIGURE_MEM_SLOTS)),
    ROW(REM_MEM_REG, 40, 0, NONE, F(CONFIGURE_MEM_SLOTS)),
    ROW(SET_STATUS, 8, 0, NONE, F(STATUS)),
    ROW(GET_STATUS, 0, 0, TYPED, F(STATUS)),
    ROW(GET_SHARED_OBJECT, 16, 0, TYPED, F(SHARED_OBJECT)),
    ROW(SET_DEVICE_STATE_FD, 8, 1, TYPED, F(DEVICE_STATE)),
    ROW(CHECK_DEVICE_STATE, 0, 0, TYPED, F(DEVICE_STATE)),
    ROW(GET_SHMEM_CONFIG, 0, 0, TYPED, F(SHMEM)),
};

static const struct expected backend[] = {
    ROW(BE_IOTLB_MSG, 32, 0, NONE, ANY),
    ROW(BE_CONFIG_CHANGE_MSG, 0, 0, NONE, F(CONFIG)),
    ROW(BE_VRING_HOST_NOTIFIER_MSG, 24, 0, NONE, F(HOST_NOTIFIER)),
    ROW(BE_VRING_CALL, 8, 0, NONE, F(INBAND_NOTIFICATIONS)),
    ROW(BE_VRING_ERR, 8, 0, NONE, F(INBAND_NOTIFICATIONS)),
    ROW(BE_SHARED_OBJECT_ADD, 16, 0, NONE, F(SHARED_OBJECT)),
    ROW(BE_SHARED_OBJECT_REMOVE, 16, 0, NONE, F(SHARED_OBJECT)),
    ROW(BE_SHARED_OBJECT_LOOKUP, 16, 0, TYPED, F(SHARED_OBJECT)),
};

#define COUNT(array) (sizeof(array) / sizeof((array)[0]))

/* A good message for a row; the payload's inner counts agree with its size. */
static void compose(struct svq_vu_message *msg, uint32_t request, uint32_t size, unsigned fds)
{
    memset(msg, 0, sizeof(*msg));
    msg->header.request = request;
    msg->header.flags = SVQ_VU_VERSION;
    msg->header.size = size;
    msg->fd_count = fds;
    for (unsigned i = 0; i < SVQ_VU_MAX_FDS; i++)
        msg->fds[i] = -1;
    if (request == SVQ_VU_SET_MEM_TABLE && size >= 8)
        msg->payload.table.count = (size - 8) / 32;
    if ((request == SVQ_VU_GET_CONFIG || request == SVQ_VU_SET_CONFIG) && size >= 12)
        msg->payload.config.size = size - 12;
}

static void check_rows(enum svq_vu_direction dir, const struct expected *rows, size_t count)
{
    static struct svq_vu_message msg;

    for (size_t i = 0; i < count; i++) {
        const struct expected *row = &rows[i];
        const struct svq_vu_rule *rule = svq_vu_rule(dir, row->request);

        if (!rule)
            fail_msg("%s has no rule", row->name);
        if (rule->reply != row->reply)
            fail_msg("%s: reply kind %d", row->name, rule->reply);
        if (rule->feature != row->feature)
            fail_msg("%s: feature %d", row->name, rule->feature);
        compose(&msg, row->request, row->size, row->fds);
        if (svq_vu_check_request(dir, &msg))
            fail_msg("%s of %u bytes, %u fds is refused", row->name, row->size, row->fds);
        if (svq_vu_fds_expected(dir, &msg) != row->fds)
            fail_msg("%s: expects %u fds", row->name, svq_vu_fds_expected(dir, &msg));
        if (row->fds) {
            msg.fd_count = row->fds - 1;
            if (svq_vu_check_request(dir, &msg) != -EBADF)
                fail_msg("%s passes with an fd too few", row->name);
        }
        /* The holder closes surplus fds. */
        msg.fd_count = row->fds + 1;
        if (svq_vu_check_request(dir, &msg))
            fail_msg("%s is refused for a surplus fd", row->name);
    }
}

static void test_frontend_rows(void **state)
{
    (void)state;
    check_rows(SVQ_VU_TO_BACKEND, frontend, COUNT(frontend));
}

static void test_backend_rows(void **state)
{
    (void)state;
    check_rows(SVQ_VU_TO_FRONTEND, backend, COUNT(backend));
}

/* Nothing outside of a row's limits passes, and what every peer sends is within them. */
static void check_sizes(enum svq_vu_direction dir, const struct expected *rows, size_t count)
{
    static struct svq_vu_message msg;

    for (size_t i = 0; i < count; i++) {
        const struct expected *row = &rows[i];
        const struct svq_vu_rule *rule = svq_vu_rule(dir, row->request);

        assert_in_range(row->size, rule->size_min, rule->size_max);
        assert_true(rule->fds_min <= rule->fds_max);
        assert_true(rule->size_max <= SVQ_VU_MAX_PAYLOAD);
        for (uint32_t size = 0; size <= SVQ_VU_MAX_PAYLOAD; size++) {
            if (size >= rule->size_min && size <= rule->size_max)
                continue;
            compose(&msg, row->request, size, SVQ_VU_MAX_FDS);
            assert_int_equal(svq_vu_check_request(dir, &msg), -EMSGSIZE);
        }
        compose(&msg, row->request, UINT32_MAX, SVQ_VU_MAX_FDS);
        assert_int_equal(svq_vu_check_request(dir, &msg), -EMSGSIZE);
    }
}

static void test_sizes(void **state)
{
    (void)state;
    check_sizes(SVQ_VU_TO_BACKEND, frontend, COUNT(frontend));
    check_sizes(SVQ_VU_TO_FRONTEND, backend, COUNT(backend));
}

/* A payload is read as one struct: sizes in between its two forms have no meaning. */
static void test_sizes_between_two_forms(void **state)
{
    static struct svq_vu_message msg;

    (void)state;
    compose(&msg, SVQ_VU_SET_LOG_BASE, 12, 1);
    assert_int_equal(svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg), -EMSGSIZE);
    compose(&msg, SVQ_VU_SET_LOG_FD, 4, 1);
    assert_int_equal(svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg), -EMSGSIZE);
    compose(&msg, SVQ_VU_SET_BACKEND_REQ_FD, 4, 1);
    assert_int_equal(svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg), -EMSGSIZE);
}

static void test_every_number_has_a_name(void **state)
{
    (void)state;
    for (uint32_t request = 1; request < SVQ_VU_REQUEST_MAX; request++) {
        const struct svq_vu_rule *rule = svq_vu_rule(SVQ_VU_TO_BACKEND, request);

        assert_non_null(rule);
        assert_non_null(rule->name);
        assert_string_equal(rule->name, svq_vu_name(SVQ_VU_TO_BACKEND, request));
    }
    for (uint32_t request = 1; request < SVQ_VU_BE_REQUEST_MAX; request++)
        assert_non_null(svq_vu_rule(SVQ_VU_TO_FRONTEND, request));
    for (size_t i = 0; i < COUNT(frontend); i++)
        assert_string_equal(svq_vu_name(SVQ_VU_TO_BACKEND, frontend[i].request), frontend[i].name);
}

static void test_unknown_numbers(void **state)
{
    static const uint32_t front[] = {0, SVQ_VU_REQUEST_MAX, 46, 255, 0x10001, UINT32_MAX};
    static const uint32_t back[] = {0, SVQ_VU_BE_REQUEST_MAX, 44, 0x80000001, UINT32_MAX};
    static struct svq_vu_message msg;

    (void)state;
    for (size_t i = 0; i < COUNT(front); i++) {
        assert_null(svq_vu_rule(SVQ_VU_TO_BACKEND, front[i]));
        assert_string_equal(svq_vu_name(SVQ_VU_TO_BACKEND, front[i]), "UNKNOWN");
        compose(&msg, front[i], 8, 1);
        assert_int_equal(svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg), -ENOSYS);
        assert_int_equal(svq_vu_fds_expected(SVQ_VU_TO_BACKEND, &msg), 0);
    }
    for (size_t i = 0; i < COUNT(back); i++) {
        assert_null(svq_vu_rule(SVQ_VU_TO_FRONTEND, back[i]));
        compose(&msg, back[i], 0, 0);
        assert_int_equal(svq_vu_check_request(SVQ_VU_TO_FRONTEND, &msg), -ENOSYS);
    }
}

/* ---- Header ------------------------------------------------------------------------------- */

static int check_header(uint32_t request, uint32_t flags, uint32_t size)
{
    struct svq_vu_header header = {request, flags, size};

    return svq_vu_check_header(&header);
}

static void test_header(void **state)
{
    (void)state;
    assert_int_equal(check_header(SVQ_VU_GET_FEATURES, 0x1, 0), 0);
    assert_int_equal(check_header(SVQ_VU_SET_FEATURES, 0x9, 8), 0);
    assert_int_equal(check_header(SVQ_VU_SET_FEATURES, 0x1, SVQ_VU_MAX_PAYLOAD), 0);
    /* An unknown request is no framing error: its payload can be read and refused. */
    assert_int_equal(check_header(200, 0x1, 100), 0);
    /* version */
    assert_int_equal(check_header(SVQ_VU_GET_FEATURES, 0x0, 0), -EPROTO);
    assert_int_equal(check_header(SVQ_VU_GET_FEATURES, 0x2, 0), -EPROTO);
    assert_int_equal(check_header(SVQ_VU_GET_FEATURES, 0x3, 0), -EPROTO);
    assert_int_equal(check_header(SVQ_VU_GET_FEATURES, 0x8, 0), -EPROTO);
    /* a reply is no request */
    assert_int_equal(check_header(SVQ_VU_GET_FEATURES, 0x5, 8), -EPROTO);
    assert_int_equal(check_header(SVQ_VU_GET_FEATURES, 0xd, 8), -EPROTO);
    /* size */
    assert_int_equal(check_header(SVQ_VU_SET_FEATURES, 0x1, SVQ_VU_MAX_PAYLOAD + 1), -EMSGSIZE);
    assert_int_equal(check_header(SVQ_VU_SET_FEATURES, 0x1, 0x80000000), -EMSGSIZE);
    assert_int_equal(check_header(SVQ_VU_SET_FEATURES, 0x1, UINT32_MAX), -EMSGSIZE);
}

/* ---- Inner counts -------------------------------------------------------------------------- */

static int check_table(uint32_t size, uint32_t count, unsigned fds)
{
    static struct svq_vu_message msg;

    compose(&msg, SVQ_VU_SET_MEM_TABLE, size, fds);
    msg.payload.table.count = count;
    return svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg);
}

static void test_memory_table(void **state)
{
    (void)state;
    for (uint32_t n = 1; n <= SVQ_VU_MAX_TABLE_REGIONS; n++) {
        assert_int_equal(check_table(8 + 32 * n, n, n), 0);
        assert_int_equal(check_table(8 + 32 * n, n, n - 1), -EBADF);
        assert_int_equal(check_table(8 + 32 * n - 1, n, n), -EMSGSIZE);
        assert_int_equal(check_table(8 + 32 * (n - 1), n, n), -EMSGSIZE);
    }
    assert_int_equal(check_table(0, 0, 0), -EMSGSIZE);
    assert_int_equal(check_table(7, 0, 0), -EMSGSIZE);
    assert_int_equal(check_table(8 + 32 * 33, 33, SVQ_VU_MAX_FDS), -EMSGSIZE);
    assert_int_equal(check_table(8 + 32, 33, SVQ_VU_MAX_FDS), -EMSGSIZE);
    assert_int_equal(check_table(8 + 32, UINT32_MAX, SVQ_VU_MAX_FDS), -EMSGSIZE);
    /* 8 + 32 * 0x08000001 is 40 in 32 bits */
    assert_int_equal(check_table(8 + 32, 0x08000001, SVQ_VU_MAX_FDS), -EMSGSIZE);
}

static int check_config(uint32_t request, uint32_t size, uint32_t inner)
{
    static struct svq_vu_message msg;

    compose(&msg, request, size, 0);
    msg.payload.config.size = inner;
    return svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg);
}

static void test_config(void **state)
{
    static const uint32_t requests[] = {SVQ_VU_GET_CONFIG, SVQ_VU_SET_CONFIG};

    (void)state;
    for (size_t i = 0; i < 2; i++) {
        assert_int_equal(check_config(requests[i], 12 + 1, 1), 0);
        assert_int_equal(check_config(requests[i], 12 + 256, 256), 0);
        assert_int_equal(check_config(requests[i], 12 + 257, 257), -EMSGSIZE);
        assert_int_equal(check_config(requests[i], 12 + 60, 61), -EMSGSIZE);
        assert_int_equal(check_config(requests[i], 12 + 60, 59), -EMSGSIZE);
        assert_int_equal(check_config(requests[i], 12 + 60, UINT32_MAX), -EMSGSIZE);
        assert_int_equal(check_config(requests[i], 12, UINT32_MAX - 11), -EMSGSIZE);
        assert_int_equal(check_config(requests[i], 11, UINT32_MAX), -EMSGSIZE);
        assert_int_equal(check_config(requests[i], 0, 0), -EMSGSIZE);
    }
}

static void test_vring_fd_bit(void **state)
{
    static const uint32_t requests[] = {SVQ_VU_SET_VRING_KICK, SVQ_VU_SET_VRING_CALL,
                                        SVQ_VU_SET_VRING_ERR};
    static struct svq_vu_message msg;

    (void)state;
    for (size_t i = 0; i < COUNT(requests); i++) {
        compose(&msg, requests[i], 8, 0);
        msg.payload.u64 = 3 | SVQ_VU_VRING_NOFD;
        assert_int_equal(svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg), 0);
        assert_int_equal(svq_vu_fds_expected(SVQ_VU_TO_BACKEND, &msg), 0);
        msg.payload.u64 = 0xff;
        assert_int_equal(svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg), -EBADF);
        assert_int_equal(svq_vu_fds_expected(SVQ_VU_TO_BACKEND, &msg), 1);
        msg.fd_count = 1;
        assert_int_equal(svq_vu_check_request(SVQ_VU_TO_BACKEND, &msg), 0);
    }
}

/* ---- Static facts -------------------------------------------------------------------------- */

static void test_policies(void **state)
{
    static const uint32_t refused[] = {SVQ_VU_POSTCOPY_ADVISE, SVQ_VU_POSTCOPY_LISTEN,
                                       SVQ_VU_POSTCOPY_END, SVQ_VU_VRING_KICK};
    static const uint32_t ours[] = {
        SVQ_VU_SET_FEATURES,   SVQ_VU_SET_MEM_TABLE,  SVQ_VU_SET_LOG_BASE,   SVQ_VU_SET_VRING_NUM,
        SVQ_VU_SET_VRING_ADDR, SVQ_VU_SET_VRING_BASE, SVQ_VU_GET_VRING_BASE, SVQ_VU_SET_VRING_KICK,
        SVQ_VU_SET_VRING_CALL, SVQ_VU_SET_VRING_ERR,  SVQ_VU_ADD_MEM_REG,    SVQ_VU_REM_MEM_REG};

    (void)state;
    for (size_t i = 0; i < COUNT(refused); i++)
        assert_int_equal(svq_vu_rule(SVQ_VU_TO_BACKEND, refused[i])->policy, SVQ_VU_POLICY_REFUSE);
    /* What names the guest's rings and memory must never slip through unseen. */
    for (size_t i = 0; i < COUNT(ours); i++)
        assert_int_equal(svq_vu_rule(SVQ_VU_TO_BACKEND, ours[i])->policy, SVQ_VU_POLICY_HANDLE);
}

static void test_wire_layout(void **state)
{
    (void)state;
    assert_int_equal(sizeof(struct svq_vu_header), 12);
    assert_int_equal(sizeof(struct svq_vu_vring_state), 8);
    assert_int_equal(sizeof(struct svq_vu_vring_addr), 40);
    assert_int_equal(offsetof(struct svq_vu_vring_addr, used), 16);
    assert_int_equal(offsetof(struct svq_vu_vring_addr, avail), 24);
    assert_int_equal(offsetof(struct svq_vu_vring_addr, log), 32);
    assert_int_equal(sizeof(struct svq_vu_region), 32);
    assert_int_equal(offsetof(struct svq_vu_mem_table, regions), 8);
    assert_int_equal(offsetof(struct svq_vu_single_region, region), 8);
    assert_int_equal(sizeof(struct svq_vu_log), 16);
    assert_int_equal(offsetof(struct svq_vu_config, data), SVQ_VU_CONFIG_HEADER);
    assert_int_equal(sizeof(struct svq_vu_inflight), 24);
    assert_int_equal(sizeof(union svq_vu_payload), SVQ_VU_MAX_PAYLOAD);
    assert_int_equal(SVQ_VU_REQUEST_MAX, 45);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_frontend_rows),
        cmocka_unit_test(test_backend_rows),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_sizes_between_two_forms),
        cmocka_unit_test(test_every_number_has_a_name),
        cmocka_unit_test(test_unknown_numbers),
        cmocka_unit_test(test_header),
        cmocka_unit_test(test_memory_table),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_vring_fd_bit),
        cmocka_unit_test(test_policies),
        cmocka_unit_test(test_wire_layout),
    };

    return cmocka_run_group_tests_name("rules", tests, NULL, NULL);
}
