/* SPDX-License-Identifier: BSD-3-Clause */
#include "json.h"

#include <stdlib.h>
#include <string.h>

json_t *svq_json_at(const json_t *object, const char *path)
{
    char name[64];
    size_t length;

    while (object) {
        length = strcspn(path, ".");
        if (length >= sizeof(name))
            return NULL;
        memcpy(name, path, length);
        name[length] = '\0';
        object = json_object_get(object, name);
        if (path[length] == '\0')
            break;
        path += length + 1;
    }
    return (json_t *)object;
}

const char *svq_json_string(const json_t *object, const char *path)
{
    const char *text = json_string_value(svq_json_at(object, path));

    return text ? text : "-";
}

uint64_t svq_json_number(const json_t *object, const char *path)
{
    return (uint64_t)json_integer_value(svq_json_at(object, path));
}

bool svq_json_bool(const json_t *object, const char *path)
{
    return json_is_true(svq_json_at(object, path));
}

uint64_t svq_json_word(const json_t *object, const char *path)
{
    const char *text = json_string_value(svq_json_at(object, path));

    return text ? strtoull(text, NULL, 16) : 0;
}
