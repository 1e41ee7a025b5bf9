#!/usr/bin/env python3
"""report.py RESULTS DOCUMENT README: writes the tables of docs/performance.md, and README's, from the lines that tools/bench has gathered."""
import collections
import datetime
import importlib.metadata
import json
import platform
import re
import statistics
import subprocess
import sys

# How many times, at the least.
FASTER_THAN_TORCHDIFFEQ = {("a", "f64"): 100, ("b.forward", "f32"): 6, ("b.discrete", "f32"): 6, ("b.backsolve", "f32"): 6, ("c2", "f32"): 9,
                           ("c8", "f32"): 20, ("c32", "f32"): 50, ("d.forward", "f32"): 1.4, ("d.gradient", "f32"): 1.4}
# Layers, against torch: how many times, more than.
LAYERS_FASTER_THAN_TORCH = {"conv7": 1, "conv14": 1, "gru": 2}
# Wide networks, against torch and torchdiffeq.
WIDE_FASTER_THAN_TORCH = {"widestep1024": 1.1, "widestep2048": 1.1, "widehutch860": 1.2}
# The stochastic cases, and against whom.
STOCHASTIC_FASTER_THAN = {"torchsde": 5, "diffrax": 2}
# README's table: cases, and what they are to who has not read this far; a program of the case's name has peers under it or under `.gradient`.
README_LINES = {
    ("a", "f64"): "fit of a spiral: network 2-50-2, 20 rows, an update",
    ("sde2.gradient", "f32"): "stochastic equation, d = 2, 100 steps, gradient",
    ("c2", "f32"): "normalizing flow, d = 2, exact trace, an update",
    ("c32", "f32"): "normalizing flow, d = 32, exact trace, an update",
    ("b.discrete", "f32"): "neural ODE 2-64-64-2, 512 rows, gradient",
    ("d.gradient", "f32"): "neural ODE 64-256-256-64, 512 rows, gradient",
    ("gru", "f32"): "GRU, 64 sequences of 100 steps, gradient",
    ("conv14", "f32"): "convolution 64-64, 14 x 14, 128 images, gradient",
    ("wide1024.gradient", "f32"): "network of width 1024, 1024 rows, gradient",
    ("widestep2048", "f32"): "neural ODE 64-2048-2048-64, 256 rows, gradient",
}
PEERS = ("torchdiffeq", "diffrax", "torch", "torchsde")
BEGIN, END = "<!-- from here on by tools/bench -->", "<!-- to here -->"


def read(path):
    """{(peer, case, dtype, threads): {variant: line}}, times being medians over the rounds."""
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    rounds = 0
    for text in open(path):
        line = json.loads(text)
        rounds = max(rounds, line["round"])
        found[line.get("peer", "costate"), line["case"], line["dtype"], line["threads"]][line.get("variant", "")].append(line)
    results = {}
    for key, variants in found.items():
        results[key] = {}
        for variant, lines in variants.items():
            line = dict(lines[0])
            for name in ("ms", "first_ms", "floor_ms", "ratio", "over_field", "peak_gflops"):
                if name in line:
                    line[name] = statistics.median(each[name] for each in lines)
            line["counts"] = all(each["counts"] for each in lines)
            results[key][variant] = line
    return results, rounds


def best(results, peer, case, dtype, threads):
    """(line, variant) of the fastest variant whose answer is right, or None."""
    right = [(line["ms"], variant, line) for variant, line in results.get((peer, case, dtype, threads), {}).items() if line["counts"]]
    return (min(right)[2], min(right)[1]) if right else None


def number(value, digits=3):
    return "%.*g" % (digits, value) if value < 1000 else "%.0f" % value


def table(head, rows):
    if not rows:
        return ""
    return "\n".join("| " + " | ".join(row) + " |" for row in [head, ["---"] * len(head)] + rows) + "\n"


def verdict(value, allowed):
    return "" if not allowed else "%s %s" % (number(allowed), "held" if value <= allowed else "**missed**")


def costate_lines(results, pattern):
    return [variants[""] for (peer, case, _, _), variants in results.items() if peer == "costate" and re.fullmatch(pattern, case)]


