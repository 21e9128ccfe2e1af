/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/qmp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/log.h"
#include "base/unix_socket.h"
#include "daemon/events.h"
#include "daemon/qmp_session.h"
#include "event/fiber.h"

#define PRIVATE     0177 /* umask: who can connect can do all that svqd can */
#define READ_SIZE   4096
#define LINGER_TIME SVQ_SEC /* for the last answers to go out */

struct client {
    struct client *next;
    struct svq_qmp *qmp;
    struct svq_qmp_session *session;
    struct svq_fiber *fiber;
    int fd;
    bool dead;    /* connection lost or given up */
    bool eof;     /* it will send nothing more */
    bool running; /* its fiber is inside a command: not to be woken, the command may be waiting */
    char input[READ_SIZE];
    size_t input_start; /* input[start..end) is not fed yet */
    size_t input_end;
};

struct svq_qmp {
    struct svq_loop *loop;
    struct svq_command_context context;
    struct svq_unix_listener listener;
    struct svq_fiber *acceptor; /* NULL: ended */
    struct svq_fiber *stopper;  /* waits for the others to end */
    struct client *clients;
    unsigned client_count;
    bool stopping;
};

static void wake(struct svq_fiber *fiber)
{
    if (fiber)
        svq_fiber_wake(fiber);
}

/* ---- One client ---------------------------------------------------------------------------- */

/* Send what the socket takes now. */
static void flush(struct client *client)
{
    const char *bytes;
    size_t length;
    ssize_t sent;

    while (!client->dead) {
        bytes = svq_qmp_session_output(client->session, &length);
        if (length == 0)
            return;
        sent = send(client->fd, bytes, length, MSG_DONTWAIT | MSG_NOSIGNAL);
        if (sent > 0)
            svq_qmp_session_sent(client->session, (size_t)sent);
        else if (sent < 0 && errno == EAGAIN)
            return;
        else if (sent < 0 && errno != EINTR)
            client->dead = true;
    }
}

static bool has_output(const struct client *client)
{
    size_t length;

    svq_qmp_session_output(client->session, &length);
    return length > 0;
}

static bool has_input(const struct client *client)
{
    return client->input_start < client->input_end;
}

static void receive(struct client *client)
{
    ssize_t got = recv(client->fd, client->input, sizeof(client->input), MSG_DONTWAIT);

    client->input_start = 0;
    client->input_end = got > 0 ? (size_t)got : 0;
    if (got == 0)
        client->eof = true;
    else if (got < 0 && errno != EAGAIN && errno != EINTR)
        client->dead = true;
}

static void run_command(struct client *client)
{
    client->running = true;
    client->input_start +=
        svq_qmp_session_feed(client->session, client->input + client->input_start,
                             client->input_end - client->input_start);
    client->running = false;
    if (svq_qmp_session_failed(client->session)) {
        svq_error(NULL, "QMP: no memory for an answer, client dropped");
        client->dead = true;
    }
    flush(client);
}

/* Wait until there is something to read or room to write. */
static void wait_for_client(struct client *client, int64_t deadline)
{
    bool reading = !client->eof && !client->qmp->stopping && !has_input(client) &&
                   !svq_qmp_session_full(client->session);
    struct pollfd pfd = {.fd = client->fd};
    int ret;

    if (reading)
        pfd.events |= POLLIN;
    if (has_output(client))
        pfd.events |= POLLOUT;
    ret = svq_fiber_poll(&pfd, 1, deadline);
    if (ret < 0)
        client->dead = true;
    if (ret <= 0)
        return;
    if (reading && (pfd.revents & (POLLIN | POLLHUP | POLLERR)))
        receive(client);
    else if (pfd.revents & (POLLHUP | POLLERR))
        client->dead = true;
    flush(client);
}

static void serve(struct client *client)
{
    struct svq_qmp *qmp = client->qmp;
    int64_t deadline;

    flush(client);
    while (!client->dead && !qmp->stopping && !(client->eof && !has_input(client))) {
        if (has_input(client) && !svq_qmp_session_full(client->session))
            run_command(client);
        else
            wait_for_client(client, SVQ_FOREVER);
    }
    deadline = svq_deadline(LINGER_TIME);
    while (!client->dead && has_output(client))
        wait_for_client(client, deadline);
}

static void client_end(struct client *client)
{
    struct svq_qmp *qmp = client->qmp;
    struct client **link = &qmp->clients;

    while (*link != client)
        link = &(*link)->next;
    *link = client->next;
    qmp->client_count--;
    close(client->fd);
    svq_qmp_session_free(client->session);
    free(client);
    wake(qmp->acceptor);
    wake(qmp->stopper);
}

static void client_fiber(void *arg)
{
    struct client *client = arg;

    svq_debug(NULL, "QMP: client connected");
    serve(client);
    svq_debug(NULL, "QMP: client disconnected");
    client_end(client);
}

