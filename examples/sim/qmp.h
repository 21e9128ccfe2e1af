/* SPDX-License-Identifier: BSD-3-Clause */
/*
 * A client of QEMU's Machine Protocol: one command at a time, events kept until asked for.
 */
#ifndef SIM_QMP_H
#define SIM_QMP_H

#include <jansson.h>

struct sim_qmp {
    int sock;
    char *buffer; /* received, not yet read */
    size_t length;
    size_t room;
    json_t *events; /* array */
    char error[256];
};

/* All calls: 0 or -errno with qmp->error; -EREMOTEIO is an error that the server answered. */

/* Connect (trying for so long), read the greeting, leave the negotiation mode. */
int sim_qmp_connect(struct sim_qmp *qmp, const char *path, int wait_ms);
void sim_qmp_close(struct sim_qmp *qmp);

/*
 * Run a command. @args: taken over; may be NULL. @result: its "return", a new reference; may be
 * NULL.
 */
int sim_qmp_execute(struct sim_qmp *qmp, const char *command, json_t *args, json_t **result);

/* Wait for an event of this name, or take one that has come already: a new reference. */
int sim_qmp_wait_event(struct sim_qmp *qmp, const char *name, json_t **event);

/* The oldest event of this name that came along with answers, a new reference; NULL: none. */
json_t *sim_qmp_take_event(struct sim_qmp *qmp, const char *name);

#endif
