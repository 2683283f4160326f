"""What this library does on a GPU, all that is asked of one, in a single command of under 25
minutes. It needs a driver and torch 2.11 or newer with CUDA, neither data nor notebooks.

    python benchmarks/gpu.py [--data DIR] [--out rows.jsonl] [--only timing waits] [--tiny]

Each row is printed and written as it comes, a JSON object a line; a part that fails leaves a row
with its error, and the next one begins. Times are those of one process on one GPU, the first epoch
(which starts CUDA and chooses kernels) apart from the median of the others. Accuracies need
CIFAR-10 (--data, CIFAR10_DATA or data/): all 10,000 test images, without test-time augmentation
unless a row says tta. airbench is run as its authors do, from PyPI (pip install airbench), if it is
installed. With --tiny all of it runs on what is there, a CPU included, in seconds.
"""
import contextlib, hashlib, io, json, os, statistics, sys, tempfile, time, traceback
from collections.abc import Iterator
from importlib.util import find_spec
from itertools import product
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile

from cifar10_nbdev.checkpoint import copies, restore, state_of
from cifar10_nbdev.data import shapes10
from cifar10_nbdev.device import device_name, gpu_facts, pick_device, prepare_cpu
from cifar10_nbdev.learner import Callback, FiniteLoss
from cifar10_nbdev.model import MODELS, layer_table, make_model
from cifar10_nbdev.recipe import Compute, make_learner, pick_dtype, recipe

import example
from common import TINY, begin_epoch, options, timed, tta_accuracy, wait

# what is trained on CIFAR-10: 85.6, 90 and 94 percent, and the CNN's own 40 epochs
TARGETS = ('fast', 2), ('fast', 6), ('cnn', 2), ('cnn', 10), ('cnn', 40), ('deep', 28)


class Bench:
    "What all parts work with."
    def __init__(self, tiny: bool, place: str|None):
        self.tiny, self.place = tiny, place
        self.device = pick_device()
        self.precisions = ['bfloat16', 'float32']
        if self.device.type == 'cpu': prepare_cpu()
        else: self.precisions.append('float16')   # on a CPU it takes minutes
        self.drawn = shapes10(TINY if tiny else (50_000, 10_000))
        self.batch_size = 20 if tiny else None
        self.networks = ['fast'] if tiny else list(MODELS)

    def learner(self, name: str, precision: str = 'auto', data=None, nepochs: int = 10,
                seed: int = 0, **compute):
        "A learner as a run has it, without its files."
        dtype = pick_dtype(precision, self.device)
        data = data or self.drawn
        model = make_model(name, len(data.classes), seed)
        return make_learner(model, data, recipe(name, nepochs, batch_size=self.batch_size),
                            Compute(self.device, dtype, seed, **compute), (FiniteLoss(),))

    def cifar10(self):
        "The real data, or None if it is not here."
        from cifar10_nbdev.cifar10 import named_place, on_disk
        from cifar10_nbdev.archive import read_cifar10
        from cifar10_nbdev.core import in_root
        if self.tiny: return self.drawn
        place, data = on_disk(named_place(self.place), in_root('data'))
        return data or (read_cifar10(place) if place else None)


def doctor(bench: Bench) -> Iterator[dict]:
    "The machine."
    yield dict(device=str(bench.device), name=device_name(bench.device), torch=torch.__version__,
               cuda=torch.version.cuda, cores=os.cpu_count(), gpu=gpu_facts(bench.device),
               float32_matmul=torch.get_float32_matmul_precision())


def peak(bench: Bench, dtype: torch.dtype) -> float:
    "10¹² operations a second of a product of large matrices, at best."
    n = 256 if bench.tiny else 8192
    a = torch.randn(n, n, device=bench.device).to(dtype)
    def product():
        for _ in range(4): a @ a
    return 4*2*n**3/min(timed(product) for _ in range(6))/1e12


def timing(bench: Bench) -> Iterator[dict]:
    "An epoch of each network in each precision, with an evaluation."
    peaks = {p: peak(bench, getattr(torch, p)) for p in bench.precisions}
    for name, precision in product(bench.networks, bench.precisions):
        learn = bench.learner(name, precision)
        learn.fit(2 if bench.tiny else 5)
        first, *others = (row['seconds'] for row in learn.history)
        usual, macs = statistics.median(others), layer_table(learn.model)[1]
        tflops = 6*macs*len(learn.dls.train.x)/usual/1e12
        yield dict(network=name, precision=precision, first=first, epoch=usual,
                   least=min(others), most=max(others), n=len(others), tflops=tflops,
                   of_peak=tflops/peaks[precision], peak_tflops=peaks[precision],
                   gpu=gpu_facts(bench.device))


