/* SPDX-License-Identifier: BSD-3-Clause */
/* svqd's command line and configuration file: what is taken, and what is said about the rest. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include <cmocka.h>

#include "daemon/addresses.h"
#include "daemon/config.h"
#include "daemon/options.h"

#define NET "id=net0,frontend=/run/n.sock,backend=vhost-user:/run/b.sock"

struct parsed {
    struct svq_options options;
    struct svq_failure failure;
    int ret;
};

/* Parses "svqd" and the given arguments, up to a NULL. */
static struct parsed parse(const char *first, ...)
{
    char *argv[16] = {(char *)"svqd"};
    struct parsed p;
    int argc = 1;
    va_list args;
    const char *arg;

    va_start(args, first);
    for (arg = first; arg && argc < 15; arg = va_arg(args, const char *))
        argv[argc++] = (char *)arg;
    va_end(args);
    memset(&p.failure, 0, sizeof(p.failure));
    svq_options_init(&p.options);
    p.ret = svq_options_parse(argc, argv, &p.options, &p.failure);
    return p;
}

static void refuse(struct parsed p, const char *text)
{
    assert_int_not_equal(p.ret, 0);
    assert_string_equal(p.failure.text, text);
    svq_options_release(&p.options);
}

/* ---- The command line ---------------------------------------------------------------------- */

static void test_defaults(void **state)
{
    struct parsed p = parse("--device", NET, NULL);
    const struct svq_device_config *config;

    (void)state;
    assert_int_equal(p.ret, 0);
    assert_int_equal(p.options.action, SVQ_ACTION_RUN);
    assert_null(p.options.qmp);
    assert_int_equal(p.options.workers, 1);
    assert_int_equal(p.options.poll_us, 50);
    assert_int_equal(p.options.log_level, SVQ_LOG_INFO);
    assert_int_equal(p.options.device_count, 1);
    config = &p.options.devices[0].config;
    assert_string_equal(config->id, "net0");
    assert_string_equal(config->frontend, "/run/n.sock");
    assert_string_equal(config->backend, "vhost-user:/run/b.sock");
    assert_int_equal(config->shadow, SVQ_SHADOW_AUTO);
    assert_int_equal(config->dirty_log, SVQ_DIRTY_LOG_AUTO);
    assert_int_equal(config->ring, SVQ_RING_CHOICE_AUTO);
    assert_true(config->offer == 0);
    assert_int_equal(config->descriptors, SVQ_DESCRIPTORS_SHARED);
    assert_true(config->message_timeout == INT64_C(10000000000));
    assert_true(config->drain_timeout == INT64_C(5000000000));
    assert_true(config->reconnect == INT64_C(2000000000));
    assert_false(config->keep_backend);
    svq_options_release(&p.options);
}

static void test_everything(void **state)
{
    struct parsed p =
        parse("--device", NET, "--qmp", "/q", "--workers=4", "--poll-us", "0", "-v", "--device",
              "id=b,frontend=connect:/f,,x,backend=vhost-user:/y,shadow=on,dirty-log=backend,"
              "ring=packed,offer=in_order+event_idx,message-timeout=0.5,drain-timeout=2,"
              "reconnect=0.25,keep-backend=on,descriptors=copied",
              "--log-level", "error", NULL);
    const struct svq_device_config *config;

    (void)state;
    assert_int_equal(p.ret, 0);
    assert_string_equal(p.options.qmp, "/q");
    assert_int_equal(p.options.workers, 4);
    assert_int_equal(p.options.poll_us, 0);
    assert_int_equal(p.options.log_level, SVQ_LOG_ERROR);
    assert_int_equal(p.options.device_count, 2);
    config = &p.options.devices[1].config;
    assert_string_equal(config->frontend, "connect:/f,x");
    assert_int_equal(config->shadow, SVQ_SHADOW_ON);
    assert_int_equal(config->dirty_log, SVQ_DIRTY_LOG_BACKEND);
    assert_int_equal(config->ring, SVQ_RING_CHOICE_PACKED);
    assert_true(config->offer == (SVQ_BIT(SVQ_F_IN_ORDER) | SVQ_BIT(SVQ_F_EVENT_IDX)));
    assert_true(config->message_timeout == 500000000);
    assert_true(config->drain_timeout == INT64_C(2000000000));
    assert_true(config->reconnect == 250000000);
    assert_int_equal(config->descriptors, SVQ_DESCRIPTORS_COPIED);
    assert_true(config->keep_backend);
    svq_options_release(&p.options);
}

