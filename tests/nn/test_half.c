/* Numbers of 16 bits, from .npy and safetensors: every bit pattern gives what NumPy makes of a
 * float16, and PyTorch of a bfloat16 (tests/reference/half.py). */
#include "nn/nn.h"
#include "tests/nn/one_file.h"
#include "tests/reference/half.h"
#include <math.h>

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])
enum { EVERY = 65536 };

typedef struct {
    nn_type type;
    const char *name;
    uint64_t sum;
    int nans, nvalue;
    const half_value *value;
} format;

static const format formats[] = {
    { NN_F16, "F16", f16_sum, f16_nans, COUNT(f16_values), f16_values },
    { NN_BF16, "BF16", bf16_sum, bf16_nans, COUNT(bf16_values), bf16_values },
};

static uint32_t bits_of(float x)
{
    uint32_t bits;
    memcpy(&bits, &x, sizeof bits);
    return bits;
}

/* A safetensors file with one array of these halves. */
static void put_safetensors(const char *dtype, const char *name, int n, const uint16_t *half)
{
    static unsigned char file[3 * EVERY];
    char *header = (char *)file + 8;
    int length =
        snprintf(header, 200, "{\"%s\":{\"dtype\":\"%s\",\"shape\":[%d],\"data_offsets\":[0,%d]}}",
                 name, dtype, n, 2 * n);
    memset(file, 0, 8);
    file[0] = (unsigned char)length;
    memcpy(header + length, half, 2 * (size_t)n);
    put(file, 8 + (size_t)length + 2 * (size_t)n);
}

/* The tensor has every pattern in order. */
static void check_every(const nn_tensor *t, const format *f)
{
    float *x = malloc(EVERY * sizeof *x);
    double *wide = malloc(EVERY * sizeof *wide);
    uint64_t sum = UINT64_C(0xcbf29ce484222325);
    int nans = 0;
    ck_assert_int_eq(t->type, f->type);
    ck_assert_int_eq(nn_tensor_count(t), EVERY);
    ck_assert_msg(nn_tensor_numbers(t, AD_F32, x, error, sizeof error) == 0, "%s", error);
    ck_assert_msg(nn_tensor_numbers(t, AD_F64, wide, error, sizeof error) == 0, "%s", error);
    for (int i = 0; i < EVERY; i++) {
        ck_assert(isnan(x[i]) ? isnan(wide[i]) : (double)x[i] == wide[i]);
        if (isnan(x[i])) nans++;
        else sum = (sum ^ bits_of(x[i])) * UINT64_C(0x100000001b3);
    }
    for (int i = 0; i < f->nvalue; i++)
        ck_assert_uint_eq(bits_of(x[f->value[i].half]), f->value[i].f32);
    ck_assert_uint_eq(sum, f->sum);
    ck_assert_int_eq(nans, f->nans);
    free(x);
    free(wide);
}

START_TEST(safetensors)
{
    static uint16_t half[EVERY];
    const format *f = &formats[_i];
    nn_tensors t;
    for (int i = 0; i < EVERY; i++) half[i] = (uint16_t)i;
    put_safetensors(f->name, "x", EVERY, half);
    ck_assert_msg(nn_read_safetensors(path, &t, error, sizeof error) == 0, "%s", error);
    check_every(&t.tensor[0], f);
    /* they are not written */
    ck_assert_int_eq(nn_write_safetensors(path, &t, error, sizeof error), -1);
    ck_assert_msg(strstr(error, "array 'x' is") && strstr(error, "which is read, not written"),
                  "%s", error);
    nn_tensors_clear(&t);
}
END_TEST

/* Of either byte order, also where the file is mapped. */
START_TEST(numpy)
{
    static unsigned char file[128 + 2 * EVERY];
    static const unsigned char magic[10] = { 0x93, 'N', 'U', 'M', 'P', 'Y', 1, 0, 118, 0 };
    memset(file, ' ', 128);
    memcpy(file, magic, sizeof magic);
    int n =
        snprintf((char *)file + 10, 100,
                 "{'descr': '%cf2', 'fortran_order': False, 'shape': (65536,)}", _i ? '>' : '<');
    file[10 + n] = ' ';
    file[127] = '\n';
    for (int i = 0; i < EVERY; i++) {
        file[128 + 2 * i + (_i ? 1 : 0)] = (unsigned char)i;
        file[128 + 2 * i + (_i ? 0 : 1)] = (unsigned char)(i >> 8);
    }
    put(file, sizeof file);
    nn_tensor t;
    ck_assert_msg(nn_read_npy(path, &t, error, sizeof error) == 0, "%s", error);
    check_every(&t, &formats[0]);
    nn_tensor_clear(&t);
    nn_mapped *m = nn_map_npy(path, error, sizeof error);
    ck_assert_msg(m != NULL, "%s", error);
    float row;
    char text[200];
    int64_t example = 0x3555;
    ck_assert_int_eq(nn_mapped_dtype(m), AD_F32);
    ck_assert_msg(nn_mapped_fetch(m, 1, &example, &row, text, sizeof text) == 0, "%s", text);
    ck_assert_float_eq(row, 0.333251953125f);
    nn_mapped_free(m);
}
END_TEST

/* Parameters of either dtype; what is not finite is refused as of other types. */
START_TEST(parameters)
{
    const format *f = &formats[_i % 2];
    const bool single = _i < 2;
    const uint16_t good[] = { 0x3555, 0x8001, 0xc000 }, bad[] = { 0x3555, 0x7c00, 0x7f80 };
    nn_model *m = nn_model_new();
    nn_model_add(m, "w", AD_SHAPE(3), nn_init_zeros, 1, 1);
    nn_theta *theta = nn_theta_new(m, single ? AD_F32 : AD_F64, NULL);
    double x[3];
    put_safetensors(f->name, "w", 3, good);
    ck_assert_msg(nn_load(path, theta, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(nn_theta_get(theta, "w", 3, x), 0);
    for (int i = 0; i < 3; i++)
        for (int k = 0; k < f->nvalue; k++)
            if (f->value[k].half == good[i])
                ck_assert_uint_eq(bits_of((float)x[i]), f->value[k].f32);
    put_safetensors(f->name, "w", 3, bad);
    ck_assert_int_eq(nn_load(path, theta, error, sizeof error), -1);
    ck_assert_msg(strstr(error, _i % 2 ? "element 2 of 'w' is inf" : "element 1 of 'w' is inf"),
                  "%s", error);
    ck_assert_int_eq(nn_theta_get(theta, "w", 3, x), 0);
    ck_assert(x[2] == -2);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("half", "half");
    tcase_add_checked_fixture(tests, make_directory, remove_directory);
    tcase_add_loop_test(tests, safetensors, 0, 2);
    tcase_add_loop_test(tests, numpy, 0, 2);
    tcase_add_loop_test(tests, parameters, 0, 4);
    return suite_run();
}
