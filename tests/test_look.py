"The report that looks into one network: by papermill, by cells, and its functions by themselves."
import json, sys, warnings
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from conftest import ROOT
from cifar10_nbdev import compare, train
from cifar10_nbdev.core import UserError, set_seed
from cifar10_nbdev.data import SHAPES_SIZES, Data, channel_stats, shapes10
from cifar10_nbdev.folder import move_aside
from cifar10_nbdev.interpret import Predictions
from cifar10_nbdev.model import MODELS, Fast
from cifar10_nbdev.params import defaults_of
from cifar10_nbdev.predict import Classifier, ModelInfo, Outliers
from cifar10_nbdev.recipe import make_learner, recipe
from cifar10_nbdev.report import (begin, finish, load_data, save_model, show_accuracy, show_model,
                                  start)
from cifar10_nbdev.report import train as fit

SIZES = 150, 60   # of shapes10
FIGURES = 'suspicious_labels.png heat_maps.png first_filters.png feature_map.png'.split()
OWN = '''
from torch import nn
def Net(n_classes):
    return nn.Sequential(nn.Flatten(), nn.Linear(3072, n_classes))
'''


def cells(name='05b_look.ipynb'):
    "The code of the report, the cell of its parameters aside."
    book = json.loads((ROOT/'nbs'/name).read_text())
    return [''.join(c['source']) for c in book['cells']
            if c['cell_type'] == 'code' and 'tags' not in c['metadata']]


def functions(**given):
    "What the report's cells define, without running it."
    ns = given
    for code in cells():
        if code.startswith(('import ', 'def ')): exec(code, ns)
    return SimpleNamespace(**ns)


look = functions()


def report(**given):
    "Run the report's cells, as a notebook does."
    ns = dict(run=None, network=None, data_dir=None, output_dir=None, map_size=40) | given
    for code in cells(): exec(code, ns)


@pytest.fixture
def quick(monkeypatch):
    "A small data set."
    monkeypatch.delenv('IN_TEST', raising=False)
    monkeypatch.setattr(compare, 'get_data', lambda *_, **more: shapes10(SIZES))


def small_run(model, folder, sizes=SIZES):
    "A run on few images, complete but for its figures."
    run = start({**defaults_of(train), 'dataset': 'shapes10', 'model': model, 'nepochs': 1,
                 'device': 'cpu', 'verbose': 0, 'output_dir': str(folder), 'batch_size': 50,
                 'subset': 100})
    run.shapes_sizes = sizes
    for step in (load_data, begin, show_model, fit, show_accuracy, save_model, finish): step(run)
    return run.out


def pictures(folder):
    "The report's figures in a folder."
    return {name for name in FIGURES if (folder/name).exists()}


@pytest.mark.long   # a minute; nbdev_test runs the report, too
def test_papermill_looks_into_a_run(project):
    folder = small_run('fast', project.out, SHAPES_SIZES)
    words = '-p run output -p map_size 200'.split()
    done = project.papermill(*words, notebook='05b_look.ipynb', out='../output/look.ipynb',
                             cwd='nbs')
    assert done.returncode == 0, done.stderr
    book = json.loads((folder/'look.ipynb').read_text())
    outputs = [o for c in book['cells'] for o in c.get('outputs', [])]
    assert sum('image/png' in o.get('data', {}) for o in outputs) == 4
    assert not [o for o in outputs if o['output_type'] == 'error' or o.get('name') == 'stderr']
    assert pictures(folder) == {*FIGURES}
    assert all(min(Image.open(folder/name).size) > 300 for name in FIGURES)
    assert project.check().returncode == 0
    aside = move_aside(folder)                         # with the run, when the next one comes
    assert pictures(aside) == {*FIGURES} and not pictures(folder)


def test_missing_packages_are_sentences_and_the_rest_comes(tmp_path, quick, monkeypatch, capsys):
    folder = small_run('fast', tmp_path/'run')
    for name in ('cleanlab.filter', 'captum.attr', 'sklearn.manifold'):
        monkeypatch.setitem(sys.modules, name, None)
    report(run=folder)
    lines = [line for line in capsys.readouterr().out.splitlines() if 'left out' in line]
    assert len(lines) == 3 and all('pip install cifar10_nbdev[look]' in line for line in lines)
    assert pictures(folder) == {'first_filters.png'}


