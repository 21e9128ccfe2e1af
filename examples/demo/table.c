/* SPDX-License-Identifier: BSD-3-Clause */
#include "demo.h"

#include <inttypes.h>
#include <stdio.h>

#include "screen.h"

#define LABEL 18
#define WIDTH 12
#define UNIT  5

/* "1234567" as "1,234,567". */
static const char *grouped(uint64_t value, char *text, size_t size)
{
    char digits[32];
    int count = snprintf(digits, sizeof(digits), "%" PRIu64, value);
    size_t at = 0;

    for (int i = 0; i < count && at + 2 < size; i++) {
        if (i && (count - i) % 3 == 0)
            text[at++] = ',';
        text[at++] = digits[i];
    }
    text[at] = '\0';
    return text;
}

#define GROUPED(value) grouped(value, (char[40]){0}, 40)

#define COLUMNS 3

struct column {
    const char *name;
    const struct demo_rate *rate;
};

/* The columns that have figures. Return: how many. */
static unsigned columns(const struct demo *demo, struct column *found)
{
    bool direct = demo->options.direct;
    const struct column all[COLUMNS] = {
        {direct ? "direct" : "pass-through", &demo->results.pass_through},
        {"shadow", &demo->results.shadow},
        {direct ? "dirty log" : "shadow + log", &demo->results.logging},
    };
    unsigned count = 0;

    for (unsigned i = 0; i < COLUMNS; i++) {
        if (all[i].rate->seconds > 0)
            found[count++] = all[i];
    }
    return count;
}

static void row(const struct demo *demo, const char *label, const char *unit, int precision,
                double (*value)(const struct demo *demo, const struct demo_rate *rate))
{
    struct column found[COLUMNS];
    unsigned count = columns(demo, found);
    char line[160];
    int len = snprintf(line, sizeof(line), "  %-*s", LABEL, label);

    for (unsigned i = 0; i < count; i++)
        len += snprintf(line + len, sizeof(line) - (size_t)len, "%*.*f %-*s", WIDTH, precision,
                        value(demo, found[i].rate), i + 1 < count ? UNIT : 0, unit);
    demo_line("%s", line);
}

static void head(const struct demo *demo)
{
    struct column found[COLUMNS];
    unsigned count = columns(demo, found);
    char line[160] = "";
    int len = snprintf(line, sizeof(line), "  %-*s", LABEL, "");

    for (unsigned i = 0; i < count; i++)
        len += snprintf(line + len, sizeof(line) - (size_t)len, "%*s%*s", WIDTH, found[i].name,
                        i + 1 < count ? UNIT + 1 : 0, "");
    demo_line("%s%s%s", demo_colours.bold, line, demo_colours.off);
}

static double throughput(const struct demo *demo, const struct demo_rate *rate)
{
    (void)demo;
    return rate->bytes / 1048576;
}

static double share(const struct demo *demo, const struct demo_rate *rate)
{
    return rate->bytes / demo->results.pass_through.bytes * 100;
}

static double requests(const struct demo *demo, const struct demo_rate *rate)
{
    (void)demo;
    return rate->requests;
}

static double longest(const struct demo *demo, const struct demo_rate *rate)
{
    (void)demo;
    return (double)rate->longest_us / 1000;
}

static double svqd_cpu(const struct demo *demo, const struct demo_rate *rate)
{
    (void)demo;
    return rate->svqd_cpu * 100;
}

static void rates(const struct demo *demo)
{
    head(demo);
    row(demo, "throughput", "MiB/s", 0, throughput);
    row(demo, "", "%", 0, share);
    row(demo, "requests", "/s", 0, requests);
    row(demo, "longest request", "ms", 1, longest);
    if (!demo->options.direct)
        row(demo, "svqd, of a CPU", "%", 0, svqd_cpu);
}

static void migration(const struct demo_results *results)
{
    if (!results->pages)
        return;
    demo_line("  %-*s%*s pages equal, sent %s in %u rounds", LABEL, "migration", WIDTH,
              GROUPED(results->pages), GROUPED(results->sent), results->rounds);
    demo_line("  %-*s%*s pages found by the dirty log alone", LABEL, "", WIDTH,
              GROUPED(results->device_only));
    demo_line("  %-*s%*s pages would be wrong without it", LABEL, "", WIDTH,
              GROUPED(results->blind));
    demo_line("  %-*s%*.1f ms stopped, %u requests in flight moved along", LABEL, "", WIDTH,
              (double)results->downtime_us / 1000, results->travelled);
}

static void crashes(const char *label, const char *what, const struct demo_crashes *crashes)
{
    unsigned count = crashes->count;

    if (count)
        demo_line("  %-*s%*u: %s median %.1f ms, longest %.1f ms", LABEL, label, WIDTH, count, what,
                  crashes->us[count / 2] / 1000.0, crashes->us[count - 1] / 1000.0);
}

void demo_table(struct demo *demo)
{
    const struct demo_results *results = &demo->results;
    struct sim_blk_stats stats;

    sim_blk_stats(demo->blk, &stats);
    demo_line("%s", "");
    rates(demo);
    demo_line("%s", "");
    demo_line("  %-*s%*s, every byte read was checked", LABEL, "requests", WIDTH,
              GROUPED(stats.requests));
    demo_line("  %-*s%*s", LABEL, "errors", WIDTH, "0");
    if (results->switches)
        demo_line("  %-*s%*u: median %" PRIu32 " us, p99 %" PRIu32 " us, max %" PRIu32 " us", LABEL,
                  "switches", WIDTH, results->switches, results->switch_us[results->switches / 2],
                  results->switch_us[results->switches * 99 / 100],
                  results->switch_us[results->switches - 1]);
    crashes("back-end killed", "outage", &results->backend_crashes);
    crashes("back-end swapped", "pause", &results->swaps);
    crashes("svqd killed", "outage", &results->svqd_crashes);
    migration(results);
}
