"""Where a training step's time goes, and how near it comes to what the cores can do.

    python benchmarks/step.py [--tiny]

Medians over the steps of some seconds, on shapes10 (the pixels do not matter), in the recipe's
batches, in 32 bits and, where this device computes in them, in 16. The peak is the best of twenty
products of two 2048×2048 matrices; the multiply-adds of a step are three times those of the
predictions (predictions, gradients of inputs, gradients of weights): a little too many, since a
first layer needs no gradients of its inputs.
"""
import statistics
from dataclasses import dataclass
from itertools import product

import torch

from cifar10_nbdev.data import Data, shapes10
from cifar10_nbdev.device import pick_device, prepare_cpu
from cifar10_nbdev.learner import Learner
from cifar10_nbdev.model import MODELS, layer_table, make_model
from cifar10_nbdev.recipe import Compute, make_learner, pick_dtype, recipe

from common import TINY, begin_epoch, machine, options, timed

PARTS = 'data', 'forward', 'backward', 'optimizer'
HEAD = 'network', 'precision', 'batch', *PARTS, 'images/s', 'billion multiply-adds/s', 'of the peak'


@dataclass
class Effort:
    "How much is measured."
    sizes: tuple = (10_000, 10)     # images of shapes10
    batch_size: int|None = None     # None: the recipe's
    warmup: int = 3                 # steps before those that are measured
    steps: int = 25                 # steps that are measured
    rounds: int = 2                 # alternating, since other work on the machine comes and goes
    matrix: int = 2048              # size of the matrices that are multiplied
    products: int = 20

QUICK = Effort(TINY, batch_size=20, warmup=1, steps=2, rounds=1, matrix=256, products=5)


def peak(dtype: torch.dtype, device: torch.device, effort: Effort) -> float:
    "Multiply-adds a second of a matrix product, in billions."
    n = effort.matrix
    a = torch.randn(n, n, dtype=dtype, device=device)
    return n**3/min(timed(lambda: a @ a) for _ in range(effort.products))/1e9


def time_step(learn: Learner, batches) -> dict[str, float]:
    "Seconds of each part of one step, as `Learner.one_batch` takes it."
    def data():
        learn.xb, learn.yb = next(batches)
    def forward():
        with learn.autocast():
            learn.loss = learn.loss_func(learn.model(learn.xb), learn.yb)
    def backward():
        learn.scaler.scale(learn.loss).backward()
    def optimizer():
        learn('before_batch')
        learn.scaler.step(learn.opt)
        learn.scaler.update()
        learn.opt.zero_grad()
    return {part.__name__: timed(part) for part in (data, forward, backward, optimizer)}


def row(name: str, dtype: torch.dtype, device: torch.device, data: Data,
        effort: Effort) -> list[str]:
    "A network's row of the table."
    top = peak(dtype, device, effort)
    model = make_model(name, len(data.classes), seed=0)
    learn = make_learner(model, data, recipe(name, 10, batch_size=effort.batch_size),
                         Compute(device, dtype))
    begin_epoch(learn, 10)
    batches = iter(learn.dls.train)
    steps = [time_step(learn, batches) for _ in range(effort.warmup + effort.steps)]
    parts = {part: statistics.median(s[part] for s in steps[effort.warmup:]) for part in PARTS}
    whole = sum(parts.values())
    images = learn.dls.train.batch_size/whole
    macs = 3*images*layer_table(model)[1]/1e9
    shown = [f'{1e3*t:.1f} ms ({t/whole:.0%})' for t in parts.values()]
    return [name, str(dtype).removeprefix('torch.'), f'{learn.dls.train.batch_size}', *shown,
            f'{images:.0f}', f'{macs:.1f}', f'{macs/top:.0%} of {top:.0f}']


def main():
    effort = QUICK if options(__doc__).parse_args().tiny else Effort()
    device = pick_device()
    prepare_cpu()
    data = shapes10(effort.sizes)
    dtypes = dict.fromkeys((torch.float32, pick_dtype('auto', device)))
    print(f'{machine()}\n')
    for line in (HEAD, ['---']*len(HEAD)): print('|', ' | '.join(line), '|')
    for name, dtype in [*product(MODELS, dtypes)]*effort.rounds:
        print('|', ' | '.join(row(name, dtype, device, data, effort)), '|', flush=True)


if __name__ == '__main__': main()
