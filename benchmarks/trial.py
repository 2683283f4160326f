"""One training on 45,000 images, judged on the 5,000 set aside; for choosing recipes, as in
docs/lab-log.md, and for the temperature that calibrates what a recipe trains (nll and ece are with
it, loss is without). The test set is not evaluated.

    CIFAR10_DATA=… python benchmarks/trial.py fast 4 lr=.17 batch_size=250 widths=24,96,192 seed=1

Names are those of `recipe.Recipe` (normalize_filters=true, dropout_end=none, …); each changes
nothing but itself. `widths` makes another `Fast`, `precision=float32` does without 16 bits.
`threads=1` allows two at a time, for accuracies; seconds want the machine to themselves. It prints
a line of JSON. With --tiny, it takes 50 and 50 drawn shapes.
"""
import json, sys, time
from dataclasses import fields, replace
from functools import partial

import torch

from cifar10_nbdev.data import split
from cifar10_nbdev.device import pick_device, prepare_cpu
from cifar10_nbdev.interpret import Predictions, ece, fit_temperature, nll
from cifar10_nbdev.model import MODELS, Fast, layer_table, make_model
from cifar10_nbdev.recipe import Compute, Recipe, make_learner, pick_dtype, recipe

from common import cifar10_or_tiny, options, tta_accuracy


def to_bool(text: str) -> bool:
    "'true' or 'false', in any case."
    return dict(true=True, false=False)[text.lower()]


def to_optional_float(text: str) -> float|None:
    "A number, or 'none'."
    return None if text.lower() == 'none' else float(text)


def to_widths(text: str) -> tuple[int, ...]:
    "Whole numbers with commas between them."
    return tuple(map(int, text.split(',')))


READERS = {int: int, float: float, bool: to_bool, float|None: to_optional_float}
IN_RECIPE = {f.name: READERS[f.type] for f in fields(Recipe)}
BESIDE = dict(seed=int, threads=int, precision=str, widths=to_widths)


def read_settings(words: list[str]) -> tuple[dict, dict]:
    "What is named NAME=VALUE, in its type: of the recipe, and beside it. Leaves with an error."
    given, known = {}, IN_RECIPE | BESIDE
    for word in words:
        name, _, text = word.partition('=')
        if name not in known: sys.exit(f"Error: no setting {name!r}: there are {', '.join(known)}")
        try: given[name] = known[name](text)
        except (ValueError, KeyError): sys.exit(f'Error: {name} cannot be {text!r}')
    in_recipe = {name: given.pop(name) for name in IN_RECIPE if name in given}
    return in_recipe, dict(seed=0, precision='auto') | given


def main():
    parser = options(__doc__)
    parser.add_argument('model', nargs='?', default='cnn', choices=MODELS, help='default: cnn')
    parser.add_argument('nepochs', nargs='?', type=int, default=2, help='default: 2')
    parser.add_argument('settings', nargs='*', metavar='NAME=VALUE')
    args = parser.parse_intermixed_args()
    changed, beside = read_settings(args.settings)
    prepare_cpu()
    if 'threads' in beside: torch.set_num_threads(beside['threads'])
    r = replace(recipe(args.model, args.nepochs), **changed)
    device = pick_device()
    dtype = pick_dtype(beside['precision'], device)
    maker = partial(Fast, widths=beside['widths']) if 'widths' in beside else args.model
    data = split(cifar10_or_tiny(args.tiny), 50 if args.tiny else 5000)

    start = time.perf_counter()
    model = make_model(maker, len(data.classes), seed=beside['seed'])
    learn = make_learner(model, data, r, Compute(device, dtype, beside['seed']))
    learn.fit(args.nepochs)
    seconds = time.perf_counter() - start

    last, (scores, labels) = learn.history[-1], learn.predict(learn.dls.valid)
    temperature = fit_temperature(scores, labels)   # `recipe.TEMPERATURES` has the means
    preds = Predictions.from_scores(scores, labels, temperature)
    result = dict(valid=last['valid_accuracy'], loss=last['valid_loss'],
                  train=last['train_accuracy'], tta=tta_accuracy(learn, learn.dls.valid),
                  temperature=temperature, nll=nll(preds), ece=ece(preds))
    print(json.dumps(dict(
        args=sys.argv[1:], **{name: round(v, 4) for name, v in result.items()},
        epochs=[round(row['valid_accuracy'], 4) for row in learn.history],
        seconds=round(seconds, 1), macs=layer_table(model)[1], recipe=r.describe())), flush=True)


if __name__ == '__main__': main()
