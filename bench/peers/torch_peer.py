"""What the peers in torch share. It is imported after problems.parse, which settles the threads before torch is loaded."""
import problems
import torch

options = problems.options
torch.set_num_threads(options.threads)
DTYPE = torch.float64 if options.dtype == "f64" or options.answers else torch.float32


def linear_layers(weights):
    """torch.nn.Linear layers with the given [(W, b), ...]; W [in, out]."""
    layers = []
    for weight, bias in weights:
        layer = torch.nn.Linear(*weight.shape, dtype=DTYPE)
        layer.weight.data = torch.tensor(weight.T.copy(), dtype=DTYPE)
        layer.bias.data = torch.tensor(bias, dtype=DTYPE)
        layers.append(layer)
    return layers


def measure(name, variant, loss, leaves, right, limit):
    """Times a loss and its gradients by the leaves (none: the loss alone) and compares it and their norms with the right ones; with --answers
    prints these instead."""

    def step():
        if not leaves:
            with torch.no_grad():
                return loss()
        for leaf in leaves:
            leaf.grad = None
        value = loss()
        value.backward()
        return value

    values = [step().item()] + [leaf.grad.double().norm().item() for leaf in leaves]
    if options.answers:
        print(name, ", ".join([str(len(values))] + ["%.12g" % value for value in values]))
        return
    wrong = max(abs(value / answer - 1) for value, answer in zip(values, right))
    problems.line("torch", options, name, variant, problems.milliseconds(step, options.repeats), wrong, wrong < limit)
