/* The library's own threads. One pool serves the whole process: a caller takes the workers that are
 * free, deals the parts of its work to them and to itself in consecutive stretches, and whoever is
 * done with a stretch helps with the others. A worker that does not come in time, because the
 * machine has other things to do, is left out: nobody waits for more than the parts that somebody
 * has begun.
 *
 * Who waits spins for some microseconds, so that the next body of a run finds its workers awake,
 * and then sleeps, so that an idle pool takes no processor from the rest of the program. */
#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* sched_getaffinity */
#endif
#include "autodiff/run/threads.h"
#include "autodiff/extension.h"
#include <fenv.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <time.h>
#include <unistd.h>
#ifdef __x86_64__
#include <xmmintrin.h>
#endif

enum { SPIN_NS = 50000, LINE = 64 };
/* Of work, for each thread: with less it is not worth telling a worker, or not waking one that
 * sleeps. Some 2 and 20 microseconds. */
static const double WORTH_TELLING = 64 * 1024, WORTH_WAKING = 512 * 1024;

/* ---- how many ---- */

/* Known only in a program that uses OpenMP, whose settings then hold for these threads too. */
#ifdef __ELF__
extern int omp_get_max_threads(void) __attribute__((weak));
extern int omp_in_parallel(void) __attribute__((weak));
#else
#define omp_get_max_threads ((int (*)(void))NULL)
#define omp_in_parallel ((int (*)(void))NULL)
#endif

static pthread_once_t once = PTHREAD_ONCE_INIT;
static int processors;

static void count_processors(void)
{
#ifdef CPU_COUNT
    cpu_set_t set; /* too small on machines with more than 1024: an error */
    if (sched_getaffinity(0, sizeof set, &set) == 0) {
        processors = CPU_COUNT(&set);
        return;
    }
#endif
    long n = sysconf(_SC_NPROCESSORS_ONLN);
    processors = n < 1 ? 1 : n > AD_MAX_THREADS ? AD_MAX_THREADS : (int)n;
}

int ad_threads_default(void)
{
    if (omp_get_max_threads) return omp_get_max_threads();
    const char *asked = getenv("OMP_NUM_THREADS");
    long n = asked ? strtol(asked, NULL, 10) : 0;
    if (n > 0) return n > AD_MAX_THREADS ? AD_MAX_THREADS : (int)n;
    pthread_once(&once, count_processors);
    return processors;
}

bool ad_threads_in_team(void) { return omp_in_parallel && omp_in_parallel(); }

/* ---- workers ---- */

/* From IDLE a caller that has taken the worker makes it OFFERED; the worker makes it RUNNING and
 * DONE; the caller, who in the meantime may have made what is only OFFERED IDLE again, makes it
 * that. QUIT ends the thread. Bits, so that one can wait for several. */
enum { ABSENT = 0, IDLE = 1, OFFERED = 2, RUNNING = 4, DONE = 8, QUIT = 16 };

/* The caller's rounding mode and treatment of subnormal numbers: results do not depend on the
 * thread. Moving the whole of an x87 processor's environment takes longer than handing over. */
#ifdef __x86_64__
typedef struct {
    uint32_t vectors;
    uint16_t x87;
} arithmetic;

static arithmetic get_arithmetic(void)
{
    arithmetic a = { .vectors = _mm_getcsr() };
    __asm__ volatile("fnstcw %0" : "=m"(a.x87));
    return a;
}

static void set_arithmetic(const arithmetic *a)
{
    _mm_setcsr(a->vectors);
    /* Exceptions that an earlier job has left must not meet a caller's traps. */
    if (get_arithmetic().x87 != a->x87) __asm__ volatile("fnclex; fldcw %0" : : "m"(a->x87));
}
#else
typedef fenv_t arithmetic;

static arithmetic get_arithmetic(void)
{
    arithmetic a;
    fegetenv(&a);
    return a;
}

