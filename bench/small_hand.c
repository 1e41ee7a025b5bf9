/* Small systems by hand: what a user would write in C, with the sizes known to the compiler. The
 * loops over rows, the step and its adjoint are the same for all; each system has its field f and
 * back, which adds bar^T df/dy to ybar and bar^T df/dp to pbar. */
#include "small.h"
#include <math.h>
#include <string.h>

#define INLINE static inline __attribute__((always_inline))

INLINE void lotka(const double *y, const double *p, double *f)
{
    f[0] = p[0] * y[0] - p[1] * y[0] * y[1];
    f[1] = p[2] * y[0] * y[1] - p[3] * y[1];
}
INLINE void lotka_back(const double *y, const double *p, const double *bar, double *ybar,
                       double *pbar)
{
    ybar[0] += bar[0] * (p[0] - p[1] * y[1]) + bar[1] * p[2] * y[1];
    ybar[1] += bar[1] * (p[2] * y[0] - p[3]) - bar[0] * p[1] * y[0];
    pbar[0] += bar[0] * y[0];
    pbar[1] -= bar[0] * y[0] * y[1];
    pbar[2] += bar[1] * y[0] * y[1];
    pbar[3] -= bar[1] * y[1];
}

INLINE void lorenz(const double *y, const double *p, double *f)
{
    f[0] = p[0] * (y[1] - y[0]);
    f[1] = y[0] * (p[1] - y[2]) - y[1];
    f[2] = y[0] * y[1] - p[2] * y[2];
}
INLINE void lorenz_back(const double *y, const double *p, const double *bar, double *ybar,
                        double *pbar)
{
    ybar[0] += bar[1] * (p[1] - y[2]) + bar[2] * y[1] - bar[0] * p[0];
    ybar[1] += bar[0] * p[0] - bar[1] + bar[2] * y[0];
    ybar[2] -= bar[1] * y[0] + bar[2] * p[2];
    pbar[0] += bar[0] * (y[1] - y[0]);
    pbar[1] += bar[1] * y[0];
    pbar[2] -= bar[2] * y[2];
}

INLINE void robertson(const double *y, const double *p, double *f)
{
    const double a = p[0] * y[0], b = p[1] * y[1] * y[1], c = p[2] * y[1] * y[2];
    f[0] = c - a;
    f[1] = a - b - c;
    f[2] = b;
}
INLINE void robertson_back(const double *y, const double *p, const double *bar, double *ybar,
                           double *pbar)
{
    const double a = bar[1] - bar[0], b = bar[2] - bar[1], c = bar[0] - bar[1];
    ybar[0] += a * p[0];
    ybar[1] += 2 * b * p[1] * y[1] + c * p[2] * y[2];
    ybar[2] += c * p[2] * y[1];
    pbar[0] += a * y[0];
    pbar[1] += b * y[1] * y[1];
    pbar[2] += c * y[1] * y[2];
}

/* A ring of reactions: species i becomes the next one at the rate y_i (k_i - q_i y_{i+1}). */
enum { RING = 20 };
INLINE void kinetics(const double *y, const double *p, double *f)
{
    double rate[RING];
    for (int i = 0; i < RING - 1; i++) rate[i] = y[i] * (p[i] - p[RING + i] * y[i + 1]);
    rate[RING - 1] = y[RING - 1] * (p[RING - 1] - p[2 * RING - 1] * y[0]);
    f[0] = rate[RING - 1] - rate[0];
    for (int i = 1; i < RING; i++) f[i] = rate[i - 1] - rate[i];
}
INLINE void kinetics_back(const double *y, const double *p, const double *bar, double *ybar,
                          double *pbar)
{
    for (int i = 0; i < RING; i++) {
        const int next = i == RING - 1 ? 0 : i + 1;
        const double rate = bar[next] - bar[i];
        ybar[i] += rate * (p[i] - p[RING + i] * y[next]);
        ybar[next] -= rate * y[i] * p[RING + i];
        pbar[i] += rate * y[i];
        pbar[RING + i] -= rate * y[i] * y[next];
    }
}

