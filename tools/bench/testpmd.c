/* SPDX-License-Identifier: BSD-3-Clause */
#include "testpmd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

#include "clock.h"
#include "proxy.h"

#define PROMPT    "testpmd> "
#define ANSWER_MS 60000
#define END_MS    5000
#define STEP_MS   10
#define ARGS_MAX  40u

static int fail(struct testpmd *t, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(struct testpmd *t, int err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(t->error, sizeof(t->error), format, args);
    va_end(args);
    return err;
}

/* ---- The prompt ------------------------------------------------------------------------------ */

/* Why it ended: the last line of its log, or what it said last. */
static int explain(struct testpmd *t)
{
    char line[256];

    t->text[t->length] = '\0';
    proxy_last_line(t->log, line, sizeof(line));
    return fail(t, -EPIPE, "testpmd ended: %s",
                line[0] ? line : t->text + (t->length > 200 ? t->length - 200 : 0));
}

static int read_more(struct testpmd *t, int timeout_ms)
{
    struct pollfd pfd = {.fd = t->out, .events = POLLIN};
    ssize_t got;

    if (t->length + 1 >= t->room) {
        size_t room = t->room ? 2 * t->room : 65536;
        char *text = realloc(t->text, room);

        if (!text)
            return fail(t, -ENOMEM, "testpmd: out of memory");
        t->text = text;
        t->room = room;
    }
    if (poll(&pfd, 1, timeout_ms) <= 0)
        return fail(t, -ETIMEDOUT, "testpmd does not answer; its log is %s", t->log);
    got = read(t->out, t->text + t->length, t->room - t->length - 1);
    if (got <= 0)
        return explain(t);
    t->length += (size_t)got;
    t->text[t->length] = '\0';
    return 0;
}

/* The prompt is the last thing that it writes. */
static bool has_prompt(const struct testpmd *t)
{
    size_t len = strlen(PROMPT);

    return t->length >= len && !memcmp(t->text + t->length - len, PROMPT, len);
}

static int await_prompt(struct testpmd *t)
{
    uint64_t deadline = bench_now_ns() + ANSWER_MS * UINT64_C(1000000);

    while (!has_prompt(t)) {
        int ret = read_more(t, ANSWER_MS);

        if (ret)
            return ret;
        if (bench_now_ns() > deadline)
            return fail(t, -ETIMEDOUT, "testpmd does not come to its prompt");
    }
    return 0;
}

/* It polls for commands: let it do so in earnest only while one is on its way. */
static void be_idle(const struct testpmd *t, bool idle)
{
    const struct sched_param param = {0};

    sched_setscheduler(t->pid, idle ? SCHED_IDLE : SCHED_OTHER, &param);
}

int testpmd_command(struct testpmd *t, const char *format, ...)
{
    char line[256];
    va_list args;
    int len, ret;

    va_start(args, format);
    len = vsnprintf(line, sizeof(line) - 1, format, args);
    va_end(args);
    if (len < 0 || (size_t)len >= sizeof(line) - 1)
        return fail(t, -EINVAL, "testpmd: too long a command");
    line[len++] = '\n';
    /* What it said by itself since the last command is of no interest. */
    t->length = 0;
    be_idle(t, false);
    if (write(t->in, line, (size_t)len) != len)
        return fail(t, -EPIPE, "testpmd takes no command");
    ret = await_prompt(t);
    be_idle(t, true);
    return ret;
}

/* The number behind a name, which comes before `end`; 0: it does not. */
static uint64_t number_after(const char *text, const char *name, const char *end)
{
    const char *found = strstr(text, name);

    return found && (!end || found < end) ? strtoull(found + strlen(name), NULL, 10) : 0;
}

int testpmd_stats(struct testpmd *t, struct testpmd_stats *stats)
{
    static const char head[] = "NIC statistics for port ";
    int ret = testpmd_command(t, "show port stats all");
    const char *at, *next;

    if (ret)
        return ret;
    *stats = (struct testpmd_stats){.ns = bench_now_ns()};
    for (at = strstr(t->text, head); at; at = next) {
        unsigned port = (unsigned)strtoul(at + strlen(head), NULL, 10);

        next = strstr(at + 1, head);
        if (port >= TESTPMD_PORTS)
            continue;
        stats->ports[port].rx = number_after(at, "RX-packets:", next);
        stats->ports[port].tx = number_after(at, "TX-packets:", next);
    }
    return 0;
}

/* ---- The process ----------------------------------------------------------------------------- */

/* In the child, up to exec. */
static void become(char *const argv[], int in, int out, const char *log, pid_t parent)
{
    int err = open(log, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (err < 0 || getppid() != parent)
        _exit(127);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(err, STDERR_FILENO);
    execvp(argv[0], argv);
    printf("%s: %s\n", argv[0], strerror(errno));
    fflush(stdout);
    _exit(127);
}

static int spawn(struct testpmd *t, char *const argv[])
{
    pid_t parent = getpid();
    int in[2], out[2], err;

    if (pipe2(in, O_CLOEXEC))
        return fail(t, -errno, "pipe: %s", strerror(errno));
    if (pipe2(out, O_CLOEXEC)) {
        close(in[0]);
        close(in[1]);
        return fail(t, -errno, "pipe: %s", strerror(errno));
    }
    t->pid = fork();
    err = errno;
    if (!t->pid)
        become(argv, in[0], out[1], t->log, parent);
    close(in[0]);
    close(out[1]);
    t->in = in[1];
    t->out = out[0];
    if (t->pid > 0)
        return 0;
    /* Nothing is left for testpmd_end(). */
    t->pid = 0;
    close(t->in);
    close(t->out);
    return fail(t, -err, "fork: %s", strerror(err));
}

/* DPDK names it. */
static int find_lcore(struct testpmd *t)
{
    char path[320], name[32];
    struct dirent *entry;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)t->pid);
    dir = opendir(path);
    while (dir && (entry = readdir(dir))) {
        FILE *file;

        snprintf(path, sizeof(path), "/proc/%d/task/%s/comm", (int)t->pid, entry->d_name);
        file = fopen(path, "re");
        if (!file)
            continue;
        if (fgets(name, sizeof(name), file) && strstr(name, "worker"))
            t->lcore = atoi(entry->d_name);
        fclose(file);
    }
    if (dir)
        closedir(dir);
    return t->lcore ? 0 : fail(t, -ESRCH, "testpmd has no thread that forwards");
}

