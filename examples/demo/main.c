/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svq-demo: what svqd does, in 20 seconds and without a virtual machine.
 */
#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "sim/clock.h"
#include "demo.h"
#include "screen.h"

static const struct demo_plan whole = {.warm_up = 200,
                                       .measure = 2500,
                                       .pause = 10,
                                       .log = 2500,
                                       .destination = 1000,
                                       .blow = 30,
                                       .crashes = 20,
                                       .swaps = 40,
                                       .svqd_crashes = 20};
static const struct demo_plan quick = {.warm_up = 50,
                                       .measure = 400,
                                       .pause = 5,
                                       .log = 600,
                                       .destination = 300,
                                       .blow = 10,
                                       .crashes = 6,
                                       .swaps = 8,
                                       .svqd_crashes = 6};

static void usage(FILE *out)
{
    fputs(
        "Usage: svq-demo [OPTION]...\n"
        "\n"
        "A simulated guest does verified random I/O through svqd to svq-ramdisk, a back-end that\n"
        "cannot log dirty pages. The shadow is switched many times under load; the back-end is\n"
        "killed, then exchanged for another process, and svqd is killed; then the guest is\n"
        "migrated live by the dirty log that svqd writes. Exit code 0: all of it held.\n"
        "\n"
        "  --svqd PATH      the daemon (default: beside this program)\n"
        "  --ramdisk PATH   svq-ramdisk (default: likewise)\n"
        "  --quick          shorter and smaller, for slow (instrumented) builds\n"
        "  --packed         the guest has packed rings\n"
        "  --queues N       request queues (default 4)\n"
        "  --memory MiB     of guest memory (default 256)\n"
        "  --switches N     how often the shadow is switched (default 240)\n"
        "  --seed N         of the random I/O (default: the time)\n"
        "  --direct         no svqd: connect to the back-end, for comparison\n"
        "  --backend PATH   use the vhost-user-blk back-end that listens at PATH; its disk must\n"
        "                   be blank and of at least 64 MiB, and is overwritten\n"
        "  --keep           keep the temporary directory with sockets and logs\n"
        "  --help           this text\n",
        out);
}

/* ---- Options ------------------------------------------------------------------------------- */

static bool parse_number(const char *text, unsigned long min, unsigned long max, unsigned *value)
{
    unsigned long number;
    char *end;

    errno = 0;
    number = strtoul(text, &end, 10);
    *value = (unsigned)number;
    return !errno && end != text && !*end && text[0] != '-' && number >= min && number <= max;
}

static bool parse_value(struct demo_options *options, int opt, const char *text)
{
    unsigned seed = 0;
    bool good = true;

    switch (opt) {
    case 'd':
        options->svqd = text;
        break;
    case 'r':
        options->ramdisk = text;
        break;
    case 'b':
        options->backend = text;
        break;
    case 'n':
        good = parse_number(text, 1, SIM_GUEST_MAX_QUEUES, &options->queues);
        break;
    case 'm':
        good = parse_number(text, 64, 16384, &options->memory_mib);
        break;
    case 't':
        good = parse_number(text, 1, DEMO_SWITCHES, &options->switches);
        break;
    case 's':
        good = parse_number(text, 0, UINT32_MAX, &seed);
        options->seed = seed;
        break;
    }
    if (!good)
        fprintf(stderr, "svq-demo: \"%s\" is no value for that option\n", text);
    return good;
}

