/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/cpu_list.h"

#include <string.h>

#include "daemon/number.h"

/* The number in the first `length` characters. */
static bool read_number(const char *text, size_t length, uint64_t *out)
{
    char digits[8];

    if (length >= sizeof(digits))
        return false;
    memcpy(digits, text, length);
    digits[length] = '\0';
    return svq_number_parse(digits, SVQ_MAX_CPU - 1, out);
}

static bool read_range(const char *text, size_t length, struct svq_cpu_list *list)
{
    const char *dash = memchr(text, '-', length);
    size_t first_length = dash ? (size_t)(dash - text) : length;
    uint64_t first, last;

    if (!read_number(text, first_length, &first))
        return false;
    last = first;
    if (dash && !read_number(dash + 1, length - first_length - 1, &last))
        return false;
    if (last < first || list->count + (last - first) >= SVQ_MAX_CPU)
        return false;
    for (; first <= last; first++)
        list->cpus[list->count++] = (uint16_t)first;
    return true;
}

bool svq_cpu_list_parse(const char *text, struct svq_cpu_list *list)
{
    list->count = 0;
    for (;;) {
        size_t length = strcspn(text, ",");

        if (!read_range(text, length, list))
            return false;
        if (!text[length])
            return true;
        text += length + 1;
    }
}
