/* Internal to nn/: files that are written whole or not at all. */
#ifndef COSTATE_NN_FILE_H
#define COSTATE_NN_FILE_H
#include <stddef.h>
#include <stdio.h>

/* A regular file to be read, and its size; NULL with the message in error. */
FILE *nn_file_read(const char *path, size_t *size, char *error, size_t error_size);
/* The whole of a regular file, with a NUL behind it; caller frees. NULL with the message in error.
 */
char *nn_read_file(const char *path, size_t *size, char *error, size_t error_size);
/* The same, unpacked where the file is one of gzip. */
char *nn_read_unpacked(const char *path, size_t *size, char *error, size_t error_size);

/* A file in the making. It appears under its path, complete and on disk, only in nn_file_commit;
 * nn_file_discard leaves nothing behind. */
typedef struct {
    FILE *stream;
    char *path, *temporary;
} nn_file;
int nn_file_open(nn_file *file, const char *path, char *error, size_t error_size);
int nn_file_commit(nn_file *file, char *error, size_t error_size);
void nn_file_discard(nn_file *file);

#endif
