"""A rented machine's own commands: sky.yaml's scripts with other programs in the place of ours, the
first cell of 03_train as Colab and Kaggle run it, the image that an editor opens. What SkyPilot
says to sky.yaml is asked by `make lint` (sky_task.py)."""
import configparser, json, re, subprocess
from importlib.util import find_spec

import nbformat
import pytest
import yaml
from IPython.core.inputtransformer2 import TransformerManager

from cifar10_nbdev.params import SPECS
from conftest import ROOT

TASK = yaml.safe_load((ROOT/'sky.yaml').read_text())
CALLED = '#!/bin/sh\nprintf "%s " "${0##*/}" "$@" >> "$CALLS"\necho >> "$CALLS"\n'


def run(tmp_path, script, fails=(), **env):
    "A script's exit code, and the words of each program it has called."
    home, calls = tmp_path/'home', tmp_path/'calls.txt'
    places = home/'.local'/'bin', home/'cifar10-venv'/'bin'
    for place, names in zip(places, (['uv', 'curl'], ['papermill', 'python'])):
        place.mkdir(parents=True, exist_ok=True)
        for name in names:
            (place/name).write_text(CALLED + f'exit {int(name in fails)}\n')
            (place/name).chmod(0o755)
    calls.write_text('')
    env = dict(PATH=f'{places[0]}:/usr/bin:/bin', HOME=str(home), CALLS=str(calls),
               **{k: str(v) for k, v in (TASK['envs'] | env).items()})
    done = subprocess.run(['bash', '-c', script], cwd=tmp_path, env=env, capture_output=True)
    return done.returncode, [line.split() for line in calls.read_text().splitlines()]


def test_the_rented_machine_trains_and_checks(tmp_path):
    code, (train, check) = run(tmp_path, TASK['run'])
    assert code == 0 and (tmp_path/'output'/'.gitkeep').is_file()   # papermill makes no folder
    words = 'papermill nbs/03_train.ipynb output/run.ipynb'.split()
    assert train[:3] == words and (ROOT/words[1]).is_file()
    assert check == ['python', '-m', 'cifar10_nbdev.check', 'output']
    given = {name: value for _, name, value in re.findall('(-p) (\\S+) (\\S+)', ' '.join(train))}
    assert given == dict(output_dir='output', nepochs='40') and given.keys() <= SPECS.keys()

    code, (train, check) = run(tmp_path, TASK['run'], NEPOCHS=2, PARAMS='-p seed 1 -p lr 1e-3',
                               OUTPUT=tmp_path/'runs'/'first')
    assert train[-6:] == '-p seed 1 -p lr 1e-3'.split()
    assert train.count(str(tmp_path/'runs'/'first')) == 1 and check[-1].endswith('runs/first')


@pytest.mark.parametrize('broken, called', [('papermill', 1), ('python', 2)])
def test_a_run_that_fails_fails_the_job(tmp_path, broken, called):
    code, calls = run(tmp_path, TASK['run'], fails=[broken])
    assert code == 1 and len(calls) == called              # an old output is not checked instead


def test_the_rented_machine_is_set_up_and_examined_before_it_trains(tmp_path):
    code, (venv, install, doctor) = run(tmp_path, TASK['setup'])
    assert code == 0 and venv[:2] == ['uv', 'venv']
    assert '--allow-existing' in venv                      # set up again on the same machine
    assert install[1:3] == ['pip', 'install'] and 'requirements.txt' in install
    assert doctor == ['python', '-m', 'cifar10_nbdev.doctor']
    assert all(find_spec(f'cifar10_nbdev.{name}') for name in ('doctor', 'check'))
    assert run(tmp_path, TASK['setup'], fails=['uv'])[0] == 1
    assert run(tmp_path, TASK['setup'], fails=['python'])[0] == 1       # no GPU that works


# ---------------------------------------------------------------- a notebook alone

def first_cell():
    book = nbformat.read(ROOT/'nbs'/'03_train.ipynb', 4)
    return next(c.source for c in book.cells if c.cell_type == 'code')


@pytest.mark.parametrize('mark, missing, installs', [
    ('COLAB_RELEASE_TAG', True, True), ('KAGGLE_KERNEL_RUN_TYPE', True, True),
    ('COLAB_RELEASE_TAG', False, False), ('HOME', True, False), ('HOME', False, False)])
def test_only_colab_and_kaggle_get_the_package(monkeypatch, mark, missing, installs):
    for name in ('COLAB_RELEASE_TAG', 'KAGGLE_KERNEL_RUN_TYPE'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(mark, 'x')
    if missing: monkeypatch.setattr('importlib.util.find_spec', lambda name: None)
    asked = []
    class Shell:
        def run_line_magic(self, *words): asked.append(words)
    code = TransformerManager().transform_cell(first_cell())
    exec(code, dict(get_ipython=Shell))
    settings = configparser.ConfigParser(delimiters=['='])
    settings.read(ROOT/'settings.ini')
    url = settings['DEFAULT']['git_url']
    assert asked == [('pip', f'install -q git+{url}')]*installs


def test_badges_open_a_notebook_that_is_there():
    readme = (ROOT/'README.md').read_text()
    urls = re.findall(r'https://(?:colab|kaggle|www\.kaggle)[^\s)]+\.ipynb', readme)
    assert len(urls) == 2
    for url in urls: assert (ROOT/url.split('/blob/main/')[1]).is_file()


def test_an_editor_opens_the_image_of_burst():
    place = ROOT/'.devcontainer'
    config = json.loads((place/'devcontainer.json').read_text())
    dockerfile = place/config['build']['dockerfile']
    assert dockerfile.resolve() == ROOT/'Dockerfile'
    assert (place/config['build']['context']).resolve() == ROOT
    [home] = re.findall(r'^WORKDIR (\S+)', dockerfile.read_text(), re.M)
    assert config['workspaceFolder'] == home and f'target={home},' in config['workspaceMount']
