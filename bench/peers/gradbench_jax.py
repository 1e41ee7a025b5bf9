#!/usr/bin/env python3
"""gradbench_jax.py FOLDER [CASES...]: GradBench's programs in JAX, compiled, on one thread in double precision, by the processor's
clock. Reads from standard input the lines of bench_gradbench --write FOLDER, and from FOLDER the inputs and costate's answers, against
which its own are compared. What the programs compute is said in bench/gradbench/."""
import json
import os
import statistics
import sys
import time

os.environ["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false intra_op_parallelism_threads=1"
os.environ["JAX_PLATFORMS"] = "cpu"
import jax
import jax.numpy as jnp
import numpy

jax.config.update("jax_enable_x64", True)
SAMPLES, SECONDS = 7, 0.02
MOST_MINORS = 5  # rows of a determinant: with more the compiler takes minutes


def ode(size, x):
    n, steps = size[:2]
    h = 2.0 / steps

    def f(y):
        return x * jnp.concatenate([jnp.ones(1), y[:-1]])

    def step(y, _):
        k1 = f(y)
        k2 = f(y + h / 2 * k1)
        k3 = f(y + h / 2 * k2)
        k4 = f(y + h * k3)
        return y + h / 6 * (k1 + k4 + 2 * (k2 + k3)), None

    return jax.lax.scan(step, jnp.zeros(n), None, length=steps)[0][-1]


def lse(size, x):
    return jax.scipy.special.logsumexp(x)


def kmeans(size, centre, x):
    k, rows, d = size
    c, x = centre.reshape(k, d), x.reshape(rows, d)
    return jnp.sum(jnp.sum(x * x, 1) + jnp.min(jnp.sum(c * c, 1) - 2 * x @ c.T, 1))


def determinant(size, a):
    n = size[0]

    def minor(row, used):
        total, sign = 0.0, 1
        if row == n:
            return 1.0
        for j in range(n):
            if used >> j & 1:
                continue
            total += sign * a[row * n + j] * minor(row + 1, used | 1 << j)
            sign = -sign
        return total

    return minor(0, 0)


def gmm(size, p, x):
    d, k, rows = size
    x, wide = x.reshape(rows, d), d + d * (d - 1) // 2
    alpha, mean, icf = p[:k], p[k : k + k * d].reshape(k, d), p[k + k * d :].reshape(k, wide)
    diagonal = jnp.exp(icf[:, :d])
    columns, lines = zip(*[(j, i) for j in range(d) for i in range(j + 1, d)])
    q = jnp.zeros((k, d, d)).at[:, jnp.array(lines), jnp.array(columns)].set(icf[:, d:])
    q = q.at[:, jnp.arange(d), jnp.arange(d)].set(diagonal)
    off = jnp.einsum("bj,kij->bki", x, q) - jnp.einsum("kj,kij->ki", mean, q)
    term = alpha + jnp.sum(icf[:, :d], 1) - 0.5 * jnp.sum(off * off, 2)
    total = jnp.sum(jax.scipy.special.logsumexp(term, axis=1)) - rows * jax.scipy.special.logsumexp(alpha)
    return total + 0.5 * (jnp.sum(diagonal**2) + jnp.sum(icf[:, d:] ** 2))


def lstm(size, p, state, text):
    layers, n, b = size
    p, text = p.reshape(8 * layers + 3, b), text.reshape(n, b)

    def step(state, characters):
        x, following = characters
        x, then = x * p[8 * layers], []
        for a in range(layers):
            hidden, cell, w = state[2 * a], state[2 * a + 1], p[8 * a : 8 * a + 8]
            gate = jnp.stack([x, hidden, x, hidden]) * w[:4] + w[4:]
            cell = cell * jax.nn.sigmoid(gate[0]) + jax.nn.sigmoid(gate[1]) * jnp.tanh(gate[3])
            x = jax.nn.sigmoid(gate[2]) * jnp.tanh(cell)
            then += [x, cell]
        y = x * p[8 * layers + 1] + p[8 * layers + 2]
        return jnp.stack(then), jnp.sum(following * (y - jnp.log(2 + jnp.sum(jnp.exp(y)))))

    terms = jax.lax.scan(step, state.reshape(2 * layers, b), (text[:-1], text[1:]))[1]
    return -jnp.sum(terms) / ((n - 1) * b)


def error_of_row(x, seen):
    r, point = x[:3], x[11:14] - x[3:6]
    angle = jnp.sqrt(r @ r)
    u, c, s = r / angle, jnp.cos(angle), jnp.sin(angle)
    at = point * c + jnp.cross(u, point) * s + u * (u @ point) * (1 - c)
    on = at[:2] / at[2]
    square = on @ on
    bent = on * (1 + square * (x[9] + x[10] * square))
    return x[14] * (bent * x[6] + x[7:9] - seen)


def adjustment(size, x, seen):
    return jax.vmap(error_of_row)(x.reshape(size[0], 15), seen.reshape(size[0], 2))


def adjustment_jacobian(size, x, seen):
    return jax.vmap(jax.jacrev(error_of_row))(x.reshape(size[0], 15), seen.reshape(size[0], 2))


def compiled(program, size):
    if program == "adjustment":
        return jax.jit(lambda *x: (adjustment(size, *x), adjustment_jacobian(size, *x)))
    f = globals()[program]
    return jax.jit(jax.value_and_grad(lambda *x: f(size, *x)))


def difference(a, b):
    return float(numpy.max(numpy.abs(a - b)) / max(numpy.max(numpy.abs(b)), 1e-300))


def measure(line, folder):
    numbers = numpy.fromfile(os.path.join(folder, line["case"]))
    parts = numpy.split(numbers, numpy.cumsum(line["inputs"] + [line["value"]]))
    inputs, value, derivative = [jnp.array(x) for x in parts[:-2]], parts[-2], parts[-1]
    run = compiled(line["program"], line["size"])
    got = [numpy.asarray(x).ravel() for x in run(*inputs)]
    runs = 1
    while True:
        begin = time.process_time()
        for _ in range(runs):
            jax.block_until_ready(run(*inputs))
        if time.process_time() - begin > SECONDS:
            break
        runs *= 2
    times = []
    for _ in range(SAMPLES):
        begin = time.process_time()
        for _ in range(runs):
            jax.block_until_ready(run(*inputs))
        times.append((time.process_time() - begin) / runs * 1e3)
    error = max(difference(got[0], value), difference(got[1], derivative))
    print(json.dumps({"case": line["case"], "by": "jax", "ms": statistics.median(times), "error": error}), flush=True)


if __name__ == "__main__":
    wanted = sys.argv[2:]
    for text in sys.stdin:
        line = json.loads(text)
        if line["program"] == "determinant" and line["size"][0] > MOST_MINORS:
            continue
        if not wanted or any(line["case"].startswith(w) for w in wanted):
            measure(line, sys.argv[1])
