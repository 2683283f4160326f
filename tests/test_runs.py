"Whole runs, as a user starts them: the command line, papermill, make."
import json, os, sys

import pytest

from conftest import SECRET

FILES = {'metrics.json', 'model_log.txt', 'checkpoint.safetensors', '.lock', 'history.csv', 'predictions.csv', 'training_example_images.png', 'model_losses.png', 'model_losses.svg', 'class_accuracy.png',
         'confusion_matrix.png', 'wrong_examples.png', 'surest_wrong_examples.png', 'reliability.png', 'reliability.svg', 'model.safetensors', 'model.json'}


def numbers(metrics): return [{k: v for k, v in row.items() if k != 'seconds'} for row in metrics['history']]


def test_command_line_trains(trained):
    assert trained.done.returncode == 0, trained.done.stderr
    assert set(trained.files()) == FILES
    m = trained.metrics()
    assert (m['status'], m['dataset'], m['nepochs'], m['n_train'], m['n_test']) == ('complete', 'shapes10', 1, 2_000, 1_000)
    assert m['n_parameters'] == 2_396_330
    assert m['test_accuracy'] > .2   # ten classes: luck is .1, give or take .01
    lines = trained.done.stdout.splitlines()
    assert sum(line.startswith('epoch 1/1: training loss') for line in lines) == 1
    assert trained.files()['model_log.txt'].decode().splitlines()[-1] == lines[-1]


def test_papermill_gives_the_same_numbers_from_any_folder(trained, project):
    done = project.papermill('-p', 'dataset', 'shapes10', '-p', 'nepochs', '1', '-p', 'seed', '5', '-p', 'batch_size', '25', '-p', 'subset', '2000', '-p', 'precision', 'float32',
                             notebook='03_train.ipynb', out='../output/run.ipynb', cwd='nbs')
    assert done.returncode == 0, done.stderr
    assert set(project.files()) == FILES | {'run.ipynb', 'report.ipynb'}          # output/ is the project's, though papermill was called in nbs/
    a, b = trained.metrics(), project.metrics()
    assert numbers(a) == numbers(b)
    assert [a[k] for k in ('train_accuracy', 'test_accuracy', 'confusion')] == [b[k] for k in ('train_accuracy', 'test_accuracy', 'confusion')]
    for name, content in {**trained.files(), **project.files()}.items(): assert SECRET.encode() not in content, name      # which both environments held
    assert 'epoch 1/1: training loss' in done.stderr               # papermill --log-output shows the line in the terminal
    cells = [c for c in json.loads(project.files()['run.ipynb'])['cells'] if c['cell_type'] == 'code']
    pictures = [o for c in cells for o in c['outputs'] if 'image/png' in o.get('data', {})]
    assert len(pictures) == 7
    [top] = [o['data']['text/markdown'] for c in cells for o in c['outputs'] if 'text/markdown' in o.get('data', {})]
    top = ''.join(top)
    assert top.startswith('**shapes10 (generated shapes, not CIFAR-10): test accuracy') and '| epochs | 1 |' in top     # the result went up into the table
    assert all(len(c['outputs']) <= 1 for c in cells)               # one entry a cell: no debris
    assert not [o for c in cells for o in c['outputs'] if o['output_type'] == 'error' or o.get('name') == 'stderr']


def test_fast_network_with_its_extra_figure(project):
    done = project.train('--dataset', 'shapes10', '--model', 'fast', '--nepochs', '1', '--subset', '2000', '--tta', 'true', '--label_smoothing', 'None', '--batch_size', '50')
    assert done.returncode == 0, done.stderr
    m = project.metrics()
    assert (m['status'], m['model'], m['parameters']['label_smoothing'], m['recipe']['batch_size']) == ('complete', 'fast', None, 50)
    assert m['test_accuracy'] > .2 and m['tta_accuracy'] > .2 and m['n_parameters'] <= 2_500_000
    assert abs(m['images_per_second']*m['seconds'] - 2000) < 1
    log = project.files()['model_log.txt'].decode()
    assert f"{m['macs']:,}" in log and f"another figure: {m['tta_accuracy']:.2%}" in log


REFUSED = {'--dataset shapes10 --output_dir settings.ini': 'is a file', '--dataset cifar10': "train on dataset='shapes10'", '--dataset cifar10 --data_dir nowhere': 'does not exist'}


