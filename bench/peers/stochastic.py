"""The stochastic cases of bench_cases for the peers: what they solve, and how answers on other paths are judged. docs/performance.md states both."""
import os
import re

import numpy as np

import problems

CASES = {"sde2": 2, "sde32": 32}  # dimensions
ROWS, HIDDEN, STEPS, END = 512, 64, 100, 1.0
RUNS = 24  # over which answers are averaged
NAMES = ("loss", "y0", "W0", "b0", "W1", "b1", "W2", "b2", "slope", "offset")


def setting(case):
    """Starts [rows, d], [(W, b), ...] and (slope, offset) [d] of the diffusion sigmoid(slope y + offset), in double."""
    d = CASES[case]
    problems.CASES[case] = ((d, HIDDEN, HIDDEN, d), ROWS, END, None, None)
    i = np.arange(d)
    return problems.inputs(case), problems.weights(case), (0.5 * np.cos(i), np.sin(i) - 1)


def moments(case):
    """[(mean, standard deviation of one run)] of NAMES, and of how many runs they are the moments."""
    text = open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "moments.def")).read()
    found = re.search(r"^MOMENTS\(%s, (\d+), (.*)\)$" % case, text, re.M)
    numbers = [float(number) for number in found.group(2).split(",")]
    return list(zip(numbers[::2], numbers[1::2])), int(found.group(1))


def deviation(case, runs):
    """By how many standard errors the mean of the runs [runs, <= len(NAMES)] is off, at the worst."""
    runs = np.asarray(runs, dtype=float)
    right, count = moments(case)
    worst = 0.0
    for value, (mean, spread) in zip(runs.mean(0), right):
        worst = max(worst, abs(value - mean) / (spread * np.sqrt(1 / len(runs) + 1 / count)))
    return worst


def report(peer, options, case, variant, ms, runs, first_ms=None):
    """As problems.report; an answer counts where it is off by at most four standard errors."""
    off = deviation(case.split(".")[0], runs)
    problems.line(peer, options, case, variant, ms, off, off <= 4, first_ms=first_ms)
