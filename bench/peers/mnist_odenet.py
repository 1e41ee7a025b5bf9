#!/usr/bin/env python3
"""Updates of examples/mnist_odenet.c beside torch with torchdiffeq and JAX with diffrax: the same model, batch, optimiser and tolerance (dopri5,
1e-3), measured in turn. torch's field is eager, as in torchdiffeq's own example, with images in either order in memory, by backpropagation
through the solver or by the adjoint; JAX's update is compiled as a whole. Medians of the rounds, of wall-clock and of processor time. With
--until E each trains, once and one after the other, until E per cent of the digits for testing are wrong, which is looked at after each 100
updates and not timed."""
import argparse
import gzip
import os
import re
import statistics
import subprocess
import time

import numpy as np

parser = argparse.ArgumentParser(description=__doc__)
parser.add_argument("program", help="build/examples/mnist_odenet")
parser.add_argument("--data", required=True, help="folder that has MNIST's files in mnist")
parser.add_argument("--rounds", type=int, default=5)
parser.add_argument("--updates", type=int, default=10, help="in a round")
parser.add_argument("--batch", type=int, default=128)
parser.add_argument("--tolerance", type=float, default=1e-3)
parser.add_argument("--threads", type=int, default=2)
parser.add_argument("--until", type=float)
parser.add_argument("--only", nargs="+", help="some of the variants; ratios are to the first")
options = parser.parse_args()
os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])  # what XLA takes its threads from
os.environ["OMP_NUM_THREADS"] = str(options.threads)
import torch  # noqa: E402
from torch import nn  # noqa: E402
from torchdiffeq import odeint, odeint_adjoint  # noqa: E402

torch.set_num_threads(options.threads)
CHANNELS, BEFORE = 64, 3


