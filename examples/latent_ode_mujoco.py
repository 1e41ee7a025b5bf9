"""Makes the data of latent_ode_mujoco: the Hopper of dm-control, thrown with random states, after
Rubanova, Chen & Duvenaud 2019 (arXiv:1907.03907, section 5.2): 100 of 200 steps, a window at random.

usage: pip install dm-control; python latent_ode_mujoco.py FILE.npy [TRAJECTORIES]
writes [TRAJECTORIES,100,14] float32: 7 positions and 7 speeds, 5 ms apart, not scaled.
"""

import pathlib
import sys

import dm_control
import mujoco
import numpy as np

ALL, KEPT = 200, 100


def trajectory(model, data, rng):
    mujoco.mj_resetData(model, data)
    data.qpos[:2] = rng.uniform(0, 0.5, 2)
    data.qpos[2:] = rng.uniform(-2, 2, model.nq - 2)
    data.qvel[:] = rng.uniform(-5, 5, model.nv)
    mujoco.mj_forward(model, data)
    states = []
    for _ in range(ALL):
        states.append(np.concatenate([data.qpos, data.qvel]))
        mujoco.mj_step(model, data)
    first = rng.integers(0, ALL - KEPT + 1)
    return states[first : first + KEPT]


def main():
    count = int(sys.argv[2]) if len(sys.argv) > 2 else 10000
    body = pathlib.Path(dm_control.__file__).parent / "suite" / "hopper.xml"
    model = mujoco.MjModel.from_xml_path(str(body))
    data = mujoco.MjData(model)
    rng = np.random.default_rng(123)
    states = [trajectory(model, data, rng) for _ in range(count)]
    np.save(sys.argv[1], np.asarray(states, dtype=np.float32))


main()
