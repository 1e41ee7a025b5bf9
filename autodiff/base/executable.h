/* Internal: memory for machine code that is made at run time. It is written first and executable
 * then, never both at once. */
#ifndef COSTATE_BASE_EXECUTABLE_H
#define COSTATE_BASE_EXECUTABLE_H
#include <stdbool.h>
#include <stddef.h>

/* Makes the pages of these bytes executable and no longer writable; where they are that already,
 * nothing changes. false: the system lets no memory become executable (systemd's
 * MemoryDenyWriteExecute, prctl(PR_SET_MDWE), SELinux). */
bool ad_executable_allow(const void *at, size_t bytes);
/* A copy of machine code that can be run; NULL where the system does not let it, or memory is
 * short. */
void *ad_executable_new(const void *code, size_t bytes);
void ad_executable_free(void *code, size_t bytes);

#endif
