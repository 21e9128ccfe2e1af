/* SPDX-License-Identifier: BSD-3-Clause */
#include "rings.h"

#include <inttypes.h>
#include <stdbool.h>
#include <stdlib.h>
#include <string.h>

#include "json.h"

/* The word that people write for a feature, which may be shorter than its name. */
static const char *word_of(const json_t *name)
{
    const char *text = json_string_value(name);

    if (!text)
        return "?";
    return strcmp(text, "indirect_desc") == 0 ? "indirect" : text;
}

void svq_print_ring_features(const json_t *names, const char *between, FILE *out)
{
    const json_t *name;
    size_t i;

    json_array_foreach(names, i, name)
        fprintf(out, "%s%s", i > 0 ? between : "", word_of(name));
}

static void print_ring(const json_t *ring, bool whole, FILE *out)
{
    const json_t *features = svq_json_at(ring, "features");

    fputs(svq_json_string(ring, "format"), out);
    if (!whole)
        return;
    fprintf(out, " %" PRIu64, svq_json_number(ring, "size"));
    if (json_array_size(features) > 0)
        fputc(' ', out);
    svq_print_ring_features(features, " ", out);
}

static void show(struct svq_table *table, const json_t *queue, bool whole)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);

    if (out) {
        print_ring(svq_json_at(queue, "guest"), whole, out);
        /* In pass-through there is one ring. */
        if (strcmp(svq_json_string(queue, "mode"), "shadow") == 0) {
            fputs(" -> ", out);
            print_ring(svq_json_at(queue, "backend"), whole, out);
        }
        if (fclose(out) != 0) {
            free(text);
            text = NULL;
        }
    }
    svq_table_cell(table, "%s", text ? text : "?");
    free(text);
}

void svq_show_rings(struct svq_table *table, const json_t *queue)
{
    show(table, queue, true);
}

void svq_show_formats(struct svq_table *table, const json_t *queue)
{
    show(table, queue, false);
}

void svq_show_index(struct svq_table *table, const json_t *ring)
{
    uint64_t avail = svq_json_number(ring, "avail-idx");
    uint64_t used = svq_json_number(ring, "used-idx");

    if (!svq_json_at(ring, "avail-idx"))
        svq_table_cell(table, "-");
    else if (svq_json_at(ring, "avail-wrap"))
        svq_table_cell(table, "%" PRIu64 ":%d/%" PRIu64 ":%d", avail,
                       svq_json_bool(ring, "avail-wrap"), used, svq_json_bool(ring, "used-wrap"));
    else
        svq_table_cell(table, "%" PRIu64 "/%" PRIu64, avail, used);
}
