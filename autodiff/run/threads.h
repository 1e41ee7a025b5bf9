/* Internal: work shared out to threads. */
#ifndef COSTATE_THREADS_H
#define COSTATE_THREADS_H
#include <stdbool.h>
#include <stdint.h>

enum { AD_MAX_THREADS = 256 };

/* How many threads to use when nobody says: as OpenMP has it in a program that uses OpenMP, else
 * the first number in OMP_NUM_THREADS, else as many as there are processors for this process. */
int ad_threads_default(void);
/* Whether the caller is one of several in a parallel region of OpenMP, each of which should then
 * work alone. */
bool ad_threads_in_team(void);

/* Of so many threads, those that are worth the trouble for so much work, in bytes that are written
 * or what takes as long; at least 1. */
int ad_threads_worth(int threads, double work);
/* Part number `part` of some work, done by a thread whose number is less than the number of threads
 * asked for. */
typedef void (*ad_part)(void *data, int thread, int64_t part);
/* Does parts 0 to parts - 1 of so much work, once each, on at most `threads` threads, and on fewer
 * where there is not enough work for them; returns when all is done. Thread 0 is the caller; no two
 * threads at a time have the same number. Which thread does which part is left to chance. Does not
 * fail: where threads cannot be had, the others do the work. */
void ad_threads_share(int threads, double work, int64_t parts, ad_part part, void *data);

#endif
