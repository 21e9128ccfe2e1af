/* SPDX-License-Identifier: BSD-3-Clause */
#include "bars.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define WIDTH      1000
#define LEFT       220 /* labels */
#define RIGHT      300 /* figures */
#define BAR_STEP   22
#define BAR_HEIGHT 14
#define HEAD       34 /* of a group */
#define TOP        40

void bars_add(struct bars *bars, const struct bar *bar)
{
    if (bars->count == bars->capacity) {
        size_t capacity = bars->capacity ? 2 * bars->capacity : 32;
        struct bar *all = realloc(bars->all, capacity * sizeof(*all));

        if (!all)
            return;
        bars->all = all;
        bars->capacity = capacity;
    }
    bars->all[bars->count++] = *bar;
}

void bars_release(struct bars *bars)
{
    free(bars->all);
    *bars = (struct bars){0};
}

static void put_text(FILE *out, const char *text)
{
    for (; *text; text++) {
        switch (*text) {
        case '<':
            fputs("&lt;", out);
            break;
        case '>':
            fputs("&gt;", out);
            break;
        case '&':
            fputs("&amp;", out);
            break;
        default:
            fputc(*text, out);
        }
    }
}

static size_t group_end(const struct bars *bars, size_t first)
{
    size_t end = first;

    while (end < bars->count && !strcmp(bars->all[end].group, bars->all[first].group))
        end++;
    return end;
}

static int height(const struct bars *bars)
{
    int height = TOP;

    for (size_t first = 0, end; first < bars->count; first = end) {
        end = group_end(bars, first);
        height += HEAD + (int)(end - first) * BAR_STEP;
    }
    return height + 20;
}

static void draw_bar(FILE *out, const struct bar *bar, double scale, int y)
{
    double x = LEFT + bar->value * scale;
    double low = LEFT + bar->low * scale, high = LEFT + bar->high * scale;
    double middle = y + BAR_HEIGHT / 2.0;

    fprintf(out, "<text x=\"%d\" y=\"%d\" text-anchor=\"end\">", LEFT - 8, y + 11);
    put_text(out, bar->label);
    fprintf(out, "</text>\n<rect x=\"%d\" y=\"%d\" width=\"%.1f\" height=\"%d\"/>\n", LEFT, y,
            x - LEFT, BAR_HEIGHT);
    fprintf(out, "<path d=\"M%.1f %.1fH%.1fM%.1f %.1fv8M%.1f %.1fv8\"/>\n", low, middle, high, low,
            middle - 4, high, middle - 4);
    fprintf(out, "<text x=\"%.1f\" y=\"%d\">%.4g (%.4g-%.4g) ", (high > x ? high : x) + 8, y + 11,
            bar->value, bar->low, bar->high);
    put_text(out, bar->unit);
    fputs("</text>\n", out);
}

static int draw_group(FILE *out, const struct bars *bars, size_t first, size_t end, int y)
{
    double most = 0;

    for (size_t i = first; i < end; i++) {
        if (bars->all[i].high > most)
            most = bars->all[i].high;
        if (bars->all[i].value > most)
            most = bars->all[i].value;
    }
    fprintf(out, "<text class=\"h\" x=\"10\" y=\"%d\">", y + 20);
    put_text(out, bars->all[first].group);
    fputs("</text>\n", out);
    y += HEAD;
    for (size_t i = first; i < end; i++, y += BAR_STEP)
        draw_bar(out, &bars->all[i], most > 0 ? (WIDTH - LEFT - RIGHT) / most : 0, y);
    return y;
}

int bars_write(const struct bars *bars, const char *title, const char *path)
{
    FILE *out = fopen(path, "we");
    int y = TOP, tall = height(bars);
    int ret;

    if (!out)
        return -errno;
    fprintf(out,
            "<svg xmlns=\"http://www.w3.org/2000/svg\" width=\"%d\" height=\"%d\" "
            "viewBox=\"0 0 %d %d\">\n"
            "<style>svg{background:#fff}text{font:12px sans-serif;fill:#222}"
            ".h{font-weight:bold}rect{fill:#7aa6d6}path{stroke:#222;fill:none}</style>\n",
            WIDTH, tall, WIDTH, tall);
    fputs("<text class=\"h\" x=\"10\" y=\"24\">", out);
    put_text(out, title);
    fputs("</text>\n", out);
    for (size_t first = 0, end; first < bars->count; first = end) {
        end = group_end(bars, first);
        y = draw_group(out, bars, first, end, y);
    }
    fputs("</svg>\n", out);
    ret = ferror(out) ? -EIO : 0;
    return fclose(out) ? -errno : ret;
}
