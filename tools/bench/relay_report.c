/* SPDX-License-Identifier: BSD-3-Clause */
#include "relay.h"

#include <stdlib.h>

#include <jansson.h>

#include <shadowvq/version.h>

#include "../table.h"

/* ---- For people ------------------------------------------------------------------------------ */

static double worst_ratio(const struct relay_case *c)
{
    double worst = 0;

    for (unsigned p = 0; p < RELAY_PAIRS; p++)
        if (c->pairs[p].world && c->pairs[p].ratio.median > worst)
            worst = c->pairs[p].ratio.median;
    return worst;
}

static double worst_spread(const struct relay_case *c)
{
    double worst = 0;

    for (unsigned p = 0; p < RELAY_PAIRS; p++)
        if (c->pairs[p].world && c->pairs[p].ns_total.spread > worst)
            worst = c->pairs[p].ns_total.spread;
    return worst;
}

static void case_cells(struct svq_table *table, const struct relay_case *c)
{
    svq_table_cell(table, "%s", c->setup->name);
    svq_table_cell(table, "%u", c->batch);
    svq_table_cell(table, "%s", c->log ? "on" : "off");
}

static void print_brief(const struct relay_run *run, FILE *out)
{
    const char *heads[RELAY_PAIRS + 6] = {"setup", ">batch", "log"};
    struct svq_table table;
    unsigned column = 3;

    for (unsigned p = 0; p < RELAY_PAIRS; p++)
        if (run->options->pairs & 1u << p)
            heads[column++] = relay_pair_names[p];
    heads[column++] = ">slowest/fastest";
    heads[column] = ">spread";
    svq_table_init(&table, heads);
    for (unsigned i = 0; i < run->case_count; i++) {
        const struct relay_case *c = &run->cases[i];

        case_cells(&table, c);
        for (unsigned p = 0; p < RELAY_PAIRS; p++) {
            const struct relay_figures *f = &c->pairs[p];

            if (f->world)
                svq_table_cell(&table, "%.1f (%.1f + %.1f)", f->ns_total.median,
                               f->ns_forward.median, f->ns_back.median);
        }
        if (relay_pairs_alike(c->setup))
            svq_table_cell(&table, "%.2f", worst_ratio(c));
        else
            svq_table_cell(&table, "-");
        svq_table_cell(&table, "%.0f %%%s", 100 * worst_spread(c), c->noisy ? " !" : "");
    }
    svq_table_print(&table, 0, out);
    svq_table_release(&table);
}

static void print_detail(const struct relay_run *run, FILE *out)
{
    static const char *const heads[] = {"setup",    ">batch", "log",   "pair",    ">fwd ns",
                                        ">back ns", ">ns",    ">95 %", ">spread", ">ticks",
                                        ">ratio",   ">95 %",  NULL};
    struct svq_table table;

    svq_table_init(&table, heads);
    for (unsigned i = 0; i < run->case_count * RELAY_PAIRS; i++) {
        const struct relay_case *c = &run->cases[i / RELAY_PAIRS];
        const struct relay_figures *f = &c->pairs[i % RELAY_PAIRS];
        const struct bench_summary *ns = &f->ns_total;

        if (!f->world)
            continue;
        case_cells(&table, c);
        svq_table_cell(&table, "%s", relay_pair_names[i % RELAY_PAIRS]);
        svq_table_cell(&table, "%.2f", f->ns_forward.median);
        svq_table_cell(&table, "%.2f", f->ns_back.median);
        svq_table_cell(&table, "%.2f", ns->median);
        svq_table_cell(&table, "%.2f-%.2f", ns->low, ns->high);
        svq_table_cell(&table, "%.0f %%", 100 * ns->spread);
        svq_table_cell(&table, "%.1f", ns->median * run->clock.ticks_per_ns);
        svq_table_cell(&table, "%.2f", f->ratio.median);
        svq_table_cell(&table, "%.2f-%.2f", f->ratio.low, f->ratio.high);
    }
    svq_table_print(&table, 0, out);
    svq_table_release(&table);
}

static void print_worst(const struct relay_run *run, FILE *out)
{
    const struct relay_case *c = run->worst;

    if (c)
        fprintf(out, "Slowest against fastest pair: at most %.2f (%s, %s, batch %u, log %s).\n",
                c->pairs[run->worst_pair].ratio.median, relay_pair_names[run->worst_pair],
                c->setup->name, c->batch, c->log ? "on" : "off");
}

