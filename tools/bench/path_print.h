/* SPDX-License-Identifier: BSD-3-Clause */
/* What the parts of svq-bench path have in common when they print. */
#ifndef SVQ_BENCH_PATH_PRINT_H
#define SVQ_BENCH_PATH_PRINT_H

#include <stdio.h>
#include <string.h>

#include "../table.h"
#include "path.h"

/* svqd polls all the time unless a part or the user has other ideas. */
#define PATH_POLL "always"

/* Where tables go: JSON may have taken stdout. */
static inline FILE *path_out(const struct path_report *report)
{
    return report->options->json && !strcmp(report->options->json, "-") ? stderr : stdout;
}

/* Median and interval: two cells. */
static inline void path_ratio_cells(struct svq_table *table, const struct bench_summary *s)
{
    svq_table_cell(table, "%.3f", s->median);
    svq_table_cell(table, "%.3f-%.3f", s->low, s->high);
}

/* How far the processors were from each other, row by row. */
static inline void path_print_hops(FILE *out, const json_t *rows)
{
    const json_t *row;
    size_t i;

    fputs("A cache line's round trip between the processors, ns, row by row:", out);
    json_array_foreach(rows, i, row) {
        const json_t *hop = json_object_get(row, "line-round-trip-ns");

        fprintf(out, " %.0f (%.0f-%.0f)", json_number_value(json_object_get(hop, "median")),
                json_number_value(json_object_get(hop, "low")),
                json_number_value(json_object_get(hop, "high")));
    }
    fputs("\n\n", out);
}

#endif
