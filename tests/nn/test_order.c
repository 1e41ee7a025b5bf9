/* The order of an epoch: Fisher and Yates by words of 32 bits, written down a second time here, so
 * that no later version gives a training other batches. */
#include "nn/nn.h"
#include "tests/support.h"
#include <stdlib.h>
#include <string.h>

enum { BATCH = 64, EPOCHS = 3, MOST = 5000 };

typedef struct {
    int64_t n, seen[EPOCHS * MOST];
} record;

static int note(const nn_step *step, double *const *out, void *user)
{
    record *r = user;
    out[1][0] = 1;
    if (step->part != NN_TRAINING) return 0;
    memcpy(r->seen + r->n, step->examples, (size_t)step->rows * sizeof *r->seen);
    r->n += step->rows;
    return 0;
}

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape, (void)user;
    return ad_mul(ad_mean_all(ad_square(ad_sub(ad_slice(theta, 0, 0, 1), batch[0]))),
                  ad_mean_all(batch[1]));
}

/* The order of one epoch of the examples in order[n]. */
static void expect(uint64_t seed, uint64_t epoch, int64_t n, int64_t *order)
{
    ad_rng apart = { seed, 0 }, stage = ad_rng_split(&apart), own = { stage.key, epoch };
    ad_rng rng = ad_rng_split(&own);
    uint64_t bits = 0;
    for (int64_t i = n - 1, word = 0; i > 0; i--, word++) {
        bits = word % 2 ? bits >> 32 : ad_rng_next(&rng);
        int64_t k = (int64_t)(((bits & UINT32_MAX) * ((uint64_t)i + 1)) >> 32), kept = order[i];
        order[i] = order[k];
        order[k] = kept;
    }
}

static void check(int64_t n, bool worker, bool parts)
{
    static record r;
    static unsigned char part[MOST];
    double data[MOST];
    int64_t used = 0, which[MOST], order[MOST];
    for (int64_t i = 0; i < n; i++) {
        data[i] = (double)i;
        part[i] = parts && i % 3 == 1 ? NN_TEST : NN_TRAINING;
        if (part[i] == NN_TRAINING) which[used++] = i;
    }
    nn_model *model = nn_model_new();
    nn_model_add(model, "w", AD_SHAPE(1), nn_init_zeros, 1, 1);
    nn_theta *theta = nn_theta_new(model, AD_F64, NULL);
    nn_array arrays[] = { nn_array_of(AD_SHAPE(AD_ROWS), data), nn_array_drawn(AD_SHAPE(1)) };
    nn_train_options o = { .loss = loss,
                           .narray = 2,
                           .arrays = arrays,
                           .examples = n,
                           .split = { .part = part },
                           .draw = note,
                           .user = &r,
                           .worker = worker,
                           .batch = BATCH,
                           .steps = EPOCHS * ((used + BATCH - 1) / BATCH),
                           .seed = 17,
                           .threads = 1 };
    char error[600] = "";
    r.n = 0;
    ck_assert_msg(nn_train(theta, &o, NULL, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(r.n, EPOCHS * used);
    for (uint64_t epoch = 0; epoch < EPOCHS; epoch++) {
        memcpy(order, which, (size_t)used * sizeof *order);
        expect(17, epoch, used, order);
        for (int64_t i = 0; i < used; i++)
            ck_assert_int_eq(r.seen[(int64_t)epoch * used + i], order[i]);
    }
    nn_theta_free(theta);
    nn_model_free(model);
}

START_TEST(fisher_yates)
{
    static const int64_t sizes[] = { 65, 128, 1000, 1025, 2050, MOST };
    for (int k = 0; k < 6; k++) check(sizes[k], false, false);
    check(2050, true, false);
    check(MOST, true, true);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("order", "order");
    tcase_add_test(tests, fisher_yates);
    return suite_run();
}
