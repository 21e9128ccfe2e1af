/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * How a vhost-user back-end's socket is had: by connecting to the back-end's, or by listening for
 * the back-end. Control thread; never waits.
 */
#ifndef SVQ_BACKEND_DIAL_H
#define SVQ_BACKEND_DIAL_H

struct svq_dial;

/* The path that listen:PATH binds; NULL for one to connect to. */
const char *svq_dial_listens(const char *where);

/* Is this PATH or listen:PATH, and short enough for a socket? Return: NULL or what is wrong. */
const char *svq_dial_check(const char *where);

/**
 * svq_dial_new() - bind and listen, or get ready to connect. A stale socket is replaced, a live one
 * is not.
 *
 * Return: 0, -ENOMEM, or the error of binding.
 */
int svq_dial_new(const char *where, struct svq_dial **out);

/* Another user of the same way: it goes with the last of them, and the name that was bound too. */
struct svq_dial *svq_dial_ref(struct svq_dial *dial);
void svq_dial_unref(struct svq_dial *dial);

/**
 * svq_dial_open() - one attempt: connect, or take the one who has waited longest among those that
 * are still there. Whoever else has connected goes on waiting.
 *
 * Return: a socket or -errno; nobody there: -ECONNREFUSED, -ENOENT or -EAGAIN.
 */
int svq_dial_open(struct svq_dial *dial);

/* Readable when somebody waits to be taken; -1: only time tells. */
int svq_dial_wait_fd(const struct svq_dial *dial);

#endif
