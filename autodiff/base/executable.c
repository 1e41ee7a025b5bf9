/* Memory for machine code. */
#include "autodiff/base/executable.h"
#include <stdint.h>
#include <string.h>

#if defined __unix__ || defined __APPLE__
#include <sys/mman.h>
#include <unistd.h>

bool ad_executable_allow(const void *at, size_t bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE);
    uintptr_t begin = (uintptr_t)at / page * page;
    return mprotect((void *)begin, (uintptr_t)at + bytes - begin, PROT_READ | PROT_EXEC) == 0;
}

void *ad_executable_new(const void *code, size_t bytes)
{
    void *to = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (to == MAP_FAILED) return NULL;
    memcpy(to, code, bytes);
    if (ad_executable_allow(to, bytes)) return to;
    munmap(to, bytes);
    return NULL;
}

void ad_executable_free(void *code, size_t bytes)
{
    if (code) munmap(code, bytes);
}
#else
bool ad_executable_allow(const void *at, size_t bytes)
{
    (void)at, (void)bytes;
    return false;
}

void *ad_executable_new(const void *code, size_t bytes)
{
    (void)code, (void)bytes;
    return NULL;
}

void ad_executable_free(void *code, size_t bytes) { (void)code, (void)bytes; }
#endif
