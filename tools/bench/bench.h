/* SPDX-License-Identifier: BSD-3-Clause */
#ifndef SVQ_BENCH_BENCH_H
#define SVQ_BENCH_BENCH_H

/* Exit status of svq-bench and of each of its commands. */
enum bench_status {
    BENCH_OK = 0,
    BENCH_FAILED = 1, /* could not measure */
    BENCH_USAGE = 2,
    BENCH_NOISY = 3, /* measured, but it is no result */
};

/* Prints what is wrong with the command line. Return: BENCH_USAGE. */
enum bench_status bench_usage_error(const char *text, const char *detail);

/*
 * The commands. argv[0] is the command's name; each parses its own options with getopt_long(),
 * starting afresh.
 */
enum bench_status bench_relay(int argc, char **argv);
enum bench_status bench_path(int argc, char **argv);

#endif
