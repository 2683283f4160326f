"""Where a training step's time goes, and how near it comes to what the cores can do. `python benchmarks/step.py`

Medians over the steps of some seconds, on shapes10 (the pixels do not matter), in the recipe's batches, in 32 bits and, where this CPU computes in them, in 16. The peak is the best of twenty products of two 2048×2048 matrices; the multiply-adds of a step are three times those of
the answers (answers, gradients of inputs, gradients of weights): a little too many, since a first layer needs no gradients of its inputs.
"""
import platform, statistics, time

import torch

from cifar10_nbdev.core import keep_freed_memory, limit_threads
from cifar10_nbdev.data import get_dls, shapes10
from cifar10_nbdev.model import layer_table, make_model
from cifar10_nbdev.recipe import make_learner, pick_dtype, recipe


def peak(dtype: torch.dtype) -> float:
    "Multiply-adds a second of a matrix product, in billions."
    a = torch.randn(2048, 2048, dtype=dtype)
    return 2048**3/min(timed(lambda: a @ a) for _ in range(20))/1e9


def timed(func) -> float:
    "Seconds."
    start = time.perf_counter()
    func()
    return time.perf_counter() - start


def step_times(name: str, dtype: torch.dtype, data, n: int = 25) -> dict:
    "Median seconds of a step's parts."
    r = recipe(name, 10)
    dls = get_dls(data, r.batch_size, 'cpu', cut=r.cutout, shift=r.shift, mix=r.cutmix)
    learn = make_learner(make_model(name), dls, r, dtype=dtype)
    learn.nepochs = 10
    batches, rows = iter(dls.train), []
    for _ in range(n + 3):
        row = {}
        def batch(): row['xb'], row['yb'] = next(batches)
        row['data'] = timed(batch)
        def forward():
            with learn.autocast(): row['loss'] = learn.loss_func(learn.model(row['xb']), row['yb'])
        row['forward'] = timed(forward)
        row['backward'] = timed(row['loss'].backward)
        def update(): learn('before_batch'); learn.opt.step(); learn.opt.zero_grad()
        row['optimiser'] = timed(update)
        rows.append(row)
    parts = {k: statistics.median(row[k] for row in rows[3:]) for k in ('data', 'forward', 'backward', 'optimiser')}
    return dict(parts, batch_size=r.batch_size, macs=layer_table(learn.model)[1])


def main():
    keep_freed_memory(); limit_threads()
    data = shapes10((10_000, 10))
    print(f'torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads\n')
    print('| network | precision | batch | data | forward | backward | optimiser | images/s | billion multiply-adds/s | of the peak |\n|---|---|---|---|---|---|---|---|---|---|')
    dtypes = dict.fromkeys((torch.float32, pick_dtype('auto', torch.device('cpu'))))
    for name, dtype in [(n, d) for n in ('cnn', 'fast', 'deep') for d in dtypes]*2:   # alternating, since other work on the machine comes and goes
        top, t = peak(dtype), step_times(name, dtype, data)
        whole = sum(t[k] for k in ('data', 'forward', 'backward', 'optimiser'))
        speed = t['batch_size']/whole
        print(f"| {name} | {str(dtype).removeprefix('torch.')} | {t['batch_size']} | " + ' | '.join(f'{1e3*t[k]:.1f} ms ({t[k]/whole:.0%})' for k in ('data', 'forward', 'backward', 'optimiser')) +
              f" | {speed:.0f} | {3*speed*t['macs']/1e9:.1f} | {3*speed*t['macs']/1e9/top:.0%} of {top:.0f} |", flush=True)


if __name__ == '__main__': main()
