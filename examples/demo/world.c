/* SPDX-License-Identifier: BSD-3-Clause */
#include "demo.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#include "screen.h"

#define CONNECT_MS  15000
#define QUEUE_SIZE  256
#define DEPTH       16
#define MAX_BYTES   (64 * 1024)
#define SCRATCH_MIB 4
#define MIB         (UINT64_C(1) << 20)
#define SETTLE_MS   2000
#define LOG_TAIL    25 /* lines */

static volatile sig_atomic_t interrupted;

int demo_fail(struct demo *demo, const char *format, ...)
{
    va_list args;

    if (demo->error[0])
        return -1;
    va_start(args, format);
    vsnprintf(demo->error, sizeof(demo->error), format, args);
    va_end(args);
    return -1;
}

static void on_signal(int number)
{
    interrupted = number;
}

int demo_check(struct demo *demo)
{
    char how[128];

    if (interrupted)
        return demo_fail(demo, "interrupted");
    if (sim_child_ended(&demo->svqd, how, sizeof(how)) ||
        sim_child_ended(&demo->ramdisk, how, sizeof(how)))
        return demo_fail(demo, "%s", how);
    for (unsigned i = 0; i < demo->guest->config.queues; i++) {
        if (sim_guest_queue_error(demo->guest, i))
            return demo_fail(demo, "queue %u: the device reports an error", i);
    }
    if (demo->blk && sim_blk_error(demo->blk))
        return demo_fail(demo, "%s", sim_blk_error(demo->blk));
    return 0;
}

/* ---- Programs ------------------------------------------------------------------------------ */

static int make_directory(struct demo *demo)
{
    struct sigaction action = {.sa_handler = on_signal};
    int ret;

    /* No SA_RESTART: whatever waits shall see it. */
    sigaction(SIGINT, &action, NULL);
    sigaction(SIGTERM, &action, NULL);
    sigaction(SIGHUP, &action, NULL);
    ret = sim_folder_make(demo->dir, "svq-demo");
    return ret ? demo_fail(demo, "making a folder: %s", strerror(-ret)) : 0;
}

static int start_program(struct demo *demo, struct sim_child *child, const char *name,
                         const char *path, char *const argv[])
{
    char log[128];
    int ret;

    if (access(path, X_OK))
        return demo_fail(demo, "%s is not at %s: build it, or say where it is with --%s", name,
                         path, strcmp(name, "svqd") ? "ramdisk" : "svqd");
    snprintf(log, sizeof(log), "%s/%s.log", demo->dir, name);
    ret = sim_child_start(child, name, argv, log);
    return ret ? demo_fail(demo, "starting %s: %s", path, strerror(-ret)) : 0;
}

/* A program listens once its socket is there; unless it has ended before. */
static int await_socket(struct demo *demo, const char *path)
{
    const struct timespec pause = {.tv_nsec = 5 * 1000 * 1000};

    for (int waited = 0; access(path, F_OK); waited += 5) {
        if (demo_check(demo))
            return -1;
        if (waited >= CONNECT_MS)
            return demo_fail(demo, "nobody listens at %s", path);
        nanosleep(&pause, NULL);
    }
    return 0;
}

int demo_start_ramdisk(struct demo *demo, struct sim_child *child, const char *socket)
{
    char size[16], queues[16], file[40];
    const char *const argv[] = {demo->options.ramdisk,
                                "--socket",
                                socket,
                                "--file",
                                file,
                                "--size",
                                size,
                                "--queues",
                                queues,
                                NULL};

    /* Its predecessor's socket, if that was killed: nobody listens there any more. */
    unlink(socket);
    snprintf(size, sizeof(size), "%u", demo->options.disk_mib);
    snprintf(queues, sizeof(queues), "%u", demo->options.queues);
    snprintf(file, sizeof(file), "/proc/%d/fd/%d", (int)getpid(), demo->disk_fd);
    if (start_program(demo, child, "svq-ramdisk", demo->options.ramdisk, (char *const *)argv))
        return -1;
    return await_socket(demo, socket);
}

int demo_start_svqd(struct demo *demo)
{
    char device[400];
    const char *const argv[] = {demo->options.svqd, "--device",    device, "--qmp",
                                demo->qmp_path,     "--log-level", "info", NULL};

    snprintf(device, sizeof(device), "id=" DEMO_DEVICE ",frontend=%s,backend=vhost-user:%s",
             demo->frontend_path, demo->backend_path);
    if (demo->has_qmp)
        sim_qmp_close(&demo->qmp);
    if (start_program(demo, &demo->svqd, "svqd", demo->options.svqd, (char *const *)argv))
        return -1;
    demo->has_qmp = true;
    if (sim_qmp_connect(&demo->qmp, demo->qmp_path, CONNECT_MS))
        return demo_check(demo) ? -1 : demo_fail(demo, "%s", demo->qmp.error);
    return 0;
}

static int start_programs(struct demo *demo)
{
    snprintf(demo->backend_path, sizeof(demo->backend_path), "%s/ramdisk.sock", demo->dir);
    snprintf(demo->frontend_path, sizeof(demo->frontend_path), "%s/guest.sock", demo->dir);
    snprintf(demo->qmp_path, sizeof(demo->qmp_path), "%s/qmp.sock", demo->dir);
    if (demo->options.backend)
        snprintf(demo->backend_path, sizeof(demo->backend_path), "%s", demo->options.backend);
    else if (demo_start_ramdisk(demo, &demo->ramdisk, demo->backend_path))
        return -1;
    if (!demo->options.direct)
        return demo_start_svqd(demo);
    memcpy(demo->frontend_path, demo->backend_path, sizeof(demo->frontend_path));
    return 0;
}

