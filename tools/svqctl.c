/* SPDX-License-Identifier: BSD-3-Clause */
/* svqctl: look at a running svqd and steer it. */
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <jansson.h>

#include <shadowvq/version.h>

#include "client.h"
#include "events.h"
#include "human.h"
#include "json.h"
#include "show.h"
#include "top.h"

#define DEFAULT_SOCKET "/run/svqd.sock"

struct options {
    const char *socket;
    bool json;
    double interval;
    unsigned count;
};

static const char help[] =
    "Usage: svqctl [-s SOCK] COMMAND [ARGUMENT]...\n"
    "\n"
    "Look at a running svqd and steer it.\n"
    "\n"
    "Commands:\n"
    "  status [ID]             show all devices, or one: peers, features, mode, queues\n"
    "  shadow ID on|off|auto   shadow a device's queues, or stop, or leave it to policy\n"
    "  backend ID URI          go on with another back-end, or reach for the present one now;\n"
    "                          URI is vhost-user:PATH or vhost-user:listen:PATH\n"
    "  events                  print what happens, one event a line, until interrupted\n"
    "  top                     show what each queue does per second\n"
    "  qmp COMMAND [JSON]      run a QMP command with arguments, print what it returns\n"
    "  quit                    end svqd\n"
    "\n"
    "Options:\n"
    "  -s, --socket SOCK       svqd's QMP socket (default $SVQD_QMP, else " DEFAULT_SOCKET ")\n"
    "  --json                  status, events: print JSON\n"
    "  --interval SECONDS      top: time between two looks (default 1)\n"
    "  --count N               top: end after N looks\n"
    "  -V, --version           print the version and exit\n"
    "  -h, --help              print this help and exit\n"
    "\n"
    "Exit status: 0; 1 svqd refused; 2 wrong usage; 3 no connection to svqd.\n";

static enum svqctl_status usage_error(const char *text, const char *detail)
{
    fprintf(stderr, "svqctl: %s%s\nsvqctl: svqctl --help lists commands and options\n", text,
            detail);
    return SVQCTL_USAGE;
}

static void print_json(const json_t *value, size_t flags)
{
    char *text = json_dumps(value, JSON_ENCODE_ANY | flags);

    puts(text ? text : "null");
    free(text);
}

/* ---- Commands ------------------------------------------------------------------------------ */

/* Leaves only the device of that id in the list; false when there is none. */
static bool select_device(json_t *devices, const char *id)
{
    size_t i = 0;

    while (i < json_array_size(devices)) {
        if (strcmp(svq_json_string(json_array_get(devices, i), "id"), id) == 0)
            i++;
        else
            json_array_remove(devices, i);
    }
    return json_array_size(devices) > 0;
}

static void show_devices(const json_t *devices)
{
    const json_t *device;
    size_t i;

    json_array_foreach(devices, i, device) {
        if (i > 0)
            putchar('\n');
        svq_show_device(device, stdout);
    }
    if (json_array_size(devices) == 0)
        puts("svqd has no devices");
}

static enum svqctl_status run_status(struct svq_client *client, const struct options *options,
                                     char **args)
{
    enum svqctl_status status;
    json_t *devices;

    status = svq_client_run(client, "query-devices", NULL, &devices);
    if (status != SVQCTL_OK)
        return status;
    if (args[0] && !select_device(devices, args[0])) {
        json_decref(devices);
        return svq_client_refuse(client, "Device '%s' not found", args[0]);
    }
    if (options->json)
        print_json(devices, JSON_INDENT(2));
    else
        show_devices(devices);
    json_decref(devices);
    return SVQCTL_OK;
}

/* What became of it: the policy may leave the device in another mode until its front-end starts. */
static enum svqctl_status show_mode(struct svq_client *client, const char *id)
{
    char time[SVQ_HUMAN_SIZE];
    enum svqctl_status status;
    json_t *devices;
    json_t *device;

