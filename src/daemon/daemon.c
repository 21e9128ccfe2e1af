/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The control thread's fibers, and who ends whom:
 *
 *   supervisor   starts everything, waits for a signal or QMP's quit, then ends the devices, the
 *                QMP server and the fault fiber, in this order: devices may fault and report until
 *                they are gone, and clients hear of it
 *   engine       runs the fault functions of queues that a worker has stopped; spreads queues over
 *                workers
 *   qmp-*, ...   belong to the QMP server and to the devices
 *
 * The loop returns when the last of them has ended; only then are loop and engine freed.
 */
#include "daemon/daemon.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/signalfd.h>
#include <unistd.h>

#include <shadowvq/version.h>

#include "base/log.h"
#include "daemon/notify.h"
#include "daemon/qmp.h"
#include "daemon/registry.h"
#include "daemon/sigbus.h"
#include "engine/engine.h"
#include "event/fiber.h"
#include "mem/region_pages.h"

/* Between looks at what each worker has to do. */
#define SPREAD_PERIOD SVQ_SEC

struct daemon {
    const struct svq_options *options;
    struct svq_loop *loop;
    struct svq_engine *engine;
    struct svq_registry *registry;
    struct svq_qmp *qmp;
    struct svq_fiber *supervisor;
    struct svq_fiber *engine_fiber; /* NULL: ended */
    int signal_fd;
    bool quit;
    bool engine_stop;
    int status;
};

static void on_event(void *opaque, const struct svq_event *event)
{
    struct daemon *daemon = opaque;

    if (daemon->qmp)
        svq_qmp_event(daemon->qmp, event);
}

static void on_quit(void *opaque)
{
    struct daemon *daemon = opaque;

    svq_info(NULL, "asked to quit");
    daemon->quit = true;
    svq_fiber_wake(daemon->supervisor);
}

/* ---- Signals ------------------------------------------------------------------------------- */

/* Blocked in all threads, as this comes before the workers: they arrive through the fd. */
static int open_signals(void)
{
    sigset_t set;
    int fd;

    signal(SIGPIPE, SIG_IGN);
    svq_sigbus_guard();
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    if (sigprocmask(SIG_BLOCK, &set, NULL) < 0)
        return -errno;
    fd = signalfd(-1, &set, SFD_NONBLOCK | SFD_CLOEXEC);
    return fd < 0 ? -errno : fd;
}

/* A second signal ends svqd at once: the way out when a peer makes the clean one long. */
static void restore_signals(void)
{
    sigset_t set;

    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_UNBLOCK, &set, NULL);
}

static void take_signal(struct daemon *daemon)
{
    struct signalfd_siginfo info;

    if (read(daemon->signal_fd, &info, sizeof(info)) != (ssize_t)sizeof(info))
        return;
    svq_info(NULL, "%s: shutting down", info.ssi_signo == SIGINT ? "SIGINT" : "SIGTERM");
    daemon->quit = true;
    restore_signals();
}

/* ---- Fibers -------------------------------------------------------------------------------- */

static void engine_fiber(void *arg)
{
    struct daemon *daemon = arg;
    struct pollfd pfd = {.fd = svq_engine_fault_fd(daemon->engine), .events = POLLIN};
    bool several = svq_engine_workers(daemon->engine) > 1;

    while (!daemon->engine_stop) {
        int64_t look = several ? svq_deadline(SPREAD_PERIOD) : SVQ_FOREVER;

        if (svq_fiber_poll(&pfd, 1, look) > 0)
            svq_engine_faults(daemon->engine);
        else if (several)
            svq_engine_spread(daemon->engine);
    }
    daemon->engine_fiber = NULL;
    svq_fiber_wake(daemon->supervisor);
}

static int start_devices(struct daemon *daemon)
{
    struct svq_failure failure;
    size_t i;
    int ret;

    for (i = 0; i < daemon->options->device_count; i++) {
        ret = svq_registry_add(daemon->registry, &daemon->options->devices[i].config, &failure);
        if (ret < 0) {
            svq_error(NULL, "%s%s%s", failure.text, failure.hint[0] ? ". " : "", failure.hint);
            return ret;
        }
    }
    return 0;
}

static int start_qmp(struct daemon *daemon)
{
    const struct svq_command_context context = {
        .registry = daemon->registry, .quit = on_quit, .opaque = daemon};
    struct svq_failure failure;
    int ret;

    if (!daemon->options->qmp)
        return 0;
    ret = svq_qmp_start(daemon->loop, daemon->options->qmp, &context, &daemon->qmp, &failure);
    if (ret < 0)
        svq_error(NULL, "%s%s%s", failure.text, failure.hint[0] ? ". " : "", failure.hint);
    return ret;
}