/* Return: -1 to go on, otherwise the exit code. */
static int parse_options(int argc, char **argv, struct demo_options *options)
{
    static const struct option known[] = {
        {"svqd", required_argument, NULL, 'd'},
        {"ramdisk", required_argument, NULL, 'r'},
        {"quick", no_argument, NULL, 'q'},
        {"queues", required_argument, NULL, 'n'},
        {"memory", required_argument, NULL, 'm'},
        {"switches", required_argument, NULL, 't'},
        {"seed", required_argument, NULL, 's'},
        {"direct", no_argument, NULL, 'x'},
        {"backend", required_argument, NULL, 'b'},
        {"keep", no_argument, NULL, 'k'},
        {"packed", no_argument, NULL, 'p'},
        {"help", no_argument, NULL, 'h'},
        {NULL, 0, NULL, 0},
    };
    int opt;

    options->queues = 4;
    options->disk_mib = 64;
    options->seed = sim_now();
    while ((opt = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (opt) {
        case 'q':
            options->quick = true;
            break;
        case 'p':
            options->packed = true;
            break;
        case 'x':
            options->direct = true;
            break;
        case 'k':
            options->keep = true;
            break;
        case 'h':
            usage(stdout);
            return EXIT_SUCCESS;
        case '?':
            usage(stderr);
            return EXIT_FAILURE;
        default:
            if (!parse_value(options, opt, optarg))
                return EXIT_FAILURE;
        }
    }
    if (optind != argc) {
        usage(stderr);
        return EXIT_FAILURE;
    }
    if (!options->memory_mib)
        options->memory_mib = options->quick ? 64 : 256;
    if (!options->switches)
        options->switches = options->quick ? 60 : 240;
    return -1;
}

/* A program beside this one. */
static const char *find_program(const char *name, char *path, size_t size)
{
    ssize_t len = readlink("/proc/self/exe", path, size - 1);
    char *slash;

    path[len < 0 ? 0 : len] = '\0';
    slash = strrchr(path, '/');
    len = slash ? slash + 1 - path : 0;
    snprintf(path + len, size - (size_t)len, "%s", name);
    return path;
}

/* ---- The story ----------------------------------------------------------------------------- */

static void introduce(const struct demo_options *options)
{
    demo_line("%s%s%s", demo_colours.bold,
              options->direct
                  ? "A guest and its vhost-user back-end, directly"
                  : "Switched, killed, swapped and migrated under load: the guest must not notice",
              demo_colours.off);
    demo_line("%s", "");
    if (options->direct)
        demo_line("    guest simulator  <------ vhost-user ------>  %s",
                  options->backend ? options->backend : "svq-ramdisk");
    else
        demo_line("    guest simulator  <-- vhost-user -->  svqd  <-- vhost-user -->  %s",
                  options->backend ? options->backend : "svq-ramdisk");
    demo_line("    %s%u %s queues, %u MiB of memory, random reads and writes, every byte checked%s",
              demo_colours.dim, options->queues, options->packed ? "packed" : "split",
              options->memory_mib, demo_colours.off);
    demo_line("%s", "");
}

static int run_through_svqd(struct demo *demo)
{
    struct demo_device device;

    demo_step("pass-through");
    if (demo_expect_mode(demo, "pass-through", "At the start") ||
        demo_measure(demo, demo->plan.measure, &demo->results.pass_through))
        return -1;
    demo_step("shadow");
    if (demo_set_shadow(demo, true) || demo_expect_mode(demo, "shadow", "After switching on") ||
        demo_measure(demo, demo->plan.measure, &demo->results.shadow) ||
        demo_set_shadow(demo, false))
        return -1;
    if (demo_switching(demo))
        return -1;
    if (!demo->options.backend && (demo_backend_crashes(demo) || demo_swaps(demo)))
        return -1;
    if (demo_svqd_crashes(demo) || demo_migration(demo) || demo_destination(demo) ||
        demo_query(demo, &device))
        return -1;
    if (device.last_error[0])
        return demo_fail(demo, "svqd reports an error: %s", device.last_error);
    return 0;
}

static int run_direct(struct demo *demo)
{
    demo_step("direct");
    if (demo_measure(demo, demo->plan.measure, &demo->results.pass_through))
        return -1;
    if (!demo->options.backend && demo_backend_crashes(demo))
        return -1;
    if (!sim_guest_can_log(demo->guest))
        return demo_migration(demo) || demo_destination(demo) ? -1 : 0;
    demo_step("migration");
    demo_note("impossible: %s", demo->guest->session.error);
    sim_blk_finish(demo->blk);
    return demo_check(demo);
}

int main(int argc, char **argv)
{
    static struct demo demo = {.qmp.sock = -1, .disk_fd = -1};
    static char svqd[4096 + 16], ramdisk[4096 + 16];
    int ret = parse_options(argc, argv, &demo.options);

    if (ret >= 0)
        return ret;
    if (!demo.options.svqd)
        demo.options.svqd = find_program("svqd", svqd, sizeof(svqd));
    if (!demo.options.ramdisk)
        demo.options.ramdisk = find_program("svq-ramdisk", ramdisk, sizeof(ramdisk));
    demo.plan = demo.options.quick ? quick : whole;
    demo_screen_init();
    introduce(&demo.options);

    ret = demo_open(&demo);
    if (!ret)
        ret = demo.options.direct ? run_direct(&demo) : run_through_svqd(&demo);
    if (!ret)
        demo_table(&demo);
    if (demo_close(&demo))
        ret = -1;
    demo_line("%s", "");
    if (ret) {
        fprintf(stderr, "%sFAILED%s: %s (seed %llu)\n", demo_colours.bad, demo_colours.off,
                demo.error, (unsigned long long)demo.options.seed);
        return EXIT_FAILURE;
    }
    demo_line("%sEverything held.%s", demo_colours.good, demo_colours.off);
    return EXIT_SUCCESS;
}
