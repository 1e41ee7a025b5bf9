/* What the examples share beside costate itself: command-line options, an output directory,
 * pictures by gnuplot. */
#ifndef EXAMPLE_H
#define EXAMPLE_H
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

typedef enum { EXAMPLE_FLAG, EXAMPLE_INTEGER, EXAMPLE_NUMBER, EXAMPLE_TEXT } example_kind;
typedef struct {
    const char *name; /* "steps" for --steps N */
    example_kind kind;
    void *value; /* bool *, int64_t *, double *, const char ** with the default in it */
    const char *help;
} example_option;

/* Reads the command line into the options (an array that ends with a NULL name); prints `about` and
 * the options for --help. Returns 0 to go on, else the program's exit status plus 1 (1 after
 * --help, 2 after a mistake, which it explains). */
int example_options(int argc, char **argv, const char *about, const example_option *options);

/* The processes that mpirun has started, for nn_train_options; NULL: this one is alone, or costate
 * was built without MPI. All run the program, rank 0 alone prints and writes. example_options has
 * found them. */
struct nn_processes *example_processes(void);

/* Makes the directory (and its parents) if need be; false after explaining why it cannot be. */
bool example_directory(const char *path);
/* Opens directory/name for writing; NULL after explaining. */
FILE *example_file(const char *directory, const char *name);
/* Runs gnuplot on directory/name.gp, which is to make directory/name.png, and says where the
 * picture is, or what to install. */
void example_picture(const char *directory, const char *name);

/* Prints "program: what: message" to stderr and returns 1. */
int example_failed(const char *what, const char *message);
#endif