static void test_huge_pages(void **state)
{
    static const char *const names[] = {"auto", "reserved", "off"};
    json_t *root = json_pack("{s:s}", "huge-pages", "off");
    struct svq_failure failure = {0};
    struct parsed p;

    (void)state;
    for (int i = 0; i < 3; i++) {
        p = parse("--device", NET, "--huge-pages", names[i], NULL);
        assert_int_equal(p.ret, 0);
        assert_int_equal(p.options.huge_pages, i);
        /* The command line wins. */
        assert_int_equal(svq_config_apply(root, &p.options, &failure), 0);
        assert_int_equal(p.options.huge_pages, i);
        svq_options_release(&p.options);
    }
    refuse(parse("--huge-pages", "on", NULL), "--huge-pages on: expected auto, reserved or off");
    p = parse("--device", NET, NULL);
    assert_int_equal(p.options.huge_pages, SVQ_HUGE_PAGES_AUTO);
    assert_int_equal(svq_config_apply(root, &p.options, &failure), 0);
    assert_int_equal(p.options.huge_pages, SVQ_HUGE_PAGES_OFF);
    svq_options_release(&p.options);
    json_decref(root);
}

static void test_actions(void **state)
{
    struct parsed p;

    (void)state;
    p = parse("--help", NULL);
    assert_int_equal(p.ret, 0);
    assert_int_equal(p.options.action, SVQ_ACTION_HELP);
    svq_options_release(&p.options);
    p = parse("--qmp", "/q", "-V", NULL);
    assert_int_equal(p.ret, 0);
    assert_int_equal(p.options.action, SVQ_ACTION_VERSION);
    svq_options_release(&p.options);
    p = parse("--qmp", "/q", NULL);
    assert_int_equal(p.ret, 0);
    assert_int_equal(p.options.device_count, 0);
    svq_options_release(&p.options);
}

static void test_refused_options(void **state)
{
    (void)state;
    refuse(parse(NULL), "Nothing to do: no device, and no QMP socket to add one by");
    refuse(parse("--nope", NULL), "Unknown option --nope");
    refuse(parse("-x", NULL), "Unknown option -x");
    refuse(parse("--qmp", NULL), "--qmp expects a value");
    refuse(parse("--help=yes", NULL), "--help=yes: this option takes no value");
    refuse(parse("--qmp", "", NULL), "--qmp expects the path of the socket to make");
    refuse(parse("--qmp", "/q", "extra", NULL), "Unexpected argument 'extra'");
    refuse(parse("--workers", "0", NULL), "--workers 0: expected a number between 1 and 256");
    refuse(parse("--workers", "two", NULL), "--workers two: expected a number between 1 and 256");
    refuse(parse("--poll-us", "-1", NULL),
           "--poll-us -1: expected a number between 0 and 1000000, or always");
    refuse(parse("--log-level", "loud", NULL),
           "--log-level loud: expected error, warning, info or debug");
    refuse(parse("--config", "/a", "--config", "/b", NULL), "--config is given twice");
}

