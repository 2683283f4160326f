"""The same CNN, AdamW and batches of 128 in fastai, in Lightning, in a plain loop and in ours
(benchmarks/peers/*.py).

    make bench-peers     or, of what is installed here: python benchmarks/peers.py --tiny

Each script is run as its users would run it, as a process, for 1 epoch and for 2: the difference is
an epoch's seconds, evaluation included, and what is left of the first is the start-up (below zero
where two runs differ by more than it: take more --rounds). Lines are those of the script that are
not empty, no docstring and no comment. All read a folder of PNGs, as `ImageFolder` and fastai do;
ours keeps it decoded from its first run on, which is made before and timed on its own.

With --tiny and --n, the decoded copy is written here, from memory: read from the folder, ours would
refuse a fraction of CIFAR-10. --tiny leaves out the scripts whose libraries are not installed, and
runs the others in one process.
"""
import tempfile
from functools import partial
from importlib.util import find_spec
from pathlib import Path

from cifar10_nbdev.cifar10 import files_digest, write_cache
from cifar10_nbdev.data import Data, fingerprint

from common import cifar10_or_tiny, options, run_script, timed, tiny_cifar10, write_tree

HERE = Path(__file__).resolve().parent/'peers'
DECODE = 'import sys; from cifar10_nbdev.cifar10 import load_cifar; load_cifar(sys.argv[1])'


def first(data: Data, n: int) -> Data:
    "The first `n` images of each part."
    tensors = [getattr(data, name)[:n] for name in ('train_x', 'train_y', 'test_x', 'test_y')]
    return Data(data.name, data.classes, *tensors, data.source, fingerprint(*tensors))


def decode(data: Data, root: Path, whole: bool):
    "Make the decoded copy that ours reads: by a process as a run does, or from memory."
    if whole:
        seconds = timed(lambda: run_script('-c', DECODE, root, cwd=root.parent))
        return print(f'ours, decoding once: {seconds:.1f} s', flush=True)
    cache = root.parent/'data'
    cache.mkdir()
    write_cache(data, cache, files_digest(root))


def measure(script: Path, root: Path, tiny: bool) -> list[float]:
    "Seconds of the script with 1 epoch and with 2."
    def run(nepochs): run_script(script, root, nepochs, cwd=root.parent, tiny=tiny)
    return [timed(partial(run, nepochs)) for nepochs in (1, 2)]


def is_installed(script: Path) -> bool:
    "Whether the library of a script named with_<library> is here."
    library = script.stem.removeprefix('with_')
    return library == script.stem or find_spec(library) is not None


def n_lines(script: Path) -> int:
    "The lines that a user writes."
    lines = map(str.strip, script.read_text().splitlines())
    return sum(bool(line) and not line.startswith(('"', '#')) for line in lines)


def main():
    parser = options(__doc__)
    parser.add_argument('--rounds', type=int, default=1,
                        help='how often each is run; the rounds alternate')
    parser.add_argument('--n', type=int,
                        help='images of each part, for a quick try; default: all')
    args = parser.parse_args()
    scripts = sorted(HERE.glob('*.py'))
    if args.tiny: scripts = list(filter(is_installed, scripts))
    data = tiny_cifar10() if args.tiny else cifar10_or_tiny(tiny=False)
    if args.n: data = first(data, args.n)
    times = {s: [] for s in scripts}
    with tempfile.TemporaryDirectory() as tmp:
        root = Path(tmp)/'cifar10'
        write_tree(data, root)
        decode(data, root, whole=not (args.tiny or args.n))
        for _ in range(args.rounds):
            for s in scripts: times[s].append(measure(s, root, args.tiny))
    print('| script | an epoch | start-up | lines |\n|---|---|---|---|')
    for s, rows in times.items():
        once, twice = map(min, zip(*rows))
        print(f'| {s.stem} | {twice - once:.1f} s | {2*once - twice:.1f} s | {n_lines(s)} |')


if __name__ == '__main__': main()
