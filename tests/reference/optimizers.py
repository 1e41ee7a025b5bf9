"""Prints optimizers.h: where PyTorch's optimisers come to in 50 steps, in float64.

    python3 optimizers.py > optimizers.h

The loss of x, of 15 numbers (a matrix w [4,3], then a vector b [3]), is the sum of
c_i (x_i - t_i)^2 / 2 + sin(x_i x_{i+1}), where the last number's neighbour is the first. Muon's
iterations are in bfloat16 in PyTorch; here they are in float64.
"""
import torch
from torch.optim import lr_scheduler as schedule

torch.set_default_dtype(torch.float64)
torch.bfloat16 = torch.float64  # for Muon
N, STEPS = 15, 50
C = torch.tensor([10.0 ** -(i % 3) for i in range(N)])
T = torch.tensor([i % 5 - 2.0 for i in range(N)])


class Lion(torch.optim.Optimizer):
    """Chen et al. 2023, algorithm 2."""

    def __init__(self, parameters, lr, betas=(0.9, 0.99), weight_decay=0.0):
        super().__init__(parameters, dict(lr=lr, betas=betas, weight_decay=weight_decay))

    @torch.no_grad()
    def step(self):
        for group in self.param_groups:
            beta1, beta2 = group["betas"]
            for p in group["params"]:
                m = self.state[p].setdefault("m", torch.zeros_like(p))
                c = beta1 * m + (1 - beta1) * p.grad
                p -= group["lr"] * (torch.sign(c) + group["weight_decay"] * p)
                m.copy_(beta2 * m + (1 - beta2) * p.grad)


class Muon:
    """Muon on the matrix, AdamW on the rest."""

    def __init__(self, parameters, **options):
        w, b = parameters
        self.both = [torch.optim.Muon([w], adjust_lr_fn="match_rms_adamw", **options),
                     torch.optim.AdamW([b], lr=options["lr"], weight_decay=options["weight_decay"])]

    def step(self):
        for one in self.both:
            one.step()


def warm_cosine(o):
    return schedule.LambdaLR(o, lambda k: (k + 1) / 10 if k < 10 else
                             0.5 * (1 + torch.cos(torch.tensor(torch.pi * (k - 10) / 40)).item()))



O = torch.optim
CASES = [
    ("sgd", lambda p: O.SGD(p, lr=0.05)),
    ("sgd_momentum", lambda p: O.SGD(p, lr=0.02, momentum=0.9)),
    ("sgd_nesterov", lambda p: O.SGD(p, lr=0.02, momentum=0.9, nesterov=True, weight_decay=0.1)),
    ("adam", lambda p: O.Adam(p, lr=0.1)),
    ("adam_decay", lambda p: O.Adam(p, lr=0.1, betas=(0.8, 0.95), eps=1e-3, weight_decay=0.2)),
    ("adamw", lambda p: O.AdamW(p, lr=0.1)),
    ("radam", lambda p: O.RAdam(p, lr=0.1)),
    ("radam_decay", lambda p: O.RAdam(p, lr=0.1, betas=(0.8, 0.9), eps=1e-4, weight_decay=0.1)),
    ("adamax", lambda p: O.Adamax(p)),
    ("adamax_decay", lambda p: O.Adamax(p, lr=0.1, betas=(0.8, 0.9), weight_decay=0.1)),
    ("rmsprop", lambda p: O.RMSprop(p, lr=0.1)),
    ("rmsprop_momentum",
     lambda p: O.RMSprop(p, lr=0.005, alpha=0.9, momentum=0.5, weight_decay=0.1)),
    ("lion", lambda p: Lion(p, lr=0.02)),
    ("lion_decay", lambda p: Lion(p, lr=0.02, betas=(0.8, 0.95), weight_decay=0.3)),
    ("muon", lambda p: Muon(p, lr=0.05, weight_decay=0.1)),
    ("groups", lambda p: O.AdamW([dict(params=p[:1], lr=0.05, weight_decay=0.2),
                                  dict(params=p[1:], lr=0.1, weight_decay=0.0)])),
    ("frozen", lambda p: O.Adam(p[1:], lr=0.1)),
    ("clip_norm", lambda p: O.Adam(p, lr=0.1)),
    ("clip_value", lambda p: O.Adam(p, lr=0.1)),
    ("schedule_step", lambda p: O.Adam(p, lr=0.1), lambda o: schedule.StepLR(o, 7, 0.5)),
    ("schedule_one_cycle", lambda p: O.Adam(p, lr=1), lambda o: schedule.OneCycleLR(
        o, max_lr=0.3, total_steps=STEPS, cycle_momentum=False)),
    ("schedule_warm_cosine", lambda p: O.Adam(p, lr=0.1), warm_cosine),
    ("schedule_plateau", lambda p: O.SGD(p, lr=0.15), lambda o: schedule.ReduceLROnPlateau(
        o, factor=0.3, patience=2, threshold=0.01, min_lr=1e-3)),
]


def run(name, make, make_schedule=None):
    start = torch.tensor([0.1 * (i + 1) * (-1) ** i for i in range(N)])
    w = start[:12].reshape(4, 3).clone().requires_grad_()
    b = start[12:].clone().requires_grad_()
    optimizer = make([w, b])
    plan = make_schedule(optimizer) if make_schedule else None
    for _ in range(STEPS):
        x = torch.cat([w.reshape(-1), b])
        loss = (C * (x - T) ** 2 / 2 + torch.sin(x * torch.roll(x, -1))).sum()
        w.grad = b.grad = None
        loss.backward()
        if name == "clip_norm":
            torch.nn.utils.clip_grad_norm_([w, b], 2.0)
        if name == "clip_value":
            torch.nn.utils.clip_grad_value_([w, b], 0.5)
        optimizer.step()
        if isinstance(plan, schedule.ReduceLROnPlateau):
            plan.step(loss.item() + 10)
        elif plan:
            plan.step()
    x = torch.cat([w.reshape(-1), b]).tolist()
    print(f"static const double {name}_50[{N}] = {{")
    for i in range(0, N, 3):
        print("    " + ", ".join(f"{v:.17g}" for v in x[i:i + 3]) + ",")
    print("};")


print("/* Made by optimizers.py with PyTorch", torch.__version__.split("+")[0] + ". */")
print("/* clang-format off */")
for case in CASES:
    run(*case)
print("/* clang-format on */")
