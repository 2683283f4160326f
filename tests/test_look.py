"The report that looks into one network: by papermill, and cell by cell where a part is missing."
import json, sys

import pytest
import torch
from PIL import Image
from torch.nn.functional import one_hot

from conftest import ROOT
from cifar10_nbdev import compare, look, train
from cifar10_nbdev.core import UserError
from cifar10_nbdev.data import SHAPES_SIZES, Data, shapes10
from cifar10_nbdev.folder import move_aside
from cifar10_nbdev.interpret import Predictions
from cifar10_nbdev.model import MODELS, Fast
from cifar10_nbdev.params import defaults_of
from cifar10_nbdev.predict import Classifier, ModelInfo, Outliers
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


def cells(name='05c_look.ipynb'):
    "The code of the report, the cell of its parameters aside."
    book = json.loads((ROOT/'nbs'/name).read_text())
    return [''.join(c['source']) for c in book['cells']
            if c['cell_type'] == 'code' and 'tags' not in c['metadata']]


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
    done = project.papermill(*words, notebook='05c_look.ipynb', out='../output/look.ipynb',
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


def made_up(n_classes, strength):
    "Predictions for 60 images of so many classes; the stronger, the more are correct."
    g = torch.Generator().manual_seed(1)
    y = torch.arange(60) % n_classes
    scores = torch.randn(60, n_classes, generator=g) + strength*one_hot(y, n_classes)
    return Predictions.from_scores(scores, y)


@pytest.mark.parametrize('n_classes, strength', [(2, .5), (10, 50.), (10, -50.), (100, 3.)])
def test_figures_of_few_and_of_many_classes(n_classes, strength, quick, tmp_path, recwarn):
    names = [f'${i}_' + 'long name '*3 for i in range(n_classes)]
    x, info = shapes10((20, 60)).test_x, ModelInfo('fast', False, 'shapes10', names, (3, 32, 32),
                                                   (.5,)*3, (.25,)*3, Outliers(0.))
    preds, model = made_up(n_classes, strength), Classifier(Fast(n_classes, (4, 4, 4)), info)
    data = Data('shapes10', names, x, preds.labels, x, preds.labels, '')
    ns = dict(name='made up', classes=names, data=data, map_size=60)
    for code in cells():
        if code.startswith(('import ', 'def ')): exec(code, ns)
    found = look.suspicious_labels(preds)
    for fig in (ns['plot_suspicious'](data, preds, found), ns['plot_map'](data, preds),
                ns['plot_looks'](data, preds, model)):
        fig.savefig(tmp_path/'figure.png', dpi=30)
    assert len(ns['suspicious_table'](preds, found)) == len(found)
    assert not [w for w in recwarn if 'cifar10_nbdev' in str(w.filename)]


def test_networks_of_the_library_have_first_filters():
    for make in MODELS.values(): assert look.first_conv(make(10)).weight.shape[1] == 3
