/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/ring_features.h"

#include <errno.h>
#include <string.h>

#include <shadowvq/vhost_user.h>

#include "base/feature_name.h"

/* In the order in which lists show them. */
static const struct ring_feature {
    unsigned bit;
    const char *word; /* what people write, if not its name */
} ring_features[] = {
    {SVQ_F_RING_PACKED, NULL},
    {SVQ_F_EVENT_IDX, NULL},
    {SVQ_F_INDIRECT_DESC, "indirect"},
    {SVQ_F_IN_ORDER, NULL},
};

#define EXPECTED  "expected any of packed, event_idx, indirect, in_order"
#define SHOWN_MAX 64 /* bytes of a wrong name, so that what was expected fits behind it */

static bool is_word(const char *word, const char *text, size_t length)
{
    return word && strlen(word) == length && memcmp(word, text, length) == 0;
}

static const struct ring_feature *find(const char *text, size_t length)
{
    size_t i;

    for (i = 0; i < sizeof(ring_features) / sizeof(ring_features[0]); i++) {
        const struct ring_feature *feature = &ring_features[i];

        if (is_word(feature->word, text, length) ||
            is_word(svq_feature_name(feature->bit), text, length))
            return feature;
    }
    return NULL;
}

static int add(const char *key, const char *text, size_t length, uint64_t *features,
               struct svq_failure *failure)
{
    const struct ring_feature *feature = find(text, length);
    int shown = length > SHOWN_MAX ? SHOWN_MAX : (int)length;

    if (length == 0)
        return svq_fail(failure, "Parameter '%s' has an empty name: " EXPECTED, key);
    if (!feature)
        return svq_fail(failure, "Parameter '%s' does not accept value '%.*s': " EXPECTED, key,
                        shown, text);
    if (*features & SVQ_BIT(feature->bit))
        return svq_fail(failure, "Parameter '%s' names '%.*s' twice: " EXPECTED, key, shown, text);
    *features |= SVQ_BIT(feature->bit);
    return 0;
}

int svq_ring_features_parse(const char *key, const char *text, uint64_t *features,
                            struct svq_failure *failure)
{
    uint64_t found = 0;
    size_t length;
    int ret;

    if (text[0] == '\0')
        return svq_fail(failure, "Parameter '%s' must not be empty: " EXPECTED ", joined by '+'",
                        key);
    for (;; text += length + 1) {
        length = strcspn(text, "+");
        ret = add(key, text, length, &found, failure);
        if (ret < 0)
            return ret;
        if (text[length] == '\0')
            break;
    }
    *features = found;
    return 0;
}

int svq_ring_features_from_json(const char *key, const json_t *value, uint64_t *features,
                                struct svq_failure *failure)
{
    uint64_t found = 0;
    const json_t *name;
    size_t i;
    int ret;

    if (json_is_string(value))
        return svq_ring_features_parse(key, json_string_value(value), features, failure);
    if (!json_is_array(value))
        return svq_fail(failure, "Invalid parameter type for '%s', expected: string or array", key);
    json_array_foreach(value, i, name) {
        if (!json_is_string(name))
            return svq_fail(failure, "Invalid parameter type for '%s[%zu]', expected: string", key,
                            i);
        ret = add(key, json_string_value(name), json_string_length(name), &found, failure);
        if (ret < 0)
            return ret;
    }
    *features = found;
    return 0;
}

json_t *svq_ring_features_json(uint64_t features)
{
    json_t *list = json_array();
    size_t i;

    for (i = 0; list && i < sizeof(ring_features) / sizeof(ring_features[0]); i++) {
        unsigned bit = ring_features[i].bit;

        if (!(features & SVQ_BIT(bit)))
            continue;
        if (json_array_append_new(list, json_string(svq_feature_name(bit))) < 0) {
            json_decref(list);
            list = NULL;
        }
    }
    return list;
}
