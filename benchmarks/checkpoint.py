"""What a checkpoint of the CNN costs: how long the training stands still for it, and how long
writing the file takes meanwhile, in another thread.

    python benchmarks/checkpoint.py [times] [--tiny]
"""
import tempfile, time
from functools import partial
from pathlib import Path

from cifar10_nbdev.checkpoint import Checkpointer, pack, state_of
from cifar10_nbdev.core import write_atomic
from cifar10_nbdev.data import shapes10
from cifar10_nbdev.device import prepare_cpu
from cifar10_nbdev.learner import Callback, Learner
from cifar10_nbdev.model import make_model
from cifar10_nbdev.recipe import make_learner

from common import TINY, options, spread, timed


class Clock(Callback):
    "Measures how long another callback takes at the end of each epoch."
    order = 20
    def __init__(self, cb: Callback):
        self.cb = cb
        self.seconds = []

    def after_epoch(self, learn: Learner):
        "Call it, and note the seconds."
        self.seconds.append(timed(lambda: self.cb.after_epoch(learn)))

    def after_fit(self, learn: Learner):
        "Call it."
        self.cb.after_fit(learn)


def one_checkpoint(learn: Learner, path: Path) -> tuple[dict, int]:
    "Seconds of each part of a checkpoint, and the bytes of its file."
    times = [time.perf_counter()]
    tensors, info = state_of(learn)
    times.append(time.perf_counter())
    blob = pack(tensors, info)
    times.append(time.perf_counter())
    write_atomic(path, blob)
    times.append(time.perf_counter())
    parts = 'of which copying', 'meanwhile: packing, SHA-256', 'meanwhile: writing, fsync'
    return {part: b - a for part, a, b in zip(parts, times, times[1:])}, len(blob)


def main():
    parser = options(__doc__)
    parser.add_argument('times', type=int, nargs='?', help='epochs, and checkpoints; default: 20')
    args = parser.parse_args()
    times = args.times or (3 if args.tiny else 20)
    prepare_cpu()
    with tempfile.TemporaryDirectory(dir='.') as tmp:   # on a real disk, not in memory
        write = partial(write_atomic, Path(tmp)/'checkpoint.safetensors')
        clock = Clock(Checkpointer(write, dict))
        data = shapes10(TINY if args.tiny else (1000, 1000))
        learn = make_learner(make_model('cnn', seed=0), data, cbs=(clock,))
        learn.eval_set = None
        learn.fit(times)
        parts, sizes = zip(*(one_checkpoint(learn, Path(tmp)/'again') for _ in range(times)))
    print(f'a file of {sizes[-1]/1e6:.1f} MB, n={times}, ms: median (least to most)')
    columns = {'training stands still': clock.seconds}
    columns |= {name: [row[name] for row in parts] for name in parts[0]}
    for name, seconds in columns.items(): print(f'{name}: {spread(1e3*s for s in seconds)}')


if __name__ == '__main__': main()