static void test_refused_devices(void **state)
{
    (void)state;
    refuse(parse("--device", "id=a", NULL), "--device id=a: Parameter 'frontend' is missing");
    refuse(parse("--device", "", NULL), "--device : Parameter 'id' is missing");
    refuse(parse("--device", "id=,frontend=/f", NULL),
           "--device id=,frontend=/f: Parameter 'id' must not be empty");
    refuse(parse("--device", "id=a,id=b", NULL),
           "--device id=a,id=b: Parameter 'id' is given twice");
    refuse(parse("--device", "id=a,frontned=/x", NULL),
           "--device id=a,frontned=/x: Parameter 'frontned' is unexpected");
    refuse(parse("--device", "id=a,shadow=yes", NULL),
           "--device id=a,shadow=yes: Parameter 'shadow' does not accept value 'yes'");
    refuse(parse("--device", "drain-timeout=5s", NULL),
           "--device drain-timeout=5s: "
           "Parameter 'drain-timeout' expects seconds between 0.001 and 86400");
    refuse(parse("--device", NET, "--device", NET, NULL), "Duplicate ID 'net0' for device");
    refuse(parse("--device", NET, "--device",
                 "id=net1,frontend=/run/n.sock,backend=vhost-user:/run/c.sock", NULL),
           "Devices 'net0' and 'net1' cannot share the front-end socket '/run/n.sock'");
}

/* What becomes of a device when one of its ends is gone. */
static void test_recovery_keys(void **state)
{
    struct parsed p;

    (void)state;
    p = parse("--device", NET ",reconnect=0,keep-backend=off", NULL);
    assert_int_equal(p.ret, 0);
    assert_true(p.options.devices[0].config.reconnect == 0);
    assert_false(p.options.devices[0].config.keep_backend);
    svq_options_release(&p.options);
    refuse(parse("--device", "reconnect=-1", NULL),
           "--device reconnect=-1: "
           "Parameter 'reconnect' expects seconds between 0.001 and 86400, or 0");
    refuse(parse("--device", "reconnect=", NULL),
           "--device reconnect=: "
           "Parameter 'reconnect' expects seconds between 0.001 and 86400, or 0");
    refuse(parse("--device", "reconnect=86401", NULL),
           "--device reconnect=86401: "
           "Parameter 'reconnect' expects seconds between 0.001 and 86400, or 0");
    refuse(parse("--device", "descriptors=private", NULL),
           "--device descriptors=private: "
           "Parameter 'descriptors' does not accept value 'private'");
    refuse(parse("--device", "keep-backend=true", NULL),
           "--device keep-backend=true: "
           "Parameter 'keep-backend' does not accept value 'true'");
    refuse(parse("--device", "keep-backend", NULL),
           "--device keep-backend: Expected '=' after parameter 'keep-backend'");
}

/* ---- Who listens where --------------------------------------------------------------------- */

/* Compares devices "old" and "new"; NULL: they get along. */
static void compare(const char *front, const char *back, const char *new_front,
                    const char *new_back, const char *reason)
{
    struct svq_device_config other = {.id = "old", .frontend = front, .backend = back};
    struct svq_device_config added = {.id = "new", .frontend = new_front, .backend = new_back};
    struct svq_failure failure;
    int ret = svq_addresses_compare(&other, &added, &failure);

    if (!reason) {
        assert_int_equal(ret, 0);
        return;
    }
    assert_int_not_equal(ret, 0);
    assert_string_equal(failure.text, reason);
}

/* A socket that listens, as one inherits it. */
static int listening(void)
{
    const struct sockaddr_un any = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM, 0);

    assert_true(fd >= 0);
    /* A name of the kernel's choice. */
    assert_int_equal(bind(fd, (const struct sockaddr *)&any, sizeof(any.sun_family)), 0);
    assert_int_equal(listen(fd, 1), 0);
    return fd;
}