static void set_arithmetic(const arithmetic *a) { fesetenv(a); }
#endif

/* A stretch of the parts: those from next on are still to be begun. The stretches of one job are a
 * ring. */
typedef struct share {
    _Alignas(LINE) _Atomic int64_t next;
    int64_t end;
    struct share *after;
    /* the thread whose stretch this is, if it is a worker's */
    atomic_int state;
    uint16_t number; /* in the job */
    bool spins;
    atomic_int own_processor, callers_processor; /* where they were at the start of the job */
    /* the job */
    ad_part part;
    void *data;
    arithmetic arithmetic;
} share;

/* All that is handed over is one line of the caches, and who takes a worker has others to do with
 * it first. */
typedef struct {
    share share;
    _Alignas(LINE) atomic_bool taken;
    _Alignas(LINE) atomic_int sleepers; /* wait for a change of the state and do not spin */
    pthread_mutex_t mutex;
    pthread_cond_t changed;
    pthread_t thread;
} worker;
#ifdef __x86_64__
_Static_assert(sizeof(share) == LINE, "a job is handed over in one line");
#endif

static void relax(void)
{
#if defined(__x86_64__) || defined(__i386__)
    __builtin_ia32_pause();
#elif defined(__aarch64__)
    __asm__ volatile("yield");
#endif
}

static int64_t now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

/* Negative: not known. */
static int this_processor(void)
{
#ifdef __linux__
    return sched_getcpu();
#else
    return -1;
#endif
}

static int spin_for(const worker *w, int wanted, int64_t ns)
{
    int64_t limit = now() + ns;
    int state;
    do
        for (int k = 0; k < 16; k++, relax())
            if ((state = atomic_load(&w->share.state)) & wanted) return state;
    while (now() < limit);
    return state;
}

/* Until woken, unless the state is one of those wanted. A caller whose thread is cancelled
 * meanwhile has to wait all the same: others work with what is on its stack. */
static void sleep_on(worker *w, int wanted)
{
    int cancelable;
    pthread_setcancelstate(PTHREAD_CANCEL_DISABLE, &cancelable);
    pthread_mutex_lock(&w->mutex);
    atomic_fetch_add(&w->sleepers, 1);
    if (!(atomic_load(&w->share.state) & wanted)) pthread_cond_wait(&w->changed, &w->mutex);
    atomic_fetch_sub(&w->sleepers, 1);
    pthread_mutex_unlock(&w->mutex);
    pthread_setcancelstate(cancelable, NULL);
}

/* Waits until the state is one of those wanted, and returns it. Does not spin on the processor that
 * the other side needs to get on, and less and less when woken in vain: by a caller who was done
 * before. */
static int await(worker *w, int wanted, int64_t spin, const atomic_int *other)
{
    for (;; spin /= 2) {
        int here = this_processor();
        bool spins =
            spin && (here < 0 || here != atomic_load_explicit(other, memory_order_relaxed));
        int state = spins ? spin_for(w, wanted, spin) : atomic_load(&w->share.state);
        if (state & wanted) return state;
        sleep_on(w, wanted);
    }
}

/* Sequentially consistent, as all here: either this sees the sleeper, or the sleeper sees the state
 * before it sleeps. */
static void become(worker *w, int state)
{
    atomic_store(&w->share.state, state);
    if (!atomic_load(&w->sleepers)) return;
    pthread_mutex_lock(&w->mutex); /* after this it does sleep */
    pthread_mutex_unlock(&w->mutex);
    pthread_cond_broadcast(&w->changed);
}

static bool change(worker *w, int from, int to)
{
    return atomic_load_explicit(&w->share.state, memory_order_relaxed) == from &&
           atomic_compare_exchange_strong(&w->share.state, &from, to);
}

