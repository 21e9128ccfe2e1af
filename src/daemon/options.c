/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/options.h"

#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#include "daemon/addresses.h"
#include "daemon/config.h"
#include "daemon/number.h"

enum {
    OPT_DEVICE = 256,
    OPT_QMP,
    OPT_WORKERS,
    OPT_POLL_US,
    OPT_WORKER_CPUS,
    OPT_HUGE_PAGES,
    OPT_CONFIG,
    OPT_LOG_LEVEL,
};

static const struct option long_options[] = {
    {"device", required_argument, NULL, OPT_DEVICE},
    {"qmp", required_argument, NULL, OPT_QMP},
    {"workers", required_argument, NULL, OPT_WORKERS},
    {"poll-us", required_argument, NULL, OPT_POLL_US},
    {"worker-cpus", required_argument, NULL, OPT_WORKER_CPUS},
    {"huge-pages", required_argument, NULL, OPT_HUGE_PAGES},
    {"config", required_argument, NULL, OPT_CONFIG},
    {"log-level", required_argument, NULL, OPT_LOG_LEVEL},
    {"verbose", no_argument, NULL, 'v'},
    {"version", no_argument, NULL, 'V'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

const char *svq_options_help(void)
{
    return "Usage: svqd --device KEY=VALUE,... [--device ...] [OPTION]...\n"
           "       svqd --config FILE [OPTION]...\n"
           "       svqd --qmp PATH [OPTION]...\n"
           "\n"
           "Stand between virtual machines and their vhost-user back-ends; shadow any\n"
           "device's virtqueues while it runs.\n"
           "\n"
           "  --device KEY=VALUE,...  add a device (repeatable); a comma in a value is\n"
           "                          written twice. Keys:\n"
           "      id=ID                     its name in logs, svqctl and QMP\n"
           "      frontend=PATH             socket to listen on for the VMM\n"
           "      frontend=connect:PATH     connect to the VMM's socket instead, for ever\n"
           "      frontend=fd:N|fd:NAME     listen on an inherited socket: that file\n"
           "                                descriptor, or systemd's of that name\n"
           "      backend=vhost-user:PATH   socket of the back-end\n"
           "      backend=vhost-user:listen:PATH\n"
           "                                listen there for the back-end instead\n"
           "      shadow=auto|on|off        auto (default): only while the VMM wants a dirty\n"
           "                                log that the back-end cannot write; on: always;\n"
           "                                off: never\n"
           "      dirty-log=auto|shadow|backend\n"
           "                                who writes the dirty log; auto (default): the\n"
           "                                back-end where it can, else the shadow\n"
           "      ring=auto|split|packed    format of the back-end's rings; auto (default): the\n"
           "                                guest's where the back-end has it, else split\n"
           "      offer=FEATURE+...         ring features to offer the guest although the back-\n"
           "                                end lacks them: packed, event_idx, indirect,\n"
           "                                in_order; a guest that uses them is shadowed from\n"
           "                                its start\n"
           "      message-timeout=SECONDS   for a peer's answer to a message (default 10)\n"
           "      drain-timeout=SECONDS     for a back-end to complete what it took when\n"
           "                                switching (default 5)\n"
           "      reconnect=SECONDS         longest time between two attempts to reach a back-\n"
           "                                end that is gone, while the VMM stays connected\n"
           "                                (default 2); 0: it is disconnected as well\n"
           "      descriptors=shared|copied copied: a shadowed back-end sees checked copies of\n"
           "                                the guest's descriptors only; shared (default): the\n"
           "                                guest's own, where both rings are split\n"
           "      poll-us=US|always         for this device's queues instead of --poll-us\n"
           "      keep-backend=on|off       on: the back-end stays connected when the VMM\n"
           "                                leaves (default off)\n"
           "  --qmp PATH              serve QMP on this socket (svqctl connects to it)\n"
           "  --workers N             threads that move shadowed queues (default 1)\n"
           "  --poll-us US|always     microseconds a worker polls an idle queue before it\n"
           "                          sleeps (default 50)\n"
           "  --worker-cpus LIST      processors that workers run on, one after the other,\n"
           "                          e.g. 1,4-7 (default: any)\n"
           "  --huge-pages auto|reserved|off\n"
           "                          for shadow rings; auto (default): transparent ones,\n"
           "                          where rings are large; reserved: of vm.nr_hugepages,\n"
           "                          4 MiB or more for each device\n"
           "  --config FILE           read devices and settings from a JSON file\n"
           "  --log-level LEVEL       error, warning, info (default) or debug\n"
           "  -v, --verbose           the same as --log-level debug\n"
           "  -V, --version           print the version and exit\n"
           "  -h, --help              print this help and exit\n"
           "\n"
           "Example:\n"
           "  svqd --device id=net0,frontend=/run/vm1/net0.sock,"
           "backend=vhost-user:/run/ovs/net0.sock \\\n"
           "       --qmp /run/svqd.sock\n"
           "\n"
           "Exit status: 0 after SIGTERM, SIGINT or QMP's quit; 1 when svqd could not start or\n"
           "run; 2 when options or configuration are wrong. Manual: man svqd\n";
}

void svq_options_init(struct svq_options *options)
{
    memset(options, 0, sizeof(*options));
    options->workers = SVQ_DEFAULT_WORKERS;
    options->poll_us = SVQ_DEFAULT_POLL_US;
    options->log_level = SVQ_LOG_INFO;
}

void svq_options_release(struct svq_options *options)
{
    size_t i;

    for (i = 0; i < options->device_count; i++)
        svq_device_desc_release(&options->devices[i]);
    free(options->devices);
    free(options->qmp);
    memset(options, 0, sizeof(*options));
}

int svq_options_add_device(struct svq_options *options, struct svq_device_desc *desc,
                           struct svq_failure *failure)
{
    struct svq_device_desc *grown;
    size_t i;
    int ret;

    for (i = 0; i < options->device_count; i++) {
        const struct svq_device_config *other = &options->devices[i].config;

        if (strcmp(other->id, desc->config.id) == 0)
            return svq_fail(failure, "Duplicate ID '%s' for device", desc->config.id);
        ret = svq_addresses_compare(other, &desc->config, failure);
        if (ret < 0)
            return ret;
    }
    grown = reallocarray(options->devices, options->device_count + 1, sizeof(*grown));
    if (!grown)
        return svq_fail(failure, "Out of memory");
    options->devices = grown;
    options->devices[options->device_count++] = *desc;
    return 0;
}

static int take_device(const char *text, struct svq_options *options, struct svq_failure *failure)
{
    struct svq_device_desc desc;
    int ret;

    ret = svq_device_desc_from_text(text, &desc, failure);
    if (ret < 0) {
        svq_fail_where(failure, "--device %s", text);
        return ret;
    }
    ret = svq_options_add_device(options, &desc, failure);
    if (ret < 0)
        svq_device_desc_release(&desc);
    return ret;
}

static int take_number(const char *name, const char *text, unsigned min, unsigned max,
                       unsigned *out, struct svq_failure *failure)
{
    uint64_t value;

    if (!svq_number_parse(text, max, &value) || value < min)
        return svq_fail(failure, "--%s %s: expected a number between %u and %u", name, text, min,
                        max);
    *out = (unsigned)value;
    return 0;
}

static int take_poll_us(const char *text, struct svq_options *options, struct svq_failure *failure)
{
    if (!svq_poll_us_parse(text, &options->poll_us))
        return svq_fail(failure, "--poll-us %s: expected " SVQ_POLL_US_RANGE, text);
    return 0;
}

static int take_worker_cpus(const char *text, struct svq_options *options,
                            struct svq_failure *failure)
{
    if (!svq_cpu_list_parse(text, &options->worker_cpus))
        return svq_fail(failure, "--worker-cpus %s: expected processors, like 1,4-7", text);
    options->set |= SVQ_SET_CPUS;
    return 0;
}

bool svq_huge_pages_parse(const char *text, enum svq_huge_pages *out)
{
    static const char *const names[] = {"auto", "reserved", "off"};

    for (unsigned i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
        if (strcmp(names[i], text) == 0) {
            *out = (enum svq_huge_pages)i;
            return true;
        }
    }
    return false;
}

static int take_huge_pages(const char *text, struct svq_options *options,
                           struct svq_failure *failure)
{
    if (!svq_huge_pages_parse(text, &options->huge_pages))
        return svq_fail(failure, "--huge-pages %s: expected auto, reserved or off", text);
    options->set |= SVQ_SET_PAGES;
    return 0;
}

static int take_qmp(const char *path, struct svq_options *options, struct svq_failure *failure)
{
    if (path[0] == '\0')
        return svq_fail(failure, "--qmp expects the path of the socket to make");
    free(options->qmp);
    options->qmp = strdup(path);
    options->set |= SVQ_SET_QMP;
    return options->qmp ? 0 : svq_fail(failure, "Out of memory");
}

static int take_log_level(const char *name, struct svq_options *options,
                          struct svq_failure *failure)
{
    if (!svq_log_level_parse(name, &options->log_level))
        return svq_fail(failure, "--log-level %s: expected error, warning, info or debug", name);
    options->set |= SVQ_SET_LOG_LEVEL;
    return 0;
}

static int take_config(const char *path, const char **config, struct svq_failure *failure)
{
    if (*config)
        return svq_fail(failure, "--config is given twice");
    *config = path;
    return 0;
}

static int take_option(int option, struct svq_options *options, const char **config,
                       struct svq_failure *failure)
{
    switch (option) {
    case OPT_DEVICE:
        return take_device(optarg, options, failure);
    case OPT_QMP:
        return take_qmp(optarg, options, failure);
    case OPT_WORKERS:
        options->set |= SVQ_SET_WORKERS;
        return take_number("workers", optarg, 1, SVQ_MAX_WORKERS, &options->workers, failure);
    case OPT_POLL_US:
        options->set |= SVQ_SET_POLL_US;
        return take_poll_us(optarg, options, failure);
    case OPT_WORKER_CPUS:
        return take_worker_cpus(optarg, options, failure);
    case OPT_HUGE_PAGES:
        return take_huge_pages(optarg, options, failure);
    case OPT_CONFIG:
        return take_config(optarg, config, failure);
    case OPT_LOG_LEVEL:
        return take_log_level(optarg, options, failure);
    case 'v':
        return take_log_level("debug", options, failure);
    case 'V':
        options->action = SVQ_ACTION_VERSION;
        return 0;
    case 'h':
        options->action = SVQ_ACTION_HELP;
        return 0;
    default:
        return -EINVAL;
    }
}

/* getopt met something it does not know; after a long option optind points behind it. */
static int bad_option(int code, char **argv, struct svq_failure *failure)
{
    if (code == ':')
        svq_fail(failure, "%s expects a value", argv[optind - 1]);
    else if (optopt == 0)
        svq_fail(failure, "Unknown option %s", argv[optind - 1]);
    else if (strchr("vVh", optopt))
        svq_fail(failure, "%s: this option takes no value", argv[optind - 1]);
    else
        svq_fail(failure, "Unknown option -%c", optopt);
    svq_fail_hint(failure, "svqd --help lists the options");
    return -EINVAL;
}

int svq_options_parse(int argc, char **argv, struct svq_options *options,
                      struct svq_failure *failure)
{
    const char *config = NULL;
    int code;
    int ret;

    optind = 0; /* glibc: start anew */
    while ((code = getopt_long(argc, argv, ":vVh", long_options, NULL)) != -1) {
        if (code == '?' || code == ':')
            return bad_option(code, argv, failure);
        ret = take_option(code, options, &config, failure);
        if (ret < 0)
            return ret;
        if (options->action != SVQ_ACTION_RUN)
            return 0;
    }
    if (optind < argc) {
        svq_fail(failure, "Unexpected argument '%s'", argv[optind]);
        svq_fail_hint(failure, "Devices are given as --device id=...,frontend=...,backend=...");
        return -EINVAL;
    }
    if (config) {
        ret = svq_config_load(config, options, failure);
        if (ret < 0)
            return ret;
    }
    if (options->device_count == 0 && !options->qmp) {
        svq_fail(failure, "Nothing to do: no device, and no QMP socket to add one by");
        svq_fail_hint(failure, "Give --device, --config or --qmp; see svqd --help");
        return -EINVAL;
    }
    return 0;
}