/* A socket is one socket by whatever number it goes. */
static void test_inherited_addresses(void **state)
{
    int fd = listening(), same = dup(fd), other = listening();
    char one[16], two[16], three[16], text[128];

    (void)state;
    snprintf(one, sizeof(one), "fd:%d", fd);
    snprintf(two, sizeof(two), "fd:%d", same);
    snprintf(three, sizeof(three), "fd:%d", other);
    compare(one, "vhost-user:/x", three, "vhost-user:/x", NULL);
    compare(one, "vhost-user:listen:/x", "/a", "vhost-user:/x", NULL);
    snprintf(text, sizeof(text), "Devices 'old' and 'new' cannot share the front-end socket '%s'",
             one);
    compare(one, "vhost-user:/x", one, "vhost-user:/y", text);
    snprintf(text, sizeof(text), "Devices 'old' and 'new' cannot share the front-end socket '%s'",
             two);
    compare(one, "vhost-user:/x", two, "vhost-user:/y", text);
    close(fd);
    close(same);
    close(other);
}

static void test_addresses(void **state)
{
    (void)state;
    /* Many may connect to one back-end, and svqd to another svqd. */
    compare("/a", "vhost-user:/x", "/b", "vhost-user:/x", NULL);
    compare("/a", "vhost-user:/x", "/b", "vhost-user:/a", NULL);
    compare("/a", "vhost-user:listen:/x", "/b", "vhost-user:/x", NULL);
    compare("/a", "vhost-user:listen:/x", "/b", "vhost-user:listen:/y", NULL);
    compare("connect:/x", "vhost-user:listen:/y", "/y:", "vhost-user:listen:/x", NULL);

    compare("/a", "vhost-user:/x", "/a", "vhost-user:/y",
            "Devices 'old' and 'new' cannot share the front-end socket '/a'");
    compare("connect:/a", "vhost-user:/x", "connect:/a", "vhost-user:/y",
            "Devices 'old' and 'new' cannot share the front-end socket 'connect:/a'");
    compare("/a", "vhost-user:listen:/x", "/b", "vhost-user:listen:/x",
            "Devices 'old' and 'new' cannot share the back-end socket '/x'");
    compare("/a", "vhost-user:listen:/x", "/x", "vhost-user:/y",
            "Devices 'old' and 'new' cannot share the socket '/x', one for its front-end, the "
            "other for its back-end");
    compare("/a", "vhost-user:/x", "/b", "vhost-user:listen:/a",
            "Devices 'old' and 'new' cannot share the socket '/a', one for its front-end, the "
            "other for its back-end");
}

/* All ways in which a device can come to be ask the same. */
static void test_shared_sockets(void **state)
{
    (void)state;
    refuse(parse("--device", "id=a,frontend=/a,backend=vhost-user:listen:/a", NULL),
           "--device id=a,frontend=/a,backend=vhost-user:listen:/a: "
           "Device 'a' cannot listen on '/a' for its front-end and for its back-end");
    refuse(parse("--device", "id=a,frontend=/a,backend=vhost-user:listen:/x", "--device",
                 "id=b,frontend=/b,backend=vhost-user:listen:/x", NULL),
           "Devices 'a' and 'b' cannot share the back-end socket '/x'");
    refuse(parse("--device", "id=a,frontend=/a,backend=vhost-user:listen:/x", "--device",
                 "id=b,frontend=/x,backend=vhost-user:/y", NULL),
           "Devices 'a' and 'b' cannot share the socket '/x', one for its front-end, the other for "
           "its back-end");
}

/* ---- Help ---------------------------------------------------------------------------------- */

/* Whatever key there is, --help tells of it. */
static void test_help(void **state)
{
    static const char *const told[] = {"id=",
                                       "frontend=",
                                       "backend=",
                                       "shadow=",
                                       "dirty-log=",
                                       "ring=",
                                       "descriptors=",
                                       "offer=",
                                       "message-timeout=",
                                       "drain-timeout=",
                                       "reconnect=",
                                       "keep-backend=",
                                       "fd:N|fd:NAME",
                                       "vhost-user:listen:PATH"};
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(told) / sizeof(told[0]); i++)
        assert_non_null(strstr(svq_options_help(), told[i]));
}

