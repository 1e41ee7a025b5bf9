#!/usr/bin/env python3
"""Default gradients of small problems, in one run: costate's (by build/bench/bench_gradients, which has the same problems), torchdiffeq's and
diffrax's, each beside the right value. Dormand-Prince 5(4), relative tolerance 1e-6, absolute 1e-8, double precision, for everybody;
everything else is each library's default. Right values: by hand where there is a formula, else the variational equations (Jacobians by
JAX) solved by SciPy at 1e-12. Writes the tables between the marks of docs/gradients.md, or prints them."""
import argparse
import json
import math
import os
import subprocess
import sys
import warnings

os.environ.setdefault("JAX_PLATFORMS", "cpu")
import diffrax  # noqa: E402
import equinox  # noqa: E402
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import torch  # noqa: E402
import torchdiffeq  # noqa: E402
from scipy.integrate import solve_ivp  # noqa: E402

jax.config.update("jax_enable_x64", True)
torch.set_default_dtype(torch.float64)
warnings.filterwarnings("ignore")
RTOL, ATOL, MAX_STEPS = 1e-6, 1e-8, 100000
MAX_STEPS_TORCH = 20000  # which has no limit of its own, and takes milliseconds a step

# ---- fields, for whichever library's arrays: t, the components of the state, the parameter ----


def forced_decay(lib, t, y, p):
    return [p * lib.sin(t) - y[0]]


def wave(lib, t, y, p):
    return [0 * y[0] + p * lib.sin(20 * math.pi * t) ** 2]


def hump(lib, t, y, p):
    return [0 * y[0] + p / (400 * (t - 0.5) ** 2 + 1)]


def oscillator(lib, t, y, p):
    return [y[1], p - 0.1 * y[1] - y[0]]


def fast_decay(lib, t, y, p):
    return [p * (lib.cos(t) - y[0])]


def van_der_pol(lib, t, y, p):
    return [y[1], p * (1 - y[0] ** 2) * y[1] - y[0]]


def chain(lib, t, y, p):
    return [p * (y[1] - y[0]), p * 0 * y[1]]


def resting_mode(lib, t, y, p):
    return [p * lib.cos(t) + y[1], -500 * y[1]]


def lotka_volterra(lib, t, y, p):
    return [p * y[0] - y[0] * y[1], y[0] * y[1] - 3 * y[1]]


def lorenz(lib, t, y, p):
    return [10 * (y[1] - y[0]), y[0] * (p - y[2]) - y[1], y[0] * y[1] - 8 / 3 * y[2]]


def kepler(lib, t, y, p):
    r2 = y[0] ** 2 + y[1] ** 2
    return [y[2], y[3], -p * y[0] / (r2 * lib.sqrt(r2)), -p * y[1] / (r2 * lib.sqrt(r2))]


def after_decay(end):
    """The integral of e^(s - T) sin s."""
    return (math.sin(end) - math.cos(end) + math.exp(-end)) / 2


def damped(end):
    """x(T) of x'' + 0.1 x' + x = 0 from (1, 0)."""
    w = math.sqrt(1 - 0.0025)
    return math.exp(-0.05 * end) * (math.cos(w * end) + 0.05 / w * math.sin(w * end))


