/* SPDX-License-Identifier: BSD-3-Clause */
/* A temporary folder for the sockets and logs of a run. */
#ifndef SIM_FOLDER_H
#define SIM_FOLDER_H

/* Sockets are in it, and their paths are short. */
#define SIM_FOLDER_MAX 64

/* Make one, in TMPDIR if that is not too long. Return: 0, or -errno with an empty path. */
int sim_folder_make(char path[SIM_FOLDER_MAX], const char *name);
/* Remove it and all files in it; nothing happens if the path is empty. */
void sim_folder_remove(const char *path);

#endif
