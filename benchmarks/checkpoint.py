"""What a checkpoint of the CNN costs: how long the training stands still for it, and how long the file takes meanwhile. `python benchmarks/checkpoint.py [times]`"""
import statistics, sys, tempfile, time
from pathlib import Path

from cifar10_nbdev.checkpoint import Checkpointer, pack, state_of
from cifar10_nbdev.core import keep_freed_memory, limit_threads, write_atomic
from cifar10_nbdev.data import get_dls, shapes10
from cifar10_nbdev.learner import Callback
from cifar10_nbdev.model import CNN
from cifar10_nbdev.recipe import make_learner


class Clock(Callback):
    "How long another callback takes at the end of each epoch."
    order = 20
    def __init__(self, cb): self.cb, self.blocked = cb, []

    def after_epoch(self, learn):
        start = time.perf_counter()
        self.cb.after_epoch(learn)
        self.blocked.append(1e3*(time.perf_counter() - start))

    def after_fit(self, learn): self.cb.after_fit(learn)


def main(times: int = 20):
    keep_freed_memory(); limit_threads()
    with tempfile.TemporaryDirectory(dir='.') as tmp:   # a real disk, not memory
        clock = Clock(Checkpointer(Path(tmp)/'checkpoint.safetensors', {}))
        learn = make_learner(CNN(), get_dls(shapes10((1000, 1000)), 128), cbs=(clock,))
        learn.fit(times)
        copied, packed, written = [], [], []
        for _ in range(times):
            a = time.perf_counter(); tensors, info = state_of(learn)
            b = time.perf_counter(); blob = pack(tensors, info)
            c = time.perf_counter(); write_atomic(Path(tmp)/'again', blob)
            d = time.perf_counter()
            for row, seconds in ((copied, b - a), (packed, c - b), (written, d - c)): row.append(1e3*seconds)
        print(f'a file of {len(blob)/1e6:.1f} MB, n={times}, ms: median (least to most)')
        for name, row in (('training stands still', clock.blocked), ('of which copying', copied), ('meanwhile: packing, SHA-256', packed), ('meanwhile: writing, fsync', written)):
            print(f'{name}: {statistics.median(row):.0f} ({min(row):.0f} to {max(row):.0f})')


if __name__ == '__main__': main(*map(int, sys.argv[1:]))
