/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Where front-ends come from: a socket that we listen on, our own or an inherited one, or one that
 * we connect to until somebody answers. One front-end at a time; others wait in the socket's
 * backlog. Control thread.
 */
#ifndef SVQ_FRONTEND_FRONTEND_H
#define SVQ_FRONTEND_FRONTEND_H

#include <poll.h>
#include <stdbool.h>
#include <stdint.h>

struct svq_frontend;

/*
 * Is this PATH or connect:PATH, and short enough for a socket, or fd:N or fd:NAME of a socket that
 * can be had? Return: NULL or what is wrong.
 */
const char *svq_frontend_check(const char *address);

/* The path that is bound for this address; NULL: none is. */
const char *svq_frontend_listens(const char *address);
/* Do two (checked) addresses mean one socket? */
bool svq_frontend_same(const char *a, const char *b);

/**
 * svq_frontend_new() - bind and listen (PATH), take an inherited socket (fd:N, fd:NAME), or get
 * ready to connect (connect:PATH). A stale socket at PATH is replaced, a live one is not.
 *
 * Return: 0, -EADDRINUSE when another process listens there, or the socket's error.
 */
int svq_frontend_new(const char *address, struct svq_frontend **out);
/* Unlinks the socket that svq_frontend_new() made; an inherited one stays open for the next. */
void svq_frontend_free(struct svq_frontend *frontend);

/**
 * svq_frontend_next() - the next front-end's connection, or how to wait for it.
 * @poll: what to wait for (fd may be -1); @deadline: when to try again at the latest
 *
 * Return: a non-blocking socket, or -EAGAIN.
 */
int svq_frontend_next(struct svq_frontend *frontend, struct pollfd *poll, int64_t *deadline);

#endif
