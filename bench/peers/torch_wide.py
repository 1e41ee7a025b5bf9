#!/usr/bin/env python3
"""The wide networks of bench_cases in torch and torchdiffeq: the network eager and compiled, solves by backpropagation. The exact trace is summed
by one VJP for each component. With --answers: losses and norms of gradients in double instead."""
import numpy as np
import problems

CASES = {
    name: (kind, int(rows), [int(size) for size in sizes.split(",")], problems.numbers(answers))
    for name, kind, rows, sizes, answers in problems.table("wide.def", r"WIDE\(([\w.]+), (\w+), (\d+), \d+, SIZES\(([\d, ]+)\), \d+, (.*)\)")
}
options = problems.parse(__doc__, CASES, answers=True)
import torch  # noqa: E402 (the threads must be settled before)
import torch_peer  # noqa: E402
from torch_peer import DTYPE  # noqa: E402
from torchdiffeq import odeint  # noqa: E402

RK4_STEPS = 6


def network(sizes):
    layers = torch_peer.linear_layers(problems.weights_of(sizes))
    return torch.nn.Sequential(*[part for layer in layers for part in (layer, torch.nn.Tanh())][:-1])


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
    leaves = [] if kind == "VALUE" else list(eager.parameters())
    if kind == "GRADIENT":
        leaves.insert(0, x.requires_grad_())
    torch_peer.measure(name, "compiled" if compiled else "eager", lambda: loss_of(kind, net, x, probe), leaves, right, 1e-3)


for case in options.case:
    run_case(case, False)
    if not options.answers and CASES[case][0] in ("VALUE", "GRADIENT", "SOLVE"):
        run_case(case, True)
