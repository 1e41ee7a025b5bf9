#!/usr/bin/env python3
"""The layers of bench_cases in torch (oneDNN), forward and backward: convolutions 64 -> 64 of 3 x 3 taps with zeros around, channels first and
last, eager and compiled; a GRU over sequences, eager. With --answers: loss and norms in double instead."""
import os
import re
import sys

import numpy as np
import problems

CHANNELS, STEPS = 64, 100
with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "layers.def")) as file:
    CASES = {
        name: (int(side), int(rows), [float(number) for number in answers.split(",")])
        for name, side, rows, answers in re.findall(r"^LAYER\((\w+), (\d+), (\d+), [^,]+, \d+, (.*)\)$", file.read(), re.M)
    }
ANSWERS = "--answers" in sys.argv
if ANSWERS:
    sys.argv.remove("--answers")
options = problems.parse(__doc__, CASES)
import torch  # noqa: E402 (the threads must be settled before)

torch.set_num_threads(options.threads)
DTYPE = torch.float64 if ANSWERS or options.dtype == "f64" else torch.float32


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

    def step():
        for leaf in leaves:
            leaf.grad = None
        loss = function(*leaves).square().sum() / (2 * rows)
        loss.backward()
        return loss

    values = [step().item()] + [leaf.grad.double().norm().item() for leaf in leaves]
    if ANSWERS:
        print(name, ", ".join("%.12g" % value for value in values))
        return
    wrong = max(abs(value / answer - 1) for value, answer in zip(values, right))
    problems.line("torch", options, name, variant, problems.milliseconds(step, options.repeats), wrong, wrong < 1e-4)


for name in options.case:
    side, rows, _ = CASES[name]
    if side == 0:
        measure(name, "eager", *recurrence(rows))
        continue
    for last in (False,) if ANSWERS else (False, True):
        for compiled in (False,) if ANSWERS else (False, True):
            function, x, parameters = convolution(side, rows, last)
            torch.compiler.reset()
            variant = ("channels last" if last else "channels first") + (", compiled" if compiled else "")
            measure(name, variant, torch.compile(function) if compiled else function, x, parameters)
