/* theta and other arrays in safetensors files; above all, what is wrong with them and what is said
 * about it. (tests/exchange.sh has the package safetensors itself.) */
#define _GNU_SOURCE
#include "nn/nn.h"
#include "tests/nn/one_file.h"
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- safetensors ----------------------------------------------------------------------------- */

static nn_model *make_model(void)
{
    nn_model *m = nn_model_new();
    nn_model_add(m, "w", AD_SHAPE(2, 3), nn_init_zeros, 2, 3);
    nn_model_add(m, "b", AD_SHAPE(3), nn_init_zeros, 2, 3);
    ck_assert_ptr_null(nn_model_error(m));
    return m;
}

enum { SIZE = 32 }; /* of make_model's theta: 6 padded to 16, 3 padded to 16 */

/* A theta of this model with different numbers in it. */
static nn_theta *make_theta(const nn_model *m, ad_dtype dtype)
{
    nn_theta *theta = nn_theta_new(m, dtype, NULL);
    double values[SIZE];
    for (int i = 0; i < SIZE; i++) {
        bool padding = (i >= 6 && i < 16) || i >= 19;
        values[i] = padding ? 0 : 1.0 / (i + 3);
    }
    ck_assert_int_eq(nn_theta_set(theta, NULL, SIZE, values), 0);
    return theta;
}

static void expect_same(nn_theta *a, nn_theta *b, bool rounded)
{
    double x[SIZE], y[SIZE];
    ck_assert_int_eq(nn_theta_get(a, NULL, SIZE, x), 0);
    ck_assert_int_eq(nn_theta_get(b, NULL, SIZE, y), 0);
    for (int i = 0; i < SIZE; i++) ck_assert_double_eq(rounded ? (float)x[i] : x[i], y[i]);
}

/* Each type is saved and loaded into both. */
START_TEST(round_trip)
{
    static const ad_dtype types[] = { AD_F32, AD_F64 };
    nn_model *m = make_model();
    ck_assert_int_eq(nn_model_size(m), SIZE);
    for (int from = 0; from < 2; from++) {
        for (int to = 0; to < 2; to++) {
            nn_theta *theta = make_theta(m, types[from]), *back = nn_theta_new(m, types[to], NULL);
            ck_assert_msg(nn_save(path, theta, error, sizeof error) == 0, "%s", error);
            ck_assert_msg(nn_load(path, back, error, sizeof error) == 0, "%s", error);
            expect_same(theta, back, from > to);
            nn_theta_free(theta);
            nn_theta_free(back);
        }
    }
    ck_assert_int_eq(count_files(), 1);
    nn_model_free(m);
}
END_TEST

