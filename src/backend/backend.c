/* SPDX-License-Identifier: BSD-3-Clause */
#include "backend/backend.h"
#include "backend/dial.h"

#include <stddef.h>
#include <string.h>

#define VHOST_USER "vhost-user:"

/* What comes after the scheme; NULL: another scheme. */
static const char *where_of(const char *address)
{
    size_t len = strlen(VHOST_USER);

    return address && !strncmp(address, VHOST_USER, len) ? address + len : NULL;
}

const char *svq_backend_check(const char *address)
{
    const char *where = where_of(address);

    if (!where)
        return "a device needs backend=vhost-user:PATH or backend=vhost-user:listen:PATH";
    return svq_dial_check(where);
}

const char *svq_backend_listens(const char *address)
{
    const char *where = where_of(address);

    return where ? svq_dial_listens(where) : NULL;
}

int svq_backend_new(const char *address, struct svq_backend **out)
{
    return svq_backend_vhost_user_new(where_of(address), out);
}
