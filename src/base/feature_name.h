/* SPDX-License-Identifier: BSD-3-Clause */
/* One name for each ring and transport feature, for logs, QMP and svqctl: virtio's own, in lower
 * case and without the prefix VIRTIO_F_ or VIRTIO_RING_F_. */
#ifndef SVQ_BASE_FEATURE_NAME_H
#define SVQ_BASE_FEATURE_NAME_H

#define SVQ_FEATURE_NAMED_FIRST 24u
#define SVQ_FEATURE_NAMED_LAST  41u

/* Static; NULL for the bits that belong to the device type. */
const char *svq_feature_name(unsigned bit);

#endif
