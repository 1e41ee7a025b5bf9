/* exchange IN OUT: reads the arrays of one file and writes them to another, by the formats that the
 * names end with. 1 with the message where a file is refused. tests/exchange.py calls it. */
#include "nn/nn.h"
#include <stdio.h>
#include <string.h>

static char error[512];

static bool ends(const char *path, const char *ending)
{
    size_t n = strlen(path), m = strlen(ending);
    return n >= m && strcmp(path + n - m, ending) == 0;
}

static int read_arrays(const char *path, nn_tensors *all, nn_tensor *single)
{
    *all = (nn_tensors){ 1, single };
    if (ends(path, ".npz")) return nn_read_npz(path, all, error, sizeof error);
    return nn_read_npy(path, single, error, sizeof error);
}

static int write_arrays(const char *path, const nn_tensors *all)
{
    if (ends(path, ".packed.npz")) return nn_write_npz(path, all, true, error, sizeof error);
    if (ends(path, ".npz")) return nn_write_npz(path, all, false, error, sizeof error);
    return nn_write_npy(path, &all->tensor[0], error, sizeof error);
}

int main(int argc, char **argv)
{
    nn_tensor single = { 0 };
    nn_tensors all;
    if (argc != 3) return 2;
    int result = read_arrays(argv[1], &all, &single) || write_arrays(argv[2], &all);
    if (result) fprintf(stderr, "%s\n", error);
    if (all.tensor == &single) nn_tensor_clear(&single);
    else nn_tensors_clear(&all);
    return result;
}
