/* SPDX-License-Identifier: BSD-3-Clause */
/* The QMP conversation without a socket: how bytes become commands, and what is answered. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>
#include <shadowvq/version.h>

#include "daemon/events.h"
#include "daemon/json_stream.h"
#include "daemon/qmp_session.h"

/* ---- Cutting the stream -------------------------------------------------------------------- */

/* All texts found in `bytes`, joined by '|', when fed in pieces of `piece` bytes. */
static void cut(const char *bytes, size_t piece, const char *expected)
{
    struct svq_json_stream stream;
    enum svq_json_stream_result result;
    size_t length = strlen(bytes);
    size_t done = 0;
    char found[1024] = "";

    memset(&stream, 0, sizeof(stream));
    while (done < length) {
        size_t size = length - done < piece ? length - done : piece;

        done += svq_json_stream_feed(&stream, bytes + done, size, &result);
        if (result == SVQ_JSON_TEXT) {
            strncat(found, stream.text, stream.length);
            strcat(found, "|");
        } else {
            assert_int_equal(result, SVQ_JSON_MORE);
        }
    }
    assert_string_equal(found, expected);
    svq_json_stream_release(&stream);
}

static void cut_all(const char *bytes, const char *expected)
{
    size_t piece;

    for (piece = 1; piece <= strlen(bytes) + 1; piece++)
        cut(bytes, piece, expected);
}

static void test_stream(void **state)
{
    (void)state;
    cut_all("", "");
    cut_all(" \r\n\t", "");
    cut_all("{}", "{}|");
    cut_all("{}{}\n[ ] ", "{}|{}|[ ]|");
    cut_all("{\"a\": [1, {\"b\": 2}]}\n{\"c\"", "{\"a\": [1, {\"b\": 2}]}|");
    cut_all("{\"}\\\"{\": \"]\\\\\"}{}", "{\"}\\\"{\": \"]\\\\\"}|{}|");
    cut_all("1 true\n\"a b\"nul{}", "1|true|\"a b\"|nul|{}|");
    cut_all("12", "");
    /* What can no longer become JSON ends there. */
    cut_all("}{}", "}|{}|");
    cut_all("[}{}", "[}|{}|");
    cut_all(",:{}", ",|:|{}|");
    cut_all("{\"a\n{}", "{\"a\n|{}|");
    cut_all("{ \xff{}", "{ \xff|{}|");
    cut_all("ab\x01{}", "ab|\x01|{}|");
}

static void test_stream_limits(void **state)
{
    struct svq_json_stream stream;
    enum svq_json_stream_result result;
    size_t i;

    (void)state;
    memset(&stream, 0, sizeof(stream));
    svq_json_stream_feed(&stream, "\"", 1, &result);
    for (i = 1; i < SVQ_JSON_TEXT_MAX; i++) {
        svq_json_stream_feed(&stream, "x", 1, &result);
        assert_int_equal(result, SVQ_JSON_MORE);
    }
    svq_json_stream_feed(&stream, "x", 1, &result);
    assert_int_equal(result, SVQ_JSON_TOO_LARGE);
    assert_true(stream.capacity <= SVQ_JSON_TEXT_MAX);
    /* Said once; the text goes on to its end, and the next one counts again. */
    for (i = 0; i < 2 * SVQ_JSON_TEXT_MAX; i++) {
        svq_json_stream_feed(&stream, "x", 1, &result);
        assert_int_equal(result, SVQ_JSON_MORE);
    }
    assert_int_equal(svq_json_stream_feed(&stream, "\"{}", 3, &result), 3);
    assert_int_equal(result, SVQ_JSON_TEXT);
    assert_int_equal(stream.length, 2);

    for (i = 0; i < SVQ_JSON_DEPTH_MAX; i++) {
        svq_json_stream_feed(&stream, i & 1 ? "{" : "[", 1, &result);
        assert_int_equal(result, SVQ_JSON_MORE);
    }
    svq_json_stream_feed(&stream, "[", 1, &result);
    assert_int_equal(result, SVQ_JSON_TOO_DEEP);
    svq_json_stream_release(&stream);
}

