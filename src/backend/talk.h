/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The conversation with a vhost-user back-end: requests out, answers and acks in, each in its turn.
 *
 * With REPLY_ACK every setter asks for an ack but does not wait for it: acks come in the order of
 * the requests, and are taken later. Without REPLY_ACK a GET_FEATURES round trip tells that
 * everything before it has been read. A back-end that keeps us waiting longer than message-timeout
 * is given up: its next bytes could be the answer to anything.
 *
 * A switch tells a lot in a short time. So requests may be gathered, to go out with one system call
 * when the first answer is waited for; and what is due (acks, and answers to GET_VRING_BASE, all of
 * one size) is read as far as it has come, but never beyond the last answer that is due: whenever
 * nothing is due, all there is is in the socket, where poll(2) sees it.
 */
#ifndef SVQ_BACKEND_TALK_H
#define SVQ_BACKEND_TALK_H

#include <errno.h>

#include "backend/backend.h"

struct svq_dial;

/* Unanswered requests at most: both sockets' buffers hold more than this. */
#define VU_MAX_PENDING 128

/* Of those requests that are gathered: all but memory tables and what is forwarded. */
#define VU_MAX_GATHERED 64

/* A small request that has yet to go out. */
struct vu_letter {
    struct svq_vu_header header;
    uint8_t payload[sizeof(struct svq_vu_vring_addr)];
    int fd; /* the caller's until it has gone out; -1: none */
};

/* An ack, or the answer to GET_VRING_BASE. */
struct vu_answer {
    struct svq_vu_header header;
    union {
        uint64_t u64;
        struct svq_vu_vring_state state;
    } __attribute__((packed));
} __attribute__((packed));

struct vhost_user {
    struct svq_backend backend;
    struct svq_dial *dial;
    int fd;        /* -1: closed */
    bool opening;  /* it may leave without ado: it is not ours yet */
    bool unsynced; /* something was sent without asking for an ack */
    bool gathering;
    unsigned gathered;
    struct vu_letter letters[VU_MAX_GATHERED];
    unsigned pending;
    uint8_t requests[VU_MAX_PENDING]; /* whose answers are due, oldest first */
    struct svq_vring_stop *stop;      /* whose GET_VRING_BASE is the oldest among them */
    int64_t pace;                     /* nanoseconds that it takes for an answer, about */
    size_t have;                      /* bytes of answers that have been read ... */
    struct vu_answer answers[VU_MAX_PENDING];
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
/* Send what has been gathered. */
int vu_send_gathered(struct vhost_user *vu);
/* Take all answers that are due. Return: 0, -EREMOTEIO for a refusal among them, or worse. */
int vu_take_acks(struct vhost_user *vu);
/* A request with an answer of its own, which is left in vu->in. Takes the acks first. */
int vu_ask(struct vhost_user *vu, struct svq_vu_message *msg);
int vu_get_u64(struct vhost_user *vu, uint32_t request, uint64_t *value);

/* The pieces of those, for requests with an order of their own; only while open. */

/* The request about to be sent has no answer of its own: ask for an ack if there are acks. */
void vu_expect_ack(struct vhost_user *vu, struct svq_vu_message *msg);
/* The request about to be sent is GET_VRING_BASE, which vu->stop and what follows it are for. */
void vu_expect_base(struct vhost_user *vu);
/* Now, or while gathering: before anything is waited for. */
int vu_send(struct vhost_user *vu, const struct svq_vu_message *msg);
/* The answer to `request` into vu->in; its fds are the caller's. */
int vu_recv(struct vhost_user *vu, uint32_t request);
/* What is in vu->in has the wrong size: log it, close its fds. Return: -EPROTO. */
int vu_wrong_size(struct vhost_user *vu, uint32_t request);

#endif
