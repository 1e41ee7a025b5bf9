/* exchange IN OUT: reads the arrays of one file and writes them to another, by the formats that the
 * names end with; .model.safetensors: through the weights of a model with w [2,3] and b [3]. 1 with
 * the message where a file is refused. tests/exchange.py calls it. */
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
    if (ends(path, ".safetensors")) return nn_read_safetensors(path, all, error, sizeof error);
    return nn_read_npy(path, single, error, sizeof error);
}

static int write_arrays(const char *path, const nn_tensors *all)
{
    if (ends(path, ".packed.npz")) return nn_write_npz(path, all, true, error, sizeof error);
    if (ends(path, ".npz")) return nn_write_npz(path, all, false, error, sizeof error);
    if (ends(path, ".safetensors")) return nn_write_safetensors(path, all, error, sizeof error);
    return nn_write_npy(path, &all->tensor[0], error, sizeof error);
}

static int through_model(const char *in, const char *out)
{
    nn_model *model = nn_model_new();
    nn_model_add(model, "w", AD_SHAPE(2, 3), nn_init_zeros, 2, 3);
    nn_model_add(model, "b", AD_SHAPE(3), nn_init_zeros, 2, 3);
    nn_theta *theta = nn_theta_new(model, AD_F64, NULL);
    int result =
        nn_load(in, theta, error, sizeof error) || nn_save(out, theta, error, sizeof error);
    nn_theta_free(theta);
    nn_model_free(model);
    return result;
}

static int through_arrays(const char *in, const char *out)
{
    nn_tensor single = { 0 };
    nn_tensors all;
    int result = read_arrays(in, &all, &single) || write_arrays(out, &all);
    if (all.tensor == &single) nn_tensor_clear(&single);
    else nn_tensors_clear(&all);
    return result;
}

int main(int argc, char **argv)
{
    if (argc != 3) return 2;
    bool model = ends(argv[1], ".model.safetensors");
    int result = model ? through_model(argv[1], argv[2]) : through_arrays(argv[1], argv[2]);
    if (result) fprintf(stderr, "%s\n", error);
    return result;
}
