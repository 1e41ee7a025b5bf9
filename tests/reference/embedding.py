"""Prints embedding.h: PyTorch's Embedding, with labels that repeat. python3 embedding.py > embedding.h"""
import torch
import torch.nn.functional as F
from digest import begin, case, end, parameters


def labels(*shape):
    n = 1
    for s in shape:
        n *= s
    return (torch.arange(n) ** 2 % 5).reshape(shape)


begin("embedding.py")
p = parameters((5, 3))
case("embedded_sequences", F.embedding(labels(3, 4), p[0]), [], p)
case("embedded_singles", F.embedding(labels(3, 1), p[0]), [], p)
case("embedded_rows", F.embedding(labels(3), p[0]), [], p)
case("embedded_images", F.embedding(labels(3, 2, 2), p[0]), [], p)
case("embedded_shared", F.embedding(labels(6), p[0]), [], p)
end()
