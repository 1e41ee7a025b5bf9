#!/usr/bin/env python3
"""The stochastic cases in torch and torchsde: Euler-Maruyama, every variant that might be the fastest. The path is a BrownianInterval that
is told the size of the steps (the default, which is not told, takes longer), or increments drawn all at once by torch.randn, which is no path but the least it can
cost; drift and diffusion are eager or compiled."""
import problems
import stochastic

options = problems.parse(__doc__, stochastic.CASES)
import torch  # noqa: E402 (the threads must be settled before)
import torch._functorch.config  # noqa: E402
import torchsde  # noqa: E402
from torch_peer import DTYPE, linear_layers  # noqa: E402

torch._functorch.config.donated_buffer = False  # the adjoint keeps the graph of a compiled field
STEP = stochastic.END / stochastic.STEPS


class Equation(torch.nn.Module):
    noise_type, sde_type = "diagonal", "ito"

    def __init__(self, weights, diffusion, compiled):
        super().__init__()
        self.layers = torch.nn.ModuleList(linear_layers(weights))
        self.slope, self.offset = (torch.nn.Parameter(torch.tensor(array, dtype=DTYPE)) for array in diffusion)
        self.both = torch.compile(self.compute) if compiled else self.compute

    def compute(self, y):
        x = y
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.layers[-1](x), torch.sigmoid(self.slope * y + self.offset)

    def f_and_g(self, t, y):
        return self.both(y)

    def f(self, t, y):
        return self.compute(y)[0]

    def g(self, t, y):
        return torch.sigmoid(self.slope * y + self.offset)

    def arrays(self):
        """Parameters in the order of stochastic.NAMES."""
        return [array for layer in self.layers for array in (layer.weight, layer.bias)] + [self.slope, self.offset]


class Drawn(torchsde.BaseBrownian):
    """Increments of the equal steps, drawn at once."""

    def __init__(self, size):
        super().__init__()
        self.increments = torch.randn((stochastic.STEPS + 1, *size), dtype=DTYPE) * STEP**0.5
        self.increments[-1] = 0  # torchsde adds up times: a step of no length may follow the last
        self.size = size

    def __call__(self, ta, tb=None, return_U=False, return_A=False):
        return self.increments[round(float(ta) / STEP)]

    def __repr__(self):
        return "Drawn(%s)" % (self.size,)

    dtype = property(lambda self: DTYPE)
    device = property(lambda self: torch.device("cpu"))
    shape = property(lambda self: self.size)
    levy_area_approximation = "none"


PATHS = {
    "BrownianInterval": lambda size: torchsde.BrownianInterval(0.0, stochastic.END, size=size, dtype=DTYPE, dt=STEP),
    "drawn at once": Drawn,
}


def loss(solve, equation, path, y0):
    times = torch.tensor([0, stochastic.END], dtype=DTYPE)
    y = solve(equation, y0, times, bm=PATHS[path](y0.shape), dt=STEP, method="euler")[-1]
    return (y**2).sum() / (2 * stochastic.ROWS)


def run_case(case, path, compiled):
    torch.compiler.reset()
    torch.manual_seed(1)
    start, weights, diffusion = stochastic.setting(case)
    equation = Equation(weights, diffusion, compiled)
    y0 = torch.tensor(start, dtype=DTYPE, requires_grad=True)
    arrays = [y0] + equation.arrays()
    variant = path + (", compiled" if compiled else "")

    def forward():
        with torch.no_grad():
            return loss(torchsde.sdeint, equation, path, y0)

    values = [[forward().item()] for _ in range(stochastic.RUNS)]
    stochastic.report("torchsde", options, case + ".forward", variant, problems.milliseconds(forward, options.repeats), values)
    for solve, name in ((torchsde.sdeint, "backpropagation"), (torchsde.sdeint_adjoint, "adjoint")):
        if solve is torchsde.sdeint_adjoint and (compiled or path == "drawn at once"):
            continue  # asks for other fields, and for a path in reverse

        def gradient():
            for array in arrays:
                array.grad = None
            value = loss(solve, equation, path, y0)
            value.backward()
            return value

        values = []
        for _ in range(stochastic.RUNS):
            values.append([gradient().item()] + [array.grad.double().sum().item() for array in arrays])
        ms = problems.milliseconds(gradient, options.repeats)
        stochastic.report("torchsde", options, case + ".gradient", name + ", " + variant, ms, values)


for chosen in options.case:
    for how in PATHS:
        for with_compiler in (False, True):
            run_case(chosen, how, with_compiler)
