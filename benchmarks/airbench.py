"""94 % with test-time augmentation, by the rule of airbench94_muon (Keller Jordan, MIT license):
its script, untouched, and a network of ours, in each round.

    git clone https://github.com/KellerJordan/cifar10-airbench
    CIFAR10_DATA=… python benchmarks/airbench.py --script cifar10-airbench/airbench94_muon.py
        [--model deep] [--nepochs 9] [--rounds 3] [--first 0] [--together]
        [--precision float32] [--tiny]

The rule: seconds go from the images in memory to the predictions for all 10,000 test images, six
views of each, and no other evaluation is part of them. Each training is a process of its own.
Without a GPU, what the script asks of CUDA is done by the CPU, what it computes in 16 bits is done
in the mixed precision of ours, and it is not compiled, as ours is not. One after the other or, with
--together, both at once, one thread each, so that what slows the machine down slows both. With
--tiny, ours alone, an epoch of drawn shapes.
"""
import argparse, contextlib, io, json, os, re, runpy, sys, tempfile, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch

from cifar10_nbdev.device import pick_device, prepare_cpu
from cifar10_nbdev.interpret import mean_std
from cifar10_nbdev.model import make_model
from cifar10_nbdev.recipe import Compute, make_learner, pick_dtype, recipe

from common import (cifar10_or_tiny, last_line, options, run_script, tta_accuracy, wait,
                    write_airbench)


class Clock:
    "In place of a CUDA event."
    def __init__(self, **kwargs): self.time = 0.
    def record(self): self.time = time.perf_counter()
    def elapsed_time(self, end): return 1e3*(end.time - self.time)


def prepare_script():
    "From now on, in this process, the CPU answers what is asked of CUDA; weights have 32 bits."
    load = torch.load
    torch.load = lambda file, map_location=None: load(file)
    torch.compile = lambda func: func
    torch.nn.Module.cuda = lambda self: self
    torch.cuda.Event, torch.cuda.synchronize = Clock, lambda: None
    for kind in (torch.Tensor, torch.nn.Module): kind.half = kind.float


def to_mixed_precision(model: torch.nn.Module, dtype: torch.dtype):
    "From now on, a network on the CPU computes as ours do."
    forward = torch.autocast('cpu', dtype, enabled=dtype != torch.float32)(model.forward)
    model.forward = lambda *args, **kwargs: forward(*args, **kwargs).float()


def theirs(script: str, precision: str, seed: int) -> dict:
    "One training by the script, in this process."
    data, device = cifar10_or_tiny(False), pick_device()
    prepare_cpu()
    on_cpu = device.type == 'cpu'
    if on_cpu: prepare_script()
    script = str(Path(script).resolve())
    sys.argv = [script]     # which it reads
    torch.manual_seed(seed)
    printed = io.StringIO()
    with tempfile.TemporaryDirectory() as tmp, contextlib.chdir(tmp):
        write_airbench(data, Path('cifar10'))
        code = runpy.run_path(script)
        model = code['CifarNet']().cuda().to(memory_format=torch.channels_last)
        if on_cpu: to_mixed_precision(model, pick_dtype(precision, device))
        with contextlib.redirect_stdout(printed): tta = code['main'](seed, model)
    print(printed.getvalue(), file=sys.stderr)
    [seconds] = re.findall(r'\| +eval .* ([\d.]+) +\|$', printed.getvalue(), re.MULTILINE)
    return dict(tta=tta, seconds=float(seconds))


def ours(model: str, nepochs: int, precision: str, seed: int, tiny: bool) -> dict:
    "One training of ours, in this process."
    data, device = cifar10_or_tiny(tiny), pick_device()
    dtype = pick_dtype(precision, device)
    prepare_cpu()
    start = time.perf_counter()
    net = make_model(model, len(data.classes), seed)
    learn = make_learner(net, data, recipe(model, nepochs), Compute(device, dtype, seed))
    learn.eval_set = None
    learn.fit(nepochs)
    tta = tta_accuracy(learn, learn.dls.test)
    wait()
    return dict(tta=tta, seconds=time.perf_counter() - start)


def main():
    parser = options(__doc__)
    parser.add_argument('--script', help='where airbench94_muon.py is; without it, ours alone')
    parser.add_argument('--model', default='deep')
    parser.add_argument('--nepochs', type=int, default=9)
    parser.add_argument('--rounds', type=int, default=1, help='a seed each')
    parser.add_argument('--first', type=int, default=0, help='the seed of the first round')
    parser.add_argument('--together', action='store_true', help='both at once, a thread each')
    parser.add_argument('--precision', default='auto', help='as in a run')
    parser.add_argument('--one', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one:
        settings = json.loads(args.one)
        return print(json.dumps(globals()[settings.pop('who')](**settings)))
    if args.tiny: args.model, args.nepochs, args.script = 'fast', 1, None
    trainings = {f'{args.model}, {args.nepochs} epochs': dict(
        who='ours', model=args.model, nepochs=args.nepochs, tiny=args.tiny)}
    if args.script: trainings['airbench94_muon'] = dict(who='theirs', script=args.script)
    if args.together: os.environ['OMP_NUM_THREADS'] = '1'
    rows = {name: [] for name in trainings}

    def train(name: str, seed: int):
        asked = json.dumps(trainings[name] | dict(seed=seed, precision=args.precision))
        row = json.loads(last_line(run_script(__file__, '--one', asked, tiny=args.tiny)))
        rows[name].append(row)
        print(f"{name}, seed {seed}: {row['tta']:.4f} in {row['seconds']:.1f} s", flush=True)

    for seed in range(args.first, args.first + args.rounds):
        with ThreadPoolExecutor(len(trainings) if args.together else 1) as pool:
            list(pool.map(train, trainings, [seed]*len(trainings)))
    for name, done in rows.items():
        seconds = sum(row['seconds'] for row in done)/len(done)
        print(f'{name}: {mean_std(row["tta"] for row in done)} with test-time augmentation '
              f'in {seconds:.0f} s (n={len(done)})', flush=True)


if __name__ == '__main__': main()
