/* SPDX-License-Identifier: BSD-3-Clause */
/* Values that people write, on command lines and in JSON: what is taken, and what is not. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

#include <shadowvq/relay.h>
#include <shadowvq/vhost_user.h>

#include "daemon/cpu_list.h"
#include "daemon/keyval.h"
#include "daemon/number.h"
#include "daemon/ring_features.h"

/* ---- Numbers and lists --------------------------------------------------------------------- */

static void test_numbers(void **state)
{
    static const char *const bad[] = {"",
                                      "-1",
                                      "+1",
                                      " 1",
                                      "1 ",
                                      "0x1",
                                      "1e3",
                                      "101",
                                      "18446744073709551616",
                                      "99999999999999999999999"};
    uint64_t value;
    size_t i;

    (void)state;
    assert_true(svq_number_parse("0", 100, &value));
    assert_int_equal(value, 0);
    assert_true(svq_number_parse("0100", 100, &value));
    assert_int_equal(value, 100);
    assert_true(svq_number_parse("18446744073709551615", UINT64_MAX, &value));
    assert_true(value == UINT64_MAX);
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(svq_number_parse(bad[i], 100, &value));
}

static void test_seconds(void **state)
{
    static const char *const bad[] = {
        "",  "-1",     "+1",    ".5", "5.", "1e3", "inf",   "nan", "0x1",
        "0", "0.0009", "86401", " 1", "1 ", "1,5", "1.2.3", "5s",  "99999999999999999999999999"};
    int64_t value;
    size_t i;

    (void)state;
    assert_true(svq_seconds_parse("10", false, &value));
    assert_true(value == INT64_C(10000000000));
    assert_true(svq_seconds_parse("0.25", false, &value));
    assert_true(value == 250000000);
    assert_true(svq_seconds_parse("0.001", false, &value));
    assert_true(value == 1000000);
    assert_true(svq_seconds_parse("86400.000", false, &value));
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(svq_seconds_parse(bad[i], false, &value));
    /* 0 where it has a meaning, however it is written; what is wrong otherwise stays wrong. */
    value = 7;
    assert_true(svq_seconds_parse("0", true, &value));
    assert_true(value == 0);
    assert_true(svq_seconds_parse("0.00", true, &value));
    assert_true(svq_seconds_parse("0.25", true, &value));
    assert_true(value == 250000000);
    for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
        if (strcmp(bad[i], "0") != 0)
            assert_false(svq_seconds_parse(bad[i], true, &value));
    }
}

static void take_list(const char *text, const char *json)
{
    json_t *expected = json_loads(json, 0, NULL);
    struct svq_failure failure;
    json_t *object;

    assert_non_null(expected);
    assert_int_equal(svq_keyval_parse(text, &object, &failure), 0);
    assert_true(json_equal(object, expected));
    json_decref(object);
    json_decref(expected);
}

static void refuse_list(const char *text, const char *reason)
{
    struct svq_failure failure;
    json_t *object = NULL;

    assert_int_not_equal(svq_keyval_parse(text, &object, &failure), 0);
    assert_null(object);
    assert_string_equal(failure.text, reason);
}

static void test_keyval(void **state)
{
    (void)state;
    take_list("", "{}");
    take_list("a=b", "{\"a\": \"b\"}");
    take_list("a=b,", "{\"a\": \"b\"}");
    take_list("a=,b=", "{\"a\": \"\", \"b\": \"\"}");
    take_list("a=b=c,d=e", "{\"a\": \"b=c\", \"d\": \"e\"}");
    take_list("a=b,,c,d=e", "{\"a\": \"b,c\", \"d\": \"e\"}");
    take_list("a=,,", "{\"a\": \",\"}");
    take_list("a=b,,,d=e", "{\"a\": \"b,\", \"d\": \"e\"}");
    take_list("dirty-log=x,a.b_C9=\xc3\xa4", "{\"dirty-log\": \"x\", \"a.b_C9\": \"\xc3\xa4\"}");

    refuse_list("a", "Expected '=' after parameter 'a'");
    refuse_list("a=b,c", "Expected '=' after parameter 'c'");
    refuse_list("a=b,a=c", "Parameter 'a' is given twice");
    refuse_list("=b", "Invalid parameter ''");
    refuse_list(",a=b", "Invalid parameter ''");
    refuse_list("a b=c", "Invalid parameter 'a b'");
    refuse_list("a=\xff", "Parameter 'a': the value is not valid UTF-8");
    refuse_list("\xff=a", "Invalid parameter '?'");
    refuse_list("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx=1",
                "Invalid parameter "
                "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx'");
}

