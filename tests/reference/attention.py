"""Prints attention.h: PyTorch's MultiheadAttention, and features of times from their formulas.
python3 attention.py > attention.h"""
import math
import torch
from torch.func import functional_call
from digest import begin, case, end, fixed, inputs, parameters


def attend(x, p, heads, bias=True, **mask):
    """p: weight and bias of query, key, value, out."""
    w, b = (p[0::2], p[1::2]) if bias else (p, [None] * 4)
    width, kdim, vdim = w[0].shape[0], w[1].shape[0], w[2].shape[0]
    layer = torch.nn.MultiheadAttention(width, heads, bias=bias, kdim=kdim, vdim=vdim, batch_first=True)
    own = {"out_proj.weight": w[3].T}
    if kdim == vdim == width:
        own["in_proj_weight"] = torch.cat([v.T for v in w[:3]])
    else:
        own.update({"%s_proj_weight" % n: v.T for n, v in zip("qkv", w)})
    if bias:
        own.update({"in_proj_bias": torch.cat(b[:3]), "out_proj.bias": b[3]})
    return functional_call(layer, own, tuple(x), mask)[0]


def sinusoidal(t, width, period):
    i = torch.arange(width // 2)
    angle = t / period ** (2 * i / width)
    return torch.stack([angle.sin(), angle.cos()], -1).flatten(-2)


begin("attention.py")
square = [s for _ in range(4) for s in ((4, 4), (4,))]
x, p = inputs((3, 5, 4)), parameters(*square)
case("self_attention", attend(x * 3, p, 2), x, p)
hidden = torch.triu(torch.ones(5, 5, dtype=torch.bool), 1)
case("causal_attention", attend(x * 3, p, 2, attn_mask=hidden), x, p)
lengths = torch.tensor([[1], [5], [3]])
case("masked_attention", attend(x * 3, p, 4, key_padding_mask=torch.arange(5) >= lengths), x, p)
x, p = inputs((3, 2, 4), (3, 5, 3), (3, 5, 2)), parameters((4, 4), (3, 4), (2, 4), (4, 4))
case("cross_attention", attend(x, p, 2, False), x, p)
x, p = inputs((2, 4), (3, 5, 4)), parameters(*square)
case("shared_queries", attend([x[0].expand(3, 2, 4), x[1], x[1]], p, 2), x, p)
x = inputs((3, 2, 1))
case("sinusoidal", sinusoidal(x[0], 6, 100), x, [])
x = inputs((3, 2))
angle = 2 * math.pi * 0.7 * x[0] @ fixed(0, 6).reshape(2, 3)
case("fourier", torch.cat([angle.cos(), angle.sin()], -1), x, [])
end()
