/* Sheets of images: many small pictures side by side in one file, as Netpbm's grey or colour maps,
 * or as PNG, which libpng writes. */
#include "nn/base/file.h"
#include "nn/base/tensor.h"
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

typedef enum { PGM, PPM, PNG } format;

/* The images and the sheet that is made of them. */
typedef struct {
    const char *path;
    char *error;
    size_t error_size;
    const nn_tensor *images;
    nn_sheet_options options;
    format format;
    int64_t rows, height, width, channels; /* of the images */
    int64_t across, down;                  /* images of the sheet */
    int64_t sheet_height, sheet_width;     /* pixels of the sheet */
    double black, white;
    unsigned char *pixels; /* [sheet_height,sheet_width,channels] */
} sheet;

#define FAIL(s, ...) nn_error((s)->error, (s)->error_size, "nn_write_sheet: " __VA_ARGS__)

static bool ends(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);
    return n >= m && strcmp(path + n - m, ending) == 0;
}

static int choose_format(sheet *s)
{
    if (!s->path) return FAIL(s, "path is NULL");
    if (ends(s->path, ".png")) s->format = PNG;
    else if (ends(s->path, ".pgm")) s->format = PGM;
    else if (ends(s->path, ".ppm")) s->format = PPM;
    else return FAIL(s, "%s: the name must end with .png, .pgm or .ppm", s->path);
    return 0;
}

static int check_shape(sheet *s)
{
    if (nn_tensor_check("nn_write_sheet", s->images, s->error, s->error_size)) return -1;
    const ad_shape *shape = &s->images->shape;
    const int64_t *size = shape->dim;
    s->channels = shape->rank == 4 ? size[3] : 1;
    char text[128];
    ad_format_shape(*shape, text, sizeof text);
    if ((shape->rank != 3 && shape->rank != 4) || (s->channels != 1 && s->channels != 3))
        return FAIL(s, "images are [n,height,width], with 1 or 3 channels behind that, not %s",
                    text);
    if (nn_tensor_count(s->images) == 0) return FAIL(s, "there are no images in %s", text);
    if (s->format != PNG && (s->format == PGM) != (s->channels == 1))
        return FAIL(s, "%s: .pgm is for one channel, .ppm for three; the images are %s", s->path,
                    text);
    s->rows = size[0];
    s->height = size[1];
    s->width = size[2];
    return 0;
}

/* The size of the sheet. */
static int lay_out(sheet *s)
{
    const nn_sheet_options *o = &s->options;
    enum { LARGEST = 1000000 }; /* libpng's limit; and INT32_MAX bytes are its limit of memory */
    if (o->across < 0 || o->gap < 0 || o->scale < 0 || o->gap > LARGEST || o->scale > LARGEST)
        return FAIL(s, "options: across, gap and scale must be 0 to %d", LARGEST);
    int64_t scale = o->scale ? o->scale : 1;
    s->across = o->across ? o->across : 1;
    while (s->across * s->across < s->rows && !o->across) s->across++;
    if (s->across > s->rows && s->rows > 0) s->across = s->rows;
    s->down = (s->rows - 1) / s->across + 1;
    int64_t high = LARGEST, wide = LARGEST;
    if (s->height <= LARGEST && s->down <= LARGEST)
        high = s->down * (scale * s->height + o->gap) - o->gap;
    if (s->width <= LARGEST && s->across <= LARGEST)
        wide = s->across * (scale * s->width + o->gap) - o->gap;
    if (high >= LARGEST || wide >= LARGEST || high * wide * s->channels > INT32_MAX)
        return FAIL(s,
                    "a sheet of %" PRId64 " x %" PRId64 " images of %" PRId64 " x %" PRId64
                    " pixels is too large; write fewer of them",
                    s->down, s->across, s->height, s->width);
    s->options.scale = (int)scale;
    s->sheet_height = high;
    s->sheet_width = wide;
    return 0;
}

/* The numbers that become black and white. */
static int choose_range(sheet *s)
{
    s->black = s->options.black;
    s->white = s->options.white;
    if (s->black != s->white && isfinite(s->black) && isfinite(s->white)) return 0;
    if (s->black != 0 || s->white != 0)
        return FAIL(s, "options: black is %g, white is %g; they must be two numbers",
                    nn_shown(s->black), nn_shown(s->white));
    switch (s->images->type) {
    case NN_F32:
    case NN_F64:
    case NN_BOOL: s->white = 1; return 0;
    case NN_U8: s->white = UINT8_MAX; return 0;
    case NN_U16: s->white = UINT16_MAX; return 0;
    default:
        return FAIL(s, "options: which numbers are black and white among the images' %s?",
                    nn_type_name(s->images->type));
    }
}

