/* SPDX-License-Identifier: BSD-3-Clause */
/* svqctl's end of a QMP connection. Calls block. */
#ifndef SVQCTL_CLIENT_H
#define SVQCTL_CLIENT_H

#include <jansson.h>

/* Exit statuses of svqctl; the manual lists them. */
enum svqctl_status {
    SVQCTL_OK = 0,
    SVQCTL_REFUSED = 1,   /* svqd answered with an error */
    SVQCTL_USAGE = 2,     /* svqctl was not called right */
    SVQCTL_CONNECTION = 3 /* no svqd there, or the connection broke */
};

struct svq_client;

/* @path: must outlive the client. Return: NULL without memory. */
struct svq_client *svq_client_new(const char *path);
void svq_client_free(struct svq_client *client);

/*
 * What went wrong in the last call that did not return SVQCTL_OK. Kept, not printed: the terminal
 * may be in other hands just then.
 */
const char *svq_client_trouble(const struct svq_client *client);

/* Keep another text as the trouble. Return: SVQCTL_REFUSED. */
enum svqctl_status svq_client_refuse(struct svq_client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Connect and negotiate. Return: SVQCTL_OK or SVQCTL_CONNECTION. */
enum svqctl_status svq_client_connect(struct svq_client *client);

/**
 * svq_client_run() - run a command and wait for its answer.
 * @arguments: taken over; NULL for none
 * @result: what the command returned, a new reference
 *
 * Return: SVQCTL_OK; SVQCTL_REFUSED when svqd answers with an error; SVQCTL_CONNECTION.
 */
enum svqctl_status svq_client_run(struct svq_client *client, const char *command, json_t *arguments,
                                  json_t **result);

/* Wait for the next event, a new reference. */
enum svqctl_status svq_client_event(struct svq_client *client, json_t **event);

#endif
