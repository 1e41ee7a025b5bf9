#!/usr/bin/env python3
"""The wide networks of bench_cases in torch and torchdiffeq: the network eager and compiled, solves by backpropagation. The exact trace is summed
by one VJP for each component. With --answers: losses and norms of gradients in double instead."""
import os
import re
import sys

import numpy as np
import problems

with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "wide.def")) as file:
    CASES = {
        name: (kind, int(rows), [int(size) for size in sizes.split(",")], [float(number) for number in answers.split(",")])
        for name, kind, rows, sizes, answers in re.findall(r"^WIDE\(([\w.]+), (\w+), (\d+), \d+, SIZES\(([\d, ]+)\), \d+, (.*)\)$", file.read(), re.M)
    }
ANSWERS = "--answers" in sys.argv
if ANSWERS:
    sys.argv.remove("--answers")
options = problems.parse(__doc__, CASES)
import torch  # noqa: E402 (the threads must be settled before)
from torchdiffeq import odeint  # noqa: E402

torch.set_num_threads(options.threads)
DTYPE = torch.float64 if ANSWERS or options.dtype == "f64" else torch.float32
RK4_STEPS = 6


def network(sizes):
    layers = []
    for weight, bias in problems.weights_of(sizes):
        layer = torch.nn.Linear(*weight.shape, dtype=DTYPE)
        layer.weight.data = torch.tensor(weight.T.copy(), dtype=DTYPE)
        layer.bias.data = torch.tensor(bias, dtype=DTYPE)
        layers += [layer, torch.nn.Tanh()]
    return torch.nn.Sequential(*layers[:-1])


def half_square(y):
    return y.square().sum() / (2 * len(y))


def rk4(field, state):
    grid = torch.linspace(0, 1, RK4_STEPS + 1, dtype=DTYPE)
    return odeint(field, state, grid[[0, -1]], method="rk4", options=dict(grid_constructor=lambda f, y, t: grid))


def estimate(net, x, probe):
    y = net(x)
    (back,) = torch.autograd.grad(y, x, probe, create_graph=True)
    return y, (back * probe).sum(1, keepdim=True)


def exact(net, x):
    y = net(x)
    columns = (torch.autograd.grad(y[:, i].sum(), x, create_graph=True)[0][:, i] for i in range(x.shape[1]))
    return y, sum(columns)[:, None]


def loss_of(kind, net, x, probe):
    if kind in ("VALUE", "GRADIENT"):
        return half_square(net(x))
    if kind == "SOLVE":
        return half_square(rk4(lambda t, y: net(y), x)[-1])
    start = (x.requires_grad_(), x.new_zeros(len(x), 1))
    if kind == "HUTCHINSON":
        y, change = rk4(lambda t, state: estimate(net, state[0], probe), start)
    else:  # one step: any error will do
        step = dict(method="dopri5", rtol=1e9, atol=1e9, options=dict(first_step=1.0))
        y, change = odeint(lambda t, state: exact(net, state[0]), start, torch.tensor([0.0, 1.0], dtype=DTYPE), **step)
    return half_square(y[-1]) + change[-1].mean()


def run_case(name, compiled):
    kind, rows, sizes, right = CASES[name]
    i, j = np.arange(rows)[:, None], np.arange(sizes[0])[None, :]
    x = torch.tensor(np.sin(0.37 * i + 1.3 * j), dtype=DTYPE)
    probe = torch.tensor(np.where((i + 3 * j) % 7 < 3, -1.0, 1.0), dtype=DTYPE)
    eager = network(sizes)
    torch.compiler.reset()
    net = torch.compile(eager) if compiled else eager
    leaves = ([x.requires_grad_()] if kind == "GRADIENT" else []) + list(eager.parameters())

    def step():
        if kind == "VALUE":
            with torch.no_grad():
                return loss_of(kind, net, x, probe)
        for leaf in leaves:
            leaf.grad = None
        loss = loss_of(kind, net, x, probe)
        loss.backward()
        return loss

    values = [step().item()] + ([] if kind == "VALUE" else [leaf.grad.double().norm().item() for leaf in leaves])
    if ANSWERS:
        print(name, "%d, %s" % (len(values), ", ".join("%.12g" % value for value in values)))
        return
    wrong = max(abs(value / answer - 1) for value, answer in zip(values, right))
    variant = "compiled" if compiled else "eager"
    problems.line("torch", options, name, variant, problems.milliseconds(step, options.repeats), wrong, wrong < 1e-3)


for case in options.case:
    run_case(case, False)
    if not ANSWERS and CASES[case][0] in ("VALUE", "GRADIENT", "SOLVE"):
        run_case(case, True)
