/* SPDX-License-Identifier: BSD-3-Clause */
#include "relay.h"
#include "bench.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

static const char help[] =
    "Usage: svq-bench relay [OPTION]...\n"
    "\n"
    "Measure the relay's own time per buffer, in one thread and without its ends' time, for\n"
    "every pair of ring formats. Pairs and cases take turns in short slots.\n"
    "\n"
    "Options:\n"
    "  --setup LIST         ways to use the ring, of those below (default: all)\n"
    "  --pair LIST          ring formats, guest's first: split>split, split>packed,\n"
    "                       packed>split, packed>packed (default: all)\n"
    "  --batch LIST         buffers per turn (default 1,32,256)\n"
    "  --log LIST           dirty log: off, on (default off,on)\n"
    "  --size N             entries of the guest's ring, a power of two (default 1024)\n"
    "  --descriptors N      per buffer, where a setup has several (default 4)\n"
    "  --slots N            measurements of each pair in each case (default 31)\n"
    "  --slot-us N          length of one, microseconds (default 1000)\n"
    "  --repeats N          slots may be repeated so often on average, when something else ran on\n"
    "                       this core meanwhile (default 2)\n"
    "  --max-spread PERCENT  interquartile range over median beyond which a figure is noise\n"
    "                       (default 15)\n"
    "  --cpu N              run on that processor (default: where it starts)\n"
    "  --relay-cpu N        the relay on that one, apart from its ends (default: the same)\n"
    "  --detail             forward and back, confidence intervals, cycles: a line per pair\n"
    "  --json               print JSON\n"
    "  -h, --help           print this help and exit\n"
    "\n"
    "Setups:\n";

enum {
    OPT_SETUP = 256,
    OPT_PAIR,
    OPT_BATCH,
    OPT_LOG,
    OPT_SIZE,
    OPT_DESCRIPTORS,
    OPT_SLOTS,
    OPT_SLOT_US,
    OPT_REPEATS,
    OPT_MAX_SPREAD,
    OPT_CPU,
    OPT_RELAY_CPU,
    OPT_DETAIL,
    OPT_JSON,
};

static const struct option long_options[] = {
    {"setup", required_argument, NULL, OPT_SETUP},
    {"pair", required_argument, NULL, OPT_PAIR},
    {"batch", required_argument, NULL, OPT_BATCH},
    {"log", required_argument, NULL, OPT_LOG},
    {"size", required_argument, NULL, OPT_SIZE},
    {"descriptors", required_argument, NULL, OPT_DESCRIPTORS},
    {"slots", required_argument, NULL, OPT_SLOTS},
    {"slot-us", required_argument, NULL, OPT_SLOT_US},
    {"repeats", required_argument, NULL, OPT_REPEATS},
    {"max-spread", required_argument, NULL, OPT_MAX_SPREAD},
    {"cpu", required_argument, NULL, OPT_CPU},
    {"relay-cpu", required_argument, NULL, OPT_RELAY_CPU},
    {"detail", no_argument, NULL, OPT_DETAIL},
    {"json", no_argument, NULL, OPT_JSON},
    {"help", no_argument, NULL, 'h'},
    {NULL, 0, NULL, 0},
};

static void print_help(void)
{
    fputs(help, stdout);
    for (unsigned i = 0; i < RELAY_SETUPS; i++)
        printf("  %-10s %s\n", relay_setups[i].name, relay_setups[i].what);
    fputs("\nExit status: 0; 1 could not measure; 2 wrong usage; 3 too noisy to be a result.\n",
          stdout);
}

static bool take_number(const char *text, unsigned min, unsigned max, unsigned *value)
{
    char *end;
    unsigned long number = strtoul(text, &end, 10);

    *value = (unsigned)number;
    return text[0] >= '0' && text[0] <= '9' && *end == '\0' && number >= min && number <= max;
}

/* Position of the word [text, text + len) among names; names[i] NULL ends them. -1: none. */
static int find(const char *text, size_t len, const char *const *names)
{
    for (int i = 0; names[i]; i++)
        if (strlen(names[i]) == len && !memcmp(names[i], text, len))
            return i;
    return -1;
}

/* A list of names as bits. */
static bool take_names(const char *text, const char *const *names, unsigned *bits)
{
    *bits = 0;
    for (;;) {
        size_t len = strcspn(text, ",");
        int at = find(text, len, names);

        if (at < 0)
            return false;
        *bits |= 1u << at;
        if (!text[len])
            return true;
        text += len + 1;
    }
}

static bool take_setups(const char *text, unsigned *bits)
{
    const char *names[RELAY_SETUPS + 1] = {NULL};

    for (unsigned i = 0; i < RELAY_SETUPS; i++)
        names[i] = relay_setups[i].name;
    return take_names(text, names, bits);
}

static bool take_pairs(const char *text, unsigned *bits)
{
    const char *names[RELAY_PAIRS + 1] = {NULL};

    memcpy(names, relay_pair_names, sizeof(relay_pair_names));
    return take_names(text, names, bits);
}