/* ---- The conversation ---------------------------------------------------------------------- */

struct fixture {
    struct svq_registry *registry;
    struct svq_qmp_session *session;
    unsigned quits;
};

static void on_quit(void *opaque)
{
    ((struct fixture *)opaque)->quits++;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct svq_device_context none = {0};
    struct svq_command_context context = {.quit = on_quit, .opaque = f};

    if (!f)
        return -1;
    f->registry = svq_registry_new(&none);
    context.registry = f->registry;
    f->session = svq_qmp_session_new(&context);
    *state = f;
    return f->registry && f->session ? 0 : -1;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    svq_qmp_session_free(f->session);
    svq_registry_free(f->registry);
    free(f);
    return 0;
}

static void feed(struct fixture *f, const char *bytes, size_t length)
{
    while (length > 0) {
        size_t taken = svq_qmp_session_feed(f->session, bytes, length);

        assert_true(taken <= length);
        bytes += taken;
        length -= taken;
    }
}

/* Everything said since the last look, which must be what is expected. */
static void expect(struct fixture *f, const char *expected)
{
    size_t length;
    const char *output = svq_qmp_session_output(f->session, &length);

    if (length != strlen(expected) || (length && memcmp(output, expected, length) != 0)) {
        print_error("expected: %s\nsaid: %.*s\n", expected, (int)length, output);
        fail();
    }
    svq_qmp_session_sent(f->session, length);
}

static void ask(struct fixture *f, const char *command, const char *answer)
{
    feed(f, command, strlen(command));
    expect(f, answer);
}

#define RETURN(value)      "{\"return\":" value "}\r\n"
#define ERROR(class, desc) "{\"error\":{\"class\":\"" class "\",\"desc\":\"" desc "\"}}\r\n"
#define GENERIC(desc)      ERROR("GenericError", desc)
#define TEXT(x)            TEXT_(x)
#define TEXT_(x)           #x
#define VERSION                                                                   \
    "{\"qemu\":{\"major\":" TEXT(SVQ_VERSION_MAJOR) ",\"minor\":" TEXT(           \
        SVQ_VERSION_MINOR) ",\"micro\":" TEXT(SVQ_VERSION_MICRO) "},\"package\":" \
                                                                 "\"shadowvq " SVQ_VERSION "\"}"

static void negotiate(struct fixture *f)
{
    expect(f, "{\"QMP\":{\"version\":" VERSION ",\"capabilities\":[]}}\r\n");
    ask(f, "{\"execute\":\"qmp_capabilities\"}", RETURN("{}"));
}

static void test_negotiation(void **state)
{
    struct fixture *f = *state;

    expect(f, "{\"QMP\":{\"version\":" VERSION ",\"capabilities\":[]}}\r\n");
    ask(f, "{\"execute\":\"query-version\"}",
        ERROR("CommandNotFound", "Expecting capabilities negotiation with 'qmp_capabilities'"));
    ask(f, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}",
        GENERIC("Parameter 'enable' does not accept value 'oob'"));
    ask(f, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[7]}}",
        GENERIC("Invalid parameter type for 'enable[0]', expected: string"));
    ask(f, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"x\":1}}",
        GENERIC("Parameter 'x' is unexpected"));
    ask(f, "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]},\"id\":1}",
        "{\"return\":{},\"id\":1}\r\n");
    ask(f, "{\"execute\":\"qmp_capabilities\"}",
        ERROR("CommandNotFound", "Capabilities negotiation is already complete, command ignored"));
}