def floor_table(results):
    rows = []
    for line in costate_lines(results, r"[abcd]\d*(\..*)?"):
        twice = results.get(("costate", line["case"], line["dtype"], 2), {}).get("")
        if line["threads"] != 1:
            continue
        judged = line["dtype"] == ("f64" if line["case"] == "a" else "f32")
        rows.append([line["case"], line["dtype"], number(line["ms"]), number(line["floor_ms"]), "%.2f" % line["ratio"],
                     verdict(line["ratio"], line.get("must") if judged else None), "%d + %d" % (line["evaluations"], line["vjps"]),
                     "%d + %d" % (line["floor_evaluations"], line["floor_vjps"]), "%.1e" % line["error"] + ("" if line["counts"] else ", wrong"),
                     "%.2f" % (line["ms"] / twice["ms"]) if twice else ""])
    return table(["case", "type", "ms", "floor", "ratio", "at most", "evaluations", "of the floor", "error", "faster on two threads"], rows)


def peer_table(results):
    rows = []
    for line in costate_lines(results, r"[abcd]\d*(\..*)?"):
        name = re.sub(r"\.(discrete|backsolve|recomputed)", ".gradient", line["case"])
        row = [line["case"], line["dtype"], str(line["threads"]), number(line["ms"])]
        for peer in ("torchdiffeq", "diffrax"):
            other = best(results, peer, name, line["dtype"], line["threads"])
            row += [number(other[0]["ms"]), other[1], "%.1f x" % (other[0]["ms"] / line["ms"])] if other else ["", "", ""]
        rows.append(row)
    return table(["case", "type", "threads", "costate ms", "torchdiffeq ms", "its fastest", "costate is faster", "JAX, diffrax ms", "its fastest",
                  "costate is faster"], rows)


def best_table(results):
    """Each library on the number of threads, and in the variant, that suits it best."""
    rows = []
    for case, dtype in dict.fromkeys((line["case"], line["dtype"]) for line in costate_lines(results, r"[abcd]\d*(\..*)?")):
        name = re.sub(r"\.(discrete|backsolve|recomputed)", ".gradient", case)
        threads = sorted(key[3] for key in results if key[:3] == ("costate", case, dtype))
        found = {}
        for peer, what in (("costate", case), ("torchdiffeq", name), ("diffrax", name)):
            lines = [(line[0]["ms"], n) for n in threads if (line := best(results, peer, what, dtype, n))]
            if lines:
                found[peer] = min(lines)
        if "costate" not in found:
            continue
        row = [case, dtype, "%s on %d" % (number(found["costate"][0]), found["costate"][1])]
        for peer in ("torchdiffeq", "diffrax"):
            if peer not in found:
                row += ["", "", ""] if peer == "torchdiffeq" else ["", ""]
                continue
            faster = found[peer][0] / found["costate"][0]
            row += ["%s on %d" % (number(found[peer][0]), found[peer][1]), "%.1f x" % faster]
            if peer == "torchdiffeq":
                wanted = FASTER_THAN_TORCHDIFFEQ.get((case, dtype))
                row.append("" if not wanted else "%g x %s" % (wanted, "held" if faster >= wanted else "**missed**"))
        rows.append(row)
    return table(["case", "type", "costate ms on threads", "torchdiffeq ms on threads", "costate is faster", "at least", "JAX, diffrax ms on threads",
                  "costate is faster"], rows)


def readme_table(results):
    """Each library on the number of threads, and in the variant, that suits it best; the fastest of the others."""
    rows = []
    for (case, dtype), what in README_LINES.items():
        threads = sorted({key[3] for key in results})
        names = {case, re.sub(r"\.(discrete|backsolve|recomputed)", ".gradient", case)}
        ours = [line[0]["ms"] for n in threads if (line := best(results, "costate", case, dtype, n))]
        others = [(line[0]["ms"], peer) for peer in PEERS for name in names for n in threads if (line := best(results, peer, name, dtype, n))]
        if ours and others:
            ms, peer = min(others)
            rows.append([what, number(min(ours)), number(ms), peer, "%.1f x" % (ms / min(ours))])
    return table(["", "costate ms", "fastest other ms", "which", "costate is faster"], rows)


