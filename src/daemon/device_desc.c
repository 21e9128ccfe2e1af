/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/device_desc.h"

#include <errno.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#include "daemon/addresses.h"
#include "daemon/keyval.h"
#include "daemon/names.h"
#include "daemon/number.h"
#include "daemon/ring_features.h"
#include "engine/engine.h"

enum key_type {
    KEY_STRING,  /* const char * */
    KEY_WORD,    /* enum, by its list of words */
    KEY_TIMEOUT, /* int64_t, nanoseconds */
    KEY_PERIOD,  /* the same, or 0 */
    KEY_SWITCH,  /* bool */
    KEY_OFFER,   /* uint64_t, feature bits */
    KEY_POLL,    /* int, microseconds or SVQ_POLL_ALWAYS */
};

struct key {
    const char *name;
    enum key_type type;
    bool required;
    size_t offset; /* of the member of struct svq_device_config */
    const char *const *words;
};

/* A word's position is stored into an enum member through its offset. */
_Static_assert(sizeof(enum svq_shadow_policy) == sizeof(int), "enums are ints");
_Static_assert(sizeof(enum svq_dirty_log_policy) == sizeof(int), "enums are ints");
_Static_assert(sizeof(enum svq_ring_choice) == sizeof(int), "enums are ints");
_Static_assert(sizeof(enum svq_descriptors) == sizeof(int), "enums are ints");

#define MEMBER(m) offsetof(struct svq_device_config, m)

static const struct key keys[] = {
    {"id", KEY_STRING, true, MEMBER(id), NULL},
    {"frontend", KEY_STRING, true, MEMBER(frontend), NULL},
    {"backend", KEY_STRING, true, MEMBER(backend), NULL},
    {"shadow", KEY_WORD, false, MEMBER(shadow), svq_shadow_policy_words},
    {"dirty-log", KEY_WORD, false, MEMBER(dirty_log), svq_dirty_log_policy_words},
    {"ring", KEY_WORD, false, MEMBER(ring), svq_ring_choice_words},
    {"offer", KEY_OFFER, false, MEMBER(offer), NULL},
    {"message-timeout", KEY_TIMEOUT, false, MEMBER(message_timeout), NULL},
    {"drain-timeout", KEY_TIMEOUT, false, MEMBER(drain_timeout), NULL},
    {"reconnect", KEY_PERIOD, false, MEMBER(reconnect), NULL},
    {"descriptors", KEY_WORD, false, MEMBER(descriptors), svq_descriptors_words},
    {"poll-us", KEY_POLL, false, MEMBER(poll_us), NULL},
    {"keep-backend", KEY_SWITCH, false, MEMBER(keep_backend), svq_switch_words},
};

#define KEY_COUNT (sizeof(keys) / sizeof(keys[0]))

/* "a, b, c" from a list that ends with NULL. */
static void join_words(const char *const *words, char *text, size_t size)
{
    size_t used = 0;

    text[0] = '\0';
    for (; *words && used < size; words++)
        used += (size_t)snprintf(text + used, size - used, "%s%s", used ? ", " : "", *words);
}

static void hint_keys(struct svq_failure *failure)
{
    const char *names[KEY_COUNT + 1] = {NULL};
    char text[sizeof(failure->hint)];
    size_t i;

    for (i = 0; i < KEY_COUNT; i++)
        names[i] = keys[i].name;
    join_words(names, text, sizeof(text) - 32);
    svq_fail_hint(failure, "A device's keys are %s", text);
}

static int bad_type(const struct key *key, const char *expected, struct svq_failure *failure)
{
    return svq_fail(failure, "Invalid parameter type for '%s', expected: %s", key->name, expected);
}

/* Return: the position of the word that `value` holds, or -EINVAL. */
static int read_word(const struct key *key, const json_t *value, struct svq_failure *failure)
{
    int found = svq_word_find(key->words, json_string_value(value));
    char text[128];

    if (found >= 0)
        return found;
    svq_fail(failure, "Parameter '%s' does not accept value '%s'", key->name,
             json_string_value(value));
    join_words(key->words, text, sizeof(text));
    svq_fail_hint(failure, "Use one of %s", text);
    return -EINVAL;
}

static int set_word(const struct key *key, const json_t *value, void *member,
                    struct svq_failure *failure)
{
    int found;

    if (!json_is_string(value))
        return bad_type(key, "string", failure);
    found = read_word(key, value, failure);
    if (found < 0)
        return found;
    memcpy(member, &found, sizeof(found));
    return 0;
}

/* JSON has a type for it; the words are good there too, as they are on the command line. */
static int set_switch(const struct key *key, const json_t *value, bool *member,
                      struct svq_failure *failure)
{
    int found = json_is_true(value);

