/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * The conversation with a back-end: requests that are gathered and go out together, each with its
 * own fds; answers that come in any pieces, or not at all. The back-end is another fiber.
 */
#include <errno.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "base/unix_socket.h"
#include "kit/fibers.h"
#include "vhost/conn.h"

#define RINGS 40u

static char folder[] = "/tmp/svqtalkXXXXXX";

/* How the back-end answers what it is asked after it was opened. */
static struct script {
    size_t piece;      /* bytes that are written at once; 0: all answers together */
    unsigned stray;    /* that many fds come with each piece */
    unsigned answers;  /* then it leaves */
    unsigned refuse;   /* the how manieth request; 0: none */
    unsigned wrong;    /* the how manieth answer is wrong ... */
    uint32_t size;     /* ... in its size */
    uint32_t index;    /* ... or in its ring, by so much */
    int64_t asleep;    /* before it reads at all */
    unsigned together; /* that many requests are read before the first is answered */
} script;

static struct test {
    struct svq_unix_listener listener;
    struct svq_backend *backend;
    int fd; /* the back-end's end */
    unsigned heard;
    ino_t files[RINGS];          /* what each ring's call fd must be */
    unsigned char answers[8192]; /* not sent yet */
    size_t ready;
} t;

/* ---- The back-end ---------------------------------------------------------------------------- */

static void answer(const struct svq_vu_message *msg, uint64_t value)
{
    struct svq_vu_header header = {
        .request = msg->header.request, .flags = SVQ_VU_VERSION | SVQ_VU_REPLY, .size = 8};
    unsigned number = t.heard;

    if (script.wrong == number && script.size)
        header.size = script.size;
    memcpy(t.answers + t.ready, &header, sizeof(header));
    memcpy(t.answers + t.ready + sizeof(header), &value, sizeof(value));
    t.ready += script.wrong == number && script.size ? sizeof(header) : sizeof(header) + 8;
}

static void send_answers(void)
{
    int fds[4];
    size_t done = 0;

    for (unsigned i = 0; i < 4; i++)
        fds[i] = t.listener.fd;
    while (done < t.ready) {
        size_t left = t.ready - done;
        struct svq_packet packet = {
            .data = t.answers + done,
            .size = script.piece && script.piece < left ? script.piece : left,
            .fds = fds,
            .fd_count = script.stray,
        };

        done += packet.size;
        if (svq_conn_send_packets(t.fd, &packet, 1, svq_deadline(SVQ_SEC)))
            break;
        svq_fiber_poll(NULL, 0, svq_now()); /* the other one reads what there is */
    }
    t.ready = 0;
}

/* A call fd is its ring's, whatever it was sent together with. */
static void check(struct svq_vu_message *msg)
{
    struct stat stat;

    if (msg->header.request != SVQ_VU_SET_VRING_CALL) {
        kit_require(msg->fd_count == 0);
        return;
    }
    kit_require(msg->fd_count == 1 && msg->payload.u64 < RINGS);
    kit_require(fstat(msg->fds[0], &stat) == 0 && stat.st_ino == t.files[msg->payload.u64]);
}

/* Return: may there be more to hear? */
static bool hear(void)
{
    struct svq_vu_message msg;
    int got = svq_conn_recv(t.fd, &msg, svq_deadline(10 * SVQ_SEC));

    if (got != 1)
        return false;
    t.heard++;
    check(&msg);
    svq_message_close_fds(&msg);
    if (msg.header.request == SVQ_VU_GET_VRING_BASE) {
        msg.payload.state.num = 1000 + msg.payload.state.index;
        if (script.wrong == t.heard)
            msg.payload.state.index += script.index;
        answer(&msg, msg.payload.u64);
    } else if (msg.header.flags & SVQ_VU_NEED_REPLY) {
        answer(&msg, script.refuse == t.heard);
    }
    if (t.heard >= script.together || t.heard == script.answers)
        send_answers();
    return t.heard != script.answers;
}

static void introduce_itself(uint64_t value)
{
    struct svq_vu_message msg;

    kit_require(svq_conn_recv(t.fd, &msg, svq_deadline(SVQ_SEC)) == 1);
    msg.header.flags = SVQ_VU_VERSION | SVQ_VU_REPLY;
    msg.header.size = sizeof(msg.payload.u64);
    msg.payload.u64 = value;
    kit_require(svq_conn_send(t.fd, &msg, svq_deadline(SVQ_SEC)) == 0);
}

static void peer(void *arg)
{
    struct pollfd p = {.fd = t.listener.fd, .events = POLLIN};

    (void)arg;
    while (svq_fiber_poll(&p, 1, SVQ_FOREVER) != 1)
        ;
    t.fd = svq_unix_accept(t.listener.fd);
    kit_require(t.fd >= 0);
    introduce_itself(SVQ_BIT(SVQ_F_PROTOCOL_FEATURES));
    introduce_itself(SVQ_BIT(SVQ_VU_PROTOCOL_F_REPLY_ACK));
    if (script.asleep)
        svq_fiber_sleep(script.asleep);
    while (hear())
        ;
    close(t.fd);
}