def test_own_network_with_and_without_its_code(tmp_path, quick, capsys):
    (tmp_path/'mynet.py').write_text(OWN)
    ns = {}
    exec(OWN, ns)
    out = small_run(ns['Net'], tmp_path/'own')
    capsys.readouterr()
    report(run=out)
    printed = capsys.readouterr().out
    assert printed.count('left out') == 1 and 'give its function too' in printed
    assert pictures(out) == {'suspicious_labels.png'}
    report(run=out, network=f'{tmp_path}/mynet.py:Net')
    printed = capsys.readouterr().out
    assert printed.count('left out') == 1 and 'no first filters' in printed
    assert pictures(out) == {*FIGURES} - {'first_filters.png'}


def test_shipped_network_without_data_shows_its_filters(tmp_path, quick, monkeypatch, capsys):
    def no_data(*_): raise UserError('CIFAR-10 is not here')
    monkeypatch.setattr('cifar10_nbdev.pictures.get_data', no_data)
    report(run='cnn', output_dir=tmp_path/'figures')
    assert 'no images: CIFAR-10 is not here' in capsys.readouterr().out
    assert pictures(tmp_path/'figures') == {'first_filters.png'}


@pytest.mark.parametrize('given, says', [
    (dict(run='no/such'), 'no run can be read'), (dict(run=5), 'no run can be read'),
    (dict(run='cnn', In=['# Parameters\nruns = []\n']), "there is no parameter 'runs'"),
    (dict(run='cnn', network='no.py:Net'), 'no network comes from')])
def test_what_is_wrong_is_a_sentence(given, says, quick):
    with pytest.raises(UserError, match=says): report(**given)


def made_up(n_classes, strength, n=60, missing=()):
    "Predictions for `n` images of so many classes; the stronger, the more are correct."
    g = torch.Generator().manual_seed(1)
    there = torch.tensor([k for k in range(n_classes) if k not in missing])
    y = there[torch.arange(n) % len(there)]
    scores = torch.randn(n, n_classes, generator=g) + strength*one_hot(y, n_classes)
    return Predictions.from_scores(scores, y)


@pytest.mark.parametrize('n_classes, strength', [(2, .5), (10, 50.), (10, -50.), (100, 3.)])
def test_figures_of_few_and_of_many_classes(n_classes, strength, quick, tmp_path, recwarn):
    names = [f'${i}_' + 'long name '*3 for i in range(n_classes)]
    x, info = shapes10((20, 60)).test_x, ModelInfo('fast', False, 'shapes10', names, (3, 32, 32),
                                                   (.5,)*3, (.25,)*3, Outliers(0.))
    preds, model = made_up(n_classes, strength), Classifier(Fast(n_classes, (4, 4, 4)), info)
    data = Data('shapes10', names, x, preds.labels, x, preds.labels, '')
    page = functions(name='made up', classes=names, data=data, map_size=60)
    found = page.suspicious_labels(preds)
    for fig in (page.plot_suspicious(data, preds, found), page.plot_map(data, preds),
                page.plot_looks(data, preds, model)):
        fig.savefig(tmp_path/'figure.png', dpi=30)
    assert len(page.suspicious_table(preds, found)) == len(found)
    assert not [w for w in recwarn if 'cifar10_nbdev' in str(w.filename)]


@pytest.fixture(scope='module')
def small():
    "A small network that still makes mistakes, its test images, and what it predicts for them."
    data = shapes10((3000, 500))
    set_seed(0)   # for the initial weights
    learn = make_learner(Fast(widths=(8, 16, 32)), data, recipe('fast', 4, batch_size=32))
    learn.fit(4)
    mean, std = (s.tolist() for s in channel_stats(data.train_x))
    info = ModelInfo('fast', False, 'shapes10', data.classes, (3, 32, 32), mean, std, Outliers(0.))
    model = Classifier(learn.model, info)
    preds = look.predict_all(model, data.test_x, data.test_y)
    return SimpleNamespace(data=data, learn=learn, info=info, model=model, preds=preds)


