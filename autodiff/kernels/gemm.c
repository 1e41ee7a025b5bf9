/* Matrix products. The only file that knows libxsmm and CBLAS.
 *
 * A product is prepared once and run many times. Where one dimension varies from run to run (rows
 * of a batch, rows that a weight gradient sums over), code is generated for a few sizes of it and
 * the rest is padded. A row of the result must have the same bits however many rows are computed
 * with it, so each generated kernel is compared with the smallest one when it is prepared, and not
 * used where they differ. Products with few columns go to narrow.c, products without rows and of
 * some size to BLAS, and everything has a form in plain C.
 *
 * libxsmm is kept from doing anything to the process: to its environment, to threads that are at
 * work when it ends, to children of a fork. */
#include "autodiff/kernels/gemm.h"
#include "autodiff/base/executable.h"
#include <cblas.h>
#include <stdlib.h>
#include <string.h>
#ifdef COSTATE_LIBXSMM
#include <libxsmm.h>
#include <pthread.h>
#endif

/* The varying dimension is cut into tiles of at most TILE, MEDIUM and SMALL; what is left is copied
 * to scratch and padded with zeros. Generated code sums in an order that may depend on the number
 * of rows (libxsmm 1.17 uses several accumulators at some small counts), hence larger tiles are
 * used only where they are found to give the bits of SMALL. */
enum { TILE = 128, MEDIUM = 16, SMALL = 4 };
/* Of rows that are summed, no row of the result depends on how many are taken at a time. */
enum { SUM_TILE = 256 };
/* A fixed product that adds more than LONG numbers adds them in parts of AD_CHAIN. */
enum { LONG = 8 * AD_CHAIN };
enum {
    LARGE = 1 << 22
}; /* multiplications; larger products go to BLAS, and its threads, when they are alone */

static size_t element(const ad_gemm *g)
{
    return g->dtype == AD_F32 ? sizeof(float) : sizeof(double);
}

static void plain(const ad_gemm *g, bool accumulate, int64_t m, int64_t k, const void *a,
                  const void *b, void *c, int64_t ldc)
{
    g->loops->gemm(accumulate, m, g->n, k, a, g->a_transposed ? 1 : g->lda,
                   g->a_transposed ? g->lda : 1, b, g->ldb, c, ldc);
}

/* ---- generated code -------------------------------------------------------------------------- */

#ifdef COSTATE_LIBXSMM
/* Where libxsmm 1.17 keeps what it has generated; in none of its headers. At exit it unmaps all
 * that is listed there. */
#if LIBXSMM_VERSION_MAJOR == 1 && LIBXSMM_VERSION_MINOR == 17
extern void *internal_registry __attribute__((weak));
#define REGISTRY (&internal_registry)
#else
#define REGISTRY ((void **)NULL)
#endif

/* around all that libxsmm does, code that it has generated excepted */
static pthread_mutex_t generating = PTHREAD_MUTEX_INITIALIZER;
static bool begun, ended, unloading;
static bool refused;        /* the system does not let generated code run */
static void *volatile kept; /* for leak checkers to see */

static void lock(void) { pthread_mutex_lock(&generating); }
static void unlock(void) { pthread_mutex_unlock(&generating); }

/* libxsmm's own locks are free in the child of a fork. */
__attribute__((constructor)) static void hold_during_forks(void)
{
    pthread_atfork(lock, unlock, unlock);
}

/* Comes before what is registered with atexit when the library is unloaded, after it when the
 * program ends. */
__attribute__((destructor)) static void unload(void) { unloading = true; }

/* Threads may still be running generated code when the program exits, so libxsmm finds none to
 * unmap then. */
static void end(void)
{
    lock();
    ended = true;
    if (REGISTRY && !unloading) {
        kept = *REGISTRY;
        *REGISTRY = NULL;
    }
    unlock();
}

/* libxsmm puts settings for OpenMP and MPI into the environment, for all that the program starts
 * later, and as pointers into this library, which may be unloaded before the program ends. */
static void begin(void)
{
    static const char *const setting[] = { "OMP_PROC_BIND", "I_MPI_SHM_HEAP" };
    bool there[2];
    for (int k = 0; k < 2; k++) there[k] = getenv(setting[k]) != NULL;
    libxsmm_init();
    for (int k = 0; k < 2; k++)
        if (!there[k]) unsetenv(setting[k]);
    atexit(end); /* runs before libxsmm's */
    begun = true;
}

