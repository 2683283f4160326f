"Whole runs, as a user starts them: the command line, papermill, make."
import csv, json, sys

import pytest
from PIL import Image

from conftest import SECRET, is_refusal
from cifar10_nbdev.data import shapes10
from cifar10_nbdev.predict import load_model

FILES = set('''metrics.json model_log.txt checkpoint.safetensors .lock history.csv predictions.csv
    training_example_images.png model_losses.png model_losses.svg class_accuracy.png
    confusion_matrix.png wrong_examples.png surest_wrong_examples.png reliability.png
    reliability.svg model.safetensors model.json'''.split())
OLD_RUN = '{"started": "20260101T000000Z", "files": ["metrics.json"]}'


def numbers(metrics):
    "The history without its times."
    return [{k: v for k, v in row.items() if k != 'seconds'} for row in metrics['history']]


def test_command_line_trains(trained):
    assert trained.done.returncode == 0, trained.done.stderr
    assert set(trained.files()) == FILES
    m = trained.metrics()
    assert (m['status'], m['dataset'], m['nepochs']) == ('complete', 'shapes10', 1)
    assert (m['model'], m['n_parameters']) == ('fast', 614_256)
    assert (m['n_train'], m['n_test'], m['recipe']['batch_size']) == (1_000, 1_000, 25)
    assert m['parameters']['label_smoothing'] is None
    for name in ('test_accuracy', 'tta_accuracy'):
        assert m[name] > .2   # ten classes: luck is .1, give or take .01
    assert abs(m['images_per_second']*m['seconds'] - 1000) < 1
    log = trained.files()['model_log.txt'].decode()
    assert f"{m['macs']:,}" in log and f"another figure: {m['tta_accuracy']:.2%}" in log
    lines = trained.done.stdout.splitlines()
    assert sum(line.startswith('epoch 1/1: training loss') for line in lines) == 1
    assert trained.files()['model_log.txt'].decode().splitlines()[-1] == lines[-1]


def outputs_of(cells, mime):
    "What the cells show in one format."
    outputs = [o.get('data', {}) for c in cells for o in c['outputs']]
    return [''.join(data[mime]) for data in outputs if mime in data]


def test_papermill_gives_the_same_numbers_from_any_folder(trained, project):
    given = dict(dataset='shapes10', model='fast', nepochs=1, seed=5, batch_size=25, subset=1000,
                 tta=True, precision='float32')
    words = [word for name, value in given.items() for word in ('-p', name, str(value))]
    done = project.papermill(*words, notebook='03_train.ipynb', out='../output/run.ipynb',
                             cwd='nbs')
    assert done.returncode == 0, done.stderr
    # output/ is the project's, though papermill was called in nbs/
    assert set(project.files()) == FILES | {'run.ipynb', 'report.ipynb'}
    a, b = trained.metrics(), project.metrics()
    assert numbers(a) == numbers(b)
    for name in ('train_accuracy', 'test_accuracy', 'tta_accuracy', 'confusion'):
        assert a[name] == b[name]
    for name, content in {**trained.files(), **project.files()}.items():
        assert SECRET.encode() not in content, name                # which both environments held
    assert 'epoch 1/1: training loss' in done.stderr   # --log-output: it is in the terminal too
    book = json.loads(project.files()['run.ipynb'])
    cells = [c for c in book['cells'] if c['cell_type'] == 'code']
    assert len(outputs_of(cells, 'image/png')) == 7 + 1            # the figures; the small curves
    [board] = [c for c in cells if ''.join(c['source']).startswith('board = ')]
    [top] = outputs_of([board], 'text/markdown')                   # the result went up to the top
    assert top.startswith('**shapes10 (generated shapes, not CIFAR-10): test accuracy')
    assert '| epochs | 1 |' in top and len(outputs_of([board], 'image/png')) == 1
    for c in cells:
        assert len(c['outputs']) <= (2 if c is board else 1)       # one entry a cell: no debris
        for o in c['outputs']: assert o['output_type'] != 'error' and o.get('name') != 'stderr'


REFUSED = {
    '--dataset shapes10 --output_dir settings.ini': 'is a file',
    '--dataset cifar10': "train on dataset='shapes10'",
    '--dataset cifar10 --data_dir nowhere': 'does not exist'}


