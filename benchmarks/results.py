"""The results in the README: each network, for some numbers of epochs and several seeds, by runs as
`cifar10_train` makes them, whose records are kept in docs/results.

    CIFAR10_DATA=… python benchmarks/results.py [cnn-2 fast-6 …] [--seeds 3] [--ship] [--tiny]
    or: make results ROWS="cnn-2 fast-6"

The test set is evaluated after each epoch; the last one counts. What is on record for this version
and recipe is not trained again, and a training that was cut off is continued, so the same command
goes on after a stop. The runs themselves, with their networks, are in build/results. With --ship,
those of the longest rows that were named (seed 0, whatever its accuracy) are packed in 16 bits as
the networks that come with the library. With --tiny, it trains an epoch of drawn shapes in a
temporary folder, packs it there, and prints the record.
"""
import hashlib, subprocess, sys, tempfile
from pathlib import Path

import torch

from cifar10_nbdev.checkpoint import pack, unpack
from cifar10_nbdev.pictures import get_data
from cifar10_nbdev.core import UserError
from cifar10_nbdev.interpret import Predictions, ece, mean_std, nll
from cifar10_nbdev.model import MODELS
from cifar10_nbdev.predict import SHIPPED, Classifier, load_model
from cifar10_nbdev.record import Record, read_record
from cifar10_nbdev.sweep import finished, is_result_of, trials

from common import options
from outliers import strange_pictures

ROOT = Path(__file__).resolve().parents[1]
RESULTS, RUNS = ROOT/'docs'/'results', Path('build')/'results'   # the second within the project
ROWS = {'cnn-2': 5, 'fast-2': 5, 'fast-6': 5, 'cnn-10': 5, 'cnn-40': 3, 'deep-16': 3, 'deep-40': 3}


def n_epochs(row: str) -> int:
    "The number of epochs in a row's name."
    return int(row.split('-')[1])


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


def halved(t: torch.Tensor) -> torch.Tensor:
    "Weights in bfloat16; what is small stays as it is."
    return t.bfloat16() if t.is_floating_point() and t.numel() >= 1000 else t


def ship(row: str, run: Path, weights: Path):
    "Write a run's network in 16 bits, with its record and how good it is after rounding."
    try: tensors, info = unpack((run/'model.safetensors').read_bytes())
    except OSError as e:
        sys.exit(f'Error: {run} has no network ({e.strerror}), though there may be a record of it: '
                 f'delete docs/results/{run.name}.json to train it again')
    record, path = read_record(run), weights/f'{info["model"]}.safetensors'
    facts = 'recipe train_accuracy device device_name dtype'.split()
    info |= dict(row=row, seed=record.parameters['seed'])
    info |= {fact: getattr(record, fact) for fact in facts}
    tensors = {name: halved(t) for name, t in tensors.items()}
    path.write_bytes(pack(tensors, info))
    data, model = get_data(info['dataset']), load_model(path)
    probs = torch.cat([model(xb)[0] for xb in data.test_x.split(500)])
    preds = Predictions(probs, data.test_y)
    info |= dict(accuracy_in_training=record.test_accuracy, test_accuracy=preds.accuracy,
                 ece=ece(preds), nll=nll(preds), confusion=preds.confusion().tolist())
    path.write_bytes(pack(tensors, info))
    print(f'{path.name}: {path.stat().st_size/1e6:.1f} MB, test accuracy {preds.accuracy:.2%}, '
          f'{record.test_accuracy:.2%} before', flush=True)


def noticed(model: Classifier, x: torch.Tensor) -> float:
    "The fraction of pictures that a network takes for out of distribution."
    outlier_scores = torch.cat([model(xb)[1] for xb in x.split(500)])
    return model.out_of_distribution(outlier_scores).float().mean().item()


def card(path: Path, pictures: dict[str, torch.Tensor]) -> str:
    "What is known of a network that ships, in Markdown; it is shown `pictures` of each kind."
    info = unpack(path.read_bytes())[1]
    counts = torch.tensor(info['confusion'])
    correct = (counts.diagonal()/counts.sum(1)).tolist()
    wrong = counts.clone().fill_diagonal_(0)
    facts = {
        'file': f'`{path.name}`, {path.stat().st_size/1e6:.1f} MB, bfloat16, SHA-256 '
                f'`{hashlib.sha256(path.read_bytes()).hexdigest()}`',
        'parameters, multiply-adds': f"{info['n_parameters']:,}, {info['macs']:,}",
        'trained on': f"all 50,000 training images (SHA-256 `{info['data_fingerprint'][:12]}…`), "
                      f"{info['epochs']} epochs, seed {info['seed']}, "
                      f"{info['dtype']}, {info['device_name']}",
        'test accuracy': f"{info['test_accuracy']:.2%} ({info['accuracy_in_training']:.2%} before "
                         'its weights were rounded); the seed was not chosen',
        'calibration': f"ECE {info['ece']:.2%}, NLL {info['nll']:.3f}, "
                       f"temperature {info['temperature']:.2f}",
        'out of distribution': ', '.join(
            f'{kind.replace("_", " ")} {noticed(load_model(path), x):.0%}'
            for kind, x in pictures.items()),
        'code': f"commit `{info['commit'][:12]}`, weights `{info['weights_sha256'][:12]}…`"}
    rows = [f'| {name} | {value} |' for name, value in facts.items()]
    per_class = []
    for i, name in enumerate(info['classes']):
        most = int(wrong[i].argmax())
        per_class.append(f"| {name} | {correct[i]:.1%} | {info['classes'][most]} "
                         f"({int(wrong[i, most])}) |")
    return '\n'.join([
        f"\n## {info['model']}\n", '| | |', '|---|---|', *rows, '',
        'How it errs, of 1,000 test images of each class:\n',
        '| class | correct | most often taken for |', '|---|---|---|', *per_class, ''])


def write_cards():
    "What stands below the mark on the page about all networks that ship."
    path, mark = ROOT/'docs'/'networks.md', '<!-- written by benchmarks/results.py --ship -->\n'
    head = path.read_text(encoding='utf-8').partition(mark)[0]
    files = [SHIPPED/f'{name}.safetensors' for name in MODELS]
    test_x = get_data('cifar10').test_x
    pictures = {'test images': test_x} | strange_pictures(test_x, 1000)
    cards = ''.join(card(f, pictures) for f in files if f.is_file())
    path.write_text(head + mark + cards, encoding='utf-8')


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
    parser.add_argument('--ship', action='store_true', help='pack networks, seed 0')
    args = parser.parse_args()
    unknown = [row for row in args.rows if row not in ROWS]
    if unknown: sys.exit(f"Error: no row {unknown[0]!r}: there are {', '.join(ROWS)}")
    if args.tiny:
        with tempfile.TemporaryDirectory() as home:
            trial = trial_of('fast-1', 0, dataset='shapes10', subset=100)
            say('tiny', [train(trial, Path(home)/'run')])
            return ship('fast-1', Path(home)/'run', Path(home))
    rows = args.rows or list(ROWS)
    for row in rows: say(row, [result(row, seed) for seed in range(args.seeds or ROWS[row])])
    longest = {row.split('-')[0]: row for row in sorted(rows, key=n_epochs)}
    for row in longest.values() if args.ship else ():
        ship(row, ROOT/RUNS/f'{row}-epochs-seed-0', SHIPPED)
    if args.ship: write_cards()


if __name__ == '__main__': main()
