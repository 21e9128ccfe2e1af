/* SPDX-License-Identifier: BSD-3-Clause */
#include "path.h"
#include "bench.h"
#include "clock.h"
#include "flow.h"

#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <shadowvq/relay.h>

static const char help[] =
    "Usage: svq-bench path [PART]... [OPTION]...\n"
    "\n"
    "Measure svqd as it is used: a guest and a device of svq-bench's own on both sides of it,\n"
    "on real sockets. Direct wiring, pass-through, shadow and shadow with a dirty log take turns\n"
    "in short slots under one set of processes.\n"
    "\n"
    "Parts (default: --throughput):\n"
    "  --throughput           buffers per second in each mode, and svqd's CPU time\n"
    "  --latency              one buffer at a time: percentiles; polling, and sleeping\n"
    "  --pause                how long traffic stands still at a switch, 8 queues under load\n"
    "  --scale                many devices: memory, idle CPU time, QMP, one busy, 16 busy; each\n"
    "                         of these has a goal\n"
    "  --blk[=SOCKET]         random reads from a vhost-user-blk back-end; without SOCKET from\n"
    "                         a qemu-storage-daemon of our own that serves a null image\n"
    "  --dpdk                 DPDK's testpmd on both sides; beside svqd its own relay, and none\n"
    "\n"
    "Options; LIST is separated by commas:\n"
    "  --rings LIST           split, packed (default both)\n"
    "  --queues LIST          queues of the device; even ones receive, odd ones transmit\n"
    "                         (default 2; --pause: 8; --latency: 1)\n"
    "  --batch LIST           buffers per turn (default 32)\n"
    "  --size LIST            bytes of a buffer (default 64)\n"
    "  --ring-size N          entries of a ring (default 1024; --scale: 256)\n"
    "  --in-flight N          buffers in flight of each queue (default 256)\n"
    "  --in-order, --event-idx  negotiate these\n"
    "  --work-ns N            what either end does beside, for each buffer (default 0)\n"
    "  --spin                 measure pass-through also while somebody polls in vain on the\n"
    "                         worker's processor (--throughput, --dpdk)\n"
    "  --hop-ns N             only rounds count in which a cache line's round trip between the\n"
    "                         processors takes about so long (default: as in most rounds)\n"
    "  --slots N              slots of each mode (default 30)\n"
    "  --slot-ms N            length of one (default 100)\n"
    "  --drop-ms N            that do not count at the beginning of each (default 10)\n"
    "  --repeats N            how often a disturbed slot is repeated, on average (default 2)\n"
    "  --switches N           --pause: each way (default 200)\n"
    "  --depth LIST           --blk: requests in flight (default 1,32,128)\n"
    "  --guest-polls          --blk: the guest polls; otherwise it waits for calls\n"
    "  --devices LIST         --scale: how many (default 1,16,128,1000)\n"
    "  --max-spread PERCENT   of a ratio, beyond which it is noise (default 15)\n"
    "  --max-apart PERCENT    of pass-through from direct, likewise (default 5)\n"
    "  --ends-cpu N, --worker-cpu N, --backend-cpu N  processors of guest and device, of svqd's\n"
    "                         worker, and of --blk's back-end (default 0, 1, 0; any: -1)\n"
    "  --device-cpu N         give the device a thread, and a processor, of its own\n"
    "  --poll-us VALUE        svqd's (default: always; --blk, --scale: svqd's default)\n"
    "  --svqd PATH            (default: beside svq-bench)\n"
    "  --testpmd PATH, --storage-daemon PATH  (default: from $PATH's usual places)\n"
    "  --json FILE            everything, as JSON; -: to stdout\n"
    "  --svg FILE             a plot\n"
    "  -h, --help             print this help and exit\n"
    "\n"
    "Exit status: 0; 1 could not measure; 2 wrong usage; 3 this is no result.\n";

