/* SPDX-License-Identifier: BSD-3-Clause */
/* How peers' sockets are had: dialled, listened for, inherited; and a back-end that has none. */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#include <cmocka.h>

#include "backend/backend.h"
#include "backend/dial.h"
#include "base/unix_socket.h"
#include "frontend/frontend.h"
#include "frontend/inherited.h"

static char folder[] = "/tmp/svqsockXXXXXX";

/* A path in the test's folder, until the next call. */
static const char *path_of(const char *prefix, const char *name)
{
    static char path[128];

    snprintf(path, sizeof(path), "%s%s/%s", prefix, folder, name);
    return path;
}

static int call(const char *name)
{
    int fd = svq_unix_connect(path_of("", name));

    assert_true(fd >= 0);
    return fd;
}

static bool readable(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};

    return poll(&p, 1, 0) == 1;
}

/* Who waits first is `fd`: what one end writes comes out of the other. */
static void assert_taken(struct svq_dial *dial, int fd)
{
    int taken = svq_dial_open(dial);
    char byte = 0;

    assert_true(taken >= 0);
    assert_int_equal(write(fd, "x", 1), 1);
    assert_int_equal(read(taken, &byte, 1), 1);
    assert_int_equal(byte, 'x');
    assert_true(fcntl(taken, F_GETFL) & O_NONBLOCK);
    assert_true(fcntl(taken, F_GETFD) & FD_CLOEXEC);
    close(taken);
    close(fd);
}

/* ---- Dialling ------------------------------------------------------------------------------ */

static void test_nobody_to_connect_to(void **state)
{
    struct svq_unix_listener listener;
    struct svq_dial *dial;
    int fd;

    (void)state;
    assert_int_equal(svq_dial_new(path_of("", "peer"), &dial), 0);
    assert_int_equal(svq_dial_wait_fd(dial), -1);
    assert_int_equal(svq_dial_open(dial), -ENOENT);
    assert_int_equal(svq_unix_listen(&listener, path_of("", "peer"), SVQ_UMASK_AS_IS), 0);
    fd = svq_dial_open(dial);
    assert_true(fd >= 0);
    close(fd);
    close(listener.fd);
    assert_int_equal(svq_dial_open(dial), -ECONNREFUSED);
    listener.fd = -1;
    svq_unix_unlisten(&listener);
    svq_dial_unref(dial);
}

static void test_listening(void **state)
{
    struct svq_dial *dial, *second;
    int fd;

    (void)state;
    assert_int_equal(svq_dial_new(path_of("listen:", "l"), &dial), 0);
    assert_int_equal(svq_dial_new(path_of("listen:", "l"), &second), -EADDRINUSE);
    assert_int_equal(svq_dial_open(dial), -EAGAIN); /* whoever looked for life there has gone */
    assert_false(readable(svq_dial_wait_fd(dial)));
    fd = call("l");
    assert_true(readable(svq_dial_wait_fd(dial)));
    assert_taken(dial, fd);
    assert_int_equal(svq_dial_open(dial), -EAGAIN);
    svq_dial_unref(dial);
    assert_int_equal(access(path_of("", "l"), F_OK), -1);
}

static void test_the_dead_are_passed_over(void **state)
{
    struct svq_dial *dial;
    int first, second, tries = 0;

    (void)state;
    assert_int_equal(svq_dial_new(path_of("listen:", "l"), &dial), 0);
    for (unsigned i = 0; i < 10; i++)
        close(call("l"));
    first = call("l");
    close(call("l"));
    second = call("l");
    assert_taken(dial, first);
    assert_taken(dial, second);
    assert_int_equal(svq_dial_open(dial), -EAGAIN);
    /* So many that one attempt does not bury them all. */
    for (unsigned i = 0; i < 600; i++)
        close(call("l"));
    first = call("l");
    while (svq_dial_open(dial) == -EAGAIN && readable(svq_dial_wait_fd(dial)))
        tries++;
    assert_in_range(tries, 1, 600);
    close(first);
    svq_dial_unref(dial);
}

static void test_shared_by_two(void **state)
{
    struct svq_dial *dial;

    (void)state;
    assert_int_equal(svq_dial_new(path_of("listen:", "l"), &dial), 0);
    assert_ptr_equal(svq_dial_ref(dial), dial);
    svq_dial_unref(dial);
    assert_taken(dial, call("l"));
    svq_dial_unref(dial);
    assert_int_equal(access(path_of("", "l"), F_OK), -1);
}

/* Waiting for the listener would return at once, for ever. */
static void test_out_of_descriptors(void **state)
{
    struct rlimit limit, none;
    struct svq_dial *dial;
    int fd, lowest;

    (void)state;
    assert_int_equal(svq_dial_new(path_of("listen:", "l"), &dial), 0);
    fd = call("l");
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    lowest = dup(fd);
    close(lowest);
    none = (struct rlimit){.rlim_cur = lowest, .rlim_max = limit.rlim_max};
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &none), 0);
    assert_int_equal(svq_dial_open(dial), -EMFILE);
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0);
    assert_int_equal(svq_dial_wait_fd(dial), -1);
    assert_taken(dial, fd);
    assert_true(svq_dial_wait_fd(dial) >= 0);
    svq_dial_unref(dial);
}