def waits(bench: Bench) -> Iterator[dict]:
    "Whether Python waits for the GPU in a step."
    for name, precision in product(bench.networks, bench.precisions):
        learn = bench.learner(name, precision)
        begin_epoch(learn, 10)
        batches = iter(learn.dls.train)
        learn.one_batch(*next(batches))
        on_gpu = bench.device.type == 'cuda'
        if on_gpu: torch.cuda.set_sync_debug_mode('error')
        try:
            for _ in range(3 if bench.tiny else 20): learn.one_batch(*next(batches))
            yield dict(network=name, precision=precision, waits=0 if on_gpu else None)
        except RuntimeError as e: yield dict(network=name, precision=precision, waits=str(e)[:300])
        finally:
            if on_gpu: torch.cuda.set_sync_debug_mode('default')


def digest(learn) -> str:
    "The first digits of the weights' SHA-256."
    state = copies(learn.model.state_dict())
    return hashlib.sha256(b''.join(t.numpy().tobytes() for t in state.values())).hexdigest()[:12]


class Keep(Callback):
    "Keeps what a checkpoint would have after the first epoch."
    order = 5
    def after_epoch(self, learn):
        if learn.epoch == 1: self.state = state_of(learn)


def repeats(bench: Bench) -> Iterator[dict]:
    "The same seed twice, and once with an interruption after the first epoch."
    for name, precision in product(bench.networks, dict.fromkeys(('auto', 'float32'))):
        keep, digests = Keep(), []
        for _ in range(2):
            learn = bench.learner(name, precision, nepochs=2)
            learn.cbs.append(keep)
            learn.fit(2)
            digests.append(digest(learn))
        resumed = bench.learner(name, precision, nepochs=2)
        restore(resumed, *keep.state)
        resumed.fit(2)
        yield dict(network=name, precision=precision, weights=digests[0],
                   same_again=digests[1] == digests[0], same_resumed=digest(resumed) == digests[0])


def phases(bench: Bench) -> Iterator[dict]:
    "Kernels of a step, and the milliseconds of each part of it when the device is waited for."
    activities = [ProfilerActivity.CPU]
    if bench.device.type == 'cuda': activities.append(ProfilerActivity.CUDA)
    n = 2 if bench.tiny else 16
    for name in bench.networks:
        learn = bench.learner(name)
        begin_epoch(learn, 10)
        batches = iter(learn.dls.train)
        for _ in range(2): learn.one_batch(*next(batches))
        wait()
        with profile(activities=activities) as seen:
            for _ in range(n): learn.one_batch(*next(batches))
            wait()
        kinds = [e.device_type for e in seen.events()]
        kernels = sum(k == torch.autograd.DeviceType.CUDA for k in kinds)
        parts = {'data': [], 'forward': [], 'backward': [], 'optimizer': []}
        for _ in range(n):
            def data(): learn.xb, learn.yb = next(batches)
            def forward():
                with learn.autocast(): learn.loss = learn.loss_func(learn.model(learn.xb), learn.yb)
            def backward(): learn.scaler.scale(learn.loss).backward()
            def optimizer():
                learn.scaler.step(learn.opt)
                learn.scaler.update()
                learn.opt.zero_grad()
            try:
                for part in (data, forward, backward, optimizer):
                    parts[part.__name__].append(1e3*timed(part))
            except StopIteration: break
        median = {k: statistics.median(v) for k, v in parts.items() if v}
        yield dict(network=name, kernels_a_step=kernels/n, operations_a_step=len(kinds)/n,
                   milliseconds=median)


def switches(bench: Bench) -> Iterator[dict]:
    "What torch's switches change in an epoch."
    cudnn = torch.backends.cudnn
    def plain(): pass
    def autotune(): cudnn.benchmark = True
    def nondeterministic(): cudnn.deterministic = False
    def both(): cudnn.benchmark, cudnn.deterministic = True, False
    def no_tf32(): torch.set_float32_matmul_precision('highest')
    for name, switch in product(bench.networks, (plain, autotune, nondeterministic, both)):
        yield switched(bench, name, switch)
    for switch in (plain, no_tf32): yield switched(bench, 'fast', switch, precision='float32')
    if bench.tiny: return
    for name in bench.networks: yield switched(bench, name, plain, compile=True)


