/* Recording what has no operands: inputs and constants. */
#include "autodiff/tape/store.h"
#include <stdlib.h>
#include <string.h>

/* The shape of a source that has rows, or has none. */
static bool check_source(ad_tape *t, const char *what, ad_shape s, bool rows)
{
    if (!ad_check_shape(t, what, s)) return false;
    if (ad_has_rows(s) == rows) return true;
    char text[128];
    ad_format_shape(s, text, sizeof text);
    if (rows) ad_fail(t, "ad_%s: the shape must begin with AD_ROWS, it is %s", what, text);
    else ad_fail(t, "ad_%s: %s has the row axis, which ad_input_rows declares", what, text);
    return false;
}

void ad_convert(int64_t n, ad_dtype from, const void *data, ad_dtype to, void *out)
{
    if (from == to) memcpy(out, data, (size_t)n * ad_dtype_size(to));
    else if (to == AD_F32)
        for (int64_t i = 0; i < n; i++) ((float *)out)[i] = (float)((const double *)data)[i];
    else
        for (int64_t i = 0; i < n; i++) ((double *)out)[i] = ((const float *)data)[i];
}

static int set_input(ad_var x, const char *what, int64_t rows, ad_dtype dtype, const void *data)
{
    ad_tape *t = x.tape;
    ad_node *n = ad_node_at(t, x.node);
    if (ad_has_rows(n->shape)) {
        if (rows < 1) {
            ad_fail(t, "ad_%s: the batch is empty (rows = %lld)", what, (long long)rows);
            return -1;
        }
        if (rows >= ((int64_t)1 << AD_MAX_ELEMENTS_SHIFT) / ad_row_size(n->shape)) {
            ad_fail(t, "ad_%s: %lld rows are too many", what, (long long)rows);
            return -1;
        }
    }
    int64_t count = ad_count(n->shape, rows);
    size_t bytes = (size_t)count * ad_dtype_size(t->dtype);
    void *value = malloc(bytes);
    if (!value) {
        ad_fail(t, "ad_%s: out of memory (%zu bytes)", what, bytes);
        return -1;
    }
    ad_convert(count, dtype, data, t->dtype, value);
    free(n->value);
    n->value = value;
    n->known = true;
    if (ad_has_rows(n->shape)) {
        t->rows = n->rows = rows;
        if (t->given_rows >= 0) t->given_rows = rows;
    }
    return 0;
}

static ad_var new_input(ad_tape *t, const char *what, ad_level level, ad_shape shape, int64_t rows,
                        ad_dtype dtype, const void *data)
{
    if (!t || t->failed || !check_source(t, what, shape, level == AD_LEVEL_ROW)) return ad_none(t);
    if (level == AD_LEVEL_ROW && data && t->rows >= 0 && t->rows != rows) {
        ad_fail(t, "ad_%s: %lld rows, but the other row inputs of this tape have %lld", what,
                (long long)rows, (long long)t->rows);
        return ad_none(t);
    }
    ad_var x = ad_record(t, AD_OP_input, 0, NULL, 1, (int64_t[]){ level }, shape);
    if (ad_valid(x) && data && set_input(x, what, rows, dtype, data)) return ad_none(t);
    return x;
}

ad_var ad_param_data(ad_tape *t, ad_shape shape, ad_dtype dtype, const void *data)
{
    return new_input(t, "param", AD_LEVEL_PARAMETER, shape, 0, dtype, data);
}

ad_var ad_input_data(ad_tape *t, ad_shape shape, ad_dtype dtype, const void *data)
{
    return new_input(t, "input", AD_LEVEL_CALL, shape, 0, dtype, data);
}

ad_var ad_input_rows_data(ad_tape *t, ad_shape shape, int64_t rows, ad_dtype dtype,
                          const void *data)
{
    return new_input(t, "input_rows", AD_LEVEL_ROW, shape, rows, dtype, data);
}

int ad_set_data(ad_var x, int64_t rows, ad_dtype dtype, const void *data)
{
    ad_tape *t = ad_common_tape("set", 1, &x);
    if (!t) return -1;
    ad_node *n = ad_node_at(t, x.node);
    if (n->op != AD_OP_input || !data) {
        ad_fail(t,
                n->op != AD_OP_input
                    ? "ad_set: the variable is the result of ad_%s; only inputs can be set"
                    : "ad_set: no data (NULL) for ad_%s",
                ad_ops[n->op].name);
        return -1;
    }
    if (ad_tape_is_held(t, "ad_set")) return -1;
    ad_tape_forget_values(t);
    return set_input(x, "set", rows, dtype, data);
}

static ad_var new_constant(ad_tape *t, ad_op op, ad_shape shape, int64_t n, ad_dtype dtype,
                           const void *data)
{
    ad_var x = ad_record(t, op, 0, NULL, 0, NULL, shape);
    if (!ad_valid(x)) return x;
    double *copy = ad_arena_alloc(t, (size_t)n * sizeof *copy);
    if (!copy) return ad_none(t);
    ad_convert(n, dtype, data, AD_F64, copy);
    ad_node *node = ad_node_at(t, x.node);
    node->data = copy;
    node->ndata = n;
    return x;
}

ad_var ad_constant_data(ad_tape *t, ad_shape shape, ad_dtype dtype, const void *data)
{
    if (!t || t->failed || !check_source(t, "constant", shape, false)) return ad_none(t);
    if (!data) ad_fail(t, "ad_constant: no data (NULL)");
    return t->failed ? ad_none(t)
                     : new_constant(t, AD_OP_constant, shape, ad_count(shape, 0), dtype, data);
}

ad_var ad_fill(ad_tape *t, ad_shape shape, double value)
{
    if (!t || t->failed || !ad_check_shape(t, "fill", shape)) return ad_none(t);
    return new_constant(t, AD_OP_fill, shape, 1, AD_F64, &value);
}

ad_var ad_scalar(ad_tape *t, double value) { return ad_fill(t, AD_SCALAR, value); }

ad_var ad_eye(ad_tape *t, int64_t n, int64_t m, int64_t offset)
{
    if (!t || t->failed || !check_source(t, "eye", AD_SHAPE(n, m), false)) return ad_none(t);
    if (offset >= m || offset <= -n) return ad_fill(t, AD_SHAPE(n, m), 0);
    return ad_record(t, AD_OP_eye, 0, NULL, 1, &offset, AD_SHAPE(n, m));
}

ad_var ad_row_count(ad_tape *t)
{
    if (!t || t->failed) return ad_none(t);
    return ad_record(t, AD_OP_row_count, 0, NULL, 0, NULL, AD_SCALAR);
}

const double *ad_constant_elements(ad_var x)
{
    return ad_valid(x) ? ad_node_at(x.tape, x.node)->data : NULL;
}

int64_t ad_constant_size(ad_var x) { return ad_valid(x) ? ad_node_at(x.tape, x.node)->ndata : 0; }
