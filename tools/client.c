/* SPDX-License-Identifier: BSD-3-Clause */
#include "client.h"

#include <errno.h>
#include <poll.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define GREETING_TIMEOUT 10000 /* milliseconds */
#define LINE_MAX_SIZE    (256u << 20)

struct svq_client {
    const char *path;
    int fd;
    char *buffer; /* bytes received; the first `used` of them are a line handed out */
    size_t used;
    size_t length;
    size_t capacity;
    json_t *events; /* arrived while waiting for an answer */
    char trouble[1024];
};

static enum svqctl_status complain(struct svq_client *client, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

static enum svqctl_status complain(struct svq_client *client, const char *format, ...)
{
    char text[512];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    snprintf(client->trouble, sizeof(client->trouble), "%.400s: %s", client->path, text);
    return SVQCTL_CONNECTION;
}

/* ---- Lines --------------------------------------------------------------------------------- */

static enum svqctl_status make_room(struct svq_client *client)
{
    size_t capacity = client->capacity ? client->capacity * 2 : 16384;
    char *grown;

    if (client->length < client->capacity)
        return SVQCTL_OK;
    if (capacity > LINE_MAX_SIZE)
        return complain(client, "the answer is too long; is this svqd's QMP socket?");
    grown = realloc(client->buffer, capacity);
    if (!grown)
        return complain(client, "out of memory");
    client->buffer = grown;
    client->capacity = capacity;
    return SVQCTL_OK;
}

static enum svqctl_status receive(struct svq_client *client, int timeout)
{
    struct pollfd pfd = {.fd = client->fd, .events = POLLIN};
    enum svqctl_status status = make_room(client);
    ssize_t got;
    int ready;

    if (status != SVQCTL_OK)
        return status;
    do {
        ready = poll(&pfd, 1, timeout);
    } while (ready < 0 && errno == EINTR);
    if (ready == 0)
        return complain(client, "connected, but nobody answers (too many clients?)");
    got = read(client->fd, client->buffer + client->length, client->capacity - client->length);
    if (got < 0 && errno != EINTR && errno != ECONNRESET)
        return complain(client, "%s", strerror(errno));
    if (got == 0 || (got < 0 && errno == ECONNRESET))
        return complain(client, "svqd closed the connection");
    client->length += got > 0 ? (size_t)got : 0;
    return SVQCTL_OK;
}

/* Drops the last line and finds the next. */
static bool next_line(struct svq_client *client, size_t *searched)
{
    char *end;

    if (client->used > 0) {
        client->length -= client->used;
        memmove(client->buffer, client->buffer + client->used, client->length);
        client->used = 0;
    }
    if (client->length == *searched)
        return false;
    end = memchr(client->buffer + *searched, '\n', client->length - *searched);
    *searched = client->length;
    if (end)
        client->used = (size_t)(end - client->buffer) + 1;
    return end != NULL;
}

static enum svqctl_status read_message(struct svq_client *client, int timeout, json_t **message)
{
    enum svqctl_status status;
    json_error_t error;
    size_t searched = 0;

    while (!next_line(client, &searched)) {
        status = receive(client, timeout);
        if (status != SVQCTL_OK)
            return status;
    }
    *message = json_loadb(client->buffer, client->used, 0, &error);
    if (!json_is_object(*message)) {
        json_decref(*message);
        return complain(client, "this is no QMP (%s)", error.text);
    }
    return SVQCTL_OK;
}

static enum svqctl_status send_message(struct svq_client *client, json_t *message)
{
    char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    enum svqctl_status status = SVQCTL_OK;
    size_t length = text ? strlen(text) : 0;
    size_t done = 0;

    if (!text)
        return complain(client, "out of memory");
    text[length++] = '\n'; /* in place of the NUL: from here on it is bytes */
    while (done < length && status == SVQCTL_OK) {
        ssize_t sent = send(client->fd, text + done, length - done, MSG_NOSIGNAL);

        if (sent >= 0)
            done += (size_t)sent;
        else if (errno == EPIPE)
            status = complain(client, "svqd closed the connection");
        else if (errno != EINTR)
            status = complain(client, "%s", strerror(errno));
    }
    free(text);
    return status;
}

/* ---- Commands and events ------------------------------------------------------------------- */

enum svqctl_status svq_client_refuse(struct svq_client *client, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(client->trouble, sizeof(client->trouble), format, args);
    va_end(args);
    return SVQCTL_REFUSED;
}

static enum svqctl_status refused(struct svq_client *client, const json_t *error)
{
    const char *desc = json_string_value(json_object_get(error, "desc"));

    return svq_client_refuse(client, "%s", desc ? desc : "svqd answered with an error");
}

/* The answer to a command, while events are put aside. */
static enum svqctl_status read_answer(struct svq_client *client, json_t **result)
{
    enum svqctl_status status;
    json_t *message;

    for (;;) {
        status = read_message(client, -1, &message);
        if (status != SVQCTL_OK)
            return status;
        if (!json_object_get(message, "event"))
            break;
        json_array_append_new(client->events, message);
    }
    *result = json_incref(json_object_get(message, "return"));
    if (!*result)
        status = refused(client, json_object_get(message, "error"));
    json_decref(message);
    return status;
}

enum svqctl_status svq_client_run(struct svq_client *client, const char *command, json_t *arguments,
                                  json_t **result)
{
    json_t *message = json_pack("{s:s, s:o*}", "execute", command, "arguments", arguments);
    enum svqctl_status status = send_message(client, message);

    json_decref(message);
    if (status != SVQCTL_OK)
        return status;
    return read_answer(client, result);
}

enum svqctl_status svq_client_event(struct svq_client *client, json_t **event)
{
    enum svqctl_status status;

    if (json_array_size(client->events) > 0) {
        *event = json_incref(json_array_get(client->events, 0));
        json_array_remove(client->events, 0);
        return SVQCTL_OK;
    }
    for (;;) {
        status = read_message(client, -1, event);
        if (status != SVQCTL_OK || json_object_get(*event, "event"))
            return status;
        json_decref(*event); /* nothing else is expected */
    }
}

/* ---- The connection ------------------------------------------------------------------------ */

static enum svqctl_status connect_to(struct svq_client *client)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    size_t length = strlen(client->path);

    if (length >= sizeof(address.sun_path))
        return complain(client, "the path is too long for a socket");
    memcpy(address.sun_path, client->path, length);
    client->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (client->fd < 0)
        return complain(client, "%s", strerror(errno));
    if (connect(client->fd, (const struct sockaddr *)&address, sizeof(address)) == 0)
        return SVQCTL_OK;
    if (errno == ENOENT || errno == ECONNREFUSED)
        return complain(client, "%s: is svqd running with --qmp %s? (-s SOCK names another)",
                        strerror(errno), client->path);
    return complain(client, "%s", strerror(errno));
}

