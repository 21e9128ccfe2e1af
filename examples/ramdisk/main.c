/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svq-ramdisk: a vhost-user-blk back-end over RAM, and an example of how to write one.
 *
 *      main.c          options and the event loop: one thread, one front-end at a time
 *      session.c       the protocol: what a front-end says, and what that does to queues
 *      guest_memory.c  the guest's memory
 *      queue.c         the rings
 *      disk.c          the device: what a request means
 *
 * A device of another type would have another disk.c and the same rest.
 */
#include <errno.h>
#include <getopt.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#include "session.h"
#include "common/wire.h"

#define MESSAGE_TIMEOUT_MS 2000

enum source { FROM_SIGNAL, FROM_LISTENER, FROM_FRONTEND };

struct options {
    const char *socket;
    uint64_t size; /* bytes */
    unsigned queues;
    unsigned poll_us;
};

struct server {
    struct options options;
    struct rd_disk disk;
    struct rd_session session;
    bool connected;
    int epoll;
    int signals;
    int listener;
};

static uint64_t now_us(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (uint64_t)ts.tv_sec * 1000000u + (uint64_t)ts.tv_nsec / 1000;
}

static int watch(struct server *server, int op, int fd, enum source source)
{
    struct epoll_event event = {.events = EPOLLIN, .data.u32 = source};

    return epoll_ctl(server->epoll, op, fd, &event) ? -errno : 0;
}

/* While one front-end is here the others wait in the listen queue. */
static void connect_frontend(struct server *server)
{
    int sock = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);

    if (sock < 0)
        return;
    /* A front-end that stops in the middle of a message must not stop us. */
    wire_set_timeout(sock, MESSAGE_TIMEOUT_MS);
    watch(server, EPOLL_CTL_DEL, server->listener, FROM_LISTENER);
    watch(server, EPOLL_CTL_ADD, sock, FROM_FRONTEND);
    rd_session_open(&server->session, &server->disk, sock, server->epoll);
    server->connected = true;
}

static void disconnect_frontend(struct server *server)
{
    rd_session_close(&server->session);
    server->connected = false;
    watch(server, EPOLL_CTL_ADD, server->listener, FROM_LISTENER);
}

/* Return: whether to go on. */
static bool handle_event(struct server *server, uint32_t source)
{
    int ret;

    switch (source) {
    case FROM_SIGNAL:
        return false;
    case FROM_LISTENER:
        connect_frontend(server);
        return true;
    case FROM_FRONTEND:
        ret = rd_session_receive(&server->session);
        if (ret && ret != -ENOTCONN)
            fprintf(stderr, "svq-ramdisk: closing the connection: %s\n", strerror(-ret));
        if (ret)
            disconnect_frontend(server);
        return true;
    default:
        rd_session_kicked(&server->session, source - RD_KICK);
        return true;
    }
}

/*
 * While there are requests the queues are polled, and for poll_us after the last one, so that a
 * guest need not kick; then they ask for kicks, and the loop sleeps.
 */
static int run(struct server *server)
{
    uint64_t busy_until = 0;

    for (;;) {
        struct epoll_event event;
        int timeout = 0;
        int count;

        if (server->connected && rd_session_serve(&server->session))
            busy_until = now_us() + server->options.poll_us;
        else if (now_us() >= busy_until)
            timeout = server->connected && rd_session_arm(&server->session) ? 0 : -1;

        /* One event at a time: each may change what the next one would mean. */
        count = epoll_wait(server->epoll, &event, 1, timeout);
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count == 1 && !handle_event(server, event.data.u32))
            return 0;
    }
}