void relay_print(const struct relay_run *run, FILE *out)
{
    const struct relay_options *o = run->options;

    fprintf(out,
            "The relay's own time: ns per buffer (forward + back), medians of %u slots of %u us.\n"
            "Ring of %u entries, %u descriptors per buffer where there are several;\n"
            "1 ns = %.3f " BENCH_TICK "s, of which the clock takes %.0f (subtracted).\n\n",
            run->slots, o->slot_us, o->size, o->descriptors, run->clock.ticks_per_ns,
            run->clock.overhead);
    if (run->hand)
        fprintf(
            out,
            "The relay runs on processor %d, its ends on another one: %.0f ns there and back.\n\n",
            o->relay_cpu, bench_hand_usual(run->hand));
    if (o->detail)
        print_detail(run, out);
    else
        print_brief(run, out);
    fputc('\n', out);
    print_worst(run, out);
    fprintf(out, "%.1f s; %u slots repeated because something else ran on this core", run->seconds,
            run->repeated);
    if (run->disturbed)
        fprintf(out, ", %u more counted all the same", run->disturbed);
    fputs(".\n", out);
    if (run->noisy_cases)
        fprintf(out, "NOT A RESULT: %u of %u rows spread by more than %.0f %%.\n", run->noisy_cases,
                run->case_count, 100 * o->max_spread);
    else if (run->noisy)
        fputs("NOT A RESULT: too much of it was measured while something else ran.\n", out);
    if (run->noisy)
        fputs("Try again on a quieter machine, or with more --slots.\n", out);
}

/* ---- For programs ---------------------------------------------------------------------------- */

static json_t *summary_json(const struct bench_summary *s, double scale)
{
    return json_pack("{s:f, s:f, s:f, s:f}", "median", s->median * scale, "low", s->low * scale,
                     "high", s->high * scale, "spread", s->spread);
}

static json_t *pair_json(const struct relay_run *run, const struct relay_case *c, unsigned pair)
{
    const struct relay_figures *f = &c->pairs[pair];

    return json_pack("{s:s, s:s, s:o, s:o, s:o, s:o, s:o}", "guest",
                     pair >= PAIR_PACKED_SPLIT ? "packed" : "split", "backend",
                     pair == PAIR_SPLIT_PACKED || pair == PAIR_PACKED_PACKED ? "packed" : "split",
                     "forward-ns", summary_json(&f->ns_forward, 1), "back-ns",
                     summary_json(&f->ns_back, 1), "total-ns", summary_json(&f->ns_total, 1),
                     "total-ticks", summary_json(&f->ns_total, run->clock.ticks_per_ns), "ratio",
                     summary_json(&f->ratio, 1));
}

static json_t *case_json(const struct relay_run *run, const struct relay_case *c)
{
    json_t *pairs = json_array();

    for (unsigned p = 0; p < RELAY_PAIRS; p++)
        if (c->pairs[p].world)
            json_array_append_new(pairs, pair_json(run, c, p));
    return json_pack("{s:s, s:i, s:i, s:b, s:b, s:o}", "setup", c->setup->name, "descriptors",
                     (int)c->descriptors, "batch", (int)c->batch, "log", (int)c->log, "noisy",
                     (int)c->noisy, "pairs", pairs);
}

static json_t *worst_json(const struct relay_run *run)
{
    const struct relay_case *c = run->worst;

    if (!c)
        return json_null();
    return json_pack("{s:s, s:i, s:b, s:s, s:f}", "setup", c->setup->name, "batch", (int)c->batch,
                     "log", (int)c->log, "pair", relay_pair_names[run->worst_pair], "ratio",
                     c->pairs[run->worst_pair].ratio.median);
}

void relay_print_json(const struct relay_run *run, FILE *out)
{
    const struct relay_options *o = run->options;
    json_t *cases = json_array();
    json_t *all;

    for (unsigned i = 0; i < run->case_count; i++)
        json_array_append_new(cases, case_json(run, &run->cases[i]));
    all = json_pack("{s:s, s:s, s:{s:s, s:f, s:f}, s:i, s:i, s:i, s:i, s:i, s:f, s:f, s:b, "
                    "s:o, s:o}",
                    "command", "relay", "version", svq_version(), "clock", "unit", BENCH_TICK,
                    "ticks-per-ns", run->clock.ticks_per_ns, "overhead-ticks", run->clock.overhead,
                    "size", (int)o->size, "slots", (int)run->slots, "slot-us", (int)o->slot_us,
                    "repeated-slots", (int)run->repeated, "disturbed-slots", (int)run->disturbed,
                    "seconds", run->seconds, "max-spread", o->max_spread, "noisy", (int)run->noisy,
                    "worst", worst_json(run), "cases", cases);
    if (all && run->hand)
        json_object_update_new(all, json_pack("{s:i, s:f}", "relay-cpu", o->relay_cpu,
                                              "round-trip-ns", bench_hand_usual(run->hand)));
    if (all && json_dumpf(all, out, JSON_INDENT(2)) == 0)
        fputc('\n', out);
    json_decref(all);
}