static void test_form(void **state)
{
    struct fixture *f = *state;

    negotiate(f);
    ask(f, "7 ", GENERIC("QMP input must be a JSON object"));
    ask(f, "{}", GENERIC("QMP input lacks member 'execute'"));
    ask(f, "{\"execute\":7}", GENERIC("QMP input member 'execute' must be a string"));
    ask(f, "{\"execute\":\"quit\",\"arguments\":[]}",
        GENERIC("QMP input member 'arguments' must be an object"));
    ask(f, "{\"execute\":\"quit\",\"extra\":1}", GENERIC("QMP input member 'extra' is unexpected"));
    ask(f, "{\"execute\":\"nope\"}",
        ERROR("CommandNotFound", "The command nope has not been found"));
    ask(f, "{\"execute\":\"device-del\"}", GENERIC("Parameter 'id' is missing"));
    ask(f, "{\"execute\":\"device-del\",\"arguments\":{\"id\":1}}",
        GENERIC("Invalid parameter type for 'id', expected: string"));
    ask(f, "{\"execute\":\"quit\",\"arguments\":{\"x\":1}}",
        GENERIC("Parameter 'x' is unexpected"));
    assert_int_equal(f->quits, 0);
    ask(f, "{\"execute\":\"quit\"}", RETURN("{}"));
    assert_int_equal(f->quits, 1);
}

static void test_ids(void **state)
{
    struct fixture *f = *state;

    negotiate(f);
    ask(f, "{\"id\":null,\"execute\":\"query-devices\"}", "{\"return\":[],\"id\":null}\r\n");
    ask(f, "{\"execute\":\"query-queues\",\"id\":{\"a\":[1,\"\\u00e4\"]}}",
        "{\"return\":[],\"id\":{\"a\":[1,\"\xc3\xa4\"]}}\r\n");
    ask(f, "{\"bad\":1,\"id\":\"x\"}",
        "{\"id\":\"x\",\"error\":{\"class\":\"GenericError\","
        "\"desc\":\"QMP input member 'bad' is unexpected\"}}\r\n");
}

static void test_devices(void **state)
{
    struct fixture *f = *state;

    negotiate(f);
    ask(f, "{\"execute\":\"query-queues\",\"arguments\":{\"id\":\"a\"}}",
        ERROR("DeviceNotFound", "Device 'a' not found"));
    ask(f, "{\"execute\":\"device-del\",\"arguments\":{\"id\":\"a\"}}",
        ERROR("DeviceNotFound", "Device 'a' not found"));
    ask(f, "{\"execute\":\"device-set-shadow\",\"arguments\":{\"id\":\"a\",\"shadow\":\"on\"}}",
        ERROR("DeviceNotFound", "Device 'a' not found"));
    ask(f, "{\"execute\":\"device-set-shadow\",\"arguments\":{\"id\":\"a\",\"shadow\":\"x\"}}",
        GENERIC("Parameter 'shadow' does not accept value 'x'"));
    ask(f,
        "{\"execute\":\"x-vhost-enable-shadow-vq\","
        "\"arguments\":{\"name\":\"a\",\"enable\":true}}",
        ERROR("DeviceNotFound", "Can't enable shadow vq on a: Device not found"));
    ask(f, "{\"execute\":\"x-vhost-enable-shadow-vq\",\"arguments\":{\"name\":\"a\",\"enable\":1}}",
        GENERIC("Invalid parameter type for 'enable', expected: boolean"));
    ask(f, "{\"execute\":\"device-set-backend\",\"arguments\":{\"backend\":\"vhost-user:/x\"}}",
        GENERIC("Parameter 'id' is missing"));
    ask(f, "{\"execute\":\"device-set-backend\",\"arguments\":{\"id\":\"a\"}}",
        GENERIC("Parameter 'backend' is missing"));
    ask(f, "{\"execute\":\"device-set-backend\",\"arguments\":{\"id\":\"a\",\"backend\":1}}",
        GENERIC("Invalid parameter type for 'backend', expected: string"));
    ask(f,
        "{\"execute\":\"device-set-backend\","
        "\"arguments\":{\"id\":\"a\",\"backend\":\"vhost-user:/x\",\"force\":true}}",
        GENERIC("Parameter 'force' is unexpected"));
    ask(f, "{\"execute\":\"device-set-backend\",\"arguments\":{\"id\":\"a\",\"backend\":\"x\"}}",
        ERROR("DeviceNotFound", "Device 'a' not found"));
    ask(f, "{\"execute\":\"device-add\"}", GENERIC("Parameter 'id' is missing"));
    ask(f, "{\"execute\":\"device-add\",\"arguments\":{\"id\":\"a\",\"front\":\"x\"}}",
        GENERIC("Parameter 'front' is unexpected"));
    ask(f, "{\"execute\":\"device-add\",\"arguments\":{\"id\":\"a\",\"ring\":\"both\"}}",
        GENERIC("Parameter 'ring' does not accept value 'both'"));
    ask(f, "{\"execute\":\"device-add\",\"arguments\":{\"id\":\"a\",\"offer\":\"packed+vring\"}}",
        GENERIC("Parameter 'offer' does not accept value 'vring': "
                "expected any of packed, event_idx, indirect, in_order"));
    ask(f, "{\"execute\":\"device-add\",\"arguments\":{\"id\":\"a\",\"offer\":[\"packed\",7]}}",
        GENERIC("Invalid parameter type for 'offer[1]', expected: string"));
    ask(f, "{\"execute\":\"device-add\",\"arguments\":{\"id\":\"a\",\"keep-backend\":1}}",
        GENERIC("Invalid parameter type for 'keep-backend', expected: boolean"));
    ask(f, "{\"execute\":\"device-add\",\"arguments\":{\"id\":\"a\",\"reconnect\":-1}}",
        GENERIC("Parameter 'reconnect' expects seconds between 0.001 and 86400, or 0"));
}