int testpmd_start(struct testpmd *t, const struct testpmd_config *c)
{
    char lcores[32], prefix[72], topology[40];
    const char *argv[ARGS_MAX] = {"stdbuf", "-oL",      c->program, "--no-huge",
                                  "-m",     "192",      "--no-pci", "--no-telemetry",
                                  prefix,   "--lcores", lcores};
    static const char *const rest[] = {"--",
                                       "-i",
                                       "--nb-cores=1",
                                       "--total-num-mbufs=16384",
                                       "--no-lsc-interrupt",
                                       "--no-flush-rx",
                                       "--disable-link-check",
                                       "--rxd=1024",
                                       "--txd=1024"};
    unsigned count = 11;
    int ret;

    *t = (struct testpmd){.in = -1, .out = -1};
    snprintf(t->prefix, sizeof(t->prefix), "svq-bench-%d-%s", (int)getpid(), c->name);
    snprintf(t->log, sizeof(t->log), "%s/%s.log", c->folder, c->name);
    snprintf(prefix, sizeof(prefix), "--file-prefix=%s", t->prefix);
    snprintf(lcores, sizeof(lcores), "0@%d,1@%d", c->cpu, c->cpu);
    snprintf(topology, sizeof(topology), "--port-topology=%s", c->topology);
    for (unsigned i = 0; i < TESTPMD_VDEVS && c->vdevs[i]; i++) {
        argv[count++] = "--vdev";
        argv[count++] = c->vdevs[i];
    }
    for (unsigned i = 0; i < sizeof(rest) / sizeof(rest[0]); i++)
        argv[count++] = rest[i];
    argv[count++] = topology;
    argv[count] = NULL;
    ret = spawn(t, (char *const *)argv);
    if (!ret)
        ret = await_prompt(t);
    return ret ? ret : find_lcore(t);
}

void testpmd_hold(struct testpmd *t, bool hold)
{
    if (t->pid && hold != t->stopped)
        kill(t->pid, hold ? SIGSTOP : SIGCONT);
    t->stopped = hold;
}

/* What DPDK leaves behind in its run-time folder. */
static void sweep(const struct testpmd *t)
{
    const char *base = getuid() ? getenv("XDG_RUNTIME_DIR") : "/var/run";
    struct dirent *entry;
    char path[512];
    DIR *dir;

    snprintf(path, sizeof(path), "%s/dpdk/%s", base ? base : "/tmp", t->prefix);
    dir = opendir(path);
    while (dir && (entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(path);
}

void testpmd_end(struct testpmd *t)
{
    int status;

    if (t->pid) {
        testpmd_hold(t, false);
        be_idle(t, false);
        /* The end of its input is a way out, unless it waits for a peer that has gone. */
        close(t->in);
        for (int waited = 0; waitpid(t->pid, &status, WNOHANG) == 0; waited += STEP_MS) {
            if (waited == END_MS)
                kill(t->pid, SIGKILL);
            bench_sleep_ms(STEP_MS);
        }
        close(t->out);
        sweep(t);
    }
    free(t->text);
    *t = (struct testpmd){.in = -1, .out = -1};
}
