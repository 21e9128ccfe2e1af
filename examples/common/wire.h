/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * vhost-user messages over a UNIX stream socket: whole messages in and out, with their fds.
 */
#ifndef EXAMPLES_WIRE_H
#define EXAMPLES_WIRE_H

#include <stddef.h>

#include <shadowvq/vhost_user.h>

/* Send a message; its fds stay the caller's. Return: 0 or -errno. */
int wire_send(int sock, const struct svq_vu_message *msg);

/*
 * Receive a message; its fds are then the caller's, see wire_close_fds(). Nothing is checked but
 * what reading needs: the payload must fit, and no fd may have been lost on the way.
 *
 * Return: 0, -ENOTCONN when the peer closed between two messages, -ECONNRESET in the middle of
 * one, -EMSGSIZE for a payload that no message has, -EBADF when fds were cut off, or read's error
 * (-EAGAIN: the socket's receive timeout passed).
 */
int wire_receive(int sock, struct svq_vu_message *msg);

/* Close the fds that nobody took (a taker leaves -1 in their place). */
void wire_close_fds(struct svq_vu_message *msg);

/* Take a message's first fd: the caller's from now on, or -1 when there is none. */
int wire_take_fd(struct svq_vu_message *msg);

/* A listening socket at path, which must not exist. Return: the socket or -errno. */
int wire_listen(const char *path);

/*
 * Connect, trying again until somebody listens or the time is over; a signal ends it early.
 *
 * Return: the socket or -errno.
 */
int wire_connect(const char *path, int timeout_ms);

/* recv() and send() on this socket fail with EAGAIN after so long. Return: 0 or -errno. */
int wire_set_timeout(int sock, int timeout_ms);

#endif
