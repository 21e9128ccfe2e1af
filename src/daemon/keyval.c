/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/keyval.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define KEY_CHARS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-_."
#define KEY_MAX   64

/*
 * Copies the value at `text` to `value` (as long as the text at least), halving doubled commas.
 * Return: where the next key starts.
 */
static const char *take_value(const char *text, char *value)
{
    while (*text) {
        if (*text == ',') {
            if (text[1] != ',')
                break;
            text++;
        }
        *value++ = *text++;
    }
    *value = '\0';
    return *text == ',' ? text + 1 : text;
}

/* Takes one KEY=VALUE; `value` is scratch space. Return: where the next starts; NULL: failed. */
static const char *take_pair(const char *text, char *value, json_t *object,
                             struct svq_failure *failure)
{
    char key[KEY_MAX + 1];
    size_t length = strspn(text, KEY_CHARS);
    int shown = (int)strcspn(text, "=,");

    if (length == 0 || length > KEY_MAX ||
        (text[length] != '=' && text[length] != ',' && text[length] != '\0')) {
        svq_fail(failure, "Invalid parameter '%.*s'", shown > KEY_MAX ? KEY_MAX : shown, text);
        svq_fail_hint(failure, "Write KEY=VALUE,KEY=VALUE; a comma inside a value is written "
                               "twice (,,)");
        return NULL;
    }
    memcpy(key, text, length);
    key[length] = '\0';
    if (text[length] != '=') {
        svq_fail(failure, "Expected '=' after parameter '%s'", key);
        return NULL;
    }

    text = take_value(text + length + 1, value);
    if (json_object_get(object, key)) {
        svq_fail(failure, "Parameter '%s' is given twice", key);
        return NULL;
    }
    if (json_object_set_new(object, key, json_string(value)) < 0) {
        svq_fail(failure, "Parameter '%s': the value is not valid UTF-8", key);
        return NULL;
    }
    return text;
}

int svq_keyval_parse(const char *text, json_t **out, struct svq_failure *failure)
{
    json_t *object = json_object();
    char *value = malloc(strlen(text) + 1);

    if (!object || !value) {
        svq_fail(failure, "Out of memory");
        text = NULL;
    }
    while (text && *text)
        text = take_pair(text, value, object, failure);
    free(value);

    if (!text) {
        json_decref(object);
        return -EINVAL;
    }
    *out = object;
    return 0;
}