/* A network 4-32-4: weights [4,32], biases [32], weights [32,4], biases [4]. */
enum { IN = 4, HIDDEN = 32, BIAS = IN * HIDDEN, SECOND = BIAS + HIDDEN, LAST = SECOND + BIAS };
INLINE void hidden_units(const double *y, const double *p, double *h)
{
    for (int j = 0; j < HIDDEN; j++) h[j] = p[BIAS + j];
    for (int i = 0; i < IN; i++)
        for (int j = 0; j < HIDDEN; j++) h[j] += y[i] * p[i * HIDDEN + j];
    for (int j = 0; j < HIDDEN; j++) h[j] = tanh(h[j]);
}
INLINE void network(const double *y, const double *p, double *f)
{
    double h[HIDDEN];
    hidden_units(y, p, h);
    for (int k = 0; k < IN; k++) f[k] = p[LAST + k];
    for (int j = 0; j < HIDDEN; j++)
        for (int k = 0; k < IN; k++) f[k] += h[j] * p[SECOND + j * IN + k];
}
INLINE void network_back(const double *y, const double *p, const double *bar, double *ybar,
                         double *pbar)
{
    double h[HIDDEN], hbar[HIDDEN];
    hidden_units(y, p, h);
    for (int k = 0; k < IN; k++) pbar[LAST + k] += bar[k];
    for (int j = 0; j < HIDDEN; j++) {
        double sum = 0;
        for (int k = 0; k < IN; k++) {
            sum += bar[k] * p[SECOND + j * IN + k];
            pbar[SECOND + j * IN + k] += h[j] * bar[k];
        }
        hbar[j] = sum * (1 - h[j] * h[j]);
        pbar[BIAS + j] += hbar[j];
    }
    for (int i = 0; i < IN; i++) {
        double sum = 0;
        for (int j = 0; j < HIDDEN; j++) {
            sum += hbar[j] * p[i * HIDDEN + j];
            pbar[i * HIDDEN + j] += y[i] * hbar[j];
        }
        ybar[i] += sum;
    }
}

/* An LSTM cell of 14 as a map of its hidden state and cell: weights [28,56] of the input and the
 * hidden state, biases [56], input [14]; gates forget, in, out and change. */
enum {
    CELL = 14,
    GATES = 4 * CELL,
    WIDE = 2 * CELL,
    OFFSET = WIDE * GATES,
    GIVEN = OFFSET + GATES
};
INLINE void gates(const double *y, const double *p, double *g)
{
    for (int j = 0; j < GATES; j++) g[j] = p[OFFSET + j];
    for (int i = 0; i < WIDE; i++) {
        const double x = i < CELL ? p[GIVEN + i] : y[i - CELL];
        for (int j = 0; j < GATES; j++) g[j] += x * p[i * GATES + j];
    }
    for (int j = 0; j < 3 * CELL; j++) g[j] = 1 / (1 + exp(-g[j]));
    for (int j = 3 * CELL; j < GATES; j++) g[j] = tanh(g[j]);
}
INLINE void lstm(const double *y, const double *p, double *f)
{
    double g[GATES];
    gates(y, p, g);
    for (int i = 0; i < CELL; i++) {
        f[CELL + i] = y[CELL + i] * g[i] + g[CELL + i] * g[3 * CELL + i];
        f[i] = g[2 * CELL + i] * tanh(f[CELL + i]);
    }
}
INLINE void lstm_back(const double *y, const double *p, const double *bar, double *ybar,
                      double *pbar)
{
    double g[GATES], gbar[GATES];
    gates(y, p, g);
    for (int i = 0; i < CELL; i++) {
        const double forget = g[i], in = g[CELL + i], out = g[2 * CELL + i];
        const double change = g[3 * CELL + i], cell = y[CELL + i];
        const double bent = tanh(cell * forget + in * change);
        const double after = bar[CELL + i] + bar[i] * out * (1 - bent * bent);
        gbar[i] = after * cell * forget * (1 - forget);
        gbar[CELL + i] = after * change * in * (1 - in);
        gbar[2 * CELL + i] = bar[i] * bent * out * (1 - out);
        gbar[3 * CELL + i] = after * in * (1 - change * change);
        ybar[CELL + i] += after * forget;
    }
    for (int j = 0; j < GATES; j++) pbar[OFFSET + j] += gbar[j];
    for (int i = 0; i < WIDE; i++) {
        const double x = i < CELL ? p[GIVEN + i] : y[i - CELL];
        double sum = 0;
        for (int j = 0; j < GATES; j++) {
            sum += gbar[j] * p[i * GATES + j];
            pbar[i * GATES + j] += x * gbar[j];
        }
        if (i < CELL) pbar[GIVEN + i] += sum;
        else ybar[i - CELL] += sum;
    }
}

