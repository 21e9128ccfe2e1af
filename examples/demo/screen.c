/* SPDX-License-Identifier: BSD-3-Clause */
#include "screen.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NAME_WIDTH 14

struct demo_colours demo_colours = {"", "", "", "", ""};

static bool terminal;
static unsigned steps;
static const char *step_name = "";
static bool named; /* the step's name has been printed on a line that stays */

void demo_screen_init(void)
{
    const char *term = getenv("TERM");

    terminal = isatty(STDOUT_FILENO) && term && strcmp(term, "dumb") != 0;
    if (terminal && !getenv("NO_COLOR"))
        demo_colours =
            (struct demo_colours){"\033[1m", "\033[2m", "\033[32m", "\033[31m", "\033[0m"};
    setvbuf(stdout, NULL, _IOLBF, 0);
}

static void clear_live(void)
{
    if (terminal)
        fputs("\r\033[K", stdout);
}

static void print_name(bool show)
{
    if (show)
        printf("%s%2u  %-*s%s ", demo_colours.bold, steps, NAME_WIDTH, step_name, demo_colours.off);
    else
        printf("    %-*s ", NAME_WIDTH, "");
}

void demo_line(const char *format, ...)
{
    va_list args;

    clear_live();
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}

void demo_step(const char *name)
{
    steps++;
    step_name = name;
    named = false;
    demo_live("...");
}

void demo_live(const char *format, ...)
{
    va_list args;

    if (!terminal)
        return;
    clear_live();
    print_name(!named);
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    fflush(stdout);
}

void demo_note(const char *format, ...)
{
    va_list args;

    clear_live();
    print_name(!named);
    named = true;
    va_start(args, format);
    vprintf(format, args);
    va_end(args);
    putchar('\n');
    fflush(stdout);
}
