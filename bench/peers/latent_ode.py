#!/usr/bin/env python3
"""A training step of examples/latent_ode.c in costate, torch with torchdiffeq, and JAX with diffrax: the same weights, batch and tolerance, by turns.
build/examples/latent_ode writes weights and batch. Processor time of one thread, which counts on a machine with other work too."""
import json
import os
import re
import struct
import subprocess
import tempfile
import time

import numpy as np
import problems

# name: (width of field and decoder, units of the encoder, tolerance); the sizes of Chen et al. 2018, those of the example
CASES = {"paper": (20, 25, "1e-3"), "paper.tight": (20, 25, "1e-6"), "wide": (64, 64, "1e-3")}
options = problems.parse(__doc__, CASES)
import diffrax  # noqa: E402 (the threads must be settled before)
import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import torch  # noqa: E402
from torchdiffeq import odeint  # noqa: E402

torch.set_num_threads(options.threads)
jax.config.update("jax_platforms", "cpu")
ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..")
BATCH, SEEN, GRID, LATENT, NOISE = 100, 100, 100, 4, 0.3
TIMES = 6 * np.pi * np.arange(GRID) / 999


def costate(case, directory):
    """(median milliseconds, loss), and weights and batch in the directory."""
    width, units, tolerance = CASES[case]
    command = [os.path.join(ROOT, "build/examples/latent_ode"), "--time", "200", "--seen", str(SEEN), "--batch", str(BATCH), "--width", str(width), "--units",
               str(units), "--tolerance", tolerance, "--threads", str(options.threads), "--out", directory]
    text = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    return tuple(float(number) for number in re.search(r"^([\d.]+) ms.*loss (\S+)", text, re.M).groups())


def milliseconds(run):
    """Processor time, median."""
    times = []
    for _ in range(options.repeats):
        start = time.process_time()
        run()
        times.append((time.process_time() - start) * 1e3)
    return sorted(times)[len(times) // 2]


def read_weights(path):
    with open(path, "rb") as file:
        header = json.loads(file.read(struct.unpack("<Q", file.read(8))[0]))
        data = file.read()
    return {name: np.frombuffer(data[slice(*entry["data_offsets"])], np.float32).reshape(entry["shape"]).copy()
            for name, entry in header.items() if name != "__metadata__"}


def read_batch(path):
    numbers = np.fromfile(path).astype(np.float32)
    sequence, grid, mask = np.split(numbers, np.cumsum([BATCH * SEEN * 4, BATCH * GRID * 2]))
    draws = np.sin(np.arange(BATCH * LATENT)).astype(np.float32).reshape(BATCH, LATENT)
    return sequence.reshape(BATCH, SEEN, 4)[:, :, :3].copy(), grid.reshape(BATCH, GRID, 2), mask.reshape(BATCH, GRID, 1), draws


# ---- torch ----


class Model(torch.nn.Module):
    def __init__(self, weights, compiled):
        super().__init__()
        units = weights["encoder.hidden.weight"].shape[0]
        self.encoder = torch.nn.GRU(3, units, batch_first=True)
        self.encoder.weight_ih_l0.data = torch.tensor(weights["encoder.input.weight"].T.copy())
        self.encoder.weight_hh_l0.data = torch.tensor(weights["encoder.hidden.weight"].T.copy())
        self.encoder.bias_ih_l0.data = torch.tensor(weights["encoder.input.bias"])
        self.encoder.bias_hh_l0.data = torch.tensor(weights["encoder.hidden.bias"])

        def linear(name):
            weight = weights[name + ".weight"]
            layer = torch.nn.Linear(*weight.shape)
            layer.weight.data, layer.bias.data = torch.tensor(weight.T.copy()), torch.tensor(weights[name + ".bias"])
            return layer

        silu = torch.nn.SiLU()
        self.code = linear("code")
        self.network = torch.nn.Sequential(linear("field.0"), silu, linear("field.1"), silu, linear("field.2"))
        self.decoder = torch.nn.Sequential(linear("decoder.0"), torch.nn.ReLU(), linear("decoder.1"))
        self.field = torch.compile(self.network) if compiled else self.network

    def loss(self, batch, tolerance):
        sequence, grid, mask, draws = batch
        _, last = self.encoder(sequence.flip(1))
        mean, log_sd = self.code(last[0]).chunk(2, 1)
        z = odeint(lambda t, z: self.field(z), mean + log_sd.exp() * draws, torch.tensor(TIMES, dtype=torch.float32), rtol=tolerance, atol=tolerance,
                   method="dopri5")
        error = (grid - self.decoder(z).transpose(0, 1)) ** 2 / (2 * NOISE**2) + np.log(NOISE) + 0.5 * np.log(2 * np.pi)
        kl = 0.5 * (mean**2 + (2 * log_sd).exp() - 1) - log_sd
        return (error * mask).sum() / (2 * mask.sum()) + kl.sum(1).mean() * 0.5 / SEEN


def run_torch(weights, batch, tolerance, compiled):
    torch.compiler.reset()
    model = Model(weights, compiled)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.0)
    batch = [torch.tensor(array) for array in batch]

    def step():
        optimizer.zero_grad()
        value = model.loss(batch, tolerance)
        value.backward()
        optimizer.step()
        return value

    loss = step().item()
    return lambda: milliseconds(step), loss