/* ---- fields, steps and their adjoints, by rows ---- */

#define SYSTEM(f, n)                                                                               \
    INLINE void f##_stages(const double *y, const double *p, double h, double u[4][n],             \
                           double k[4][n])                                                         \
    {                                                                                              \
        static const double reach[4] = { 0, 0.5, 0.5, 1 };                                         \
        for (int s = 0; s < 4; s++) {                                                              \
            for (int i = 0; i < n; i++) u[s][i] = s ? y[i] + h * reach[s] * k[s - 1][i] : y[i];    \
            f(u[s], p, k[s]);                                                                      \
        }                                                                                          \
    }                                                                                              \
    static void f##_field(int64_t rows, const double *y, const double *p, double *out)             \
    {                                                                                              \
        for (int64_t r = 0; r < rows; r++) f(y + r * n, p, out + r * n);                           \
    }                                                                                              \
    static void f##_step(int64_t rows, const double *y, const double *p, double h, double *out)    \
    {                                                                                              \
        double u[4][n], k[4][n];                                                                   \
        for (int64_t r = 0; r < rows; r++) {                                                       \
            f##_stages(y + r * n, p, h, u, k);                                                     \
            for (int i = 0; i < n; i++)                                                            \
                out[r * n + i] =                                                                   \
                    y[r * n + i] + h / 6 * (k[0][i] + k[3][i] + 2 * (k[1][i] + k[2][i]));          \
        }                                                                                          \
    }                                                                                              \
    static void f##_step_back(int64_t rows, const double *y, const double *p, double h,            \
                              const double *bar, double *ybar, double *pbar)                       \
    {                                                                                              \
        static const double weight[4] = { 1, 2, 2, 1 }, reach[4] = { 0.5, 0.5, 1, 0 };             \
        double u[4][n], k[4][n];                                                                   \
        for (int64_t r = 0; r < rows; r++) {                                                       \
            double ubar[n] = { 0 }, kbar[n], *sum = ybar + r * n;                                  \
            f##_stages(y + r * n, p, h, u, k);                                                     \
            memcpy(sum, bar + r * n, sizeof ubar);                                                 \
            for (int s = 3; s >= 0; s--) {                                                         \
                for (int i = 0; i < n; i++)                                                        \
                    kbar[i] = h / 6 * weight[s] * bar[r * n + i] + h * reach[s] * ubar[i];         \
                memset(ubar, 0, sizeof ubar);                                                      \
                f##_back(u[s], p, kbar, ubar, pbar);                                               \
                for (int i = 0; i < n; i++) sum[i] += ubar[i];                                     \
            }                                                                                      \
        }                                                                                          \
    }
SYSTEM(lotka, 2)
SYSTEM(lorenz, 3)
SYSTEM(robertson, 3)
SYSTEM(kinetics, 20)
SYSTEM(network, 4)
SYSTEM(lstm, 28)

#define ROW(f, n, parameters)                                                                      \
    {                                                                                              \
#f, n, parameters, f##_field, f##_step, f##_step_back                                      \
    }
const small_system small_systems[SMALL_SYSTEMS] = {
    ROW(lotka, 2, 4),
    ROW(lorenz, 3, 3),
    ROW(robertson, 3, 3),
    ROW(kinetics, RING, 2 * RING),
    ROW(network, IN, LAST + IN),
    ROW(lstm, WIDE, GIVEN + CELL),
};