def own(info):
    "A network without features, and without filters."
    return Classifier(torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)), info)


def test_predictions_are_those_of_the_training(small):
    scores, labels = small.learn.predict(small.learn.dls.test)
    assert torch.allclose(small.preds.scores, scores, atol=1e-4)
    assert torch.equal(small.preds.labels, labels) and small.preds.features.shape == (500, 32)
    data = small.data
    assert look.predict_all(own(small.info), data.test_x, data.test_y).features is None


def test_wrong_labels_are_found(small):
    g = torch.Generator().manual_seed(0)
    spoiled, given = torch.randperm(500, generator=g)[:20], small.data.test_y.clone()
    given[spoiled] = (given[spoiled] + torch.randint(1, 10, (20,), generator=g)) % 10
    mislabeled = replace(small.preds, labels=given)
    found = look.suspicious_labels(mislabeled)
    assert torch.isin(found[:20], spoiled).sum() >= 5       # at random it would be one
    its_probability = mislabeled.probs[found, given[found]]
    assert (its_probability.diff() >= 0).all()              # the least probable label comes first
    assert not mislabeled.correct[found].any()


class Sums(torch.nn.Module):
    "Its scores are the sums of the red, the green and the blue pixels."
    def forward(self, x): return x.sum((2, 3))


def test_a_map_is_the_mean_over_all_squares_with_the_pixel_in_them():
    info = ModelInfo('Sums', True, 'shapes10', [*'rgb'], (3, 32, 32), [128/255]*3, [1.]*3,
                     Outliers(0.))
    image = torch.full((1, 3, 32, 32), 128, dtype=torch.uint8)
    image[:, 0, 9:17, 12:20] = 255
    sums = Classifier(Sums(), info)
    [falls] = look.occlusion(sums, image, torch.tensor([0]))
    expected, times = torch.zeros(2, 32, 32)
    for top in range(0, 25, 3):
        for left in range(0, 25, 3):
            square = slice(top, top + 8), slice(left, left + 8)
            expected[square] += (image[0, 0].float() - 128)[square].sum()/255
            times[square] += 1
    assert torch.allclose(falls, expected/times, atol=1e-3) and falls.max() > 10
    assert not look.occlusion(sums, image, torch.tensor([1])).any()   # green has nothing to lose


def test_the_map_keeps_neighbors(small):
    preds, (pick, points) = small.preds, look.feature_map(small.preds)
    assert torch.equal(pick, torch.arange(500))
    def same_class(x):
        "The fraction of images whose nearest neighbor has the same class."
        nearest = torch.cdist(x, x).fill_diagonal_(torch.inf).argmin(1)
        return (preds.labels[nearest] == preds.labels).float().mean()
    assert same_class(points) > same_class(preds.features) - .1
    some, again = look.feature_map(preds, n=60), look.feature_map(preds, n=60)
    assert len(some[0]) == 60 and torch.equal(some[1], again[1])      # the same for everyone


def test_odd_predictions_give_labels_and_a_map():
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        for p in (made_up(2, 1., 40), made_up(100, 3., 300), made_up(100, 3., 50),
                  made_up(3, 1., 5), made_up(10, 50.), made_up(10, -50.), made_up(2, -50., 4),
                  made_up(5, 1., missing=(0, 4)), made_up(4, 1., 40, missing=(1, 2, 3))):
            found = look.suspicious_labels(p)
            assert len({*found.tolist()}) == len(found) and not p.correct[found].any()
            _, points = look.feature_map(p)
            assert points.shape == (len(p.labels), 2) and points.isfinite().all()
    assert not len(look.suspicious_labels(made_up(10, 50.)))          # all correct


def test_first_filters(small):
    for make in MODELS.values(): assert look.first_conv(make(10)).weight.shape[1] == 3
    conv = look.first_conv(small.model.net)
    assert conv is small.model.net.stem
    assert torch.allclose(conv.weight[:12], -conv.weight[12:])        # the others' negatives
    with pytest.raises(UserError, match='no convolution of three channels'):
        look.first_conv(own(small.info))
