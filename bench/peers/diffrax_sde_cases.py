#!/usr/bin/env python3
"""The stochastic cases in JAX and diffrax, compiled as a whole: Euler with each of diffrax's Brownian paths, and by each adjoint that takes it.
With --moments: means and standard deviations of the answers, from plain loops in double, for bench/moments.def."""
import sys
import time

import numpy as np

import problems
import stochastic

MOMENTS = "--moments" in sys.argv
if MOMENTS:
    sys.argv.remove("--moments")
options = problems.parse(__doc__, stochastic.CASES)
import diffrax  # noqa: E402 (the threads must be settled before)
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import lineax  # noqa: E402

jax.config.update("jax_enable_x64", MOMENTS or options.dtype == "f64")
jax.config.update("jax_platforms", "cpu")
DTYPE = jnp.float64 if MOMENTS or options.dtype == "f64" else jnp.float32
STEP = stochastic.END / stochastic.STEPS


def drift(t, y, args):
    for weight, bias in args[0][:-1]:
        y = jnp.tanh(y @ weight + bias)
    return y @ args[0][-1][0] + args[0][-1][1]


def diffusion(t, y, args):
    return jax.nn.sigmoid(args[1][0] * y + args[1][1])


def solve(path, adjoint, key, y0, args):
    shape = jax.ShapeDtypeStruct(y0.shape, DTYPE)
    if path == "VirtualBrownianTree":
        brownian = diffrax.VirtualBrownianTree(0.0, stochastic.END, tol=STEP / 2, shape=shape, key=key)
    else:
        brownian = diffrax.UnsafeBrownianPath(shape=shape, key=key)

    terms = diffrax.MultiTerm(diffrax.ODETerm(drift), diffrax.ControlTerm(lambda t, y, a: lineax.DiagonalLinearOperator(diffusion(t, y, a)), brownian))
    times = np.linspace(0, stochastic.END, stochastic.STEPS + 1)
    return diffrax.diffeqsolve(terms, diffrax.Euler(), 0.0, stochastic.END, None, y0, args, adjoint=adjoint, throw=False, max_steps=stochastic.STEPS,
                               stepsize_controller=diffrax.StepTo(jnp.asarray(times, DTYPE))).ys[-1]


def loop(path, adjoint, key, y0, args):
    """The same by hand: normals for all steps at once, and a scan."""

    def step(y, w):
        return y + STEP * drift(0, y, args) + diffusion(0, y, args) * w, None

    noise = jax.random.normal(key, (stochastic.STEPS, *y0.shape), DTYPE) * STEP**0.5
    return jax.lax.scan(step, y0, noise)[0]


def loss_of(how, path, adjoint):
    return lambda y0, args, key: (how(path, adjoint, key, y0, args) ** 2).sum() / (2 * stochastic.ROWS)


def data(case):
    y0, weights, rest = stochastic.setting(case)
    return jnp.asarray(y0, DTYPE), ([tuple(jnp.asarray(array, DTYPE) for array in layer) for layer in weights], tuple(jnp.asarray(array, DTYPE) for array in rest))


def sums(value, gradient):
    return [float(value)] + [float(array.astype("float64" if jax.config.jax_enable_x64 else "float32").sum()) for array in jax.tree.leaves(gradient)]


def run_case(case, how, variant, path, adjoint, backward):
    y0, args = data(case)
    value = loss_of(how, path, adjoint)
    function = jax.jit(jax.value_and_grad(value, (0, 1)) if backward else lambda *all: (value(*all), ()))
    keys = list(jax.random.split(jax.random.key(1), stochastic.RUNS))
    start = time.perf_counter()
    jax.block_until_ready(function(y0, args, keys[0]))
    first = (time.perf_counter() - start) * 1e3
    runs = [sums(*function(y0, args, key)) for key in keys]
    ms = problems.milliseconds(lambda: jax.block_until_ready(function(y0, args, keys[0])), options.repeats)
    name = case + (".gradient" if backward else ".forward")
    stochastic.report("diffrax", options, name, variant, ms, runs, first)


def print_moments(case, count=600):
    y0, args = data(case)
    function = jax.jit(jax.value_and_grad(loss_of(loop, None, None), (0, 1)))
    runs = np.array([sums(*function(y0, args, key)) for key in jax.random.split(jax.random.key(0), count)])
    numbers = np.stack([runs.mean(0), runs.std(0, ddof=1)], 1).ravel()
    print("MOMENTS(%s, %d, %s)" % (case, count, ", ".join("%.6g" % number for number in numbers)), flush=True)


ADJOINTS = {"checkpoints": diffrax.RecursiveCheckpointAdjoint(checkpoints=stochastic.STEPS), "direct": diffrax.DirectAdjoint()}
for chosen in options.case:
    if MOMENTS:
        print_moments(chosen)
        continue
    for tree in ("VirtualBrownianTree", "UnsafeBrownianPath"):  # the latter has no gradient
        run_case(chosen, solve, tree, tree, ADJOINTS["checkpoints" if tree[0] == "V" else "direct"], False)
    for label, through in ADJOINTS.items():
        run_case(chosen, solve, label + ", VirtualBrownianTree", "VirtualBrownianTree", through, True)
    run_case(chosen, loop, "scan, drawn at once", None, None, False)
    run_case(chosen, loop, "scan, drawn at once", None, None, True)
