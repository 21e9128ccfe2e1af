/* SPDX-License-Identifier: BSD-3-Clause */
#include "qmp.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "common/wire.h"

#define TIMEOUT_MS 30000
#define LINE_MAX   (64 * 1024 * 1024) /* a thousand devices take some */

static int fail(struct sim_qmp *qmp, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(struct sim_qmp *qmp, int err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(qmp->error, sizeof(qmp->error), format, args);
    va_end(args);
    return err;
}

/* More bytes into the buffer. */
static int fill(struct sim_qmp *qmp)
{
    ssize_t got;

    if (qmp->length == qmp->room) {
        size_t room = qmp->room ? 2 * qmp->room : 4096;
        char *buffer = room > LINE_MAX ? NULL : realloc(qmp->buffer, room);

        if (!buffer)
            return fail(qmp, -ENOMEM, "QMP: a line of more than %zu bytes", qmp->room);
        qmp->buffer = buffer;
        qmp->room = room;
    }
    got = recv(qmp->sock, qmp->buffer + qmp->length, qmp->room - qmp->length, 0);
    if (got < 0 && errno == EAGAIN)
        return fail(qmp, -ETIMEDOUT, "QMP: no answer for %d seconds", TIMEOUT_MS / 1000);
    if (got < 0)
        return fail(qmp, -errno, "QMP: %s", strerror(errno));
    if (!got)
        return fail(qmp, -ECONNRESET, "QMP: the server closed the connection");
    qmp->length += (size_t)got;
    return 0;
}

/* The next object: one per line. */
static int receive(struct sim_qmp *qmp, json_t **object)
{
    json_error_t error;
    char *end;
    size_t line;

    while (!qmp->length || !(end = memchr(qmp->buffer, '\n', qmp->length))) {
        int ret = fill(qmp);

        if (ret)
            return ret;
    }
    line = (size_t)(end - qmp->buffer) + 1;
    *object = json_loadb(qmp->buffer, line, 0, &error);
    qmp->length -= line;
    memmove(qmp->buffer, qmp->buffer + line, qmp->length);
    if (!*object)
        return fail(qmp, -EPROTO, "QMP: not JSON: %s", error.text);
    return 0;
}

static int send_object(struct sim_qmp *qmp, const json_t *object)
{
    char *text = json_dumps(object, JSON_COMPACT);
    size_t length, sent = 0;

    if (!text)
        return fail(qmp, -ENOMEM, "QMP: out of memory");
    length = strlen(text);
    text[length++] = '\n'; /* instead of the terminating zero */
    while (sent < length) {
        ssize_t ret = send(qmp->sock, text + sent, length - sent, MSG_NOSIGNAL);

        if (ret < 0 && errno == EINTR)
            continue;
        if (ret < 0) {
            free(text);
            return fail(qmp, -errno, "QMP: %s", strerror(errno));
        }
        sent += (size_t)ret;
    }
    free(text);
    return 0;
}

int sim_qmp_connect(struct sim_qmp *qmp, const char *path, int wait_ms)
{
    json_t *greeting;
    int ret;

    memset(qmp, 0, sizeof(*qmp));
    qmp->sock = wire_connect(path, wait_ms);
    if (qmp->sock < 0)
        return fail(qmp, qmp->sock, "QMP: connecting to %s: %s", path, strerror(-qmp->sock));
    qmp->events = json_array();
    ret = wire_set_timeout(qmp->sock, TIMEOUT_MS);
    if (!ret)
        ret = receive(qmp, &greeting);
    if (ret)
        return ret;
    if (!json_is_object(json_object_get(greeting, "QMP")))
        ret = fail(qmp, -EPROTO, "QMP: the server did not greet");
    json_decref(greeting);
    return ret ? ret : sim_qmp_execute(qmp, "qmp_capabilities", NULL, NULL);
}

void sim_qmp_close(struct sim_qmp *qmp)
{
    if (qmp->sock >= 0)
        close(qmp->sock);
    qmp->sock = -1;
    free(qmp->buffer);
    json_decref(qmp->events);
    qmp->buffer = NULL;
    qmp->events = NULL;
}

/* What the server answered; events that come first are kept. */
static int receive_answer(struct sim_qmp *qmp, const char *command, json_t **result)
{
    json_t *answer, *error, *value;
    int ret;

    for (;;) {
        ret = receive(qmp, &answer);
        if (ret)
            return ret;
        if (!json_object_get(answer, "event"))
            break;
        json_array_append_new(qmp->events, answer);
    }
    error = json_object_get(answer, "error");
    value = json_object_get(answer, "return");
    if (error) {
        const char *desc = json_string_value(json_object_get(error, "desc"));

        ret = fail(qmp, -EREMOTEIO, "%s: %s", command, desc ? desc : "error without description");
    } else if (!value) {
        ret = fail(qmp, -EPROTO, "%s: neither result nor error", command);
    } else if (result) {
        *result = json_incref(value);
    }
    json_decref(answer);
    return ret;
}

int sim_qmp_execute(struct sim_qmp *qmp, const char *command, json_t *args, json_t **result)
{
    json_t *object = json_pack("{s:s}", "execute", command);
    int ret;

    if (args)
        json_object_set_new(object, "arguments", args);
    ret = send_object(qmp, object);
    json_decref(object);
    return ret ? ret : receive_answer(qmp, command, result);
}

json_t *sim_qmp_take_event(struct sim_qmp *qmp, const char *name)
{
    json_t *event;
    size_t i;

    json_array_foreach(qmp->events, i, event) {
        const char *its_name = json_string_value(json_object_get(event, "event"));

        if (!its_name || strcmp(its_name, name))
            continue;
        json_incref(event);
        json_array_remove(qmp->events, i);
        return event;
    }
    return NULL;
}

int sim_qmp_wait_event(struct sim_qmp *qmp, const char *name, json_t **event)
{
    while (!(*event = sim_qmp_take_event(qmp, name))) {
        json_t *object;
        int ret = receive(qmp, &object);

        if (ret)
            return ret;
        json_array_append_new(qmp->events, object);
    }
    return 0;
}