    status = svq_client_run(client, "query-devices", NULL, &devices);
    if (status != SVQCTL_OK)
        return status;
    if (select_device(devices, id)) {
        device = json_array_get(devices, 0);
        printf("%s: policy %s, now %s", id, svq_json_string(device, "shadow"),
               svq_json_string(device, "mode"));
        if (svq_json_at(device, "last-switch"))
            printf(", last switch took %s",
                   svq_human_time(svq_json_number(device, "last-switch.microseconds"), time));
        putchar('\n');
    }
    json_decref(devices);
    return SVQCTL_OK;
}

static enum svqctl_status run_shadow(struct svq_client *client, const struct options *options,
                                     char **args)
{
    enum svqctl_status status;
    json_t *result;

    (void)options;
    status = svq_client_run(client, "device-set-shadow",
                            json_pack("{s:s, s:s}", "id", args[0], "shadow", args[1]), &result);
    if (status != SVQCTL_OK)
        return status;
    json_decref(result);
    return show_mode(client, args[0]);
}

/* The path alone would not say what speaks there. */
static bool is_path(const char *address)
{
    return address[strcspn(address, ":/")] != ':';
}

static enum svqctl_status run_backend(struct svq_client *client, const struct options *options,
                                      char **args)
{
    char time[SVQ_HUMAN_SIZE];
    enum svqctl_status status;
    json_t *result;

    (void)options;
    if (is_path(args[1]))
        return usage_error("a back-end's address begins with how it is spoken to; did you mean "
                           "vhost-user:",
                           args[1]);
    status = svq_client_run(client, "device-set-backend",
                            json_pack("{s:s, s:s}", "id", args[0], "backend", args[1]), &result);
    if (status != SVQCTL_OK)
        return status;
    printf("%s: now on %s, queues paused for %s\n", args[0], args[1],
           svq_human_time(svq_json_number(result, "pause-microseconds"), time));
    json_decref(result);
    return SVQCTL_OK;
}

static enum svqctl_status run_events(struct svq_client *client, const struct options *options,
                                     char **args)
{
    enum svqctl_status status;
    json_t *event;

    (void)args;
    setvbuf(stdout, NULL, _IOLBF, 0);
    while ((status = svq_client_event(client, &event)) == SVQCTL_OK) {
        if (options->json)
            print_json(event, JSON_COMPACT);
        else
            svq_show_event(event, stdout);
        json_decref(event);
    }
    return status;
}

static enum svqctl_status run_top(struct svq_client *client, const struct options *options,
                                  char **args)
{
    (void)args;
    return svq_top(client, options->interval, options->count);
}

static enum svqctl_status run_qmp(struct svq_client *client, const struct options *options,
                                  char **args)
{
    enum svqctl_status status;
    json_t *arguments = NULL;
    json_error_t error;
    json_t *result;

    (void)options;
    if (args[1]) {
        error.text[0] = '\0';
        arguments = json_loads(args[1], JSON_REJECT_DUPLICATES, &error);
        if (!json_is_object(arguments)) {
            json_decref(arguments);
            return usage_error("qmp expects its arguments as a JSON object: ",
                               error.text[0] ? error.text : args[1]);
        }
    }
    status = svq_client_run(client, args[0], arguments, &result);
    if (status != SVQCTL_OK)
        return status;
    print_json(result, JSON_INDENT(2));
    json_decref(result);
    return SVQCTL_OK;
}

static enum svqctl_status run_quit(struct svq_client *client, const struct options *options,
                                   char **args)
{
    enum svqctl_status status;
    json_t *result;

    (void)options;
    (void)args;
    status = svq_client_run(client, "quit", NULL, &result);
    if (status == SVQCTL_OK)
        json_decref(result);
    return status;
}

/* ---- The command line ---------------------------------------------------------------------- */

#define TAKES_JSON  0x1u
#define TAKES_TIMES 0x2u