/* What is written, byte by byte. */
START_TEST(bytes)
{
    static const char header[] =
        "{\"w\":{\"dtype\":\"F32\",\"shape\":[1,2],\"data_offsets\":[0,8]}}";
    nn_model *m = nn_model_new();
    nn_model_add(m, "w", AD_SHAPE(1, 2), nn_init_zeros, 1, 2);
    nn_theta *theta = nn_theta_new(m, AD_F32, NULL);
    char text[200];
    ck_assert_int_eq(nn_theta_set(theta, "w", 2, (double[]){ 1, -2 }), 0);
    ck_assert_int_eq(nn_save(path, theta, error, sizeof error), 0);
    size_t n = strlen(header), padded = (n + 7) / 8 * 8;
    ck_assert_uint_eq(get(text, sizeof text), 8 + padded + 8);
    ck_assert_mem_eq(text, ((char[]){ (char)padded, 0, 0, 0, 0, 0, 0, 0 }), 8);
    ck_assert_mem_eq(text + 8, header, n);
    for (size_t i = n; i < padded; i++) ck_assert_int_eq(text[8 + i], ' ');
    ck_assert_mem_eq(text + 8 + padded, "\0\0\x80\x3f\0\0\0\xc0", 8);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* A safetensors file with this header and `size` zero bytes of data; the length written is the
 * header's plus `lie`. */
static void put_tensors(const char *header, size_t size, int64_t lie)
{
    char file[2000] = { 0 };
    uint64_t length = strlen(header) + (uint64_t)lie;
    memcpy(file, &length, 8);
    snprintf(file + 8, sizeof file - 8, "%s", header);
    put(file, 8 + strlen(header) + size);
}

#define W "\"w\":{\"dtype\":\"F32\",\"shape\":[2,3],\"data_offsets\":[0,24]}"
#define B "\"b\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[24,36]}"
#define WITH_B(dtype, shape, offsets)                                                              \
    "{" W ",\"b\":{\"dtype\":" dtype ",\"shape\":" shape ",\"data_offsets\":" offsets "}}"

typedef struct {
    const char *header;
    size_t size;
    int64_t lie;
    const char *message; /* a part of it; NULL: the file is good */
} tensors;

static const tensors hostile[] = {
    { "{" W "," B "}", 36, 0, NULL },
    { "{" B "," W ",\"__metadata__\":{\"format\":\"pt\"}}", 36, 0, NULL },
    { "{" W "," B "}", 36, 1000, "truncated, or not a safetensors file" },
    { "{" W "," B "}", 36, INT64_MAX, "truncated, or not a safetensors file" },
    { "{" W "," B "}", 36, -1000, "truncated, or not a safetensors file" },
    { "{" W "," B "}", 36, -1, "the header is not JSON" },
    { "{" W "," B "}", 36, 5, "there is a zero byte in the header" },
    { "{" W "," B "}", 35, 0,
      "the data_offsets of 'b' are not two places, in order, in the 35 bytes of data" },
    { "{" W "," B "}", 40, 0, "4 bytes at the end belong to no array" },
    { "{" W "}", 24, 0, "the model's parameter 'b' is not in the file" },
    { "{}", 0, 0, "the model's parameter 'w' is not in the file" },
    { "[1]", 0, 0, "the header is not a JSON object" },
    { "", 0, 0, "the header is not JSON" },
    { "{" W "," B ",\"c\":{\"dtype\":\"F32\",\"shape\":[1],\"data_offsets\":[36,40]}}", 40, 0,
      "'c' is in the file, but not in the model" },
    { "{" W "," W "," B "}", 36, 0, "repeats a name" },
    { "{" W ",\"b\":7}", 36, 0, "'b' has no dtype" },
    { WITH_B("7", "[3]", "[24,36]"), 36, 0, "'b' has no dtype" },
    { WITH_B("\"F8_E4M3\"", "[12]", "[24,36]"), 36, 0,
      "'b' has dtype F8_E4M3; F16, BF16, F32, F64, BOOL, and I and U of 8, 16, 32, 64 are read" },
    { WITH_B("\"F32\"", "[3,1]", "[24,36]"), 36, 0,
      "'b' is [3,1] in the file, but [3] in the model" },
    { WITH_B("\"F32\"", "[2]", "[24,32]"), 32, 0, "'b' is [2] in the file, but [3] in the model" },
    { WITH_B("\"F32\"", "[4]", "[24,36]"), 36, 0,
      "'b' needs 16 bytes for its shape and dtype, but its data_offsets span 12" },
    { WITH_B("\"F64\"", "[3]", "[24,36]"), 36, 0, "'b' needs 24 bytes" },
    { WITH_B("\"F32\"", "[-3]", "[24,36]"), 36, 0, "the shape of 'b' is not a list" },
    { WITH_B("\"F32\"", "[3.0]", "[24,36]"), 36, 0, "the shape of 'b' is not a list" },
    { WITH_B("\"F32\"", "3", "[24,36]"), 36, 0, "the shape of 'b' is not a list" },
    { WITH_B("\"F32\"", "[4611686018427387904,4]", "[24,36]"), 36, 0,
      "the shape of 'b' is not a list" },
    { WITH_B("\"F32\"", "[1,1,1,1,1,1,1,1,3]", "[24,36]"), 36, 0,
      "the shape of 'b' is not a list" },
    { WITH_B("\"F32\"", "[99999999999999999999]", "[24,36]"), 36, 0, "the header is not JSON" },
    { WITH_B("\"I32\"", "[3]", "[24,36]"), 36, 0,
      "'b' has dtype I32; parameters are read from F16, BF16, F32 and F64" },
    { WITH_B("\"F32\"", "[4294967296,4294967296]", "[24,36]"), 36, 0,
      "that fit into the file: [4294967296,4294967296]" },
    { WITH_B("\"F32\"", "[3]", "[36,24]"), 36, 0,
      "the data_offsets of 'b' are not two places, in order, in the 36 bytes of data: [36,24]" },
    { WITH_B("\"F32\"", "[3]", "[24,\"36\"]"), 36, 0, "in the 36 bytes of data: [24,\"36\"]" },
    { "{\"\xff\":7}", 0, 0, "unable to decode byte 0xff" },
    { "{\"a\\u0000b\":7}", 0, 0, "the header is not JSON" },
    { WITH_B("\"F32\",\"dtype\":\"F64\"", "[3]", "[24,36]"), 36, 0, "repeats a name" },
    { WITH_B("\"F32\"", "[3]", "[-12,0]"), 36, 0, "the data_offsets of 'b'" },
    { WITH_B("\"F32\"", "[3]", "[24]"), 36, 0, "the data_offsets of 'b'" },
    { WITH_B("\"F32\"", "[3]", "[24,9223372036854775807]"), 36, 0, "the data_offsets of 'b'" },
    { WITH_B("\"F32\"", "[3]", "[12,24]"), 24, 0,
      "the data of 'b' overlap another array's: they begin at byte 12, those end at 24" },
    { WITH_B("\"F32\"", "[3]", "[28,40]"), 40, 0, "the data of 'b' follow a gap of 4 bytes" },
};

START_TEST(refuses_tensors)
{
    const tensors *h = &hostile[_i];
    nn_model *m = make_model();
    nn_theta *theta = make_theta(m, AD_F32), *before = nn_theta_copy(theta),
             *zero = nn_theta_new(m, AD_F32, NULL);
    put_tensors(h->header, h->size, h->lie);
    int result = nn_load(path, theta, error, sizeof error);
    if (!h->message) {
        ck_assert_msg(result == 0, "%s", error);
        expect_same(theta, zero, false);
    } else {
        ck_assert_int_eq(result, -1);
        ck_assert_msg(strstr(error, h->message) && strncmp(error, path, strlen(path)) == 0, "%s",
                      error);
        expect_same(theta, before, false);
    }
    nn_theta_free(theta);
    nn_theta_free(before);
    nn_theta_free(zero);
    nn_model_free(m);
}
END_TEST

/* Every file that is a beginning of a good one is refused. */
START_TEST(refuses_truncated)
{
    nn_model *m = make_model();
    nn_theta *theta = make_theta(m, AD_F32);
    char file[500];
    ck_assert_int_eq(nn_save(path, theta, error, sizeof error), 0);
    size_t n = get(file, sizeof file);
    for (size_t i = 0; i < n; i++) {
        put(file, i);
        ck_assert_int_eq(nn_load(path, theta, error, sizeof error), -1);
    }
    put(file, n);
    ck_assert_int_eq(nn_load(path, theta, error, sizeof error), 0);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

START_TEST(refuses_numbers)
{
    nn_model *m = make_model();
    nn_theta *f64 = make_theta(m, AD_F64), *f32 = make_theta(m, AD_F32);
    double *b = nn_theta_f64(f64, "b");
    b[1] = 1e300; /* a good double, no float */
    ck_assert_int_eq(nn_save(path, f64, error, sizeof error), 0);
    ck_assert_int_eq(nn_load(path, f32, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "element 1 of 'b' is 1e+300"));
    b[1] = INFINITY;
    ck_assert_int_eq(nn_save(path, f64, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "nn_save: 'b' holds inf"));
    b[1] = 0;
    ck_assert_int_eq(nn_load(path, f64, error, sizeof error), 0); /* the file from before */
    ck_assert_double_eq(b[1], 1e300);
    nn_theta_free(f64);
    nn_theta_free(f32);
    nn_model_free(m);
}
END_TEST

/* Headers that other readers refuse too, but with a reason. */
START_TEST(odd_headers)
{
    nn_model *m = make_model();
    nn_theta *theta = make_theta(m, AD_F32);
    static const char header[] = "{" W "," B "}\0\0\0";
    char file[200] = { 0 };
    uint64_t length = sizeof header - 1, many = 126000000;
    memcpy(file, &length, 8);
    memcpy(file + 8, header, length);
    put(file, 8 + length + 36);
    ck_assert_int_eq(nn_load(path, theta, error, sizeof error), -1);
    ck_assert_msg(strstr(error, "there is a zero byte in the header (byte "), "%s", error);
    ck_assert_msg(strstr(error, "; the format pads headers with blanks"), "%s", error);
    put((const char *)&many, 8);
    ck_assert_int_eq(truncate(path, 8 + (off_t)many), 0);
    ck_assert_int_eq(nn_load(path, theta, error, sizeof error), -1);
    ck_assert_msg(
        strstr(
            error,
            "the header's length is 126000000 bytes; the format allows at most 100000000 (100 MB)"),
        "%s", error);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* Sixteen thousand arrays are found by their names, not by looking through all of them. */
START_TEST(many_arrays)
{
    enum { ARRAYS = 16000 };
    nn_model *m = nn_model_new();
    char name[40];
    for (int i = 0; i < ARRAYS; i++) {
        snprintf(name, sizeof name, "blocks.%d.weight", (i * 7919) % ARRAYS);
        nn_model_add(m, name, AD_SHAPE(1), nn_init_zeros, 1, 1);
    }
    ck_assert_ptr_null(nn_model_error(m));
    nn_theta *theta = nn_theta_new(m, AD_F32, NULL), *back = nn_theta_new(m, AD_F32, NULL);
    for (int i = 0; i < ARRAYS; i++) nn_theta_f32(theta, NULL)[16 * i] = (float)i;
    ck_assert_int_eq(nn_save(path, theta, error, sizeof error), 0);
    ck_assert_msg(nn_load(path, back, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(memcmp(nn_theta_data(theta), nn_theta_data(back), ARRAYS * 16 * sizeof(float)),
                     0);
    ck_assert_int_eq(nn_model_find(m, "blocks.7919.weight", NULL), 16);
    ck_assert_int_eq(nn_model_find(m, "blocks.16000.weight", NULL), -1);
    nn_theta_free(theta);
    nn_theta_free(back);
    nn_model_free(m);
}
END_TEST

START_TEST(refuses_arguments)
{
    nn_model *m = make_model(), *odd = nn_model_new(), *broken = nn_model_new();
    nn_model_add(broken, "", AD_SHAPE(1), nn_init_zeros, 1, 1);
    nn_model_add(odd, "\xff", AD_SHAPE(1), nn_init_zeros, 1, 1);
    nn_theta *theta = make_theta(m, AD_F32), *bad = nn_theta_new(broken, AD_F32, NULL),
             *odd_theta = nn_theta_new(odd, AD_F32, NULL);
    ck_assert_int_eq(nn_save(path, bad, error, sizeof error), -1);
    ck_assert_int_eq(nn_save(path, NULL, error, sizeof error), -1);
    ck_assert_int_eq(nn_save(NULL, theta, error, sizeof error), -1);
    ck_assert_int_eq(nn_load(path, NULL, error, sizeof error), -1);
    ck_assert_int_eq(nn_load(NULL, theta, error, sizeof error), -1);
    ck_assert_int_eq(mkfifo(path, 0600), 0); /* as a device: not to be replaced by a file */
    ck_assert_int_eq(nn_save(path, theta, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "not a regular file"));
    unlink(path);
    ck_assert_int_eq(nn_load(path, theta, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "No such file or directory"));
    ck_assert_int_eq(nn_save(path, odd_theta, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "not UTF-8"));
    ck_assert_int_eq(count_files(), 0);
    nn_theta_free(theta);
    nn_theta_free(bad);
    nn_theta_free(odd_theta);
    nn_model_free(m);
    nn_model_free(odd);
    nn_model_free(broken);
}
END_TEST

/* ---- any arrays ------------------------------------------------------------------------------ */

START_TEST(arrays)
{
    enum { N = NN_BOOL + 1 };
    unsigned char data[N][48];
    char name[N][8];
    nn_tensor all[N];
    for (int i = 0; i < N; i++) {
        for (int k = 0; k < 48; k++) data[i][k] = (unsigned char)(i == NN_BOOL ? k % 2 : 5 * k + i);
        snprintf(name[i], sizeof name[i], "a%d", i);
        all[i] = (nn_tensor){ name[i], (nn_type)i, AD_SHAPE(3, 2), data[i] };
    }
    all[3].shape = AD_SCALAR;
    all[4].shape = AD_SHAPE(3, 0);
    nn_tensors t = { N, all }, back;
    ck_assert_msg(nn_write_safetensors(path, &t, error, sizeof error) == 0, "%s", error);
    ck_assert_msg(nn_read_safetensors(path, &back, error, sizeof error) == 0, "%s", error);
    ck_assert_int_eq(back.count, N);
    size_t before = 8;
    for (int64_t i = 0; i < N; i++) {
        const nn_tensor *got = &back.tensor[i], *wanted = nn_tensors_find(&t, got->name);
        ck_assert_ptr_nonnull(wanted);
        ck_assert_int_eq(got->type, wanted->type);
        ck_assert_int_eq(got->shape.rank, wanted->shape.rank);
        ck_assert_int_eq(nn_tensor_count(got), nn_tensor_count(wanted));
        size_t width = nn_type_bytes(got->type), bytes = width * (size_t)nn_tensor_count(got);
        ck_assert(bytes == 0 || memcmp(got->data, wanted->data, bytes) == 0);
        ck_assert_uint_le(width, before); /* wide elements come first */
        before = width;
    }
    nn_tensors_clear(&back);
    data[NN_BOOL][1] = 2;
    ck_assert_int_eq(nn_write_safetensors(path, &t, error, sizeof error), 0);
    ck_assert_int_eq(nn_read_safetensors(path, &back, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "element 1 of 'a10' is 2, which is no bool"));
    ck_assert(!back.tensor && back.count == 0);
    all[0].name = (char *)"\xff";
    ck_assert_int_eq(nn_write_safetensors(path, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "a name is not UTF-8"));
    all[0].name = (char *)"__metadata__";
    ck_assert_int_eq(nn_write_safetensors(path, &t, error, sizeof error), -1);
    all[0].name = all[1].name;
    ck_assert_int_eq(nn_write_safetensors(path, &t, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_safetensors: two arrays are called 'a1'");
    ck_assert_int_eq(nn_write_safetensors(path, NULL, error, sizeof error), -1);
    ck_assert_int_eq(nn_write_safetensors(NULL, &t, error, sizeof error), -1);
    ck_assert_int_eq(nn_read_safetensors(NULL, &t, error, sizeof error), -1);
    ck_assert_int_eq(nn_read_safetensors(path, NULL, error, sizeof error), -1);
}
END_TEST

/* Brackets in brackets: the reader has a limit, not a stack that overflows. */
START_TEST(deep_header)
{
    enum { DEEP = 1000000 };
    char *file = malloc(8 + DEEP);
    memset(file + 8, '[', DEEP);
    for (int i = 0; i < 8; i++) file[i] = (char)((int64_t)DEEP >> (8 * i));
    put(file, 8 + DEEP);
    nn_tensors t;
    ck_assert_int_eq(nn_read_safetensors(path, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "maximum parsing depth reached"));
    free(file);
}
END_TEST

/* ---- whole or not at all --------------------------------------------------------------------- */

/* A disk that is full after 4096 bytes. */
START_TEST(full_disk)
{
    nn_model *m = nn_model_new();
    nn_model_add(m, "w", AD_SHAPE(4096), nn_init_zeros, 1, 1);
    nn_theta *theta = nn_theta_new(m, AD_F32, NULL);
    double cell[1] = { 0 };
    nn_table t = { .rows = 1, .columns = 1, .data = cell };
    char text[16];
    put("old", 3);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){ 4096, 4096 });
    ck_assert_int_eq(nn_save(path, theta, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "cannot be written: File too large"));
    t.data = calloc(4096, sizeof *t.data);
    t.rows = 4096;
    ck_assert_int_eq(nn_write_csv(path, &t, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "cannot be written: File too large"));
    ck_assert_uint_eq(get(text, sizeof text), 3);
    ck_assert_mem_eq(text, "old", 3);
    ck_assert_int_eq(count_files(), 1);
    free(t.data);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* Directories that do not exist or (for all but root, whom modes do not stop) cannot be written. */
START_TEST(unwritable)
{
    nn_model *m = make_model();
    nn_theta *theta = make_theta(m, AD_F32);
    char missing[200], text[16];
    snprintf(missing, sizeof missing, "%s/none/file", directory);
    ck_assert_int_eq(nn_save(missing, theta, error, sizeof error), -1);
    ck_assert_ptr_nonnull(strstr(error, "cannot be written: No such file or directory"));
    put("old", 3);
    chmod(directory, 0500);
    if (access(directory, W_OK) != 0) {
        ck_assert_int_eq(nn_save(path, theta, error, sizeof error), -1);
        ck_assert_ptr_nonnull(strstr(error, "cannot be written: Permission denied"));
        ck_assert_uint_eq(get(text, sizeof text), 3);
    }
    chmod(directory, 0700);
    ck_assert_int_eq(count_files(), 1);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

/* Through a symbolic link the file behind it is replaced, and the mode is what the umask gives. */
START_TEST(links_and_modes)
{
    nn_model *m = make_model();
    nn_theta *theta = make_theta(m, AD_F32);
    char link[200];
    struct stat status;
    snprintf(link, sizeof link, "%s/link", directory);
    put("old", 3);
    ck_assert_int_eq(symlink(path, link), 0);
    umask(027);
    ck_assert_int_eq(nn_save(link, theta, error, sizeof error), 0);
    ck_assert(lstat(link, &status) == 0 && S_ISLNK(status.st_mode));
    ck_assert(stat(path, &status) == 0 && status.st_size > 3);
    ck_assert_int_eq(status.st_mode & 0777, 0640);
    unlink(link);
    nn_theta_free(theta);
    nn_model_free(m);
}
END_TEST

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

int main(void)
{
    TCase *st = suite_case("safetensors", "safetensors");
    tcase_add_checked_fixture(st, make_directory, remove_directory);
    tcase_add_test(st, round_trip);
    tcase_add_test(st, bytes);
    tcase_add_loop_test(st, refuses_tensors, 0, COUNT(hostile));
    tcase_add_test(st, refuses_truncated);
    tcase_add_test(st, refuses_numbers);
    tcase_add_test(st, odd_headers);
    tcase_add_test(st, many_arrays);
    tcase_add_test(st, refuses_arguments);
    tcase_add_test(st, arrays);
    tcase_add_test(st, deep_header);
    tcase_add_test(st, full_disk);
    tcase_add_test(st, unwritable);
    tcase_add_test(st, links_and_modes);
    return suite_run();
}
