/* SPDX-License-Identifier: BSD-3-Clause */
#include "daemon/addresses.h"

#include <stdbool.h>
#include <stddef.h>
#include <string.h>

#include "backend/backend.h"
#include "frontend/frontend.h"

/* The path that both addresses would be bound to, or NULL. */
static const char *shared(const char *frontend, const char *backend)
{
    const char *front = svq_frontend_listens(frontend);
    const char *back = svq_backend_listens(backend);

    return front && back && strcmp(front, back) == 0 ? front : NULL;
}

int svq_addresses_check(const struct svq_device_config *config, struct svq_failure *failure)
{
    const char *path = shared(config->frontend, config->backend);

    if (path)
        return svq_fail(failure,
                        "Device '%s' cannot listen on '%s' for its front-end and for its back-end",
                        config->id, path);
    return 0;
}

int svq_addresses_compare(const struct svq_device_config *other,
                          const struct svq_device_config *added, struct svq_failure *failure)
{
    const char *back = svq_backend_listens(added->backend);
    const char *mixed = shared(other->frontend, added->backend);

    if (!mixed)
        mixed = shared(added->frontend, other->backend);
    /* This includes two that would connect to one front-end. */
    if (svq_frontend_same(other->frontend, added->frontend))
        return svq_fail(failure, "Devices '%s' and '%s' cannot share the front-end socket '%s'",
                        other->id, added->id, added->frontend);
    if (back && strcmp(other->backend, added->backend) == 0)
        return svq_fail(failure, "Devices '%s' and '%s' cannot share the back-end socket '%s'",
                        other->id, added->id, back);
    if (mixed)
        return svq_fail(failure,
                        "Devices '%s' and '%s' cannot share the socket '%s', one for its "
                        "front-end, the other for its back-end",
                        other->id, added->id, mixed);
    return 0;
}