/* ---- Polling and processors ---------------------------------------------------------------- */

static bool convert_poll_us(const char *json, int *out)
{
    json_t *value = json_loads(json, JSON_DECODE_ANY, NULL);
    bool good;

    assert_non_null(value);
    good = svq_poll_us_convert(value, out);
    json_decref(value);
    return good;
}

static void test_poll_us(void **state)
{
    static const char *const bad[] = {"", "-1", "1000001", "Always", "always ", "0.5"};
    static const char *const bad_json[] = {"-1", "1000001", "0.5", "true", "null", "\"x\"", "[]"};
    int value = 7;

    (void)state;
    assert_true(svq_poll_us_parse("0", &value));
    assert_int_equal(value, 0);
    assert_true(svq_poll_us_parse("1000000", &value));
    assert_int_equal(value, 1000000);
    assert_true(svq_poll_us_parse("always", &value));
    assert_int_equal(value, SVQ_POLL_ALWAYS);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(svq_poll_us_parse(bad[i], &value));
    assert_true(convert_poll_us("50", &value));
    assert_int_equal(value, 50);
    assert_true(convert_poll_us("\"60\"", &value));
    assert_int_equal(value, 60);
    assert_true(convert_poll_us("\"always\"", &value));
    assert_int_equal(value, SVQ_POLL_ALWAYS);
    for (size_t i = 0; i < sizeof(bad_json) / sizeof(bad_json[0]); i++)
        assert_false(convert_poll_us(bad_json[i], &value));
}

static void test_cpu_list(void **state)
{
    static const char *const bad[] = {"",     ",",      "1,",   ",1",          "a",       "1-",
                                      "-1",   "-",      "2-1",  "1 2",         "0x1",     "1-2-3",
                                      "1024", "0-1024", "1,,2", "99999999999", "0-1023,0"};
    struct svq_cpu_list list;

    (void)state;
    assert_true(svq_cpu_list_parse("3", &list));
    assert_int_equal(list.count, 1);
    assert_int_equal(list.cpus[0], 3);
    assert_true(svq_cpu_list_parse("1,4-6,0", &list));
    assert_int_equal(list.count, 5);
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(list.cpus[i], ((const unsigned[]){1, 4, 5, 6, 0})[i]);
    assert_true(svq_cpu_list_parse("0-1023", &list));
    assert_int_equal(list.count, SVQ_MAX_CPU);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(svq_cpu_list_parse(bad[i], &list));
}

/* ---- Ring features ------------------------------------------------------------------------- */

#define EXPECTED "expected any of packed, event_idx, indirect, in_order"

/* The same list of names on a command line ("a+b") or in JSON. */
static int read_offer(const char *text, const char *json, uint64_t *offer,
                      struct svq_failure *failure)
{
    json_t *value = json ? json_loads(json, JSON_DECODE_ANY, NULL) : NULL;
    int ret;

    if (!json)
        return svq_ring_features_parse("offer", text, offer, failure);
    assert_non_null(value);
    ret = svq_ring_features_from_json("offer", value, offer, failure);
    json_decref(value);
    return ret;
}

static void take_offer(const char *text, const char *json, uint64_t expected)
{
    struct svq_failure failure;
    uint64_t offer = ~UINT64_C(0);

    assert_int_equal(read_offer(text, json, &offer, &failure), 0);
    assert_true(offer == expected);
}

static void refuse_offer(const char *text, const char *json, const char *reason)
{
    struct svq_failure failure;
    uint64_t offer = 7;

    assert_int_not_equal(read_offer(text, json, &offer, &failure), 0);
    assert_string_equal(failure.text, reason);
    assert_true(offer == 7);
}