/* Takes over fd. */
static void client_start(struct svq_qmp *qmp, int fd)
{
    struct client *client = calloc(1, sizeof(*client));
    int ret = -ENOMEM;

    if (client) {
        client->qmp = qmp;
        client->fd = fd;
        client->session = svq_qmp_session_new(&qmp->context);
        if (client->session)
            ret = svq_fiber_spawn(qmp->loop, "qmp-client", client_fiber, client, &client->fiber);
    }
    if (ret < 0) {
        svq_error(NULL, "QMP: can't serve a client: %s", strerror(-ret));
        if (client)
            svq_qmp_session_free(client->session);
        free(client);
        close(fd);
        return;
    }
    client->next = qmp->clients;
    qmp->clients = client;
    qmp->client_count++;
}

/* ---- The server ---------------------------------------------------------------------------- */

static void accept_client(struct svq_qmp *qmp)
{
    int fd = accept4(qmp->listener.fd, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);

    if (fd >= 0) {
        client_start(qmp, fd);
        return;
    }
    if (errno == EAGAIN || errno == EINTR || errno == ECONNABORTED)
        return;
    /* Out of fds or memory: the connection stays in the queue, so do not spin on it. */
    svq_error(NULL, "QMP: accept: %s", strerror(errno));
    svq_fiber_sleep(100 * SVQ_MSEC);
}

static void acceptor_fiber(void *arg)
{
    struct svq_qmp *qmp = arg;

    while (!qmp->stopping) {
        bool room = qmp->client_count < SVQ_QMP_CLIENTS_MAX;
        struct pollfd pfd = {.fd = room ? qmp->listener.fd : -1, .events = POLLIN};

        if (svq_fiber_poll(&pfd, 1, SVQ_FOREVER) > 0)
            accept_client(qmp);
    }
    qmp->acceptor = NULL;
    wake(qmp->stopper);
}

static int cannot_listen(struct svq_failure *failure, const char *path, int error)
{
    svq_fail(failure, "Can't listen on '%s': %s", path, strerror(-error));
    if (error == -EADDRINUSE)
        svq_fail_hint(failure, "Another process listens there; give each svqd a socket of its own");
    else if (error == -EEXIST)
        svq_fail_hint(failure, "There is a file of that name which is no socket; remove it or "
                               "choose another name");
    else if (error == -ENOENT)
        svq_fail_hint(failure, "Its directory must exist");
    else if (error == -ENAMETOOLONG)
        svq_fail_hint(failure, "A UNIX socket's path has at most 107 bytes");
    return error;
}

int svq_qmp_start(struct svq_loop *loop, const char *path,
                  const struct svq_command_context *context, struct svq_qmp **out,
                  struct svq_failure *failure)
{
    struct svq_qmp *qmp = calloc(1, sizeof(*qmp));
    int ret;

    if (!qmp) {
        svq_fail(failure, "Out of memory");
        return -ENOMEM;
    }
    qmp->loop = loop;
    qmp->context = *context;
    ret = svq_unix_listen(&qmp->listener, path, PRIVATE);
    if (ret < 0) {
        free(qmp);
        return cannot_listen(failure, path, ret);
    }
    ret = svq_fiber_spawn(loop, "qmp-listen", acceptor_fiber, qmp, &qmp->acceptor);
    if (ret < 0) {
        svq_fail(failure, "Can't serve QMP: %s", strerror(-ret));
        svq_unix_unlisten(&qmp->listener);
        free(qmp);
        return ret;
    }
    *out = qmp;
    return 0;
}

void svq_qmp_stop(struct svq_qmp *qmp)
{
    struct client *client;

    if (!qmp)
        return;
    qmp->stopping = true;
    qmp->stopper = svq_fiber_self();
    wake(qmp->acceptor);
    for (client = qmp->clients; client; client = client->next) {
        if (!client->running)
            wake(client->fiber);
    }
    while (qmp->acceptor || qmp->clients)
        svq_fiber_poll(NULL, 0, SVQ_FOREVER);
    svq_unix_unlisten(&qmp->listener);
    free(qmp);
}

static void send_event(struct client *client, const char *line, size_t length)
{
    if (client->dead)
        return;
    if (svq_qmp_session_event(client->session, line, length)) {
        flush(client);
    } else {
        svq_warning(NULL, "QMP: client does not read its events, dropped");
        client->dead = true;
    }
    /* To wait for room, or to end; a running one does either when its command returns. */
    if (!client->running && (client->dead || has_output(client)))
        wake(client->fiber);
}

void svq_qmp_event(struct svq_qmp *qmp, const struct svq_event *event)
{
    json_t *message = svq_event_json(event);
    size_t length;
    char *line = svq_qmp_line(message, &length);
    struct client *client;

    json_decref(message);
    if (!line) {
        svq_error(event->id, "QMP: no memory for an event");
        return;
    }
    for (client = qmp->clients; client; client = client->next)
        send_event(client, line, length);
    free(line);
}
