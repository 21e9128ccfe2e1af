/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/json_stream.h"

#include <stdlib.h>
#include <string.h>

/* What a byte does to the text that it comes after or belongs to. */
enum step {
    STEP_SKIP,  /* not part of any text */
    STEP_TAKE,  /* part of it */
    STEP_LAST,  /* part of it, and its last byte */
    STEP_BEFORE /* it ended before this byte, which is to be looked at again */
};

static bool is_blank(char c)
{
    return c == ' ' || c == '\t' || c == '\r' || c == '\n';
}

static bool is_structure(char c)
{
    return c == '{' || c == '}' || c == '[' || c == ']' || c == ',' || c == ':' || c == '"';
}

/* Bytes that no JSON text holds: control characters in strings, and 0xff anywhere. */
static bool never_in_string(char c)
{
    return (unsigned char)c < 0x20 || (unsigned char)c == 0xff;
}

static enum step step_string(struct svq_json_stream *s, char c)
{
    if (never_in_string(c))
        return STEP_LAST;
    if (s->escaped) {
        s->escaped = false;
    } else if (c == '\\') {
        s->escaped = true;
    } else if (c == '"') {
        s->in_string = false;
        if (s->braces == 0 && s->brackets == 0)
            return STEP_LAST;
    }
    return STEP_TAKE;
}

static enum step step_nested(struct svq_json_stream *s, char c)
{
    switch (c) {
    case '"':
        s->in_string = true;
        return STEP_TAKE;
    case '{':
        s->braces++;
        return STEP_TAKE;
    case '[':
        s->brackets++;
        return STEP_TAKE;
    case '}':
        s->braces--;
        break;
    case ']':
        s->brackets--;
        break;
    case (char)0xff:
        return STEP_LAST;
    default:
        return STEP_TAKE;
    }
    /* Below zero is a bracket that nothing opened: an error, which ends here. */
    if (s->braces < 0 || s->brackets < 0 || (s->braces == 0 && s->brackets == 0))
        return STEP_LAST;
    return STEP_TAKE;
}

static enum step step_between(struct svq_json_stream *s, char c)
{
    if (is_blank(c))
        return STEP_SKIP;
    if (c == '{' || c == '[' || c == '"') {
        s->state = SVQ_JSON_NESTED;
        return step_nested(s, c);
    }
    /* A stray '}', ',' or the like: a text of its own, and an error. */
    if (is_structure(c) || never_in_string(c))
        return STEP_LAST;
    s->state = SVQ_JSON_WORD;
    return STEP_TAKE;
}

static enum step step(struct svq_json_stream *s, char c)
{
    if (s->in_string)
        return step_string(s, c);
    switch (s->state) {
    case SVQ_JSON_NESTED:
        return step_nested(s, c);
    case SVQ_JSON_WORD:
        return is_blank(c) || is_structure(c) || never_in_string(c) ? STEP_BEFORE : STEP_TAKE;
    case SVQ_JSON_BETWEEN:
        break;
    }
    return step_between(s, c);
}

static enum svq_json_stream_result store(struct svq_json_stream *s, char c)
{
    if (s->braces + s->brackets > SVQ_JSON_DEPTH_MAX)
        return SVQ_JSON_TOO_DEEP;
    if (s->length == SVQ_JSON_TEXT_MAX)
        return SVQ_JSON_TOO_LARGE;
    if (s->length == s->capacity) {
        size_t capacity = s->capacity ? s->capacity * 2 : 256;
        char *grown = realloc(s->text, capacity);

        if (!grown)
            return SVQ_JSON_NO_MEMORY;
        s->text = grown;
        s->capacity = capacity;
    }
    s->text[s->length++] = c;
    return SVQ_JSON_MORE;
}

static void begin(struct svq_json_stream *s)
{
    s->state = SVQ_JSON_BETWEEN;
    s->length = 0;
    s->braces = 0;
    s->brackets = 0;
    s->in_string = false;
    s->escaped = false;
    s->discarding = false;
    s->complete = false;
}

/* The text ended. Return: whether there is one to hand out. */
static bool end(struct svq_json_stream *s)
{
    if (s->discarding) {
        begin(s);
        return false;
    }
    s->complete = true;
    return true;
}

size_t svq_json_stream_feed(struct svq_json_stream *s, const char *bytes, size_t length,
                            enum svq_json_stream_result *result)
{
    size_t i = 0;

    if (s->complete)
        begin(s);
    *result = SVQ_JSON_MORE;
    while (i < length) {
        enum step what = step(s, bytes[i]);

        if (what != STEP_BEFORE)
            i++;
        if ((what == STEP_TAKE || what == STEP_LAST) && !s->discarding) {
            *result = store(s, bytes[i - 1]);
            s->discarding = *result != SVQ_JSON_MORE;
        }
        if ((what == STEP_LAST || what == STEP_BEFORE) && end(s))
            *result = SVQ_JSON_TEXT;
        if (*result != SVQ_JSON_MORE)
            break;
    }
    return i;
}

void svq_json_stream_release(struct svq_json_stream *s)
{
    free(s->text);
    memset(s, 0, sizeof(*s));
}
