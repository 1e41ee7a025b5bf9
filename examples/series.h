/* Labelled time series: the text files of the UEA archive, and series that are made up. */
#ifndef SERIES_H
#define SERIES_H
#include <stdint.h>

/* Series of several channels, filled up to one length with their last values. */
typedef struct {
    int64_t count, length, channels, classes;
    double *x;         /* [count,length,channels] */
    double *class_;    /* [count] */
    char name[16][64]; /* of the classes */
} series;

/* Reads a file as the archive has them (Bagnall et al. 2018, arXiv:1811.00075). length: at least
 * so many observations a series; 0: as the longest. 0, or -1 after explaining. */
int series_read(const char *path, int64_t length, series *s);
/* A stand-in: three channels of a moving body that walks, runs or jumps. */
int series_make(uint64_t seed, int64_t count, int64_t length, series *s);
void series_free(series *s);
#endif