/* One's own stretch, then what is left of the others. */
static void work_on(share *own, ad_part part, void *data, int thread)
{
    share *s = own;
    do {
        while (atomic_load_explicit(&s->next, memory_order_relaxed) < s->end) {
            int64_t k = atomic_fetch_add_explicit(&s->next, 1, memory_order_relaxed);
            if (k < s->end) part(data, thread, k);
        }
        s = s->after;
    } while (s != own);
}

/* Leaves the processor that the caller is on: schedulers wake a thread where its waker is, and then
 * leave it there, while another processor has nothing to do. Where it may run afterwards is as
 * before. At most once a millisecond, since it may be sent back for a reason. */
static void leave_to(const worker *w, int64_t *last)
{
#ifdef CPU_COUNT
    int processor = this_processor();
    if (processor < 0 ||
        processor != atomic_load_explicit(&w->share.callers_processor, memory_order_relaxed))
        return;
    cpu_set_t all, others;
    int64_t time = now();
    if (time - *last < 1000000 || sched_getaffinity(0, sizeof all, &all) || CPU_COUNT(&all) < 2)
        return;
    *last = time;
    others = all;
    CPU_CLR(processor, &others);
    if (sched_setaffinity(0, sizeof others, &others) == 0) sched_setaffinity(0, sizeof all, &all);
#else
    (void)w, (void)last;
#endif
}

static void *serve(void *data)
{
    worker *w = data;
    share *s = &w->share;
    int64_t spin = SPIN_NS, left = 0;
    while (await(w, OFFERED | QUIT, spin, &s->callers_processor) != QUIT) {
        leave_to(w, &left);
        if (!change(w, OFFERED, RUNNING)) continue; /* taken back */
        atomic_store_explicit(&s->own_processor, this_processor(), memory_order_relaxed);
        spin = s->spins ? SPIN_NS : 0;
        set_arithmetic(&s->arithmetic);
        work_on(s, s->part, s->data, s->number);
        become(w, DONE);
    }
    return NULL;
}

/* ---- the pool ---- */

static worker pool[AD_MAX_THREADS - 1];
static atomic_int created; /* pool[0 .. created) have threads */
static int most = AD_MAX_THREADS - 1;
static pthread_mutex_t growing = PTHREAD_MUTEX_INITIALIZER;

/* Whether this caller has the worker now. */
static bool claim(worker *w)
{
    return !atomic_load_explicit(&w->taken, memory_order_relaxed) &&
           !atomic_exchange_explicit(&w->taken, true, memory_order_acquire);
}

/* A thread for pool[created]. The program's signals are not for it; those of its own faults, and of
 * profilers, are. */
static bool create(void)
{
    static const int its_own[] = { SIGSEGV, SIGBUS, SIGFPE, SIGILL, SIGTRAP, SIGSYS, SIGPROF };
    worker *w = &pool[created];
    sigset_t blocked, before;
    sigfillset(&blocked);
    for (size_t i = 0; i < sizeof its_own / sizeof *its_own; i++) sigdelset(&blocked, its_own[i]);
    pthread_mutex_init(&w->mutex, NULL);
    pthread_cond_init(&w->changed, NULL);
    atomic_store(&w->sleepers, 0);
    atomic_store(&w->taken, false);
    atomic_store(&w->share.callers_processor, -1);
    atomic_store(&w->share.state, IDLE);
    pthread_sigmask(SIG_SETMASK, &blocked, &before);
    bool fine = pthread_create(&w->thread, NULL, serve, w) == 0;
    pthread_sigmask(SIG_SETMASK, &before, NULL);
    if (fine) atomic_fetch_add(&created, 1);
    return fine;
}

/* Makes pool[i], if one caller alone would need it or the processors are not all provided for. */
static bool grow(int i, int wanted)
{
    if (i >= (wanted > processors - 1 ? wanted : processors - 1) || pthread_mutex_trylock(&growing))
        return false;
    bool fine = i < created || (i < most && create());
    if (!fine) most = created; /* the system has no more; asking again and again would take time */
    pthread_mutex_unlock(&growing);
    return fine;
}