/* One error; what follows the comma is the JSON library's. */
static void expect_parse_error(struct fixture *f)
{
    static const char start[] =
        "{\"error\":{\"class\":\"GenericError\",\"desc\":\"JSON parse error, ";
    size_t length;
    const char *output = svq_qmp_session_output(f->session, &length);

    assert_true(length > sizeof(start));
    assert_memory_equal(output, start, sizeof(start) - 1);
    assert_ptr_equal(memchr(output, '\n', length), output + length - 1);
    svq_qmp_session_sent(f->session, length);
}

/* After any error the next command is understood. */
static void test_recovery(void **state)
{
    static const char *const garbage[] = {"}",     "{ foo }", "{\"a\" 1}", "[1}",
                                          "\"a\n", "{'a':1}", "\xff",      "{\"a\":\"\xc3(\"}"};
    struct fixture *f = *state;
    size_t i;

    negotiate(f);
    for (i = 0; i < sizeof(garbage) / sizeof(garbage[0]); i++) {
        feed(f, garbage[i], strlen(garbage[i]));
        expect_parse_error(f);
        ask(f, "{\"execute\":\"query-devices\"}", RETURN("[]"));
    }
    feed(f, "{\"a\":\0}", 7);
    expect_parse_error(f);
    ask(f, "{\"execute\":\"query-version\"}", RETURN(VERSION));
}

/* Events: none before negotiation, a bounded pile after it; answers are kept whole. */
static void test_output_limits(void **state)
{
    struct fixture *f = *state;
    char line[1000];
    size_t length;
    size_t i;

    memset(line, 'x', sizeof(line));
    svq_qmp_session_output(f->session, &length);
    svq_qmp_session_sent(f->session, length);
    assert_true(svq_qmp_session_event(f->session, line, sizeof(line)));
    expect(f, "");
    ask(f, "{\"execute\":\"qmp_capabilities\"}", RETURN("{}"));

    for (i = 0; i < SVQ_QMP_OUTPUT_LIMIT / sizeof(line); i++) {
        assert_int_equal(svq_qmp_session_full(f->session), i * sizeof(line) > SVQ_QMP_OUTPUT_FULL);
        assert_true(svq_qmp_session_event(f->session, line, sizeof(line)));
    }
    assert_false(svq_qmp_session_event(f->session, line, sizeof(line)));
    svq_qmp_session_output(f->session, &length);
    assert_int_equal(length, i * sizeof(line));
    svq_qmp_session_sent(f->session, length - 1);
    expect(f, "x");
    assert_false(svq_qmp_session_failed(f->session));
}

/* ---- Events -------------------------------------------------------------------------------- */

