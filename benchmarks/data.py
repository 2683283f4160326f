"""What the data costs: first and later load, peak memory, a batch against the CNN's step. `CIFAR10_DATA=… python benchmarks/data.py`

Each load is a process of its own, with a cache folder of its own; medians of three. It fills data/ as a run does.
"""
import os, platform, statistics, subprocess, sys, tempfile, time
from pathlib import Path

import torch

from cifar10_nbdev.core import in_root, keep_freed_memory
from cifar10_nbdev.data import cifar10, channel_stats, get_dls, shapes10, split
from cifar10_nbdev.model import CNN
from cifar10_nbdev.recipe import make_learner

LOAD = '''
import resource, sys, time; from pathlib import Path
import cifar10_nbdev.data
from cifar10_nbdev.fetch import get_cifar10
start = time.perf_counter()
get_cifar10(Path(sys.argv[1]), Path(sys.argv[2]), say=lambda line: None)
print(time.perf_counter() - start, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024)'''


def load(place, cache): return tuple(map(float, subprocess.run([sys.executable, '-c', LOAD, place, cache], capture_output=True, text=True, check=True).stdout.split()))

def timed(func, n):
    def once(): start = time.perf_counter(); func(); return time.perf_counter() - start
    func()
    return statistics.median(once() for _ in range(n))

def main():
    place = in_root(os.environ.get('CIFAR10_DATA') or 'data')
    print(f'torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads; {place.name}')
    with tempfile.TemporaryDirectory() as tmp:
        runs = [(load(place, Path(tmp)/str(k)), load(place, Path(tmp)/str(k))) for k in range(3)]
        for what, at in (('first load', 0), ('later load', 1)):
            seconds, peaks = zip(*(r[at] for r in runs))
            print(f'{what}: {statistics.median(seconds):.2f} s ({min(seconds):.2f}–{max(seconds):.2f}), peak {max(peaks):.0f} MiB with torch and torchvision imported')
        data = cifar10(str(place), lambda line: None)
    keep_freed_memory()
    print(f'channel_stats: {timed(lambda: channel_stats(data.train_x), 3):.2f} s; split(5000): {timed(lambda: split(data, 5000), 3):.2f} s; '
          f'shapes10: {timed(shapes10, 3):.2f} s')
    dls, cut = get_dls(data, 256), get_dls(data, 256, cut=8)
    learn = make_learner(CNN(), dls, 2e-3, .01)
    learn.nepochs = 10
    xb, yb = next(iter(dls.train)); learn('before_epoch')
    for k in range(3):   # alternating
        batch, with_cut, step = timed(lambda: list(zip(range(40), dls.train)), 3)/40, timed(lambda: list(zip(range(40), cut.train)), 3)/40, timed(lambda: learn.one_batch(xb, yb), 15)
        print(f'batch of 256: {1e3*batch:.1f} ms, with cutout {1e3*with_cut:.1f} ms; step {1e3*step:.0f} ms; the batch is {batch/(batch + step):.2%} of both')

if __name__ == '__main__': main()
