"""Prints normalise.h: PyTorch's normalisations. python3 normalise.py > normalise.h"""
import torch.nn.functional as F
from digest import begin, case, declare, end, fixed, inputs, parameters


def last(x):
    return x.movedim(-1, 1)


def first(y):
    return y.movedim(1, -1)


begin("normalise.py")
x, p = inputs((3, 5, 4)), parameters((4,), (4,))
case("layer_norm", F.layer_norm(x[0], (4,), *p), x, p)
x, p = inputs((3, 2, 3)), parameters((2, 3))
case("layer_norm_two_axes", F.layer_norm(x[0], (2, 3), p[0], None, 1e-3), x, p)
x, p = inputs((3, 2, 3, 4)), parameters((4,), (4,))
case("group_norm", first(F.group_norm(last(x[0]), 2, *p)), x, p)
x, p = inputs((3, 6)), parameters((6,), (6,))
case("group_norm_flat", F.group_norm(x[0], 3, *p), x, p)
x, p = inputs((3, 5, 2)), []
case("instance_norm", first(F.instance_norm(last(x[0]))), x, p)
x, p = inputs((3, 2, 3, 2)), parameters((2,), (2,))
case("batch_norm", first(F.batch_norm(last(x[0]), None, None, *p, True)), x, p)
x, p = inputs((3, 4)), parameters((4,), (4,))
case("batch_norm_flat", F.batch_norm(x[0], None, None, *p, True), x, p)
x, p = inputs((3, 5, 2)), parameters((2,), (2,))
mean, variance = fixed(0, 2), fixed(1, 2)
case("batch_norm_fixed", first(F.batch_norm(last(x[0]), mean, variance, *p, False)), x, p)
F.batch_norm(last(x[0]), mean, variance, *p, True, 0.3)
declare("batch_norm_running", mean.tolist() + variance.tolist())
end()
