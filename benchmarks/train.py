"""How long our training takes to a given accuracy, in E: epochs of the example that this project
succeeds (example.py), measured in between.

    CIFAR10_DATA=… python benchmarks/train.py [--target 85.6 90 94] [--seeds 5]
        [--precision float32] [--tiny]
    or: make bench TARGET=90 SEEDS=3

Each training is a process of its own. Its seconds go from the data in memory to the trained and
evaluated network. Before the first epoch and after each, while it stands still, another process
trains the example for a tenth of its epoch (several where there are few epochs, so that there are
ten at least): E is their mean, and what slows the machine down for minutes slows both. The test set
is evaluated once, after the last epoch, all 10,000 images, without test-time augmentation, which is
a figure of its own (tta) and not part of the seconds. Each training's row is added to
docs/results/bench.csv when it is done; with --tiny rows are printed instead: one epoch, two seeds,
drawn shapes.
"""
import argparse, csv, json, math, platform, resource, statistics, subprocess, sys, time
from collections.abc import Iterator
from datetime import datetime, timezone
from pathlib import Path

import torch

from cifar10_nbdev.device import pick_device, prepare_cpu
from cifar10_nbdev.learner import Callback, Learner
from cifar10_nbdev.model import layer_table, make_model, n_parameters
from cifar10_nbdev.recipe import Compute, make_learner, pick_dtype, recipe

from common import cifar10_or_tiny, last_line, options, run_script, tta_accuracy

HERE = Path(__file__).resolve()
CSV = HERE.parents[1]/'docs'/'results'/'bench.csv'
SLICES = 10   # of an epoch of the example
# what is trained to reach which accuracy, in percent; the settings were chosen on a validation set,
# the epochs of `deep` after a test accuracy of .9401 with twelve (docs/lab-log.md)
TARGETS = {'85.6': ('fast', 2), '90': ('fast', 6), '94': ('deep', 13),
           'cnn2': ('cnn', 2), 'cnn10': ('cnn', 10), 'cnn40': ('cnn', 40)}


class Yardstick(Callback):
    "Measures slices of E, in another process, while the training stands still."
    def __init__(self, nepochs: int, tiny: bool):
        self.at_once = 1 if tiny else math.ceil(SLICES/(nepochs + 1))
        self.slices, self.stood = [], 0.
        command = [sys.executable, HERE.with_name('example.py'), '--slices', str(SLICES)]
        self.example = subprocess.Popen(command + ['--tiny']*tiny, text=True, bufsize=1,
                                        stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        self.example.stdout.readline()   # until it is ready

    def measure(self, learn: Learner|None = None):
        "Some slices."
        start = time.perf_counter()
        for _ in range(self.at_once):
            print(file=self.example.stdin)
            self.slices.append(float(self.example.stdout.readline()))
        self.stood += time.perf_counter() - start

    after_epoch = measure

    def close(self) -> dict:
        "What was measured."
        self.example.stdin.close()
        self.example.wait()
        return dict(E=statistics.mean(self.slices), E_std=statistics.stdev(self.slices),
                    E_slices=len(self.slices))


def train(model: str, nepochs: int, seed: int, precision: str, tiny: bool) -> dict:
    "One training in this process: what it took and what came out."
    device = pick_device()
    prepare_cpu()
    data = cifar10_or_tiny(tiny)
    dtype = pick_dtype(precision, device)
    yardstick = Yardstick(nepochs, tiny)
    start = time.perf_counter()
    net = make_model(model, len(data.classes), seed=seed)
    compute = Compute(device, dtype, seed)
    learn = make_learner(net, data, recipe(model, nepochs), compute, (yardstick,))
    learn.eval_set = None   # once, below
    yardstick.measure()
    learn.fit(nepochs)
    _, accuracy = learn.evaluate(learn.dls.test)
    seconds = time.perf_counter() - start - yardstick.stood
    E = yardstick.close()
    capability = torch.backends.cpu.get_cpu_capability()
    gpu = torch.cuda.max_memory_allocated() if device.type == 'cuda' else 0
    host = 1024*resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return dict(
        seconds=seconds, accuracy=accuracy, tta=tta_accuracy(learn, learn.dls.test),
        macs=layer_table(net)[1], n_parameters=n_parameters(net),
        images_per_second=nepochs*len(data.train_x)/seconds,
        peak_mib=(gpu or host)/2**20,
        torch=torch.__version__,
        machine=f'{device}, {platform.machine()} {capability}, {torch.get_num_threads()} threads',
        precision=str(dtype).removeprefix('torch.'), E=E['E'], in_E=seconds/E['E'],
        E_std=E['E_std'], E_slices=E['E_slices'])


def train_alone(target: str, **settings) -> dict:
    "What `train` returns, from a process of its own; it is printed, too."
    printed = run_script(HERE, '--one', json.dumps(settings), tiny=settings['tiny'])
    row = json.loads(last_line(printed))
    print(f"{target} seed {settings['seed']}: accuracy {row['accuracy']:.4f} "
          f"(tta {row['tta']:.4f}), {row['seconds']:.1f} s, "
          f"{row['images_per_second']:.0f} images/s, {row['precision']}, "
          f"peak {row['peak_mib']:.0f} MiB, {row['in_E']:.2f} E, E {row['E']:.1f} s "
          f"± {row['E_std']:.1f} (n={row['E_slices']})", flush=True)
    return row


def train_all(args: argparse.Namespace) -> Iterator[dict]:
    "A row for each target and seed, as soon as it is done."
    git = ['git', '-C', str(HERE.parent), 'describe', '--always', '--dirty']
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    began = datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')
    for target in args.target:
        model, nepochs = TARGETS[target]
        if args.tiny: nepochs = 1
        for seed in range(args.seeds):
            settings = dict(model=model, nepochs=nepochs, seed=seed)
            row = train_alone(target, **settings, precision=args.precision, tiny=args.tiny)
            yield dict(started=began, commit=commit, target=target, **settings) | row


def write(rows: list[dict], f, header: bool):
    "Add rows to an open CSV file."
    out = csv.DictWriter(f, rows[0])
    if header: out.writeheader()
    out.writerows(rows)


def summarize(rows: list[dict]):
    "Print a line for each target, over its seeds."
    import pandas as pd
    from cifar10_nbdev.interpret import mean_std   # here, out of the trainings' peak memory
    for target, group in pd.DataFrame(rows).groupby('target', sort=False):
        print(f'TARGET {target}: accuracy {mean_std(group.accuracy)} in '
              f'{group.seconds.mean():.0f} s = {group.in_E.mean():.2f} E (n={len(group)})')


def main():
    parser = options(__doc__)
    parser.add_argument('--target', nargs='+', choices=TARGETS, help='default: 85.6 90 94')
    parser.add_argument('--seeds', type=int, help='trainings a target, seeds 0, 1, …; default: 5')
    parser.add_argument('--precision', default='auto', help='as in a run')
    parser.add_argument('--one', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one: return print(json.dumps(train(**json.loads(args.one))))
    args.target = args.target or (['90'] if args.tiny else ['85.6', '90', '94'])
    args.seeds = args.seeds or (2 if args.tiny else 5)
    rows = []
    for row in train_all(args):
        rows.append(row)
        if args.tiny: continue
        with open(CSV, 'a', newline='') as f: write([row], f, header=not f.tell())
    if args.tiny: write(rows, sys.stdout, header=True)
    summarize(rows)


if __name__ == '__main__': main()