/* Code of about 8 kilobytes for each kind of product stays until the process ends. A process that
 * makes products of ever new sizes gets plain C from so many kinds on; what it has got code for
 * keeps it. */
enum { MOST_KINDS = 8192, KINDS_SIZE = 2 * MOST_KINDS };
typedef struct {
    uint64_t hash; /* never 0 */
    int agrees;    /* as agreement has it */
} known;
static known kinds[KINDS_SIZE]; /* hash table of those that have code */
static int kind_count;

/* Column-major, the product reads C^T = B^T A^T. */
typedef struct {
    libxsmm_blasint m, n, k, lda, ldb, ldc;
    int flags, accumulate, dtype;
} kind;

static uint64_t hash_of(const kind *t)
{
    uint64_t h = 1;
    uint32_t word[sizeof *t / sizeof(uint32_t)];
    memcpy(word, t, sizeof word);
    for (size_t i = 0; i < sizeof word / sizeof *word; i++) {
        h = (h ^ word[i]) * 0x9e3779b97f4a7c15u;
        h ^= h >> 29;
    }
    return h | 1;
}

/* Where it stands in the table, or would. */
static known *place_of(const kind *t)
{
    uint64_t h = hash_of(t);
    uint64_t at = h >> 32;
    while (kinds[at % KINDS_SIZE].hash && kinds[at % KINDS_SIZE].hash != h) at++;
    return &kinds[at % KINDS_SIZE];
}

static ad_gemm_jit dispatch(const kind *t)
{
    int flags = t->flags, prefetch = LIBXSMM_PREFETCH_NONE;
    if (t->dtype == AD_F32) {
        float alpha = 1, beta = (float)t->accumulate;
        return (ad_gemm_jit)libxsmm_smmdispatch(t->n, t->m, t->k, &t->ldb, &t->lda, &t->ldc, &alpha,
                                                &beta, &flags, &prefetch);
    }
    double alpha = 1, beta = t->accumulate;
    return (ad_gemm_jit)libxsmm_dmmdispatch(t->n, t->m, t->k, &t->ldb, &t->lda, &t->ldc, &alpha,
                                            &beta, &flags, &prefetch);
}

/* libxsmm returns code also where the system lets no memory become executable. Its page is made
 * executable once more, which changes nothing where it is: the answer tells. */
static bool may_run(ad_gemm_jit run)
{
    return ad_executable_allow((const void *)(uintptr_t)run, 1);
}

static kind kind_of(const ad_gemm *g, int64_t m, int64_t k, int64_t lda, int64_t ldb, int64_t ldc)
{
    return (kind){ .m = (libxsmm_blasint)m,
                   .n = (libxsmm_blasint)g->n,
                   .k = (libxsmm_blasint)k,
                   .lda = (libxsmm_blasint)lda,
                   .ldb = (libxsmm_blasint)ldb,
                   .ldc = (libxsmm_blasint)ldc,
                   .flags = g->a_transposed ? LIBXSMM_GEMM_FLAG_TRANS_B : LIBXSMM_GEMM_FLAG_NONE,
                   .accumulate = g->accumulate,
                   .dtype = g->dtype };
}

static ad_gemm_jit generate(const ad_gemm *g, int64_t m, int64_t k, int64_t lda, int64_t ldb,
                            int64_t ldc)
{
    int64_t big = INT32_MAX;
    if (g->n > big || m > big || k > big || lda > big || ldb > big || ldc > big) return NULL;
    kind t = kind_of(g, m, k, lda, ldb, ldc);
    ad_gemm_jit run = NULL;
    lock();
    known *place = place_of(&t);
    bool there = place->hash != 0;
    if (!ended && (there || (!refused && kind_count < MOST_KINDS))) {
        if (!begun) begin();
        run = dispatch(&t);
        if (run && !there && !may_run(run)) {
            refused = true;
            run = NULL;
        }
        if (run && !there) {
            place->hash = hash_of(&t);
            kind_count++;
        }
    }
    unlock();
    return run;
}

/* Whether the code for `m` rows at once has been found to give the bits of SMALL rows at a time: 1
 * if so, -1 if not, 0 if it has not been tried. What is found now, unless 0, is kept. */
