"""The cases of bench_cases for the peers: weights, inputs, data, exact answers; and how they are timed. docs/performance.md states them."""
import argparse
import json
import os
import re
import statistics
import time
import warnings

import numpy as np

# name: (sizes of the network, rows, end of the interval, rtol, atol)
CASES = {
    "a": ((2, 50, 2), 20, 225 / 999, 1e-7, 1e-9),
    "b": ((2, 64, 64, 2), 512, 1.0, 1e-5, 1e-5),
    "b10": ((2, 64, 64, 2), 512, 10.0, 1e-5, 1e-5),
    "c2": ((2, 64, 64, 2), 512, 1.0, 1e-5, 1e-5),
    "c8": ((8, 64, 64, 8), 512, 1.0, 1e-5, 1e-5),
    "c32": ((32, 64, 64, 32), 512, 1.0, 1e-5, 1e-5),
    "c128": ((128, 64, 64, 128), 512, 1.0, 1e-5, 1e-5),
    "d": ((64, 256, 256, 64), 512, 1.0, None, None),
}
RK4_STEPS = 20


def weights_of(sizes, scale=None):
    """[(W, b), ...] in double: W [in, out]. scale: that of all W, instead of 1 / sqrt(in)."""
    layers = []
    for number, (inner, outer) in enumerate(zip(sizes[:-1], sizes[1:])):
        i, j = np.arange(inner)[:, None], np.arange(outer)[None, :]
        layers.append(((scale or np.sqrt(1 / inner)) * np.sin(1.7 * i + 0.9 * j + 0.37 * i * j + number), np.zeros(outer)))
    return layers


def weights(case):
    return weights_of(CASES[case][0], 0.1 * np.sqrt(2) if case == "a" else None)


def inputs(case):
    rows, d = CASES[case][1], CASES[case][0][0]
    return np.sin(0.37 * np.arange(rows)[:, None] + 1.3 * np.arange(d)[None, :])


def spiral():
    """Case a: starts [20, 2], times [10], targets [10, 20, 2]."""
    from scipy.integrate import solve_ivp

    matrix = np.array([[-0.1, 2.0], [-2.0, -0.1]])
    times = np.linspace(0, 25, 1000)
    path = solve_ivp(lambda t, y: y**3 @ matrix, (0, 25), [2.0, 0.0], "DOP853", times, rtol=1e-12, atol=1e-13).y.T
    start = 49 * np.arange(20)
    return path[start], times[:10], np.stack([path[start + k] for k in range(10)])


def table(name, row):
    """The groups of the expression `row` in each row of a table of bench/."""
    with open(os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", name)) as file:
        return re.findall(r"^%s$" % row, file.read(), re.M)


def numbers(text):
    return [float(number) for number in text.split(",")]


def exact(case):
    """Loss and norms of the gradients of the exact solution."""
    return numbers(table("answers.def", r"ANSWER\(%s, (.*)\)" % case)[0])


def error(case, loss, norms=()):
    """Largest relative error of the loss and, where given, of the gradient norms (W0, b0, W1, b1, ...)."""
    values = [float(loss)] + [float(norm) for norm in norms]
    return max(abs(value - right) / abs(right) for value, right in zip(values, exact(case)))


now = time.perf_counter  # with --processor time.process_time


def milliseconds(run, repeats):
    """Median over `repeats` samples (fewer, but three, where one takes long), each of so many runs that it lasts 5 ms or more."""
    start = now()
    run()
    seconds = now() - start
    if seconds < 0.5:
        for _ in range(2):
            run()
        start = now()
        run()
        seconds = now() - start
    count = max(1, int(5e-3 / seconds))
    samples = []
    for _ in range(max(3, min(repeats, int(3 / (seconds * count))))):
        start = now()
        for _ in range(count):
            run()
        samples.append((now() - start) * 1e3 / count)
    return statistics.median(samples)


def line(peer, options, name, variant, ms, wrong, right, evaluations=None, first_ms=None):
    """Prints a result as bench_cases --json does."""
    result = {"case": name, "peer": peer, "variant": variant, "dtype": options.dtype, "threads": options.threads, "ms": round(ms, 6),
              "first_ms": first_ms and round(first_ms), "evaluations": evaluations, "error": float(wrong), "counts": bool(right)}
    print(json.dumps({key: value for key, value in result.items() if value is not None}), flush=True)


def report(peer, options, name, variant, ms, wrong, evaluations=None, first_ms=None):
    """A result with its relative error. In double the tolerance of a case, not the arithmetic, decides about the error."""
    right = wrong <= (1e-3 if options.dtype == "f32" or name != "a" else 1e-6)
    line(peer, options, name, variant, ms, wrong, right, evaluations, first_ms)


def parse(about, cases=CASES, answers=False):
    """The command line, with --answers where there are such; with one thread the process stays on one core, whatever its libraries do."""
    parser = argparse.ArgumentParser(description=about)
    parser.add_argument("--case", action="append", choices=sorted(cases), help="default: all")
    parser.add_argument("--dtype", choices=("f32", "f64"), default="f32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--repeats", type=int, default=7)
    parser.add_argument("--processor", action="store_true", help="times are those of the processor, all threads together")
    if answers:
        parser.add_argument("--answers", action="store_true", help="print losses and norms of gradients in double instead of timing")
    global now, options
    options = parser.parse_args(namespace=argparse.Namespace(answers=False))
    now = time.process_time if options.processor else time.perf_counter
    options.case = options.case or list(cases)
    warnings.simplefilter("ignore")  # of the peers, about themselves
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[: options.threads])
    for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS"):
        os.environ[name] = str(options.threads)
    return options