def switched(bench: Bench, name: str, switch, precision: str = 'auto', **compute) -> dict:
    "An epoch after a switch was set, which making a learner would reset."
    learn = bench.learner(name, precision, **compute)
    switch()
    learn.fit(2 if bench.tiny else 4)
    times = [row['seconds'] for row in learn.history[1:]]
    return dict(network=name, precision=precision, switch=switch.__name__, **compute,
                first=learn.history[0]['seconds'], epoch=statistics.median(times))


def accuracy(bench: Bench) -> Iterator[dict]:
    "Trainings on CIFAR-10, from the data on the host to the evaluated network."
    data = bench.cifar10()
    if data is None: return (yield dict(skipped='CIFAR-10 is not here: name it by --data'))
    bench.learner('fast', data=data).fit(1)   # CUDA is started before the first clock
    for name, nepochs in TARGETS[:1 if bench.tiny else None]:
        nepochs = 1 if bench.tiny else nepochs
        start = time.perf_counter()
        learn = bench.learner(name, data=data, nepochs=nepochs)
        learn.eval_set = None
        learn.fit(nepochs)
        _, right = learn.evaluate(learn.dls.test)
        seconds = time.perf_counter() - start
        yield dict(network=name, epochs=nepochs, seconds=seconds, accuracy=right,
                   tta=tta_accuracy(learn, learn.dls.test), n=1,
                   training_seconds=sum(row['seconds'] for row in learn.history))


def peers(bench: Bench) -> Iterator[dict]:
    "The example that this project succeeds, on the same device; airbench, if it is installed."
    data = bench.cifar10() or bench.drawn
    for _ in range(1 if bench.tiny else 2):
        yield dict(peer='example', what='one epoch, by its own recipe',
                   seconds=example.epoch(data, device=bench.device))
    if bench.tiny or not find_spec('airbench'):
        return (yield dict(peer='airbench', skipped='not installed'))
    import airbench
    with tempfile.TemporaryDirectory() as tmp, contextlib.chdir(tmp):   # its files, in its format
        Path('cifar10').mkdir()
        for part in ('train', 'test'):
            x, y = getattr(data, f'{part}_x'), getattr(data, f'{part}_y')
            images = x.permute(0, 2, 3, 1).contiguous()
            torch.save(dict(images=images, labels=y, classes=data.classes), f'cifar10/{part}.pt')
        for run in ('warm-up', 1, 2, 3):
            printed = io.StringIO()
            with contextlib.redirect_stdout(printed):
                seconds = timed(airbench.warmup94 if run == 'warm-up' else airbench.train94)
            yield dict(peer='airbench94', run=run, wall_seconds=seconds,
                       says=printed.getvalue().strip().splitlines()[-3:])


PARTS = (doctor, waits, timing, phases, repeats, accuracy, peers, switches)


def main():
    parser = options(__doc__)
    parser.add_argument('--data', help='the folder or archive that holds CIFAR-10')
    parser.add_argument('--out', help='a file, to which rows are added; default: they are printed')
    parser.add_argument('--only', nargs='+', choices=[part.__name__ for part in PARTS])
    parser.add_argument('--minutes', type=float, default=25,
                        help='no part begins after so many')
    args = parser.parse_args()
    start, failed = time.monotonic(), 0
    bench = Bench(args.tiny, args.data)
    def tell(row):
        line = json.dumps(row)
        print(line, flush=True)
        if args.out:
            with open(args.out, 'a') as f: f.write(line + '\n')
    for part in PARTS:
        name, minutes = part.__name__, (time.monotonic() - start)/60
        if args.only and name not in args.only: continue
        if minutes > args.minutes:
            tell(dict(part=name, skipped=f'{minutes:.0f} minutes have passed'))
            continue
        try:
            for row in part(bench): tell(dict(part=name) | row)
        except Exception as e:   # the others may still work
            failed += 1
            traceback.print_exc()
            tell(dict(part=name, error=f'{type(e).__name__}: {str(e)[:500]}'))
    sys.exit(failed > 0)


if __name__ == '__main__': main()