static int agreement(const ad_gemm *g, int64_t m, int found)
{
    kind t = kind_of(g, m, g->k, g->lda, g->ldb, g->ldc);
    lock();
    known *place = place_of(&t);
    if (place->hash && found) place->agrees = found;
    int agrees = found ? found : place->agrees;
    unlock();
    return agrees;
}

bool ad_gemm_generates(void)
{
    lock();
    const bool generates = !ended && !refused && kind_count < MOST_KINDS;
    unlock();
    return generates;
}
#else
bool ad_gemm_generates(void) { return false; }

static int agreement(const ad_gemm *g, int64_t m, int found)
{
    (void)g, (void)m;
    return found;
}

static ad_gemm_jit generate(const ad_gemm *g, int64_t m, int64_t k, int64_t lda, int64_t ldb,
                            int64_t ldc)
{
    (void)g, (void)m, (void)k, (void)lda, (void)ldb, (void)ldc;
    return NULL;
}
#endif

/* Numbers of both signs with all digits occupied, so that every sum is rounded and another order of
 * summation shows. */
static void probe_fill(const ad_gemm *g, uint64_t *state, void *array, int64_t n)
{
    for (int64_t i = 0; i < n; i++) {
        *state = *state * 6364136223846793005u + 1442695040888963407u;
        double x = (double)(int64_t)*state * 0x1p-63;
        if (g->dtype == AD_F32) ((float *)array)[i] = (float)x;
        else ((double *)array)[i] = x;
    }
}

static int64_t a_extent(const ad_gemm *g, int64_t m)
{
    return g->a_transposed ? (g->k - 1) * g->lda + m : (m - 1) * g->lda + g->k;
}

/* Whether `m` rows at once give the bits of SMALL rows at a time, tried on so many numbers that a
 * difference cannot hide: 1 or -1; 0 when memory is short, or so much of it would be needed as only
 * the program's data may take. */
static int compare(const ad_gemm *g, ad_gemm_jit small, ad_gemm_jit jit, int64_t m)
{
    enum { TRIED = 32 /* results a row */, MOST = 1 << 27 /* elements */ };
    int64_t whole = (m + SMALL - 1) / SMALL * SMALL, na = a_extent(g, whole),
            nb = (g->k - 1) * g->ldb + g->n, nc = whole * g->ldc;
    if (na + nb + 2 * nc > MOST) return 0;
    size_t size = element(g);
    char *a = malloc((size_t)na * size), *b = malloc((size_t)nb * size);
    /* Sums go on from round to round: what both begin with is the same as long as they agree. */
    char *c = g->accumulate ? calloc((size_t)(2 * nc), size) : malloc((size_t)(2 * nc) * size);
    uint64_t state = 1;
    const bool memory = a && b && c;
    bool same = memory;
    if (same) probe_fill(g, &state, a, na);
    for (int64_t tried = 0; same && tried < TRIED; tried += g->n) {
        char *d = c + (size_t)nc * size;
        probe_fill(g, &state, b, nb);
        jit(b, a, c);
        for (int64_t i = 0; i < m; i += SMALL)
            small(b, ad_at(a, g->a_transposed ? i : i * g->lda, size),
                  ad_at_out(d, i * g->ldc, size));
        for (int64_t i = 0; i < m && same; i++)
            same = !memcmp(ad_at(c, i * g->ldc, size), ad_at(d, i * g->ldc, size),
                           (size_t)g->n * size);
    }
    free(a);
    free(b);
    free(c);
    return same ? 1 : memory ? -1 : 0;
}

/* The same, tried once for each kind of product. */
static bool same_bits(const ad_gemm *g, ad_gemm_jit small, ad_gemm_jit jit, int64_t m)
{
    int agrees = agreement(g, m, 0);
    if (!agrees) agrees = agreement(g, m, compare(g, small, jit, m));
    return agrees > 0;
}

static void add_tile(ad_gemm *g, int64_t count, ad_gemm_jit run)
{
    g->tile[g->ntile].count = count;
    g->tile[g->ntile++].run = run;
}

