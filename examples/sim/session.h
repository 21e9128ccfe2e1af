/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A front-end's connection to a vhost-user back-end: requests out, answers in, every answer
 * checked. Calls return 0 or -errno and leave a sentence in session->error.
 */
#ifndef SIM_SESSION_H
#define SIM_SESSION_H

#include <stdbool.h>
#include <stdint.h>

#include <shadowvq/vhost_user.h>

struct sim_session {
    int sock;          /* -1: not connected */
    bool ack_all;      /* ask for an ack of every message, as Cloud Hypervisor does */
    uint64_t protocol; /* acked protocol features */
    char error[200];
};

/* A request without payload. */
#define SIM_REQUEST(id)                                              \
    {                                                                \
        .header = {.request = SVQ_VU_##id, .flags = SVQ_VU_VERSION } \
    }

bool sim_session_has(const struct sim_session *session, enum svq_vu_protocol_feature bit);

/* Note why something failed. Return: err. */
int sim_session_fail(struct sim_session *session, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

/* Send a request, or receive the answer to it, of any size, in its place. */
int sim_session_send(struct sim_session *session, const struct svq_vu_message *msg);
int sim_session_receive(struct sim_session *session, struct svq_vu_message *msg);

/* Send a request that is always answered; the answer, of this size, replaces it in `msg`. */
int sim_session_ask(struct sim_session *session, struct svq_vu_message *msg, uint32_t reply_size);

/* The same when the answer brings a fd, which becomes the caller's. */
int sim_session_ask_fd(struct sim_session *session, struct svq_vu_message *msg, uint32_t reply_size,
                       int *fd);

/*
 * Send a request that has no answer of its own. With `sure` the back-end has acted on it when this
 * returns: by its ack, or if it cannot ack by the answer to a question asked afterwards.
 */
int sim_session_tell(struct sim_session *session, struct svq_vu_message *msg, bool sure);

/* The common shapes of messages. */
int sim_session_ask_u64(struct sim_session *session, enum svq_vu_request request, uint64_t *value);
int sim_session_tell_u64(struct sim_session *session, enum svq_vu_request request, uint64_t value,
                         bool sure);
int sim_session_tell_vring(struct sim_session *session, enum svq_vu_request request, unsigned index,
                           unsigned num, bool sure);
/* @fd: -1: there is none. */
int sim_session_tell_vring_fd(struct sim_session *session, enum svq_vu_request request,
                              unsigned index, int fd);

#endif
