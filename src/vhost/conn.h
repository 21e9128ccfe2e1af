/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One end of a vhost-user socket: whole messages with their fds, in and out. Fiber context: both
 * calls wait for the socket, not for the process. A connection does not own its socket's address.
 */
#ifndef SVQ_VHOST_CONN_H
#define SVQ_VHOST_CONN_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

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

/* Bytes, and the fds that go with the first of them: a message, or what is left of one. */
struct svq_packet {
    const void *data;
    size_t size;
    const int *fds;
    unsigned fd_count;
};

struct svq_packet svq_packet_of(const struct svq_vu_message *msg);

/**
 * svq_conn_send_packets() - send many messages with few system calls, so that a peer that is woken
 * by the first finds the others as well. Fds arrive with the bytes that they were sent with.
 * @packets: become what is left of them
 */
int svq_conn_send_packets(int fd, struct svq_packet *packets, unsigned count, int64_t deadline);

/**
 * svq_conn_recv_plain() - bytes of messages that carry no fds, as many as there are, at least one.
 * Fds that come all the same are nobody's, and are closed.
 *
 * Return: how many; 0 when the peer closed; -EPROTO when fds were lost on the way; -ETIMEDOUT; or
 * the socket's error.
 */
ssize_t svq_conn_recv_plain(int fd, void *buf, size_t room, int64_t deadline);

#endif
