"""What this library does on a GPU, all that is asked of one, in a single command of about 25
minutes. It needs a driver and torch 2.11 or newer with CUDA, neither data nor notebooks.

    python benchmarks/gpu.py [--data DIR] [--out rows.jsonl] [--only timing waits] [--tiny]

Each row is printed and written as it comes, a JSON object a line; what fails leaves a row with its
error, and the next one begins. Times are those of one process on one GPU, the first epoch (in which
kernels are loaded) apart from the median of the others. Accuracies need CIFAR-10 (--data,
CIFAR10_DATA or data/): all 10,000 test images, without test-time augmentation unless a row says
tta. The peers get torch's own switches, as in a process of theirs; airbench comes from PyPI (pip
install airbench), if it is installed. With --tiny all runs on what is there, a CPU included.
"""
import hashlib, io, json, os, statistics, sys, tempfile, time, traceback
from contextlib import chdir, contextmanager, redirect_stdout
from functools import cached_property
from importlib.util import find_spec
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
from common import TINY, begin_epoch, options, timed, tta_accuracy, wait, write_airbench

# what is trained on CIFAR-10: 85.6, 90 and 94 percent, and the CNN's own 40 epochs
TARGETS = ('fast', 2), ('fast', 6), ('cnn', 2), ('cnn', 10), ('cnn', 40), ('deep', 16)


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
        self.learner('fast')   # which sets torch's switches as in a run

    def learner(self, name: str, precision: str = 'auto', data=None, nepochs: int = 10,
                seed: int = 0, **compute):
        "A learner as a run has it, without its files."
        if self.device.type == 'cuda': torch.cuda.reset_peak_memory_stats()
        dtype = pick_dtype(precision, self.device)
        data = data or self.drawn
        model = make_model(name, len(data.classes), seed)
        return make_learner(model, data, recipe(name, nepochs, batch_size=self.batch_size),
                            Compute(self.device, dtype, seed, **compute), (FiniteLoss(),))

    @cached_property
    def cifar10(self):
        "The real data, or None if it is not here."
        from cifar10_nbdev.archive import read_cifar
        from cifar10_nbdev.cifar10 import named_place, on_disk
        from cifar10_nbdev.core import in_root
        if self.tiny: return self.drawn
        place, data = on_disk(named_place(self.place), in_root('data'))
        return data or (read_cifar(place) if place else None)

    @cached_property
    def peaks(self):
        "10¹² operations a second of a product of large matrices, at best, by precision."
        n = 256 if self.tiny else 8192
        def peak(dtype):
            a = torch.randn(n, n, device=self.device).to(dtype)
            def products():
                for _ in range(4): a @ a
            return 4*2*n**3/min(timed(products) for _ in range(6))/1e12
        return {p: peak(getattr(torch, p)) for p in self.precisions}


@contextmanager
def switched(benchmark: bool, deterministic: bool, tf32: bool):
    "torch's switches, inside."
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32
    products = torch.get_float32_matmul_precision()
    cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = benchmark, deterministic, tf32
    torch.set_float32_matmul_precision('high' if tf32 else 'highest')
    try: yield
    finally:
        cudnn.benchmark, cudnn.deterministic, cudnn.allow_tf32 = before
        torch.set_float32_matmul_precision(products)


# Each part is a function of one setting, and its settings.

def doctor(bench: Bench) -> dict:
    "The machine, with torch's switches as in a run."
    return dict(device=str(bench.device), name=device_name(bench.device), torch=torch.__version__,
                cuda=torch.version.cuda, cores=os.cpu_count(), gpu=gpu_facts(bench.device))


def waits(bench: Bench, name: str, precision: str) -> dict:
    "Whether Python waits for the GPU in a step."
    learn = bench.learner(name, precision)
    begin_epoch(learn, 10)
    batches = iter(learn.dls.train)
    learn.one_batch(*next(batches))
    if bench.device.type != 'cuda': return dict(waits=None)
    torch.cuda.set_sync_debug_mode('error')
    try:
        for _ in range(20): learn.one_batch(*next(batches))
    finally: torch.cuda.set_sync_debug_mode('default')
    return dict(waits=0)


