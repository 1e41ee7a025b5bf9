#!/usr/bin/env python3
"""Prints the coefficients of autodiff/kernels/maths_f32.h and maths_f64.h, with the relative error that each fit leaves in its
function: minimax polynomials by the Remez exchange on a fine grid, in mpmath. Takes a minute or two."""

import mpmath as mp

mp.mp.dps = 50


def grid(a, b, n):
    """Chebyshev points, ends included."""
    return [(a + b) / 2 - (b - a) / 2 * mp.cos(mp.pi * k / n) for k in range(n + 1)]


def extrema(err):
    """One index of largest |error| in each run of one sign."""
    runs, best = [], 0
    for k in range(1, len(err)):
        if (err[k] > 0) != (err[best] > 0):
            runs.append(best)
            best = k
        elif abs(err[k]) > abs(err[best]):
            best = k
    return runs + [best]


def choose(err, idx, count):
    """count of these extrema, dropping small ones at the ends, so that signs go on alternating."""
    while len(idx) > count:
        idx.pop(0 if abs(err[idx[0]]) < abs(err[idx[-1]]) else -1)
    return idx


def remez(f, weight, a, b, n, points=1200):
    """Polynomial p of degree n that minimises max |weight (p - f)| on [a, b]."""
    a, b = mp.mpf(a), mp.mpf(b)
    xs = grid(a, b, points)
    fs, ws = [f(x) for x in xs], [weight(x) for x in xs]
    idx = [round(mp.mpf(points) * k / (n + 1)) for k in range(n + 2)]
    for _ in range(12):
        A, r = mp.matrix(n + 2, n + 2), mp.matrix(n + 2, 1)
        for i, k in enumerate(idx):
            for j in range(n + 1):
                A[i, j] = xs[k] ** j
            A[i, n + 1] = (-1) ** i / ws[k]
            r[i] = fs[k]
        c = mp.lu_solve(A, r)
        coef = [c[j] for j in range(n + 1)]
        err = [w * (mp.polyval(coef[::-1], x) - y) for x, y, w in zip(xs, fs, ws)]
        new = choose(err, extrema(err), n + 2)
        if len(new) < n + 2 or max(map(abs, err)) < abs(c[n + 1]) * mp.mpf("1.01"):
            break
        idx = new
    return coef, max(map(abs, err))


def show(name, coef, err, f32):
    print(f"{name}, {'float' if f32 else 'double'}, degree {len(coef) - 1}: error 2^{mp.nstr(mp.log(err, 2), 4)}")
    print("    " + ", ".join(mp.nstr(c, 10 if f32 else 18) + ("f" if f32 else "") for c in coef), flush=True)


tiny = mp.mpf(10) ** -14


def at_zero(limit, f):
    """f, but for small arguments, where it cancels, its limit."""
    return lambda x: f(x) if abs(x) > tiny else mp.mpf(limit)


def fits():
    # exp: q(r) = (expm1(r) - r) / r^2
    h = mp.log(2) / 2 * mp.mpf("1.0005")
    q = at_zero(0.5, lambda r: (mp.expm1(r) - r) / r**2)
    weight = at_zero(tiny, lambda r: r**2 / abs(mp.expm1(r)))
    show("exp", *remez(q, weight, -h, h, 4), True)
    show("exp", *remez(q, weight, -h, h, 10), False)

    # tanh: r coth(r) = 1 + w t(w), w = r^2
    end = (mp.log(2) / 4 * mp.mpf("1.0005")) ** 2
    t = at_zero(mp.mpf(1) / 3, lambda w: (mp.sqrt(w) * mp.coth(mp.sqrt(w)) - 1) / w)
    weight = at_zero(tiny, lambda w: w)
    show("tanh", *remez(t, weight, 0, end, 1), True)
    show("tanh", *remez(t, weight, 0, end, 4), False)

    # atanh(s) = s + s w l(w), w = s^2, for softplus and log; l(w) = 1/3 + w q(w) for pow
    l = at_zero(mp.mpf(1) / 3, lambda w: (mp.atanh(mp.sqrt(w)) / mp.sqrt(w) - 1) / w)
    weight = at_zero(tiny, lambda w: w)
    show("softplus", *remez(l, weight, 0, mp.mpf(1) / 9, 3), True)
    show("softplus", *remez(l, weight, 0, mp.mpf(1) / 9, 9), False)
    end = ((mp.sqrt(2) - 1) / (mp.sqrt(2) + 1)) ** 2 * mp.mpf("1.001")
    show("log", *remez(l, weight, 0, end, 6), False)
    show("pow", *remez(lambda w: (l(w) - mp.mpf(1) / 3) / w, lambda w: mp.mpf(5), mp.mpf(10) ** -9, end, 7), False)

    # log(1 + f) = f - f^2/2 + f^3 g(f)
    g = at_zero(mp.mpf(1) / 3, lambda f: (mp.log1p(f) - f + f * f / 2) / f**3)
    weight = at_zero(tiny, lambda f: abs(f**3 / mp.log1p(f)))
    show("log", *remez(g, weight, mp.sqrt(0.5) - 1, mp.sqrt(2) - 1, 7), True)

    # sin(r) = r + r w s(w), cos(r) = 1 - w/2 + w^2 c(w), w = r^2
    end = (mp.pi / 4) ** 2 * mp.mpf("1.03")
    s = at_zero(-mp.mpf(1) / 6, lambda w: (mp.sin(mp.sqrt(w)) / mp.sqrt(w) - 1) / w)
    sin_weight = at_zero(tiny, lambda w: w * mp.sqrt(w) / mp.sin(mp.sqrt(w)))
    c = at_zero(mp.mpf(1) / 24, lambda w: (mp.cos(mp.sqrt(w)) - 1 + w / 2) / w**2)
    cos_weight = at_zero(tiny, lambda w: w * w / mp.cos(mp.sqrt(w)))
    for f32, n in ((True, 2), (False, 5)):
        show("sin", *remez(s, sin_weight, 0, end, n), f32)
        show("cos", *remez(c, cos_weight, 0, end, n), f32)

    # erf(x) = x p(x^2) up to 1; beyond, erf(x) = 1 - exp(-x r(x - centre)), where an error in r matters less and less
    p = at_zero(2 / mp.sqrt(mp.pi), lambda w: mp.erf(mp.sqrt(w)) / mp.sqrt(w))
    for f32, n, m, centre, end in ((True, 6, 5, 2.5, 3.95), (False, 11, 16, 3.5, 5.95)):
        show("erf below 1", *remez(p, lambda w: 1 / p(w), 0, 1.0001, n), f32)
        r = lambda u: -mp.log(mp.erfc(u + centre)) / (u + centre)
        weight = lambda u: (u + centre) * mp.erfc(u + centre) / mp.erf(u + centre)
        show(f"erf above 1, in x - {centre}", *remez(r, weight, 1 - centre, end - centre, m, 800), f32)

    # the normal distribution below -z: exp(-z^2/2) g(s) / (2 + z), s = (z - 4) / (z + 4)
    def g(s):
        z = 4 * (1 + s) / (1 - s)
        return (2 + z) * mp.exp(z * z / 2) * mp.erfc(z / mp.sqrt(2)) / 2

    for f32, n, end in ((True, 10, 15), (False, 23, 40)):
        end = mp.mpf(end - 4) / (end + 4)
        show("normal", *remez(g, lambda s: 1 / g(s), -1, end, n, 800), f32)


fits()
