/* SPDX-License-Identifier: BSD-3-Clause */
/* Names for feature bits. */
#ifndef SVQCTL_FEATURE_NAMES_H
#define SVQCTL_FEATURE_NAMES_H

#include <stdint.h>
#include <stdio.h>

/* Names of the ring's and transport's bits; the device type's own bits are printed as one number.
 */
void svq_features_print(uint64_t word, FILE *out);
/* The same for vhost-user protocol features. */
void svq_protocol_features_print(uint64_t word, FILE *out);

#endif