def timing(bench: Bench, name: str, precision: str) -> dict:
    "An epoch with its evaluation."
    learn, top = bench.learner(name, precision), bench.peaks[precision]
    learn.fit(2 if bench.tiny else 5)
    first, *others = (row['seconds'] for row in learn.history)
    usual, macs = statistics.median(others), layer_table(learn.model)[1]
    tflops = 6*macs*len(learn.dls.train.x)/usual/1e12   # of training
    return dict(first=first, epoch=usual, least=min(others), most=max(others), n=len(others),
                tflops=tflops, of_peak=tflops/top, peak_tflops=top, gpu=gpu_facts(bench.device))


def phases(bench: Bench, name: str) -> dict:
    "Kernels of a step, and the milliseconds of each part of it when the device is waited for."
    activities = [ProfilerActivity.CPU]
    if bench.device.type == 'cuda': activities.append(ProfilerActivity.CUDA)
    learn, n = bench.learner(name), 2 if bench.tiny else 32   # 16 batches are made at once
    begin_epoch(learn, 10)
    batches = iter(learn.dls.train)
    for _ in range(2): learn.one_batch(*next(batches))
    wait()
    with profile(activities=activities) as seen:
        for _ in range(n): learn.one_batch(*next(batches))
        wait()
    on_gpu = [e for e in seen.events() if e.device_type == torch.autograd.DeviceType.CUDA]
    kernels = [e for e in on_gpu if not getattr(e, 'is_user_annotation', False)
               and not e.name.startswith(('Memcpy', 'Memset'))]

    def data(): learn.xb, learn.yb = next(batches)
    def forward():
        with learn.autocast(): learn.loss = learn.loss_func(learn.model(learn.xb), learn.yb)
    def backward(): learn.scaler.scale(learn.loss).backward()
    def optimizer():
        learn.scaler.step(learn.opt)
        learn.scaler.update()
        learn.opt.zero_grad()
    parts = {part: [] for part in (data, forward, backward, optimizer)}
    batches = iter(learn.dls.train)
    for _ in range(n):
        for part, times in parts.items(): times.append(1e3*timed(part))
    mean = {part.__name__: statistics.fmean(times) for part, times in parts.items()}
    return dict(kernels_a_step=len(kernels)/n, milliseconds=mean)


class Keep(Callback):
    "Keeps what a checkpoint would have after the first epoch."
    order = 5
    def after_epoch(self, learn):
        if learn.epoch == 1: self.state = state_of(learn)


def repeats(bench: Bench, name: str, precision: str) -> dict:
    "The same seed twice, and once with an interruption after the first epoch."
    keep, digests = Keep(), []
    def digest(learn):
        state = copies(learn.model.state_dict())
        content = b''.join(t.numpy().tobytes() for t in state.values())
        return hashlib.sha256(content).hexdigest()[:12]
    for _ in range(2):
        learn = bench.learner(name, precision, nepochs=2)
        learn.cbs.append(keep)
        learn.fit(2)
        digests.append(digest(learn))
    resumed = bench.learner(name, precision, nepochs=2)
    restore(resumed, *keep.state)
    resumed.fit(2)
    return dict(weights=digests[0], same_again=digests[1] == digests[0],
                same_resumed=digest(resumed) == digests[0])


def accuracy(bench: Bench, name: str, nepochs: int) -> dict:
    "A training on CIFAR-10, from the data on the host to the evaluated network."
    data = bench.cifar10
    if data is None: return dict(skipped='CIFAR-10 is not here: name it by --data')
    if bench.tiny: nepochs = 1
    start = time.perf_counter()
    learn = bench.learner(name, data=data, nepochs=nepochs)
    learn.eval_set = None
    learn.fit(nepochs)
    _, right = learn.evaluate(learn.dls.test)
    seconds = time.perf_counter() - start
    return dict(data=data.name, epochs=nepochs, seconds=seconds, accuracy=right,
                tta=tta_accuracy(learn, learn.dls.test), n=1,
                training_seconds=sum(row['seconds'] for row in learn.history))


