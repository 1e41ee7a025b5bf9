#!/usr/bin/env python3
"""Updates of examples/mnist_odenet.c beside torch and torchdiffeq: the same model, batch, optimiser and tolerance (dopri5, 1e-3), measured in turn.
The peer's field is eager, as in torchdiffeq's own example, with images in either order in memory, by backpropagation through the solver or by
the adjoint; medians of the rounds, of wall-clock and of processor time. With --until E both train, once and one after the other, until E per
cent of the digits for testing are wrong, which is looked at after each 100 updates and not timed."""
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
parser.add_argument("--only", help="one of the variants")
options = parser.parse_args()
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


def error(net, memory):
    images, labels = digits("t10k")
    with torch.no_grad():
        wrong = sum((net(greys(images[i : i + 500], memory)).argmax(1) != labels[i : i + 500]).sum().item() for i in range(0, len(images), 500))
    return 100 * wrong / len(images)


def peer(solve, memory):
    """Wall-clock and processor milliseconds of an update, evaluations forwards and in all."""
    torch.manual_seed(1)
    net = Net(solve).to(memory_format=memory)
    optimizer, random = torch.optim.Adam(net.parameters()), np.random.default_rng(1)
    wall = processor = forwards = total = updates = 0
    order, until = [], options.until
    while until is not None or updates < BEFORE + options.updates:
        if updates == BEFORE:
            wall = processor = forwards = total = 0
        began, then = time.perf_counter(), time.process_time()
        if len(order) < options.batch:
            order = random.permutation(len(IMAGES))
        rows, order = order[: options.batch], order[options.batch :]
        x = greys(IMAGES[rows], memory)
        net.field.evaluations = 0
        value = nn.functional.cross_entropy(net(x), LABELS[rows])
        forwards += net.field.evaluations
        optimizer.zero_grad()
        value.backward()
        optimizer.step()
        total += net.field.evaluations
        wall += time.perf_counter() - began
        processor += time.process_time() - then
        updates += 1
        if until is not None and updates % 100 == 0:
            wrong = error(net, memory)
            print(f"{updates} updates: test error {wrong:.2f} %, {wall:.1f} s, {processor:.1f} s of the processors", flush=True)
            if wrong <= until:
                break
    n = updates - BEFORE
    return 1e3 * wall / n, 1e3 * processor / n, forwards / n, total / n


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
    "torchdiffeq": lambda: peer(odeint, torch.contiguous_format),
    "torchdiffeq, channels last": lambda: peer(odeint, torch.channels_last),
    "torchdiffeq, adjoint": lambda: peer(odeint_adjoint, torch.channels_last),
}
if options.only:
    variants = {options.only: variants[options.only]}
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
    ratio, of_processors = (statistics.median(r[k] / own[k] for r, own in zip(rounds, times["costate"])) for k in (0, 1))
    print(f"{name:28} {wall:8.1f} {processor:14.1f} {forwards:12.1f} {total:16.1f} {ratio:7.2f} {of_processors:14.2f}", flush=True)