enum {
    OPT_THROUGHPUT = 256,
    OPT_LATENCY,
    OPT_PAUSE,
    OPT_SCALE,
    OPT_BLK,
    OPT_DPDK,
    OPT_RINGS,
    OPT_QUEUES,
    OPT_BATCH,
    OPT_SIZE,
    OPT_RING_SIZE,
    OPT_IN_FLIGHT,
    OPT_IN_ORDER,
    OPT_EVENT_IDX,
    OPT_SLOTS,
    OPT_SLOT_MS,
    OPT_DROP_MS,
    OPT_REPEATS,
    OPT_SWITCHES,
    OPT_DEPTH,
    OPT_DEVICES,
    OPT_GUEST_POLLS,
    OPT_SPIN,
    OPT_WORK_NS,
    OPT_HOP_NS,
    OPT_MAX_SPREAD,
    OPT_MAX_APART,
    OPT_ENDS_CPU,
    OPT_DEVICE_CPU,
    OPT_WORKER_CPU,
    OPT_BACKEND_CPU,
    OPT_POLL_US,
    OPT_SVQD,
    OPT_TESTPMD,
    OPT_STORAGE_DAEMON,
    OPT_JSON,
    OPT_SVG,
};

static const struct option long_options[] = {
    {"throughput", no_argument, NULL, OPT_THROUGHPUT},
    {"latency", no_argument, NULL, OPT_LATENCY},
    {"pause", no_argument, NULL, OPT_PAUSE},
    {"scale", no_argument, NULL, OPT_SCALE},
    {"blk", optional_argument, NULL, OPT_BLK},
    {"dpdk", no_argument, NULL, OPT_DPDK},
    {"rings", required_argument, NULL, OPT_RINGS},
    {"queues", required_argument, NULL, OPT_QUEUES},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"size", required_argument, NULL, OPT_SIZE},
    {"ring-size", required_argument, NULL, OPT_RING_SIZE},
    {"in-flight", required_argument, NULL, OPT_IN_FLIGHT},
    {"in-order", no_argument, NULL, OPT_IN_ORDER},
    {"event-idx", no_argument, NULL, OPT_EVENT_IDX},
    {"slots", required_argument, NULL, OPT_SLOTS},
    {"slot-ms", required_argument, NULL, OPT_SLOT_MS},
    {"drop-ms", required_argument, NULL, OPT_DROP_MS},
    {"repeats", required_argument, NULL, OPT_REPEATS},
    {"switches", required_argument, NULL, OPT_SWITCHES},
    {"depth", required_argument, NULL, OPT_DEPTH},
    {"devices", required_argument, NULL, OPT_DEVICES},
    {"spin", no_argument, NULL, OPT_SPIN},
    {"work-ns", required_argument, NULL, OPT_WORK_NS},
    {"hop-ns", required_argument, NULL, OPT_HOP_NS},
    {"guest-polls", no_argument, NULL, OPT_GUEST_POLLS},
    {"max-spread", required_argument, NULL, OPT_MAX_SPREAD},
    {"max-apart", required_argument, NULL, OPT_MAX_APART},
    {"ends-cpu", required_argument, NULL, OPT_ENDS_CPU},
    {"device-cpu", required_argument, NULL, OPT_DEVICE_CPU},
    {"worker-cpu", required_argument, NULL, OPT_WORKER_CPU},
    {"backend-cpu", required_argument, NULL, OPT_BACKEND_CPU},
    {"poll-us", required_argument, NULL, OPT_POLL_US},
    {"svqd", required_argument, NULL, OPT_SVQD},
    {"testpmd", required_argument, NULL, OPT_TESTPMD},
    {"storage-daemon", required_argument, NULL, OPT_STORAGE_DAEMON},
    {"json", required_argument, NULL, OPT_JSON},
    {"svg", required_argument, NULL, OPT_SVG},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