/* What a refusal advises. */
static void test_hints(void **state)
{
    struct parsed p;

    (void)state;
    p = parse("--device", "id=a,frontned=/x", NULL);
    assert_string_equal(p.failure.hint, "A device's keys are id, frontend, backend, shadow, "
                                        "dirty-log, ring, offer, message-timeout, drain-timeout, "
                                        "reconnect, descriptors, poll-us, keep-backend");
    svq_options_release(&p.options);
    p = parse("--device", "id=a,descriptors=read", NULL);
    assert_string_equal(p.failure.hint, "Use one of shared, copied");
    svq_options_release(&p.options);
    p = parse("--device", "id=a,dirty-log=yes", NULL);
    assert_string_equal(p.failure.hint, "Use one of auto, shadow, backend");
    svq_options_release(&p.options);
    p = parse("--device", "id=a,keep-backend=1", NULL);
    assert_string_equal(p.failure.hint, "Use one of off, on");
    svq_options_release(&p.options);
}

/* Text that is as long as an attacker likes must fit the failure's buffers, as UTF-8. */
static void test_long_text(void **state)
{
    char text[4096];
    struct parsed p;
    json_t *string;
    size_t i;

    (void)state;
    for (i = 0; i + 2 < sizeof(text); i += 2)
        memcpy(text + i, "\xc3\xa4", 2);
    text[i] = '\0';
    p = parse("--device", text, NULL);
    assert_int_not_equal(p.ret, 0);
    string = json_string(p.failure.text);
    assert_non_null(string);
    json_decref(string);
    svq_options_release(&p.options);
}

/* Whoever never shadows can neither add features nor change the format. */
static void test_refused_with_shadow_off(void **state)
{
    static const char *const bad[] = {NET ",shadow=off,offer=packed",
                                      NET ",offer=in_order,shadow=off",
                                      NET ",shadow=off,ring=split", NET ",shadow=off,ring=packed"};
    struct parsed p;
    size_t i;

    (void)state;
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        p = parse("--device", bad[i], NULL);
        assert_int_not_equal(p.ret, 0);
        assert_non_null(strstr(p.failure.text, "shadow=off"));
        svq_options_release(&p.options);
    }
    p = parse("--device", NET ",shadow=off,ring=auto", NULL);
    assert_int_equal(p.ret, 0);
    svq_options_release(&p.options);
}

/* ---- The configuration file ---------------------------------------------------------------- */

/* Applies a file's text over options that stand as the command line left them. */
static int apply(const char *text, struct svq_options *options, struct svq_failure *failure)
{
    json_t *root = json_loads(text, JSON_REJECT_DUPLICATES | JSON_DECODE_ANY, NULL);
    int ret;

    assert_non_null(root);
    ret = svq_config_apply(root, options, failure);
    json_decref(root);
    return ret;
}

static void refuse_config(const char *text, const char *reason)
{
    struct svq_options options;
    struct svq_failure failure;

    svq_options_init(&options);
    assert_int_not_equal(apply(text, &options, &failure), 0);
    assert_string_equal(failure.text, reason);
    svq_options_release(&options);
}

