#!/usr/bin/env python3
"""Time to quality of the peers: seconds of training until a continuous normalizing flow of 8gaussians is within 0.02 nats of the truth on held-out
points. The model, the size of batches, the optimiser and its schedule, the tolerances and what is timed are those of bench/quality.c."""
import argparse
import json
import math
import os
import time
import warnings

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("--peer", choices=("torchdiffeq", "torchdiffeq compiled", "diffrax"), required=True)
parser.add_argument("--threads", type=int, default=1)
parser.add_argument("--seed", type=int, default=1)
options = parser.parse_args()
warnings.simplefilter("ignore")
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = str(options.threads)
import numpy as np  # noqa: E402 (the threads must be settled before)

HELD_OUT, BATCH, STEPS, EVERY, RATE, CLOSE = 5000, 512, 600, 20, 0.01, 0.02
SIZES = (2, 64, 64, 2)
random = np.random.default_rng(options.seed)


def draw(n):
    angle = random.integers(0, 8, n) * math.pi / 4
    return ((4 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.5 * random.standard_normal((n, 2))) / 1.414).astype(np.float32)


def log_density(x):
    s, r = 0.5 / 1.414, 4 / 1.414
    centres = r * np.stack([np.cos(np.arange(8) * math.pi / 4), np.sin(np.arange(8) * math.pi / 4)], 1)
    return np.log(np.exp(-((x[:, None] - centres) ** 2).sum(2) / (2 * s * s)).sum(1) / 8 / (2 * math.pi * s * s))


def weights():
    """Glorot's uniform initialiser, the last layer a tenth of it; each layer sees the time too."""
    layers = []
    for number, (inner, outer) in enumerate(zip(SIZES[:-1], SIZES[1:])):
        bound = math.sqrt(6 / (inner + 1 + outer)) * (0.1 if number == len(SIZES) - 2 else 1)
        layers.append((random.uniform(-bound, bound, (inner + 1, outer)).astype(np.float32), np.zeros(outer, np.float32)))
    return layers


def rate(step):
    return RATE * 0.5 * (1 + math.cos(math.pi * step / STEPS))


def train_torch(compiled):
    import torch
    from torchdiffeq import odeint

    torch.set_num_threads(options.threads)
    layers = [[torch.nn.Parameter(torch.tensor(array)) for array in layer] for layer in weights()]
    parameters = [array for layer in layers for array in layer]

    def network(t, x):
        for number, (weight, bias) in enumerate(layers):
            x = torch.cat([x, t.expand(*x.shape[:-1], 1)], -1) @ weight + bias
            x = torch.tanh(x) if number < len(layers) - 1 else x
        return x

    def joint(t, x):
        units = torch.eye(2)[:, None, :].expand(-1, *x.shape)
        value, columns = torch.func.vmap(lambda unit: torch.func.jvp(lambda x: network(t, x), (x,), (unit,)), out_dims=(None, 0))(units)
        return value, columns.diagonal(dim1=0, dim2=2).sum(1)

    both = torch.compile(joint) if compiled else joint

    def nll(x, tolerance):
        z, change = odeint(lambda t, state: both(t, state[0]), (x, x.new_zeros(len(x))), torch.tensor([0.0, 1.0]), rtol=tolerance, atol=tolerance,
                           method="dopri5")
        return -(-0.5 * (z[-1] ** 2).sum(1) - math.log(2 * math.pi) + change[-1]).mean()

    optimizer = torch.optim.Adam(parameters, lr=RATE)

    def step(number):
        for group in optimizer.param_groups:
            group["lr"] = rate(number)
        optimizer.zero_grad()
        nll(torch.tensor(draw(BATCH)), 1e-4).backward()
        optimizer.step()

    def evaluate(x):
        with torch.no_grad():
            return nll(torch.tensor(x), 1e-5).item()

    return step, evaluate


def train_jax():
    import diffrax
    import jax
    import jax.numpy as jnp

    layers = [tuple(jnp.asarray(array) for array in layer) for layer in weights()]
    zeros = jax.tree.map(jnp.zeros_like, layers)
    state = [layers, zeros, zeros]

    def network(layers, t, x):
        for number, (weight, bias) in enumerate(layers):
            x = jnp.concatenate([x, jnp.broadcast_to(t, (1,))]) @ weight + bias
            x = jnp.tanh(x) if number < len(layers) - 1 else x
        return x

    def flow(t, state, layers):
        jacobian = jax.vmap(jax.jacfwd(lambda x: network(layers, t, x)))(state[0])
        return jax.vmap(lambda x: network(layers, t, x))(state[0]), jnp.trace(jacobian, axis1=1, axis2=2)

    def nll(layers, x, tolerance):
        solution = diffrax.diffeqsolve(diffrax.ODETerm(flow), diffrax.Dopri5(), 0.0, 1.0, None, (x, jnp.zeros(len(x))), layers,
                                       stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance), max_steps=32,
                                       adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=32))
        z, change = solution.ys[0][-1], solution.ys[1][-1]
        return -(-0.5 * (z**2).sum(1) - math.log(2 * math.pi) + change).mean()

    @jax.jit
    def update(layers, first, second, x, number, rate):
        gradient = jax.grad(nll)(layers, x, 1e-4)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
        one, two = 1 - 0.9**number, 1 - 0.999**number
        return jax.tree.map(lambda p, m, v: p - rate * (m / one) / (jnp.sqrt(v / two) + 1e-8), layers, first, second), first, second

    held_out = jax.jit(lambda layers, x: nll(layers, x, 1e-5))

    def step(number):
        state[:] = jax.block_until_ready(update(*state, draw(BATCH), number + 1.0, rate(number)))

    return step, lambda x: float(held_out(state[0], x))


test = draw(HELD_OUT)
truth = -log_density(test).mean()
step, evaluate = train_jax() if options.peer == "diffrax" else train_torch(options.peer.endswith("compiled"))
seconds, reached, at, gap, start = 0.0, None, None, None, time.perf_counter()
for number in range(STEPS):
    step(number)
    if (number + 1) % EVERY == 0:
        seconds += time.perf_counter() - start
        gap = evaluate(test) - truth
        if reached is None and gap < CLOSE:
            reached, at = seconds, number + 1
        start = time.perf_counter()
print(json.dumps({"case": "8gaussians", "peer": options.peer, "threads": options.threads, "seed": options.seed, "seconds": reached, "updates": at,
                  "all": round(seconds, 3), "gap": round(float(gap), 4)}))