/* ---- The guest ----------------------------------------------------------------------------- */

static int make_guest(struct demo *demo)
{
    const struct demo_options *options = &demo->options;
    const struct sim_guest_config guest = {
        .queues = options->queues,
        .queue_size = QUEUE_SIZE,
        .features = SVQ_BIT(SVQ_F_EVENT_IDX) | SVQ_BIT(SVQ_F_INDIRECT_DESC) |
                    SVQ_BIT(SIM_BLK_F_BLK_SIZE) | SVQ_BIT(SIM_BLK_F_FLUSH) | SVQ_BIT(SIM_BLK_F_MQ) |
                    (options->packed ? SVQ_BIT(SVQ_F_RING_PACKED) : 0),
        .mem_slots = true,
        .settle_ms = options->direct && options->backend ? SETTLE_MS : 0,
    };
    const struct sim_blk_config blk = {
        .depth = DEPTH,
        .max_bytes = MAX_BYTES,
        .scratch_bytes = SCRATCH_MIB * MIB,
        .seed = options->seed,
    };
    uint64_t high = options->memory_mib / 2;
    int ret = sim_memory_new((options->memory_mib - high) * MIB, high * MIB, &demo->mem);

    if (!ret)
        ret = sim_guest_new(&guest, demo->mem, &demo->guest);
    if (!ret)
        ret = sim_disk_new(options->disk_mib * MIB / SIM_SECTOR, options->seed, &demo->disk);
    if (!ret)
        ret = sim_blk_new(&blk, demo->guest, demo->disk, &demo->blk);
    return ret ? demo_fail(demo, "making a guest with %u MiB of memory: %s", options->memory_mib,
                           strerror(-ret))
               : 0;
}

static int check_capacity(struct demo *demo)
{
    uint64_t sectors;

    if (sim_guest_read_config(demo->guest, 0, &sectors, sizeof(sectors)))
        return demo_fail(demo, "%s", demo->guest->session.error);
    if (sectors < demo->disk->sectors)
        return demo_fail(demo, "the disk has %llu sectors, %llu are needed",
                         (unsigned long long)sectors, (unsigned long long)demo->disk->sectors);
    return 0;
}

int demo_start_device(struct demo *demo)
{
    int ret = sim_guest_connect(demo->guest, demo->frontend_path, CONNECT_MS);

    if (ret)
        return demo_fail(demo, "%s", demo->guest->session.error);
    if (check_capacity(demo))
        return -1;
    if (sim_guest_start(demo->guest))
        return demo_fail(demo, "%s", demo->guest->session.error);
    ret = sim_blk_run(demo->blk);
    return ret ? demo_fail(demo, "starting the guest's threads: %s", strerror(-ret)) : 0;
}

int demo_open(struct demo *demo)
{
    demo->random = demo->options.seed;
    demo->disk_fd = memfd_create("demo-disk", MFD_CLOEXEC);
    if (demo->disk_fd < 0)
        return demo_fail(demo, "making the disk: %s", strerror(errno));
    if (make_directory(demo) || make_guest(demo) || start_programs(demo))
        return -1;
    return demo_start_device(demo);
}

/* ---- The end ------------------------------------------------------------------------------- */

static void show_log(const struct sim_child *child)
{
    char *lines[LOG_TAIL] = {NULL};
    FILE *file = child->log[0] ? fopen(child->log, "r") : NULL;
    unsigned count = 0;
    size_t size = 0;

    if (!file)
        return;
    while (getline(&lines[count % LOG_TAIL], &size, file) > 0) {
        count++;
        size = 0;
        free(lines[count % LOG_TAIL]);
        lines[count % LOG_TAIL] = NULL;
    }
    fclose(file);
    if (count)
        fprintf(stderr, "\n%s said last:\n", child->name);
    for (unsigned i = count < LOG_TAIL ? 0 : count - LOG_TAIL + 1; i < count; i++)
        fprintf(stderr, "    %s", lines[i % LOG_TAIL]);
    for (unsigned i = 0; i < LOG_TAIL; i++)
        free(lines[i]);
}

void demo_show_logs(const struct demo *demo)
{
    show_log(&demo->svqd);
    show_log(&demo->ramdisk);
}

int demo_close(struct demo *demo)
{
    char how[128];
    int ret = 0;

    if (demo->blk)
        sim_blk_free(demo->blk);
    demo->blk = NULL;
    if (demo->guest)
        sim_guest_free(demo->guest);
    demo->guest = NULL;
    if (demo->has_qmp)
        sim_qmp_close(&demo->qmp);
    if (!sim_child_stop(&demo->svqd, how, sizeof(how)))
        ret = demo_fail(demo, "%s", how);
    if (!sim_child_stop(&demo->ramdisk, how, sizeof(how)))
        ret = demo_fail(demo, "%s", how);
    if (demo->disk_fd >= 0)
        close(demo->disk_fd);
    sim_precopy_free(demo->precopy);
    sim_disk_free(demo->disk);
    sim_memory_free(demo->mem);
    if (demo->error[0])
        demo_show_logs(demo);
    if (demo->options.keep)
        demo_line("Kept: %s", demo->dir);
    else
        sim_folder_remove(demo->dir);
    return ret;
}
