/* SPDX-License-Identifier: BSD-3-Clause */
/* A table of text whose columns are as wide as what stands in them. */
#ifndef SVQCTL_TABLE_H
#define SVQCTL_TABLE_H

#include <stddef.h>
#include <stdio.h>

#define SVQ_TABLE_COLUMNS_MAX 16

struct svq_table {
    const char *const *heads; /* one for each column; a leading '>' aligns the column right */
    size_t columns;
    char **cells; /* row by row */
    size_t count;
    size_t capacity;
    int failed; /* out of memory: rows are missing */
};

/* @heads: ends with NULL; must outlive the table. */
void svq_table_init(struct svq_table *table, const char *const *heads);
void svq_table_release(struct svq_table *table);

/* The next cell, left to right, row after row. */
void svq_table_cell(struct svq_table *table, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Every line begins with `indent` blanks; none ends with one. */
void svq_table_print(const struct svq_table *table, unsigned indent, FILE *out);

#endif
