/* Objects that stay with a tape, by key: compiled programs above all. */
#include "autodiff/tape/store.h"
#include <stdlib.h>
#include <string.h>

enum { CACHED = 128 /* objects; a solve's programs take 100 to 400 kB */ };

struct ad_cache_entry {
    ad_cache_entry *next;
    void *object;
    void (*release)(void *);
    uint64_t hash;
    size_t length;
    unsigned char key[];
};

static uint64_t hash_of(const unsigned char *key, size_t length)
{
    uint64_t h = length;
    for (; length >= 8; key += 8, length -= 8) {
        uint64_t word;
        memcpy(&word, key, sizeof word);
        h = (h ^ word) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    for (; length; key++, length--) h = (h ^ *key) * 0x9e3779b97f4a7c15u;
    return h;
}

void *ad_cache_find(ad_tape *t, const void *key, size_t length)
{
    if (!t || !key) return NULL;
    uint64_t hash = hash_of(key, length);
    for (ad_cache_entry **at = &t->cache; *at; at = &(*at)->next) {
        ad_cache_entry *e = *at;
        if (e->hash != hash || e->length != length || memcmp(e->key, key, length)) continue;
        *at = e->next;
        e->next = t->cache;
        t->cache = e;
        return e->object;
    }
    return NULL;
}

/* Drops the entry that was not used for the longest time. */
static void drop_oldest(ad_tape *t)
{
    ad_cache_entry **at = &t->cache;
    while ((*at)->next) at = &(*at)->next;
    ad_cache_entry *oldest = *at;
    *at = NULL;
    t->cached--;
    if (oldest->release) oldest->release(oldest->object);
    free(oldest);
}

void ad_cache_add(ad_tape *t, const void *key, size_t length, void *object, void (*release)(void *))
{
    ad_cache_entry *e = t && key ? malloc(sizeof *e + length) : NULL;
    if (!e) {
        if (release) release(object);
        if (key) ad_fail(t, "out of memory in the tape's cache");
        else ad_fail(t, "ad_cache_add: the key is NULL");
        return;
    }
    if (t->cached == CACHED) drop_oldest(t);
    *e = (ad_cache_entry){ .next = t->cache,
                           .object = object,
                           .release = release,
                           .hash = hash_of(key, length),
                           .length = length };
    memcpy(e->key, key, length);
    t->cache = e;
    t->cached++;
}

void ad_cache_free(ad_tape *t)
{
    while (t->cache) {
        ad_cache_entry *e = t->cache;
        t->cache = e->next;
        if (e->release) e->release(e->object);
        free(e);
    }
}
