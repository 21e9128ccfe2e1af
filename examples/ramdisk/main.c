/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * svq-ramdisk: a vhost-user-blk back-end over RAM, and an example of how to write one.
 *
 *      main.c          options and the event loop: one thread, one front-end at a time
 *      session.c       the protocol: what a front-end says, and what that does to queues
 *      guest_memory.c  the guest's memory
 *      queue.c         the rings: split.c, packed.c
 *      inflight.c      the in-flight region: how a successor learns what we did not finish
 *      work.c          requests under way
 *      disk.c          the device: what a request means
 *
 * A device of another type would have another disk.c and the same rest.
 */
#include <errno.h>
#include <getopt.h>
#include <limits.h>
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
#define RECONNECT_MS       20

enum source { FROM_SIGNAL, FROM_LISTENER, FROM_FRONTEND };

struct options {
    const char *socket;
    bool connect;     /* to it, instead of listening there */
    const char *file; /* NULL: memory of our own */
    uint64_t size;    /* bytes */
    unsigned queues;
    unsigned poll_us;
    struct rd_pace pace;
    struct rd_offer offer;
    unsigned long crash_after;
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

static void begin_session(struct server *server, int sock)
{
    /* A front-end that stops in the middle of a message must not stop us. */
    wire_set_timeout(sock, MESSAGE_TIMEOUT_MS);
    watch(server, EPOLL_CTL_ADD, sock, FROM_FRONTEND);
    rd_session_open(&server->session, &server->disk, server->options.offer, &server->options.pace,
                    sock, server->epoll);
    server->connected = true;
}

/* While one front-end is here the others wait in the listen queue. */
static void accept_frontend(struct server *server)
{
    int sock = accept4(server->listener, NULL, NULL, SOCK_CLOEXEC);

    if (sock < 0)
        return;
    watch(server, EPOLL_CTL_DEL, server->listener, FROM_LISTENER);
    begin_session(server, sock);
}

/* The other way round: the front-end listens. */
static void look_for_frontend(struct server *server)
{
    int sock = wire_connect(server->options.socket, 0);

    if (sock >= 0)
        begin_session(server, sock);
}

static void disconnect_frontend(struct server *server)
{
    rd_session_close(&server->session);
    server->connected = false;
    if (server->listener >= 0)
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
        accept_frontend(server);
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

/* Nothing to do: how long to sleep, in milliseconds. */
static int idle_timeout(struct server *server)
{
    if (!server->connected)
        return server->listener < 0 ? RECONNECT_MS : -1;
    if (rd_session_arm(&server->session))
        return 0;
    return rd_session_works(&server->session) ? 1 : -1;
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
            timeout = idle_timeout(server);

        /* One event at a time: each may change what the next one would mean. */
        count = epoll_wait(server->epoll, &event, 1, timeout);
        if (count < 0 && errno != EINTR)
            return -errno;
        if (count == 1 && !handle_event(server, event.data.u32))
            return 0;
        if (!server->connected && server->listener < 0)
            look_for_frontend(server);
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
    ret = rd_disk_new(&server->disk, server->options.file, server->options.size,
                      server->options.queues);
    if (!ret)
        ret = watch(server, EPOLL_CTL_ADD, server->signals, FROM_SIGNAL);
    if (ret || server->options.connect)
        return ret;
    unlink(server->options.socket);
    server->listener = wire_listen(server->options.socket);
    if (server->listener < 0)
        return server->listener;
    return watch(server, EPOLL_CTL_ADD, server->listener, FROM_LISTENER);
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
        "Usage: svq-ramdisk --socket PATH | --connect PATH [OPTION]...\n"
        "\n"
        "A vhost-user-blk back-end over RAM. It serves one front-end at a time, keeps the disk's\n"
        "content between them, and does not log dirty pages. It can be killed at any moment: what\n"
        "it had not completed is in the in-flight region, and its successor does it.\n"
        "\n"
        "  --socket PATH     where to listen; what is there is replaced\n"
        "  --connect PATH    or where the front-end listens\n"
        "  --file PATH       keep the disk in that file; another svq-ramdisk can go on with it\n"
        "  --size MiB        size of the disk (default 64)\n"
        "  --queues N        request queues, 1 to 64 (default 1)\n"
        "  --poll-us US      look for more requests for so long before sleeping (default 20)\n"
        "  --delay-us US     requests take so long on average, and complete in any order\n"
        "  --crash-after N   be killed at the Nth step of keeping the in-flight region\n"
        "  --no-inflight     keep no in-flight region\n"
        "  --split           offer split rings only\n"
        "  --help            this text\n",
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

static bool take_option(struct options *options, int opt, const char *text)
{
    unsigned long value = 0;
    bool good = true;

    switch (opt) {
    case 's':
    case 'c':
        options->socket = text;
        options->connect = opt == 'c';
        break;
    case 'f':
        options->file = text;
        break;
    case 'm':
        good = parse_number(text, 1, 1 << 20, &value);
        options->size = (uint64_t)value << 20;
        break;
    case 'q':
        good = parse_number(text, 1, RD_MAX_QUEUES, &value);
        options->queues = (unsigned)value;
        break;
    case 'p':
        good = parse_number(text, 0, 1000000, &value);
        options->poll_us = (unsigned)value;
        break;
    case 'd':
        good = parse_number(text, 0, 1000000, &value);
        options->pace.delay_us = (unsigned)value;
        break;
    case 'k':
        good = parse_number(text, 1, ULONG_MAX, &options->crash_after);
        break;
    case 'n':
        options->offer.inflight = false;
        break;
    case '2':
        options->offer.packed = false;
        break;
    }
    if (!good)
        fprintf(stderr, "svq-ramdisk: \"%s\" is no value for that option\n", text);
    return good;
}

/* Return: -1 to go on, otherwise the exit code. */
static int parse_options(int argc, char **argv, struct options *options)
{
    static const struct option known[] = {
        {"socket", required_argument, NULL, 's'},   {"connect", required_argument, NULL, 'c'},
        {"file", required_argument, NULL, 'f'},     {"size", required_argument, NULL, 'm'},
        {"queues", required_argument, NULL, 'q'},   {"poll-us", required_argument, NULL, 'p'},
        {"delay-us", required_argument, NULL, 'd'}, {"crash-after", required_argument, NULL, 'k'},
        {"no-inflight", no_argument, NULL, 'n'},    {"split", no_argument, NULL, '2'},
        {"help", no_argument, NULL, 'h'},           {NULL, 0, NULL, 0},
    };
    int opt;

    *options = (struct options){.size = 64 << 20,
                                .queues = 1,
                                .poll_us = 20,
                                .pace = {.random = now_us()},
                                .offer = {.packed = true, .inflight = true}};
    while ((opt = getopt_long(argc, argv, "", known, NULL)) != -1) {
        if (opt == 'h') {
            usage(stdout);
            return EXIT_SUCCESS;
        }
        if (opt == '?') {
            usage(stderr);
            return EXIT_FAILURE;
        }
        if (!take_option(options, opt, optarg))
            return EXIT_FAILURE;
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
    rd_crash_after(server.options.crash_after);
    ret = open_server(&server);
    if (ret)
        fprintf(stderr, "svq-ramdisk: %s: %s\n", server.options.socket, strerror(-ret));
    else
        ret = run(&server);
    close_server(&server);
    return ret ? EXIT_FAILURE : EXIT_SUCCESS;
}
