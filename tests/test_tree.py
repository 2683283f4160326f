"The notebooks are the source: what is committed is clean, exported, readable, and has its README."
import ast
import configparser
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import ROOT

NOTEBOOKS = sorted((ROOT/'nbs').glob('*.ipynb'))
# a visible cell that does one of these shows something
SHOWS = re.compile(r'^(plot_\w+|show_\w+|print|display)\(|^fig\b|^\w+\.(head|style)\b', re.M)
HIDDEN = re.compile(r'^#\| *(hide|eval|export)', re.M)
# reports: what they show is a run's
WITHOUT_OUTPUTS = '03_train.ipynb', '04_compare.ipynb', '05b_look.ipynb'


def code_cells(path: Path) -> list[dict]:
    return [c for c in json.loads(path.read_text())['cells'] if c['cell_type'] == 'code']


def source(cell: dict) -> str: return ''.join(cell['source'])


def test_notebooks_are_clean_and_exported(project):
    before = {n: project.files(n) for n in ('nbs', 'cifar10_nbdev')}
    for command in ('nbdev_clean', 'nbdev_export'):
        done = project(command)
        assert done.returncode == 0, done.stderr
    for folder, files in before.items():
        after = project.files(folder)
        after = {n: c for n, c in after.items()
                 if '__pycache__' not in n and not n.endswith('.last_checked')}
        changed = sorted(n for n in files.keys() | after.keys() if files.get(n) != after.get(n))
        assert not changed, f'run nbdev_clean and nbdev_export: they change {folder}/ {changed}'


def test_readme_is_made_from_index(project):
    before = (project.root/'README.md').read_text()
    assert project('touch', '.stamp').returncode == 0
    done = project('make', 'readme', f'BIN={Path(sys.executable).parent}', 'STAMP=.stamp')
    assert done.returncode == 0, done.stderr
    assert (project.root/'README.md').read_text() == before, 'run make readme'
    assert before.count('\n') <= 130, 'the README is for a first visit: details stand in docs/'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_what_a_cell_shows_is_committed(path):
    if path.name in WITHOUT_OUTPUTS: return
    dark = [source(c) for c in code_cells(path)
            if SHOWS.search(source(c)) and not HIDDEN.search(source(c)) and not c['outputs']]
    assert not dark, f'run `make notebooks`: a cell shows something, but not here:\n{dark[0]}'
    outputs = json.dumps([c['outputs'] for c in code_cells(path)])
    assert '"stderr"' not in outputs and '"output_type": "error"' not in outputs
    assert str(ROOT) not in outputs and '/tmp/' not in outputs, 'a path of one machine'


