/* Errors told at once: to the tape's callback, and to stderr where the environment asks for it
 * (COSTATE_ERRORS), with the operations that led to them. */
#include "autodiff/tape/tape.h"
#include <stdlib.h>
#include <string.h>

enum { REPORT_SIZE = 8192, MOST_NODES = 16 };

typedef struct {
    char text[REPORT_SIZE];
    size_t used;
} report;

static void add(report *r, const char *text)
{
    size_t n = strlen(text);
    if (n >= sizeof r->text - r->used) n = sizeof r->text - r->used - 1;
    memcpy(r->text + r->used, text, n);
    r->used += n;
    r->text[r->used] = 0;
}

/* "    %7 = ad_mul(%3, %6): [rows,2]" */
static void add_node(report *r, const ad_tape *t, int32_t k)
{
    const ad_node *n = ad_node_at(t, k);
    static const char *const source[] = { "ad_constant", "ad_param", "ad_input", "ad_input_rows" };
    char line[160], shape[128];
    if (n->op == AD_OP_input)
        snprintf(line, sizeof line, "    %%%d = %s", (int)k, source[n->attr[0]]);
    else if (n->op == AD_OP_opaque)
        snprintf(line, sizeof line, "    %%%d = %s", (int)k, ad_opaque_name(n->class_, n->opaque));
    else snprintf(line, sizeof line, "    %%%d = ad_%s", (int)k, ad_ops[n->op].name);
    add(r, line);
    for (int i = 0; i < n->nin && i < 4; i++) {
        snprintf(line, sizeof line, "%s%%%d%s", i ? ", " : "(", (int)n->in[i],
                 i == 3 && n->nin > 4 ? ", ..." : "");
        add(r, line);
    }
    if (n->nin) add(r, ")");
    if (n->op != AD_OP_opaque) {
        ad_format_shape(n->shape, shape, sizeof shape);
        add(r, ": ");
        add(r, shape);
    }
    add(r, "\n");
}

/* Puts k into the ascending list unless it is there or the list is full. */
static int insert(int n, int32_t *list, int32_t k)
{
    int at = 0;
    while (at < n && list[at] < k) at++;
    if (n == MOST_NODES || (at < n && list[at] == k)) return n;
    memmove(list + at + 1, list + at, (size_t)(n - at) * sizeof *list);
    list[at] = k;
    return n + 1;
}

/* The nodes, and of what they were computed, nearest first until there are enough; in order of
 * recording. */
static void add_history(report *r, const ad_tape *t, int nabout, const int32_t *about)
{
    int32_t list[MOST_NODES], queue[MOST_NODES];
    int n = 0, waiting = 0;
    for (int i = 0; i < nabout; i++) {
        int before = n;
        n = insert(n, list, about[i]);
        if (n > before) queue[waiting++] = about[i];
    }
    for (int i = 0; i < waiting; i++) {
        const ad_node *node = ad_node_at(t, queue[i]);
        for (int k = 0; k < node->nin; k++) {
            int before = n;
            n = insert(n, list, node->in[k]);
            if (n > before) queue[waiting++] = node->in[k];
        }
    }
    if (n) add(r, "  computed from:\n");
    for (int i = 0; i < n; i++) add_node(r, t, list[i]);
    int32_t size = ad_tape_size(t), first = size > 4 ? size - 4 : 0;
    if (n || size == 0) return;
    add(r, "  recorded before it:\n");
    for (int32_t k = first; k < size; k++) add_node(r, t, k);
}

void ad_report(const ad_tape *t, const char *message, int nabout, const int32_t *about,
               void (*callback)(const char *, void *), void *user)
{
    const char *wanted = getenv("COSTATE_ERRORS");
    bool print = wanted && *wanted, stop = print && !strcmp(wanted, "abort");
    if (!print && !callback) return;
    report r = { .used = 0 };
    add(&r, "costate: ");
    const char *without_name = r.text + r.used;
    add(&r, message);
    add(&r, "\n");
    if (t) add_history(&r, t, nabout, about);
    if (print) fputs(r.text, stderr);
    if (callback) callback(without_name, user);
    if (stop) abort();
}
