/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/failure.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

const char *svq_failure_class_name(enum svq_failure_class class)
{
    switch (class) {
    case SVQ_COMMAND_NOT_FOUND:
        return "CommandNotFound";
    case SVQ_DEVICE_NOT_FOUND:
        return "DeviceNotFound";
    case SVQ_GENERIC_ERROR:
        break;
    }
    return "GenericError";
}

/* Length of the UTF-8 sequence at p (at most `left` bytes), 0 when there is none. */
static size_t sequence_length(const unsigned char *p, size_t left)
{
    size_t length;
    size_t i;

    if (p[0] < 0x80)
        return 1;
    if (p[0] >= 0xc2 && p[0] <= 0xdf)
        length = 2;
    else if (p[0] >= 0xe0 && p[0] <= 0xef)
        length = 3;
    else if (p[0] >= 0xf0 && p[0] <= 0xf4)
        length = 4;
    else
        return 0;

    if (length > left)
        return 0;
    for (i = 1; i < length; i++) {
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    }
    /* Overlong forms, surrogates and numbers beyond Unicode: the second byte tells. */
    if ((p[0] == 0xe0 && p[1] < 0xa0) || (p[0] == 0xed && p[1] > 0x9f) ||
        (p[0] == 0xf0 && p[1] < 0x90) || (p[0] == 0xf4 && p[1] > 0x8f))
        return 0;
    return length;
}

/*
 * Texts quote what the user gave us, and were cut to the buffer's size: whatever is no UTF-8 any
 * more becomes '?', or it could not be put in JSON.
 */
static void make_utf8(char *text)
{
    unsigned char *p = (unsigned char *)text;
    size_t left = strlen(text);
    size_t length;

    while (left > 0) {
        length = sequence_length(p, left);
        if (length == 0) {
            *p = '?';
            length = 1;
        }
        p += length;
        left -= length;
    }
}

static void set_text(struct svq_failure *failure, enum svq_failure_class class, const char *format,
                     va_list args) __attribute__((format(printf, 3, 0)));

static void set_text(struct svq_failure *failure, enum svq_failure_class class, const char *format,
                     va_list args)
{
    failure->class = class;
    failure->hint[0] = '\0';
    vsnprintf(failure->text, sizeof(failure->text), format, args);
    make_utf8(failure->text);
}

int svq_fail(struct svq_failure *failure, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    set_text(failure, SVQ_GENERIC_ERROR, format, args);
    va_end(args);
    return -EINVAL;
}

int svq_fail_class(struct svq_failure *failure, enum svq_failure_class class, const char *format,
                   ...)
{
    va_list args;

    va_start(args, format);
    set_text(failure, class, format, args);
    va_end(args);
    return -EINVAL;
}

void svq_fail_hint(struct svq_failure *failure, const char *format, ...)
{
    va_list args;

    if (failure->hint[0])
        return;
    va_start(args, format);
    vsnprintf(failure->hint, sizeof(failure->hint), format, args);
    va_end(args);
}

void svq_fail_where(struct svq_failure *failure, const char *format, ...)
{
    char where[256];
    char text[sizeof(failure->text)];
    va_list args;

    va_start(args, format);
    vsnprintf(where, sizeof(where), format, args);
    va_end(args);
    memcpy(text, failure->text, sizeof(text));
    /* Cut on purpose when both are long. */
    if (snprintf(failure->text, sizeof(failure->text), "%s: %s", where, text) < 0)
        failure->text[0] = '\0';
    make_utf8(failure->text);
}