static bool take_log(const char *text, struct relay_options *o)
{
    static const char *const names[] = {"off", "on", NULL};
    unsigned bits;

    if (!take_names(text, names, &bits))
        return false;
    o->log_off = bits & 1;
    o->log_on = bits & 2;
    return true;
}

static bool take_batches(const char *text, struct relay_options *o)
{
    char number[8];

    for (o->batch_count = 0; o->batch_count < RELAY_LIST_MAX;) {
        size_t len = strcspn(text, ",");

        if (len >= sizeof(number))
            return false;
        memcpy(number, text, len);
        number[len] = '\0';
        if (!take_number(number, 1, SVQ_RING_MAX, &o->batches[o->batch_count++]))
            return false;
        if (!text[len])
            return true;
        text += len + 1;
    }
    return false;
}

static bool take_percent(const char *text, double *fraction)
{
    char *end;

    *fraction = strtod(text, &end) / 100;
    return end != text && *end == '\0' && *fraction > 0 && *fraction <= 100;
}

/* Return: NULL, or what the option expects. */
static const char *take_option(int code, struct relay_options *o)
{
    unsigned cpu;

    switch (code) {
    case OPT_SETUP:
        return take_setups(optarg, &o->setups) ? NULL : "--setup expects names that --help lists";
    case OPT_PAIR:
        return take_pairs(optarg, &o->pairs) ? NULL : "--pair expects pairs like split>packed";
    case OPT_BATCH:
        return take_batches(optarg, o) ? NULL : "--batch expects up to 8 numbers, 1 to 32768";
    case OPT_LOG:
        return take_log(optarg, o) ? NULL : "--log expects off, on, or both";
    case OPT_SIZE:
        return take_number(optarg, 2, SVQ_RING_MAX, &o->size) && !(o->size & (o->size - 1))
                   ? NULL
                   : "--size expects a power of two, 2 to 32768";
    case OPT_DESCRIPTORS:
        return take_number(optarg, 2, 256, &o->descriptors) ? NULL
                                                            : "--descriptors expects 2 to 256";
    case OPT_SLOTS:
        return take_number(optarg, 1, RELAY_SLOTS_MAX, &o->slots) ? NULL
                                                                  : "--slots expects 1 to 10001";
    case OPT_SLOT_US:
        return take_number(optarg, 1, 1000000, &o->slot_us) ? NULL
                                                            : "--slot-us expects 1 to 1000000";
    case OPT_REPEATS:
        return take_number(optarg, 0, 1000, &o->repeats) ? NULL : "--repeats expects 0 to 1000";
    case OPT_MAX_SPREAD:
        return take_percent(optarg, &o->max_spread) ? NULL : "--max-spread expects a percentage";
    case OPT_CPU:
        if (!take_number(optarg, 0, 1023, &cpu))
            return "--cpu expects a processor's number";
        o->cpu = (int)cpu;
        return NULL;
    case OPT_RELAY_CPU:
        if (!take_number(optarg, 0, 1023, &cpu))
            return "--relay-cpu expects a processor's number";
        o->relay_cpu = (int)cpu;
        return NULL;
    case OPT_DETAIL:
        o->detail = true;
        return NULL;
    case OPT_JSON:
        o->json = true;
        return NULL;
    default:
        return "relay: wrong options";
    }
}

/* A batch must fit either ring whatever its chains look like. */
static bool batches_fit(const struct relay_options *o)
{
    bool chained = false;

    for (unsigned i = 0; i < RELAY_SETUPS; i++)
        chained |= (o->setups & 1u << i) && relay_setups[i].chained;
    for (unsigned i = 0; i < o->batch_count; i++)
        if (o->batches[i] > o->size / (chained ? o->descriptors : 1))
            return false;
    return true;
}

int relay_parse(int argc, char **argv, struct relay_options *o)
{
    int code;

    *o = (struct relay_options){
        .size = 1024,
        .descriptors = 4,
        .batches = {1, 32, 256},
        .batch_count = 3,
        .setups = (1u << RELAY_SETUPS) - 1,
        .pairs = (1u << RELAY_PAIRS) - 1,
        .log_off = true,
        .log_on = true,
        .slots = 31,
        .slot_us = 1000,
        .repeats = 2,
        .max_spread = 0.15,
        .cpu = -1,
        .relay_cpu = -1,
    };
    while ((code = getopt_long(argc, argv, "h", long_options, NULL)) != -1) {
        const char *wrong;

        if (code == 'h') {
            print_help();
            return BENCH_OK;
        }
        wrong = take_option(code, o);
        if (wrong)
            return (int)bench_usage_error(wrong, "");
    }
    if (optind < argc)
        return (int)bench_usage_error("relay takes no arguments, but options: ", argv[optind]);
    if (!batches_fit(o))
        return (int)bench_usage_error("a batch does not fit the ring: descriptors times batch must "
                                      "be at most the size",
                                      "");
    return -1;
}
