/* SPDX-License-Identifier: BSD-3-Clause */
#include "top.h"

#include <inttypes.h>
#include <ncurses.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "human.h"
#include "json.h"
#include "rings.h"
#include "show.h"
#include "table.h"

struct sample {
    double time;     /* seconds */
    json_t *devices; /* query-devices */
};

static double now(void)
{
    struct timespec ts;

    clock_gettime(CLOCK_MONOTONIC, &ts);
    return (double)ts.tv_sec + (double)ts.tv_nsec / 1e9;
}

static enum svqctl_status take_sample(struct svq_client *client, struct sample *sample)
{
    enum svqctl_status status = svq_client_run(client, "query-devices", NULL, &sample->devices);

    sample->time = now();
    return status;
}

/* ---- Rates --------------------------------------------------------------------------------- */

static const json_t *same_queue(const json_t *devices, const json_t *queue)
{
    const json_t *device;
    const json_t *other;
    size_t i;
    size_t j;

    json_array_foreach(devices, i, device) {
        if (strcmp(svq_json_string(device, "id"), svq_json_string(queue, "device")) != 0)
            continue;
        json_array_foreach(svq_json_at(device, "queues"), j, other) {
            if (svq_json_number(other, "index") == svq_json_number(queue, "index"))
                return other;
        }
    }
    return NULL;
}

/* Per second; a counter that went back has started anew. */
static double rate(const json_t *before, const json_t *after, const char *path, double seconds)
{
    uint64_t old = before ? svq_json_number(before, path) : 0;
    uint64_t new = svq_json_number(after, path);

    if (!before || new < old || seconds <= 0)
        return 0;
    return (double)(new - old) / seconds;
}

static void rate_row(struct svq_table *table, const json_t *before, const json_t *device,
                     const json_t *queue, double seconds)
{
    char text[SVQ_HUMAN_SIZE];

    svq_table_cell(table, "%s", svq_json_string(queue, "device"));
    svq_table_cell(table, "%" PRIu64, svq_json_number(queue, "index"));
    svq_table_cell(table, "%s", svq_show_queue_state(queue, device));
    svq_table_cell(table, "%s", svq_json_string(queue, "mode"));
    svq_show_formats(table, queue);
    svq_table_cell(table, "%s", svq_human_count(rate(before, queue, "chains", seconds), text));
    svq_table_cell(table, "%s", svq_human_bytes(rate(before, queue, "bytes", seconds), text));
    svq_table_cell(table, "%s", svq_human_count(rate(before, queue, "kicks.guest", seconds), text));
    svq_table_cell(table, "%s",
                   svq_human_count(rate(before, queue, "kicks.backend", seconds), text));
    svq_table_cell(table, "%s",
                   svq_human_count(rate(before, queue, "calls.backend", seconds), text));
    svq_table_cell(table, "%s", svq_human_count(rate(before, queue, "calls.guest", seconds), text));
    svq_table_cell(table, "%" PRIu64, svq_json_number(queue, "in-flight"));
    svq_show_worker(table, queue);
}

/* Devices whose back-end is gone, below the table: one with many queues is still one line. */
static void print_away(const json_t *devices, FILE *out)
{
    const json_t *device;
    size_t i;

    json_array_foreach(devices, i, device) {
        if (!svq_show_link_away(device))
            continue;
        fprintf(out, "%s: back-end ", svq_json_string(device, "id"));
        svq_show_link(device, out);
        fputc('\n', out);
    }
}

static void print_rates(const struct sample *before, const struct sample *after, FILE *out)
{
    static const char *const heads[] = {
        "device",     ">queue",     "state",      "mode",       "rings",
        ">chains/s",  ">bytes/s",   ">kicks/s g", ">kicks/s b", ">calls/s b",
        ">calls/s g", ">in flight", ">worker",    NULL,
    };
    double seconds = after->time - before->time;
    struct svq_table table;
    const json_t *device;
    const json_t *queue;
    bool empty = true;
    size_t i;
    size_t j;

    svq_table_init(&table, heads);
    json_array_foreach(after->devices, i, device) {
        json_array_foreach(svq_json_at(device, "queues"), j, queue) {
            rate_row(&table, same_queue(before->devices, queue), device, queue, seconds);
            empty = false;
        }
    }
    svq_table_print(&table, 0, out);
    svq_table_release(&table);
    if (empty)
        fputs("(no queue yet)\n", out);
    print_away(after->devices, out);
}

/* ---- Screen -------------------------------------------------------------------------------- */

static void draw(const struct sample *before, const struct sample *after)
{
    char *text = NULL;
    size_t size;
    FILE *out = open_memstream(&text, &size);
    char *line;
    char *rest;
    int y = 0;

    if (!out)
        return;
    print_rates(before, after, out);
    if (fclose(out) != 0)
        return;
    erase();
    mvaddstr(y++, 0, "svqctl top: shadowed queues; g: guest, b: back-end; q quits");
    for (line = strtok_r(text, "\n", &rest); line && y + 1 < LINES;
         line = strtok_r(NULL, "\n", &rest)) {
        /* The table's head stands out. */
        if (y == 1)
            attron(A_REVERSE);
        mvaddnstr(++y, 0, line, COLS);
        attroff(A_REVERSE);
    }
    refresh();
    free(text);
}

/* Wait for the next turn. Return: whether to go on. */
static bool pause_screen(double interval)
{
    double end = now() + interval;
    double left;
    int key;

    while ((left = end - now()) > 0) {
        timeout((int)(left * 1000) + 1);
        key = getch();
        if (key == 'q' || key == 'Q')
            return false;
        if (key == KEY_RESIZE)
            break;
    }
    return true;
}

static bool pause_plain(double interval)
{
    struct timespec ts = {.tv_sec = (time_t)interval};

    ts.tv_nsec = (long)((interval - (double)ts.tv_sec) * 1e9);
    fflush(stdout);
    nanosleep(&ts, NULL);
    return true;
}

/* Swap samples as time goes on; `screen` chooses how to show and to wait. */
static enum svqctl_status watch(struct svq_client *client, double interval, unsigned count,
                                bool screen)
{
    struct sample samples[2] = {{0, NULL}, {0, NULL}};
    enum svqctl_status status;
    unsigned shown = 0;
    unsigned turn = 0;

    status = take_sample(client, &samples[0]);
    if (screen && status == SVQCTL_OK)
        draw(&samples[0], &samples[0]);
    while (status == SVQCTL_OK && (count == 0 || shown < count)) {
        struct sample *before = &samples[turn & 1];
        struct sample *after = &samples[~turn & 1];

        if (!(screen ? pause_screen(interval) : pause_plain(interval)))
            break;
        status = take_sample(client, after);
        if (status != SVQCTL_OK)
            break;
        if (screen)
            draw(before, after);
        else
            print_rates(before, after, stdout);
        json_decref(before->devices);
        before->devices = NULL;
        shown++;
        turn++;
    }
    json_decref(samples[0].devices);
    json_decref(samples[1].devices);
    return status;
}

enum svqctl_status svq_top(struct svq_client *client, double interval, unsigned count)
{
    enum svqctl_status status;

    if (!isatty(STDOUT_FILENO) || !isatty(STDIN_FILENO))
        return watch(client, interval, count, false);
    initscr();
    cbreak();
    noecho();
    curs_set(0);
    keypad(stdscr, TRUE);
    status = watch(client, interval, count, true);
    endwin();
    return status;
}
