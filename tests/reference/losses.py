"""Prints losses.h: losses of PyTorch in float64 at fixed numbers, with the gradient by the first
argument and the Hessian times a direction.

    python3 losses.py > losses.h
"""
import torch
import torch.nn.functional as F
from torch.distributions import Normal, kl_divergence

torch.set_default_dtype(torch.float64)
i = torch.arange(6.0).reshape(2, 3)
X, T, W = torch.sin(2 * i + 1) * 2, torch.cos(3 * i), (i % 2 == 0).double() * (1 + i / 4)
V, L = torch.cos(i), 0.3 * torch.sin(i)
P, C = (T + 1) / 2, torch.tensor([2, 0])
CASES = {
    "huber": lambda x: F.huber_loss(x, T, delta=0.7),
    "binary": lambda x: F.binary_cross_entropy_with_logits(x, P),
    "poisson": lambda x: F.poisson_nll_loss(x, i),
    "smooth": lambda x: F.cross_entropy(x, C, label_smoothing=0.1),
    "weighted_mse": lambda x: F.mse_loss(x, T, weight=W),
    "weighted_nll": lambda x: (W * -Normal(x, L.exp()).log_prob(T)).sum() / W.sum(),
    "weighted_classes": lambda x: (F.cross_entropy(x, C, reduction="none")
                                   * torch.tensor([0.5, 2.0])).sum() / 2.5,
    "kl": lambda x: kl_divergence(Normal(T, x.exp()), Normal(V, L.exp())).sum() / 2,
    "standard_kl": lambda x: kl_divergence(Normal(T, x.exp()), Normal(0.0, 1.0)).sum() / 2,
}
print("/* Made by losses.py with PyTorch", torch.__version__.split("+")[0] + ". */")
print("/* clang-format off */")
for name, f in CASES.items():
    x = X.clone().requires_grad_()
    loss = f(x)
    g, = torch.autograd.grad(loss, x, create_graph=True)
    h, = torch.autograd.grad((g * V).sum(), x)
    numbers = [loss.item()] + g.flatten().tolist() + h.flatten().tolist()
    print(f"static const double loss_{name}[13] = {{")
    for k in range(0, 13, 3):
        print("    " + ", ".join(f"{v:.17g}" for v in numbers[k:k + 3]) + ",")
    print("};")
print("/* clang-format on */")
