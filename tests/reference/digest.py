"""What the scripts of layers share: arrays of numbers to compute with, and digests of results, for
tests/nn/digest.h. Arrays are those of the library: channels last, weights [in,out]."""
import torch

torch.set_default_dtype(torch.float64)


def fill(shape, a, b):
    n = 1
    for s in shape:
        n *= s
    return torch.sin(a * torch.arange(n) + b).reshape(shape)


def inputs(*shapes):
    return [fill(s, 1.3, 0.4 + k).requires_grad_() for k, s in enumerate(shapes)]


def parameters(*shapes):
    return [fill(s, 0.9, 0.1 + k).requires_grad_() for k, s in enumerate(shapes)]


def fixed(k, n):
    return fill((n,), 0.9, 0.1 + k) ** 2 + 0.5


def digest(arrays):
    v = torch.cat([a.detach().reshape(-1) for a in arrays]) if arrays else torch.zeros(1)
    return [float(v.sum()), float((v * torch.cos(0.7 * torch.arange(len(v)) + 0.2)).sum())]


def declare(name, numbers):
    print("static const double %s[] = {" % name)
    for k in range(0, len(numbers), 2):
        print("    " + " ".join("%.17g," % v for v in numbers[k:k + 2]))
    print("};")


def case(name, y, x, p):
    """Digests of y, of the gradients of sum(c y^2) by x and by p, and of those of the sum of all
    their squares, by x and by p again."""
    c = fill(tuple(y.shape), 0.8, 0.6)
    g = torch.autograd.grad((c * y * y).sum(), x + p, create_graph=True)
    h = torch.autograd.grad(sum((v ** 2).sum() for v in g), x + p, allow_unused=True)
    h = [torch.zeros_like(v) if d is None else d for d, v in zip(h, x + p)]
    n = len(x)
    declare(name, digest([y]) + digest(g[:n]) + digest(g[n:]) + digest(h[:n]) + digest(h[n:]))


def begin(script):
    print("/* Made by %s with PyTorch %s. */" % (script, torch.__version__.split("+")[0]))
    print("/* clang-format off */")


def end():
    print("/* clang-format on */")
