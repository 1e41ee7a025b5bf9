/* Files that somebody has damaged, format by format: cut at every length, with bits turned, bytes
 * and lengths replaced, pieces taken out and put in. A reader gives an error that begins with the
 * file's name and an empty result, or arrays that are whole; it never crashes, and nothing is left
 * allocated. And the disk that is full, or the signal that comes, while a file is written: the one
 * that was there before stays. */
#define _GNU_SOURCE
#define TESTS_COUNT_ALLOCATIONS
#include "nn/nn.h"
#include "tests/support.h"
#include <dirent.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

static char directory[64], path[100], error[600];

static void make_directory(void)
{
    strcpy(directory, "/tmp/costate-hostile-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    snprintf(path, sizeof path, "%s/file.ppm", directory);
}

static int count_files(void)
{
    DIR *d = opendir(directory);
    int n = 0;
    while (readdir(d)) n++;
    closedir(d);
    return n - 2; /* . and .. */
}

static void remove_directory(void)
{
    DIR *d = opendir(directory);
    struct dirent *entry;
    while ((entry = readdir(d))) {
        char name[400];
        snprintf(name, sizeof name, "%s/%s", directory, entry->d_name);
        if (entry->d_name[0] != '.') unlink(name);
    }
    closedir(d);
    ck_assert_int_eq(rmdir(directory), 0);
}

enum { ROOM = 4096 };
typedef struct {
    unsigned char byte[ROOM];
    size_t size;
} bytes;

static void put(const bytes *b)
{
    unlink(path); /* many file systems bring a file that is overwritten to the disk at once */
    FILE *f = fopen(path, "wb");
    ck_assert_ptr_nonnull(f);
    ck_assert_uint_eq(fwrite(b->byte, 1, b->size, f), b->size);
    ck_assert_int_eq(fclose(f), 0);
}

static void get(bytes *b)
{
    FILE *f = fopen(path, "rb");
    ck_assert_ptr_nonnull(f);
    b->size = fread(b->byte, 1, ROOM, f);
    ck_assert_uint_lt(b->size, ROOM);
    fclose(f);
}

/* ---- formats --------------------------------------------------------------------------------- */

static uint16_t numbers[6] = { 1, 2, 515, 65535, 0, 256 };
static uint8_t flags[4] = { 0, 1, 1, 0 };
static double reals[2] = { -1.5, 1e300 };

static nn_tensors two_arrays(void)
{
    static nn_tensor array[] = {
        { (char *)"numbers", NN_U16, { 2, { 2, 3 } }, numbers },
        { (char *)"layer.flags", NN_BOOL, { 1, { 4 } }, flags },
        { (char *)"real", NN_F64, { 2, { 1, 2 } }, reals },
    };
    return (nn_tensors){ 3, array };
}

static void put_text(const char *text, size_t size)
{
    bytes b = { .size = size };
    memcpy(b.byte, text, size);
    put(&b);
}
#define PUT(text) put_text(text, sizeof text - 1)

static void make_idx(void) { PUT("\0\0\x0b\x02\0\0\0\x02\0\0\0\x03\0\1\0\2\2\3\x7f\xff\0\0\1\0"); }

static void make_npy(void)
{
    nn_tensors t = two_arrays();
    ck_assert_int_eq(nn_write_npy(path, &t.tensor[0], error, sizeof error), 0);
}

static void make_fortran(void)
{
    PUT("\x93NUMPY\x01\0\x35\0{'descr':'>u2','fortran_order':True,'shape':(2,3,1)}\n"
        "\0\1\xff\xff\0\2\0\0\2\3\1\0");
}

static void make_safetensors(void)
{
    nn_tensors t = two_arrays();
    ck_assert_int_eq(nn_write_safetensors(path, &t, error, sizeof error), 0);
}

static void make_csv(void)
{
    PUT("date;kind;x\r\n2024-01-31;\"a;b\";1.5\r\n# "
        "note\n2024-02-29T06:30;c;NA\r\n2024-03-01;c;-2e3\n");
}

static int sum; /* of all bytes of what has been read, so that they are looked at */

static void look(const void *data, size_t size)
{
    for (size_t i = 0; i < size; i++) sum += ((const unsigned char *)data)[i];
}

static void look_at_tensor(const nn_tensor *t)
{
    int64_t n = nn_tensor_count(t);
    ck_assert_int_ge(n, 0);
    ck_assert_ptr_nonnull(t->data);
    look(t->data, (size_t)n * nn_type_bytes(t->type));
}

static int finish_tensor(int result, nn_tensor *t)
{
    if (result == 0) look_at_tensor(t);
    else ck_assert(!t->data && !t->name && t->shape.rank == 0);
    nn_tensor_clear(t);
    return result;
}

static int read_idx(void)
{
    nn_tensor t;
    return finish_tensor(nn_read_idx(path, &t, error, sizeof error), &t);
}

static int read_npy(void)
{
    nn_tensor t;
    return finish_tensor(nn_read_npy(path, &t, error, sizeof error), &t);
}

static int finish_tensors(int result, nn_tensors *t)
{
    ck_assert(result == 0 || (!t->tensor && t->count == 0));
    for (int64_t i = 0; i < t->count; i++) {
        look_at_tensor(&t->tensor[i]);
        look(t->tensor[i].name, strlen(t->tensor[i].name));
    }
    nn_tensors_clear(t);
    return result;
}

static int read_safetensors(void)
{
    nn_tensors t;
    return finish_tensors(nn_read_safetensors(path, &t, error, sizeof error), &t);
}

static int map_npy(void)
{
    nn_mapped *m = nn_map_npy(path, error, sizeof error);
    if (!m) return -1;
    int64_t rows = nn_mapped_rows(m), last = rows - 1;
    ad_shape shape = nn_mapped_shape(m);
    size_t n = 1;
    for (int i = 1; i < shape.rank; i++) n *= (size_t)shape.dim[i];
    double *out = malloc(n * sizeof *out);
    int result = nn_mapped_fetch(m, 1, &last, out, error, sizeof error);
    if (result == 0) look(out, n * (nn_mapped_dtype(m) == AD_F32 ? 4 : 8));
    free(out);
    nn_mapped_free(m);
    return result;
}

static int read_csv(void)
{
    static const nn_csv_column columns[] = { { .name = "date", .kind = NN_YEARS },
                                             { .name = "kind", .kind = NN_CLASS } };
    static const nn_csv_options options = { .ncolumn = 2, .columns = columns, .missing = true };
    nn_table t;
    int result = nn_read_csv(path, &options, &t, error, sizeof error);
    ck_assert(result == 0 || !t.data);
    look(t.data, (size_t)(t.rows * t.columns) * sizeof(double));
    for (int64_t j = 0; j < t.columns; j++) {
        look(t.names[j], strlen(t.names[j]));
        for (int64_t k = 0; k < t.classes[j].count; k++)
            look(t.classes[j].name[k], strlen(t.classes[j].name[k]));
    }
    nn_table_clear(&t);
    return result;
}

static nn_theta *weights; /* w [2,3] and b [3], made once */

static void make_weights(void)
{
    nn_model *model = nn_model_new();
    nn_model_add(model, "w", AD_SHAPE(2, 3), nn_init_he_uniform, 2, 3);
    nn_model_add(model, "b", AD_SHAPE(3), nn_init_zeros, 2, 3);
    ad_rng rng = ad_rng_seed(1);
    weights = nn_theta_new(model, AD_F32, &rng);
    nn_model_free(model);
    ck_assert_int_eq(nn_save(path, weights, error, sizeof error), 0);
}

/* A theta that could not be loaded is as it was. */
static int read_weights(void)
{
    double before[32], after[32];
    ck_assert_int_eq(nn_theta_get(weights, NULL, 32, before), 0);
    int result = nn_load(path, weights, error, sizeof error);
    ck_assert_int_eq(nn_theta_get(weights, NULL, 32, after), 0);
    for (int i = 0; i < 32; i++) ck_assert(isfinite(after[i]));
    if (result) ck_assert_mem_eq(before, after, sizeof before);
    return result;
}

#ifdef NN_ZLIB
/* gzip -n of make_idx's file, with its checksum. */
static void make_gzip(void)
{
    PUT("\x1f\x8b\x08\x00\x00\x00\x00\x00\x00\x03\x63\x60\xe0\x66\x62\x60\x60\x00\x61\x66\x06\x46"
        "\x06\x26\x26\xe6\xfa\xff\x0c\x40\x06\x00\x6b\x1f\x76\x1b\x18\x00\x00\x00");
}
#endif

#ifdef NN_LIBZIP
static void make_npz(void)
{
    nn_tensors t = two_arrays();
    ck_assert_int_eq(nn_write_npz(path, &t, false, error, sizeof error), 0);
}

static void make_packed(void)
{
    nn_tensors t = two_arrays();
    ck_assert_int_eq(nn_write_npz(path, &t, true, error, sizeof error), 0);
}

static int read_npz(void)
{
    nn_tensors t;
    return finish_tensors(nn_read_npz(path, &t, error, sizeof error), &t);
}
#endif

static const struct {
    const char *name;
    void (*make)(void);
    int (*read)(void);
    bool checked; /* has checksums: what is read has not been changed */
} formats[] = {
    { "idx", make_idx, read_idx, false },
    { "npy", make_npy, read_npy, false },
    { "Fortran order", make_fortran, read_npy, false },
    { "mapped npy", make_npy, map_npy, false },
    { "safetensors", make_safetensors, read_safetensors, false },
    { "weights", make_weights, read_weights, false },
    { "csv", make_csv, read_csv, false },
#ifdef NN_ZLIB
    { "gzip", make_gzip, read_idx, true },
#endif
#ifdef NN_LIBZIP
    { "npz", make_npz, read_npz, true },
    { "packed npz", make_packed, read_npz, true },
#endif
};

/* ---- damage ---------------------------------------------------------------------------------- */

static size_t below(ad_rng *rng, size_t n) { return (size_t)ad_rng_below(rng, n); }

/* Overwrites what may be a length. */
static void change_length(bytes *b, ad_rng *rng)
{
    static const uint64_t values[] = { 0,          1,
                                       0x7f,       0xff,
                                       0xffff,     INT32_MAX,
                                       UINT32_MAX, UINT64_C(1) << 32,
                                       INT64_MAX,  UINT64_C(1) << 63,
                                       UINT64_MAX };
    uint64_t value = values[below(rng, sizeof values / sizeof values[0])];
    size_t width = (size_t)1 << below(rng, 4);
    if (b->size < width) return;
    size_t at = below(rng, b->size - width + 1);
    bool big_endian = below(rng, 2);
    for (size_t i = 0; i < width; i++)
        b->byte[at + (big_endian ? width - 1 - i : i)] = (unsigned char)(value >> (8 * i));
}

static void change_piece(bytes *b, ad_rng *rng)
{
    size_t n = 1 + below(rng, 16), at = below(rng, b->size + 1);
    if (below(rng, 2)) { /* out */
        if (n > b->size - at) n = b->size - at;
        memmove(b->byte + at, b->byte + at + n, b->size - at - n);
        b->size -= n;
    } else if (b->size + n <= ROOM && b->size >= n) { /* in, from elsewhere */
        unsigned char piece[16];
        memcpy(piece, b->byte + below(rng, b->size - n + 1), n);
        memmove(b->byte + at + n, b->byte + at, b->size - at);
        memcpy(b->byte + at, piece, n);
        b->size += n;
    }
}

static void damage(bytes *b, ad_rng *rng)
{
    size_t times = 1 + below(rng, 3);
    for (size_t i = 0; i < times && b->size > 0; i++) {
        size_t at = below(rng, b->size);
        switch (below(rng, 5)) {
        case 0:
        case 1: b->byte[at] ^= (unsigned char)(1 << below(rng, 8)); break;
        case 2: b->byte[at] = (unsigned char)below(rng, 256); break;
        case 3: change_length(b, rng); break;
        default: change_piece(b, rng); break;
        }
    }
}

/* Reads the file as it is now: what must hold. true: it could be read. */
static bool read_damaged(int format, int expected_sum)
{
    strcpy(error, "");
    sum = 0;
    long before = allocations_live();
    int result = formats[format].read();
    ck_assert_int_eq(allocations_live(), before);
    if (result) {
        ck_assert_int_eq(result, -1);
        ck_assert_msg(strncmp(error, path, strlen(path)) == 0 && strlen(error) > strlen(path) + 2,
                      "%s", error);
    } else if (formats[format].checked) {
        ck_assert_int_eq(sum, expected_sum);
    }
    return result == 0;
}

START_TEST(survives)
{
    enum { TIMES = 3000 };
    bytes whole, damaged;
    ad_rng rng = ad_rng_seed(7 + (uint64_t)_i);
    int readable = 0, expected_sum;
    formats[_i].make();
    get(&whole);
    ck_assert_msg(formats[_i].read() == 0, "%s: %s", formats[_i].name, error);
    ck_assert(read_damaged(_i, sum));
    expected_sum = sum;
    for (size_t size = 0; size < whole.size; size++) {
        damaged = whole;
        damaged.size = size;
        put(&damaged);
        readable += read_damaged(_i, expected_sum);
    }
    /* Text may end anywhere; anything else is known to be cut. */
    if (formats[_i].read != read_csv) ck_assert_int_eq(readable, 0);
    for (int i = 0; i < TIMES; i++) {
        damaged = whole;
        damage(&damaged, &rng);
        put(&damaged);
        readable += read_damaged(_i, expected_sum);
    }
    ck_assert_msg(readable < TIMES, "%s: all of them could be read", formats[_i].name);
    nn_theta_free(weights);
    weights = NULL;
}
END_TEST

/* ---- writing --------------------------------------------------------------------------------- */

enum { MANY = 100000 };
static double many[MANY]; /* far more than LIMIT, also when deflated */
static nn_tensor big = { (char *)"big", NN_F64, { 1, { MANY } }, many };

static int write_npy(void) { return nn_write_npy(path, &big, error, sizeof error); }

static int write_safetensors(void)
{
    return nn_write_safetensors(path, &(nn_tensors){ 1, &big }, error, sizeof error);
}

static int write_csv(void)
{
    nn_table t = { .rows = MANY, .columns = 1, .data = many };
    return nn_write_csv(path, &t, error, sizeof error);
}

static int write_sheet(void)
{
    nn_tensor images = big;
    images.shape = AD_SHAPE(2, 100, 100, 3);
    return nn_write_sheet(path, &images, NULL, error, sizeof error);
}

#ifdef NN_LIBZIP
static int write_npz(void)
{
    return nn_write_npz(path, &(nn_tensors){ 1, &big }, true, error, sizeof error);
}
#endif
#ifdef NN_LIBPNG
static int write_png(void)
{
    snprintf(path, sizeof path, "%s/file.png", directory);
    return write_sheet();
}
#endif

static int (*const writers[])(void) = {
    write_npy, write_safetensors, write_csv, write_sheet,
#ifdef NN_LIBZIP
    write_npz,
#endif
#ifdef NN_LIBPNG
    write_png,
#endif
};

static void make_numbers(void)
{
    ad_rng rng = ad_rng_seed(1);
    for (int i = 0; i < MANY; i++) many[i] = ad_rng_uniform(&rng);
}

static void expect_old(void)
{
    bytes b;
    get(&b);
    ck_assert_uint_eq(b.size, 3);
    ck_assert_mem_eq(b.byte, "old", 3);
}

enum { LIMIT = 8192 };

/* A disk that is full after LIMIT bytes. */
START_TEST(full_disk)
{
    make_numbers();
    ck_assert_int_eq(writers[_i](), 0); /* and the path is what this writer takes */
    PUT("old");
    struct rlimit before;
    ck_assert_int_eq(getrlimit(RLIMIT_FSIZE, &before), 0);
    signal(SIGXFSZ, SIG_IGN);
    setrlimit(RLIMIT_FSIZE, &(struct rlimit){ LIMIT, before.rlim_max });
    const int failed = writers[_i]();
    setrlimit(RLIMIT_FSIZE, &before); /* tests may share a process (CK_FORK=no) */
    signal(SIGXFSZ, SIG_DFL);
    ck_assert_int_eq(failed, -1);
    ck_assert_msg(strstr(error, "File too large") != NULL, "%s", error);
    expect_old();
    ck_assert_int_eq(count_files(), 1);
}
END_TEST

/* A signal that ends the process in the middle of the file. */
START_TEST(signal_while_writing)
{
    make_numbers();
    ck_assert_int_eq(writers[_i](), 0);
    PUT("old");
    pid_t child = fork();
    if (child == 0) {
        signal(SIGXFSZ, SIG_DFL);
        setrlimit(RLIMIT_CORE, &(struct rlimit){ 0, 0 });
        setrlimit(RLIMIT_FSIZE, &(struct rlimit){ LIMIT, LIMIT });
        writers[_i]();
        _exit(0);
    }
    int status;
    ck_assert_int_eq(waitpid(child, &status, 0), child);
    ck_assert(WIFSIGNALED(status) && WTERMSIG(status) == SIGXFSZ);
    expect_old();
}
END_TEST

#define COUNT(a) (int)(sizeof(a) / sizeof(a)[0])

int main(void)
{
    TCase *tests = suite_case("hostile_files", "hostile files");
    tcase_add_checked_fixture(tests, make_directory, remove_directory);
    tcase_add_loop_test(tests, survives, 0, COUNT(formats));
    tcase_add_loop_test(tests, full_disk, 0, COUNT(writers));
    tcase_add_loop_test(tests, signal_while_writing, 0, COUNT(writers));
    return suite_run();
}
