/* NumPy's files, .npy and .npz: what is read, what is refused, what is written. (tests/exchange.sh
 * has NumPy itself.) */
#include "nn/nn.h"
#include "tests/nn/one_file.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

typedef struct {
    const char *file;
    size_t size;
    const char *message;
} bad_file;

/* ---- .npy ------------------------------------------------------------------------------------ */

/* Version 1, and the dictionary behind it. */
#define NPY(length, dictionary, data) BYTES("\x93NUMPY\x01\0" length "\0" dictionary data)
#define TAIL(data) "', 'fortran_order': False, 'shape': (2,), }\n" data

typedef struct {
    const char *file;
    size_t size;
    nn_type type;
    ad_shape shape;
    double values[6];
} good_npy;

static const good_npy npy[] = {
    { NPY("\x3a", "{'descr': '<f4", TAIL("\0\0\xc0\x3f\0\0\x80\xff")),
      NN_F32,
      { 1, { 2 } },
      { 1.5, -INFINITY } },
    { NPY("\x3a", "{'descr': '>f4", TAIL("\x3f\xc0\0\0\xff\x80\0\0")),
      NN_F32,
      { 1, { 2 } },
      { 1.5, -INFINITY } },
    { NPY("\x3a", "{'descr': '>f8", TAIL("\xbf\xd5\x55\x55\x55\x55\x55\x55\0\0\0\0\0\0\0\0")),
      NN_F64,
      { 1, { 2 } },
      { -1.0 / 3, 0 } },
    { NPY("\x3a", "{'descr': '|i1", TAIL("\x80\xff")), NN_I8, { 1, { 2 } }, { -128, -1 } },
    { NPY("\x3a", "{'descr': '<u1", TAIL("\x80\xff")), NN_U8, { 1, { 2 } }, { 128, 255 } },
    { NPY("\x3a", "{'descr': '|b1", TAIL("\x01\0")), NN_BOOL, { 1, { 2 } }, { 1, 0 } },
    { NPY("\x3a", "{'descr': '<i2", TAIL("\xfe\xff\0\x01")), NN_I16, { 1, { 2 } }, { -2, 256 } },
    { NPY("\x3a", "{'descr': '>u2", TAIL("\xfe\xff\0\x01")), NN_U16, { 1, { 2 } }, { 65279, 1 } },
    { NPY("\x3a", "{'descr': '=i4", TAIL("\xfe\xff\xff\xff\0\0\x01\0")),
      NN_I32,
      { 1, { 2 } },
      { -2, 65536 } },
    { NPY("\x3a", "{'descr': '<u4", TAIL("\xfe\xff\xff\xff\0\0\x01\0")),
      NN_U32,
      { 1, { 2 } },
      { 4294967294, 65536 } },
    { NPY("\x3a", "{'descr': '>i8", TAIL("\xff\xff\xff\xff\xff\xff\xff\xfe\0\0\0\0\0\0\0\x07")),
      NN_I64,
      { 1, { 2 } },
      { -2, 7 } },
    { NPY("\x3a", "{'descr': '<u8", TAIL("\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\x20\0")),
      NN_U64,
      { 1, { 2 } },
      { 3, 0x1p53 } },
    /* column by column in the file */
    { NPY("\x3a", "{'descr':'|u1','fortran_order':True,'shape':(2,3)}       \n",
          "\x01\x04\x02\x05\x03\x06"),
      NN_U8,
      { 2, { 2, 3 } },
      { 1, 2, 3, 4, 5, 6 } },
    { NPY("\x3a", "{'descr':'>u2','fortran_order':True,'shape':(1,2,1,2)}   \n",
          "\0\x01\0\x03\0\x02\x01\0"),
      NN_U16,
      { 4, { 1, 2, 1, 2 } },
      { 1, 2, 3, 256 } },
    /* one number; none; other quotes, order and blanks; the sizes of Python 2 */
    { NPY("\x32", "{'descr':'|u1','fortran_order':False,'shape':()} \n", "\x09"),
      NN_U8,
      { 0, { 0 } },
      { 9 } },
    { NPY("\x35", "{'descr':'<f8','fortran_order':False,'shape':(0,3)} \n", ""),
      NN_F64,
      { 2, { 0, 3 } },
      { 0 } },
    { NPY("\x3c", "{ \"shape\" : (1L , 2L) ,\n\"descr\":\"|u1\",'fortran_order':False}",
          "\x01\x02"),
      NN_U8,
      { 2, { 1, 2 } },
      { 1, 2 } },
    { BYTES("\x93NUMPY\x02\0\x31\0\0\0{'descr':'|u1','fortran_order':False,'shape':()}\n\x09"),
      NN_U8,
      { 0, { 0 } },
      { 9 } },
    { BYTES("\x93NUMPY\x03\0\x31\0\0\0{'descr':'|u1','fortran_order':False,'shape':()}\n\x09"),
      NN_U8,
      { 0, { 0 } },
      { 9 } },
};

