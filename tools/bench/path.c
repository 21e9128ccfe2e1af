/* SPDX-License-Identifier: BSD-3-Clause */
/* The command: runs the parts that were asked for, and writes what they report. */
#include "path.h"
#include "bench.h"
#include "event/prompt.h"

#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/utsname.h>

#include <shadowvq/version.h>

void path_refuse(struct path_report *report, const char *format, ...)
{
    char text[240];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    json_array_append_new(report->refusals, json_string(text));
}

static volatile sig_atomic_t interrupted;

static void note_signal(int signal)
{
    (void)signal;
    interrupted = 1;
}

/* The second one of a kind kills. */
static void catch_signals(void)
{
    const struct sigaction action = {.sa_handler = note_signal, .sa_flags = (int)SA_RESETHAND};

    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
}

bool path_interrupted(void)
{
    return interrupted;
}

bool path_fail(const char *part, const char *error)
{
    fprintf(stderr, "svq-bench: %s: %s\n", part, error);
    return false;
}

/* The processor's name, as far as /proc/cpuinfo tells. */
static void cpu_name(char *name, size_t size)
{
    FILE *file = fopen("/proc/cpuinfo", "re");
    char line[256];

    snprintf(name, size, "unknown");
    while (file && fgets(line, sizeof(line), file)) {
        const char *colon = strchr(line, ':');

        if (strncmp(line, "model name", 10) || !colon)
            continue;
        line[strcspn(line, "\n")] = '\0';
        snprintf(name, size, "%s", colon + 1 + strspn(colon + 1, " "));
        break;
    }
    if (file)
        fclose(file);
}

static bool start_report(struct path_report *report, const struct path_options *o)
{
    struct utsname system;
    char cpu[128];

    uname(&system);
    cpu_name(cpu, sizeof(cpu));
    *report = (struct path_report){.options = o, .refusals = json_array()};
    report->root = json_pack(
        "{s:s, s:s, s:{s:s, s:s}, s:{s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:I}, s:O}", "command",
        "path", "version", svq_version(), "machine", "processor", cpu, "kernel", system.release,
        "options", "slots", (int)o->slots, "slot-ms", (int)o->slot_ms, "drop-ms", (int)o->drop_ms,
        "ends-cpu", o->ends_cpu, "worker-cpu", o->worker_cpu, "max-spread", o->max_spread,
        "max-apart", o->max_apart, "seed", (json_int_t)o->seed, "refused", report->refusals);
    return report->root;
}

static const struct {
    enum path_part part;
    bool (*run)(struct path_report *report);
} parts[] = {
    {PATH_THROUGHPUT, path_throughput}, {PATH_LATENCY, path_latency}, {PATH_PAUSE, path_pause},
    {PATH_SCALE, path_scale},           {PATH_BLOCK, path_block},     {PATH_DPDK, path_dpdk},
};

static bool run_parts(struct path_report *report)
{
    for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++)
        if ((report->options->parts & parts[i].part) && !parts[i].run(report))
            return false;
    return true;
}

static bool write_files(struct path_report *report)
{
    const struct path_options *o = report->options;
    bool ok = true;

    json_object_set_new(report->root, "result", json_boolean(!json_array_size(report->refusals)));
    if (o->json && !strcmp(o->json, "-"))
        ok = json_dumpf(report->root, stdout, JSON_INDENT(2)) == 0 && putchar('\n') != EOF;
    else if (o->json)
        ok = json_dump_file(report->root, o->json, JSON_INDENT(2)) == 0;
    if (!ok)
        return path_fail("cannot write", o->json);
    if (o->svg && bars_write(&report->bars, "svq-bench path", o->svg))
        return path_fail("cannot write", o->svg);
    return true;
}

static void print_refusals(const struct path_report *report, FILE *out)
{
    json_t *text;
    size_t i;

    json_array_foreach(report->refusals, i, text)
        fprintf(out, "NOT A RESULT: %s\n", json_string_value(text));
    if (json_array_size(report->refusals))
        fputs("Try again on a quieter machine, or with more --slots.\n", out);
}

enum bench_status bench_path(int argc, char **argv)
{
    enum bench_status status = BENCH_FAILED;
    struct path_options options;
    struct path_report report;
    int early = path_parse(argc, argv, &options);

    if (early >= 0)
        return (enum bench_status)early;
    svq_prompt_start();
    catch_signals();
    if (!start_report(&report, &options)) {
        path_fail("path", "out of memory");
    } else if (run_parts(&report) && write_files(&report)) {
        /* With the JSON on stdout there is no room for anything else. */
        print_refusals(&report, options.json && !strcmp(options.json, "-") ? stderr : stdout);
        status = json_array_size(report.refusals) ? BENCH_NOISY : BENCH_OK;
    }
    bars_release(&report.bars);
    json_decref(report.refusals);
    json_decref(report.root);
    return status;
}
