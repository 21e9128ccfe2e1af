/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The conversation with a vhost-user back-end: requests out, answers and acks in, each in its turn.
 *
 * With REPLY_ACK every setter asks for an ack but does not wait for it: acks come in the order of
 * the requests, and are taken later. Without REPLY_ACK a GET_FEATURES round trip tells that
 * everything before it has been read. A back-end that keeps us waiting longer than message-timeout
 * is given up: its next bytes could be the answer to anything.
 */
#ifndef SVQ_BACKEND_TALK_H
#define SVQ_BACKEND_TALK_H

#include <errno.h>

#include "backend/backend.h"

struct svq_dial;

/* Unanswered requests at most: both sockets' buffers hold far more than this. */
#define VU_MAX_PENDING 64

struct vhost_user {
    struct svq_backend backend;
    struct svq_dial *dial;
    int fd;        /* -1: closed */
    bool opening;  /* it may leave without ado: it is not ours yet */
    bool unsynced; /* something was sent without asking for an ack */
    unsigned pending;
    uint8_t requests[VU_MAX_PENDING]; /* whose acks are due, oldest first */
    struct svq_vu_message out;
    struct svq_vu_message in;
};

/* Is that the error of a peer who has left? */
static inline bool vu_has_left(int err)
{
    return err == -ECONNRESET || err == -EPIPE;
}

static inline const char *vu_name(uint32_t request)
{
    return svq_vu_name(SVQ_VU_TO_BACKEND, request);
}

/* All of them: -ENOTCONN while closed, if they would send or receive. */

/* Queue a request that has no answer of its own. */
int vu_queue(struct vhost_user *vu, struct svq_vu_message *msg);
/* Take all acks that are due. Return: 0, -EREMOTEIO for a refusal among them, or worse. */
int vu_take_acks(struct vhost_user *vu);
/* A request with an answer of its own, which is left in vu->in. Takes the acks first. */
int vu_ask(struct vhost_user *vu, struct svq_vu_message *msg);
int vu_get_u64(struct vhost_user *vu, uint32_t request, uint64_t *value);

/* The pieces of those, for requests with an order of their own; only while open. */

/* The request about to be sent has no answer of its own: ask for an ack if there are acks. */
void vu_expect_ack(struct vhost_user *vu, struct svq_vu_message *msg);
int vu_send(struct vhost_user *vu, const struct svq_vu_message *msg);
/* The answer to `request` into vu->in; its fds are the caller's. */
int vu_recv(struct vhost_user *vu, uint32_t request);
/* What is in vu->in has the wrong size: log it, close its fds. Return: -EPROTO. */
int vu_wrong_size(struct vhost_user *vu, uint32_t request);

#endif
