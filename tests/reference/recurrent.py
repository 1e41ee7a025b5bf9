"""Prints recurrent.h: PyTorch's GRU and LSTM, and GRU-D by the equations of its paper.
python3 recurrent.py > recurrent.h

Results are the states after every step, then those after the last one."""
import torch
from torch.func import functional_call
from digest import begin, case, end, fixed, inputs, parameters

R, T, I, W = 3, 4, 2, 3
LENGTHS = [1, 4, 2]
MASK = [[1, 0, 1, 1], [0, 0, 0, 1], [0, 1, 1, 0]]


def layer_of(kind, p):
    layer = (torch.nn.GRU if kind == "gru" else torch.nn.LSTM)(I, W, batch_first=True)
    own = {"weight_ih_l0": p[0].T, "bias_ih_l0": p[1], "weight_hh_l0": p[2].T, "bias_hh_l0": p[3]}
    return lambda x, s: functional_call(layer, own, (x, s if kind == "lstm" else s[0]))


def sequence(kind, x, p, first, reverse=False, lengths=None, mask=None):
    """Row by row, of each the steps that it has."""
    layer, rows = layer_of(kind, p), []
    for r in range(R):
        steps = list(range(lengths[r] if lengths else T))
        h = [f[r:r + 1].unsqueeze(0) for f in first]
        out = [torch.zeros(W) for _ in range(T)]
        for k in reversed(steps) if reverse else steps:
            if mask is None or mask[r][k]:
                _, h = layer(x[r:r + 1, k:k + 1], tuple(h))
                h = list(h) if kind == "lstm" else [h]
            out[k] = h[0][0, 0]
        rows.append(torch.stack(out + [s[0, 0] for s in h]))
    return torch.stack(rows)


def gru_d(x, m, t, p, mean, reverse=False, lengths=None):
    """Equations 10 to 17."""
    w, b, s, decay, decay_bias, u, v = p
    rows = []
    for r in range(R):
        steps = list(range(lengths[r] if lengths else T))
        h, last, since, before = torch.zeros(W), mean, torch.zeros(I), None
        out = [torch.zeros(W) for _ in range(T)]
        for k in reversed(steps) if reverse else steps:
            if before is not None:
                since = (t[r, k] - t[r, before]).abs() + torch.where(m[r, before] != 0, 0, since)
            before = k
            g = torch.exp(-torch.relu(since * u + v))
            value = m[r, k] * x[r, k] + (1 - m[r, k]) * (g * last + (1 - g) * mean)
            last = torch.where(m[r, k] != 0, x[r, k], last)
            h = torch.exp(-torch.relu(since @ decay + decay_bias)) * h
            a = torch.cat([value, m[r, k]]) @ w + b
            reset = torch.sigmoid(a[:W] + h @ s[:, :W])
            z = torch.sigmoid(a[W:2 * W] + h @ s[:, W:2 * W])
            new = torch.tanh(a[2 * W:] + (reset * h) @ s[:, 2 * W:])
            h = (1 - z) * h + z * new
            out[k] = h
        rows.append(torch.stack(out + [h]))
    return torch.stack(rows)


begin("recurrent.py")
for kind, gates, states in (("gru", 3, 1), ("lstm", 4, 2)):
    shapes = (I, gates * W), (gates * W,), (W, gates * W), (gates * W,)
    zeros = [torch.zeros(R, W)] * states
    x, p = inputs((R, T, I)), parameters(*shapes)
    case(kind + "_plain", sequence(kind, x[0], p, zeros), x, p)
    whole, _ = layer_of(kind, p)(x[0], [z.unsqueeze(0) for z in zeros])
    assert torch.allclose(whole, sequence(kind, x[0], p, zeros)[:, :T], rtol=1e-14)
    case(kind + "_reverse", sequence(kind, x[0], p, zeros, True), x, p)
    case(kind + "_lengths", sequence(kind, x[0], p, zeros, False, LENGTHS), x, p)
    case(kind + "_both", sequence(kind, x[0], p, zeros, True, LENGTHS), x, p)
    case(kind + "_masked", sequence(kind, x[0], p, zeros, mask=MASK), x, p)
    x, p = inputs((R, T, I), *[(R, W)] * states), parameters(*shapes)
    case(kind + "_first", sequence(kind, x[0], p, x[1:]), x, p)
x, p = inputs((R, T, I)), parameters((2 * I, 3 * W), (3 * W,), (W, 3 * W), (I, W), (W,), (I,), (I,))
observed = (torch.arange(R * T * I) ** 2 % 3 != 1).double().reshape(R, T, I)
times = (torch.arange(R * T) * 0.3 + torch.arange(R * T) % 3 * 0.05).reshape(R, T, 1)
case("gru_d_plain", gru_d(x[0], observed, times, p, fixed(0, I)), x, p)
case("gru_d_both", gru_d(x[0], observed, times, p, fixed(0, I), True, LENGTHS), x, p)
end()
