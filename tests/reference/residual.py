"""Prints residual.h: residual blocks by PyTorch's functions. python3 residual.py > residual.h"""
import torch.nn.functional as F
from digest import begin, case, end, inputs, parameters


def conv(x, w, stride, pad):
    """Channels last, of one or two axes."""
    f = F.conv1d if w.dim() == 3 else F.conv2d
    return f(x.movedim(-1, 1), w.movedim(-1, 0).movedim(-1, 1), None, stride, pad).movedim(1, -1)


def norm(x, groups, w, b):
    return F.group_norm(x.movedim(-1, 1), groups, w, b).movedim(1, -1)


begin("residual.py")
x, p = inputs((3, 2, 4)), parameters((4,), (4,), (4, 6), (6,), (6, 4), (4,))
y = F.silu(F.layer_norm(x[0], (4,), *p[:2]) @ p[2] + p[3])
case("residual", x[0] + y @ p[4] + p[5], x, p)

x, p = inputs((3, 3, 4, 2)), parameters((2,), (2,), (3, 3, 2, 2), (2,), (2,), (3, 3, 2, 2))
y = conv(F.silu(norm(x[0], 1, *p[:2])), p[2], 1, 1)
case("conv_residual", x[0] + conv(F.silu(norm(y, 1, *p[3:5])), p[5], 1, 1), x, p)

x, p = inputs((3, 5, 2)), parameters((2,), (2,), (3, 2, 4), (4,), (4,), (3, 4, 4), (1, 2, 4))
a = F.softplus(norm(x[0], 2, *p[:2]))
y = conv(a, p[2], 2, 1)
case("conv_residual_strided", conv(a, p[6], 2, 0) + conv(F.softplus(norm(y, 2, *p[3:5])), p[5], 1, 1), x, p)
end()
