#!/usr/bin/env python3
"""run.py BUILD [--rounds N] [--python PYTHON] [CASES...]: GradBench's programs by costate beside adjoints by hand, ADOL-C (where the build
found it) and JAX (where PYTHON has it) in one run: the peers take turns round by round, by the processor's clock on one thread. Prints a
table of medians over the rounds, with costate's time over each one's. An answer that differs by more than 1e-12 is an error."""
import argparse
import collections
import json
import os
import statistics
import subprocess
import sys
import tempfile

MOST = 1e-12
PEERS = ["hand", "adolc", "jax"]


def lines(command, text=None):
    done = subprocess.run(command, input=text, stdout=subprocess.PIPE, text=True, check=True)
    return [json.loads(line) for line in done.stdout.splitlines()]


def measured(arguments, folder):
    """{case: {by: [ms]}} and the largest differences."""
    times, wrong = collections.defaultdict(lambda: collections.defaultdict(list)), []
    bench = os.path.join(arguments.build, "bench", "gradbench", "bench_gradbench")
    peer = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "peers", "gradbench_jax.py")
    wanted = arguments.cases or [""]
    for round in range(arguments.rounds):
        for beginning in wanted:
            found = lines([bench, "--case", beginning, "--repeats", "7"])
            written = subprocess.run([bench, "--case", beginning, "--write", folder], stdout=subprocess.PIPE, text=True, check=True).stdout
            if arguments.python:
                found += lines([arguments.python, peer, folder], written)
            for line in found:
                times[line["case"]][line["by"]].append(line["ms"])
                if line.get("error", 0) > MOST:
                    wrong.append(line)
    return times, wrong


def main():
    parser = argparse.ArgumentParser(usage=__doc__)
    parser.add_argument("build")
    parser.add_argument("cases", nargs="*")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--python", default="", help="a Python that has JAX")
    arguments = parser.parse_intermixed_args()
    with tempfile.TemporaryDirectory() as folder:
        times, wrong = measured(arguments, folder)
    print("| program | costate, ms | over by hand | over ADOL-C | over JAX |\n|---|---|---|---|---|")
    for case, by in times.items():
        own = statistics.median(by["costate"])
        others = ["%.2f" % (own / statistics.median(by[peer])) if by.get(peer) else "" for peer in PEERS]
        print("| %s | %.4g | %s |" % (case, own, " | ".join(others)))
    for line in wrong:
        print("%s by %s differs by %g" % (line["case"], line["by"], line["error"]), file=sys.stderr)
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
