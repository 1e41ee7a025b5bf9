/* Internal to plan/: memory that values have for as long as they are needed, one after the other.
 */
#ifndef COSTATE_PLACES_H
#define COSTATE_PLACES_H
#include "autodiff/plan/program.h"

/* The values of a run of steps that lie in one memory. Their slots have their lifetimes, in steps
 * from the first of the run; to the number of steps: for good. */
typedef struct {
    int32_t steps[2];
    int64_t rows; /* that every value has */
    bool (*holds)(const ad_program *program, int32_t root);
} ad_region;

/* Memory of the pass. */
typedef struct ad_placer ad_placer;
/* In the pool; NULL: memory is short. */
ad_placer *ad_placer_new(ad_program *program, ad_pool *pool);
/* Gives the values of a region their positions; *bytes grows to what they take. false: that is more
 * than can be addressed. */
bool ad_place_values(ad_placer *placer, const ad_region *region, int64_t *bytes);

#endif
