/* Tables of numbers whose density is learned: read, made up, divided. */
#ifndef TABLES_H
#define TABLES_H
#include "costate.h"
#include <stdbool.h>
#include <stdint.h>

enum { FOLDS = 10 };

typedef struct {
    int64_t n, d;
    double *rows; /* [n,d] */
    double truth; /* the mean log-density of these rows where it is known; else NaN */
} table;

/* Standardised rows: held out, for the choice of weights, for training. */
enum { TEST, CHOICE, TRAIN, PARTS };
typedef struct {
    int64_t d, n[PARTS];
    double *rows[PARTS]; /* [n,d] each; rows[CHOICE] is followed by rows[TRAIN] in one array */
    double log_scale;    /* sum of the logarithms of the scales */
} split;

/* Red wine (name "wine") or MAGIC from UCI's files in the folder. false after explaining. */
bool table_read(const char *folder, const char *name, table *t);
/* A stand-in: x_0 = z_0, x_k = sin(1.5 x_(k-1)) + 0.5 z_k with normal z: curved, and its density is
 * known. false: out of memory. */
bool table_make(ad_rng *rng, table *t);
void table_shuffle(ad_rng *rng, table *t);
/* Of a fold: row i of the shuffled table is held out in fold i mod 10. All parts are in one array,
 * rows[TEST]. false: out of memory. */
bool table_split(const table *t, int64_t fold, split *s);
#endif
