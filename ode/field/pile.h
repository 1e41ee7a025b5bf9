/* Internal: piles, memory for what grows step by step. */
#ifndef ODE_PILE_H
#define ODE_PILE_H
#include <stddef.h>
#include <stdint.h>

/* Slots of equal size whose addresses stay, each at the beginning of a cache line. */
typedef struct {
    char **slab;
    int64_t count, capacity;
    size_t bytes, slot; /* of a slab, of a slot */
    size_t stride;      /* from slot to slot */
    int64_t per_slab;   /* slots */
} ode_pile;
/* Divides the slabs into slots of another size; forgets them when they are too small for one. */
void ode_pile_reset(ode_pile *pile, size_t slot);
void ode_pile_trim(ode_pile *pile, int64_t slots); /* gives back the memory beyond so many slots */
void *ode_pile_slot(ode_pile *pile, int64_t k);    /* NULL: out of memory */
void ode_pile_free(ode_pile *pile);
/* What an empty one holds once it has been asked for so many slots. */
int64_t ode_pile_bytes(size_t slot, int64_t slots);

#endif