def peers(bench: Bench, name: str) -> dict:
    "An epoch of the example that this project succeeds; or airbench, whole."
    data = bench.cifar10 or bench.drawn
    with switched(benchmark=False, deterministic=False, tf32=False):
        if name == 'example':
            return dict(data=data.name, seconds=example.Example(data, device=bench.device).slice(1))
        if bench.tiny or not find_spec('airbench'): return dict(skipped='not installed')
        import airbench
        printed = io.StringIO()
        with tempfile.TemporaryDirectory() as tmp, chdir(tmp), redirect_stdout(printed):
            write_airbench(data, Path('cifar10'))
            warm, *seconds = map(timed, (airbench.warmup94, *[airbench.train94]*3))
    said = printed.getvalue().strip().splitlines()
    return dict(data=data.name, warm_up=warm, wall_seconds=seconds, says=said[-12:])


def switches(bench: Bench, name: str, precision: str, compile: bool = False, **changed) -> dict:
    "An epoch with one of torch's switches."
    learn = bench.learner(name, precision, compile=compile)
    with switched(**dict(benchmark=False, deterministic=True, tf32=True) | changed):
        learn.fit(2 if bench.tiny else 4)
    first, *others = (row['seconds'] for row in learn.history)
    return dict(first=first, epoch=statistics.median(others))


def settings_of(part: str, bench: Bench) -> list[dict]:
    "What a part is called with, besides the bench, each time."
    names = [dict(name=name) for name in bench.networks]
    by_precision = [one | dict(precision=p) for one in names for p in bench.precisions]
    if part in ('waits', 'timing'): return by_precision
    if part == 'repeats':
        return [one | dict(precision=p) for one in names for p in ('auto', 'float32')]
    if part == 'phases': return names
    if part == 'accuracy':
        targets = [dict(name=name, nepochs=n) for name, n in TARGETS]
        return targets[:1] if bench.tiny else targets
    if part == 'peers': return [dict(name=name) for name in ('example', 'example', 'airbench94')]
    if part == 'switches':
        changes = [{}, dict(benchmark=True), dict(deterministic=False),
                   dict(benchmark=True, deterministic=False)]
        if not bench.tiny: changes.append(dict(compile=True))
        return [*(one | dict(precision='auto') | c for one in names for c in changes),
                *(dict(name='fast', precision='float32') | c for c in ({}, dict(tf32=False)))]
    return [{}]


PARTS = doctor, waits, timing, phases, repeats, accuracy, peers, switches


def main():
    parser = options(__doc__)
    parser.add_argument('--data', help='the folder or archive that holds CIFAR-10')
    parser.add_argument('--out', help='a file to which rows are added, too')
    parser.add_argument('--only', nargs='+', choices=[part.__name__ for part in PARTS])
    parser.add_argument('--minutes', type=float, default=25, help='no row begins after so many')
    args = parser.parse_args()
    start, failed = time.monotonic(), 0
    bench = Bench(args.tiny, args.data)
    for part in PARTS:
        if args.only and part.__name__ not in args.only: continue
        for given in settings_of(part.__name__, bench):
            row = dict(part=part.__name__) | given
            try:
                if time.monotonic() - start > 60*args.minutes: row['skipped'] = 'no time is left'
                else: row |= part(bench, **given)
            except Exception as e:   # the others may still work
                failed += 1
                traceback.print_exc()
                row['error'] = f'{type(e).__name__}: {str(e)[:500]}'
            line = json.dumps(row)
            print(line, flush=True)
            if args.out:
                with open(args.out, 'a') as f: f.write(line + '\n')
    sys.exit(failed > 0)


if __name__ == '__main__': main()
