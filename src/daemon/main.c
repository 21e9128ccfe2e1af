/* SPDX-License-Identifier: BSD-3-Clause */
#include <stdio.h>
#include <sys/resource.h>

#include <shadowvq/version.h>

#include "base/log.h"
#include "daemon/daemon.h"
#include "daemon/options.h"

#define EXIT_USAGE 2

/* A queue takes up to five fds, and the usual soft limit is 1024: allow what the system allows. */
static void raise_fd_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0 && limit.rlim_cur < limit.rlim_max) {
        limit.rlim_cur = limit.rlim_max;
        if (setrlimit(RLIMIT_NOFILE, &limit) < 0)
            svq_warning(NULL, "can't raise the limit of open files: %m");
    }
}

static int print_failure(const struct svq_failure *failure)
{
    fprintf(stderr, "svqd: error: %s\n", failure->text);
    if (failure->hint[0])
        fprintf(stderr, "svqd: %s\n", failure->hint);
    return EXIT_USAGE;
}

static int run(struct svq_options *options)
{
    switch (options->action) {
    case SVQ_ACTION_HELP:
        fputs(svq_options_help(), stdout);
        return 0;
    case SVQ_ACTION_VERSION:
        printf("svqd (shadowvq) %s\n", svq_version());
        return 0;
    case SVQ_ACTION_RUN:
        break;
    }
    svq_log_set_level(options->log_level);
    raise_fd_limit();
    return svq_daemon_run(options);
}

int main(int argc, char **argv)
{
    struct svq_failure failure;
    struct svq_options options;
    int status;

    svq_options_init(&options);
    if (svq_options_parse(argc, argv, &options, &failure) < 0)
        status = print_failure(&failure);
    else
        status = run(&options);
    svq_options_release(&options);
    return status;
}
