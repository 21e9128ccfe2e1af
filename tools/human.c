/* SPDX-License-Identifier: BSD-3-Clause */
#include "human.h"

#include <stdio.h>

/* Three digits that count; a value that would round up to the next unit already has that unit. */
static const char *scale(double value, double step, const char *const *units, char *text)
{
    int precision;
    unsigned i = 0;

    while (units[i + 1] && value >= step - 0.5) {
        value /= step;
        i++;
    }
    if (i == 0 || value >= 99.95)
        precision = 0;
    else
        precision = value >= 9.995 ? 1 : 2;
    snprintf(text, SVQ_HUMAN_SIZE, "%.*f%s", precision, value, units[i]);
    return text;
}

const char *svq_human_bytes(double bytes, char text[SVQ_HUMAN_SIZE])
{
    static const char *const units[] = {" B", " KiB", " MiB", " GiB", " TiB", " PiB", " EiB", NULL};

    return scale(bytes, 1024, units, text);
}

const char *svq_human_count(double count, char text[SVQ_HUMAN_SIZE])
{
    static const char *const units[] = {"", " k", " M", " G", " T", " P", " E", NULL};

    return scale(count, 1000, units, text);
}

const char *svq_human_time(uint64_t microseconds, char text[SVQ_HUMAN_SIZE])
{
    static const char *const units[] = {" us", " ms", " s", NULL};

    return scale((double)microseconds, 1000, units, text);
}
