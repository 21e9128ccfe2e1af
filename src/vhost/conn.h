/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One end of a vhost-user socket: whole messages with their fds, in and out. Fiber context: both
 * calls wait for the socket, not for the process. A connection does not own its socket's address.
 */
#ifndef SVQ_VHOST_CONN_H
#define SVQ_VHOST_CONN_H

#include <stdint.h>

#include <shadowvq/vhost_user.h>

/* Close what nobody took and forget it. */
void svq_message_close_fds(struct svq_vu_message *msg);

/* Move an fd out of a message; -1 when there is none at that place. */
int svq_message_take_fd(struct svq_vu_message *msg, unsigned i);

/* A request without payload; give it one with svq_message_u64() or by hand. */
void svq_message_init(struct svq_vu_message *msg, uint32_t request);
void svq_message_u64(struct svq_vu_message *msg, uint32_t request, uint64_t value);

/**
 * svq_conn_recv() - the next message, request or reply; its fds are the caller's to close.
 * @deadline: for the whole message, on svq_now()'s clock
 *
 * Only what framing needs is checked here: the payload fits, and no fd was lost on the way.
 *
 * Return: 1; 0 when the peer closed between messages; -ECONNRESET when it closed within one;
 * -EMSGSIZE for a payload over the maximum; -EPROTO when more fds came than any message has;
 * -ETIMEDOUT; or the socket's error.
 */
int svq_conn_recv(int fd, struct svq_vu_message *msg, int64_t deadline);

/**
 * svq_conn_send() - send a message; its fds stay the caller's.
 *
 * Return: 0, -ETIMEDOUT or the socket's error (-EPIPE when the peer is gone).
 */
int svq_conn_send(int fd, const struct svq_vu_message *msg, int64_t deadline);

/**
 * svq_conn_send_pair() - two messages in one system call, so that a peer that is woken by the first
 * finds the second as well.
 */
int svq_conn_send_pair(int fd, const struct svq_vu_message *first,
                       const struct svq_vu_message *second, int64_t deadline);

#endif
