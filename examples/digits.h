/* Pictures of handwritten digits: read from files, or, where there are none, drawn. */
#ifndef DIGITS_H
#define DIGITS_H
#include "nn/nn.h"

enum { DIGITS = 10 };

typedef struct {
    int64_t n, pixels;
    int side, levels; /* pixels = side * side; a grey is a whole number 0 (paper) .. levels - 1 */
    double *grey;     /* [n,pixels], row by row from the top */
    double *digit;    /* [n,1], 0 .. 9 */
} digit_set;

/* Reads the data set that the directory has, and prints which one it is. Files of
 * - optdigits (UCI, Alpaydin & Kaynak 1998; 8x8, 17 greys): optdigits.tra, optdigits.tes;
 * - MNIST (LeCun et al. 1998; 28x28, 256 greys): train-images-idx3-ubyte, train-labels-idx1-ubyte,
 *   t10k-images-idx3-ubyte, t10k-labels-idx1-ubyte; with .gz where costate was built with zlib.
 * false after explaining. */
bool digits_read(const char *directory, digit_set *train, digit_set *test);

/* n digits drawn as strokes with random bends, maps and thickness on a field of 32x32, whose blocks
 * count their ink: blocks of 4 (8x8 greys 0 .. 16) make the format of optdigits. block divides 32.
 * Digit i is a (i mod 10). false when memory is short. */
bool digits_draw(ad_rng *rng, int64_t n, int block, digit_set *set);

/* out [pixels]: a digit of the set moved, turned, slanted and scaled at random; 1 is a moderate
 * measure, 0 none. Greys between pixels are interpolated. */
void digits_bend(const digit_set *set, ad_rng *rng, double much, const double *grey, double *out);

void digits_clear(digit_set *set);
#endif
