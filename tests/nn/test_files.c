/* Arrays in files: IDX and gzip, and their numbers. */
#include "nn/nn.h"
#include "tests/nn/one_file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* ---- IDX ------------------------------------------------------------------------------------- */

typedef struct {
    const char *file;
    size_t size;
    nn_type type;
    ad_shape shape;
    double values[6];
} good_idx;

static const good_idx idx[] = {
    { BYTES("\0\0\x08\x01\0\0\0\x03\x00\x7f\xff"), NN_U8, { 1, { 3 } }, { 0, 127, 255 } },
    { BYTES("\0\0\x09\x02\0\0\0\x01\0\0\0\x02\x80\xff"), NN_I8, { 2, { 1, 2 } }, { -128, -1 } },
    { BYTES("\0\0\x0b\x03\0\0\0\x01\0\0\0\x02\0\0\0\x01\x80\0\x01\x02"),
      NN_I16,
      { 3, { 1, 2, 1 } },
      { -32768, 258 } },
    { BYTES("\0\0\x0c\x04\0\0\0\x01\0\0\0\x01\0\0\0\x02\0\0\0\x01\xff\xff\xff\xfe\0\x01\0\0"),
      NN_I32,
      { 4, { 1, 1, 2, 1 } },
      { -2, 65536 } },
    { BYTES("\0\0\x0d\x01\0\0\0\x02\x3f\xc0\0\0\xff\x80\0\0"),
      NN_F32,
      { 1, { 2 } },
      { 1.5, -INFINITY } },
    { BYTES("\0\0\x0e\x01\0\0\0\x01\xbf\xd5\x55\x55\x55\x55\x55\x55"),
      NN_F64,
      { 1, { 1 } },
      { -1.0 / 3 } },
    { BYTES("\0\0\x08\x02\0\0\0\0\0\0\0\x05"), NN_U8, { 2, { 0, 5 } }, { 0 } },
#ifdef NN_ZLIB
    /* printf '\0\0\10\1\0\0\0\2\1\2' | gzip -n */
    { BYTES("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x63\x60\xe0\x60\x64\x60\x60\x60\x62\x64\x02"
            "\x00\x74\xfc\x89\x62\x0a\x00\x00\x00"),
      NN_U8,
      { 1, { 2 } },
      { 1, 2 } },
#endif
};

