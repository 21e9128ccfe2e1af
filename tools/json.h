/* SPDX-License-Identifier: BSD-3-Clause */
/* Members of svqd's answers by path; what is absent or of another type reads as the default. */
#ifndef SVQCTL_JSON_H
#define SVQCTL_JSON_H

#include <jansson.h>
#include <stdbool.h>
#include <stdint.h>

/* @path: names separated by dots, e.g. "kicks.guest". NULL when absent. */
json_t *svq_json_at(const json_t *object, const char *path);
/* "-" when absent. */
const char *svq_json_string(const json_t *object, const char *path);
uint64_t svq_json_number(const json_t *object, const char *path);
bool svq_json_bool(const json_t *object, const char *path);
/* A feature word: a string such as "0x1f". */
uint64_t svq_json_word(const json_t *object, const char *path);

#endif