static void prepare_rows(ad_gemm *g)
{
    ad_gemm_jit small = generate(g, SMALL, g->k, g->lda, g->ldb, g->ldc);
    g->padded = generate(g, SMALL, g->k, g->a_transposed ? SMALL : g->k, g->ldb, g->n);
    if (!small || !g->padded) return;
    for (int64_t count = g->m < TILE ? g->m : TILE; count != SMALL;) {
        ad_gemm_jit run = generate(g, count, g->k, g->lda, g->ldb, g->ldc);
        bool fits = run && same_bits(g, small, run, count);
        if (fits) add_tile(g, count, run);
        count = count <= MEDIUM ? SMALL : fits ? MEDIUM : (count - 1) / MEDIUM * MEDIUM;
    }
    add_tile(g, SMALL, small);
}

static void prepare_sum(ad_gemm *g)
{
    g->padded = generate(g, g->m, SMALL, g->a_transposed ? g->m : SMALL, g->n, g->ldc);
    for (int64_t count = g->k < SUM_TILE ? g->k : SUM_TILE; g->padded;
         count = count > MEDIUM ? MEDIUM : SMALL) {
        ad_gemm_jit run = generate(g, g->m, count, g->lda, g->ldb, g->ldc);
        if (!run) g->padded = NULL;
        else add_tile(g, count, run);
        if (count <= SMALL) break;
    }
    if (!g->padded) g->ntile = 0;
}

void ad_gemm_prepare(ad_gemm *g)
{
    g->loops = ad_loops_of(g->dtype);
    g->ntile = 0;
    g->padded = NULL;
    g->blas = g->parts = false;
    g->narrow = NULL;
    if (g->m < 1 || g->n < 1 || g->k < 1) return;
    if (g->vary == AD_GEMM_VARY_M && !g->a_transposed)
        g->narrow = ad_narrow_of(g->dtype, g->n, g->k);
    if (g->narrow) return;
    bool large = (double)g->m * (double)g->n * (double)g->k >= LARGE,
         fixed = g->vary == AD_GEMM_FIXED;
    g->blas =
        fixed && large && g->alone && g->m < INT32_MAX && g->n < INT32_MAX && g->k < INT32_MAX;
    if (g->blas) return;
    g->parts = fixed && g->k > LONG;
    if (g->parts) { /* a part is dense and begins with zeros */
        const ad_gemm whole = *g;
        g->ldc = g->n;
        g->accumulate = true;
        prepare_sum(g);
        g->ldc = whole.ldc;
        g->accumulate = whole.accumulate;
    } else if (fixed) {
        ad_gemm_jit run = large ? NULL : generate(g, g->m, g->k, g->lda, g->ldb, g->ldc);
        if (large) prepare_rows(g);
        else if (run) add_tile(g, 0, run);
    } else if (g->vary == AD_GEMM_VARY_M) {
        prepare_rows(g);
    } else {
        prepare_sum(g);
    }
}

/* ---- running --------------------------------------------------------------------------------- */

size_t ad_gemm_scratch(const ad_gemm *g)
{
    size_t size = element(g);
    if (g->narrow)
        return ad_round_up((size_t)(AD_NARROW_COLUMNS * (g->k + AD_NARROW_WIDTH)) * size);
    const size_t parts = g->parts ? ad_parts_bytes(true, g->m * g->n, size) : 0;
    if (!g->padded) return parts;
    size_t a = (size_t)(SMALL * (g->vary == AD_GEMM_VARY_K || g->parts ? g->m : g->k)),
           bc = (size_t)(SMALL * g->n);
    return parts + ad_round_up(a * size) + ad_round_up(bc * size);
}

/* Copies rows x columns with leading dimensions to dense zero-padded [to_rows, to_columns]. */
static void pad(const ad_gemm *g, int64_t rows, int64_t columns, const void *from, int64_t ld,
                int64_t to_rows, int64_t to_columns, void *to)
{
    memset(to, 0, (size_t)(to_rows * to_columns) * element(g));
    g->loops->move(false, rows, columns, from, ld, 1, to, to_columns, 1);
}

static void run_rows(const ad_gemm *g, int64_t m, const void *a, const void *b, void *c,
                     void *scratch)
{
    size_t size = element(g);
    int64_t i = 0, step = g->a_transposed ? 1 : g->lda;
    for (int t = 0; t < g->ntile; t++)
        for (; m - i >= g->tile[t].count; i += g->tile[t].count)
            g->tile[t].run(b, ad_at(a, i * step, size), ad_at_out(c, i * g->ldc, size));
    if (i == m) return;
    char *pa = scratch, *pc = pa + ad_round_up((size_t)(SMALL * g->k) * size);
    int64_t rest = m - i;
    if (g->a_transposed) pad(g, g->k, rest, ad_at(a, i, size), g->lda, g->k, SMALL, pa);
    else pad(g, rest, g->k, ad_at(a, i * g->lda, size), g->lda, SMALL, g->k, pa);
    void *rows_left = ad_at_out(c, i * g->ldc, size);
    if (g->accumulate) pad(g, rest, g->n, rows_left, g->ldc, SMALL, g->n, pc);
    g->padded(b, pa, pc);
    g->loops->move(false, rest, g->n, pc, g->n, 1, rows_left, g->ldc, 1);
}

