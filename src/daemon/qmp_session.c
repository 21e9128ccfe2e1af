/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/qmp_session.h"

#include <stdlib.h>
#include <string.h>

#include "daemon/json_stream.h"

struct svq_qmp_session {
    struct svq_command_context context;
    struct svq_json_stream input;
    bool negotiated;
    bool failed;
    char *output;
    size_t start; /* output[start..end) waits */
    size_t end;
    size_t capacity;
};

/* A request taken apart; borrowed from its message. */
struct request {
    const char *command;
    json_t *arguments; /* NULL: none */
    json_t *id;        /* NULL: none */
};

/* ---- Output -------------------------------------------------------------------------------- */

char *svq_qmp_line(const json_t *message, size_t *length)
{
    char *text = message ? json_dumps(message, JSON_COMPACT) : NULL;
    size_t size = text ? strlen(text) : 0;
    char *line = text ? realloc(text, size + 2) : NULL;

    if (!line) {
        free(text);
        return NULL;
    }
    line[size] = '\r'; /* as QEMU ends its lines */
    line[size + 1] = '\n';
    *length = size + 2;
    return line;
}

static bool make_room(struct svq_qmp_session *s, size_t length)
{
    size_t waiting = s->end - s->start;
    size_t capacity = s->capacity ? s->capacity : 1024;
    char *grown;

    if (s->start > 0) {
        memmove(s->output, s->output + s->start, waiting);
        s->start = 0;
        s->end = waiting;
    }
    while (capacity - waiting < length)
        capacity *= 2;
    if (capacity == s->capacity)
        return true;
    grown = realloc(s->output, capacity);
    if (!grown)
        return false;
    s->output = grown;
    s->capacity = capacity;
    return true;
}

static bool append(struct svq_qmp_session *s, const char *bytes, size_t length)
{
    if (s->capacity - s->end < length && !make_room(s, length))
        return false;
    memcpy(s->output + s->end, bytes, length);
    s->end += length;
    return true;
}

/* Takes over the message. */
static void send_message(struct svq_qmp_session *s, json_t *message)
{
    size_t length;
    char *line = svq_qmp_line(message, &length);

    if (!line || !append(s, line, length))
        s->failed = true;
    free(line);
    json_decref(message);
}

static void send_result(struct svq_qmp_session *s, json_t *id, json_t *result)
{
    send_message(s, json_pack("{s:o, s:O*}", "return", result, "id", id));
}

static void send_failure(struct svq_qmp_session *s, json_t *id, const struct svq_failure *failure)
{
    send_message(s, json_pack("{s:O*, s:{s:s, s:s}}", "id", id, "error", "class",
                              svq_failure_class_name(failure->class), "desc", failure->text));
}

/* ---- Requests ------------------------------------------------------------------------------ */

static const struct svq_arg capabilities_args[] = {{"enable", SVQ_ARG_ARRAY, false},
                                                   {NULL, SVQ_ARG_STRING, false}};

/* "enable" may be an empty list; there is no capability to put in it. */
static json_t *negotiate(struct svq_qmp_session *s, json_t *arguments, struct svq_failure *failure)
{
    json_t *wanted = json_object_get(arguments, "enable");
    const char *name;

    if (s->negotiated) {
        svq_fail_class(failure, SVQ_COMMAND_NOT_FOUND,
                       "Capabilities negotiation is already complete, command ignored");
        return NULL;
    }
    if (svq_command_check(capabilities_args, arguments, failure) < 0)
        return NULL;
    if (json_array_size(wanted) > 0) {
        name = json_string_value(json_array_get(wanted, 0));
        if (name)
            svq_fail(failure, "Parameter 'enable' does not accept value '%s'", name);
        else
            svq_fail(failure, "Invalid parameter type for 'enable[0]', expected: string");
        return NULL;
    }
    s->negotiated = true;
    return json_object();
}

static json_t *run(struct svq_qmp_session *s, const struct request *request,
                   struct svq_failure *failure)
{
    if (strcmp(request->command, "qmp_capabilities") == 0)
        return negotiate(s, request->arguments, failure);
    if (!s->negotiated) {
        svq_fail_class(failure, SVQ_COMMAND_NOT_FOUND,
                       "Expecting capabilities negotiation with 'qmp_capabilities'");
        return NULL;
    }
    return svq_command_run(&s->context, request->command, request->arguments, failure);
}

