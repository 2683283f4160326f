"""How long our training takes to a given accuracy, in E: epochs of the example that this project succeeds (example.py), measured in the same run.

    CIFAR10_DATA=… python benchmarks/train.py [--target 85.6 90 94] [--seeds 5] [--precision float32]     or: make bench TARGET=90 SEEDS=3

Each training is a process of its own. Its seconds go from the data in memory to the trained and evaluated network; E is measured before and after all of them and averaged. The test images are looked at once,
after the last epoch, all 10,000, without test-time augmentation, which is a figure of its own (tta) and not part of the seconds. Rows are added to docs/results/bench.csv.
"""
import argparse, csv, json, os, platform, resource, statistics, subprocess, sys, time
from dataclasses import replace
from datetime import datetime, timezone
from pathlib import Path

HERE = Path(__file__).resolve()
CSV = HERE.parents[1]/'docs'/'results'/'bench.csv'
# what is trained to reach which accuracy, in percent; the settings were chosen on a validation set (docs/lab-log.md)
TARGETS = {'85.6': ('fast', 2), '90': ('fast', 6), '94': ('deep', 28), 'cnn2': ('cnn', 2), 'cnn10': ('cnn', 10), 'cnn40': ('cnn', 40)}


def train(model: str, nepochs: int, seed: int, precision: str) -> dict:
    "One training in this process: what it took and what came out."
    import torch
    from cifar10_nbdev.core import keep_freed_memory, limit_threads, pick_device, set_seed
    from cifar10_nbdev.data import cifar10, get_dls
    from cifar10_nbdev.learner import mirror_shift
    from cifar10_nbdev.model import layer_table, make_model, n_parameters
    from cifar10_nbdev.recipe import make_learner, pick_dtype, recipe
    device = pick_device()
    keep_freed_memory(); limit_threads()
    data = cifar10(None, lambda line: print(line, file=sys.stderr))
    set_seed(seed)
    start = time.perf_counter()
    r = recipe(model, nepochs)
    dls = get_dls(data, r.batch_size, device, seed, r.cutout, r.shift, r.cutmix)
    dtype = pick_dtype(precision, device)
    learn = make_learner(make_model(model), replace(dls, valid=[next(iter(dls.train_plain))]), r, dtype=dtype)   # after each epoch it looks at one batch only
    learn.fit(nepochs)
    _, accuracy = learn.evaluate(dls.test)
    seconds = time.perf_counter() - start
    scores, labels = learn.predict(dls.test, mirror_shift)
    macs = layer_table(learn.model)[1]
    return dict(seconds=seconds, accuracy=accuracy, tta=(scores.argmax(1) == labels).float().mean().item(), macs=macs, n_parameters=n_parameters(learn.model),
                images_per_second=nepochs*len(data.train_x)/seconds, peak_mib=resource.getrusage(resource.RUSAGE_SELF).ru_maxrss/1024, torch=torch.__version__,
                machine=f'{device}, {platform.machine()} {torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads', precision=str(dtype).removeprefix('torch.'))


def child(*args: str) -> str:
    "The last line of a process."
    done = subprocess.run([sys.executable, *args], stdout=subprocess.PIPE, text=True, check=True)
    return done.stdout.strip().splitlines()[-1]


def example() -> float:
    "E once, in a process of its own."
    return float(child(str(HERE.with_name('example.py'))))


def write(rows: list[dict]):
    "Add rows to the CSV."
    new = not CSV.exists()
    with open(CSV, 'a', newline='') as f:
        out = csv.DictWriter(f, rows[0])
        if new: out.writeheader()
        out.writerows(rows)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--target', nargs='+', default=['85.6', '90', '94'], choices=TARGETS)
    parser.add_argument('--seeds', type=int, default=5, help='trainings a target, seeds 0, 1, …')
    parser.add_argument('--precision', default='auto', help='as in a run')
    parser.add_argument('--one', help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.one: return print(json.dumps(train(**json.loads(args.one))))
    commit = subprocess.run(['git', '-C', str(HERE.parent), 'describe', '--always', '--dirty'], capture_output=True, text=True).stdout.strip()
    rows, now = [], datetime.now(timezone.utc).strftime('%Y%m%dT%H%M%SZ')
    es = [example()]
    print(f'E {es[0]:.1f} s', flush=True)
    for target in args.target:
        model, nepochs = TARGETS[target]
        for seed in range(args.seeds):
            row = json.loads(child(str(HERE), '--one', json.dumps(dict(model=model, nepochs=nepochs, seed=seed, precision=args.precision))))
            rows.append(dict(started=now, commit=commit, target=target, model=model, nepochs=nepochs, seed=seed, **row))
            print(f"{target} seed {seed}: accuracy {row['accuracy']:.4f} (tta {row['tta']:.4f}), {row['seconds']:.1f} s, {row['images_per_second']:.0f} images/s, {row['precision']}, peak {row['peak_mib']:.0f} MiB", flush=True)
    es.append(example())
    E = statistics.mean(es)
    print(f'E {es[1]:.1f} s; mean {E:.1f} s')
    write([dict(r, E=E, in_E=r['seconds']/E) for r in rows])
    for target in args.target:
        mine = [r for r in rows if r['target'] == target]
        acc, sec = ([r[k] for r in mine] for k in ('accuracy', 'seconds'))
        spread = f' ± {statistics.stdev(acc):.4f}' if len(acc) > 1 else ''
        print(f'TARGET {target}: accuracy {statistics.mean(acc):.4f}{spread} in {statistics.mean(sec):.0f} s = {statistics.mean(sec)/E:.2f} E (n={len(mine)})')


if __name__ == '__main__': main()
