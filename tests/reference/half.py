"""Prints half.h: what NumPy makes of every float16, and PyTorch of every bfloat16. python3 half.py > half.h"""
import numpy as np
import torch


def print_values(name, values):
    """Those of some bit patterns; and of all that are no NaN a sum of their bits (FNV-1a, 64 bits, a number at a time)."""
    total, nans = 0xCBF29CE484222325, 0
    for value, bits in zip(values, values.view(np.uint32)):
        if np.isnan(value):
            nans += 1
        else:
            total = ((total ^ int(bits)) * 0x100000001B3) % 2**64
    print(f"static const uint64_t {name}_sum = UINT64_C({total});")
    print(f"static const int {name}_nans = {nans};")
    print(f"static const half_value {name}_values[] = {{")
    for k in [0x0000, 0x8000, 0x0001, 0x8001, 0x03FF, 0x0400, 0x3555, 0x3C00, 0x3F80, 0xC000, 0x7BFF, 0x7C00, 0x7F7F, 0x7F80, 0xFC00, 0xFF80]:
        if not np.isnan(values[k]):
            print(f"    {{ 0x{k:04x}, 0x{int(values.view(np.uint32)[k]):08x} }}, /* {values[k]:.9g} */")
    print("};")


every = np.arange(65536, dtype=np.uint16)
print("/* Printed by half.py. */")
print("#include <stdint.h>")
print("typedef struct {\n    uint16_t half;\n    uint32_t f32;\n} half_value;")
with np.errstate(all="ignore"):
    print_values("f16", every.view(np.float16).astype(np.float32))
    print_values("bf16", torch.from_numpy(every.view(np.int16)).view(torch.bfloat16).to(torch.float32).numpy())