    if (json_is_string(value))
        found = read_word(key, value, failure);
    else if (!json_is_boolean(value))
        return bad_type(key, "boolean", failure);
    if (found < 0)
        return found;
    *member = found;
    return 0;
}

static int set_seconds(const struct key *key, const json_t *value, enum svq_desc_source source,
                       int64_t *member, struct svq_failure *failure)
{
    bool zero = key->type == KEY_PERIOD;
    bool good;

    if (source == SVQ_DESC_TEXT) {
        good = svq_seconds_parse(json_string_value(value), zero, member);
    } else {
        if (!json_is_number(value))
            return bad_type(key, "number", failure);
        good = svq_seconds_convert(json_number_value(value), zero, member);
    }
    if (!good)
        return svq_fail(failure, "Parameter '%s' expects " SVQ_SECONDS_RANGE "%s", key->name,
                        zero ? ", or 0" : "");
    return 0;
}

static int set_key(const struct key *key, const json_t *value, enum svq_desc_source source,
                   struct svq_device_config *config, struct svq_failure *failure)
{
    void *member = (char *)config + key->offset;
    const char *text;

    switch (key->type) {
    case KEY_WORD:
        return set_word(key, value, member, failure);
    case KEY_SWITCH:
        return set_switch(key, value, member, failure);
    case KEY_TIMEOUT:
    case KEY_PERIOD:
        return set_seconds(key, value, source, member, failure);
    case KEY_OFFER:
        return svq_ring_features_from_json(key->name, value, member, failure);
    case KEY_POLL:
        if (!svq_poll_us_convert(value, member))
            return svq_fail(failure, "Parameter '%s' expects " SVQ_POLL_US_RANGE, key->name);
        return 0;
    case KEY_STRING:
        break;
    }
    if (!json_is_string(value))
        return bad_type(key, "string", failure);
    text = json_string_value(value);
    if (text[0] == '\0')
        return svq_fail(failure, "Parameter '%s' must not be empty", key->name);
    memcpy(member, &text, sizeof(text));
    return 0;
}

static const struct key *find_key(const char *name)
{
    size_t i;

    for (i = 0; i < KEY_COUNT; i++) {
        if (strcmp(keys[i].name, name) == 0)
            return &keys[i];
    }
    return NULL;
}

static int set_keys(json_t *object, enum svq_desc_source source, struct svq_device_config *config,
                    struct svq_failure *failure)
{
    const char *name;
    json_t *value;
    size_t i;
    int ret;

    /* Unknown keys first: a misspelt required key is better called unexpected than missing. */
    json_object_foreach(object, name, value) {
        const struct key *key = find_key(name);

        if (!key) {
            svq_fail(failure, "Parameter '%s' is unexpected", name);
            hint_keys(failure);
            return -EINVAL;
        }
        ret = set_key(key, value, source, config, failure);
        if (ret < 0)
            return ret;
    }
    for (i = 0; i < KEY_COUNT; i++) {
        if (keys[i].required && !json_object_get(object, keys[i].name)) {
            svq_fail(failure, "Parameter '%s' is missing", keys[i].name);
            svq_fail_hint(failure, "Example: id=net0,frontend=/run/vm1/net0.sock,"
                                   "backend=vhost-user:/run/ovs/net0.sock");
            return -EINVAL;
        }
    }
    return 0;
}

int svq_device_desc_from_json(json_t *object, enum svq_desc_source source,
                              struct svq_device_desc *desc, struct svq_failure *failure)
{
    struct svq_device_config config = {
        .message_timeout = SVQ_DEFAULT_MESSAGE_TIMEOUT,
        .drain_timeout = SVQ_DEFAULT_DRAIN_TIMEOUT,
        .reconnect = SVQ_DEFAULT_RECONNECT,
        .poll_us = SVQ_POLL_DEFAULT,
    };
    const char *why = "not a possible device";
    int ret;

    if (!json_is_object(object))
        return svq_fail(failure, "A device must be an object with id, frontend and backend");
    ret = set_keys(object, source, &config, failure);
    if (ret < 0)
        return ret;
    if (svq_device_check_config(&config, &why) < 0)
        return svq_fail(failure, "Device '%s': %s", config.id, why);
    ret = svq_addresses_check(&config, failure);
    if (ret < 0)
        return ret;

    desc->config = config;
    desc->source = json_incref(object);
    return 0;
}

int svq_device_desc_from_text(const char *text, struct svq_device_desc *desc,
                              struct svq_failure *failure)
{
    json_t *object;
    int ret;

    ret = svq_keyval_parse(text, &object, failure);
    if (ret < 0)
        return ret;
    ret = svq_device_desc_from_json(object, SVQ_DESC_TEXT, desc, failure);
    json_decref(object);
    return ret;
}

void svq_device_desc_release(struct svq_device_desc *desc)
{
    json_decref(desc->source);
    memset(desc, 0, sizeof(*desc));
}