/* QMP first: its clients see the devices' first events, and a second svqd stops here. */
static int start(struct daemon *daemon)
{
    int ret;

    ret = svq_fiber_spawn(daemon->loop, "engine", engine_fiber, daemon, &daemon->engine_fiber);
    if (ret < 0) {
        svq_error(NULL, "can't start: %s", strerror(-ret));
        return ret;
    }
    ret = start_qmp(daemon);
    if (ret < 0)
        return ret;
    return start_devices(daemon);
}

static void notify(const char *state)
{
    int ret = svq_notify(state);

    if (ret < 0)
        svq_warning(NULL, "can't notify the service manager: %s", strerror(-ret));
}

static void stop(struct daemon *daemon)
{
    struct svq_qmp *qmp = daemon->qmp;

    svq_registry_delete_all(daemon->registry);
    daemon->qmp = NULL;
    svq_qmp_stop(qmp);
    daemon->engine_stop = true;
    while (daemon->engine_fiber) {
        svq_fiber_wake(daemon->engine_fiber);
        svq_fiber_poll(NULL, 0, SVQ_FOREVER);
    }
}

static void supervisor_fiber(void *arg)
{
    struct daemon *daemon = arg;
    struct pollfd pfd = {.fd = daemon->signal_fd, .events = POLLIN};
    int ret;

    if (start(daemon) < 0) {
        daemon->status = 1;
        daemon->quit = true;
    } else {
        svq_info(NULL, "shadowvq %s ready, %zu device%s", svq_version(),
                 daemon->options->device_count, daemon->options->device_count == 1 ? "" : "s");
        notify("READY=1");
    }
    while (!daemon->quit) {
        ret = svq_fiber_poll(&pfd, 1, SVQ_FOREVER);
        if (ret > 0)
            take_signal(daemon);
    }
    notify("STOPPING=1");
    stop(daemon);
}

/* ---- From start to end --------------------------------------------------------------------- */

/* Shadow rings lie where the workers are, if that is one place. */
static void set_region_policy(const struct svq_options *options)
{
    const struct svq_cpu_list *list = &options->worker_cpus;
    unsigned used = list->count < options->workers ? list->count : options->workers;
    const struct svq_region_policy policy = {
        .huge_pages = options->huge_pages,
        .node = svq_numa_node(SVQ_NUMA_SYSFS, list->cpus, used),
    };

    if (policy.node != SVQ_NUMA_ANY)
        svq_info(NULL, "workers and shadow rings are on NUMA node %d", policy.node);
    svq_region_pages_policy(&policy);
}

static int start_engine(struct daemon *daemon)
{
    const struct svq_options *options = daemon->options;
    const struct svq_engine_config config = {.workers = options->workers,
                                             .poll_us = options->poll_us,
                                             .cpus = options->worker_cpus.cpus,
                                             .cpu_count = options->worker_cpus.count};
    int ret = svq_engine_new(&config, &daemon->engine);

    /* Nothing else about workers can be invalid by now. */
    if (ret == -EINVAL && config.cpu_count)
        svq_error(NULL, "worker-cpus names a processor that is not there, or that svqd may not use "
                        "(taskset -p, cpuset)");
    return ret;
}

static int prepare(struct daemon *daemon)
{
    struct svq_device_context context = {.event = on_event, .opaque = daemon};
    int ret;

    daemon->signal_fd = open_signals();
    if (daemon->signal_fd < 0)
        return daemon->signal_fd;
    set_region_policy(daemon->options);
    ret = svq_loop_new(&daemon->loop);
    if (ret < 0)
        return ret;
    ret = start_engine(daemon);
    if (ret < 0)
        return ret;
    context.loop = daemon->loop;
    context.engine = daemon->engine;
    daemon->registry = svq_registry_new(&context);
    if (!daemon->registry)
        return -ENOMEM;
    return svq_fiber_spawn(daemon->loop, "supervisor", supervisor_fiber, daemon,
                           &daemon->supervisor);
}

static void dispose(struct daemon *daemon)
{
    svq_registry_free(daemon->registry);
    if (daemon->engine)
        svq_engine_free(daemon->engine);
    if (daemon->loop)
        svq_loop_free(daemon->loop);
    if (daemon->signal_fd >= 0)
        close(daemon->signal_fd);
}

int svq_daemon_run(const struct svq_options *options)
{
    struct daemon daemon = {.options = options, .signal_fd = -1};
    int ret;

    ret = prepare(&daemon);
    if (ret < 0) {
        svq_error(NULL, "can't start: %s", strerror(-ret));
        dispose(&daemon);
        return 1;
    }
    ret = svq_loop_run(daemon.loop);
    if (ret < 0) {
        /* The fibers are stuck where they are, so there is nothing to free in order. */
        svq_error(NULL, "event loop: %s", strerror(-ret));
        return 1;
    }
    dispose(&daemon);
    return daemon.status;
}