/* ---- Us -------------------------------------------------------------------------------------- */

static struct svq_backend *opened(void)
{
    struct svq_backend *b = t.backend;
    char path[128];

    snprintf(path, sizeof(path), "vhost-user:%s/peer", folder);
    kit_require(svq_backend_new(path, &t.backend) == 0);
    b = t.backend;
    b->tag = "test";
    b->message_timeout = 5 * SVQ_SEC;
    kit_require(b->ops->open(b) == 0);
    b->protocol_acked = b->protocol_features;
    return b;
}

static int new_file(unsigned i)
{
    struct stat stat;
    int fd = memfd_create("call", MFD_CLOEXEC);

    kit_require(fd >= 0 && fstat(fd, &stat) == 0);
    t.files[i] = stat.st_ino;
    return fd;
}

/* Two requests of each ring, one of them with an fd. */
static int tell(struct svq_backend *b, unsigned rings, int *fds)
{
    int err = 0;

    for (unsigned i = 0; i < rings && !err; i++) {
        fds[i] = new_file(i);
        err = b->ops->set_vring_num(b, i, 256);
        if (!err)
            err = b->ops->set_vring_fd(b, SVQ_VU_SET_VRING_CALL, i, fds[i]);
    }
    return err;
}

static void close_all(const int *fds, unsigned count)
{
    for (unsigned i = 0; i < count; i++)
        close(fds[i]);
}

static size_t on_the_way(void)
{
    int bytes = -1;

    kit_require(ioctl(t.fd, FIONREAD, &bytes) == 0);
    return bytes;
}

