/* SPDX-License-Identifier: BSD-3-Clause */
#include "proxy.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define START_MS      10000u
#define START_STEP_MS 100u

static int fail(struct proxy *proxy, int err, const char *format, ...)
    __attribute__((format(printf, 3, 4)));

static int fail(struct proxy *proxy, int err, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    vsnprintf(proxy->error, sizeof(proxy->error), format, args);
    va_end(args);
    return err;
}

static int execute(struct proxy *proxy, const char *command, json_t *args, json_t **result)
{
    int ret = sim_qmp_execute(&proxy->qmp, command, args, result);

    return ret ? fail(proxy, ret, "%s", proxy->qmp.error) : 0;
}

void proxy_path(const struct proxy *proxy, char *path, size_t size, const char *format, ...)
{
    int len = snprintf(path, size, "%s/", proxy->folder);
    va_list args;

    va_start(args, format);
    if (len > 0 && (size_t)len < size)
        vsnprintf(path + len, size - (size_t)len, format, args);
    va_end(args);
}

/* ---- Start and end --------------------------------------------------------------------------- */

static void remove_folder(const char *folder)
{
    DIR *dir = opendir(folder);
    struct dirent *entry;

    while (dir && (entry = readdir(dir)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            unlinkat(dirfd(dir), entry->d_name, 0);
    if (dir)
        closedir(dir);
    rmdir(folder);
}

/* All threads but the first one are workers. */
static int find_workers(struct proxy *proxy)
{
    char path[64];
    struct dirent *entry;
    DIR *dir;

    snprintf(path, sizeof(path), "/proc/%d/task", (int)proxy->child.pid);
    dir = opendir(path);
    proxy->worker_count = 0;
    while (dir && (entry = readdir(dir))) {
        int tid = atoi(entry->d_name);

        if (tid > 0 && tid != proxy->child.pid && proxy->worker_count < PROXY_WORKERS_MAX)
            proxy->workers[proxy->worker_count++] = tid;
    }
    if (dir)
        closedir(dir);
    if (proxy->worker_count < proxy->config.workers)
        return fail(proxy, -ESRCH, "svqd has %u threads beside its first one, not %u",
                    proxy->worker_count, proxy->config.workers);
    return 0;
}

static int pin_workers(struct proxy *proxy)
{
    cpu_set_t cpus;

    if (proxy->config.worker_cpu < 0)
        return 0;
    CPU_ZERO(&cpus);
    CPU_SET(proxy->config.worker_cpu, &cpus);
    for (unsigned i = 0; i < proxy->worker_count; i++)
        if (sched_setaffinity(proxy->workers[i], sizeof(cpus), &cpus))
            return fail(proxy, -errno, "svqd's worker cannot run on processor %d: %s",
                        proxy->config.worker_cpu, strerror(errno));
    return 0;
}

void proxy_last_line(const char *log, char *line, size_t size)
{
    FILE *file = fopen(log, "re");

    line[0] = '\0';
    while (file && fgets(line, (int)size, file))
        ;
    if (file)
        fclose(file);
    line[strcspn(line, "\n")] = '\0';
}

/* Why it did not start. */
static int explain(struct proxy *proxy, const char *how)
{
    char line[256];

    proxy_last_line(proxy->child.log, line, sizeof(line));
    return fail(proxy, -EIO, "%s%s%s", how, line[0] ? ": " : "", line);
}

/* As soon as it listens, or until it has ended. */
static int connect_qmp(struct proxy *proxy, const char *path)
{
    char how[128];

    for (unsigned waited = 0; waited < START_MS; waited += START_STEP_MS) {
        int ret = sim_qmp_connect(&proxy->qmp, path, START_STEP_MS);

        proxy->connected = proxy->qmp.sock >= 0;
        if (!ret)
            return 0;
        if (sim_child_ended(&proxy->child, how, sizeof(how)))
            return explain(proxy, how);
        if (proxy->connected)
            break;
    }
    return explain(proxy, proxy->qmp.error);
}

int proxy_start(struct proxy *proxy, const struct proxy_config *config)
{
    char qmp[80], log[80], workers[16];
    char *argv[] = {(char *)config->program,
                    (char *)"--qmp",
                    qmp,
                    (char *)"--workers",
                    workers,
                    (char *)"--log-level",
                    (char *)"warning",
                    (char *)"--poll-us",
                    (char *)config->poll_us,
                    NULL};
    int ret;

    *proxy = (struct proxy){.config = *config};
    snprintf(proxy->folder, sizeof(proxy->folder), "/tmp/svq-bench.XXXXXX");
    if (!mkdtemp(proxy->folder)) {
        proxy->folder[0] = '\0';
        return fail(proxy, -errno, "a folder in /tmp: %s", strerror(errno));
    }
    proxy_path(proxy, qmp, sizeof(qmp), "qmp.sock");
    proxy_path(proxy, log, sizeof(log), "svqd.log");
    snprintf(workers, sizeof(workers), "%u", config->workers);
    if (!config->poll_us)
        argv[7] = NULL;
    ret = sim_child_start(&proxy->child, "svqd", argv, log);
    if (ret)
        return fail(proxy, ret, "starting %s: %s", config->program, strerror(-ret));
    ret = connect_qmp(proxy, qmp);
    if (!ret)
        ret = find_workers(proxy);
    return ret ? ret : pin_workers(proxy);
}

int proxy_stop(struct proxy *proxy)
{
    int ret = 0;
    char how[128];

    if (proxy->connected)
        sim_qmp_close(&proxy->qmp);
    proxy->connected = false;
    if (!sim_child_stop(&proxy->child, how, sizeof(how)))
        ret = fail(proxy, -EIO, "%s", how);
    if (proxy->folder[0])
        remove_folder(proxy->folder);
    proxy->folder[0] = '\0';
    return ret;
}

/* ---- Devices --------------------------------------------------------------------------------- */

int proxy_add(struct proxy *proxy, const char *id, const char *frontend, const char *backend,
              bool shadow)
{
    char address[128];

    snprintf(address, sizeof(address), "vhost-user:%s", backend);
    /* The log is to be the shadow's, whatever the back-end can do. */
    return execute(proxy, "device-add",
                   json_pack("{s:s, s:s, s:s, s:s, s:s}", "id", id, "frontend", frontend, "backend",
                             address, "shadow", shadow ? "on" : "auto", "dirty-log", "shadow"),
                   NULL);
}

int proxy_del(struct proxy *proxy, const char *id)
{
    return execute(proxy, "device-del", json_pack("{s:s}", "id", id), NULL);
}

int proxy_shadow(struct proxy *proxy, const char *id, bool on, uint64_t *microseconds)
{
    json_t *event;
    int ret;

    /* What was not asked for is of no interest now. */
    json_array_clear(proxy->qmp.events);
    ret = execute(proxy, "x-vhost-enable-shadow-vq",
                  json_pack("{s:s, s:b}", "name", id, "enable", (int)on), NULL);
    if (ret || !microseconds)
        return ret;
    event = sim_qmp_take_event(&proxy->qmp, "DEVICE_SHADOW_CHANGED");
    *microseconds = (uint64_t)json_integer_value(
        json_object_get(json_object_get(event, "data"), "microseconds"));
    json_decref(event);
    return 0;
}

int proxy_device_log(struct proxy *proxy, const char *id, bool on)
{
    return execute(proxy, "x-device-log", json_pack("{s:s, s:b}", "id", id, "enable", (int)on),
                   NULL);
}

static uint64_t member(const json_t *object, const char *outer, const char *inner)
{
    return (uint64_t)json_integer_value(json_object_get(json_object_get(object, outer), inner));
}

int proxy_counters(struct proxy *proxy, const char *id, struct proxy_counters *counters)
{
    json_t *queues, *queue;
    size_t i;
    int ret = execute(proxy, "query-queues", id ? json_pack("{s:s}", "id", id) : NULL, &queues);

    *counters = (struct proxy_counters){0};
    if (ret)
        return ret;
    json_array_foreach(queues, i, queue) {
        counters->chains += (uint64_t)json_integer_value(json_object_get(queue, "chains"));
        counters->guest_kicks += member(queue, "kicks", "guest");
        counters->backend_kicks += member(queue, "kicks", "backend");
        counters->backend_calls += member(queue, "calls", "backend");
        counters->guest_calls += member(queue, "calls", "guest");
    }
    json_decref(queues);
    return 0;
}

/* ---- From outside ---------------------------------------------------------------------------- */

uint64_t proxy_cpu(const struct proxy *proxy)
{
    struct timespec t;
    clockid_t clock;

    if (clock_getcpuclockid(proxy->child.pid, &clock) || clock_gettime(clock, &t))
        return 0;
    return (uint64_t)t.tv_sec * UINT64_C(1000000000) + (uint64_t)t.tv_nsec;
}

struct bench_use proxy_workers_use(const struct proxy *proxy)
{
    struct bench_use sum = {0};

    for (unsigned i = 0; i < proxy->worker_count; i++) {
        struct bench_use use = bench_thread_use(proxy->child.pid, proxy->workers[i]);

        sum.ran += use.ran;
        sum.waited += use.waited;
        sum.times += use.times;
    }
    return sum;
}

/* Numbers behind names ("Name: 123 kB") of a file in /proc/PID. Return: 0 or -errno. */
static int read_numbers(const struct proxy *proxy, const char *file, const char *const *names,
                        uint64_t *values, unsigned count)
{
    char path[96], line[256];
    FILE *f;

    snprintf(path, sizeof(path), "/proc/%d/%s", (int)proxy->child.pid, file);
    f = fopen(path, "re");
    if (!f)
        return -errno;
    while (fgets(line, sizeof(line), f)) {
        for (unsigned i = 0; i < count; i++) {
            size_t len = strlen(names[i]);

            if (!strncmp(line, names[i], len) && line[len] == ':')
                values[i] += strtoull(line + len + 1, NULL, 10);
        }
    }
    fclose(f);
    return 0;
}

/* A mapping's file tells whose its pages are. */
static uint64_t *owner(struct proxy_memory *memory, const char *mapping)
{
    if (strstr(mapping, "/memfd:shadowvq-rings"))
        return &memory->rings;
    return strstr(mapping, "/memfd:sim-") ? &memory->guest : &memory->own;
}

/* Of a program's or a library's file only what was written to is memory that devices take. */
static const char *counted_field(const char *mapping)
{
    const char *path = strchr(mapping, '/');

    return path && !strstr(path, "/memfd:") ? "Anonymous:" : "Rss:";
}

int proxy_memory(struct proxy *proxy, struct proxy_memory *memory)
{
    char path[64], line[512];
    uint64_t *sum = &memory->own;
    const char *field = counted_field("");
    FILE *file;

    *memory = (struct proxy_memory){0};
    snprintf(path, sizeof(path), "/proc/%d/smaps", (int)proxy->child.pid);
    file = fopen(path, "re");
    if (!file)
        return fail(proxy, -errno, "svqd's memory: %s", strerror(errno));
    while (fgets(line, sizeof(line), file)) {
        unsigned long long from, to;

        if (sscanf(line, "%llx-%llx ", &from, &to) == 2) {
            sum = owner(memory, line);
            field = counted_field(line);
        } else if (!strncmp(line, field, strlen(field))) {
            *sum += strtoull(line + strlen(field), NULL, 10) * 1024;
        }
    }
    fclose(file);
    return 0;
}

int proxy_calls(struct proxy *proxy, struct proxy_calls *calls)
{
    static const char *const io[] = {"syscr", "syscw"};
    static const char *const sleeps[] = {"voluntary_ctxt_switches"};
    uint64_t values[2] = {0}, slept = 0;
    int ret = read_numbers(proxy, "io", io, values, 2);

    for (unsigned i = 0; i < proxy->worker_count && !ret; i++) {
        char file[64];

        snprintf(file, sizeof(file), "task/%d/status", proxy->workers[i]);
        ret = read_numbers(proxy, file, sleeps, &slept, 1);
    }
    if (ret)
        return fail(proxy, ret, "svqd's system calls: %s", strerror(-ret));
    *calls = (struct proxy_calls){values[0], values[1], slept};
    return 0;
}