static void test_addresses(void **state)
{
    char address[256] = "vhost-user:listen:";

    (void)state;
    assert_null(svq_backend_check("vhost-user:/a"));
    assert_null(svq_backend_check("vhost-user:listen:/a"));
    assert_non_null(svq_backend_check(NULL));
    assert_non_null(svq_backend_check(""));
    assert_non_null(svq_backend_check("/a"));
    assert_non_null(svq_backend_check("vhost-user:"));
    assert_non_null(svq_backend_check("vhost-user:listen:"));
    memset(address + strlen(address), 'x', 107);
    assert_null(svq_backend_check(address));
    memset(address + strlen(address), 'x', 1);
    assert_non_null(svq_backend_check(address));
    assert_string_equal(svq_backend_listens("vhost-user:listen:/a"), "/a");
    assert_null(svq_backend_listens("vhost-user:/a"));
    assert_null(svq_backend_listens("/a"));
    assert_string_equal(svq_frontend_listens("/a"), "/a");
    assert_null(svq_frontend_listens("connect:/a"));
    assert_null(svq_frontend_listens("fd:3"));
}

/* ---- A closed back-end --------------------------------------------------------------------- */

static void assert_not_connected(struct svq_backend *backend)
{
    const struct svq_backend_ops *ops = backend->ops;
    const struct svq_vu_inflight inflight = {.num_queues = 1};
    const struct svq_vu_vring_addr addr = {.index = 0};
    const struct svq_region region = {.fd = 0};
    struct svq_vu_message request = {.header = {.request = SVQ_VU_GET_CONFIG, .flags = 1}}, reply;
    uint64_t value;
    uint32_t base;
    const int results[] = {
        ops->flush(backend),
        ops->set_owner(backend),
        ops->reset(backend, SVQ_VU_RESET_DEVICE),
        ops->set_protocol_features(backend, 1),
        ops->set_features(backend, 1),
        ops->get_queue_num(backend, &value),
        ops->get_max_mem_slots(backend, &value),
        ops->set_mem_table(backend, &region, 1),
        ops->add_region(backend, &region),
        ops->remove_region(backend, &region),
        ops->set_log(backend, 0, 1, 0),
        ops->set_inflight(backend, 0, &inflight),
        ops->set_vring_num(backend, 0, 1),
        ops->set_vring_addr(backend, &addr),
        ops->set_vring_base(backend, 0, 0),
        svq_backend_get_vring_base(backend, 0, 0, &base),
        svq_backend_get_vring_base(backend, 0, -1, &base),
        ops->set_vring_fd(backend, SVQ_VU_SET_VRING_KICK, 0, 0),
        ops->set_vring_enable(backend, 0, true),
        ops->forward(backend, &request, &reply),
    };

    for (unsigned i = 0; i < sizeof(results) / sizeof(results[0]); i++)
        assert_int_equal(results[i], -ENOTCONN);
    assert_int_equal(ops->fd(backend), -1);
    assert_int_equal(backend->protocol_acked, 0);
}

/* Whatever is called, and more often than there is room for acks, with no word on stderr. */
static void test_closed_back_end(void **state)
{
    struct svq_backend *backend;
    int ends[2], saved = dup(STDERR_FILENO);

    (void)state;
    assert_int_equal(svq_backend_new(path_of("vhost-user:", "none"), &backend), 0);
    assert_int_equal(pipe(ends), 0);
    assert_int_equal(dup2(ends[1], STDERR_FILENO), STDERR_FILENO);
    for (unsigned i = 0; i < 100; i++)
        assert_not_connected(backend);
    assert_int_equal(backend->ops->open(backend), -ENOENT);
    backend->ops->close(backend);
    assert_not_connected(backend);
    assert_int_equal(dup2(saved, STDERR_FILENO), STDERR_FILENO);
    assert_false(readable(ends[0]));
    close(saved);
    close(ends[0]);
    close(ends[1]);
    backend->ops->free(backend);
}

static void test_another_back_end(void **state)
{
    struct svq_backend *backend, *other;

    (void)state;
    assert_int_equal(svq_backend_new(path_of("vhost-user:listen:", "b"), &backend), 0);
    assert_int_equal(svq_backend_new(path_of("vhost-user:listen:", "b"), &other), -EADDRINUSE);
    backend->tag = "tag";
    backend->message_timeout = 1;
    backend->drain_timeout = 2;
    assert_int_equal(backend->ops->another(backend, &other), 0);
    assert_ptr_equal(other->tag, backend->tag);
    assert_true(other->message_timeout == 1 && other->drain_timeout == 2);
    assert_int_equal(other->ops->wait_fd(other), backend->ops->wait_fd(backend));
    backend->ops->free(backend);
    assert_int_equal(access(path_of("", "b"), F_OK), 0);
    assert_int_equal(other->ops->open(other), -EAGAIN);
    other->ops->free(other);
    assert_int_equal(access(path_of("", "b"), F_OK), -1);
}

