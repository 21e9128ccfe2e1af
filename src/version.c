/* SPDX-License-Identifier: BSD-3-Clause */
#include <shadowvq/version.h>

const char *svq_version(void)
{
    return SVQ_VERSION;
}