/* Name and data, and a timestamp besides. */
static void tells(struct svq_event event, const char *name, const char *data)
{
    json_t *expected = json_loads(data, 0, NULL);
    json_t *message;

    event.id = "a";
    message = svq_event_json(&event);
    assert_non_null(message);
    assert_non_null(expected);
    assert_int_equal(json_object_size(message), 3);
    assert_string_equal(json_string_value(json_object_get(message, "event")), name);
    if (!json_equal(json_object_get(message, "data"), expected)) {
        char *said = json_dumps(json_object_get(message, "data"), JSON_COMPACT);

        print_error("expected: %s\nsaid: %s\n", data, said);
        fail();
    }
    assert_int_equal(json_object_size(json_object_get(message, "timestamp")), 2);
    json_decref(message);
    json_decref(expected);
}

static void test_events(void **state)
{
    (void)state;
    tells((struct svq_event){.type = SVQ_EVENT_SHADOW_CHANGED,
                             .shadow = true,
                             .microseconds = 17,
                             .reason = "command"},
          "DEVICE_SHADOW_CHANGED",
          "{\"id\":\"a\",\"shadow\":true,\"microseconds\":17,\"reason\":\"command\"}");
    tells((struct svq_event){.type = SVQ_EVENT_FRONTEND_CONNECTED}, "DEVICE_FRONTEND_CONNECTED",
          "{\"id\":\"a\"}");
    tells((struct svq_event){.type = SVQ_EVENT_FRONTEND_DISCONNECTED, .reason = "left"},
          "DEVICE_FRONTEND_DISCONNECTED", "{\"id\":\"a\",\"reason\":\"left\"}");
    tells((struct svq_event){.type = SVQ_EVENT_BACKEND_CONNECTED}, "DEVICE_BACKEND_CONNECTED",
          "{\"id\":\"a\"}");
    tells(
        (struct svq_event){
            .type = SVQ_EVENT_BACKEND_DISCONNECTED, .reason = "closed", .recovering = true},
        "DEVICE_BACKEND_DISCONNECTED", "{\"id\":\"a\",\"reason\":\"closed\",\"recovering\":true}");
    tells((struct svq_event){.type = SVQ_EVENT_BACKEND_DISCONNECTED, .reason = "closed"},
          "DEVICE_BACKEND_DISCONNECTED",
          "{\"id\":\"a\",\"reason\":\"closed\",\"recovering\":false}");
    tells((struct svq_event){.type = SVQ_EVENT_BACKEND_REFUSED, .reason = "fewer queues"},
          "DEVICE_BACKEND_REFUSED", "{\"id\":\"a\",\"reason\":\"fewer queues\"}");
    tells((struct svq_event){.type = SVQ_EVENT_BACKEND_RECOVERED,
                             .microseconds = 12000000000,
                             .attempts = 3,
                             .resubmitted = 40},
          "DEVICE_BACKEND_RECOVERED",
          "{\"id\":\"a\",\"microseconds\":12000000000,\"attempts\":3,\"resubmitted\":40}");
    tells((struct svq_event){.type = SVQ_EVENT_BACKEND_CHANGED,
                             .address = "vhost-user:/x",
                             .microseconds = 900},
          "DEVICE_BACKEND_CHANGED",
          "{\"id\":\"a\",\"backend\":\"vhost-user:/x\",\"microseconds\":900}");
    tells(
        (struct svq_event){
            .type = SVQ_EVENT_QUEUE_ERROR, .queue = 2, .side = "guest", .reason = "loop"},
        "QUEUE_ERROR", "{\"id\":\"a\",\"queue\":2,\"side\":\"guest\",\"reason\":\"loop\"}");
    tells((struct svq_event){.type = SVQ_EVENT_DEVICE_ERROR}, "DEVICE_ERROR",
          "{\"id\":\"a\",\"reason\":\"unknown\"}");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_stream),
        cmocka_unit_test(test_stream_limits),
        cmocka_unit_test_setup_teardown(test_negotiation, setup, teardown),
        cmocka_unit_test_setup_teardown(test_form, setup, teardown),
        cmocka_unit_test_setup_teardown(test_ids, setup, teardown),
        cmocka_unit_test_setup_teardown(test_devices, setup, teardown),
        cmocka_unit_test(test_events),
        cmocka_unit_test_setup_teardown(test_recovery, setup, teardown),
        cmocka_unit_test_setup_teardown(test_output_limits, setup, teardown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