static enum svqctl_status negotiate(struct svq_client *client)
{
    enum svqctl_status status;
    json_t *greeting;
    json_t *result;
    bool good;

    status = read_message(client, GREETING_TIMEOUT, &greeting);
    if (status != SVQCTL_OK)
        return status;
    good = json_object_get(greeting, "QMP") != NULL;
    json_decref(greeting);
    if (!good)
        return complain(client, "this is no QMP server");
    status = svq_client_run(client, "qmp_capabilities", NULL, &result);
    if (status == SVQCTL_OK)
        json_decref(result);
    return status;
}

enum svqctl_status svq_client_connect(struct svq_client *client)
{
    enum svqctl_status status = connect_to(client);

    return status == SVQCTL_OK ? negotiate(client) : status;
}

struct svq_client *svq_client_new(const char *path)
{
    struct svq_client *client = calloc(1, sizeof(*client));
    json_t *events = json_array();

    if (!client || !events) {
        json_decref(events);
        free(client);
        return NULL;
    }
    client->path = path;
    client->fd = -1;
    client->events = events;
    return client;
}

const char *svq_client_trouble(const struct svq_client *client)
{
    return client->trouble;
}

void svq_client_free(struct svq_client *client)
{
    if (client->fd >= 0)
        close(client->fd);
    json_decref(client->events);
    free(client->buffer);
    free(client);
}