/* ---- Inherited sockets --------------------------------------------------------------------- */

/* A listening socket as a parent leaves it. */
static int inherited(const char *name)
{
    struct svq_unix_listener listener;
    int fd;

    assert_int_equal(svq_unix_listen(&listener, path_of("", name), SVQ_UMASK_AS_IS), 0);
    fd = dup(listener.fd); /* without FD_CLOEXEC */
    svq_unix_unlisten(&listener);
    assert_true(fd >= 0);
    return fd;
}

static void test_taking_by_number(void **state)
{
    const char *why;
    char number[16];
    int fd = inherited("i");

    (void)state;
    snprintf(number, sizeof(number), "%d", fd);
    assert_int_equal(svq_inherited_find(number, &why), fd);
    assert_null(why);
    for (unsigned i = 0; i < 2; i++) {
        int copy = svq_inherited_take(number);

        assert_true(copy >= 0 && copy != fd);
        assert_true(fcntl(copy, F_GETFD) & FD_CLOEXEC);
        assert_true(fcntl(copy, F_GETFL) & O_NONBLOCK);
        assert_int_equal(svq_unix_accept(copy), -EAGAIN);
        close(copy);
    }
    /* As if we had opened it ourselves. */
    assert_int_equal(fcntl(fd, F_SETFD, FD_CLOEXEC), 0);
    assert_int_equal(svq_inherited_find(number, &why), -1);
    assert_non_null(strstr(why, "not passed"));
    assert_int_equal(svq_inherited_take(number), -EBADF);
    close(fd);
}

static void test_one_socket_by_two_names(void **state)
{
    char number[16], alias[16], other[16];
    int fd = inherited("i"), fd_alias = dup(fd), fd_other = inherited("j");

    (void)state;
    snprintf(number, sizeof(number), "fd:0%d", fd);
    snprintf(alias, sizeof(alias), "fd:%d", fd_alias);
    snprintf(other, sizeof(other), "fd:%d", fd_other);
    assert_true(svq_frontend_same(number, alias));
    assert_false(svq_frontend_same(number, other));
    assert_false(svq_frontend_same(number, "fd:999"));
    assert_false(svq_frontend_same(number, "/a"));
    assert_true(svq_frontend_same("/a", "/a"));
    assert_false(svq_frontend_same("/a", "connect:/a"));
    close(fd);
    close(fd_alias);
    close(fd_other);
}

static void assert_no_name(const char *name, const char *part)
{
    const char *why;

    assert_int_equal(svq_inherited_find(name, &why), -1);
    assert_non_null(why);
    assert_non_null(strstr(why, part));
}

static void test_names(void **state)
{
    char pid[16];

    (void)state;
    snprintf(pid, sizeof(pid), "%d", (int)getpid());
    unsetenv("LISTEN_FDS");
    unsetenv("LISTEN_PID");
    unsetenv("LISTEN_FDNAMES");
    assert_no_name("a", "passed no socket");
    setenv("LISTEN_FDS", "2", 1);
    assert_no_name("a", "another process");
    setenv("LISTEN_PID", "1", 1);
    assert_no_name("a", "another process");
    setenv("LISTEN_PID", pid, 1);
    assert_no_name("a", "no socket of that name");
    assert_no_name("unknown", "several");
    setenv("LISTEN_FDNAMES", "a:a", 1);
    assert_no_name("a", "several");
    assert_no_name("b", "no socket of that name");
    setenv("LISTEN_FDNAMES", "b:c:a", 1); /* the third is not among the two */
    assert_no_name("a", "no socket of that name");
    setenv("LISTEN_FDNAMES", "b", 1); /* the second has no name */
    assert_no_name("a", "no socket of that name");
    assert_no_name("", "needs the number");
    setenv("LISTEN_FDS", "x", 1);
    assert_no_name("b", "passed no socket");
    setenv("LISTEN_FDS", "-1", 1);
    assert_no_name("b", "passed no socket");
}

static int setup(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(folder); /* every name has been removed */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_nobody_to_connect_to),
        cmocka_unit_test(test_listening),
        cmocka_unit_test(test_the_dead_are_passed_over),
        cmocka_unit_test(test_shared_by_two),
        cmocka_unit_test(test_out_of_descriptors),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_closed_back_end),
        cmocka_unit_test(test_another_back_end),
        cmocka_unit_test(test_taking_by_number),
        cmocka_unit_test(test_one_socket_by_two_names),
        cmocka_unit_test(test_names),
    };

    return cmocka_run_group_tests(tests, setup, teardown);
}
