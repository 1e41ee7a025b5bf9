/* Files that may be packed by gzip (RFC 1952), unpacked by zlib. */
#include "nn/base/file.h"
#include "nn/base/support.h"
#include <stdlib.h>
#include <string.h>

static bool is_gzip(const char *text, size_t size)
{
    return size >= 2 && memcmp(text, "\x1f\x8b", 2) == 0;
}

#ifdef NN_ZLIB
#include <limits.h>
#include <zlib.h>

typedef struct {
    const char *path;
    char *error;
    size_t error_size;
    z_stream z;
    const char *packed; /* the part that zlib has not been given yet */
    size_t left;
    char *text; /* unpacked so far, and room for a NUL */
    size_t size, room;
} unpacking;

static int grow(unpacking *u)
{
    size_t room = u->room ? 2 * u->room : 65536;
    char *text = room > u->room ? realloc(u->text, room) : NULL;
    if (!text)
        return nn_error(u->error, u->error_size, "%s: out of memory after %zu unpacked bytes",
                        u->path, u->size);
    u->text = text;
    u->room = room;
    return 0;
}

/* Where a member ends, another one or the end of the file follows. 1: all has been read. */
static int next_member(unpacking *u)
{
    const char *rest = (const char *)u->z.next_in;
    size_t left = u->z.avail_in + u->left;
    if (left == 0) return 1;
    if (!is_gzip(rest, left))
        return nn_error(u->error, u->error_size, "%s: %zu bytes behind the end of the packed data",
                        u->path, left);
    return inflateReset(&u->z) == Z_OK ? 0 : -1;
}

static int unpack(unpacking *u)
{
    for (;;) {
        if (u->z.avail_in == 0) {
            size_t n = u->left < UINT_MAX ? u->left : UINT_MAX;
            u->z.next_in = (z_const Bytef *)u->packed;
            u->z.avail_in = (uInt)n;
            u->packed += n;
            u->left -= n;
        }
        if (u->size + 1 >= u->room && grow(u)) return -1;
        size_t free_bytes = u->room - 1 - u->size;
        uInt given = free_bytes < UINT_MAX ? (uInt)free_bytes : UINT_MAX;
        u->z.next_out = (Bytef *)u->text + u->size;
        u->z.avail_out = given;
        int result = inflate(&u->z, Z_NO_FLUSH);
        u->size += given - u->z.avail_out;
        if (result == Z_STREAM_END) {
            result = next_member(u);
            if (result) return result < 0 ? -1 : 0;
        } else if (result == Z_BUF_ERROR && u->z.avail_out > 0) {
            return nn_error(u->error, u->error_size,
                            "%s: the packed data end early, after %zu unpacked bytes; truncated",
                            u->path, u->size);
        } else if (result != Z_OK && result != Z_BUF_ERROR) {
            return nn_error(u->error, u->error_size,
                            "%s: the packed data are damaged behind %zu unpacked bytes: %s",
                            u->path, u->size, u->z.msg ? u->z.msg : zError(result));
        }
    }
}

static char *unpack_gzip(const char *path, const char *packed, size_t *size, char *error,
                         size_t error_size)
{
    enum { GZIP = 16 + MAX_WBITS }; /* zlib's code for this format and no other */
    unpacking u = {
        .path = path, .error = error, .error_size = error_size, .packed = packed, .left = *size
    };
    int result = inflateInit2(&u.z, GZIP) == Z_OK ? 0 : -1;
    if (result) nn_error(error, error_size, "%s: out of memory", path);
    else result = unpack(&u);
    inflateEnd(&u.z);
    if (result) {
        free(u.text);
        return NULL;
    }
    u.text[u.size] = 0;
    *size = u.size;
    return u.text;
}
#else
static char *unpack_gzip(const char *path, const char *packed, size_t *size, char *error,
                         size_t error_size)
{
    (void)packed, (void)size;
    nn_error(error, error_size,
             "%s: packed by gzip, which this build of costate cannot read: install zlib (Debian: "
             "zlib1g-dev) and build again, or unpack the file with gunzip",
             path);
    return NULL;
}
#endif

char *nn_read_unpacked(const char *path, size_t *size, char *error, size_t error_size)
{
    char *text = nn_read_file(path, size, error, error_size);
    if (!text || !is_gzip(text, *size)) return text;
    char *unpacked = unpack_gzip(path, text, size, error, error_size);
    free(text);
    return unpacked;
}
