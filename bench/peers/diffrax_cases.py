#!/usr/bin/env python3
"""The cases in JAX and diffrax, compiled as a whole: a training step is one XLA program. Every variant that might be the fastest."""
import math
import time

import problems

options = problems.parse(__doc__)
import diffrax  # noqa: E402 (the threads must be settled before)
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402

jax.config.update("jax_enable_x64", options.dtype == "f64")
jax.config.update("jax_platforms", "cpu")
MAX_STEPS = 16  # no more than needed, each of them a checkpoint: nothing set aside in vain, and nothing computed twice
DTYPE = jnp.float32 if options.dtype == "f32" else jnp.float64


def network(layers, x):
    for weight, bias in layers[:-1]:
        x = jnp.tanh(x @ weight + bias)
    return x @ layers[-1][0] + layers[-1][1]


def field(t, x, layers):
    return network(layers, x)


def cubed(t, x, layers):
    return network(layers, x**3)


def flow(t, state, layers):
    """(x, log density): the trace from each row's Jacobian by forward derivatives, which is faster here than along one unit vector after the
    other, or along all of them for the whole batch by jax.linearize."""
    x = state[0]
    jacobian = jax.vmap(jax.jacfwd(lambda x: network(layers, x)))(x)
    return network(layers, x), -jnp.trace(jacobian, axis1=1, axis2=2)


def solve(case, right_side, start, begin, end, layers, adjoint, times=None):
    _, _, _, rtol, atol = problems.CASES[case]
    solution = diffrax.diffeqsolve(diffrax.ODETerm(right_side), diffrax.Dopri5(), begin, end, None, start, layers, adjoint=adjoint,
                                   saveat=diffrax.SaveAt(ts=times) if times is not None else diffrax.SaveAt(t1=True), throw=False,
                                   stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol), max_steps=MAX_STEPS)
    return solution.ys


def three_eighths(x, end, layers):
    """Kutta's 3/8 rule with equal steps, as a loop: diffrax has no such method."""
    h = end / problems.RK4_STEPS

    def step(x, _):
        k1 = network(layers, x)
        k2 = network(layers, x + h / 3 * k1)
        k3 = network(layers, x + h * (k2 - k1 / 3))
        k4 = network(layers, x + h * (k1 - k2 + k3))
        return x + h / 8 * (k1 + 3 * (k2 + k3) + k4), None

    return jax.lax.scan(step, x, None, problems.RK4_STEPS)[0]


def half_square(case, adjoint, layers, x):
    _, rows, end, _, _ = problems.CASES[case]
    y = three_eighths(x, end, layers) if case == "d" else solve(case, field, x, 0.0, end, layers, adjoint)[-1]
    return (y**2).sum() / (2 * rows)


def spiral(case, adjoint, layers, data):
    start, times, target = data
    return jnp.abs(solve(case, cubed, start, times[0], times[-1], layers, adjoint, times) - target).mean()


def likelihood(case, adjoint, layers, x):
    z, change = solve(case, flow, (x, jnp.zeros(x.shape[0], x.dtype)), problems.CASES[case][2], 0.0, layers, adjoint)
    return -(-0.5 * (z[-1] ** 2).sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi) - change[-1]).mean()


# ---- optimisers, part of the compiled step; the rate is zero: the same work every time ----


def adam(layers, gradient, state):
    first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, state[0], gradient)
    second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, state[1], gradient)
    return jax.tree.map(lambda p, m, v: p - state[2] * m / (jnp.sqrt(v) + 1e-8), layers, first, second), (first, second, state[2])


def rmsprop(layers, gradient, state):
    second = jax.tree.map(lambda v, g: 0.99 * v + 0.01 * g * g, state[1], gradient)
    return jax.tree.map(lambda p, g, v: p - state[2] * g / (jnp.sqrt(v) + 1e-8), layers, gradient, second), (state[0], second, state[2])


def time_one(case, name, variant, loss, adjoint, data, update):
    layers = [(jnp.asarray(weight, DTYPE), jnp.asarray(bias, DTYPE)) for weight, bias in problems.weights(case)]
    zeros = jax.tree.map(jnp.zeros_like, layers)
    state = (zeros, zeros, jnp.asarray(0, DTYPE))

    @jax.jit
    def step(layers, state, data):
        value, gradient = jax.value_and_grad(lambda layers: loss(case, adjoint, layers, data))(layers)
        new = update(layers, gradient, state) if update else None
        return value, gradient, new

    forward = jax.jit(lambda layers, state, data: (loss(case, adjoint, layers, data), None, None))
    function = step if adjoint is not None else forward
    start = time.perf_counter()
    value, gradient, _ = jax.block_until_ready(function(layers, state, data))
    first = (time.perf_counter() - start) * 1e3
    norms = [] if gradient is None else [jnp.linalg.norm(array) for layer in gradient for array in layer]
    ms = problems.milliseconds(lambda: jax.block_until_ready(function(layers, state, data)), options.repeats)
    problems.report("diffrax", options, name, variant, ms, problems.error(case, value, norms), first_ms=first)


def run_case(case):
    if case == "a":
        data = tuple(jnp.asarray(array, DTYPE) for array in problems.spiral())
    else:
        data = jnp.asarray(problems.inputs(case), DTYPE)
    rtol, atol = (tolerance or 1 for tolerance in problems.CASES[case][3:])
    stored = diffrax.RecursiveCheckpointAdjoint(checkpoints=MAX_STEPS)
    backsolve = diffrax.BacksolveAdjoint(solver=diffrax.Dopri5(), stepsize_controller=diffrax.PIDController(rtol=rtol, atol=atol))
    if case == "a":
        time_one(case, case, "checkpoints", spiral, stored, data, rmsprop)
    elif case[0] == "c":
        time_one(case, case, "checkpoints", likelihood, stored, data, adam)
    elif case == "d":
        time_one(case, "d.forward", "scan", half_square, None, data, None)
        time_one(case, "d.gradient", "scan", half_square, stored, data, None)
    else:
        time_one(case, case + ".forward", "forward", lambda c, _, layers, x: half_square(c, stored, layers, x), None, data, None)
        time_one(case, case + ".gradient", "checkpoints", half_square, stored, data, None)
        time_one(case, case + ".gradient", "backsolve", half_square, backsolve, data, None)


for chosen in options.case:
    run_case(chosen)
