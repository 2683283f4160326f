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
    for name in ('Dockerfile', 'Makefile'):
        text = (ROOT/name).read_text().lower()
        assert 'jupyter' in text and not [word for word in ('token', 'password', 'disable_check_xsrf', 'allow_origin') if word in text.replace('with its token', '')], name


def test_no_data_is_committed():
    listed = subprocess.run(['git', '-C', ROOT, 'ls-files'], capture_output=True, text=True)
    files = listed.stdout.split() if listed.returncode == 0 else [str(f.relative_to(ROOT)) for f in ROOT.glob('nbs/**/*')]
    assert files
    assert not [f for f in files if f.startswith(('data/', 'output/')) and f != 'output/.gitkeep']
    assert not [f for f in files if f.endswith(('.tgz', '.tar.gz', '.npy', '.pt', '.pkl')) or 'batch' in f.split('/')[-1]]