/* Options with a number. */
static const struct number {
    int code;
    long min;
    long max;
    size_t offset;
    const char *expects;
} numbers[] = {
#define UNSIGNED(code, min, max, member, expects)                      \
    {                                                                  \
        code, min, max, offsetof(struct path_options, member), expects \
    }
    UNSIGNED(OPT_RING_SIZE, 2, SVQ_RING_MAX, ring_size, "--ring-size expects 2 to 32768"),
    UNSIGNED(OPT_IN_FLIGHT, 1, SVQ_RING_MAX, in_flight, "--in-flight expects 1 to 32768"),
    UNSIGNED(OPT_HOP_NS, 0, 100000, hop_ns, "--hop-ns expects 0 to 100000"),
    UNSIGNED(OPT_WORK_NS, 0, 1000000, work_ns, "--work-ns expects 0 to 1000000"),
    UNSIGNED(OPT_SLOTS, 1, 10000, slots, "--slots expects 1 to 10000"),
    UNSIGNED(OPT_SLOT_MS, 1, 60000, slot_ms, "--slot-ms expects 1 to 60000"),
    UNSIGNED(OPT_DROP_MS, 0, 60000, drop_ms, "--drop-ms expects 0 to 60000"),
    UNSIGNED(OPT_REPEATS, 0, 1000, repeats, "--repeats expects 0 to 1000"),
    UNSIGNED(OPT_SWITCHES, 1, 100000, switches, "--switches expects 1 to 100000"),
    UNSIGNED(OPT_ENDS_CPU, -1, 1023, ends_cpu, "--ends-cpu expects a processor's number, or -1"),
    UNSIGNED(OPT_DEVICE_CPU, -1, 1023, device_cpu,
             "--device-cpu expects a processor's number, or -1"),
    UNSIGNED(OPT_WORKER_CPU, -1, 1023, worker_cpu,
             "--worker-cpu expects a processor's number, or -1"),
    UNSIGNED(OPT_BACKEND_CPU, -1, 1023, backend_cpu,
             "--backend-cpu expects a processor's number, or -1"),
#undef UNSIGNED
};

_Static_assert(sizeof(int) == sizeof(unsigned), "one store for either");

/* Options with a list of numbers. */
static const struct list {
    int code;
    unsigned min;
    unsigned max;
    size_t offset;
    const char *expects;
} lists[] = {
    {OPT_QUEUES, 1, 64, offsetof(struct path_options, queues), "--queues expects 1 to 64"},
    {OPT_BATCH, 1, SVQ_RING_MAX, offsetof(struct path_options, batches),
     "--batch expects up to 8 numbers, 1 to 32768"},
    {OPT_SIZE, FLOW_SIZE_MIN, FLOW_SIZE_MAX, offsetof(struct path_options, sizes),
     "--size expects up to 8 numbers, 16 to 65536"},
    {OPT_DEPTH, 1, 4096, offsetof(struct path_options, depths),
     "--depth expects up to 8 numbers, 1 to 4096"},
    {OPT_DEVICES, 1, 1000, offsetof(struct path_options, devices),
     "--devices expects up to 8 numbers, 1 to 1000"},
};

static const struct {
    int code;
    enum path_part part;
} parts[] = {
    {OPT_THROUGHPUT, PATH_THROUGHPUT}, {OPT_LATENCY, PATH_LATENCY}, {OPT_PAUSE, PATH_PAUSE},
    {OPT_SCALE, PATH_SCALE},           {OPT_BLK, PATH_BLOCK},       {OPT_DPDK, PATH_DPDK},
};

static bool take_number(const char *text, long min, long max, int *value)
{
    char *end;
    long number = strtol(text, &end, 10);

    *value = (int)number;
    return end != text && *end == '\0' && number >= min && number <= max;
}

static bool take_list(const char *text, unsigned min, unsigned max, struct path_list *list)
{
    for (list->count = 0; list->count < PATH_LIST_MAX;) {
        char *end;
        unsigned long number = strtoul(text, &end, 10);

        if (end == text || text[0] < '0' || text[0] > '9' || number < min || number > max)
            return false;
        list->values[list->count++] = (unsigned)number;
        if (!*end)
            return true;
        if (*end != ',')
            return false;
        text = end + 1;
    }
    return false;
}

static bool take_rings(const char *text, struct path_options *o)
{
    o->split =
        !strcmp(text, "split") || !strcmp(text, "split,packed") || !strcmp(text, "packed,split");
    o->packed =
        !strcmp(text, "packed") || !strcmp(text, "split,packed") || !strcmp(text, "packed,split");
    return o->split || o->packed;
}

static bool take_percent(const char *text, double *fraction)
{
    char *end;

    *fraction = strtod(text, &end) / 100;
    return end != text && *end == '\0' && *fraction > 0 && *fraction <= 100;
}

/* Return: NULL, or what the option expects. */
static const char *take_text(int code, struct path_options *o)
{
    switch (code) {
    case OPT_POLL_US:
        o->poll_us = optarg;
        return NULL;
    case OPT_SVQD:
        o->svqd = optarg;
        return NULL;
    case OPT_TESTPMD:
        o->testpmd = optarg;
        return NULL;
    case OPT_STORAGE_DAEMON:
        o->storage_daemon = optarg;
        return NULL;
    case OPT_JSON:
        o->json = optarg;
        return NULL;
    case OPT_SVG:
        o->svg = optarg;
        return NULL;
    default:
        return "path: wrong options";
    }
}

