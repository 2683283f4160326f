"""The same CNN, AdamW and batches of 128 in fastai, in Lightning, in a plain loop and in ours (benchmarks/peers/*.py). `make bench-peers`

Each script is run as its users would run it, as a process, for 1 epoch and for 2: the difference is an epoch's seconds, evaluation included, and what is left of the first is the start-up (below zero where two runs differ by more than it: take more --rounds). Lines are those of the script that
are neither empty nor a docstring. All read a folder of PNGs, as `ImageFolder` and fastai do; ours keeps it decoded from its first run on, which is made before and timed on its own.
"""
import argparse, subprocess, sys, tempfile, time
from pathlib import Path

from PIL import Image

from cifar10_nbdev.data import cifar10

HERE = Path(__file__).resolve().parent/'peers'


def tree(root: Path, n: int|None = None):
    "The data set as root/train/<class>/<number>_<class>.png, and test likewise."
    data = cifar10(None, lambda line: None)
    for part, x, y in (('train', data.train_x, data.train_y), ('test', data.test_x, data.test_y)):
        for name in data.classes: (root/part/name).mkdir(parents=True)
        for i, (image, k) in enumerate(zip(x[:n].permute(0, 2, 3, 1).numpy(), y.tolist())):
            Image.fromarray(image).save(root/part/data.classes[k]/f'{i}_{data.classes[k]}.png', compress_level=1)


def seconds(script: Path, root: Path, nepochs: int) -> float:
    "Of a whole process."
    start = time.perf_counter()
    done = subprocess.run([sys.executable, str(script), str(root), str(nepochs)], cwd=root.parent, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if done.returncode: sys.exit(f'{script.name} failed:\n{done.stdout[-3000:]}')
    return time.perf_counter() - start


def lines(script: Path) -> int:
    "That a user writes."
    return sum(bool(line.strip()) and not line.startswith('"') for line in script.read_text().splitlines())


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--rounds', type=int, default=1, help='how often each is run; the rounds alternate')
    parser.add_argument('--n', type=int, help='images of each part, for a quick try without ours, which refuses a part of CIFAR-10; default: all')
    args = parser.parse_args()
    scripts = sorted(s for s in HERE.glob('*.py') if not (args.n and s.stem == 'ours'))
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)/'cifar10'
        tree(root, args.n)
        if not args.n:
            start = time.perf_counter()
            subprocess.run([sys.executable, '-c', 'import sys; from cifar10_nbdev.data import cifar10; cifar10(sys.argv[1])', str(root)], cwd=root.parent, check=True)
            print(f'ours, decoding once: {time.perf_counter() - start:.1f} s')
        rows = {s: [] for s in scripts}
        for _ in range(args.rounds):
            for s in scripts: rows[s].append((seconds(s, root, 1), seconds(s, root, 2)))
    print('| script | an epoch | start-up | lines |\n|---|---|---|---|')
    for s, times in rows.items():
        once, twice = (min(t) for t in zip(*times))
        print(f'| {s.stem} | {twice - once:.1f} s | {2*once - twice:.1f} s | {lines(s)} |')


if __name__ == '__main__': main()