static bool readable(struct svq_backend *b)
{
    struct pollfd p = {.fd = b->ops->fd(b), .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

static void run(struct script how, void (*us)(void *arg), void *arg)
{
    char path[128];

    snprintf(path, sizeof(path), "%s/peer", folder);
    script = how;
    t = (struct test){.fd = -1};
    kit_require(svq_unix_listen(&t.listener, path, SVQ_UMASK_AS_IS) == 0);
    fibers_spawn(us, arg);
    fibers_spawn(peer, NULL);
    fibers_run();
    t.backend->ops->free(t.backend);
    svq_unix_unlisten(&t.listener);
}

/* ---- Out ------------------------------------------------------------------------------------- */

static void gathers(void *arg)
{
    struct svq_backend *b = opened();
    int fds[RINGS];

    (void)arg;
    b->ops->gather(b);
    kit_require(tell(b, 20, fds) == 0);
    kit_require(on_the_way() == 0);
    kit_require(b->ops->push(b) == 0);
    kit_require(on_the_way() == 40 * 20); /* nobody else has run since */
    kit_require(b->ops->flush(b) == 0);
    kit_require(!readable(b));
    close_all(fds, 20);
    /* Afterwards each goes out at once again. */
    kit_require(b->ops->set_vring_num(b, 0, 256) == 0);
    kit_require(on_the_way() == 20);
    kit_require(b->ops->flush(b) == 0);
    b->ops->close(b);
}

static void test_gathered_requests(void **state)
{
    (void)state;
    run((struct script){0}, gathers, NULL);
    assert_int_equal(t.heard, 41);
}

/* More than fit into a gathering, or into the acks that may be due. */
static void tells_much(void *arg)
{
    struct svq_backend *b = opened();
    int fds[RINGS], buffer = *(int *)arg;

    if (buffer)
        setsockopt(b->ops->fd(b), SOL_SOCKET, SO_SNDBUF, &buffer, sizeof(buffer));
    for (unsigned round = 0; round < 4; round++) {
        b->ops->gather(b);
        kit_require(tell(b, RINGS, fds) == 0);
        kit_require(b->ops->flush(b) == 0);
        kit_require(!readable(b));
        close_all(fds, RINGS);
    }
    b->ops->close(b);
}

static void test_more_than_fit(void **state)
{
    (void)state;
    run((struct script){0}, tells_much, &(int){0});
    assert_int_equal(t.heard, 4 * 2 * RINGS);
}

/* The socket takes a part only, again and again. */
static void test_small_socket(void **state)
{
    (void)state;
    run((struct script){.asleep = 20 * SVQ_MSEC}, tells_much, &(int){1});
    assert_int_equal(t.heard, 4 * 2 * RINGS);
}

static void meets_deaf(void *arg)
{
    struct svq_backend *b = opened();
    int fds[RINGS], small = 1;

    (void)arg;
    setsockopt(b->ops->fd(b), SOL_SOCKET, SO_SNDBUF, &small, sizeof(small));
    b->message_timeout = 20 * SVQ_MSEC;
    b->ops->gather(b);
    kit_require(tell(b, 20, fds) == 0);
    kit_require(b->ops->flush(b) == -ETIMEDOUT);
    close_all(fds, 20);
    b->ops->close(b);
}

static void test_deaf_back_end(void **state)
{
    (void)state;
    run((struct script){.asleep = 200 * SVQ_MSEC}, meets_deaf, NULL);
}

/* ---- In -------------------------------------------------------------------------------------- */

static void flushes(void *arg)
{
    struct svq_backend *b = opened();
    int fds[RINGS];

    b->ops->gather(b);
    kit_require(tell(b, 5, fds) == 0);
    kit_require(b->ops->flush(b) == *(int *)arg);
    kit_require(!readable(b));
    close_all(fds, 5);
    if (*(int *)arg == -EREMOTEIO) {
        /* It lives on. */
        kit_require(b->ops->set_vring_num(b, 0, 256) == 0);
        kit_require(b->ops->flush(b) == 0);
    }
    b->ops->close(b);
}

static void test_answers_in_any_pieces(void **state)
{
    (void)state;
    for (unsigned together = 0; together <= 10; together += 5) {
        for (size_t piece = 0; piece <= 41; piece++) {
            run((struct script){.piece = piece, .together = together}, flushes, &(int){0});
            assert_int_equal(t.heard, 10);
        }
    }
}

/* Nobody has asked for fds: they are closed, as the teardown sees. */
static void test_stray_fds(void **state)
{
    (void)state;
    for (size_t piece = 0; piece <= 41; piece++)
        run((struct script){.piece = piece, .together = 10, .stray = 4}, flushes, &(int){0});
}

static void test_refusal_among_acks(void **state)
{
    (void)state;
    for (unsigned number = 1; number <= 10; number++) {
        run((struct script){.refuse = number}, flushes, &(int){-EREMOTEIO});
        assert_int_equal(t.heard, 11);
    }
}

/* ---- Rings that stop ------------------------------------------------------------------------- */

struct stopping {
    unsigned rings;
    unsigned answered;
    int result;
};

static void stops(void *arg)
{
    const struct stopping *s = arg;
    struct svq_vring_stop stop[100];
    struct svq_backend *b = opened();
    int64_t began = svq_now();
    int file = new_file(0), result;

    for (unsigned i = 0; i < s->rings; i++) {
        t.files[i % RINGS] = t.files[0];
        stop[i] = (struct svq_vring_stop){.index = i % RINGS, .call = i % 3 ? file : -1};
    }
    result = b->ops->get_vring_bases(b, stop, s->rings);
    kit_require(result == s->result);
    kit_require(svq_now() - began < 4 * SVQ_SEC); /* nothing was waited for in vain */
    for (unsigned i = 0; i < s->rings; i++) {
        kit_require(stop[i].answered == (i < s->answered));
        kit_require(!stop[i].answered || stop[i].base == 1000 + stop[i].index);
    }
    kit_require(result < 0 || !readable(b));
    close(file);
    b->ops->close(b);
}

static void test_stopping_many(void **state)
{
    (void)state;
    for (unsigned rings = 1; rings <= 100; rings += 11)
        for (size_t piece = 0; piece <= 40; piece += 8)
            run((struct script){.piece = piece}, stops, &(struct stopping){rings, rings, 0});
}

/* Rings 0, 3, ... have no call fd: one answer each, and two of the others. */
static unsigned bases_among(unsigned answers)
{
    unsigned bases = 0;

    for (unsigned ring = 0; answers; ring++) {
        bases++;
        answers--;
        if (ring % 3 && answers)
            answers--;
    }
    return bases;
}

static void test_leaves_between_answers(void **state)
{
    (void)state;
    for (unsigned answers = 1; answers < 13; answers++)
        for (unsigned together = 0; together <= answers; together += answers)
            run((struct script){.answers = answers, .together = together}, stops,
                &(struct stopping){8, bases_among(answers), -ECONNRESET});
}

/* The ring has stopped, with or without its call fd. */
static void test_refuses_a_call_fd(void **state)
{
    (void)state;
    run((struct script){.refuse = 3}, stops, &(struct stopping){8, 8, 0});
}

static void test_wrong_answers(void **state)
{
    (void)state;
    for (unsigned number = 1; number <= 13; number++)
        run((struct script){.wrong = number, .size = 4, .answers = 13}, stops,
            &(struct stopping){8, bases_among(number - 1), -EPROTO});
    run((struct script){.wrong = 2, .index = 1}, stops, &(struct stopping){8, 1, -EPROTO});
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(folder);
}

#define TEST(name) cmocka_unit_test_setup_teardown(name, fibers_setup, fibers_teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(test_gathered_requests),      TEST(test_more_than_fit),
        TEST(test_small_socket),           TEST(test_deaf_back_end),
        TEST(test_answers_in_any_pieces),  TEST(test_stray_fds),
        TEST(test_refusal_among_acks),     TEST(test_stopping_many),
        TEST(test_leaves_between_answers), TEST(test_refuses_a_call_fd),
        TEST(test_wrong_answers),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
