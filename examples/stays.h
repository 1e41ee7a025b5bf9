/* Stays in intensive care: 41 quantities that are measured at irregular times (PhysioNet/CinC
 * Challenge 2012, Silva et al. 2012), and stays that are made up. */
#ifndef STAYS_H
#define STAYS_H
#include <stdbool.h>
#include <stdint.h>

enum { STAY_QUANTITIES = 41, STAY_HOURS = 48 };
extern const char *const stay_quantity[STAY_QUANTITIES];

/* The visits of a stay are the times at which anything is measured; rows have as many places as
 * the longest one has visits, and those beyond a stay's own are zero. */
typedef struct {
    int64_t count, visits;
    float *x;      /* [count,visits,STAY_QUANTITIES], each quantity from 0 to 1; 0: not measured */
    float *mask;   /* [count,visits,STAY_QUANTITIES]: 1 where it is measured, else 0 */
    float *gap;    /* [count,visits,1]: time since the visit before, 48 hours being 1 */
    float *length; /* [count,1]: visits */
    float *died;   /* [count,1]: 1 or 0 */
} stays;

/* Reads FOLDER/set-a/NUMBER.txt for all numbers in FOLDER/Outcomes-a.txt; the seed chooses the
 * order of the stays. As in Rubanova et al.
 * 2019 (arXiv:1907.03907) and the authors' program: times are rounded to 0.1 hours, values at equal
 * times averaged, the 4 quantities that do not change are measured at time 0 (-1, which stands for
 * unknown, is a value as any other), and quantities go from their least to their largest value in
 * all stays. false after explaining. */
bool stays_read(const char *folder, uint64_t seed, stays *s);
/* A stand-in: quantities that follow the state of a patient, which drifts to health or death. */
bool stays_make(uint64_t seed, int64_t count, stays *s);
void stays_free(stays *s);
/* The stays from .. to - 1, in the memory of s. */
stays stays_part(const stays *s, int64_t from, int64_t to);
#endif