/* In the child of a fork there are no workers; it makes its own when it needs them. */
static void forget(void)
{
    pthread_mutex_init(&growing, NULL);
    atomic_store(&created, 0);
    most = AD_MAX_THREADS - 1;
}

/* Before there can be a second thread: a fork under way does not call what is registered meanwhile.
 */
__attribute__((constructor)) static void forget_after_forks(void)
{
    pthread_atfork(NULL, NULL, forget);
}

/* When the program ends or unloads the library. A worker that somebody still has is left alone, and
 * none are made any more. */
__attribute__((destructor)) static void end(void)
{
    if (pthread_mutex_trylock(&growing)) return;
    for (int i = 0; i < created; i++) {
        if (!claim(&pool[i])) continue;
        become(&pool[i], QUIT);
        pthread_join(pool[i].thread, NULL);
    }
}

/* ---- work ---- */

/* Takes up to `wanted` workers, those that sleep only if it is worth waking them. Makes a ring of
 * their stretches and the caller's own, and returns how many stretches that are. */
static int take(int wanted, double work, share *own)
{
    int n = 1;
    share *last = own;
    for (int i = 0; n <= wanted; i++) {
        bool wake = work >= WORTH_WAKING * (n + 1);
        if (i >= created && !(wake && grow(i, wanted))) break;
        if ((!wake && atomic_load(&pool[i].sleepers)) || !claim(&pool[i])) continue;
        last = last->after = &pool[i].share;
        n++;
    }
    last->after = own;
    return n;
}

static worker *worker_of(share *s) { return (worker *)(void *)s; }

int ad_threads_worth(int threads, double work)
{
    double worth = work / WORTH_TELLING;
    return worth >= threads ? threads : worth > 1 ? (int)worth : 1;
}

void ad_threads_share(int threads, double work, int64_t parts, ad_part part, void *data)
{
    AD_ASSERT(threads >= 1 && threads <= AD_MAX_THREADS && parts >= 0);
    threads = ad_threads_worth(parts < threads ? (int)parts : threads, work);
    if (threads == 1) {
        for (int64_t k = 0; k < parts; k++) part(data, 0, k);
        return;
    }
    pthread_once(&once, count_processors);
    share own, *s;
    int n = take(threads - 1, work, &own), k = 0, here = this_processor();
    const arithmetic here_computed = get_arithmetic();
    const bool spins = n <= processors;
    s = &own;
    do {
        atomic_store_explicit(&s->next, parts * k / n, memory_order_relaxed);
        s->end = parts * (k + 1) / n;
        if (s != &own) {
            s->number = (uint16_t)k;
            s->part = part;
            s->data = data;
            s->arithmetic = here_computed;
            s->spins = spins;
            atomic_store_explicit(&s->callers_processor, here, memory_order_relaxed);
        }
        k++;
        s = s->after;
    } while (s != &own);
    for (s = own.after; s != &own; s = s->after) become(worker_of(s), OFFERED);
    work_on(&own, part, data, 0);
    for (s = own.after; s != &own; s = s->after)
        if (!change(worker_of(s), OFFERED, IDLE))
            await(worker_of(s), DONE, spins ? SPIN_NS : 0, &s->own_processor);
    /* Only now, when nobody looks at the ring any more, may others have them. */
    for (s = own.after; s != &own;) {
        worker *w = worker_of(s);
        s = s->after;
        atomic_store_explicit(&w->share.state, IDLE, memory_order_relaxed);
        atomic_store_explicit(&w->taken, false, memory_order_release);
    }
}

void ad_share(int threads, double work, int64_t parts, ad_part part, void *data)
{
    if (!part || parts <= 0) return;
    if (threads == 0) threads = ad_threads_default();
    if (threads > AD_MAX_THREADS) threads = AD_MAX_THREADS;
    if (threads < 1 || ad_threads_in_team()) threads = 1;
    ad_threads_share(threads, work, parts, part, data);
}
