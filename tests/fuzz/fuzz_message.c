/* SPDX-License-Identifier: BSD-3-Clause */
/* Any header and payload through the checks: what passes them is safe to act on. */
#include <errno.h>
#include <stdbool.h>

#include <shadowvq/vhost_user.h>

#include "fuzz.h"

static int check(enum svq_vu_direction dir, struct svq_vu_message *msg, struct fuzz_input in,
                 uint8_t filler)
{
    memset(&msg->payload, filler, sizeof(msg->payload));
    fuzz_bytes(&in, &msg->payload, msg->header.size);
    return svq_vu_check_request(dir, msg);
}

/* What handlers rely on. */
static void check_good(enum svq_vu_direction dir, const struct svq_vu_message *msg)
{
    const struct svq_vu_rule *rule = svq_vu_rule(dir, msg->header.request);
    unsigned fds = svq_vu_fds_expected(dir, msg);
    uint32_t size = msg->header.size;

    fuzz_check(rule != NULL);
    fuzz_check(size >= rule->size_min && size <= rule->size_max);
    fuzz_check(fds <= msg->fd_count && fds <= SVQ_VU_MAX_FDS && fds <= rule->fds_max);
    if (dir != SVQ_VU_TO_BACKEND)
        return;
    if (msg->header.request == SVQ_VU_SET_MEM_TABLE) {
        uint32_t count = msg->payload.table.count;

        fuzz_check(count <= SVQ_VU_MAX_TABLE_REGIONS && count == fds);
        fuzz_check(8 + 32 * count <= size);
    } else if (msg->header.request == SVQ_VU_GET_CONFIG ||
               msg->header.request == SVQ_VU_SET_CONFIG) {
        fuzz_check(msg->payload.config.size <= SVQ_VU_MAX_CONFIG);
        fuzz_check(msg->payload.config.size + SVQ_VU_CONFIG_HEADER == size);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static struct svq_vu_message msg;
    struct fuzz_input in = {data, size};
    uint8_t control = (uint8_t)fuzz_number(&in, 1);
    enum svq_vu_direction dir = control & 1 ? SVQ_VU_TO_FRONTEND : SVQ_VU_TO_BACKEND;
    int header, zeros, ones;

    fuzz_bytes(&in, &msg.header, sizeof(msg.header));
    msg.fd_count = (control >> 1) % (SVQ_VU_MAX_FDS + 1);
    fuzz_check(svq_vu_name(dir, msg.header.request) != NULL);
    header = svq_vu_check_header(&msg.header);
    fuzz_check(header == 0 || header == -EPROTO || header == -EMSGSIZE);
    if (header)
        return 0;
    fuzz_check((msg.header.flags & SVQ_VU_VERSION_MASK) == SVQ_VU_VERSION);
    fuzz_check(!(msg.header.flags & SVQ_VU_REPLY));
    fuzz_check(msg.header.size <= SVQ_VU_MAX_PAYLOAD);
    /* Bytes beyond the payload are nobody's: they may not matter. */
    zeros = check(dir, &msg, in, 0);
    ones = check(dir, &msg, in, 0xff);
    fuzz_check(zeros == ones);
    fuzz_check(zeros == 0 || zeros == -ENOSYS || zeros == -EMSGSIZE || zeros == -EBADF);
    if (!zeros)
        check_good(dir, &msg);
    return 0;
}

/* A message of the right size for every request there is. */
size_t fuzz_seed(unsigned i, uint8_t data[FUZZ_MAX])
{
    bool back = i + 1 >= SVQ_VU_REQUEST_MAX;
    uint32_t request = back ? i + 2 - SVQ_VU_REQUEST_MAX : i + 1;
    const struct svq_vu_rule *rule =
        svq_vu_rule(back ? SVQ_VU_TO_FRONTEND : SVQ_VU_TO_BACKEND, request);
    struct svq_vu_header header = {request, SVQ_VU_VERSION, 0};
    uint32_t count = 2;

    if (!rule)
        return 0;
    memset(data, 0, FUZZ_MAX);
    header.size = rule->size_min;
    data[0] = (uint8_t)(back | rule->fds_max << 1);
    if (request == SVQ_VU_SET_MEM_TABLE && !back) {
        header.size = 8 + 32 * count;
        memcpy(data + 13, &count, sizeof(count));
    } else if ((request == SVQ_VU_GET_CONFIG || request == SVQ_VU_SET_CONFIG) && !back) {
        header.size = SVQ_VU_CONFIG_HEADER + count;
        memcpy(data + 13 + 4, &count, sizeof(count));
    }
    memcpy(data + 1, &header, sizeof(header));
    return 13 + header.size;
}
