/* Internal: convolutions 3x3 with a stride of 1 by tiles (winograd.c), a form that
 * kernels/convolution.c may choose. */
#ifndef COSTATE_WINOGRAD_H
#define COSTATE_WINOGRAD_H
#include "autodiff/kernels/gemm.h"

typedef struct {
    int64_t size[2], channels;
} ad_image;

typedef struct {
    /* Given to ad_winograd_prepare. before: zeros before x. */
    ad_face face;
    ad_dtype dtype;
    ad_image x, y;
    int64_t before[2];
    /* Its own. */
    const ad_loops *loops;
    size_t size;      /* of an element */
    int64_t tiles[2]; /* of an image */
    int64_t batch;    /* tiles at a time */
    ad_gemm product;
} ad_winograd;

/* Whether it is faster than `direct` multiplications of an image. */
bool ad_winograd_pays(const ad_winograd *p, double direct);
void ad_winograd_prepare(ad_winograd *p);
size_t ad_winograd_scratch(const ad_winograd *p);
/* Of x, w [3,3,Cin,Cout] and y, that of the face is written, or added to where it is w and `add`.
 */
void ad_winograd_run(const ad_winograd *p, int64_t images, bool add, char *x, char *w, char *y,
                     char *scratch);

#endif