# name: (field, y0, p, end, the derivative of the first component that is looked at: "p" or a component of y0, right value)
PROBLEMS = {
    "forced decay at rest, T = 10": (forced_decay, [0], 0, 10, "p", after_decay(10)),
    "forced decay at rest, T = 1000": (forced_decay, [0], 0, 1000, "p", after_decay(1000)),
    "wave of height 0": (wave, [0], 0, 1, "p", 0.5),
    "hump of height 0": (hump, [0], 0, 1, "p", math.atan(10) / 10),
    "oscillator at rest": (oscillator, [0, 0], 0, 50, 0, damped(50)),
    "fast decay to cos t": (fast_decay, [1], 10 * 1.3**22, 3, "p", None),
    "van der Pol, mu = 30": (van_der_pol, [2, 0], 30, 20, 0, None),
    "chain at rest": (chain, [0.5, 0.5], 1, 1000, 1, 1.0),
    "fast mode at rest": (resting_mode, [0, 0], 1, 10, 1, 0.002),
    "Lotka-Volterra": (lotka_volterra, [1, 1], 1.5, 10, "p", None),
    "van der Pol, mu = 1": (van_der_pol, [2, 0], 1, 10, "p", None),
    "Lorenz, T = 2": (lorenz, [1, 1, 1], 28, 2, "p", None),
    "Kepler": (kepler, [0.5, 0, 0, 1.7320508], 1, 10, "p", None),
}
ABOUT = {
    "forced decay at rest, T = 10": "y' = p sin t - y, p = 0",
    "forced decay at rest, T = 1000": "the same",
    "wave of height 0": "y' = p sin^2 20 pi t, p = 0, T = 1",
    "hump of height 0": "y' = p / (1 + 400 (t - 1/2)^2), p = 0, T = 1",
    "oscillator at rest": "x'' = p - x' / 10 - x, p = 0, T = 50",
    "fast decay to cos t": "y' = p (cos t - y), p = 3212, T = 3",
    "van der Pol, mu = 30": "from (2, 0), T = 20",
    "chain at rest": "x' = z - x, z' = 0, T = 1000",
    "fast mode at rest": "x' = cos t + z, z' = -500 z, z = 0, T = 10",
    "Lotka-Volterra": "T = 10",
    "van der Pol, mu = 1": "from (2, 0), T = 10",
    "Lorenz, T = 2": "from (1, 1, 1)",
    "Kepler": "eccentricity 0.5, T = 10",
}


def right_value(name):
    field, y0, p, end, by, known = PROBLEMS[name]
    if known is not None:
        return known
    n = len(y0)

    def of_both(t, z):
        return jnp.stack(field(jnp, t, z[:n], z[n]))

    jacobian, value = jax.jit(jax.jacfwd(of_both, 1)), jax.jit(of_both)

    def variations(t, v):
        z = np.append(v[:n], p)
        j = np.asarray(jacobian(t, z))
        slope = j[:, :n] @ v[n:] + (j[:, n] if by == "p" else 0)
        return np.concatenate([np.asarray(value(t, z)), slope])

    start = np.concatenate([y0, np.zeros(n) if by == "p" else np.eye(n)[by]])
    stiff = p > 10 and n < 3
    result = solve_ivp(variations, (0, end), start, "Radau" if stiff else "DOP853", rtol=1e-12, atol=1e-14)
    assert result.success, (name, result.message)
    return float(result.y[n, -1])


# ---- the libraries: the derivative, or a text that says why there is none ----


def short(error):
    return (str(error) or type(error).__name__).strip().splitlines()[0][:60]


