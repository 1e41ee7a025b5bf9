// GradBench's programs with ADOL-C's numbers, as plain loops. What they compute is said in the C file of each.
#include "peers.h"
#include <adolc/adolc.h>
#include <cmath>
#include <string>
#include <vector>

namespace {

using list = std::vector<adouble>;
// The tape stays in memory: operations, places and numbers, as many as the largest case has.
enum { TAG = 1, OPERATIONS = 1 << 23, PLACES = 1 << 25 };

adouble ode(const gb_case *c, const list &x)
{
    const int64_t n = c->size[0], steps = c->size[1];
    const double h = 2.0 / (double)steps, reach[4] = { 0, 0.5, 0.5, 1 };
    list y(n, 0.0), u(n), k[4];
    for (int64_t s = 0; s < steps; s++) {
        for (int i = 0; i < 4; i++) {
            for (int64_t j = 0; j < n; j++) u[j] = i == 0 ? y[j] : y[j] + h * reach[i] * k[i - 1][j];
            k[i].resize(n);
            k[i][0] = x[0];
            for (int64_t j = 1; j < n; j++) k[i][j] = x[j] * u[j - 1];
        }
        for (int64_t j = 0; j < n; j++) y[j] += h / 6 * (k[0][j] + k[3][j] + 2 * (k[1][j] + k[2][j]));
    }
    return y[n - 1];
}

adouble log_sum_exp(const list &x)
{
    double most = x[0].value();
    for (const adouble &v : x) most = std::fmax(most, v.value());
    adouble sum = 0;
    for (const adouble &v : x) sum += exp(v - most);
    return log(sum) + most;
}

adouble lse(const gb_case *, const list &x) { return log_sum_exp(x); }

adouble kmeans(const gb_case *c, const list &x)
{
    const int64_t k = c->size[0], d = c->size[2];
    adouble total = 0;
    for (int64_t r = 0; r < c->rows; r++) {
        adouble best = 1e300;
        for (int64_t j = 0; j < k; j++) {
            adouble sum = 0;
            for (int64_t i = 0; i < d; i++) {
                adouble off = c->input[1][r * d + i] - x[j * d + i];
                sum += off * off;
            }
            best = fmin(best, sum);
        }
        total += best;
    }
    return total;
}

adouble minor(int64_t n, const list &a, int64_t row, unsigned used)
{
    adouble sum = 0;
    int sign = 1;
    if (row == n) return 1;
    for (int64_t j = 0; j < n; j++) {
        if (used >> j & 1) continue;
        adouble term = row == n - 1 ? a[row * n + j] : a[row * n + j] * minor(n, a, row + 1, used | 1u << j);
        if (sign > 0) sum += term;
        else sum -= term;
        sign = -sign;
    }
    return sum;
}

adouble determinant(const gb_case *c, const list &x) { return minor(c->size[0], x, 0, 0); }

adouble gmm(const gb_case *c, const list &x)
{
    const int64_t d = c->size[0], k = c->size[1], wide = d + d * (d - 1) / 2;
    const adouble *mean = &x[k], *icf = mean + k * d;
    list alpha(x.begin(), x.begin() + k), logs(k, 0.0), diagonal(k * d), term(k), centred(d), off(d);
    adouble total = 0;
    for (int64_t a = 0; a < k; a++)
        for (int64_t i = 0; i < d; i++) {
            logs[a] += icf[a * wide + i];
            diagonal[a * d + i] = exp(icf[a * wide + i]);
        }
    for (int64_t r = 0; r < c->rows; r++) {
        for (int64_t a = 0; a < k; a++) {
            for (int64_t i = 0; i < d; i++) {
                centred[i] = c->input[1][r * d + i] - mean[a * d + i];
                off[i] = diagonal[a * d + i] * centred[i];
            }
            for (int64_t j = 0, n = d; j < d; j++)
                for (int64_t i = j + 1; i < d; i++) off[i] += icf[a * wide + n++] * centred[j];
            adouble square = 0;
            for (int64_t i = 0; i < d; i++) square += off[i] * off[i];
            term[a] = alpha[a] + logs[a] - 0.5 * square;
        }
        total += log_sum_exp(term);
    }
    total -= (double)c->rows * log_sum_exp(alpha);
    adouble prior = 0;
    for (int64_t a = 0; a < k; a++) {
        for (int64_t i = 0; i < d; i++) prior += diagonal[a * d + i] * diagonal[a * d + i];
        for (int64_t i = d; i < wide; i++) prior += icf[a * wide + i] * icf[a * wide + i];
    }
    return total + 0.5 * prior;
}

adouble sigmoid(const adouble &x) { return 1 / (1 + exp(-x)); }

adouble lstm(const gb_case *c, const list &p)
{
    const int64_t l = c->size[0], n = c->size[1], b = c->size[2];
    const double *text = c->input[2];
    const adouble *entry = &p[8 * l * b], *end = entry + b;
    list state(c->input[1], c->input[1] + 2 * l * b), x(b), y(b);
    adouble sum = 0;
    for (int64_t t = 0; t < n - 1; t++) {
        for (int64_t i = 0; i < b; i++) x[i] = text[t * b + i] * entry[i];
        for (int64_t a = 0; a < l; a++) {
            const adouble *w = &p[8 * a * b], *bias = w + 4 * b;
            adouble *h = &state[2 * a * b], *cell = h + b;
            for (int64_t i = 0; i < b; i++) {
                adouble forget = sigmoid(x[i] * w[i] + bias[i]), in = sigmoid(h[i] * w[b + i] + bias[b + i]);
                adouble out = sigmoid(x[i] * w[2 * b + i] + bias[2 * b + i]), change = tanh(h[i] * w[3 * b + i] + bias[3 * b + i]);
                cell[i] = cell[i] * forget + in * change;
                h[i] = out * tanh(cell[i]);
                x[i] = h[i];
            }
        }
        adouble total = 2;
        for (int64_t i = 0; i < b; i++) {
            y[i] = x[i] * end[i] + end[b + i];
            total += exp(y[i]);
        }
        total = log(total);
        for (int64_t i = 0; i < b; i++) sum += text[(t + 1) * b + i] * (y[i] - total);
    }
    return sum * (-1 / ((double)(n - 1) * (double)b));
}

// Of one row: x and what was seen are independent, since the tape is used for all rows.
void adjustment(const adouble *x, const adouble *seen, adouble *error)
{
    adouble point[3], u[3], cross[3], at[3], square = x[0] * x[0] + x[1] * x[1] + x[2] * x[2], angle = sqrt(square), dot = 0;
    adouble c = cos(angle), s = sin(angle);
    for (int i = 0; i < 3; i++) {
        point[i] = x[11 + i] - x[3 + i];
        u[i] = x[i] / angle;
        dot += u[i] * point[i];
    }
    for (int i = 0; i < 3; i++) {
        const int j = (i + 1) % 3, k = (i + 2) % 3;
        cross[i] = u[j] * point[k] - u[k] * point[j];
        at[i] = point[i] * c + cross[i] * s + u[i] * (dot * (1 - c));
    }
    adouble on[2] = { at[0] / at[2], at[1] / at[2] }, r = on[0] * on[0] + on[1] * on[1];
    adouble bend = 1 + r * (x[9] + x[10] * r);
    for (int i = 0; i < 2; i++) error[i] = (on[i] * bend * x[6] + x[7 + i] - seen[i]) * x[14];
}

using scalar = adouble (*)(const gb_case *, const list &);
const struct {
    const char *name;
    scalar f;
} programs[] = { { "ode", ode },           { "lse", lse }, { "kmeans", kmeans }, { "determinant", determinant },
                 { "gmm", gmm }, { "lstm", lstm } };

const int NUMBERS = 15, SEEN = 2;

void record_adjustment(const gb_case *c)
{
    adouble x[NUMBERS + SEEN], error[SEEN];
    double value;
    trace_on(TAG, 0, OPERATIONS, PLACES, OPERATIONS, OPERATIONS);
    for (int i = 0; i < NUMBERS; i++) x[i] <<= c->input[0][i];
    for (int i = 0; i < SEEN; i++) x[NUMBERS + i] <<= c->input[1][i];
    adjustment(x, x + NUMBERS, error);
    for (adouble &e : error) e >>= value;
    trace_off();
}

void run_adjustment(const gb_case *c, double *value, double *derivative)
{
    double x[NUMBERS + SEEN], line[SEEN][NUMBERS + SEEN], *lines[SEEN] = { line[0], line[1] };
    static double first[] = { 1, 0 }, second[] = { 0, 1 };
    double *unit[] = { first, second };
    for (int64_t r = 0; r < c->rows; r++) {
        for (int i = 0; i < NUMBERS; i++) x[i] = c->input[0][r * NUMBERS + i];
        for (int i = 0; i < SEEN; i++) x[NUMBERS + i] = c->input[1][r * SEEN + i];
        zos_forward(TAG, SEEN, NUMBERS + SEEN, 1, x, value + r * SEEN);
        fov_reverse(TAG, SEEN, NUMBERS + SEEN, SEEN, unit, lines);
        for (int k = 0; k < SEEN; k++)
            for (int i = 0; i < NUMBERS; i++) derivative[(r * SEEN + k) * NUMBERS + i] = line[k][i];
    }
}

} // namespace

bool gb_adolc_start(const gb_case *c, const char *program)
{
    if (std::string(program) == "adjustment") {
        record_adjustment(c);
        return true;
    }
    for (const auto &p : programs) {
        if (std::string(program) != p.name) continue;
        list x(c->count[0]);
        double value;
        trace_on(TAG, 1, OPERATIONS, PLACES, OPERATIONS, OPERATIONS);
        for (int64_t i = 0; i < c->count[0]; i++) x[i] <<= c->input[0][i];
        adouble y = p.f(c, x);
        y >>= value;
        trace_off();
        return true;
    }
    return false;
}

void gb_adolc_run(const gb_case *c, const char *program, double *value, double *derivative)
{
    double one = 1;
    if (std::string(program) == "adjustment") {
        run_adjustment(c, value, derivative);
        return;
    }
    zos_forward(TAG, 1, (int)c->count[0], 1, c->input[0], value);
    fos_reverse(TAG, 1, (int)c->count[0], &one, derivative);
}
