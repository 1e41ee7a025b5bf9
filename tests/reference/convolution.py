"""Numbers of PyTorch for tests/nn/test_convolution.c: python3 convolution.py > convolution.h

For each case: output, gradients of sum(w y) by input and weight, and the gradient by input and weight
of |gradient by input|^2 + |gradient by weight|^2, each as its sum and its product with
cos(0.7 k + 0.2), k the number of the element, channels last.
"""
import torch
import torch.nn.functional as F

torch.set_default_dtype(torch.float64)


def fill(shape, a, b):
    n = 1
    for s in shape:
        n *= s
    return torch.sin(a * torch.arange(n) + b).reshape(shape)


def digest(v):
    v = v.detach().reshape(-1)
    return [float(v.sum()), float((v * torch.cos(0.7 * torch.arange(len(v)) + 0.2)).sum())]


def last(x):
    return x.movedim(-1, 1)


def kernel(w):  # [k...,i,o] -> [o,i,k...]
    return w.movedim(-1, 0).movedim(-1, 1)


def first(y):
    return y.movedim(1, -1)


def case(transposed, size, cin, cout, taps, stride, pad, dilation, groups, extra):
    axes = len(size)
    x = fill((2, *size, cin), 1.3, 0.4).requires_grad_()
    wshape = (*taps, cout // groups, cin) if transposed else (*taps, cin // groups, cout)
    w = fill(wshape, 0.9, 0.1).requires_grad_()
    b = fill((cout,), 1.1, 0.3)
    if transposed:
        f = F.conv_transpose1d if axes == 1 else F.conv_transpose2d
        y = f(last(x), kernel(w), b, stride, pad, extra, groups, dilation)
    else:
        f = F.conv1d if axes == 1 else F.conv2d
        y = f(last(x), kernel(w), b, stride, pad, dilation, groups)
    y = first(y)
    c = fill(tuple(y.shape), 0.8, 0.6)
    g = torch.autograd.grad((c * y * y).sum(), (x, w), create_graph=True)
    h = torch.autograd.grad((g[0] ** 2).sum() + (g[1] ** 2).sum(), (x, w))
    numbers = digest(y) + digest(g[0]) + digest(g[1]) + digest(h[0]) + digest(h[1])

    def two(v):
        return "{ %s }" % ", ".join(str(i) for i in (*v, 0)[:2])

    print("    { %s, %d, %s, %d, %d, %s, %s, %s, %s, %d, %s, %d, {\n      %s } }," % (
        "true" if transposed else "false", axes, two(size), cin, cout, two(taps), two(stride), two(pad),
        two(dilation), groups, two(extra), y[0].numel(), ",\n      ".join("%.17g" % v for v in numbers)))


def pooled(name, y, x):
    c = fill(tuple(y.shape), 0.8, 0.6)
    g = torch.autograd.grad((c * y * y).sum(), x)[0]
    print("static const double %s[] = { %s };" % (name, ", ".join("%.17g" % v for v in digest(y) + digest(g))))


print("/* Made by convolution.py with PyTorch %s. */" % torch.__version__.split("+")[0])
print("static const conv_case conv_cases[] = {")
for transposed in (False, True):
    for stride in (1, 2, 3):
        for dilation in (1, 2):
            for groups in (1, 2):
                for pad in (0, 1, 2):
                    e = max(stride, dilation) - 1 if transposed and pad else 0
                    case(transposed, (8,), 4, 6, (3,), (stride,), (pad,), (dilation,), groups, (e,))
    for stride, pad, dilation, groups in (((1, 1), (1, 1), (1, 1), 1), ((2, 1), (1, 2), (1, 2), 2), ((2, 3), (0, 1), (2, 1), 1),
                                          ((1, 1), (1, 0), (1, 1), 4)):
        case(transposed, (5, 6), 4, 4, (3, 2), stride, pad, dilation, groups, (0, 0))
    case(transposed, (4, 3), 16, 16, (3, 3), (1, 1), (1, 1), (1, 1), 1, (0, 0))
    case(transposed, (4, 3), 16, 16, (1, 1), (1, 1), (0, 0), (1, 1), 1, (0, 0))
    case(transposed, (6, 7), 32, 28, (3, 3), (1, 1), (1, 1), (1, 1), 1, (0, 0))
    case(transposed, (8, 7), 32, 32, (3, 3), (1, 1), (0, 2), (1, 1), 1, (0, 0))
print("};")
x = fill((2, 7, 6, 3), 1.3, 0.4).requires_grad_()
pooled("max_pooled", first(F.max_pool2d(last(x), (3, 2), (2, 1), (1, 1))), x)
pooled("average_pooled", first(F.avg_pool2d(last(x), (3, 2), (2, 1), (1, 1))), x)
pooled("adaptive_max", first(F.adaptive_max_pool2d(last(x), (3, 4))), x)
pooled("adaptive_average", first(F.adaptive_avg_pool2d(last(x), (3, 4))), x)
pooled("global_average", first(F.adaptive_avg_pool2d(last(x), (1, 1))), x)