def by_torchdiffeq(name, solve):
    field, y0, p, end, by, _ = PROBLEMS[name]

    class Field(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.p = torch.nn.Parameter(torch.tensor(float(p)))

        def forward(self, t, y):
            return torch.stack(field(torch, t, y, self.p))

    module, start = Field(), torch.tensor([float(v) for v in y0], requires_grad=True)
    y = solve(module, start, torch.tensor([0.0, float(end)]), method="dopri5", rtol=RTOL, atol=ATOL,
              options={"max_num_steps": MAX_STEPS_TORCH})
    y[-1][0].backward()
    gradient = module.p.grad if by == "p" else start.grad[by]
    return float(gradient)


def by_diffrax(name, adjoint):
    field, y0, p, end, by, _ = PROBLEMS[name]

    @equinox.filter_jit
    def gradient(both):
        def last(both):
            term = diffrax.ODETerm(lambda t, y, p: jnp.stack(field(jnp, t, y, p)))
            control = diffrax.PIDController(rtol=RTOL, atol=ATOL)
            solution = diffrax.diffeqsolve(term, diffrax.Dopri5(), 0.0, float(end), None, both[0], both[1], adjoint=adjoint,
                                           stepsize_controller=control, max_steps=MAX_STEPS)
            return solution.ys[-1][0]

        return jax.grad(last)(both)

    by_y0, by_p = gradient((jnp.array(y0, dtype=float), jnp.array(float(p))))
    return float(by_p if by == "p" else by_y0[by])


PEERS = {
    "torchdiffeq `odeint`": lambda name: by_torchdiffeq(name, torchdiffeq.odeint),
    "torchdiffeq `odeint_adjoint`": lambda name: by_torchdiffeq(name, torchdiffeq.odeint_adjoint),
    "diffrax `RecursiveCheckpointAdjoint`": lambda name: by_diffrax(name, diffrax.RecursiveCheckpointAdjoint()),
    "diffrax `BacksolveAdjoint`": lambda name: by_diffrax(name, diffrax.BacksolveAdjoint()),
}


def tried(function, name):
    try:
        return function(name)
    except Exception as error:  # whatever a library says is a result
        return short(error)


# ---- tables ----


def cell(value, right):
    """The relative error; of values that are off by more than a tenth, in bold, the value itself."""
    if value is None:
        return "error"
    if isinstance(value, str):
        return "error"
    off = abs(value - right) / abs(right)
    if not off <= 0.1:
        return "**%.3g**" % value
    return "%.0e" % off if off > 0 else "0"


def row(cells):
    return "| " + " | ".join(cells) + " |"


def lookup(results, name, dtype, method, adjoint):
    by = PROBLEMS[name][4]
    for r in results:
        if (r["problem"], r["dtype"], r["method"], r["adjoint"]) == (name, dtype, method, adjoint):
            if "error" in r:
                return None, r
            return (r["p"] if by == "p" else r["y0"][by]), r
    raise KeyError((name, dtype, method, adjoint))


def derivative(name):
    by = PROBLEMS[name][4]
    return "p" if by == "p" else "y0[%d]" % by


def tables(results, right, peers):
    lines = [row(["problem", "by", "right", "costate `ode_discrete`", "costate `ode_interpolating`", "costate `ode_backsolve`"] + list(PEERS)),
             row(["---"] * (6 + len(PEERS)))]
    for name in PROBLEMS:
        ours = [cell(lookup(results, name, "f64", "dopri5", adjoint)[0], right[name]) for adjoint in ("discrete", "interpolating", "backsolve")]
        lines.append(row(["%s: %s" % (name, ABOUT[name]), derivative(name), "%.6g" % right[name]] + ours +
                         [cell(peers[peer][name], right[name]) for peer in PEERS]))
    methods = ["dopri5", "tsit5", "dopri8", "bosh3", "midpoint", "ralston"]
    lines += ["", "costate's default adjoint with its other adaptive methods, in double and (default tolerances 1e-4, 1e-6) in single "
              "precision:", "", row(["problem"] + methods + [m + " f32" for m in methods]), row(["---"] * (1 + 2 * len(methods)))]
    for name in PROBLEMS:
        lines.append(row([name] + [cell(lookup(results, name, dtype, m, "discrete")[0], right[name]) for dtype in ("f64", "f32")
                                   for m in methods]))
    lines += ["", "What `ad_check_gradient` says of the default gradients (dopri5, double): the relative difference when all steps are "
              "halved, beside the error that is there; and what the solve took:", "",
              row(["problem", "error", "check", "accepted steps", "evaluations"]), row(["---"] * 5)]
    for name in PROBLEMS:
        value, r = lookup(results, name, "f64", "dopri5", "discrete")
        check = r["check_p" if PROBLEMS[name][4] == "p" else "check_y0"]
        error = "error" if value is None else "%.0e" % (abs(value - right[name]) / abs(right[name]))
        lines.append(row([name, error, "%.0e" % check if check is not None else "error", str(r.get("steps")), str(r.get("evaluations"))]))
    return "\n".join(lines)


def main():
    root = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--program", default=os.path.join(root, "build", "bench", "bench_gradients"))
    parser.add_argument("--write", action="store_true", help="put the tables into docs/gradients.md")
    options = parser.parse_args()
    results = json.loads(subprocess.run([options.program], check=True, capture_output=True, text=True).stdout)
    right = {name: right_value(name) for name in PROBLEMS}
    peers = {}
    for peer, function in PEERS.items():
        print(peer, file=sys.stderr)
        peers[peer] = {name: tried(function, name) for name in PROBLEMS}
    text = tables(results, right, peers)
    for peer in PEERS:
        for name in PROBLEMS:
            if isinstance(peers[peer][name], str):
                print("%s, %s: %s" % (peer, name, peers[peer][name]))
    versions = "Versions: torch %s, torchdiffeq %s, jax %s, diffrax %s." % (torch.__version__, torchdiffeq.__version__, jax.__version__,
                                                                              diffrax.__version__)
    text += "\n\n" + versions
    if not options.write:
        print(text)
        return
    path = os.path.join(root, "docs", "gradients.md")
    page = open(path).read()
    begin, end = "<!-- tables: bench/peers/gradients.py --write -->\n", "<!-- end of tables -->"
    before, rest = page.split(begin)
    open(path, "w").write(before + begin + "\n" + text + "\n\n" + end + rest.split(end)[1])


if __name__ == "__main__":
    main()
