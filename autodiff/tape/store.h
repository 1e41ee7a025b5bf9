/* Internal to tape/: what a tape is made of. */
#ifndef COSTATE_STORE_H
#define COSTATE_STORE_H
#include "autodiff/tape/tape.h"

enum {
    AD_ERROR_SIZE = 1024, /* bytes of a message */
    AD_ABOUT_MOST = 4     /* nodes that a message is about */
};

/* Arena positions are global offsets: slab k holds [base[k], base[k] + size[k]). */
typedef struct {
    char *bytes;
    size_t base, size;
} ad_arena_slab;

typedef struct ad_cache_entry ad_cache_entry; /* cache.c */

struct ad_tape {
    ad_dtype dtype;
    uint32_t epoch; /* counts rewinds */
    /* Nodes, in slabs, so that their addresses stay (nodes.c). */
    int32_t nnode, limit;
    int32_t slab_count, slab_capacity;
    ad_node **slabs;
    int32_t valued; /* the first of the computed nodes that hold a value, as a number + 1 */
    char *marks;
    size_t mark_count;
    /* Operand lists, attributes, constants (nodes.c). */
    int arena_count, arena_capacity;
    int arena_at; /* the slab that holds the end of what is used */
    ad_arena_slab *arena;
    size_t arena_used;
    /* Evaluation. */
    int64_t rows, given_rows; /* given: by ad_tape_set_rows, or -1 */
    int refine;
    int64_t memory;     /* the limit that was given for computed values and solves; 0: none */
    int64_t most;       /* the most bytes of computed values */
    int64_t computed;   /* bytes of computed values */
    int32_t inner;      /* nodes from here on are inner (ad_is_inner) */
    int held;           /* evaluations under way */
    int32_t held_nodes; /* how many nodes there were when the first of them began */
    char *advice;       /* of ad_tape_set_traced */
    /* Programs and other objects (cache.c). */
    ad_cache_entry *cache; /* the one used last comes first */
    int cached;
    /* The first error (error.c). */
    void (*on_error)(const char *text, void *user);
    void *on_error_user;
    int nabout;
    int32_t about[AD_ABOUT_MOST];
    bool failed;
    char error[AD_ERROR_SIZE];
};

/* ---- nodes.c: storage; nothing here sets an error ---------------------------------------------
 */

/* 16-byte aligned; NULL: memory is short. */
void *ad_arena_take(ad_tape *tape, size_t bytes);
/* Room for one more node; NULL: memory is short. */
ad_node *ad_node_room(ad_tape *tape);
/* Frees what the node holds outside the arena. */
void ad_node_forget(ad_tape *tape, ad_node *node);
/* Takes nodes from `first` on away, the last first. */
void ad_nodes_drop(ad_tape *tape, int32_t first);
void ad_nodes_free(ad_tape *tape);
/* Forgets all computed values. Those with rows are freed: there may be another number of them. What
 * is forgotten already is not looked at again, however long the tape is. */
void ad_tape_forget_values(ad_tape *tape);

/* ---- cache.c ----------------------------------------------------------------------------------
 */

void ad_cache_free(ad_tape *tape);

#endif