static const char *take_option(int code, struct path_options *o)
{
    for (unsigned i = 0; i < sizeof(parts) / sizeof(parts[0]); i++) {
        if (parts[i].code != code)
            continue;
        o->parts |= parts[i].part;
        if (code == OPT_BLK)
            o->blk_socket = optarg;
        return NULL;
    }
    for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
        if (numbers[i].code == code)
            return take_number(optarg, numbers[i].min, numbers[i].max,
                               (void *)((char *)o + numbers[i].offset))
                       ? NULL
                       : numbers[i].expects;
    for (unsigned i = 0; i < sizeof(lists) / sizeof(lists[0]); i++)
        if (lists[i].code == code) {
            o->sized |= code == OPT_SIZE;
            return take_list(optarg, lists[i].min, lists[i].max,
                             (void *)((char *)o + lists[i].offset))
                       ? NULL
                       : lists[i].expects;
        }
    switch (code) {
    case OPT_RINGS:
        return take_rings(optarg, o) ? NULL : "--rings expects split, packed, or both";
    case OPT_IN_ORDER:
        o->in_order = true;
        return NULL;
    case OPT_EVENT_IDX:
        o->event_idx = true;
        return NULL;
    case OPT_SPIN:
        o->spin = true;
        return NULL;
    case OPT_GUEST_POLLS:
        o->guest_polls = true;
        return NULL;
    case OPT_MAX_SPREAD:
        return take_percent(optarg, &o->max_spread) ? NULL : "--max-spread expects a percentage";
    case OPT_MAX_APART:
        return take_percent(optarg, &o->max_apart) ? NULL : "--max-apart expects a percentage";
    default:
        return take_text(code, o);
    }
}

/* svqd is installed beside svq-bench, and built beside it. */
static const char *find_svqd(void)
{
    static char path[4096];
    ssize_t len = readlink("/proc/self/exe", path, sizeof(path) - sizeof("svqd"));
    char *slash;

    if (len <= 0)
        return "/usr/bin/svqd";
    path[len] = '\0';
    slash = strrchr(path, '/');
    strcpy(slash + 1, "svqd");
    return path;
}

/* Return: NULL, or what does not fit together. */
static const char *check(const struct path_options *o)
{
    if (o->ring_size & (o->ring_size - 1))
        return "--ring-size expects a power of two";
    if (o->in_flight > o->ring_size)
        return "--in-flight expects at most what the ring holds, --ring-size";
    for (unsigned i = 1; i < o->devices.count; i++)
        if (o->devices.values[i] <= o->devices.values[i - 1])
            return "--devices expects ascending numbers";
    return NULL;
}

int path_parse(int argc, char **argv, struct path_options *o)
{
    const char *wrong = NULL;
    int code;

    *o = (struct path_options){
        .split = true,
        .packed = true,
        .batches = {1, {32}},
        .sizes = {1, {64}},
        .depths = {3, {1, 32, 128}},
        .devices = {4, {1, 16, 128, 1000}},
        .ring_size = 1024,
        .in_flight = 256,
        .slots = 30,
        .slot_ms = 100,
        .drop_ms = 10,
        .repeats = 2,
        .switches = 200,
        .max_spread = 0.15,
        .max_apart = 0.05,
        .device_cpu = PATH_SAME_CPU,
        .worker_cpu = 1,
        .testpmd = "/usr/bin/dpdk-testpmd",
        .storage_daemon = "/usr/bin/qemu-storage-daemon",
        .seed = bench_now_ns() & 0xffffffff,
    };
    while ((code = getopt_long(argc, argv, "h", long_options, NULL)) != -1 && !wrong) {
        if (code == 'h') {
            fputs(help, stdout);
            return BENCH_OK;
        }
        wrong = take_option(code, o);
    }
    if (!wrong && optind < argc)
        return (int)bench_usage_error("path takes no arguments, but options: ", argv[optind]);
    if (!wrong)
        wrong = check(o);
    if (wrong)
        return (int)bench_usage_error(wrong, "");
    if (!o->parts)
        o->parts = PATH_THROUGHPUT;
    if (!o->queues.count)
        o->queues = (struct path_list){1, {2}};
    if (!o->svqd)
        o->svqd = find_svqd();
    return -1;
}
