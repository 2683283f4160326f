"""The results in the README: each network, for some numbers of epochs and several seeds, by runs as
`cifar10_train` makes them, whose records are kept in docs/results.

    CIFAR10_DATA=… python benchmarks/results.py [cnn-2 fast-6 …] [--seeds 3] [--tiny]
    or: make results ROWS="cnn-2 fast-6"

The test set is evaluated after each epoch; the last one counts. What is on record for this version
and recipe is not trained again, and a training that was cut off is continued, so the same command
goes on after a stop. The runs themselves, with their networks, are in build/results. With --tiny,
it trains an epoch of drawn shapes in a temporary folder and prints the record.
"""
import subprocess, sys, tempfile
from pathlib import Path

from cifar10_nbdev.core import UserError
from cifar10_nbdev.interpret import mean_std
from cifar10_nbdev.record import Record, read_record
from cifar10_nbdev.sweep import finished, is_result_of, trials

from common import options

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUNS = ROOT/'docs'/'results', Path('build')/'results'   # the second within the project
ROWS = {'cnn-2': 5, 'fast-2': 5, 'fast-6': 5, 'cnn-10': 5, 'cnn-40': 3, 'deep-28': 3, 'deep-40': 3}


def trial_of(row: str, seed: int, **more) -> dict:
    "All parameters of a training, such as of 'cnn-2' with seed 0."
    model, nepochs = row.split('-')
    asked = dict(dataset='cifar10', model=model, nepochs=nepochs, seed=seed, tta=True) | more
    [trial] = trials({name: [value] for name, value in asked.items()}).values()
    return trial


def train(trial: dict, folder: Path) -> Record:
    "The record of a training, which is finished first if need be. Leaves if it fails."
    if found := finished(ROOT/folder, trial): return found
    given = trial | dict(output_dir=folder, verbose=1)
    words = [f'--{name}={value}' for name, value in given.items() if value is not None]
    done = subprocess.run([sys.executable, '-m', 'cifar10_nbdev.train', *words], cwd=ROOT,
                          stdout=sys.stderr)
    if done.returncode: sys.exit(done.returncode)
    return read_record(ROOT/folder)


def result(row: str, seed: int) -> Record:
    "The record in docs/results, after the training if need be."
    path, trial = RESULTS/f'{row}-epochs-seed-{seed}.json', trial_of(row, seed)
    try:
        if is_result_of(r := Record.from_text(path.read_text(), path.name), trial): return r
    except (OSError, UserError): pass   # not there, or of another version
    r = train(trial, RUNS/path.stem)
    path.write_text(r.to_text())
    return r


def say(row: str, records: list[Record]):
    "Print what a row of the README comes from."
    ece = sum(r.ece for r in records)/len(records)
    print(f'{row}: accuracy {mean_std(r.test_accuracy for r in records)} '
          f'(tta {mean_std(r.tta_accuracy for r in records)}), ECE {ece:.2%}, '
          f'n={len(records)}', flush=True)


def main():
    parser = options(__doc__)
    parser.add_argument('rows', nargs='*', metavar='row', help=f"{', '.join(ROWS)}; default: all")
    parser.add_argument('--seeds', type=int, help='trainings a row, seeds 0, 1, …; default: 3 or 5')
    args = parser.parse_args()
    unknown = [row for row in args.rows if row not in ROWS]
    if unknown: sys.exit(f"Error: no row {unknown[0]!r}: there are {', '.join(ROWS)}")
    if args.tiny:
        with tempfile.TemporaryDirectory() as home:
            trial = trial_of('fast-1', 0, dataset='shapes10', subset=100)
            return say('tiny', [train(trial, Path(home)/'run')])
    for row in args.rows or ROWS:
        say(row, [result(row, seed) for seed in range(args.seeds or ROWS[row])])


if __name__ == '__main__': main()
