#include "example.h"
#include <errno.h>
#include <getopt.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#ifdef EXAMPLE_MPI
#include "nn/mpi.h"
#endif

enum { MAX_OPTIONS = 32 };

/* ---- several processes ---- */

static struct nn_processes *processes;

struct nn_processes *example_processes(void) { return processes; }

#ifdef EXAMPLE_MPI
static void leave(void) { nn_mpi_free(processes); }

/* mpirun tells its processes how many they are. */
static bool join(void)
{
    char error[300];
    if (!getenv("OMPI_COMM_WORLD_SIZE") && !getenv("PMI_SIZE")) return true;
    processes = nn_mpi_new(error, sizeof error);
    if (!processes) return example_failed("mpirun", error) == 0;
    atexit(leave);
    return processes->rank == 0 || freopen("/dev/null", "w", stdout);
}

static bool leads(void) { return !processes || processes->rank == 0; }
#else
static bool join(void) { return true; }
static bool leads(void) { return true; }
#endif

/* ---- the command line ---- */

static void print_help(const char *program, const char *about, const example_option *o)
{
    printf("%s\n\nusage: %s [options]\n", about, program);
    for (; o->name; o++) {
        char left[64];
        static const char *const what[] = { "", " N", " X", " TEXT" };
        snprintf(left, sizeof left, "--%s%s", o->name, what[o->kind]);
        printf("  %-22s %s", left, o->help);
        if (o->kind == EXAMPLE_INTEGER) printf(" (default %lld)", (long long)*(int64_t *)o->value);
        if (o->kind == EXAMPLE_NUMBER) printf(" (default %g)", *(double *)o->value);
        if (o->kind == EXAMPLE_TEXT && *(const char **)o->value)
            printf(" (default %s)", *(const char **)o->value);
        printf("\n");
    }
    printf("  %-22s %s\n", "--help", "this text");
}

static bool set_option(const example_option *o, const char *text)
{
    char *end = NULL;
    errno = 0;
    switch (o->kind) {
    case EXAMPLE_FLAG: *(bool *)o->value = true; return true;
    case EXAMPLE_TEXT: *(const char **)o->value = text; return true;
    case EXAMPLE_INTEGER: *(int64_t *)o->value = strtoll(text, &end, 10); break;
    case EXAMPLE_NUMBER: *(double *)o->value = strtod(text, &end); break;
    }
    return !errno && end != text && !*end;
}

int example_options(int argc, char **argv, const char *about, const example_option *options)
{
    struct option list[MAX_OPTIONS + 2] = { { 0 } };
    int n = 0;
    for (; options[n].name && n < MAX_OPTIONS; n++)
        list[n] = (struct option){ options[n].name, options[n].kind != EXAMPLE_FLAG, NULL, n };
    list[n] = (struct option){ "help", no_argument, NULL, n };
    for (int which; (which = getopt_long(argc, argv, "", list, NULL)) != -1;) {
        if (which == n) {
            print_help(argv[0], about, options);
            return 1;
        }
        if (which >= 0 && which < n && set_option(&options[which], optarg)) continue;
        if (which >= 0 && which < n)
            fprintf(stderr, "%s: --%s: '%s' is not a number\n", argv[0], options[which].name,
                    optarg);
        fprintf(stderr, "%s --help lists the options\n", argv[0]);
        return 2;
    }
    if (optind == argc) return join() ? 0 : 2;
    fprintf(stderr, "%s: unexpected argument '%s'; --help lists the options\n", argv[0],
            argv[optind]);
    return 2;
}

int example_failed(const char *what, const char *message)
{
    fprintf(stderr, "%s: %s\n", what, message ? message : "out of memory");
    return 1;
}

bool example_directory(const char *path)
{
    char part[4096];
    if (snprintf(part, sizeof part, "%s", path) >= (int)sizeof part) {
        example_failed(path, "the name is too long");
        return false;
    }
    for (char *p = part + 1;; p++) {
        char at = *p;
        if (at != '/' && at) continue;
        *p = 0;
        if (mkdir(part, 0777) && errno != EEXIST) {
            example_failed(part, strerror(errno));
            return false;
        }
        if (!at) break;
        *p = at;
    }
    char inside[4096 + 2];
    snprintf(inside, sizeof inside, "%s/.", path);
    if (!access(inside, W_OK | X_OK)) return true;
    example_failed(path, strerror(errno));
    return false;
}

FILE *example_file(const char *directory, const char *name)
{
    char path[4096];
    if (leads()) snprintf(path, sizeof path, "%s/%s", directory, name);
    else snprintf(path, sizeof path, "/dev/null");
    FILE *f = fopen(path, "w");
    if (!f) example_failed(path, strerror(errno));
    return f;
}

void example_picture(const char *directory, const char *name)
{
    char script[256];
    if (!leads()) return;
    snprintf(script, sizeof script, "%s.gp", name);
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        if (chdir(directory) == 0) execlp("gnuplot", "gnuplot", script, (char *)NULL);
        _exit(errno == ENOENT ? 127 : 126);
    }
    int status = 0;
    if (child < 0 || waitpid(child, &status, 0) < 0)
        fprintf(stderr, "gnuplot could not be started: %s\n", strerror(errno));
    else if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        printf("picture: %s/%s.png\n", directory, name);
    else if (WIFEXITED(status) && WEXITSTATUS(status) == 127)
        printf("no picture: gnuplot is not installed (apt-get install gnuplot-nox); its script is "
               "%s/%s, the numbers are beside it\n",
               directory, script);
    else printf("no picture: gnuplot failed on %s/%s\n", directory, script);
}