/* The level of grey of element i of the images, 0 to 255; -1 with the error. */
static int level_of(sheet *s, int64_t i)
{
    double value = nn_tensor_element(s->images, i);
    if (!isfinite(value))
        return FAIL(s, "element %" PRId64 " of image %" PRId64 " (from 0) is %g",
                    i % (s->height * s->width * s->channels),
                    i / (s->height * s->width * s->channels), nn_shown(value));
    double share = (value - s->black) / (s->white - s->black);
    return (int)(255 * fmin(fmax(share, 0), 1) + 0.5);
}

static int draw_image(sheet *s, int64_t image)
{
    const int64_t scale = s->options.scale, gap = s->options.gap, channels = s->channels;
    const int64_t top = image / s->across * (scale * s->height + gap),
                  left = image % s->across * (scale * s->width + gap);
    for (int64_t y = 0; y < scale * s->height; y++) {
        unsigned char *line = s->pixels + ((top + y) * s->sheet_width + left) * channels;
        if (y % scale > 0) { /* as the line above */
            memcpy(line, line - s->sheet_width * channels, (size_t)(scale * s->width * channels));
            continue;
        }
        int64_t from = (image * s->height + y / scale) * s->width * channels;
        for (int64_t x = 0; x < scale * s->width; x++) {
            for (int64_t c = 0; c < channels; c++) {
                int level = level_of(s, from + x / scale * channels + c);
                if (level < 0) return -1;
                line[x * channels + c] = (unsigned char)level;
            }
        }
    }
    return 0;
}

static int draw(sheet *s)
{
    enum { PAPER = 128 };
    size_t bytes = (size_t)(s->sheet_height * s->sheet_width * s->channels);
    s->pixels = malloc(bytes);
    if (!s->pixels) return FAIL(s, "out of memory");
    memset(s->pixels, PAPER, bytes);
    for (int64_t i = 0; i < s->rows; i++)
        if (draw_image(s, i)) return -1;
    return 0;
}

/* ---- formats --------------------------------------------------------------------------------- */

static int write_netpbm(sheet *s, FILE *stream)
{
    fprintf(stream, "P%d\n%" PRId64 " %" PRId64 "\n255\n", s->format == PGM ? 5 : 6, s->sheet_width,
            s->sheet_height);
    fwrite(s->pixels, (size_t)s->channels, (size_t)(s->sheet_height * s->sheet_width), stream);
    return 0; /* what failed, the stream knows */
}

#ifdef NN_LIBPNG
#include <png.h>

static int write_png(sheet *s, FILE *stream)
{
    png_image image = { .version = PNG_IMAGE_VERSION,
                        .width = (png_uint_32)s->sheet_width,
                        .height = (png_uint_32)s->sheet_height,
                        .format = s->channels == 1 ? PNG_FORMAT_GRAY : PNG_FORMAT_RGB };
    if (png_image_write_to_stdio(&image, stream, 0, s->pixels, 0, NULL)) return 0;
    if (ferror(stream)) return 0; /* which nn_file_commit explains */
    return FAIL(s, "%s: %s", s->path, image.message);
}
#else
static int write_png(sheet *s, FILE *stream)
{
    (void)stream;
    return FAIL(s,
                "%s: this build of costate writes no PNG: install libpng (Debian: libpng-dev) and "
                "build again, or take a name that ends with .pgm or .ppm",
                s->path);
}
#endif

int nn_write_sheet(const char *path, const nn_tensor *images, const nn_sheet_options *options,
                   char *error, size_t error_size)
{
    sheet s = { .path = path, .error = error, .error_size = error_size, .images = images };
    if (options) s.options = *options;
    nn_file file;
    int result =
        choose_format(&s) || check_shape(&s) || lay_out(&s) || choose_range(&s) || draw(&s);
    if (result == 0) result = nn_file_open(&file, path, error, error_size);
    if (result == 0) {
        result = s.format == PNG ? write_png(&s, file.stream) : write_netpbm(&s, file.stream);
        if (result) nn_file_discard(&file);
        else result = nn_file_commit(&file, error, error_size);
    }
    free(s.pixels);
    return result ? -1 : 0;
}