def test_command_line_refuses_in_one_sentence(project):
    (project.out/'metrics.json').write_text(OLD_RUN)
    before = project.files('.')
    for words, why in REFUSED.items():
        done = project.train(*words.split())
        assert is_refusal(done) and why in done.stderr, done.stderr
    after = project.files('.')
    after.pop('data/.lock', None)   # held while a download was tried
    assert after == before


@pytest.mark.parametrize('args, says', [
    pytest.param(['-p', 'nepoch', '3'], 'did you mean nepochs?', marks=pytest.mark.long),
    pytest.param(['-p', 'nepochs', '0'], 'nepochs must be a whole number from 1 to 10000, not 0',
                 marks=pytest.mark.long),
    ([], "train on dataset='shapes10'")])
def test_papermill_refuses_and_keeps_what_was_there(project, args, says):
    for name in FILES: (project.out/name).write_text(OLD_RUN)
    before = project.files()
    done = project.papermill(*args)
    assert done.returncode != 0 and says in done.stderr
    after = project.files()
    cells = json.loads(after.pop('run.ipynb'))['cells']
    outputs = [o for c in cells for o in c.get('outputs', [])]
    [error] = [o for o in outputs if o['output_type'] == 'error']
    [line] = error['traceback']
    assert line.startswith('Error: ')
    assert after == before


def test_auto_without_data_says_so_everywhere(trained):
    warning = 'THIS IS NOT CIFAR-10'
    assert trained.done.stdout.count(warning) == 2          # at the beginning and at the end
    log, m = trained.files()['model_log.txt'].decode(), trained.metrics()
    assert log.count(warning) == 2
    assert 'shapes10 (generated shapes, not CIFAR-10): test accuracy' in log
    assert 'CIFAR-10: ' not in log.replace('not CIFAR-10', '')
    assert m['dataset'] == 'shapes10' and m['parameters']['dataset'] == 'auto'
    assert m['warning'].startswith(warning)


def fake_python(folder, script):
    "A program in place of Python."
    path = folder/'python-fake'
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)
    return path


def test_make_names_a_wrong_python(project, tmp_path):
    pretend = 'import sys; sys.version_info = (3, 9, 2); exec(sys.argv[-1])'
    old = fake_python(tmp_path, f'exec {sys.executable} -c "{pretend}" "$@"')
    cases = {old: 'Python 3.11 to 3.13 is needed, but',
             tmp_path/'missing': 'install Python 3.11 to 3.13, or name one'}
    for python, says in cases.items():
        done = project('make', 'setup', f'PYTHON={python}', 'VENV=env')
        assert done.returncode != 0 and says in done.stderr
        assert 'Traceback' not in done.stderr and done.stderr.count('Error: ') == 1


def test_make_names_a_missing_venv(project, tmp_path):
    script = f'case "$2" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@"'
    bare = fake_python(tmp_path, script)
    done = project('make', 'setup', f'PYTHON={bare}', 'VENV=env')
    assert done.returncode != 0 and 'has no venv module' in done.stderr
    assert not (project.root/'env').exists()


def test_saved_network_predicts_as_the_run_did(trained):
    model, x = load_model(trained.out), shapes10().test_x
    rows = list(csv.DictReader(trained.files()['predictions.csv'].decode().splitlines()))
    probs, scores = model(x)
    predicted = [model.classes[i] for i in probs.argmax(1)]
    assert predicted == [row['predicted'] for row in rows]
    for p, row in zip(probs.tolist(), rows):
        assert max(abs(p[j] - float(row[f'p_{c}'])) for j, c in enumerate(model.classes)) < 1e-4
    assert 40 <= model.out_of_distribution(scores).sum() <= 60     # one in twenty of 1,000


def test_predict_command(trained):
    rows = list(csv.DictReader(trained.files()['predictions.csv'].decode().splitlines()))
    Image.fromarray(shapes10().test_x[0].permute(1, 2, 0).numpy()).save(trained.root/'one.png')
    done = trained.forked('cifar10_nbdev.predict', 'one.png', 'settings.ini', '--json')
    assert done.returncode == 1                       # settings.ini is no picture
    first, second = json.loads(done.stdout)['pictures']
    assert first['top'][0][0] == rows[0]['predicted'] and 'cannot be read' in second['error']
    assert isinstance(first['out_of_distribution'], bool)