static bool take_member(const char *name, json_t *value, struct request *request,
                        struct svq_failure *failure)
{
    if (strcmp(name, "id") == 0)
        return true;
    if (strcmp(name, "execute") == 0) {
        request->command = json_string_value(value);
        if (!request->command)
            svq_fail(failure, "QMP input member 'execute' must be a string");
        return request->command != NULL;
    }
    if (strcmp(name, "arguments") == 0) {
        request->arguments = value;
        if (!json_is_object(value))
            svq_fail(failure, "QMP input member 'arguments' must be an object");
        return json_is_object(value);
    }
    svq_fail(failure, "QMP input member '%s' is unexpected", name);
    return false;
}

static bool take_apart(json_t *message, struct request *request, struct svq_failure *failure)
{
    const char *name;
    json_t *value;

    memset(request, 0, sizeof(*request));
    if (!json_is_object(message)) {
        svq_fail(failure, "QMP input must be a JSON object");
        return false;
    }
    /* First of all: an error about any other member carries the id too. */
    request->id = json_object_get(message, "id");
    json_object_foreach(message, name, value) {
        if (!take_member(name, value, request, failure))
            return false;
    }
    if (!request->command)
        svq_fail(failure, "QMP input lacks member 'execute'");
    return request->command != NULL;
}

static void handle_text(struct svq_qmp_session *s, const char *text, size_t length)
{
    struct svq_failure failure;
    struct request request;
    json_error_t error;
    json_t *result = NULL;
    json_t *message;

    message = json_loadb(text, length, JSON_DECODE_ANY | JSON_REJECT_DUPLICATES, &error);
    if (!message) {
        svq_fail(&failure, "JSON parse error, %s", error.text);
        send_failure(s, NULL, &failure);
        return;
    }
    if (take_apart(message, &request, &failure))
        result = run(s, &request, &failure);
    if (result)
        send_result(s, request.id, result);
    else
        send_failure(s, request.id, &failure);
    json_decref(message);
}

static void handle_limit(struct svq_qmp_session *s, const char *reason)
{
    struct svq_failure failure;

    svq_fail(&failure, "%s", reason);
    send_failure(s, NULL, &failure);
}

/* ---- The session --------------------------------------------------------------------------- */

struct svq_qmp_session *svq_qmp_session_new(const struct svq_command_context *context)
{
    struct svq_qmp_session *s = calloc(1, sizeof(*s));

    if (!s)
        return NULL;
    s->context = *context;
    send_message(
        s, json_pack("{s:{s:o, s:[]}}", "QMP", "version", svq_command_version(), "capabilities"));
    if (s->failed) {
        svq_qmp_session_free(s);
        return NULL;
    }
    return s;
}

void svq_qmp_session_free(struct svq_qmp_session *s)
{
    if (!s)
        return;
    svq_json_stream_release(&s->input);
    free(s->output);
    free(s);
}

size_t svq_qmp_session_feed(struct svq_qmp_session *s, const char *bytes, size_t length)
{
    enum svq_json_stream_result result;
    size_t taken = svq_json_stream_feed(&s->input, bytes, length, &result);

    switch (result) {
    case SVQ_JSON_TEXT:
        handle_text(s, s->input.text, s->input.length);
        break;
    case SVQ_JSON_TOO_LARGE:
        handle_limit(s, "JSON token size limit exceeded");
        break;
    case SVQ_JSON_TOO_DEEP:
        handle_limit(s, "JSON nesting depth limit exceeded");
        break;
    case SVQ_JSON_NO_MEMORY:
        s->failed = true;
        break;
    case SVQ_JSON_MORE:
        break;
    }
    return taken;
}

bool svq_qmp_session_event(struct svq_qmp_session *s, const char *line, size_t length)
{
    if (!s->negotiated)
        return true;
    if (s->end - s->start + length > SVQ_QMP_OUTPUT_LIMIT)
        return false;
    return append(s, line, length);
}

const char *svq_qmp_session_output(const struct svq_qmp_session *s, size_t *length)
{
    *length = s->end - s->start;
    return *length > 0 ? s->output + s->start : NULL;
}

void svq_qmp_session_sent(struct svq_qmp_session *s, size_t length)
{
    s->start += length;
    if (s->start < s->end)
        return;
    s->start = 0;
    s->end = 0;
    /* A burst is over: no reason to keep its memory while the client idles. */
    if (s->capacity > SVQ_QMP_OUTPUT_FULL) {
        free(s->output);
        s->output = NULL;
        s->capacity = 0;
    }
}

bool svq_qmp_session_full(const struct svq_qmp_session *s)
{
    return s->end - s->start > SVQ_QMP_OUTPUT_FULL;
}

bool svq_qmp_session_failed(const struct svq_qmp_session *s)
{
    return s->failed;
}