START_TEST(reads_npy)
{
    const good_npy *g = &npy[_i];
    nn_tensor t;
    double values[6];
    put(g->file, g->size);
    ck_assert_msg(nn_read_npy(path, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(t.type, g->type);
    ck_assert_int_eq(t.shape.rank, g->shape.rank);
    for (int i = 0; i < t.shape.rank; i++) ck_assert_int_eq(t.shape.dim[i], g->shape.dim[i]);
    ck_assert_ptr_nonnull(t.data);
    ck_assert_msg(nn_tensor_numbers(&t, AD_F64, values, error, sizeof error) == 0, "%s", error);
    for (int64_t i = 0; i < nn_tensor_count(&t); i++) ck_assert(values[i] == g->values[i]);
    nn_tensor_clear(&t);
}
END_TEST

static const bad_file bad_npy[] = {
    { "", 0, ": not an array of NumPy, which begins with \\x93NUMPY" },
    { BYTES("\x93NUMPX\x01\0\0\0"), ": not an array of NumPy, which begins with \\x93NUMPY" },
    { BYTES("\x93NUMPY\x04\0\0\0"), ": version 4.0 of the format; 1 to 3 are read" },
    { BYTES("\x93NUMPY\x00\x01\0\0"), ": version 0.1 of the format; 1 to 3 are read" },
    { BYTES("\x93NUMPY\x02\0\0\0"), ": 10 bytes are too short for its header; truncated" },
    { NPY("\xff", "{}", ""), ": the header's length is 255 bytes, but there are 2; truncated" },
    { BYTES("\x93NUMPY\x02\0\xff\xff\xff\xff{}"),
      ": the header's length is 4294967295 bytes, but there are 2; truncated" },
    { NPY("\0", "", ""), ": the header has no opening brace at its character 1; this is no array "
                         "of NumPy, or it is damaged" },
    { NPY("\x02", "{}", ""), ": the header has no 'descr'" },
    { NPY("\x0e", "{'descr':'<f4'", ""), ": the header has no comma or brace at its character 15; "
                                         "this is no array of NumPy, or it is damaged" },
    { NPY("\x0f", "{'descr':'<f4'}", ""), ": the header has no 'fortran_order'" },
    { NPY("\x1d", "{'descr':'<f4','descr':'<f8',}", ""), ": the header has the key 'descr' twice" },
    { NPY("\x0a", "{'extra':1}", ""), ": the header has the unknown key 'extra'" },
    { NPY("\x14", "{'descr':[('a','<f4')],", ""),
      ": its elements are records; save each field as an array of its own" },
    { NPY("\x3a", "{'descr': '|O8", TAIL("")),
      ": its elements are Python objects, which are not read (they are code); save numbers" },
    { NPY("\x3a", "{'descr': '|O", "'  , 'fortran_order': False, 'shape': (2,)} \n"),
      ": its elements are Python objects, which are not read (they are code); save numbers" },
    { NPY("\x3a", "{'descr': '<f3", TAIL("")), ": its elements are of type '<f3'; f2, f4, f8, i1 "
                                               "to i8, u1 to u8 and b1 are read: convert it "
                                               "with astype" },
    { NPY("\x3a", "{'descr': '<c8", TAIL("")), ": its elements are of type '<c8'; f2, f4, f8, i1 "
                                               "to i8, u1 to u8 and b1 are read: convert it "
                                               "with astype" },
    { NPY("\x3a", "{'descr': '|f4", TAIL("")),
      ": the element type '|f4' does not say the order of its bytes" },
    { NPY("\x3a", "{'descr': '<f4", TAIL("\x01\x02\x03\x04\x05\x06\x07")),
      ": an array [2] of f32 needs 8 bytes, but 7 follow the header; truncated" },
    { NPY("\x3a", "{'descr': '<f4", TAIL("\x01\x02\x03\x04\x05\x06\x07\x08\x09")),
      ": an array [2] of f32 needs 8 bytes, but 9 follow the header" },
    { NPY("\x3a", "{'descr': '|b1", TAIL("\x01\x02")), ": element 1 is 2, which is no bool" },
    { NPY("\x45", "{'shape':(4294967296,4294967296),'descr':'<f4','fortran_order':False}", ""),
      ": there is no array as large as [4294967296,4294967296]" },
    { NPY("\x20", "{'shape':(99999999999999999999),", ""),
      ": a size of its shape is larger than 9223372036854775807" },
    { NPY("\x1f", "{'shape':(1,1,1,1,1,1,1,1,1,),}", ""), ": its shape has more than 8 sizes" },
    { NPY("\x10", "{'shape':(-1,), }", ""),
      ": the header has no size at its character 11; this is no array of NumPy, or it is damaged" },
    { NPY("\x10", "{'shape':(2), }\n", ""),
      ": the header has no comma behind an only size at its character 13; this is no array of "
      "NumPy, or it is damaged" },
    { NPY("\x3a", "{'descr':'|u1','fortran_order':False,'shape':(1,)}    ; \n", "\x01"),
      ": the header has no blank behind the closing brace at its character 55; this is no array of "
      "NumPy, or it is damaged" },
};

START_TEST(refuses_npy)
{
    const bad_file *b = &bad_npy[_i];
    nn_tensor t;
    put(b->file, b->size);
    ck_assert_int_eq(nn_read_npy(path, &t, error, sizeof error), -1);
    expect_error(b->message);
    ck_assert(!t.data && t.shape.rank == 0);
}
END_TEST

static nn_type every_type(int i) { return (nn_type)(i % (NN_BOOL + 1)); }

/* An array [3,2] of that type with different bytes in it; a bool has 0 and 1. */
static nn_tensor make_tensor(nn_type type, unsigned char data[48])
{
    for (int i = 0; i < 48; i++)
        data[i] = (unsigned char)(type == NN_BOOL ? i % 2 : 3 * i + (int)type);
    return (nn_tensor){ .type = type, .shape = AD_SHAPE(3, 2), .data = data };
}

static void expect_tensor(const nn_tensor *got, const nn_tensor *wanted)
{
    ck_assert_int_eq(got->type, wanted->type);
    ck_assert_int_eq(got->shape.rank, 2);
    ck_assert(got->shape.dim[0] == 3 && got->shape.dim[1] == 2);
    ck_assert_mem_eq(got->data, wanted->data, 6 * nn_type_bytes(wanted->type));
}

START_TEST(npy_round_trip)
{
    unsigned char data[48];
    nn_tensor t = make_tensor(every_type(_i), data), back;
    ck_assert_msg(nn_write_npy(path, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_msg(nn_read_npy(path, &back, error, sizeof error) == 0, "%s", error);
    expect_tensor(&back, &t);
    nn_tensor_clear(&back);
}
END_TEST

/* What is written, byte by byte. */
START_TEST(npy_bytes)
{
    static const char expected[] =
        "\x93NUMPY\x01\0\x76\0{'descr': '<i4', 'fortran_order': False, 'shape': (1,), }"
        "                                                            \n\x07\0\0\0";
    int32_t seven = 7;
    nn_tensor t = { .type = NN_I32, .shape = AD_SHAPE(1), .data = &seven };
    char got[300];
    ck_assert_msg(nn_write_npy(path, &t, error, sizeof error) == 0, "%s", error);
    FILE *f = fopen(path, "rb");
    size_t n = fread(got, 1, sizeof got, f);
    fclose(f);
    ck_assert_uint_eq(n, sizeof expected - 1);
    ck_assert_mem_eq(got, expected, n);
}
END_TEST

START_TEST(writing_refuses)
{
    nn_tensor t = { .name = (char *)"x", .type = NN_F64, .shape = AD_SHAPE(AD_ROWS, 2) };
    ck_assert_int_eq(nn_write_npy(path, &t, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_npy: array 'x': [rows,2] is no shape of an array");
    t.shape = AD_SHAPE(2);
    ck_assert_int_eq(nn_write_npy(path, &t, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_npy: array 'x' has no data");
    t.type = (nn_type)77;
    ck_assert_int_eq(nn_write_npy(path, &t, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_npy: array 'x' has no element type");
    ck_assert_int_eq(nn_write_npy(path, NULL, error, sizeof error), -1);
    ck_assert_int_eq(nn_read_npy(NULL, &t, error, sizeof error), -1);
    ck_assert_int_eq(nn_read_npy(path, NULL, error, sizeof error), -1);
    double one = 1;
    t = (nn_tensor){ .type = NN_F64, .shape = AD_SCALAR, .data = &one };
    ck_assert_int_eq(nn_write_npy("/dev/full", &t, error, sizeof error), -1);
    ck_assert_str_eq(error, "/dev/full: not a regular file");
}
END_TEST

/* ---- .npz ------------------------------------------------------------------------------------ */

START_TEST(npz_refuses_calls)
{
    nn_tensor array = { .type = NN_F64, .shape = AD_SHAPE(1), .data = &(double){ 1 } };
    nn_tensor two[] = { array, array };
    nn_tensors none = { 0 }, t = { 2, two };
    ck_assert_int_eq(nn_write_npz(path, &none, false, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_npz: there are no arrays");
    ck_assert_int_eq(nn_write_npz(path, NULL, false, error, sizeof error), -1);
    two[0].name = (char *)"a";
    ck_assert_int_eq(nn_write_npz(path, &t, false, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_npz: array 1 has no name");
    two[1].name = (char *)"a";
    ck_assert_int_eq(nn_write_npz(path, &t, false, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_npz: two arrays are called 'a'");
    two[1].name = (char *)"b";
    two[1].data = NULL;
    ck_assert_int_eq(nn_write_npz(path, &t, false, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_npz: array 'b' has no data");
    ck_assert_int_eq(nn_read_npz(NULL, &t, error, sizeof error), -1);
    ck_assert_int_eq(nn_read_npz(path, NULL, error, sizeof error), -1);
    nn_tensors_clear(NULL);
    ck_assert_ptr_null(nn_tensors_find(NULL, "a"));
#ifndef NN_LIBZIP
    ck_assert_int_eq(nn_read_npz(path, &t, error, sizeof error), -1);
    expect_error(": this build of costate has no .npz files: install libzip (Debian: libzip-dev) "
                 "and build again, or take .npy files");
#endif
}
END_TEST

#ifdef NN_LIBZIP
START_TEST(npz_round_trip)
{
    enum { N = NN_BOOL + 1 };
    unsigned char data[N][48], first[8000], second[8000];
    nn_tensor arrays[N];
    char name[N][20];
    for (int i = 0; i < N; i++) {
        arrays[i] = make_tensor(every_type(i), data[i]);
        snprintf(name[i], sizeof name[i], i ? "layer/%d \xc3\xa9" : "x", i);
        arrays[i].name = name[i];
    }
    nn_tensors t = { N, arrays }, back;
    ck_assert_msg(nn_write_npz(path, &t, _i, error, sizeof error) == 0, "%s", error);
    ck_assert_msg(nn_read_npz(path, &back, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(back.count, N);
    for (int i = 0; i < N; i++) {
        ck_assert_str_eq(back.tensor[i].name, name[i]);
        expect_tensor(&back.tensor[i], &arrays[i]);
    }
    ck_assert_ptr_eq(nn_tensors_find(&back, name[3]), &back.tensor[3]);
    ck_assert_ptr_null(nn_tensors_find(&back, "y"));
    FILE *f = fopen(path, "rb");
    size_t n = fread(first, 1, sizeof first, f);
    fclose(f);
    ck_assert_int_eq(nn_write_npz(path, &back, _i, error, sizeof error), 0);
    f = fopen(path, "rb");
    ck_assert_uint_eq(fread(second, 1, sizeof second, f), n);
    fclose(f);
    ck_assert_mem_eq(first, second, n);
    nn_tensors_clear(&back);
    ck_assert(back.count == 0 && !back.tensor);
    arrays[0].name = (char *)"\xff";
    ck_assert_int_eq(nn_write_npz(path, &t, _i, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_npz: array '\xff' cannot be packed: Invalid argument (is its "
                            "name UTF-8?)");
    ck_assert_int_eq(nn_read_npz(path, &back, error, sizeof error), 0); /* the old one is there */
    nn_tensors_clear(&back);
}
END_TEST

/* An archive of one stored entry "NAME.npy" that can be damaged. */
static size_t make_npz(unsigned char file[1000])
{
    uint8_t data[] = { 5, 6 };
    nn_tensor array = { .name = (char *)"ab", .type = NN_U8, .shape = AD_SHAPE(2), .data = data };
    nn_tensors t = { 1, &array };
    ck_assert_int_eq(nn_write_npz(path, &t, false, error, sizeof error), 0);
    FILE *f = fopen(path, "rb");
    size_t n = fread(file, 1, 1000, f);
    fclose(f);
    return n;
}

static void change(unsigned char *file, size_t size, const char *from, const char *to)
{
    size_t n = strlen(from);
    int found = 0;
    for (size_t i = 0; i + n <= size; i++) {
        if (memcmp(file + i, from, n) != 0) continue;
        memcpy(file + i, to, n);
        found++;
    }
    ck_assert_int_eq(found, 2); /* the entry, and the directory */
}

START_TEST(refuses_npz)
{
    unsigned char file[1000];
    size_t n = make_npz(file);
    nn_tensors t;
    put(file, n - 1);
    ck_assert_int_eq(nn_read_npz(path, &t, error, sizeof error), -1);
    ck_assert(!t.tensor && strncmp(error, path, strlen(path)) == 0);
    file[30 + 6 + 128] ^= 1; /* the first number */
    put(file, n);
    ck_assert_int_eq(nn_read_npz(path, &t, error, sizeof error), -1);
    expect_error(": 'ab.npy': CRC error");
    file[30 + 6 + 128] ^= 1;
    change(file, n, "ab.npy", "ab.txt");
    put(file, n);
    ck_assert_int_eq(nn_read_npz(path, &t, error, sizeof error), -1);
    expect_error(": 'ab.txt' is no array: its name does not end with .npy");
    put("PK", 2);
    ck_assert_int_eq(nn_read_npz(path, &t, error, sizeof error), -1);
    expect_error(": Not a zip archive");
    ck_assert_int_eq(nn_read_npz("/dev/zero", &t, error, sizeof error), -1);
    ck_assert_str_eq(error, "/dev/zero: not a regular file");
    unlink(path);
    ck_assert_int_eq(nn_read_npz(path, &t, error, sizeof error), -1);
    expect_error(": No such file or directory");
}
END_TEST
#endif

int main(void)
{
    TCase *tests = suite_case("numpy", "numpy");
    tcase_add_checked_fixture(tests, make_directory, remove_directory);
    tcase_add_loop_test(tests, reads_npy, 0, sizeof npy / sizeof *npy);
    tcase_add_loop_test(tests, refuses_npy, 0, sizeof bad_npy / sizeof *bad_npy);
    tcase_add_loop_test(tests, npy_round_trip, 0, NN_BOOL + 1);
    tcase_add_test(tests, npy_bytes);
    tcase_add_test(tests, writing_refuses);
    tcase_add_test(tests, npz_refuses_calls);
#ifdef NN_LIBZIP
    tcase_add_loop_test(tests, npz_round_trip, 0, 2);
    tcase_add_test(tests, refuses_npz);
#endif
    return suite_run();
}
