/* Recording opaque operations: the node of the operation, its token, is followed by one node for
 * each result. */
#include "autodiff/tape/tape.h"
#include <stdlib.h>

static bool opaque_shapes_fit(ad_tape *t, const char *name, int nout, const ad_shape *shapes)
{
    for (int i = 0; i < nout; i++)
        if (!ad_check_shape(t, name, shapes[i])) return false;
    return true;
}

static bool opaque_call_fits(ad_tape *t, const ad_opaque_class *class_, int nin, const ad_var *in,
                             int nout, const ad_shape *shapes, const ad_var *out)
{
    const char *name = class_ ? class_->name : "opaque";
    if (!class_) ad_fail_null(t, name, "the class");
    else if (nin < 0 || nout < 0) ad_fail(t, "ad_%s: %d operands, %d results", name, nin, nout);
    else if (nin && !in) ad_fail_null(t, name, "the list of operands");
    else if (nout && !shapes) ad_fail_null(t, name, "the list of shapes");
    else if (nout && !out) ad_fail_null(t, name, "the list of results");
    if (!t || ad_tape_error(t)) return false;
    if (nin && ad_common_tape_tokens(name, nin, in) != t) {
        ad_fail(t, "ad_%s: the operands are not on the tape of the operation", name);
        return false;
    }
    return opaque_shapes_fit(t, name, nout, shapes);
}

ad_var ad_opaque(ad_tape *t, const ad_opaque_class *class_, void *data, int nin, const ad_var *in,
                 int nout, const ad_shape *shapes, ad_var *out)
{
    ad_clear_results(t, nout, NULL, out);
    if (!opaque_call_fits(t, class_, nin, in, nout, shapes, out)) {
        if (class_ && class_->release) class_->release(data);
        return ad_none(t);
    }
    int32_t *operands = nin ? malloc((size_t)nin * sizeof *operands) : NULL;
    bool fine = nin == 0 || operands;
    if (!fine) ad_fail(t, "%s: out of memory", class_->name);
    for (int i = 0; i < nin && fine; i++) operands[i] = in[i].node;
    ad_var token = fine ? ad_record(t, AD_OP_opaque, nin, operands, 1, (int64_t[]){ nout },
                                    (ad_shape){ -1, { 0 } })
                        : ad_none(t);
    free(operands);
    if (!ad_valid(token)) {
        if (class_->release) class_->release(data);
        return ad_none(t);
    }
    ad_node *n = ad_node_at(t, token.node);
    n->class_ = class_;
    n->opaque = data;
    for (int i = 0; i < nout; i++) {
        if (ad_has_rows(shapes[i])) n->level = AD_LEVEL_ROW;
        out[i] = ad_record(t, AD_OP_project, 1, &token.node, 1, (int64_t[]){ i }, shapes[i]);
    }
    if (ad_valid(token)) return token;
    /* Short of memory between the results: none of them, as the operation needs all. */
    ad_tape_rewind(t, token.node);
    ad_clear_results(t, nout, NULL, out);
    return ad_none(t);
}
