/* Files as the data of a training, row by row where they lie. */
#define _GNU_SOURCE
#include "nn/nn.h"
#include "tests/nn/one_file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* Rows of every element type, asked for in any order and twice. */
START_TEST(fetches)
{
    static const int64_t which[] = { 2, 0, 2 };
    nn_type type = (nn_type)_i;
    unsigned char data[48] = { 0 };
    for (int i = 0; i < 6; i++) { /* small whole numbers, whatever the type */
        if (type == NN_F32) memcpy(data + 4 * i, &(float){ (float)i }, 4);
        else if (type == NN_F64) memcpy(data + 8 * i, &(double){ i }, 8);
        else data[(size_t)i * nn_type_bytes(type)] = (unsigned char)(type == NN_BOOL ? i % 2 : i);
    }
    nn_tensor t = { .type = type, .shape = AD_SHAPE(3, 2), .data = data };
    ck_assert_int_eq(nn_write_npy(path, &t, error, sizeof error), 0);
    nn_mapped *m = nn_map_npy(path, error, sizeof error);
    ck_assert_msg(m != NULL, "%s", error);
    ck_assert_int_eq(nn_mapped_rows(m), 3);
    ad_shape shape = nn_mapped_shape(m);
    ck_assert(shape.rank == 2 && shape.dim[0] == AD_ROWS && shape.dim[1] == 2);
    bool single = nn_mapped_dtype(m) == AD_F32;
    ck_assert(single == (type == NN_F32 || (type != NN_F64 && nn_type_bytes(type) <= 2)));
    float narrow[6];
    double wide[6];
    void *out = single ? (void *)narrow : (void *)wide;
    ck_assert_msg(nn_mapped_fetch(m, 3, which, out, error, sizeof error) == 0, "%s", error);
    for (int i = 0; i < 6; i++) {
        int64_t expected = 2 * which[i / 2] + i % 2;
        if (type == NN_BOOL) expected %= 2;
        ck_assert((single ? (double)narrow[i] : wide[i]) == (double)expected);
    }
    ck_assert_int_eq(nn_mapped_fetch(m, 1, (int64_t[]){ 3 }, out, error, sizeof error), -1);
    expect_error(": there is no row 3, there are 3");
    ck_assert_int_eq(nn_mapped_fetch(m, 1, (int64_t[]){ -1 }, out, error, sizeof error), -1);
    ck_assert_int_eq(truncate(path, 100), 0);
    ck_assert_int_eq(nn_mapped_fetch(m, 1, which, out, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, " bytes when it was opened, and has 100 now"));
    nn_mapped_free(m);
}
END_TEST

START_TEST(other_byte_order)
{
    put(BYTES(
        "\x93NUMPY\x01\0\x34\0{'descr':'>f4','fortran_order':False,'shape':(2,1)}\n\x3f\xc0\0\0"
        "\xc0\0\0\0"));
    nn_mapped *m = nn_map_npy(path, error, sizeof error);
    ck_assert_msg(m != NULL, "%s", error);
    float out[2];
    ck_assert_int_eq(nn_mapped_fetch(m, 2, (int64_t[]){ 1, 0 }, out, error, sizeof error), 0);
    ck_assert(out[0] == -2 && out[1] == 1.5f);
    nn_mapped_free(m);
}
END_TEST

/* Numbers without a header; far more of them than fit into memory, in a file with holes. */
START_TEST(larger_than_memory)
{
    enum { COLUMNS = 256 };
    const int64_t rows = INT64_C(1) << 26, row = COLUMNS * sizeof(float), start = 16;
    float last[COLUMNS], out[2 * COLUMNS];
    for (int i = 0; i < COLUMNS; i++) last[i] = (float)i;
    FILE *f = fopen(path, "wb");
    ck_assert_int_eq(fseeko(f, start + (rows - 1) * row, SEEK_SET), 0);
    ck_assert_uint_eq(fwrite(last, 1, sizeof last, f), sizeof last);
    ck_assert_int_eq(fclose(f), 0);
    nn_mapped *m = nn_map_raw(path, NN_F32, AD_SHAPE(AD_ROWS, COLUMNS), start, error, sizeof error);
    ck_assert_msg(m != NULL, "%s", error);
    ck_assert_int_eq(nn_mapped_rows(m), rows);
    int64_t which[] = { rows / 2, rows - 1 };
    ck_assert_int_eq(nn_mapped_fetch(m, 2, which, out, error, sizeof error), 0);
    for (int i = 0; i < COLUMNS; i++) ck_assert(out[i] == 0 && out[COLUMNS + i] == (float)i);
    nn_mapped_free(m);
}
END_TEST