static const struct command {
    const char *name;
    enum svqctl_status (*run)(struct svq_client *client, const struct options *options,
                              char **args);
    int min; /* arguments */
    int max;
    unsigned takes;
    const char *usage;
} commands[] = {
    {"status", run_status, 0, 1, TAKES_JSON, "status [ID] [--json]"},
    {"shadow", run_shadow, 2, 2, 0, "shadow ID on|off|auto"},
    {"backend", run_backend, 2, 2, 0, "backend ID URI"},
    {"events", run_events, 0, 0, TAKES_JSON, "events [--json]"},
    {"top", run_top, 0, 0, TAKES_TIMES, "top [--interval SECONDS] [--count N]"},
    {"qmp", run_qmp, 1, 2, 0, "qmp COMMAND [JSON-ARGUMENTS]"},
    {"quit", run_quit, 0, 0, 0, "quit"},
};

static const struct command *find_command(const char *name)
{
    size_t i;

    for (i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
        if (strcmp(commands[i].name, name) == 0)
            return &commands[i];
    }
    return NULL;
}

enum {
    OPT_JSON = 256,
    OPT_INTERVAL,
    OPT_COUNT,
};

static const struct option long_options[] = {
    {"socket", required_argument, NULL, 's'},
    {"json", no_argument, NULL, OPT_JSON},
    {"interval", required_argument, NULL, OPT_INTERVAL},
    {"count", required_argument, NULL, OPT_COUNT},
    {"version", no_argument, NULL, 'V'},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static bool take_interval(const char *text, double *interval)
{
    char *end;

    *interval = strtod(text, &end);
    return end != text && *end == '\0' && *interval >= 0.01 && *interval <= 3600;
}

static bool take_count(const char *text, unsigned *count)
{
    char *end;
    unsigned long value = strtoul(text, &end, 10);

    *count = (unsigned)value;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && value <= 1000000000;
}

/* Takes all options. Return: -1 to go on, or the exit status; *takes says what they are for. */
static int take_options(int argc, char **argv, struct options *options, unsigned *takes)
{
    int code;

    while ((code = getopt_long(argc, argv, "s:Vh", long_options, NULL)) != -1) {
        switch (code) {
        case 's':
            options->socket = optarg;
            break;
        case OPT_JSON:
            options->json = true;
            *takes |= TAKES_JSON;
            break;
        case OPT_INTERVAL:
            *takes |= TAKES_TIMES;
            if (!take_interval(optarg, &options->interval))
                return (int)usage_error("--interval expects seconds between 0.01 and 3600", "");
            break;
        case OPT_COUNT:
            *takes |= TAKES_TIMES;
            if (!take_count(optarg, &options->count))
                return (int)usage_error("--count expects a whole number", "");
            break;
        case 'V':
            printf("svqctl (shadowvq) %s\n", svq_version());
            return SVQCTL_OK;
        case 'h':
            fputs(help, stdout);
            return SVQCTL_OK;
        default:
            return (int)usage_error("wrong options", "");
        }
    }
    return -1;
}

static enum svqctl_status run(const struct command *command, const struct options *options,
                              char **args)
{
    struct svq_client *client = svq_client_new(options->socket);
    enum svqctl_status status;

    if (!client) {
        fputs("svqctl: out of memory\n", stderr);
        return SVQCTL_CONNECTION;
    }
    status = svq_client_connect(client);
    if (status == SVQCTL_OK)
        status = command->run(client, options, args);
    if (status == SVQCTL_REFUSED || status == SVQCTL_CONNECTION)
        fprintf(stderr, "svqctl: %s\n", svq_client_trouble(client));
    svq_client_free(client);
    return status;
}

int main(int argc, char **argv)
{
    const char *from_environment = getenv("SVQD_QMP");
    struct options options = {.socket = DEFAULT_SOCKET, .interval = 1};
    const struct command *command;
    unsigned takes = 0;
    int count;
    int status;

    if (from_environment && from_environment[0])
        options.socket = from_environment;
    status = take_options(argc, argv, &options, &takes);
    if (status >= 0)
        return status;
    if (optind == argc)
        return (int)usage_error("which command?", "");
    command = find_command(argv[optind]);
    if (!command)
        return (int)usage_error("no such command: ", argv[optind]);
    count = argc - optind - 1;
    if (count < command->min || count > command->max || (takes & ~command->takes))
        return (int)usage_error("usage: svqctl ", command->usage);
    return (int)run(command, &options, argv + optind + 1);
}
