/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/number.h"

#include <stdlib.h>
#include <string.h>

#include "engine/engine.h"

bool svq_number_parse(const char *text, uint64_t max, uint64_t *out)
{
    uint64_t value = 0;
    const char *p;

    if (text[0] == '\0')
        return false;
    for (p = text; *p; p++) {
        unsigned digit = (unsigned)(*p - '0');

        if (digit > 9 || value > (UINT64_MAX - digit) / 10)
            return false;
        value = value * 10 + digit;
    }
    if (value > max)
        return false;
    *out = value;
    return true;
}

bool svq_poll_us_parse(const char *text, int *out)
{
    uint64_t value;

    if (strcmp(text, "always") == 0) {
        *out = SVQ_POLL_ALWAYS;
        return true;
    }
    if (!svq_number_parse(text, SVQ_MAX_POLL_US, &value))
        return false;
    *out = (int)value;
    return true;
}

bool svq_poll_us_convert(const json_t *value, int *out)
{
    json_int_t number = json_integer_value(value);

    if (json_is_string(value))
        return svq_poll_us_parse(json_string_value(value), out);
    if (!json_is_integer(value) || number < 0 || number > SVQ_MAX_POLL_US)
        return false;
    *out = (int)number;
    return true;
}

bool svq_seconds_parse(const char *text, bool zero, int64_t *nanoseconds)
{
    size_t whole = strspn(text, "0123456789");
    size_t length = whole;

    if (whole == 0)
        return false;
    if (text[whole] == '.') {
        size_t fraction = strspn(text + whole + 1, "0123456789");

        if (fraction == 0)
            return false;
        length += 1 + fraction;
    }
    if (text[length] != '\0')
        return false;
    return svq_seconds_convert(strtod(text, NULL), zero, nanoseconds);
}

bool svq_seconds_convert(double seconds, bool zero, int64_t *nanoseconds)
{
    if (zero && seconds == 0) {
        *nanoseconds = 0;
        return true;
    }
    /* The negation also catches what is not a number. */
    if (!(seconds >= SVQ_SECONDS_MIN && seconds <= SVQ_SECONDS_MAX))
        return false;
    *nanoseconds = (int64_t)(seconds * 1e9 + 0.5);
    return true;
}