static int open_server(struct server *server)
{
    sigset_t set;
    int ret;

    sigemptyset(&set);
    sigaddset(&set, SIGINT);
    sigaddset(&set, SIGTERM);
    sigprocmask(SIG_BLOCK, &set, NULL);
    server->signals = signalfd(-1, &set, SFD_CLOEXEC);
    server->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (server->signals < 0 || server->epoll < 0)
        return -errno;
    ret = rd_disk_new(&server->disk, server->options.size, server->options.queues);
    if (ret)
        return ret;
    unlink(server->options.socket);
    server->listener = wire_listen(server->options.socket);
    if (server->listener < 0)
        return server->listener;
    ret = watch(server, EPOLL_CTL_ADD, server->signals, FROM_SIGNAL);
    return ret ? ret : watch(server, EPOLL_CTL_ADD, server->listener, FROM_LISTENER);
}

static void close_server(struct server *server)
{
    if (server->connected)
        rd_session_close(&server->session);
    if (server->listener >= 0) {
        close(server->listener);
        unlink(server->options.socket);
    }
    rd_disk_free(&server->disk);
    close(server->epoll);
    close(server->signals);
}

static void usage(FILE *out)
{
    fputs(
        "Usage: svq-ramdisk --socket PATH [--size MiB] [--queues N] [--poll-us US]\n"
        "\n"
        "A vhost-user-blk back-end over RAM. It serves one front-end at a time, keeps the disk's\n"
        "content between them, and does not log dirty pages.\n"
        "\n"
        "  --socket PATH   where to listen; what is there is replaced\n"
        "  --size MiB      size of the disk (default 64)\n"
        "  --queues N      request queues, 1 to 64 (default 1)\n"
        "  --poll-us US    look for more requests for so long before sleeping (default 20)\n"
        "  --help          this text\n",
        out);
}

static bool parse_number(const char *text, unsigned long min, unsigned long max,
                         unsigned long *value)
{
    char *end;

    errno = 0;
    *value = strtoul(text, &end, 10);
    return !errno && end != text && !*end && text[0] != '-' && *value >= min && *value <= max;
}

/* Return: -1 to go on, otherwise the exit code. */
static int parse_options(int argc, char **argv, struct options *options)
{
    static const struct option known[] = {
        {"socket", required_argument, NULL, 's'}, {"size", required_argument, NULL, 'm'},
        {"queues", required_argument, NULL, 'q'}, {"poll-us", required_argument, NULL, 'p'},
        {"help", no_argument, NULL, 'h'},         {NULL, 0, NULL, 0},
    };
    unsigned long value = 0;
    bool good = true;
    int opt;

    *options = (struct options){.size = 64 << 20, .queues = 1, .poll_us = 20};
    while ((opt = getopt_long(argc, argv, "", known, NULL)) != -1) {
        switch (opt) {
        case 's':
            options->socket = optarg;
            break;
        case 'm':
            good = parse_number(optarg, 1, 1 << 20, &value);
            options->size = (uint64_t)value << 20;
            break;
        case 'q':
            good = parse_number(optarg, 1, RD_MAX_QUEUES, &value);
            options->queues = (unsigned)value;
            break;
        case 'p':
            good = parse_number(optarg, 0, 1000000, &value);
            options->poll_us = (unsigned)value;
            break;
        case 'h':
            usage(stdout);
            return EXIT_SUCCESS;
        default:
            usage(stderr);
            return EXIT_FAILURE;
        }
        if (!good) {
            fprintf(stderr, "svq-ramdisk: \"%s\" is no value for that option\n", optarg);
            return EXIT_FAILURE;
        }
    }
    if (!options->socket || optind != argc) {
        usage(stderr);
        return EXIT_FAILURE;
    }
    return -1;
}

int main(int argc, char **argv)
{
    static struct server server = {.listener = -1};
    int ret = parse_options(argc, argv, &server.options);

    if (ret >= 0)
        return ret;
    ret = open_server(&server);
    if (ret)
        fprintf(stderr, "svq-ramdisk: %s: %s\n", server.options.socket, strerror(-ret));
    else
        ret = run(&server);
    close_server(&server);
    return ret ? EXIT_FAILURE : EXIT_SUCCESS;
}
