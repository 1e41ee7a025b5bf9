"""exchange.py FORMAT PROGRAM: arrays that another package wrote go through PROGRAM (tests/nn/exchange.c), and that package reads them
back: the same names, types, shapes and numbers. What must be refused is. FORMAT: numpy or safetensors."""
import os
import subprocess
import sys
import tempfile

import numpy as np

NAMES = ["f4", "f8", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "?"]
SHAPES = [(), (1,), (7,), (0,), (3, 4), (4, 0, 2), (2, 3, 4), (2, 1, 3, 2, 2), (1,) * 8]
program = os.path.abspath(sys.argv[2])
checks = 0


def numbers(name, shape):
    """Numbers of all bits, but no NaN."""
    rng = np.random.default_rng(len(shape) + len(name))
    dtype = np.dtype(name)
    if dtype.kind == "f":
        return np.asarray(rng.standard_normal(shape) * 10.0 ** rng.integers(-30, 30, shape), dtype)
    if dtype.kind == "b":
        return np.asarray(rng.integers(0, 2, shape), dtype)
    limits = np.iinfo(dtype)
    return np.asarray(rng.integers(limits.min, limits.max, shape, dtype, endpoint=True))


def through(source, target):
    return subprocess.run([program, source, target], capture_output=True, text=True, check=False)


def same(wanted, got, what):
    global checks
    checks += 1
    assert got.dtype == wanted.dtype.newbyteorder("="), f"{what}: {got.dtype} from {wanted.dtype}"
    assert got.shape == wanted.shape, f"{what}: {got.shape} from {wanted.shape}"
    assert np.array_equal(got, wanted), f"{what}: other numbers"


def refused(source, target, words):
    global checks
    checks += 1
    result = through(source, target)
    assert result.returncode == 1 and words in result.stderr, f"{source}: {words!r} is not in {result.stderr!r}"
    assert not os.path.exists(target), f"{target} is there"


def layouts(array):
    """The array as NumPy may keep it: either byte order, Fortran order, a view with strides."""
    yield array
    yield array.astype(array.dtype.newbyteorder(">"))
    yield np.asfortranarray(array) if array.ndim else array
    yield np.repeat(array, 2, axis=-1)[..., ::2] if array.ndim else array


def check_npy():
    for name in NAMES:
        for shape in SHAPES:
            for array in layouts(numbers(name, shape)):
                for version in [(1, 0), (2, 0), (3, 0)] if shape == (3, 4) else [(1, 0)]:
                    with open("a.npy", "wb") as file:
                        np.lib.format.write_array(file, array, version, allow_pickle=False)
                    result = through("a.npy", "b.npy")
                    assert result.returncode == 0, result.stderr
                    same(array, np.load("b.npy", allow_pickle=False), f"{name} {shape} version {version}")
    os.remove("b.npy")
    for array, words in [
        (np.array([{}, None], object), "Python objects"),
        (np.array([(1, 2.0)], [("a", "i4"), ("b", "f8")]), "records"),
        (np.array([1], "f2"), "is f16, which is read, not written"),
        (np.array([1j]), "type '<c16'"),
        (np.array(["text"]), "type '<U4'"),
        (np.array([b"text"]), "type '|S4'"),
        (np.array(["2024-01-31"], "M8[D]"), "type '<M8[D]'"),
        (np.array([1], np.longdouble), "type '<f16'"),
        (np.zeros((1,) * 9), "more than 8 sizes"),
    ]:
        np.save("a.npy", array, allow_pickle=True)
        refused("a.npy", "b.npy", words)
    with open("a.npy", "wb") as file:
        np.save(file, np.arange(3))
        np.save(file, np.arange(2))
    refused("a.npy", "b.npy", "needs 24 bytes, but")


def check_npz():
    arrays = {f"{name} {shape}": numbers(name, shape) for name in NAMES for shape in SHAPES}
    arrays["layer/weight \u00e9"] = np.asfortranarray(numbers(">f8", (30, 40)))
    for save in np.savez, np.savez_compressed:
        for target in "b.npz", "b.packed.npz":
            save("a.npz", **arrays)
            result = through("a.npz", target)
            assert result.returncode == 0, result.stderr
            with np.load(target, allow_pickle=False) as back:
                assert list(back) == list(arrays), "other names"
                for name, array in arrays.items():
                    same(array, back[name], name)
            os.remove(target)
    np.savez("a.npz", fine=np.arange(3), bad=np.array([None]))
    refused("a.npz", "b.npz", "'bad': its elements are Python objects")


def check_numpy():
    check_npy()
    check_npz()


def check_safetensors():
    from safetensors.numpy import load_file, save_file

    arrays = {f"{name} {shape}": numbers(name, shape) for name in NAMES for shape in SHAPES}
    arrays["layer.weight \u00e9"] = numbers("f8", (30, 40))
    save_file(arrays, "a.safetensors", metadata={"format": "np", "note": "ignored"})
    result = through("a.safetensors", "b.safetensors")
    assert result.returncode == 0, result.stderr
    back = load_file("b.safetensors")
    assert sorted(back) == sorted(arrays), "other names"
    for name, array in arrays.items():
        same(array, back[name], name)
    check_torch(arrays)
    weights = {"w": numbers("f4", (2, 3)), "b": numbers("f8", (3,))}
    save_file(weights, "a.model.safetensors")
    result = through("a.model.safetensors", "c.safetensors")
    assert result.returncode == 0, result.stderr
    for name, array in load_file("c.safetensors").items():
        same(weights[name].astype("f8"), array, name)
    for name, words in [("f2", "is f16, which is read, not written"), ("c8", "has dtype C64")]:
        save_file({"x": np.ones(3, name)}, "a.safetensors")
        refused("a.safetensors", "d.safetensors", words)
    save_file({"w": weights["w"]}, "a.model.safetensors")
    refused("a.model.safetensors", "d.safetensors", "the model's parameter 'b' is not in the file")


def check_torch(arrays):
    """PyTorch's reader wants aligned arrays, and there are types that its older releases do not have."""
    try:
        import torch  # noqa: F401
        from safetensors.torch import load_file
    except ImportError:
        return
    for name, array in load_file("b.safetensors").items():
        same(arrays[name], array.numpy(), f"torch: {name}")


with tempfile.TemporaryDirectory() as directory:
    os.chdir(directory)
    {"numpy": check_numpy, "safetensors": check_safetensors}[sys.argv[1]]()
    os.chdir("/")
print(f"{checks} arrays checked with {sys.argv[1]}")
