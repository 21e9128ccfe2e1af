/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * What the demo shows: steps, each with a line that changes while it runs if somebody is watching,
 * and lines that stay.
 */
#ifndef DEMO_SCREEN_H
#define DEMO_SCREEN_H

#include <stdbool.h>

/* Colours, as printf arguments; empty strings where there is no terminal. */
struct demo_colours {
    const char *bold;
    const char *dim;
    const char *good;
    const char *bad;
    const char *off;
};

extern struct demo_colours demo_colours;

void demo_screen_init(void);

/* A line that stays. */
void demo_line(const char *format, ...) __attribute__((format(printf, 1, 2)));

/* A step begins: its name stands before its live line. */
void demo_step(const char *name);
/* The step's live line, for terminals only. */
void demo_live(const char *format, ...) __attribute__((format(printf, 1, 2)));
/* A line of the step that stays. */
void demo_note(const char *format, ...) __attribute__((format(printf, 1, 2)));

#endif