START_TEST(refuses)
{
    static const char numbers[24] = { 0 };
    put("", 0);
    ck_assert_ptr_null(nn_map_npy(path, error, sizeof error));
    expect_error(": the file is empty");
    put(BYTES("\x93NUMPY\x01\0\x33\0{'descr':'|u1','fortran_order':True,'shape':(1,2)}\n\1\2"));
    ck_assert_ptr_null(nn_map_npy(path, error, sizeof error));
    expect_error(": the array is in Fortran order, in which rows are scattered over the file; save "
                 "numpy.ascontiguousarray of it");
    put(BYTES("\x93NUMPY\x01\0\x31\0{'descr':'|u1','fortran_order':False,'shape':()}\n\1"));
    ck_assert_ptr_null(nn_map_npy(path, error, sizeof error));
    expect_error(": one number has no rows");
    put(BYTES("\x93NUMPY\x01\0\x35\0{'descr':'|u1','fortran_order':False,'shape':(0,2)} \n"));
    ck_assert_ptr_null(nn_map_npy(path, error, sizeof error));
    expect_error(": there are no rows, or empty ones");
    put(numbers, sizeof numbers);
    ck_assert_ptr_null(nn_map_npy(path, error, sizeof error));
    ck_assert_ptr_null(nn_map_raw(path, NN_F64, AD_SHAPE(AD_ROWS, 2), 0, error, sizeof error));
    expect_error(": 24 bytes are no number of rows of 16 bytes");
    ck_assert_ptr_null(nn_map_raw(path, NN_F64, AD_SHAPE(AD_ROWS, 2), 25, error, sizeof error));
    expect_error(": the rows are to begin at byte 25, but there are 24");
    ck_assert_ptr_null(nn_map_raw(path, NN_F64, AD_SHAPE(3, 1), 0, error, sizeof error));
    ck_assert_str_eq(error, "nn_map_raw: the shape must be [AD_ROWS, ...] with sizes >= 1, of an "
                            "element type");
    ck_assert_ptr_null(nn_map_raw(path, NN_F64, AD_SHAPE(AD_ROWS, 0), 0, error, sizeof error));
    ck_assert_ptr_null(nn_map_raw(path, (nn_type)50, AD_SHAPE(AD_ROWS, 1), 0, error, sizeof error));
    ck_assert_ptr_null(nn_map_raw(NULL, NN_F64, AD_SHAPE(AD_ROWS, 1), 0, error, sizeof error));
    ck_assert_ptr_null(nn_map_npy(NULL, error, sizeof error));
    ck_assert_ptr_null(nn_map_npy("/dev/zero", error, sizeof error));
    ck_assert_str_eq(error, "/dev/zero: not a regular file");
    nn_mapped_free(NULL);
    ck_assert_int_eq(nn_mapped_rows(NULL), 0);
    int64_t large = (INT64_C(1) << 53) + 1;
    double out;
    put(&large, sizeof large);
    nn_mapped *m = nn_map_raw(path, NN_I64, AD_SHAPE(AD_ROWS), 0, error, sizeof error);
    ck_assert_msg(m != NULL, "%s", error);
    ck_assert_int_eq(nn_mapped_fetch(m, 1, (int64_t[]){ 0 }, &out, error, sizeof error), -1);
    expect_error(": element 0 of row 0 is 9007199254740993, which is no double exactly");
    nn_mapped_free(m);
}
END_TEST

/* ---- training -------------------------------------------------------------------------------- */

enum { ROWS = 50, STEPS = 30 };

static ad_var loss(ad_tape *tape, ad_var theta, const ad_var *batch, void *user)
{
    (void)tape;
    return nn_mse(nn_linear_apply(user, theta, batch[0]), batch[1]);
}

/* theta [16] after a training on the arrays. */
static void train(const nn_array *arrays, bool worker, double *theta_out)
{
    nn_model *model = nn_model_new();
    nn_linear line = nn_linear_new(model, "line", 3, 1, NULL);
    ad_rng rng = ad_rng_seed(1);
    nn_theta *theta = nn_theta_new(model, AD_F64, &rng);
    nn_train_options o = { .loss = loss,
                           .user = &line,
                           .narray = 2,
                           .arrays = arrays,
                           .examples = ROWS,
                           .batch = 8,
                           .steps = STEPS,
                           .seed = 3,
                           .worker = worker,
                           .optimizer = { .rate = 0.01 } };
    ck_assert_msg(nn_train(theta, &o, NULL, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(nn_theta_get(theta, NULL, nn_model_size(model), theta_out), 0);
    nn_theta_free(theta);
    nn_model_free(model);
}

/* The same bits as from memory. */
START_TEST(trains)
{
    float x[ROWS][3], y[ROWS][1];
    double from_memory[32], from_file[32];
    ad_rng rng = ad_rng_seed(2);
    for (int i = 0; i < ROWS; i++) {
        for (int k = 0; k < 3; k++) x[i][k] = (float)ad_rng_normal(&rng);
        y[i][0] = x[i][0] - 2 * x[i][2];
    }
    nn_tensor t = { .type = NN_F32, .shape = AD_SHAPE(ROWS, 3), .data = x };
    ck_assert_int_eq(nn_write_npy(path, &t, error, sizeof error), 0);
    nn_mapped *m = nn_map_npy(path, error, sizeof error);
    ck_assert_msg(m != NULL, "%s", error);
    nn_array y_array = nn_array_of(AD_SHAPE(AD_ROWS, 1), &y[0][0]);
    train((nn_array[]){ nn_array_of(AD_SHAPE(AD_ROWS, 3), &x[0][0]), y_array }, false, from_memory);
    for (int worker = 0; worker < 2; worker++) {
        train((nn_array[]){ nn_array_mapped(m), y_array }, worker, from_file);
        ck_assert_mem_eq(from_file, from_memory, 4 * sizeof(double));
    }
    nn_mapped_free(m);
    nn_array none = nn_array_mapped(NULL);
    ck_assert(!none.fetch && !none.data && none.shape.rank == -1);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("mapped", "mapped");
    tcase_add_checked_fixture(tests, make_directory, remove_directory);
    tcase_add_loop_test(tests, fetches, 0, NN_BOOL + 1);
    tcase_add_test(tests, other_byte_order);
    tcase_add_test(tests, larger_than_memory);
    tcase_add_test(tests, refuses);
    tcase_add_test(tests, trains);
    return suite_run();
}
