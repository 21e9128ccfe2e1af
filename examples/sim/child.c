/* SPDX-License-Identifier: BSD-3-Clause */
#include "child.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define STOP_MS 8000

/* In the child, up to exec. */
static void become(char *const argv[], const char *log, pid_t parent)
{
    int out = open(log, O_WRONLY | O_CREAT | O_APPEND, 0600);
    int in = open("/dev/null", O_RDONLY);
    sigset_t none;

    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (out < 0 || in < 0 || getppid() != parent)
        _exit(127);
    dup2(in, STDIN_FILENO);
    dup2(out, STDOUT_FILENO);
    dup2(out, STDERR_FILENO);
    execv(argv[0], argv);
    fprintf(stderr, "%s: %s\n", argv[0], strerror(errno));
    _exit(127);
}

int sim_child_start(struct sim_child *child, const char *name, char *const argv[], const char *log)
{
    pid_t parent = getpid();

    child->name = name;
    snprintf(child->log, sizeof(child->log), "%s", log);
    child->pid = fork();
    if (child->pid < 0) {
        child->pid = 0;
        return -errno;
    }
    if (!child->pid)
        become(argv, log, parent);
    return 0;
}

static bool describe(const struct sim_child *child, int status, char *how, size_t size)
{
    if (WIFSIGNALED(status))
        snprintf(how, size, "%s was ended by signal %d (%s)", child->name, WTERMSIG(status),
                 strsignal(WTERMSIG(status)));
    else
        snprintf(how, size, "%s ended with exit code %d", child->name, WEXITSTATUS(status));
    return WIFEXITED(status) && !WEXITSTATUS(status);
}

bool sim_child_ended(struct sim_child *child, char *how, size_t size)
{
    int status;

    if (!child->pid || waitpid(child->pid, &status, WNOHANG) != child->pid)
        return false;
    describe(child, status, how, size);
    child->pid = 0;
    return true;
}

bool sim_child_stop(struct sim_child *child, char *how, size_t size)
{
    const struct timespec pause = {.tv_nsec = 10 * 1000 * 1000};
    bool killed = false;
    int status;

    if (!child->pid)
        return true;
    kill(child->pid, SIGTERM);
    for (int waited = 0; waitpid(child->pid, &status, WNOHANG) != child->pid; waited += 10) {
        if (waited >= STOP_MS && !killed) {
            kill(child->pid, SIGKILL);
            killed = true;
        }
        nanosleep(&pause, NULL);
    }
    child->pid = 0;
    if (!killed)
        return describe(child, status, how, size);
    snprintf(how, size, "%s did not end when asked to", child->name);
    return false;
}

int sim_child_kill(struct sim_child *child)
{
    int status = 0;
    pid_t ended;

    if (!child->pid)
        return -ESRCH;
    kill(child->pid, SIGKILL);
    do
        ended = waitpid(child->pid, &status, 0);
    while (ended < 0 && errno == EINTR);
    child->pid = 0;
    return WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL ? 0 : -ESRCH;
}

uint64_t sim_child_cpu(const struct sim_child *child)
{
    char path[64], line[512];
    uint64_t user, system;
    const char *fields;
    FILE *file;
    size_t len;

    snprintf(path, sizeof(path), "/proc/%d/stat", (int)child->pid);
    file = child->pid ? fopen(path, "r") : NULL;
    if (!file)
        return 0;
    len = fread(line, 1, sizeof(line) - 1, file);
    fclose(file);
    line[len] = '\0';
    /* Fields 14 and 15, in clock ticks; the name, field 2, may hold anything but ends with ')'. */
    fields = strrchr(line, ')');
    if (!fields ||
        sscanf(fields + 1, " %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %" SCNu64 " %" SCNu64,
               &user, &system) != 2)
        return 0;
    return (user + system) * 1000000u / (uint64_t)sysconf(_SC_CLK_TCK);
}
