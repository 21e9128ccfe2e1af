/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * One client's conversation in the QEMU Machine Protocol, without the socket: bytes in, bytes out.
 *
 * Output is kept here until the owner could send it. Answers are never dropped: the owner stops
 * feeding while much is waiting (svq_qmp_session_full()). Events have nobody to slow down, so a
 * client that does not read them loses the connection (svq_qmp_session_event()).
 */
#ifndef SVQ_DAEMON_QMP_SESSION_H
#define SVQ_DAEMON_QMP_SESSION_H

#include <stdbool.h>
#include <stddef.h>

#include "daemon/commands.h"

/* Bytes waiting above which no further command is looked at, and no further event taken. */
#define SVQ_QMP_OUTPUT_FULL  ((size_t)64 * 1024)
#define SVQ_QMP_OUTPUT_LIMIT ((size_t)1024 * 1024)

struct svq_qmp_session;

/* Begins with the greeting as output. Return: NULL without memory. */
struct svq_qmp_session *svq_qmp_session_new(const struct svq_command_context *context);
void svq_qmp_session_free(struct svq_qmp_session *session);

/**
 * svq_qmp_session_feed() - take bytes up to the end of one command and run it. Fiber: may wait.
 *
 * Return: how many bytes were taken; feed the rest next.
 */
size_t svq_qmp_session_feed(struct svq_qmp_session *session, const char *bytes, size_t length);

/* Append an event's line if this client has negotiated. Return: false when it must be dropped. */
bool svq_qmp_session_event(struct svq_qmp_session *session, const char *line, size_t length);

/* What waits to be sent, and how much of it was. */
const char *svq_qmp_session_output(const struct svq_qmp_session *session, size_t *length);
void svq_qmp_session_sent(struct svq_qmp_session *session, size_t length);
bool svq_qmp_session_full(const struct svq_qmp_session *session);
/* No memory for an answer: the client cannot be served any more. */
bool svq_qmp_session_failed(const struct svq_qmp_session *session);

/* A message as it goes over the wire, to be freed; NULL without memory. */
char *svq_qmp_line(const json_t *message, size_t *length);

#endif