static void run_sum(const ad_gemm *g, int64_t k, const void *a, const void *b, void *c,
                    void *scratch)
{
    size_t size = element(g);
    int64_t l = 0, step = g->a_transposed ? g->lda : 1;
    for (int t = 0; t < g->ntile; t++)
        for (; k - l >= g->tile[t].count; l += g->tile[t].count)
            g->tile[t].run(ad_at(b, l * g->ldb, size), ad_at(a, l * step, size), c);
    if (l == k) return;
    char *pa = scratch, *pb = pa + ad_round_up((size_t)(SMALL * g->m) * size);
    if (g->a_transposed) pad(g, k - l, g->m, ad_at(a, l * step, size), g->lda, SMALL, g->m, pa);
    else pad(g, g->m, k - l, ad_at(a, l, size), g->lda, g->m, SMALL, pa);
    pad(g, k - l, g->n, ad_at(b, l * g->ldb, size), g->ldb, SMALL, g->n, pb);
    g->padded(pb, pa, c);
}

typedef struct {
    const ad_gemm *g;
    const void *a, *b;
} of_part;

static void add_part(const void *data, int64_t first, int64_t count, void *part, void *scratch)
{
    const of_part *d = data;
    const ad_gemm *g = d->g;
    const void *a = ad_at(d->a, first * (g->a_transposed ? g->lda : 1), element(g)),
               *b = ad_at(d->b, first * g->ldb, element(g));
    if (g->ntile) run_sum(g, count, a, b, part, scratch);
    else plain(g, true, g->m, count, a, b, part, g->n);
}

static void run_parts(const ad_gemm *g, int64_t k, const void *a, const void *b, void *c,
                      void *scratch)
{
    const of_part data = { g, a, b };
    const ad_parts parts = { g->loops, element(g), g->m, g->n,     g->ldc,
                             k,        AD_CHAIN,   true, add_part, &data };
    ad_parts_run(&parts, g->accumulate, c, scratch);
}

static void run_blas(const ad_gemm *g, const void *a, const void *b, void *c)
{
    enum CBLAS_TRANSPOSE ta = g->a_transposed ? CblasTrans : CblasNoTrans;
    blasint m = (blasint)g->m, n = (blasint)g->n, k = (blasint)g->k, lda = (blasint)g->lda,
            ldb = (blasint)g->ldb, ldc = (blasint)g->ldc;
    if (g->dtype == AD_F32)
        cblas_sgemm(CblasRowMajor, ta, CblasNoTrans, m, n, k, 1, a, lda, b, ldb,
                    (float)g->accumulate, c, ldc);
    else
        cblas_dgemm(CblasRowMajor, ta, CblasNoTrans, m, n, k, 1, a, lda, b, ldb,
                    (double)g->accumulate, c, ldc);
}

void ad_gemm_run(const ad_gemm *g, int64_t count, const void *a, const void *b, void *c,
                 void *scratch)
{
    int64_t m = g->vary == AD_GEMM_VARY_M ? count : g->m,
            k = g->vary == AD_GEMM_VARY_K ? count : g->k;
    if (m < 1 || g->n < 1) return;
    if (g->narrow) g->narrow(g->accumulate, m, g->n, k, a, g->lda, b, g->ldb, c, g->ldc, scratch);
    else if (g->blas) run_blas(g, a, b, c);
    else if (g->parts) run_parts(g, k, a, b, c, scratch);
    else if (g->ntile == 0) plain(g, g->accumulate, m, k, a, b, c, g->ldc);
    else if (g->vary == AD_GEMM_VARY_K) run_sum(g, k, a, b, c, scratch);
    else if (g->padded) run_rows(g, m, a, b, c, scratch);
    else g->tile[0].run(b, a, c);
}
