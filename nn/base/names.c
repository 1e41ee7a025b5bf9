/* Lists of different names, found by a hash table: parameters of a model, classes of a column. */
#include "nn/base/names.h"
#include <stdlib.h>
#include <string.h>

/* FNV-1a (Fowler, Noll, Vo). */
static uint64_t hash_of(const char *name)
{
    uint64_t hash = 0xcbf29ce484222325u;
    for (; *name; name++) hash = (hash ^ (unsigned char)*name) * 0x100000001b3u;
    return hash;
}

/* The place of a name in the table: its own, or the free one where it belongs. */
static int64_t *place_of(const nn_names *names, const char *name)
{
    uint64_t mask = (uint64_t)names->places - 1;
    for (uint64_t k = hash_of(name) & mask;; k = (k + 1) & mask) {
        int64_t *place = &names->place[k];
        if (*place == 0 || strcmp(names->name[*place - 1], name) == 0) return place;
    }
}

int64_t nn_names_find(const nn_names *names, const char *name)
{
    return names->places && name ? *place_of(names, name) - 1 : -1;
}

/* Room for one more name in the list, and in a table at most half full. */
static int reserve(nn_names *names)
{
    if (2 * names->count < names->places) return 0;
    int64_t places = names->places ? 2 * names->places : 32;
    char **grown = realloc(names->name, (size_t)places / 2 * sizeof *grown);
    if (!grown) return -1;
    names->name = grown;
    int64_t *place = calloc((size_t)places, sizeof *place);
    if (!place) return -1;
    free(names->place);
    names->place = place;
    names->places = places;
    for (int64_t i = 0; i < names->count; i++) *place_of(names, grown[i]) = i + 1;
    return 0;
}

int64_t nn_names_add(nn_names *names, const char *name)
{
    int64_t known = nn_names_find(names, name);
    if (known >= 0) return known;
    char *copy = strdup(name);
    if (!copy || reserve(names)) {
        free(copy);
        return -1;
    }
    *place_of(names, copy) = names->count + 1;
    names->name[names->count] = copy;
    return names->count++;
}

void nn_names_clear(nn_names *names)
{
    for (int64_t i = 0; i < names->count; i++) free(names->name[i]);
    free(names->name);
    free(names->place);
    *names = (nn_names){ 0 };
}
