/* Sheets of images: where each pixel goes, which level it gets, what is refused. */
#include "nn/nn.h"
#include "tests/support.h"
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#ifdef NN_LIBPNG
#include <png.h>
#endif

static char directory[64], error[512];

static void make_directory(void)
{
    strcpy(directory, "/tmp/costate-sheet-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(directory));
    ck_assert_int_eq(chdir(directory), 0);
    error[0] = 0;
}

static void remove_directory(void)
{
    unlink("sheet.pgm");
    unlink("sheet.ppm");
    unlink("sheet.png");
    ck_assert_int_eq(rmdir(directory), 0); /* fails when something was left behind */
}

static void expect_file(const char *name, const char *bytes, size_t size)
{
    char got[300];
    FILE *f = fopen(name, "rb");
    ck_assert_ptr_nonnull(f);
    size_t n = fread(got, 1, sizeof got, f);
    fclose(f);
    ck_assert_uint_eq(n, size);
    ck_assert_mem_eq(got, bytes, size);
}

#define BYTES(text) text, sizeof text - 1

/* Three images of 1 x 2: two rows of the sheet, the last place empty. */
START_TEST(grey)
{
    float x[] = { 0, 1, 0.5f, -3, 7, 0.25f };
    nn_tensor images = { .type = NN_F32, .shape = AD_SHAPE(3, 1, 2), .data = x };
    ck_assert_msg(nn_write_sheet("sheet.pgm", &images, NULL, error, sizeof error) == 0, "%s",
                  error);
    expect_file("sheet.pgm", BYTES("P5\n4 2\n255\n\x00\xff\x80\x00\xff\x40\x80\x80"));
    nn_sheet_options o = { .across = 3, .gap = 1, .black = 1, .white = -1 };
    ck_assert_msg(nn_write_sheet("sheet.pgm", &images, &o, error, sizeof error) == 0, "%s", error);
    expect_file("sheet.pgm", BYTES("P5\n8 1\n255\n\x80\x00\x80\x40\xff\x80\x00\x60"));
    o = (nn_sheet_options){ .across = 1, .gap = 1, .scale = 2 };
    ck_assert_msg(nn_write_sheet("sheet.pgm", &images, &o, error, sizeof error) == 0, "%s", error);
    expect_file(
        "sheet.pgm",
        BYTES("P5\n4 8\n255\n\x00\x00\xff\xff\x00\x00\xff\xff\x80\x80\x80\x80"
              "\x80\x80\x00\x00\x80\x80\x00\x00\x80\x80\x80\x80\xff\xff\x40\x40\xff\xff\x40\x40"));
}
END_TEST

START_TEST(colour)
{
    uint8_t x[] = { 1, 2, 3, 255, 254, 253 };
    nn_tensor images = { .type = NN_U8, .shape = AD_SHAPE(2, 1, 1, 3), .data = x };
    ck_assert_msg(nn_write_sheet("sheet.ppm", &images, NULL, error, sizeof error) == 0, "%s",
                  error);
    expect_file("sheet.ppm", BYTES("P6\n2 1\n255\n\x01\x02\x03\xff\xfe\xfd"));
    images.shape = AD_SHAPE(6, 1, 1, 1);
    ck_assert_int_eq(nn_write_sheet("sheet.ppm", &images, NULL, error, sizeof error), -1);
    ck_assert_str_eq(error, "nn_write_sheet: sheet.ppm: .pgm is for one channel, .ppm for three; "
                            "the images are [6,1,1,1]");
}
END_TEST

START_TEST(png)
{
    uint8_t x[] = { 1, 2, 3, 255, 254, 253 };
    nn_tensor images = { .type = NN_U8, .shape = AD_SHAPE(2, 1, 1, 3), .data = x };
    int result = nn_write_sheet("sheet.png", &images, NULL, error, sizeof error);
#ifdef NN_LIBPNG
    ck_assert_msg(result == 0, "%s", error);
    png_image image = { .version = PNG_IMAGE_VERSION };
    unsigned char got[6];
    ck_assert(png_image_begin_read_from_file(&image, "sheet.png"));
    ck_assert(image.width == 2 && image.height == 1 && image.format == PNG_FORMAT_RGB);
    ck_assert(png_image_finish_read(&image, NULL, got, 0, NULL));
    ck_assert_mem_eq(got, x, 6);
    images.shape = AD_SHAPE(2, 3, 1);
    ck_assert_int_eq(nn_write_sheet("sheet.png", &images, NULL, error, sizeof error), 0);
    image = (png_image){ .version = PNG_IMAGE_VERSION };
    ck_assert(png_image_begin_read_from_file(&image, "sheet.png"));
    ck_assert(image.width == 2 && image.height == 3 && image.format == PNG_FORMAT_GRAY);
    ck_assert(png_image_finish_read(&image, NULL, got, 0, NULL));
    ck_assert_mem_eq(got, ((unsigned char[]){ 1, 255, 2, 254, 3, 253 }), 6);
#else
    ck_assert_int_eq(result, -1);
    ck_assert_str_eq(error, "nn_write_sheet: sheet.png: this build of costate writes no PNG: "
                            "install libpng (Debian: libpng-dev) and build again, or take a name "
                            "that ends with .pgm or .ppm");
#endif
}
END_TEST

START_TEST(refuses)
{
    double x[] = { 0, 1, NAN, 0 };
    int32_t whole[] = { 1, 2, 3, 4 };
    static const nn_sheet_options same = { .black = 2, .white = 2 }, negative = { .gap = -1 },
                                  huge = { .scale = 1000000 };
    const struct {
        const char *path;
        nn_tensor images;
        const nn_sheet_options *options;
        const char *message;
    } bad[] = {
        { NULL, { .type = NN_F64, .shape = AD_SHAPE(1, 2, 2), .data = x }, NULL, "path is NULL" },
        { "sheet.jpg",
          { .type = NN_F64, .shape = AD_SHAPE(1, 2, 2), .data = x },
          NULL,
          "sheet.jpg: the name must end with .png, .pgm or .ppm" },
        { "sheet.pgm",
          { .type = NN_F64, .shape = AD_SHAPE(2, 2), .data = x },
          NULL,
          "images are [n,height,width], with 1 or 3 channels behind that, not [2,2]" },
        { "sheet.pgm",
          { .type = NN_F64, .shape = AD_SHAPE(1, 1, 2, 2), .data = x },
          NULL,
          "images are [n,height,width], with 1 or 3 channels behind that, not [1,1,2,2]" },
        { "sheet.pgm",
          { .type = NN_F64, .shape = AD_SHAPE(1, 0, 2), .data = x },
          NULL,
          "there are no images in [1,0,2]" },
        { "sheet.pgm",
          { .type = NN_F64, .shape = AD_SHAPE(1, 2, 2) },
          NULL,
          "array '' has no data" },
        { "sheet.pgm",
          { .type = NN_F64, .shape = AD_SHAPE(2, 1, 2), .data = x },
          NULL,
          "element 0 of image 1 (from 0) is nan" },
        { "sheet.pgm",
          { .type = NN_I32, .shape = AD_SHAPE(1, 2, 2), .data = whole },
          NULL,
          "options: which numbers are black and white among the images' i32?" },
        { "sheet.pgm",
          { .type = NN_F64, .shape = AD_SHAPE(1, 2, 2), .data = x },
          &same,
          "options: black is 2, white is 2; they must be two numbers" },
        { "sheet.pgm",
          { .type = NN_F64, .shape = AD_SHAPE(1, 2, 2), .data = x },
          &negative,
          "options: across, gap and scale must be 0 to 1000000" },
        { "sheet.pgm",
          { .type = NN_F64, .shape = AD_SHAPE(1, 2, 2), .data = x },
          &huge,
          "a sheet of 1 x 1 images of 2 x 2 pixels is too large; write fewer of them" },
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        ck_assert_int_eq(
            nn_write_sheet(bad[i].path, &bad[i].images, bad[i].options, error, sizeof error), -1);
        ck_assert_str_eq(error + strlen("nn_write_sheet: "), bad[i].message);
    }
    ck_assert_int_eq(nn_write_sheet("sheet.pgm", NULL, NULL, error, sizeof error), -1);
}
END_TEST

int main(void)
{
    TCase *tests = suite_case("sheet", "sheet");
    tcase_add_checked_fixture(tests, make_directory, remove_directory);
    tcase_add_test(tests, grey);
    tcase_add_test(tests, colour);
    tcase_add_test(tests, png);
    tcase_add_test(tests, refuses);
    return suite_run();
}