# ---- JAX ----


def network(weights, name, layers, activation, x):
    for k in range(layers):
        x = x @ weights["%s.%d.weight" % (name, k)] + weights["%s.%d.bias" % (name, k)]
        x = activation(x) if k < layers - 1 else x
    return x


def jax_loss(weights, batch, tolerance):
    sequence, grid, mask, draws = batch

    def cell(h, a):
        b = h @ weights["encoder.hidden.weight"] + weights["encoder.hidden.bias"]
        (ar, az, an), (br, bz, bn) = jnp.split(a, 3, 1), jnp.split(b, 3, 1)
        r, z = jax.nn.sigmoid(ar + br), jax.nn.sigmoid(az + bz)
        n = jnp.tanh(an + r * bn)
        return (1 - z) * n + z * h, None

    inputs = sequence.transpose(1, 0, 2) @ weights["encoder.input.weight"] + weights["encoder.input.bias"]
    h, _ = jax.lax.scan(cell, jnp.zeros((BATCH, weights["encoder.hidden.weight"].shape[0])), inputs, reverse=True)
    mean, log_sd = jnp.split(h @ weights["code.weight"] + weights["code.bias"], 2, 1)
    z = diffrax.diffeqsolve(diffrax.ODETerm(lambda t, z, w: network(w, "field", 3, jax.nn.silu, z)), diffrax.Dopri5(), TIMES[0], TIMES[-1], None,
                            mean + jnp.exp(log_sd) * draws, weights, saveat=diffrax.SaveAt(ts=jnp.asarray(TIMES, jnp.float32)), max_steps=32,
                            adjoint=diffrax.RecursiveCheckpointAdjoint(checkpoints=32),
                            stepsize_controller=diffrax.PIDController(rtol=tolerance, atol=tolerance)).ys
    x = network(weights, "decoder", 2, jax.nn.relu, z).transpose(1, 0, 2)
    error = (grid - x) ** 2 / (2 * NOISE**2) + np.log(NOISE) + 0.5 * np.log(2 * np.pi)
    kl = 0.5 * (mean**2 + jnp.exp(2 * log_sd) - 1) - log_sd
    return (error * mask).sum() / (2 * mask.sum()) + kl.sum(1).mean() * 0.5 / SEEN


def run_jax(weights, batch, tolerance):
    weights = {name: jnp.asarray(array) for name, array in weights.items()}
    zeros = jax.tree.map(jnp.zeros_like, weights)
    batch = [jnp.asarray(array) for array in batch]

    @jax.jit
    def step(weights, first, second, batch):
        value, gradient = jax.value_and_grad(lambda w: jax_loss(w, batch, tolerance))(weights)
        first = jax.tree.map(lambda m, g: 0.9 * m + 0.1 * g, first, gradient)
        second = jax.tree.map(lambda v, g: 0.999 * v + 0.001 * g * g, second, gradient)
        return value, jax.tree.map(lambda p, m, v: p - 0 * m / (jnp.sqrt(v) + 1e-8), weights, first, second), first, second

    run = lambda: jax.block_until_ready(step(weights, zeros, zeros, batch))  # noqa: E731
    loss = float(run()[0])
    return lambda: milliseconds(run), loss


for case in options.case:
    with tempfile.TemporaryDirectory() as directory:
        tolerance = float(CASES[case][2])
        _, exact = costate(case, directory)
        weights, batch = read_weights(os.path.join(directory, "latent_ode.safetensors")), read_batch(os.path.join(directory, "latent_ode_batch.f64"))
        peers = {("torchdiffeq", "eager field"): run_torch(weights, batch, tolerance, False),
                 ("torchdiffeq", "compiled field"): run_torch(weights, batch, tolerance, True), ("diffrax", "checkpoints"): run_jax(weights, batch, tolerance)}
        found = {key: [] for key in [("costate", "")] + list(peers)}
        for _ in range(3):
            found["costate", ""].append(costate(case, directory)[0])
            for key, (run, _) in peers.items():
                found[key].append(run())
        for (peer, variant), times in found.items():
            loss = exact if peer == "costate" else peers[peer, variant][1]
            wrong = abs(loss - exact) / abs(exact)
            problems.line(peer, options, "latent_ode." + case, variant, min(times), wrong, wrong < 10 * tolerance)
