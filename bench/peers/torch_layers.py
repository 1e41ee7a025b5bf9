#!/usr/bin/env python3
"""The layers of bench_cases in torch (oneDNN), forward and backward: convolutions 64 -> 64 of 3 x 3 taps with zeros around, channels first and
last, eager and compiled; a GRU over sequences, eager. With --answers: loss and norms in double instead."""
import numpy as np
import problems

CHANNELS, STEPS = 64, 100
CASES = {
    name: (int(side), int(rows), problems.numbers(answers))
    for name, side, rows, answers in problems.table("layers.def", r"LAYER\((\w+), (\d+), (\d+), [^,]+, \d+, (.*)\)")
}
options = problems.parse(__doc__, CASES, answers=True)
import torch  # noqa: E402 (the threads must be settled before)
import torch_peer  # noqa: E402
from torch_peer import DTYPE  # noqa: E402


def parameter(k, *shape):
    return 0.08 * np.sin(0.7 * np.arange(np.prod(shape)) + k).reshape(shape)


def inputs(side, rows):
    size = side * side * CHANNELS if side else STEPS * CHANNELS
    x = np.sin(0.37 * np.arange(rows)[:, None] + 1.3 * np.arange(size)[None, :])
    return x.reshape(rows, side, side, CHANNELS) if side else x.reshape(rows, STEPS, CHANNELS)


def convolution(side, rows, last):
    """(function, input, parameters)"""
    x = torch.tensor(inputs(side, rows).transpose(0, 3, 1, 2).copy(), dtype=DTYPE)
    weight = torch.tensor(parameter(0, 3, 3, CHANNELS, CHANNELS).transpose(3, 2, 0, 1).copy(), dtype=DTYPE)
    if last:
        x, weight = (array.contiguous(memory_format=torch.channels_last) for array in (x, weight))
    return lambda x, weight: torch.nn.functional.conv2d(x, weight, padding=1), x, [weight]


def recurrence(rows):
    layer = torch.nn.GRU(CHANNELS, CHANNELS, batch_first=True, dtype=DTYPE)
    ours = [parameter(0, CHANNELS, 3 * CHANNELS).T, parameter(1, 3 * CHANNELS), parameter(2, CHANNELS, 3 * CHANNELS).T, parameter(3, 3 * CHANNELS)]
    mine = [layer.weight_ih_l0, layer.bias_ih_l0, layer.weight_hh_l0, layer.bias_hh_l0]
    for to, value in zip(mine, ours):
        to.data = torch.tensor(value.copy(), dtype=DTYPE)
    return lambda x, *_: layer(x)[0], torch.tensor(inputs(0, rows), dtype=DTYPE), mine


def measure(name, variant, function, x, parameters):
    _, rows, right = CASES[name]
    leaves = [x.requires_grad_()] + [p.requires_grad_() for p in parameters]
    torch_peer.measure(name, variant, lambda: function(*leaves).square().sum() / (2 * rows), leaves, right, 1e-4)


for name in options.case:
    side, rows, _ = CASES[name]
    if side == 0:
        measure(name, "eager", *recurrence(rows))
        continue
    for last in (False,) if options.answers else (False, True):
        for compiled in (False,) if options.answers else (False, True):
            function, x, parameters = convolution(side, rows, last)
            torch.compiler.reset()
            variant = ("channels last" if last else "channels first") + (", compiled" if compiled else "")
            measure(name, variant, torch.compile(function) if compiled else function, x, parameters)
