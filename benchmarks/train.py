"""How long our training takes to a given accuracy, in E: epochs of the example that this project
succeeds (example.py), measured in the same run.

    CIFAR10_DATA=… python benchmarks/train.py [--target 85.6 90 94] [--seeds 5]
        [--precision float32] [--tiny]
    or: make bench TARGET=90 SEEDS=3

Each training is a process of its own. Its seconds go from the data in memory to the trained and
evaluated network; E is measured before and after all of them and averaged. The test set is
evaluated once, after the last epoch, all 10,000 images, without test-time augmentation, which is a
figure of its own (tta) and not part of the seconds. Rows are added to docs/results/bench.csv; with
--tiny they are printed instead: one epoch, two seeds, drawn shapes, all in one process.
"""
import argparse, csv, json, platform, resource, statistics, subprocess, sys, time
from datetime import datetime, timezone
from pathlib import Path

import torch

from cifar10_nbdev.device import pick_device, prepare_cpu
from cifar10_nbdev.model import layer_table, make_model, n_parameters
from cifar10_nbdev.recipe import Compute, make_learner, pick_dtype, recipe

from common import cifar10_or_tiny, last_line, options, run_script, tta_accuracy

HERE = Path(__file__).resolve()
CSV = HERE.parents[1]/'docs'/'results'/'bench.csv'
# what is trained to reach which accuracy, in percent; the settings were chosen on a validation set
# (docs/lab-log.md)
TARGETS = {'85.6': ('fast', 2), '90': ('fast', 6), '94': ('deep', 28),
           'cnn2': ('cnn', 2), 'cnn10': ('cnn', 10), 'cnn40': ('cnn', 40)}


def train(model: str, nepochs: int, seed: int, precision: str, tiny: bool) -> dict:
    "One training in this process: what it took and what came out."
    device = pick_device()
    prepare_cpu()
    data = cifar10_or_tiny(tiny)
    dtype = pick_dtype(precision, device)
    start = time.perf_counter()
    net = make_model(model, len(data.classes), seed=seed)
    learn = make_learner(net, data, recipe(model, nepochs), Compute(device, dtype, seed))
    learn.eval_set = None   # once, below
    learn.fit(nepochs)
    _, accuracy = learn.evaluate(learn.dls.test)
    seconds = time.perf_counter() - start
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
        precision=str(dtype).removeprefix('torch.'))


def train_alone(target: str, **settings) -> dict:
    "What `train` returns, from a process of its own; it is printed, too."
    printed = run_script(HERE, '--one', json.dumps(settings), tiny=settings['tiny'])
    row = json.loads(last_line(printed))
    print(f"{target} seed {settings['seed']}: accuracy {row['accuracy']:.4f} "
          f"(tta {row['tta']:.4f}), {row['seconds']:.1f} s, "
          f"{row['images_per_second']:.0f} images/s, {row['precision']}, "
          f"peak {row['peak_mib']:.0f} MiB", flush=True)
    return row


def example(tiny: bool) -> float:
    "E once, in a process of its own."
    printed = run_script(HERE.with_name('example.py'), *['--tiny']*tiny, tiny=tiny)
    seconds = float(last_line(printed))
    print(f'E {seconds:.1f} s', flush=True)
    return seconds


def train_all(args: argparse.Namespace) -> list[dict]:
    "A row for each target and seed, without E."
    git = ['git', '-C', str(HERE.parent), 'describe', '--always', '--dirty']
    commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    began, rows = datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ'), []
    for target in args.target:
        model, nepochs = TARGETS[target]
        if args.tiny: nepochs = 1
        for seed in range(args.seeds):
            settings = dict(model=model, nepochs=nepochs, seed=seed)
            row = train_alone(target, **settings, precision=args.precision, tiny=args.tiny)
            rows.append(dict(started=began, commit=commit, target=target, **settings) | row)
    return rows


def write(rows: list[dict], f, header: bool):
    "Add rows to an open CSV file."
    out = csv.DictWriter(f, rows[0])
    if header: out.writeheader()
    out.writerows(rows)


def summarize(rows: list[dict], E: float):
    "Print a line for each target, over its seeds."
    import pandas as pd
    from cifar10_nbdev.interpret import mean_std   # here, out of the trainings' peak memory
    for target, group in pd.DataFrame(rows).groupby('target', sort=False):
        seconds = group.seconds.mean()
        print(f'TARGET {target}: accuracy {mean_std(group.accuracy)} in {seconds:.0f} s '
              f'= {seconds/E:.2f} E (n={len(group)})')


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
    before = example(args.tiny)
    rows = train_all(args)
    E = statistics.mean([before, example(args.tiny)])
    print(f'mean E {E:.1f} s')
    rows = [row | dict(E=E, in_E=row['seconds']/E) for row in rows]
    if args.tiny: write(rows, sys.stdout, header=True)
    else:
        with open(CSV, 'a', newline='') as f: write(rows, f, header=not f.tell())
    summarize(rows, E)


if __name__ == '__main__': main()
