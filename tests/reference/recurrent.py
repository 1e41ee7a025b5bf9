"""Prints recurrent.h: values, gradients and second derivatives of PyTorch's GRU and LSTM."""
import torch

torch.set_default_dtype(torch.float64)
R, T, I, W = 2, 3, 2, 2
print("/* Made by tests/reference/recurrent.py with PyTorch. */")
for kind, gates in (("gru", 3), ("lstm", 4)):
    layer = (torch.nn.GRU if kind == "gru" else torch.nn.LSTM)(I, W, batch_first=True)
    with torch.no_grad():
        n = 0
        for p in (layer.weight_ih_l0, layer.bias_ih_l0, layer.weight_hh_l0, layer.bias_hh_l0):
            t = torch.sin(torch.arange(n, n + p.numel(), dtype=torch.float64))
            p.copy_(t.reshape(p.shape[1], p.shape[0]).T if p.dim() == 2 else t)
            n += p.numel()
    x = torch.cos(torch.arange(R * T * I, dtype=torch.float64)).reshape(R, T, I).requires_grad_()
    y, _ = layer(x)
    (g,) = torch.autograd.grad((y ** 2).sum(), x, create_graph=True)
    (h,) = torch.autograd.grad((g ** 2).sum(), x)
    for name, a in (("value", y), ("gradient", g), ("second", h)):
        print(f"static const double {kind}_{name}[] = {{ %s }};" % ", ".join("%.15g" % v for v in a.flatten().tolist()))