static void test_config(void **state)
{
    struct svq_options options;
    struct svq_failure failure;

    (void)state;
    svq_options_init(&options);
    assert_int_equal(apply("{\"devices\": [{\"id\": \"a\", \"frontend\": \"/f\","
                           " \"backend\": \"vhost-user:/b\", \"shadow\": \"off\","
                           " \"message-timeout\": 1.5, \"drain-timeout\": 3,"
                           " \"reconnect\": 0, \"keep-backend\": true},"
                           " {\"id\": \"b\", \"frontend\": \"/g\", \"ring\": \"split\","
                           " \"backend\": \"vhost-user:/b\", \"offer\": [\"packed\"],"
                           " \"reconnect\": 0.5, \"keep-backend\": \"on\","
                           " \"descriptors\": \"copied\"},"
                           " {\"id\": \"c\", \"frontend\": \"connect:/h\", \"keep-backend\": false,"
                           " \"backend\": \"vhost-user:listen:/l\"}],"
                           " \"qmp\": \"/q\", \"workers\": 2, \"poll-us\": 10,"
                           " \"log-level\": \"debug\"}",
                           &options, &failure),
                     0);
    assert_int_equal(options.device_count, 3);
    assert_string_equal(options.devices[0].config.id, "a");
    assert_int_equal(options.devices[0].config.shadow, SVQ_SHADOW_OFF);
    assert_true(options.devices[0].config.message_timeout == 1500000000);
    assert_true(options.devices[0].config.drain_timeout == INT64_C(3000000000));
    assert_true(options.devices[0].config.reconnect == 0);
    assert_true(options.devices[0].config.keep_backend);
    assert_true(options.devices[1].config.reconnect == 500000000);
    assert_true(options.devices[1].config.keep_backend);
    assert_int_equal(options.devices[1].config.descriptors, SVQ_DESCRIPTORS_COPIED);
    assert_int_equal(options.devices[2].config.descriptors, SVQ_DESCRIPTORS_SHARED);
    assert_string_equal(options.devices[2].config.frontend, "connect:/h");
    assert_string_equal(options.devices[2].config.backend, "vhost-user:listen:/l");
    assert_true(options.devices[2].config.reconnect == SVQ_DEFAULT_RECONNECT);
    assert_false(options.devices[2].config.keep_backend);
    assert_int_equal(options.devices[1].config.ring, SVQ_RING_CHOICE_SPLIT);
    assert_true(options.devices[1].config.offer == SVQ_BIT(SVQ_F_RING_PACKED));
    assert_string_equal(options.qmp, "/q");
    assert_int_equal(options.workers, 2);
    assert_int_equal(options.poll_us, 10);
    assert_int_equal(options.log_level, SVQ_LOG_DEBUG);
    svq_options_release(&options);

    svq_options_init(&options);
    assert_int_equal(apply("{}", &options, &failure), 0);
    assert_int_equal(options.workers, SVQ_DEFAULT_WORKERS);
    svq_options_release(&options);
}

static void test_refused_config(void **state)
{
    (void)state;
    refuse_config("[]", "The file must hold one JSON object");
    refuse_config("{\"worker\": 1}", "'worker' is unexpected");
    refuse_config("{\"workers\": 0}", "'workers' must be a whole number between 1 and 256");
    refuse_config("{\"workers\": \"1\"}", "'workers' must be a whole number between 1 and 256");
    refuse_config("{\"poll-us\": -1}",
                  "'poll-us' must be a number between 0 and 1000000, or always");
    refuse_config("{\"qmp\": 1}", "'qmp' must be the path of a socket, as a string");
    refuse_config("{\"log-level\": \"x\"}",
                  "'log-level' must be \"error\", \"warning\", \"info\" or \"debug\"");
    refuse_config("{\"devices\": {}}", "'devices' must be an array of objects");
    refuse_config("{\"devices\": [1]}",
                  "devices[0]: A device must be an object with id, frontend and backend");
    refuse_config("{\"devices\": [{\"id\": 1}]}",
                  "devices[0]: Invalid parameter type for 'id', expected: string");
    refuse_config("{\"devices\": [{\"message-timeout\": \"1\"}]}",
                  "devices[0]: Invalid parameter type for 'message-timeout', expected: number");
    refuse_config("{\"devices\": [{\"shadow\": true}]}",
                  "devices[0]: Invalid parameter type for 'shadow', expected: string");
    refuse_config("{\"devices\": [{\"ring\": \"vring\"}]}",
                  "devices[0]: Parameter 'ring' does not accept value 'vring'");
    refuse_config("{\"devices\": [{\"descriptors\": \"shares\"}]}",
                  "devices[0]: Parameter 'descriptors' does not accept value 'shares'");
    refuse_config("{\"devices\": [{\"descriptors\": true}]}",
                  "devices[0]: Invalid parameter type for 'descriptors', expected: string");
    refuse_config("{\"devices\": [{\"offer\": true}]}",
                  "devices[0]: Invalid parameter type for 'offer', expected: string or array");
    refuse_config("{\"devices\": [{\"reconnect\": \"1\"}]}",
                  "devices[0]: Invalid parameter type for 'reconnect', expected: number");
    refuse_config("{\"devices\": [{\"reconnect\": true}]}",
                  "devices[0]: Invalid parameter type for 'reconnect', expected: number");
    refuse_config(
        "{\"devices\": [{\"reconnect\": 0.0001}]}",
        "devices[0]: Parameter 'reconnect' expects seconds between 0.001 and 86400, or 0");
    refuse_config("{\"devices\": [{\"keep-backend\": 1}]}",
                  "devices[0]: Invalid parameter type for 'keep-backend', expected: boolean");
    refuse_config("{\"devices\": [{\"keep-backend\": \"yes\"}]}",
                  "devices[0]: Parameter 'keep-backend' does not accept value 'yes'");
    refuse_config("{\"devices\": [{\"id\": \"a\", \"frontend\": \"/f\", \"backend\":"
                  " \"vhost-user:listen:/f\"}]}",
                  "devices[0]: Device 'a' cannot listen on '/f' for its front-end and for its "
                  "back-end");
}