def norm(channels):
    return nn.GroupNorm(channels // 2, channels)


class Field(nn.Module):
    def __init__(self):
        super().__init__()
        self.norms = nn.ModuleList(norm(CHANNELS) for _ in range(3))
        self.convolutions = nn.ModuleList(nn.Conv2d(CHANNELS + 1, CHANNELS, 3, padding=1) for _ in range(2))
        self.evaluations = 0

    def forward(self, t, x):
        self.evaluations += 1
        for normalise, convolve in zip(self.norms, self.convolutions):
            x = torch.relu(normalise(x))
            x = convolve(torch.cat([torch.ones_like(x[:, :1]) * t, x], 1))
        return self.norms[2](x)


class Net(nn.Module):
    def __init__(self, solve):
        super().__init__()
        self.down = nn.Sequential(nn.Conv2d(1, CHANNELS // 2, 4, 2), norm(CHANNELS // 2), nn.ReLU(), nn.Conv2d(CHANNELS // 2, CHANNELS, 3, 2))
        self.field, self.solve = Field(), solve
        self.last = nn.Sequential(norm(CHANNELS), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(CHANNELS, 10))

    def forward(self, x):
        times = torch.tensor([0.0, 1.0])
        return self.last(self.solve(self.field, self.down(x), times, rtol=options.tolerance, atol=options.tolerance)[1])


def read(name, skip):
    with gzip.open(os.path.join(options.data, "mnist", name)) as file:
        return np.frombuffer(file.read(), np.uint8, offset=skip)


def digits(part):
    labels = torch.from_numpy(read(part + "-labels-idx1-ubyte.gz", 8).astype(np.int64))
    return read(part + "-images-idx3-ubyte.gz", 16).reshape(-1, 1, 28, 28), labels


IMAGES, LABELS = digits("train")


def greys(images, memory):
    return (torch.from_numpy(images).float() / 255).contiguous(memory_format=memory)


def measure(update, error):
    """Wall-clock and processor milliseconds of an update, evaluations forwards and in all; update(images, labels) returns the latter."""
    random, order, until = np.random.default_rng(1), [], options.until
    wall = processor = forwards = total = updates = 0
    while until is not None or updates < BEFORE + options.updates:
        if updates == BEFORE:
            wall = processor = forwards = total = 0
        began, then = time.perf_counter(), time.process_time()
        if len(order) < options.batch:
            order = random.permutation(len(IMAGES))
        rows, order = order[: options.batch], order[options.batch :]
        there, back = update(IMAGES[rows], LABELS[rows])
        forwards += there
        total += there + back
        wall += time.perf_counter() - began
        processor += time.process_time() - then
        updates += 1
        if until is not None and updates % 100 == 0:
            images, labels = digits("t10k")
            wrong = 100 * sum(error(images[i : i + 500], labels[i : i + 500]) for i in range(0, len(images), 500)) / len(images)
            print(f"{updates} updates: test error {wrong:.2f} %, {wall:.1f} s, {processor:.1f} s of the processors", flush=True)
            if wrong <= until:
                break
    n = updates - BEFORE
    return 1e3 * wall / n, 1e3 * processor / n, forwards / n, total / n


def by_torch(solve, memory):
    torch.manual_seed(1)
    net = Net(solve).to(memory_format=memory)
    optimizer = torch.optim.Adam(net.parameters())

    def update(images, labels):
        net.field.evaluations = 0
        value = nn.functional.cross_entropy(net(greys(images, memory)), labels)
        there = net.field.evaluations
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        return there, net.field.evaluations - there

    def error(images, labels):
        with torch.no_grad():
            return (net(greys(images, memory)).argmax(1) != labels).sum().item()

    return measure(update, error)


def by_jax():
    import diffrax
    import jax
    import jax.numpy as jnp

    def group_norm(x, scale, shift):
        parts = x.reshape(*x.shape[:3], -1, 2)  # groups of two channels
        mean = parts.mean((1, 2, 4), keepdims=True)
        parts = (parts - mean) * jax.lax.rsqrt(((parts - mean) ** 2).mean((1, 2, 4), keepdims=True) + 1e-5)
        return parts.reshape(x.shape) * scale + shift

    def convolve(x, weight, bias, stride, padding):
        return bias + jax.lax.conv_general_dilated(x, weight, (stride, stride), padding, dimension_numbers=("NHWC", "HWIO", "NHWC"))

    def field(t, x, w):
        for k in range(2):
            x = jax.nn.relu(group_norm(x, *w["norm"][k]))
            x = convolve(jnp.concatenate([jnp.full_like(x[..., :1], t), x], -1), *w["conv"][k], 1, "SAME")
        return group_norm(x, *w["norm"][2])

    def scores(w, x):
        x = convolve(x, *w["down"][0], 2, "VALID")
        x = convolve(jax.nn.relu(group_norm(x, *w["before"])), *w["down"][1], 2, "VALID")
        control = diffrax.PIDController(rtol=options.tolerance, atol=options.tolerance)
        solution = diffrax.diffeqsolve(diffrax.ODETerm(field), diffrax.Dopri5(), 0.0, 1.0, None, x, w, stepsize_controller=control, max_steps=32,
                                       adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=32))
        x = jax.nn.relu(group_norm(solution.ys[0], *w["after"])).mean((1, 2))
        return x @ w["last"][0] + w["last"][1], solution.stats["num_steps"]

    def loss(w, x, labels):
        y, steps = scores(w, x)
        return -jax.nn.log_softmax(y)[jnp.arange(len(labels)), labels].mean(), steps

    @jax.jit
    def step(w, m, v, k, x, labels):
        (_, steps), g = jax.value_and_grad(loss, has_aux=True)(w, x.astype(jnp.float32) / 255, labels)
        m = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, m, g)
        v = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, v, g)
        adam = lambda w, m, v: w - 1e-3 * m / (1 - 0.9**k) / (jnp.sqrt(v / (1 - 0.999**k)) + 1e-8)
        return jax.tree.map(adam, w, m, v), m, v, steps

    random = np.random.default_rng(1)

    def uniform(fan_in, *shape):
        return jnp.asarray(random.uniform(-(fan_in**-0.5), fan_in**-0.5, shape), jnp.float32)

    def filter_of(size, inputs, outputs):
        return uniform(size * size * inputs, size, size, inputs, outputs), uniform(size * size * inputs, outputs)

    def ones_of(channels):
        return jnp.ones(channels), jnp.zeros(channels)

    w = {"down": [filter_of(4, 1, CHANNELS // 2), filter_of(3, CHANNELS // 2, CHANNELS)],
         "conv": [filter_of(3, CHANNELS + 1, CHANNELS) for _ in range(2)], "norm": [ones_of(CHANNELS) for _ in range(3)],
         "before": ones_of(CHANNELS // 2), "after": ones_of(CHANNELS), "last": (uniform(CHANNELS, CHANNELS, 10), uniform(CHANNELS, 10))}
    zero = jax.tree.map(jnp.zeros_like, w)
    state, evaluate = [w, zero, zero, 0], jax.jit(lambda w, x: scores(w, x.astype(jnp.float32) / 255)[0].argmax(-1))

    def update(images, labels):
        state[3] += 1
        *state[:3], steps = step(*state, images.reshape(-1, 28, 28, 1), labels.numpy())
        evaluations = 1 + 6 * int(steps)  # waits for it too
        return evaluations, evaluations

    return measure(update, lambda images, labels: int((np.asarray(evaluate(state[0], images.reshape(-1, 28, 28, 1))) != labels.numpy()).sum()))


def costate():
    command = [options.program, "--data", options.data, "--batch", str(options.batch), "--bend", "0", "--tolerance", str(options.tolerance)]
    command += ["--threads", str(options.threads), "--out", "/tmp"]
    command += ["--time", str(options.updates)] if options.until is None else ["--until", str(options.until)]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    if options.until is not None:
        print(text)
    found = re.search(r"an update: (\S+) ms, (\S+) ms of the processors, (\S+) evaluations, (\S+) back", text)
    wall, processor, forwards, back = map(float, found.groups())
    return wall, processor, forwards, forwards + back


variants = {
    "costate": costate,
    "torchdiffeq": lambda: by_torch(odeint, torch.contiguous_format),
    "torchdiffeq, channels last": lambda: by_torch(odeint, torch.channels_last),
    "torchdiffeq, adjoint": lambda: by_torch(odeint_adjoint, torch.channels_last),
    "diffrax": by_jax,
}
if options.only:
    variants = {name: variants[name] for name in options.only}
if options.until is not None:
    for name, run in variants.items():
        print(name, flush=True)
        run()
    raise SystemExit
times = {name: [] for name in variants}
for _ in range(options.rounds):
    for name, run in variants.items():
        times[name].append(run())
print(f"{'':28} {'ms':>8} {'of processors':>14} {'evaluations':>12} {'with those back':>16} {'ratio':>7} {'of processors':>14}")
for name, rounds in times.items():
    wall, processor, forwards, total = (statistics.median(column) for column in zip(*rounds))
    ratio, of_processors = (statistics.median(r[k] / own[k] for r, own in zip(rounds, next(iter(times.values())))) for k in (0, 1))
    print(f"{name:28} {wall:8.1f} {processor:14.1f} {forwards:12.1f} {total:16.1f} {ratio:7.2f} {of_processors:14.2f}", flush=True)
