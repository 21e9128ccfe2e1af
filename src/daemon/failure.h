/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * Why something the user asked for could not be done: one text for all faces. The command line
 * prints text and hint; QMP sends class and text, as QEMU does.
 */
#ifndef SVQ_DAEMON_FAILURE_H
#define SVQ_DAEMON_FAILURE_H

/* QMP's error classes. */
enum svq_failure_class { SVQ_GENERIC_ERROR, SVQ_COMMAND_NOT_FOUND, SVQ_DEVICE_NOT_FOUND };

struct svq_failure {
    enum svq_failure_class class;
    char text[512]; /* what is wrong; valid UTF-8 */
    char hint[256]; /* what to do about it; may be empty */
};

/* The class's name on the wire. */
const char *svq_failure_class_name(enum svq_failure_class class);

/* Set class and text; the hint becomes empty. Return: -EINVAL, so that callers can return it. */
int svq_fail(struct svq_failure *failure, const char *format, ...)
    __attribute__((format(printf, 2, 3)));
int svq_fail_class(struct svq_failure *failure, enum svq_failure_class class, const char *format,
                   ...) __attribute__((format(printf, 3, 4)));

/* Replace the hint; a no-op when there is one already: the deepest caller knows best. */
void svq_fail_hint(struct svq_failure *failure, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

/* Put "where: " in front of the text, for errors found on the way up. */
void svq_fail_where(struct svq_failure *failure, const char *format, ...)
    __attribute__((format(printf, 2, 3)));

#endif
