/* Internal to nn/: different names and their numbers. */
#ifndef COSTATE_NN_NAMES_H
#define COSTATE_NN_NAMES_H
#include <stdint.h>

/* Different names, numbered as they were added; {0} is empty. */
typedef struct {
    int64_t count;
    char **name;
    int64_t places; /* a power of two, or 0 */
    int64_t *place; /* [places] hash table: number of the name plus 1, or 0 */
} nn_names;
int64_t nn_names_find(const nn_names *names, const char *name); /* its number, or -1 */
int64_t nn_names_add(nn_names *names,
                     const char *name); /* its number, new or not; -1 when memory is short */
void nn_names_clear(nn_names *names);

#endif