def test_command_line_refuses_in_one_sentence(project):
    (project.out/'metrics.json').write_text('{"started": "20260101T000000Z", "files": ["metrics.json"]}')
    before = project.files('.')
    for words, why in REFUSED.items():
        done = project.train(*words.split())
        assert done.returncode == 2 and done.stderr.count('\n') == 1 and done.stderr.startswith('Error: ') and why in done.stderr
    after = project.files('.')
    after.pop('data/.lock', None)   # held while a download was tried
    assert after == before


@pytest.mark.parametrize('args, says', [
    (['-p', 'nepoch', '3'], 'did you mean nepochs?'),
    (['-p', 'nepochs', '0'], 'nepochs must be a whole number from 1 to 10000, not 0'),
    ([], "train on dataset='shapes10'")])
def test_papermill_refuses_and_keeps_what_was_there(project, args, says):
    for name in FILES: (project.out/name).write_text('{"started": "20260101T000000Z", "files": ["metrics.json"]}')
    before = project.files()
    done = project.papermill(*args)
    assert done.returncode != 0 and says in done.stderr
    after = project.files()
    [error] = [o for c in json.loads(after.pop('run.ipynb'))['cells'] for o in c.get('outputs', []) if o['output_type'] == 'error']
    assert len(error['traceback']) == 1 and error['traceback'][0].startswith('Error: ')
    assert after == before


def test_auto_without_data_says_so_everywhere(trained):
    assert trained.done.stdout.count('THIS IS NOT CIFAR-10') == 2          # at the beginning and at the end
    log, m = trained.files()['model_log.txt'].decode(), trained.metrics()
    assert log.count('THIS IS NOT CIFAR-10') == 2 and 'shapes10 (generated shapes, not CIFAR-10): test accuracy' in log
    assert m['dataset'] == 'shapes10' and m['parameters']['dataset'] == 'auto' and m['warning'].startswith('THIS IS NOT CIFAR-10')
    assert 'CIFAR-10: ' not in log.replace('not CIFAR-10', '')


def fake_python(folder, script):
    "A program in place of Python."
    path = folder/'python-fake'
    path.write_text(f'#!/bin/sh\n{script}\n')
    path.chmod(0o755)
    return path


def test_make_names_a_wrong_python(project, tmp_path):
    old = fake_python(tmp_path, f"""exec {sys.executable} -c "import sys; sys.version_info = (3, 9, 2); exec(sys.argv[-1])" "$@" """)
    for python, says in ((old, 'Python 3.11 to 3.13 is needed, but'), (tmp_path/'missing', 'install Python 3.11 to 3.13, or name one')):
        done = project('make', 'setup', f'PYTHON={python}', 'VENV=env')
        assert done.returncode != 0 and f'{says}' in done.stderr
        assert 'Traceback' not in done.stderr and done.stderr.count('Error: ') == 1


def test_make_names_a_missing_venv(project, tmp_path):
    bare = fake_python(tmp_path, f"""case "$2" in *ensurepip*) exit 1;; esac; exec {sys.executable} "$@" """)
    done = project('make', 'setup', f'PYTHON={bare}', 'VENV=env')
    assert done.returncode != 0 and 'has no venv module' in done.stderr and not (project.root/'env').exists()


def test_kept_network_answers_as_the_run_did(trained, tmp_path):
    import csv
    from PIL import Image
    from cifar10_nbdev.data import shapes10
    from cifar10_nbdev.predict import load_model
    model, x = load_model(trained.out), shapes10().test_x
    rows = list(csv.DictReader(trained.files()['predictions.csv'].decode().splitlines()))
    answers, energy = model(x)
    assert [model.classes[i] for i in answers.argmax(1)] == [row['predicted'] for row in rows]
    assert max(abs(answers[i, j].item() - float(row[f'p_{c}'])) for i, row in enumerate(rows) for j, c in enumerate(model.classes)) < 1e-4
    assert 40 <= model.unlike(energy).sum() <= 60     # one in twenty of 1,000
    Image.fromarray(x[0].permute(1, 2, 0).numpy()).save(trained.root/'one.png')
    done = trained(sys.executable, '-m', 'cifar10_nbdev.predict', 'one.png', 'settings.ini', '--json')
    assert done.returncode == 1                       # settings.ini is no picture
    first, second = json.loads(done.stdout)['pictures']
    assert first['top'][0][0] == rows[0]['predicted'] and 'is no picture' in second['error']
