/* Files that are read whole, and files that are written whole or not at all. */
#include "nn/base/file.h"
#include "nn/base/support.h"
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <libgen.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

FILE *nn_file_read(const char *path, size_t *size, char *error, size_t error_size)
{
    /* Not to be kept waiting by a pipe that nobody writes to. */
    int descriptor = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    FILE *stream = descriptor < 0 ? NULL : fdopen(descriptor, "rb");
    struct stat status;
    if (!stream || fstat(descriptor, &status) != 0)
        nn_error(error, error_size, "%s: %s", path, strerror(errno));
    else if (!S_ISREG(status.st_mode)) nn_error(error, error_size, "%s: not a regular file", path);
    else if ((uintmax_t)status.st_size >= SIZE_MAX)
        nn_error(error, error_size, "%s: %lld bytes are more than memory has", path,
                 (long long)status.st_size);
    else {
        *size = (size_t)status.st_size;
        return stream;
    }
    if (stream) fclose(stream);
    else if (descriptor >= 0) close(descriptor);
    return NULL;
}

char *nn_read_file(const char *path, size_t *size, char *error, size_t error_size)
{
    FILE *stream = nn_file_read(path, size, error, error_size);
    if (!stream) return NULL;
    char *text = malloc(*size + 1);
    if (!text) nn_error(error, error_size, "%s: out of memory for %zu bytes", path, *size);
    if (text) *size = fread(text, 1, *size, stream);
    if (text && ferror(stream)) {
        nn_error(error, error_size, "%s: %s", path, strerror(errno));
        free(text);
        text = NULL;
    }
    fclose(stream);
    if (text) text[*size] = 0;
    return text;
}

/* Whether a name is that of a temporary file for `base`, of a process that is no more. */
static bool is_left(const char *name, const char *base)
{
    size_t length = strlen(base);
    if (strncmp(name, base, length) || strncmp(name + length, ".tmp-", 5)) return false;
    char *end, *last;
    errno = 0;
    long process = strtol(name + length + 5, &end, 10);
    if (errno || end == name + length + 5 || *end != '-' || process < 1) return false;
    strtol(end + 1, &last, 10);
    if (last == end + 1 || *last) return false;
    return kill((pid_t)process, 0) != 0 && errno == ESRCH;
}

/* A process that is killed while it writes leaves its temporary file; the next one that writes the
 * same file takes it away. */
static void remove_left(const char *path)
{
    char *for_directory = strdup(path), *for_base = strdup(path);
    DIR *directory = for_directory && for_base ? opendir(dirname(for_directory)) : NULL;
    const char *base = for_base ? basename(for_base) : NULL;
    struct dirent *entry;
    while (directory && (entry = readdir(directory)))
        if (is_left(entry->d_name, base)) unlinkat(dirfd(directory), entry->d_name, 0);
    if (directory) closedir(directory);
    free(for_directory);
    free(for_base);
}

/* A name beside the file (renaming works within one file system only) that nothing else has; the
 * mode follows the umask, as fopen's. */
static int open_temporary(nn_file *file)
{
    size_t room = strlen(file->path) + 48;
    remove_left(file->path);
    file->temporary = malloc(room);
    if (!file->temporary) return -1;
    for (int attempt = 0; attempt < 1000; attempt++) {
        snprintf(file->temporary, room, "%s.tmp-%ld-%d", file->path, (long)getpid(), attempt);
        int descriptor = open(file->temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
        if (descriptor >= 0) return descriptor;
        if (errno != EEXIST) break;
    }
    free(file->temporary);
    file->temporary = NULL;
    return -1;
}

int nn_file_open(nn_file *file, const char *path, char *error, size_t error_size)
{
    *file = (nn_file){ NULL, NULL, NULL };
    if (!path || !*path) return nn_error(error, error_size, "a file name is missing");
    struct stat status;
    /* Renaming onto a device or a directory would replace it or fail late. Through a symbolic link,
     * the file behind it is replaced. */
    if (stat(path, &status) == 0) {
        if (!S_ISREG(status.st_mode))
            return nn_error(error, error_size, "%s: not a regular file", path);
        file->path = realpath(path, NULL);
    } else {
        file->path = strdup(path);
    }
    int descriptor = file->path ? open_temporary(file) : -1;
    if (descriptor >= 0) file->stream = fdopen(descriptor, "wb");
    if (file->stream) return 0;
    nn_error(error, error_size, "%s: cannot be written: %s", path, strerror(errno));
    if (descriptor >= 0) close(descriptor);
    nn_file_discard(file);
    return -1;
}

void nn_file_discard(nn_file *file)
{
    if (file->stream) fclose(file->stream);
    if (file->temporary) {
        unlink(file->temporary);
        free(file->temporary);
    }
    free(file->path);
    *file = (nn_file){ NULL, NULL, NULL };
}

/* So that the new name outlives a power failure. Not every file system can do it, and the file is
 * whole either way. */
static void sync_directory(char *path)
{
    int descriptor = open(dirname(path), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (descriptor < 0) return;
    fsync(descriptor);
    close(descriptor);
}

int nn_file_commit(nn_file *file, char *error, size_t error_size)
{
    bool written =
        fflush(file->stream) == 0 && !ferror(file->stream) && fsync(fileno(file->stream)) == 0;
    int reason = errno;
    if (fclose(file->stream) != 0 && written) {
        written = false;
        reason = errno;
    }
    file->stream = NULL;
    if (written && rename(file->temporary, file->path) != 0) {
        written = false;
        reason = errno;
    }
    if (!written) {
        nn_error(error, error_size, "%s: cannot be written: %s", file->path, strerror(reason));
    } else {
        free(file->temporary);
        file->temporary = NULL;
        sync_directory(file->path);
    }
    nn_file_discard(file);
    return written ? 0 : -1;
}
