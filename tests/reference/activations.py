"""Prints activations.h: PyTorch's activations, and norms of singular values. python3 activations.py > activations.h"""
import torch
import torch.nn.functional as F
from digest import begin, case, end, inputs, parameters


def clipped(x):
    """PyTorch has no second derivative of its hardsigmoid: by its formula."""
    return F.relu6(x + 3) / 6


OWN = {"hardsigmoid": clipped, "hardswish": lambda x: x * clipped(x)}


def selected(name):
    x = inputs((3, 8))
    y = OWN.get(name, getattr(F, name))(4 * x[0])
    assert torch.allclose(y, getattr(F, name)(4 * x[0]), rtol=1e-15)
    case("activation_" + name, y, x, [])


begin("activations.py")
for name in ("elu", "selu", "mish", "leaky_relu", "relu6", "hardtanh", "hardsigmoid", "hardswish", "softsign",
             "logsigmoid"):
    selected(name)
x = inputs((3, 8))
case("activation_gelu_tanh", F.gelu(4 * x[0], approximate="tanh"), x, [])
case("activation_elu_of", F.elu(4 * x[0], 0.7), x, [])
case("activation_leaky_relu_of", F.leaky_relu(4 * x[0], 0.3), x, [])
case("activation_softmax", F.softmax(4 * x[0], -1), x, [])
case("activation_log_softmax", F.log_softmax(4 * x[0], -1), x, [])
case("activation_glu", F.glu(4 * x[0], -1), x, [])
x, p = inputs((3, 2, 4)), parameters((4,))
case("prelu", F.prelu(x[0].movedim(-1, 1), p[0]).movedim(1, -1), x, p)
x, p = inputs((3, 2, 4)), parameters((1,))
case("prelu_shared", F.prelu(x[0], p[0]), x, p)


def bound(w, squarings):
    """From the eigenvalues: derivatives of svdvals are inaccurate where singular values are small."""
    w, p = w.reshape(-1, w.shape[-1]), 2 ** squarings
    s = torch.linalg.eigvalsh(w.T @ w if w.shape[0] > w.shape[1] else w @ w.T)
    return s[-1].sqrt() * ((s / s[-1]) ** p).sum() ** (1 / (2 * p))


x, p = inputs((3, 5)), parameters((5, 3), (3,))
case("spectral", x[0] @ (p[0] / bound(p[0], 8)) + p[1], x, p)
p = parameters((2, 2, 5))
case("spectral_kernel", p[0] / bound(p[0], 3), [], p)
end()
