/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Cuts a stream of bytes into JSON texts: several in one read, one over many reads, with any white
 * space between. It only counts brackets and quotes; whether a text is JSON is the parser's to say.
 *
 * The bytes may come from anybody. What is kept is bounded in size and in depth (the parser
 * recurses), and a text that can no longer become JSON ends there, so that one bad line does not
 * swallow the next.
 */
#ifndef SVQ_DAEMON_JSON_STREAM_H
#define SVQ_DAEMON_JSON_STREAM_H

#include <stdbool.h>
#include <stddef.h>

#define SVQ_JSON_TEXT_MAX  ((size_t)64 * 1024) /* bytes */
#define SVQ_JSON_DEPTH_MAX 64

enum svq_json_stream_result {
    SVQ_JSON_MORE,      /* needs more bytes */
    SVQ_JSON_TEXT,      /* `text` is complete, up to the next feed */
    SVQ_JSON_TOO_LARGE, /* said once; the rest of that text is passed over */
    SVQ_JSON_TOO_DEEP,  /* likewise */
    SVQ_JSON_NO_MEMORY  /* likewise */
};

enum svq_json_stream_state {
    SVQ_JSON_BETWEEN, /* no text begun */
    SVQ_JSON_NESTED,  /* inside an object or array */
    SVQ_JSON_WORD     /* a number or keyword that stands alone */
};

/* All zero is a fresh stream. */
struct svq_json_stream {
    char *text;
    size_t length;
    size_t capacity;
    enum svq_json_stream_state state;
    int braces;
    int brackets;
    bool in_string;
    bool escaped;
    bool discarding;
    bool complete; /* `text` was handed out: the next feed begins anew */
};

/**
 * svq_json_stream_feed() - take bytes up to the end of at most one text.
 *
 * Return: how many were taken; feed the rest afterwards. Less than `length` only with a *result
 * other than SVQ_JSON_MORE.
 */
size_t svq_json_stream_feed(struct svq_json_stream *stream, const char *bytes, size_t length,
                            enum svq_json_stream_result *result);

void svq_json_stream_release(struct svq_json_stream *stream);

#endif
