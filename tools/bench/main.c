/* SPDX-License-Identifier: BSD-3-Clause */
/* svq-bench: what a shadow virtqueue costs. */
#include <stdio.h>
#include <string.h>

#include <shadowvq/version.h>

#include "bench.h"

static const char help[] =
    "Usage: svq-bench COMMAND [OPTION]...\n"
    "\n"
    "Measure what a shadow virtqueue costs.\n"
    "\n"
    "Commands:\n"
    "  relay    the relay's own time per buffer, for every pair of ring formats\n"
    "  path     svqd between a guest and a device: throughput, latency, pauses, many devices\n"
    "\n"
    "Options:\n"
    "  -V, --version    print the version and exit\n"
    "  -h, --help       print this help and exit; after a command: its options\n"
    "\n"
    "Exit status: 0; 1 could not measure; 2 wrong usage; 3 too noisy to be a\n"
    "result.\n";

static const struct command {
    const char *name;
    enum bench_status (*run)(int argc, char **argv);
} commands[] = {
    {"relay", bench_relay},
    {"path", bench_path},
};

enum bench_status bench_usage_error(const char *text, const char *detail)
{
    fprintf(stderr, "svq-bench: %s%s\nsvq-bench: svq-bench --help lists commands and options\n",
            text, detail);
    return BENCH_USAGE;
}

static int option(const char *name)
{
    if (!strcmp(name, "-h") || !strcmp(name, "--help")) {
        fputs(help, stdout);
        return BENCH_OK;
    }
    if (!strcmp(name, "-V") || !strcmp(name, "--version")) {
        printf("svq-bench (shadowvq) %s\n", svq_version());
        return BENCH_OK;
    }
    return (int)bench_usage_error("no such option: ", name);
}

/* Half a result is none: a full disk, or a pipe that nobody reads. */
static int finish(enum bench_status status)
{
    if (!ferror(stdout) && fflush(stdout) == 0)
        return (int)status;
    perror("svq-bench: cannot write what was measured");
    return BENCH_FAILED;
}

int main(int argc, char **argv)
{
    if (argc < 2)
        return (int)bench_usage_error("which command?", "");
    if (argv[1][0] == '-')
        return option(argv[1]);
    for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++)
        if (!strcmp(commands[i].name, argv[1]))
            return finish(commands[i].run(argc - 1, argv + 1));
    return (int)bench_usage_error("no such command: ", argv[1]);
}
