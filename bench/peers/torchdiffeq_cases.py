#!/usr/bin/env python3
"""The cases in torch and torchdiffeq, every variant that might be the fastest: the field eager or compiled, and the gradient by backpropagation or,
where that has been seen to be faster or nearer to the exact one, by the adjoint."""
import math

import problems

options = problems.parse(__doc__)
import torch  # noqa: E402 (the threads must be settled before)
import torch._functorch.config  # noqa: E402
from torch_peer import DTYPE, linear_layers  # noqa: E402
from torchdiffeq import odeint, odeint_adjoint  # noqa: E402

torch._functorch.config.donated_buffer = False  # torchdiffeq's adjoint keeps the graph of a compiled field


class Network(torch.nn.Module):
    def __init__(self, case):
        super().__init__()
        self.cube = case == "a"
        self.layers = torch.nn.ModuleList(linear_layers(problems.weights(case)))

    def forward(self, x):
        x = x**3 if self.cube else x
        for layer in self.layers[:-1]:
            x = torch.tanh(layer(x))
        return self.layers[-1](x)


class Field(torch.nn.Module):
    """dx/dt = network(x), counting its evaluations."""

    def __init__(self, case, compiled):
        super().__init__()
        self.network, self.evaluations = Network(case), 0
        self.value = torch.compile(self.network) if compiled else self.network

    def forward(self, t, x):
        self.evaluations += 1
        return self.value(x)


class Flow(Field):
    """(x, log density): the trace of the Jacobian by forward derivatives along all unit vectors at once."""

    def __init__(self, case, compiled):
        super().__init__(case, False)
        self.both = torch.compile(self.joint) if compiled else self.joint

    def joint(self, x):
        units = torch.eye(x.shape[1], dtype=x.dtype)[:, None, :].expand(-1, *x.shape)
        value, columns = torch.func.vmap(lambda unit: torch.func.jvp(self.network, (x,), (unit,)), out_dims=(None, 0))(units)
        return value, -columns.diagonal(dim1=0, dim2=2).sum(1, keepdim=True)

    def forward(self, t, state):
        self.evaluations += 1
        return self.both(state[0])


def half_square(case, field, solve, x):
    _, rows, end, rtol, atol = problems.CASES[case]
    times = torch.tensor([0, end], dtype=DTYPE)
    if case == "d":
        grid = torch.linspace(0, end, problems.RK4_STEPS + 1, dtype=DTYPE)
        how = dict(method="rk4", options=dict(grid_constructor=lambda f, y, t: grid))
    else:
        how = dict(rtol=rtol, atol=atol)
    return (solve(field, x, times, **how)[-1] ** 2).sum() / (2 * rows)


def spiral(case, field, solve, data):
    start, times, target = data
    return (solve(field, start, times, rtol=1e-7, atol=1e-9) - target).abs().mean()


def likelihood(case, field, solve, x):
    _, rows, end, rtol, atol = problems.CASES[case]
    z, change = solve(field, (x, x.new_zeros(rows, 1)), torch.tensor([end, 0], dtype=DTYPE), rtol=rtol, atol=atol, method="dopri5")
    log_normal = -0.5 * (z[-1] ** 2).sum(1) - 0.5 * x.shape[1] * math.log(2 * math.pi)
    return -(log_normal - change[-1, :, 0]).mean()


def gradient(case, loss, field, solve, data, optimizer, compiled):
    """Times a training step, or loss and gradient where there is no optimizer."""
    parameters = list(field.network.parameters())

    def step():
        for parameter in parameters:
            parameter.grad = None
        value = loss(case, field, solve, data)
        value.backward()
        if optimizer:
            optimizer.step()
        return value

    value = step().item()
    wrong = problems.error(case, value, [parameter.grad.double().norm() for parameter in parameters])
    field.evaluations = 0
    step()
    evaluations = field.evaluations
    variant = ("adjoint" if solve is odeint_adjoint else "backpropagation") + (", compiled field" if compiled else "")
    problems.report("torchdiffeq", options, case if case[0] in "ac" else case + ".gradient", variant, problems.milliseconds(step, options.repeats), wrong,
                    evaluations)


def forward(case, field, x, compiled):
    def run():
        with torch.no_grad():
            return half_square(case, field, odeint, x)

    wrong = problems.error(case, run().item())
    field.evaluations = 0
    run()
    evaluations = field.evaluations
    problems.report("torchdiffeq", options, case + ".forward", "compiled field" if compiled else "eager field", problems.milliseconds(run, options.repeats),
                    wrong, evaluations)


def run_case(case, compiled):
    torch.compiler.reset()
    field = (Flow if case[0] == "c" else Field)(case, compiled)
    if case == "a":
        data = tuple(torch.tensor(array, dtype=DTYPE) for array in problems.spiral())
    else:
        data = torch.tensor(problems.inputs(case), dtype=DTYPE)
    if case[0] in "bd":
        forward(case, field, data, compiled)
    loss = spiral if case == "a" else likelihood if case[0] == "c" else half_square
    for solve in (odeint, odeint_adjoint) if case[0] == "b" else (odeint,):
        # No learning rate: the same work every time.
        parameters = field.network.parameters()
        optimizer = torch.optim.RMSprop(parameters, lr=0.0) if case == "a" else torch.optim.Adam(parameters, lr=0.0) if case[0] == "c" else None
        gradient(case, loss, field, solve, data, optimizer, compiled)


for name in options.case:
    for with_compiler in (False, True):
        run_case(name, with_compiler)
