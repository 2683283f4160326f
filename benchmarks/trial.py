"""One training on 45,000 images, judged on the 5,000 set aside; for choosing recipes, as in docs/lab-log.md. The test set is not touched.

    CIFAR10_DATA=… python benchmarks/trial.py fast 4 lr=.17 batch_size=250 widths=24,96,192 seed=1

Names are those of `recipe.Recipe`; `widths` makes another `Fast`, `precision=float32` does without 16 bits. It prints a line of JSON. `threads=1` allows two at a time, for accuracies; seconds want the machine to themselves.
"""
import json, sys, time
from dataclasses import fields, replace
from functools import partial

import torch

from cifar10_nbdev.core import keep_freed_memory, limit_threads, set_seed
from cifar10_nbdev.data import cifar10, get_dls, split
from cifar10_nbdev.learner import mirror_shift
from cifar10_nbdev.model import Fast, layer_table, make_model
from cifar10_nbdev.recipe import Recipe, make_learner, pick_dtype, recipe


def main(model: str, nepochs: str, *changes: str):
    keep_freed_memory(); limit_threads()
    given = dict(c.split('=', 1) for c in changes)
    own = {k: given.pop(k) for k in ('widths', 'seed', 'threads', 'precision') if k in given}
    seed, nepochs = int(own.get('seed', 0)), int(nepochs)
    if 'threads' in own: torch.set_num_threads(int(own['threads']))
    kinds = {f.name: type(f.default) for f in fields(Recipe)}
    r = replace(recipe(model, nepochs), **{k: kinds[k](v) for k, v in given.items()})
    data = split(cifar10(None, lambda line: None), 5000)
    set_seed(seed)
    start = time.perf_counter()
    make = partial(Fast, widths=tuple(map(int, own['widths'].split(',')))) if 'widths' in own else model
    dls = get_dls(data, r.batch_size, 'cpu', seed, r.cutout, r.shift, r.cutmix)
    learn = make_learner(make_model(make), dls, r, dtype=pick_dtype(own.get('precision', 'auto'), dls.train.x.device))
    learn.fit(nepochs)
    seconds = time.perf_counter() - start
    scores, labels = learn.predict(dls.valid, mirror_shift)
    last = learn.history[-1]
    print(json.dumps(dict(args=sys.argv[1:], valid=round(last['valid_accuracy'], 4), loss=round(last['valid_loss'], 4), train=round(last['train_accuracy'], 4), epochs=[round(row['valid_accuracy'], 4) for row in learn.history],
                          tta=round((scores.argmax(1) == labels).float().mean().item(), 4), seconds=round(seconds, 1), macs=layer_table(learn.model)[1])), flush=True)


if __name__ == '__main__': main(*sys.argv[1:])
