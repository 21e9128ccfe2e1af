/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What svqd was asked to be: its command line and its configuration file, which hold the same
 * things. Where both say something the command line wins; devices add up.
 */
#ifndef SVQ_DAEMON_OPTIONS_H
#define SVQ_DAEMON_OPTIONS_H

#include <stdbool.h>
#include <stddef.h>

#include "base/log.h"
#include "daemon/cpu_list.h"
#include "daemon/device_desc.h"
#include "mem/region_pages.h"

#define SVQ_DEFAULT_WORKERS 1
#define SVQ_DEFAULT_POLL_US 50
#define SVQ_MAX_WORKERS     256

enum svq_options_action { SVQ_ACTION_RUN, SVQ_ACTION_HELP, SVQ_ACTION_VERSION };

/* Members that the command line has set, so that the file leaves them alone. */
#define SVQ_SET_QMP       0x1u
#define SVQ_SET_WORKERS   0x2u
#define SVQ_SET_POLL_US   0x4u
#define SVQ_SET_LOG_LEVEL 0x8u
#define SVQ_SET_CPUS      0x10u
#define SVQ_SET_PAGES     0x20u

struct svq_options {
    enum svq_options_action action;
    struct svq_device_desc *devices;
    size_t device_count;
    char *qmp; /* NULL: no QMP */
    unsigned workers;
    int poll_us; /* or SVQ_POLL_ALWAYS */
    struct svq_cpu_list worker_cpus;
    enum svq_huge_pages huge_pages;
    enum svq_log_level log_level;
    unsigned set; /* SVQ_SET_* */
};

void svq_options_init(struct svq_options *options);
void svq_options_release(struct svq_options *options);

/**
 * svq_options_parse() - the command line, and the configuration file it names.
 * @options: initialised; to be released by the caller even after a failure
 *
 * Not reentrant, as getopt is not.
 *
 * Return: 0, or -EINVAL with the reason in *failure.
 */
int svq_options_parse(int argc, char **argv, struct svq_options *options,
                      struct svq_failure *failure);

/* One more device; takes over *desc when it succeeds. Refuses a second one of that id or socket. */
int svq_options_add_device(struct svq_options *options, struct svq_device_desc *desc,
                           struct svq_failure *failure);

/* "auto", "reserved" or "off". Return: false when it is none of these. */
bool svq_huge_pages_parse(const char *text, enum svq_huge_pages *out);

/* The text of --help; static. */
const char *svq_options_help(void);

#endif