def stochastic_table(results):
    """Each library on the number of threads, and in the variant, that suits it best; costate beside its floor on one thread."""
    rows = []
    for line in costate_lines(results, r"sde\d+\..*"):
        if line["threads"] != 1:
            continue
        case, dtype = line["case"], line["dtype"]
        threads = sorted(key[3] for key in results if key[:3] == ("costate", case, dtype))
        twice = results.get(("costate", case, dtype, 2), {}).get("")
        ours, on = min((results["costate", case, dtype, n][""]["ms"], n) for n in threads)
        row = [case, number(line["ms"]), number(line["floor_ms"]), "%.2f" % line["ratio"], verdict(line["ratio"], line.get("must")),
               "%.2f" % (line["ms"] / twice["ms"]) if twice else "", "%s on %d" % (number(ours), on)]
        for peer, wanted in STOCHASTIC_FASTER_THAN.items():
            found = [(other[0]["ms"], n, other[1]) for n in threads if (other := best(results, peer, case, dtype, n))]
            if not found:
                row += ["", "", ""]
                continue
            ms, n, variant = min(found)
            row += ["%s on %d" % (number(ms), n), variant, "%.1f x, %g x %s" % (ms / ours, wanted, "held" if ms / ours >= wanted else "**missed**")]
        rows.append(row)
    return table(["case", "ms", "floor", "ratio", "at most", "faster on two threads", "ms on threads", "torchsde ms on threads", "its fastest",
                  "costate is faster", "JAX, diffrax ms on threads", "its fastest", "costate is faster"], rows)


def layer_table(results):
    rows = []
    for line in costate_lines(results, r"conv\d+|gru"):
        other = best(results, "torch", line["case"], line["dtype"], line["threads"])
        faster = other[0]["ms"] / line["ms"] if other else 0
        wanted = LAYERS_FASTER_THAN_TORCH[line["case"]]
        rows.append([line["case"], str(line["threads"]), number(line["ms"]), number(line["floor_ms"]), "%.2f" % line["ratio"],
                     verdict(line["ratio"], line.get("must"))] +
                    ([number(other[0]["ms"]), other[1], "%.1f x, %g x %s" % (faster, wanted, "held" if faster >= wanted else "**missed**")]
                     if other else ["", "", ""]))
    return table(["case", "threads", "ms", "floor", "ratio", "at most", "torch ms", "its fastest", "costate is faster"], rows)


def wide_table(results):
    rows = []
    for line in costate_lines(results, r"wide.*"):
        other = best(results, "torch", line["case"], line["dtype"], line["threads"])
        faster = other[0]["ms"] / line["ms"] if other else 0
        wanted = WIDE_FASTER_THAN_TORCH.get(line["case"], 1)
        rows.append([line["case"], str(line["threads"]), number(line["ms"]), "%.2f" % line["ratio"] if "ratio" in line else ""] +
                    ([number(other[0]["ms"]), other[1], "%.1f x, %g x %s" % (faster, wanted, "held" if faster >= wanted else "**missed**")]
                     if other else ["", "", ""]))
    return table(["case", "threads", "ms", "over its floor", "torch ms", "its fastest", "costate is faster"], rows)


def path_table(results):
    rows = []
    for line in costate_lines(results, r"path\..*"):
        twice = results.get(("costate", line["case"], line["dtype"], 2), {}).get("")
        if line["threads"] == 1:
            rows.append([line["case"], number(line["ms"]), number(line["floor_ms"]), "%.2f" % line["ratio"], verdict(line["ratio"], line.get("must")),
                         "%.2f" % (line["ms"] / twice["ms"]) if twice else ""])
    return table(["case", "ms", "plain draws", "ratio", "at most", "faster on two threads"], rows)


