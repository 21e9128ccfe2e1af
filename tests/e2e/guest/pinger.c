/*
 * pinger ADDRESS SIZE INTERVAL-MS [LOSSES]: sends echo requests of SIZE data bytes and accounts for
 * each reply.
 *
 * busybox's ping will not do: its receive buffer holds a handful of replies, and drops the rest
 * when they arrive together. Runs until SIGTERM, waits a little for what is still due, prints
 * "pinger: ok ..." and exits 0 when every request after the first answered one, but for LOSSES of
 * them (default 0), was answered exactly once and unchanged; otherwise says "pinger: BAD ..." and
 * exits 1. A line "progress SENT RECEIVED" goes to stdout ten times a second.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <errno.h>
#include <netinet/ip.h>
#include <netinet/ip_icmp.h>
#include <poll.h>
#include <signal.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define MAX_SIZE 1472
#define LAST_MS  2000 /* how long the last reply may take */

static volatile sig_atomic_t stop;
static uint8_t answers[1 << 16];
static unsigned int sent, received, bad;
static int first = -1;
static size_t size;

static void on_signal(int sig)
{
    (void)sig;
    stop = 1;
}

static int64_t now_ms(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

static uint16_t checksum(const uint8_t *data, size_t length)
{
    uint32_t sum = 0;

    for (size_t i = 0; i < length; i++)
        sum += i % 2 ? data[i] : (uint32_t)data[i] << 8;
    while (sum >> 16)
        sum = (sum & 0xffff) + (sum >> 16);
    return htons(~sum);
}

static void fill(uint8_t *data, unsigned int sequence)
{
    for (size_t i = 0; i < size; i++)
        data[i] = (uint8_t)(sequence * 131 + i * 7 + (i >> 8));
}

static void send_request(int sock, const struct sockaddr_in *to)
{
    uint8_t packet[sizeof(struct icmphdr) + MAX_SIZE] = {0};
    struct icmphdr *head = (struct icmphdr *)packet;
    ssize_t done;

    head->type = ICMP_ECHO;
    head->un.echo.id = htons(getpid());
    head->un.echo.sequence = htons(sent);
    fill(packet + sizeof(*head), sent);
    head->checksum = checksum(packet, sizeof(*head) + size);
    done = sendto(sock, packet, sizeof(*head) + size, 0, (const struct sockaddr *)to, sizeof(*to));
    if (done >= 0)
        sent++;
    else if (errno != ENOBUFS) /* that many have not left yet: later */
        printf("pinger: BAD send: %s\n", strerror(errno));
}

static void take_reply(const uint8_t *packet, size_t length)
{
    size_t ip = length ? (size_t)(packet[0] & 15) * 4 : 0;
    const struct icmphdr *head = (const struct icmphdr *)(packet + ip);
    uint8_t wanted[MAX_SIZE];
    unsigned int sequence;

    if (length < ip + sizeof(*head) || head->type != ICMP_ECHOREPLY ||
        head->un.echo.id != htons(getpid()))
        return;
    sequence = ntohs(head->un.echo.sequence);
    fill(wanted, sequence);
    if (length != ip + sizeof(*head) + size || memcmp(head + 1, wanted, size) || sequence >= sent) {
        printf("pinger: BAD reply %u: %zu bytes\n", sequence, length);
        bad++;
        return;
    }
    answers[sequence]++;
    received++;
    if (first < 0)
        first = (int)sequence;
}

static void take_replies(int sock, int64_t until)
{
    struct pollfd ready = {.fd = sock, .events = POLLIN};
    int64_t left;

    while ((left = until - now_ms()) > 0 && poll(&ready, 1, (int)left) > 0) {
        uint8_t packet[2048];
        ssize_t length = recv(sock, packet, sizeof(packet), 0);

        if (length > 0)
            take_reply(packet, (size_t)length);
    }
}

static void run(int sock, const struct sockaddr_in *to, int interval)
{
    int64_t next = now_ms(), said = 0;

    while (!stop && sent < sizeof(answers)) {
        send_request(sock, to);
        /* What a pause of the guest has cost is not made up for by a burst. */
        next = (next > now_ms() ? next : now_ms()) + interval;
        take_replies(sock, next);
        if (now_ms() - said >= 100) {
            said = now_ms();
            printf("progress %u %u\n", sent, received);
            fflush(stdout);
        }
    }
    for (next = now_ms() + LAST_MS; received < sent && now_ms() < next;)
        take_replies(sock, next);
}

static int account(unsigned int losses)
{
    for (unsigned int i = first < 0 ? 0 : (unsigned int)first; i < sent; i++) {
        if (answers[i] == 1)
            continue;
        if (!answers[i] && losses) {
            losses--;
            printf("pinger: request %u of %u was not answered\n", i, sent);
            continue;
        }
        printf("pinger: BAD request %u of %u was answered %u times\n", i, sent, answers[i]);
        bad++;
    }
    if (!bad && first >= 0)
        printf("pinger: ok sent %u received %u\n", sent, received);
    return bad || first < 0;
}

int main(int argc, char **argv)
{
    struct sockaddr_in to = {.sin_family = AF_INET};
    int sock = socket(AF_INET, SOCK_RAW, IPPROTO_ICMP), room = 4 << 20;

    if (argc < 4 || argc > 5 || inet_pton(AF_INET, argv[1], &to.sin_addr) != 1 || sock < 0) {
        fprintf(stderr, "usage: pinger ADDRESS SIZE INTERVAL-MS [LOSSES]\n");
        return 2;
    }
    size = strtoul(argv[2], NULL, 0);
    if (size > MAX_SIZE)
        size = MAX_SIZE;
    setsockopt(sock, SOL_SOCKET, SO_RCVBUFFORCE, &room, sizeof(room));
    signal(SIGTERM, on_signal);
    run(sock, &to, atoi(argv[3]));
    return account(argc > 4 ? (unsigned int)atoi(argv[4]) : 0);
}
