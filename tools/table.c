/* SPDX-License-Identifier: BSD-3-Clause */
#include "table.h"

#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

void svq_table_init(struct svq_table *table, const char *const *heads)
{
    memset(table, 0, sizeof(*table));
    table->heads = heads;
    while (table->columns < SVQ_TABLE_COLUMNS_MAX && heads[table->columns])
        table->columns++;
}

void svq_table_release(struct svq_table *table)
{
    size_t i;

    for (i = 0; i < table->count; i++)
        free(table->cells[i]);
    free(table->cells);
    memset(table, 0, sizeof(*table));
}

void svq_table_cell(struct svq_table *table, const char *format, ...)
{
    char *text = NULL;
    va_list args;
    int length;

    if (table->count == table->capacity) {
        size_t capacity = table->capacity ? table->capacity * 2 : 64;
        char **grown = reallocarray(table->cells, capacity, sizeof(*grown));

        if (!grown) {
            table->failed = 1;
            return;
        }
        table->cells = grown;
        table->capacity = capacity;
    }
    va_start(args, format);
    length = vasprintf(&text, format, args);
    va_end(args);
    if (length < 0) {
        table->failed = 1;
        return;
    }
    table->cells[table->count++] = text;
}

static int align_right(const struct svq_table *table, size_t column)
{
    return table->heads[column][0] == '>';
}

static const char *head(const struct svq_table *table, size_t column)
{
    return table->heads[column] + align_right(table, column);
}

static void measure(const struct svq_table *table, size_t *widths)
{
    size_t i;

    for (i = 0; i < table->columns; i++)
        widths[i] = strlen(head(table, i));
    for (i = 0; i < table->count; i++) {
        size_t length = strlen(table->cells[i]);

        if (length > widths[i % table->columns])
            widths[i % table->columns] = length;
    }
}

static void print_cell(const struct svq_table *table, const size_t *widths, size_t column,
                       const char *text, FILE *out)
{
    int last = column + 1 == table->columns;

    if (align_right(table, column))
        fprintf(out, "%*s", (int)widths[column], text);
    else if (last)
        fputs(text, out);
    else
        fprintf(out, "%-*s", (int)widths[column], text);
    fputs(last ? "\n" : "  ", out);
}

void svq_table_print(const struct svq_table *table, unsigned indent, FILE *out)
{
    size_t widths[SVQ_TABLE_COLUMNS_MAX];
    size_t i;

    if (table->columns == 0)
        return;
    measure(table, widths);
    fprintf(out, "%*s", (int)indent, "");
    for (i = 0; i < table->columns; i++)
        print_cell(table, widths, i, head(table, i), out);
    /* Whole rows only. */
    for (i = 0; i < table->count - table->count % table->columns; i++) {
        if (i % table->columns == 0)
            fprintf(out, "%*s", (int)indent, "");
        print_cell(table, widths, i % table->columns, table->cells[i], out);
    }
}