def trace_table(results):
    rows = []
    for line in costate_lines(results, r"trace\d\.d\d+\.joint"):
        if line["threads"] != 1:
            continue
        field, vjp = (results["costate", line["case"].replace("joint", kind), line["dtype"], 1][""] for kind in ("field", "vjp"))
        layers, d = re.match(r"trace(\d)\.d(\d+)", line["case"]).groups()
        rows.append([layers, d, number(field["ms"] * 1e3), number(line["ms"] * 1e3), "%.2f" % line["over_field"],
                     verdict(line["over_field"], line.get("must_over_field")), "%.2f" % line["ratio"], verdict(line["ratio"], line["must"]),
                     number(vjp["ms"] * 1e3), "%.2f" % vjp["ratio"], verdict(vjp["ratio"], vjp["must"])])
    return table(["hidden layers", "d", "field µs", "joint µs", "joint over field", "at most", "joint over its floor", "at most", "VJP µs",
                  "VJP over its floor", "at most"], rows)


def program_table(results):
    rows = []
    for line in costate_lines(results, r"compile\..*|overhead"):
        rows.append([line["case"], number(line["ms"] * 1e3), number(line["first_ms"] * 1e3) if "first_ms" in line else "",
                     verdict(line["ms"] * 1e3, line["limit_ms"] * 1e3 if "limit_ms" in line else None)])
    return table(["", "µs", "the first in the process", "at most"], rows)


def first_calls(results):
    ms = [line["first_ms"] for (peer, case, _, _), variants in results.items() for line in variants.values() if peer == "diffrax" and case[0] == "c"]
    return "\nCompiling and running a step of case c for the first time takes JAX %.1f to %.1f s.\n" % (min(ms) / 1e3, max(ms) / 1e3) if ms else ""


def output(*command):
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout
    except (OSError, subprocess.CalledProcessError):
        return ""


def machine(results, rounds):
    cpu = dict(re.findall(r"^([^:\n]+?)\s*:\s*(.*)$", output("lscpu"), re.M))
    peaks = {dtype: max([line["peak_gflops"] for line in costate_lines(results, ".*") if line["dtype"] == dtype] or [0]) for dtype in ("f32", "f64")}
    lines = ["%s, %s cores, L1d %s, L2 %s, L3 %s." % (cpu.get("Model name", platform.processor()), cpu.get("CPU(s)", "?"), cpu.get("L1d cache", "?"),
                                                    cpu.get("L2 cache", "?"), cpu.get("L3 cache", "?")),
             "FMA peak of one thread: %.0f GFLOP/s in single precision, %.0f in double." % (peaks["f32"], peaks["f64"])]
    compiler = output("cc", "--version").split("\n")[0]
    debian = re.findall(r"^(\S+?)(?::\S+)? (\S+)$", output("dpkg-query", "-W", "libxsmm-dev", "libopenblas-dev").replace("\t", " "), re.M)
    lines.append("; ".join([compiler] + [" ".join(pair) for pair in debian]) + ".")
    names = ("torch", "torchdiffeq", "torchsde", "jax", "jaxlib", "diffrax", "numpy")
    lines.append("Python %s; " % platform.python_version() + ", ".join("%s %s" % (name, importlib.metadata.version(name)) for name in names) + ".")
    lines.append("%s, %d round(s)." % (datetime.date.today().isoformat(), rounds))
    return "\n".join("* " + line for line in lines) + "\n"


def write(path, text):
    """Between the marks of a document."""
    document = open(path).read()
    before, rest = document.split(BEGIN)
    with open(path, "w") as file:
        file.write(before + BEGIN + "\n" + text + END + rest.split(END)[1])


def main():
    results, rounds = read(sys.argv[1])
    parts = [("Machine and versions", machine(results, rounds)), ("Against the floor", floor_table(results)),
             ("Against torchdiffeq and diffrax, each at its best", best_table(results) + first_calls(results)),
             ("Against torchdiffeq and diffrax, on the same number of threads", peer_table(results)),
             ("Stochastic equations", stochastic_table(results) + "\n" + path_table(results)), ("The exact trace", trace_table(results)),
             ("Layers", layer_table(results)), ("Wide networks", wide_table(results)),
             ("Making programs, and starting one", program_table(results))]
    text = "".join("\n### %s\n\n%s" % part for part in parts if part[1])
    write(sys.argv[2], text)
    cpu = re.search(r"Model name:\s*(.*)", output("lscpu"))
    write(sys.argv[3], "\n" + readme_table(results) + "\n%s, the better of one thread and two, %s.\n" %
          (cpu.group(1) if cpu else platform.processor(), datetime.date.today().isoformat()))


main()