static void write_file(char *path, const char *text)
{
    int fd = mkstemp(path);

    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), (ssize_t)strlen(text));
    close(fd);
}

/* The command line wins, wherever --config stands; devices of both add up, the file's last. */
static void test_config_file(void **state)
{
    char path[] = "/tmp/svq-test-XXXXXX";
    char expected[128];
    struct parsed p;

    (void)state;
    write_file(path, "{\"workers\": 8, \"qmp\": \"/file\", \"poll-us\": 7, \"devices\":"
                     " [{\"id\": \"f\", \"frontend\": \"/f\", \"backend\": \"vhost-user:/b\"}]}");
    p = parse("--config", path, "--workers", "2", "--qmp", "/line", "--device", NET, NULL);
    assert_int_equal(p.ret, 0);
    assert_int_equal(p.options.workers, 2);
    assert_string_equal(p.options.qmp, "/line");
    assert_int_equal(p.options.poll_us, 7);
    assert_int_equal(p.options.device_count, 2);
    assert_string_equal(p.options.devices[1].config.id, "f");
    svq_options_release(&p.options);
    unlink(path);

    strcpy(path, "/tmp/svq-test-XXXXXX");
    write_file(path, "{\n  \"workers\": }\n");
    snprintf(expected, sizeof(expected), "%s:2:14: unexpected token near '}'", path);
    refuse(parse("--config", path, NULL), expected);
    unlink(path);

    snprintf(expected, sizeof(expected),
             "Can't read configuration file '%s': No such file or directory", path);
    refuse(parse("--config", path, NULL), expected);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_everything),
        cmocka_unit_test(test_huge_pages),
        cmocka_unit_test(test_actions),
        cmocka_unit_test(test_refused_options),
        cmocka_unit_test(test_refused_devices),
        cmocka_unit_test(test_recovery_keys),
        cmocka_unit_test(test_addresses),
        cmocka_unit_test(test_inherited_addresses),
        cmocka_unit_test(test_shared_sockets),
        cmocka_unit_test(test_help),
        cmocka_unit_test(test_hints),
        cmocka_unit_test(test_long_text),
        cmocka_unit_test(test_refused_with_shadow_off),
        cmocka_unit_test(test_config),
        cmocka_unit_test(test_refused_config),
        cmocka_unit_test(test_config_file),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
