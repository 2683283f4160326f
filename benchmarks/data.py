"""What the data costs: the first and later loads, peak memory, and a batch beside the CNN's step.

    CIFAR10_DATA=… python benchmarks/data.py [--tiny]

Each load is a process of its own, with a cache folder of its own; medians of three. Like a run, it
fills data/. With --tiny, it loads a small tree of drawn shapes instead, once.
"""
import os, tempfile
from functools import partial
from itertools import islice
from pathlib import Path

from cifar10_nbdev.archive import OFFICIAL
from cifar10_nbdev.augment import Augment, get_dls
from cifar10_nbdev.cifar10 import load_cifar
from cifar10_nbdev.core import in_root
from cifar10_nbdev.data import Batches, Data, channel_stats, shapes10, split
from cifar10_nbdev.device import prepare_cpu
from cifar10_nbdev.model import make_model
from cifar10_nbdev.recipe import Recipe, make_learner

from common import (TINY, begin_epoch, last_line, machine, median_seconds, options, run_script,
                    say_nothing, spread, tiny_cifar10, write_tree)

# a program of its own that imports no more than it needs, since its peak memory is measured
LOAD = '''
import resource, sys, time
from dataclasses import replace
from pathlib import Path
from cifar10_nbdev.archive import OFFICIAL
from cifar10_nbdev.cifar10 import get_cifar

place, cache, *sizes = sys.argv[1:]
release = replace(OFFICIAL, sizes=tuple(map(int, sizes)))
start = time.perf_counter()
get_cifar(Path(place), Path(cache), lambda line: None, release)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)
'''


def load(place: Path, cache: Path, sizes: tuple[int, int]) -> tuple[float, float]:
    "Seconds and peak MiB of a load in a process of its own."
    seconds, peak = last_line(run_script('-c', LOAD, place, cache, *sizes)).split()
    return float(seconds), float(peak)


def time_loads(place: Path, sizes: tuple[int, int], rounds: int):
    "Print what loading takes without and with a decoded copy."
    with tempfile.TemporaryDirectory() as tmp:
        loads = dict(first=[], later=[])
        for k in range(rounds):
            for rows in loads.values(): rows.append(load(place, Path(tmp)/str(k), sizes))
    for which, rows in loads.items():
        seconds, peaks = zip(*rows)
        print(f'{which} load: {spread(seconds, digits=2)} s, peak {max(peaks):.0f} MiB '
              'with torch and torchvision imported')


def time_preparation(data: Data, valid_size: int, sizes: tuple[int, int]):
    "Print what happens once, before a training."
    stats = median_seconds(lambda: channel_stats(data.train_x), 3)
    splitting = median_seconds(lambda: split(data, valid_size), 3)
    drawing = median_seconds(lambda: shapes10(sizes), 3)
    print(f'channel_stats: {stats:.3f} s; split({valid_size}): {splitting:.3f} s; '
          f'shapes10: {drawing:.2f} s')


def go_through(batches: Batches, n: int):
    "Make the first `n` batches."
    for _ in islice(batches, n): pass


def time_batches(data: Data, batch_size: int, n: int, rounds: int):
    "Print what a batch takes beside a step on it, means over `n` batches, alternating."
    learn = make_learner(make_model('cnn', seed=0), data, Recipe(batch_size=batch_size))
    with_cutout = get_dls(data, batch_size, augment=Augment(cutout=8)).train
    begin_epoch(learn, 10)
    xb, yb = next(iter(learn.dls.train))
    for _ in range(rounds):
        batch, cutout = (median_seconds(partial(go_through, batches, n), 3)/n
                         for batches in (learn.dls.train, with_cutout))
        step = median_seconds(lambda: learn.one_batch(xb, yb), 5*rounds)
        print(f'batch of {batch_size}: {1e3*batch:.2f} ms, with cutout {1e3*cutout:.2f} ms; '
              f'step {1e3*step:.1f} ms; the batch is {batch/(batch + step):.2%} of both',
              flush=True)


def main():
    tiny = options(__doc__).parse_args().tiny
    prepare_cpu()
    place = in_root(os.environ.get('CIFAR10_DATA') or 'data')
    with tempfile.TemporaryDirectory() as tmp:
        if tiny:
            data, place = tiny_cifar10(), Path(tmp)/'cifar10'
            write_tree(data, place)
        print(f'{machine()}; {place.name}', flush=True)
        time_loads(place, TINY if tiny else OFFICIAL.sizes, rounds=1 if tiny else 3)
    if tiny:
        time_preparation(data, valid_size=50, sizes=TINY)
        return time_batches(data, batch_size=20, n=10, rounds=1)
    data = load_cifar(str(place), say_nothing)
    time_preparation(data, valid_size=5000, sizes=(10_000, 1_000))
    time_batches(data, batch_size=256, n=40, rounds=3)


if __name__ == '__main__': main()
