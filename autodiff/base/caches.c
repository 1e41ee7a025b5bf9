/* The sizes of caches. The system is asked once: it asks the processor, which in a virtual machine
 * takes as long as compiling a small program. */
#include "autodiff/base/caches.h"
#include <stdatomic.h>
#include <stdlib.h>
#include <unistd.h>

/* Beyond these, it is not a core's own cache that is meant, or not true. */
enum { USUAL = 1 << 20, LEAST = 128 << 10, MOST = 4 << 20 };

static int64_t ask(void)
{
#ifdef _SC_LEVEL2_CACHE_SIZE
    const long bytes = sysconf(_SC_LEVEL2_CACHE_SIZE);
    if (bytes > 0) return bytes < LEAST ? LEAST : bytes > MOST ? MOST : bytes;
#endif
    return USUAL;
}

int64_t ad_cache_bytes(void)
{
    static _Atomic int64_t known;
    const char *said = getenv("COSTATE_CACHE");
    const long long wanted = said ? strtoll(said, NULL, 10) : 0;
    if (wanted > 0) return wanted;
    int64_t bytes = atomic_load(&known);
    if (!bytes) atomic_store(&known, bytes = ask());
    return bytes;
}
