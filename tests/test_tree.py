"The notebooks are the source: what is committed is clean, exported, and has its README."
import json, subprocess, sys
from pathlib import Path

from conftest import ROOT


def test_notebooks_are_clean_and_exported(project):
    before = {n: project.files(n) for n in ('nbs', 'cifar10_nbdev')}
    for command in ('nbdev_clean', 'nbdev_export'):
        done = project(command)
        assert done.returncode == 0, done.stderr
    for folder, files in before.items():
        after = project.files(folder)
        after = {n: c for n, c in after.items() if '__pycache__' not in n and not n.endswith('.last_checked')}
        changed = sorted(n for n in files.keys() | after.keys() if files.get(n) != after.get(n))
        assert not changed, f'run nbdev_clean and nbdev_export: they change {folder}/ {", ".join(changed)}'


def test_readme_is_made_from_index(project):
    before = (project.root/'README.md').read_text()
    assert project('touch', '.stamp').returncode == 0
    done = project('make', 'readme', f'BIN={Path(sys.executable).parent}', 'STAMP=.stamp')
    assert done.returncode == 0, done.stderr
    assert (project.root/'README.md').read_text() == before, 'run make readme'


def test_parameters_cell_keeps_its_tag_and_all_parameters():
    from cifar10_nbdev.params import SPECS, comments
    cells = json.loads((ROOT/'nbs'/'03_train.ipynb').read_text())['cells']
    tagged = [c for c in cells if 'parameters' in c['metadata'].get('tags', [])]
    assert len(tagged) == 1, 'papermill injects behind the cell tagged parameters; nbdev_clean strips tags without allowed_cell_metadata_keys'
    assert list(comments(''.join(tagged[0]['source']))) == list(SPECS)


def test_report_has_no_outputs_and_stays_short():
    code = [c for c in json.loads((ROOT/'nbs'/'03_train.ipynb').read_text())['cells'] if c['cell_type'] == 'code']
    assert not any(c['outputs'] for c in code)
    assert len(code) <= 20
    assert all(len(c['source']) <= 6 for c in code if 'tags' not in c['metadata'])


def test_jupyter_keeps_its_token():
    for name in ('Dockerfile', 'Makefile', 'docker/jupyter_server_config.py'):
        text = (ROOT/name).read_text().lower()
        assert 'jupyter' in text and not [word for word in ('token', 'password', 'disable_check_xsrf', 'allow_origin') if word in text.replace('with its token', '')], name


def test_version_has_one_place():
    import configparser, cifar10_nbdev
    settings = configparser.ConfigParser(delimiters=['='], interpolation=None)
    settings.read(ROOT/'settings.ini')
    version = settings['DEFAULT']['version']
    assert cifar10_nbdev.__version__ == version, 'run nbdev_export'
    assert (ROOT/'CHANGELOG.md').read_text().split('\n## ')[1].split()[0] == version, 'the newest section of CHANGELOG.md is for another version'


def test_image_reads_only_what_it_needs():
    lines = (ROOT/'.dockerignore').read_text().split()
    copied = [line.split()[1] for line in (ROOT/'Dockerfile').read_text().splitlines() if line.startswith('COPY')]
    assert lines[0] == '*' and sorted(lines[1:]) == ['!Dockerfile*', '!docker/', '!requirements.txt']
    assert copied and all(name == 'requirements.txt' or name.startswith('docker/') for name in copied)
    assert 'data/' in (ROOT/'.burstignore').read_text().split()          # neither sent nor brought back
    assert not {'output/', 'output', '*.ipynb'} & set((ROOT/'.burstignore').read_text().split())      # results come back


def test_library_imports_without_what_only_notebooks_need():
    modules = sorted(f.stem for f in (ROOT/'cifar10_nbdev').glob('*.py') if f.stem not in ('__init__', '_modidx'))
    code = f'''import sys
for name in ('IPython', 'ipykernel', 'jupyterlab', 'papermill', 'nbdev', 'execnb', 'nbformat', 'nbconvert', 'jupyter_client', 'psutil', 'pytest'): sys.modules[name] = None
import {', '.join('cifar10_nbdev.' + m for m in modules)}'''
    done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert len(modules) > 15


def test_no_data_is_committed():
    listed = subprocess.run(['git', '-C', ROOT, 'ls-files'], capture_output=True, text=True)
    files = listed.stdout.split() if listed.returncode == 0 else [str(f.relative_to(ROOT)) for f in ROOT.glob('nbs/**/*')]
    assert files
    assert not [f for f in files if f.startswith(('data/', 'output/')) and f != 'output/.gitkeep']
    assert not [f for f in files if f.endswith(('.tgz', '.tar.gz', '.npy', '.pt', '.pkl')) or 'batch' in f.split('/')[-1]]