@pytest.mark.parametrize('path', NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_imports_only_from_those_above_it(path):
    order = {}
    for i, p in enumerate(NOTEBOOKS):
        found = re.search(r'^#\| *default_exp (\w+)', '\n'.join(map(source, code_cells(p))), re.M)
        if found: order[found[1]] = i
    code = '\n'.join(map(source, code_cells(path)))
    used = re.findall(r'^from cifar10_nbdev(?:\.(\w+) import| import (\w+))', code, re.M)
    below = [name for name in map(''.join, used)
             if order.get(name, -1) > NOTEBOOKS.index(path)]
    assert not below, f'{path.name} imports from a notebook below it: {below}'


def test_parameters_cell_keeps_its_tag_and_all_parameters(tmp_path):
    from cifar10_nbdev.params import SPECS, notes_of
    tagged = [c for c in code_cells(ROOT/'nbs'/'03_train.ipynb')
              if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1, 'papermill injects behind the cell tagged parameters'
    (tmp_path/'cell.py').write_text(source(tagged[0]))
    assert list(notes_of(dict(__file__=tmp_path/'cell.py'))) == list(SPECS)


def test_report_has_no_outputs_and_stays_short():
    code = code_cells(ROOT/'nbs'/'03_train.ipynb')
    assert not any(c['outputs'] for c in code)
    assert len(code) <= 20
    assert all(len(c['source']) <= 6 for c in code if 'tags' not in c['metadata'])


def test_report_takes_every_step_in_order():
    from cifar10_nbdev.report import STEPS
    code = '\n'.join(map(source, code_cells(ROOT/'nbs'/'03_train.ipynb')))
    calls = re.findall(r'^(\w+)\(run\)$', code, re.M)
    assert calls == [step.__name__ for step in STEPS]


def test_jupyter_keeps_its_token():
    forbidden = 'token', 'password', 'disable_check_xsrf', 'allow_origin'
    for name in ('Dockerfile', 'Makefile', 'docker/jupyter_server_config.py'):
        text = (ROOT/name).read_text().lower()
        found = [word for word in forbidden if word in text.replace('with its token', '')]
        assert 'jupyter' in text and not found, name


def settings() -> dict:
    parser = configparser.ConfigParser(delimiters=['='], interpolation=None)
    parser.read(ROOT/'settings.ini')
    return parser['DEFAULT']


def test_version_has_one_place():
    import cifar10_nbdev
    version = settings()['version']
    assert cifar10_nbdev.__version__ == version, 'run nbdev_export'
    newest = (ROOT/'CHANGELOG.md').read_text().split('\n## ')[1].split()[0]
    assert newest == version, 'the newest section of CHANGELOG.md is for another version'


def test_image_reads_only_what_it_needs():
    lines = (ROOT/'.dockerignore').read_text().split()
    dockerfile = (ROOT/'Dockerfile').read_text().splitlines()
    copied = [line.split()[1] for line in dockerfile if line.startswith('COPY')]
    assert lines[0] == '*'
    assert sorted(lines[1:]) == ['!Dockerfile*', '!docker/', '!requirements.txt']
    assert copied and all(re.match('requirements.txt|docker/', name) for name in copied)
    ignored = (ROOT/'.burstignore').read_text().split()
    assert 'data/' in ignored                                        # neither sent nor brought back
    assert not {'output/', 'output', '*.ipynb'} & set(ignored)       # results come back


def test_release_check_installs_what_the_settings_allow():
    "`make needs` goes to uv, which takes the oldest of it: floors, and nothing held back."
    shown = subprocess.run(['make', '-s', '-C', ROOT, 'needs'], capture_output=True, text=True)
    needs = shown.stdout.split()
    stated = [settings()[k] for k in ('requirements', 'onnx_requirements', 'sweep_requirements')]
    assert needs == ' '.join(stated).split()
    not_a_floor = [need for need in needs if not re.fullmatch(r'[\w-]+>=\d+(\.\d+)+', need)]
    assert not not_a_floor, f'a range is name>=version: {not_a_floor}'


def test_requirements_are_what_the_library_imports():
    "What a module imports when it is imported itself; extras are imported where they are used."
    used = set()
    for path in (ROOT/'cifar10_nbdev').glob('[a-z]*.py'):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.Import): used |= {alias.name for alias in node.names}
            if isinstance(node, ast.ImportFrom) and not node.level: used.add(node.module)
    used = {'pillow' if name.startswith('PIL') else name.split('.')[0] for name in used}
    used -= {*sys.stdlib_module_names, 'cifar10_nbdev'}
    stated = set(re.findall(r'([\w-]+)>=', settings()['requirements']))
    assert used == stated - {'torchvision'}   # its version is recorded, and must fit torch's


def test_library_imports_without_what_only_notebooks_need():
    files = (ROOT/'cifar10_nbdev').glob('[a-z]*.py')
    modules = sorted(f.stem for f in files)
    assert len(modules) > 20
    missing = ['IPython', 'ipykernel', 'jupyterlab', 'papermill', 'nbdev', 'execnb', 'nbformat',
               'nbconvert', 'jupyter_client', 'psutil', 'pytest']
    code = f'''import sys
for name in {missing}: sys.modules[name] = None
import {', '.join('cifar10_nbdev.' + m for m in modules)}'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_no_data_is_committed():
    listed = subprocess.run(['git', '-C', ROOT, 'ls-files'], capture_output=True, text=True)
    files = listed.stdout.split()
    if listed.returncode: files = [str(f.relative_to(ROOT)) for f in ROOT.glob('nbs/**/*')]
    assert files
    kept = [f for f in files if f.startswith(('data/', 'output/')) and f != 'output/.gitkeep']
    arrays = [f for f in files if f.endswith(('.tgz', '.tar.gz', '.npy', '.npz', '.pt', '.pkl'))]
    batches = [f for f in files if re.match(r'(data|test)_batch', f.split('/')[-1])]
    assert not kept + arrays + batches