static void test_offer(void **state)
{
    const uint64_t event = SVQ_BIT(SVQ_F_EVENT_IDX), packed = SVQ_BIT(SVQ_F_RING_PACKED);

    (void)state;
    take_offer("packed", NULL, packed);
    take_offer("indirect", NULL, SVQ_BIT(SVQ_F_INDIRECT_DESC));
    take_offer("indirect_desc+event_idx", NULL, SVQ_BIT(SVQ_F_INDIRECT_DESC) | event);
    take_offer("in_order+indirect+event_idx+packed", NULL, SVQ_RELAY_FEATURES);
    take_offer(NULL, "\"event_idx+packed\"", event | packed);
    take_offer(NULL, "[\"packed\", \"event_idx\"]", event | packed);
    /* What query-devices shows of a device that has none can be given back. */
    take_offer(NULL, "[]", 0);

    refuse_offer("", NULL, "Parameter 'offer' must not be empty: " EXPECTED ", joined by '+'");
    refuse_offer(NULL, "\"\"", "Parameter 'offer' must not be empty: " EXPECTED ", joined by '+'");
    refuse_offer("+packed", NULL, "Parameter 'offer' has an empty name: " EXPECTED);
    refuse_offer("packed+", NULL, "Parameter 'offer' has an empty name: " EXPECTED);
    refuse_offer("packed++in_order", NULL, "Parameter 'offer' has an empty name: " EXPECTED);
    refuse_offer(NULL, "[\"\"]", "Parameter 'offer' has an empty name: " EXPECTED);
    refuse_offer("pack", NULL, "Parameter 'offer' does not accept value 'pack': " EXPECTED);
    refuse_offer("packed_", NULL, "Parameter 'offer' does not accept value 'packed_': " EXPECTED);
    refuse_offer("Packed", NULL, "Parameter 'offer' does not accept value 'Packed': " EXPECTED);
    refuse_offer("ring_reset", NULL,
                 "Parameter 'offer' does not accept value 'ring_reset': " EXPECTED);
    refuse_offer(NULL, "[\"packed+in_order\"]",
                 "Parameter 'offer' does not accept value 'packed+in_order': " EXPECTED);
    refuse_offer("packed+packed", NULL, "Parameter 'offer' names 'packed' twice: " EXPECTED);
    refuse_offer("indirect+indirect_desc", NULL,
                 "Parameter 'offer' names 'indirect_desc' twice: " EXPECTED);
    refuse_offer(NULL, "[\"in_order\", \"in_order\"]",
                 "Parameter 'offer' names 'in_order' twice: " EXPECTED);
    refuse_offer(NULL, "1", "Invalid parameter type for 'offer', expected: string or array");
    refuse_offer(NULL, "{}", "Invalid parameter type for 'offer', expected: string or array");
    refuse_offer(NULL, "[\"packed\", 1]",
                 "Invalid parameter type for 'offer[1]', expected: string");
    /* However long a wrong name is, what was expected is still read. */
    refuse_offer("xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx",
                 NULL,
                 "Parameter 'offer' does not accept value "
                 "'xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx': " EXPECTED);
}

/* What status shows is what offer= takes. */
static void test_offer_shown(void **state)
{
    static const char *const expected[] = {"packed", "event_idx", "indirect_desc", "in_order"};
    struct svq_failure failure;
    uint64_t offer;
    json_t *list;
    size_t i;

    (void)state;
    list = svq_ring_features_json(SVQ_RELAY_FEATURES | SVQ_BIT(SVQ_F_VERSION_1));
    assert_int_equal(json_array_size(list), 4);
    for (i = 0; i < 4; i++)
        assert_string_equal(json_string_value(json_array_get(list, i)), expected[i]);
    assert_int_equal(svq_ring_features_from_json("offer", list, &offer, &failure), 0);
    assert_true(offer == SVQ_RELAY_FEATURES);
    json_decref(list);

    list = svq_ring_features_json(0);
    assert_true(json_is_array(list));
    assert_int_equal(json_array_size(list), 0);
    json_decref(list);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_numbers),     cmocka_unit_test(test_seconds),
        cmocka_unit_test(test_keyval),      cmocka_unit_test(test_poll_us),
        cmocka_unit_test(test_cpu_list),    cmocka_unit_test(test_offer),
        cmocka_unit_test(test_offer_shown),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