START_TEST(reads_idx)
{
    const good_idx *g = &idx[_i];
    nn_tensor t;
    double values[6];
    put(g->file, g->size);
    ck_assert_msg(nn_read_idx(path, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(t.type, g->type);
    ck_assert_int_eq(t.shape.rank, g->shape.rank);
    for (int i = 0; i < t.shape.rank; i++) ck_assert_int_eq(t.shape.dim[i], g->shape.dim[i]);
    ck_assert_ptr_nonnull(t.data);
    ck_assert_msg(nn_tensor_numbers(&t, AD_F64, values, error, sizeof error) == 0, "%s", error);
    for (int64_t i = 0; i < nn_tensor_count(&t); i++) ck_assert(values[i] == g->values[i]);
    nn_tensor_clear(&t);
    ck_assert(!t.data && t.shape.rank == 0);
}
END_TEST

typedef struct {
    const char *file;
    size_t size;
    const char *message;
} bad_file;

static const bad_file bad_idx[] = {
    { "", 0, ": not an IDX file, which begins with two zero bytes" },
    { BYTES("\0\0\x08"), ": not an IDX file, which begins with two zero bytes" },
    { BYTES("\x89PNG\r\n"), ": not an IDX file, which begins with two zero bytes" },
    { BYTES("\0\0\x0a\x01\0\0\0\x01\x01"),
      ": byte 3 is 0x0a, which is no element type of IDX files" },
    { BYTES("\0\0\x08\x00\x01"), ": 0 axes; 1 to 8 are read" },
    { BYTES("\0\0\x08\xff\x01"), ": 255 axes; 1 to 8 are read" },
    { BYTES("\0\0\x08\x02\0\0\0\x01"),
      ": 8 bytes are too short for the sizes of 2 axes; truncated" },
    { BYTES("\0\0\x08\x01\0\0\0\x04\x01\x02\x03"),
      ": an array [4] of u8 needs 4 bytes, but 3 follow the header; truncated" },
    { BYTES("\0\0\x0d\x01\0\0\0\x01\x01\x02\x03\x04\x05"),
      ": an array [1] of f32 needs 4 bytes, but 5 follow the header" },
    { BYTES("\0\0\x0e\x03\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"),
      ": there is no array as large as [4294967295,4294967295,4294967295]" },
#ifdef NN_ZLIB
    { BYTES("\x1f\x8b"), ": the packed data end early, after 0 unpacked bytes; truncated" },
    { BYTES("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x63\x60\xe0\x60\x64\x60\x60\x60\x62\x64\x02"
            "\x00\x74\xfc\x89\x62\x0a\x00\x00"),
      ": the packed data end early, after 10 unpacked bytes; truncated" },
    { BYTES("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x63\x60\xe0\x60\x64\x60\x60\x60\x62\x64\x02"
            "\x00\x74\xfc\x89\x63\x0a\x00\x00\x00"),
      ": the packed data are damaged behind 10 unpacked bytes: incorrect data check" },
    { BYTES("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x63\x60\xe0\x60\x64\x60\x60\x60\x62\x64\x02"
            "\x00\x74\xfc\x89\x62\x0a\x00\x00\x00more"),
      ": 4 bytes behind the end of the packed data" },
#else
    { BYTES("\x1f\x8b\x08\x00"),
      ": packed by gzip, which this build of costate cannot read: install zlib (Debian: "
      "zlib1g-dev) and build again, or unpack the file with gunzip" },
#endif
};

START_TEST(refuses_idx)
{
    const bad_file *b = &bad_idx[_i];
    nn_tensor t;
    put(b->file, b->size);
    ck_assert_int_eq(nn_read_idx(path, &t, error, sizeof error), -1);
    expect_error(b->message);
    ck_assert(!t.data && t.shape.rank == 0);
}
END_TEST

START_TEST(refuses_calls)
{
    nn_tensor t;
    ck_assert_int_eq(nn_read_idx(NULL, &t, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_read_idx: path is NULL");
    ck_assert_int_eq(nn_read_idx(path, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_read_idx: tensor is NULL");
    unlink(path);
    ck_assert_int_eq(nn_read_idx(path, &t, error, sizeof error), -1);
    expect_error(": No such file or directory");
    ck_assert_int_eq(nn_read_idx(path, &t, NULL, 0), -1);
}
END_TEST

#ifdef NN_ZLIB
/* Packed data that need more room than the first guess, in two members. */
START_TEST(unpacks_much)
{
    enum { N = 300000, HEADER = 8 };
    static unsigned char data[HEADER + N] = { 0,      0, 8, 1, N >> 24, N >> 16 & 255, N >> 8 & 255,
                                              N & 255 };
    char command[200];
    for (int i = 0; i < N; i++) data[HEADER + i] = (unsigned char)((uint64_t)i * (uint64_t)i / 7);
    for (int part = 0; part < 2; part++) {
        snprintf(command, sizeof command, "gzip -c %s %s", part ? ">>" : ">", path);
        FILE *pipe = popen(command, "w");
        ck_assert_ptr_nonnull(pipe);
        size_t half = sizeof data / 2;
        ck_assert_uint_eq(fwrite(data + (size_t)part * half, 1, half, pipe), half);
        ck_assert_int_eq(pclose(pipe), 0);
    }
    nn_tensor t;
    ck_assert_msg(nn_read_idx(path, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(nn_tensor_count(&t), N);
    ck_assert_mem_eq(t.data, data + HEADER, N);
    nn_tensor_clear(&t);
}
END_TEST
#endif

/* ---- numbers --------------------------------------------------------------------------------- */

START_TEST(numbers)
{
    int64_t large[] = { 1, -(INT64_C(1) << 53), (INT64_C(1) << 53) + 1, INT64_MIN };
    uint64_t most = UINT64_MAX;
    int32_t whole[] = { 1 << 24, -(1 << 24), (1 << 24) + 1 };
    double out[4];
    float single[4];
    nn_tensor t = { .name = (char *)"ids", .type = NN_I64, .shape = AD_SHAPE(4), .data = large };
    ck_assert_int_eq(nn_tensor_numbers(&t, AD_F64, out, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_tensor_numbers: element 2 of 'ids' is 9007199254740993, which f64 "
                            "does not hold exactly");
    t.shape.dim[0] = 2;
    ck_assert_int_eq(nn_tensor_numbers(&t, AD_F64, out, error, sizeof error), 0);
    ck_assert(out[0] == 1 && out[1] == -0x1p53);
    t = (nn_tensor){ .type = NN_I64, .shape = AD_SCALAR, .data = &large[3] };
    ck_assert_int_eq(nn_tensor_numbers(&t, AD_F64, out, error, sizeof error), -1);
    t = (nn_tensor){ .type = NN_U64, .shape = AD_SCALAR, .data = &most };
    ck_assert_int_eq(nn_tensor_numbers(&t, AD_F64, out, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_tensor_numbers: element 0 is 18446744073709551615, which f64 does "
                            "not hold exactly");
    t = (nn_tensor){ .type = NN_I32, .shape = AD_SHAPE(3), .data = whole };
    ck_assert_int_eq(nn_tensor_numbers(&t, AD_F64, out, error, sizeof error), 0);
    ck_assert(out[2] == 16777217);
    ck_assert_int_eq(nn_tensor_numbers(&t, AD_F32, single, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_tensor_numbers: element 2 is 16777217, which f32 does not hold "
                            "exactly");
    t.shape.dim[0] = 2;
    ck_assert_int_eq(nn_tensor_numbers(&t, AD_F32, single, error, sizeof error), 0);
    ck_assert(single[0] == 0x1p24f && single[1] == -0x1p24f);
    ck_assert_int_eq(nn_tensor_numbers(&t, AD_F32, NULL, error, sizeof error), -1);
    ck_assert_int_eq(nn_tensor_numbers(&t, (ad_dtype)7, out, error, sizeof error), -1);
    t.shape.dim[0] = AD_ROWS;
    ck_assert_int_eq(nn_tensor_numbers(&t, AD_F32, single, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_tensor_numbers: this is no array");
    ck_assert_int_eq(nn_tensor_numbers(NULL, AD_F32, single, error, sizeof error), -1);
    ck_assert_int_eq(nn_tensor_count(NULL), -1);
    ck_assert_uint_eq(nn_type_bytes((nn_type)99), 0);
    nn_tensor_clear(NULL);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("files", "files");
    tcase_add_checked_fixture(tests, make_directory, remove_directory);
    tcase_add_loop_test(tests, reads_idx, 0, sizeof idx / sizeof *idx);
    tcase_add_loop_test(tests, refuses_idx, 0, sizeof bad_idx / sizeof *bad_idx);
    tcase_add_test(tests, refuses_calls);
#ifdef NN_ZLIB
    tcase_add_test(tests, unpacks_much);
#endif
    tcase_add_test(tests, numbers);
    return suite_run();
}
