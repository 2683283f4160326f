"""`make` in a folder whose name has a space, and papermill as its users call it."""
import configparser, json, os, re, shutil, subprocess, sys

import pytest

from conftest import ROOT, Project

SPACED = 'my project é'
# in the place of every program: say how one was called; do what the next line of a recipe needs
STAND_IN = r"""#!/bin/sh
for word in "$0" "$@" "$PYTHONPATH" "$IPYTHONDIR" "$BURST" "$BURST_NEW"
do printf '%s\037' "$word"; done >> "$CALLS"
echo >> "$CALLS"
case "$0 $*" in
    *' -m sphinx '*) for last in "$@"; do :; done; mkdir -p "$last";;
    *' -m venv '*) mkdir -p "$3/bin" && for name in $NAMES; do ln -s "$MAIN" "$3/bin/$name"; done;;
    *' -c '*site*) dirname "$0";;
    *' -c '*sys.prefix*) cd "$(dirname "$0")/.." && pwd;;
    */cifar10_train*) mkdir output;;
    */uv*) echo torch==1;;
esac
"""
PROGRAMS = '''python pip burst check-wheel-contents check-jsonschema zizmor hadolint bandit
    pip-audit nbdev_test nbdev_clean twine uv'''
SMALL = '-p dataset shapes10 -p subset 300 -p precision float32'


def targets():
    "All of the Makefile, those first that others need, the one that removes everything last."
    text = (ROOT/'Makefile').read_text().replace('\\\n', ' ')
    names = re.search(r'^\.PHONY: (.+)', text, re.M)[1].split()
    return sorted(names, key=lambda name: (name == 'clean', name != 'setup'))


@pytest.fixture
def spaced(tmp_path):
    "A copy of the project in a folder with a space and a letter that is not ASCII."
    project = Project(tmp_path/SPACED)
    for name in ('docker', 'benchmarks', '.github'): shutil.copytree(ROOT/name, project.root/name)
    shutil.copy(ROOT/'Dockerfile', project.root)
    return project


@pytest.mark.parametrize('venv', ['.venv', 'our env'])
def test_every_target_keeps_a_path_with_a_space_whole(spaced, venv):
    home = spaced.root.parent
    python, calls = home/'bin'/'python', home/'calls.txt'
    python.parent.mkdir()
    python.write_text(STAND_IN)
    python.chmod(0o755)
    for name in ('uv', 'npm', 'tar'): (home/'bin'/name).symlink_to('python')
    if venv != '.venv': venv = home/venv                     # an absolute path
    env = dict(CALLS=str(calls), NAMES=PROGRAMS, MAIN=str(python),
               PATH=f'{python.parent}:{os.environ["PATH"]}')
    done = spaced('make', *targets(), f'VENV={venv}', f'PYTHON={python}', 'MODEL=two words', **env)
    assert done.returncode == 0, done.stderr
    assert 'not found' not in done.stderr and 'No such' not in done.stderr, done.stderr
    called = [line.split('\37') for line in calls.read_text().splitlines()]
    assert len(called) > 60
    whole = re.compile(r'my project é(?=/|$)|our env(?=[-/]|$)|two words(?=/|$)')
    piece = re.compile(r'(my|our|two)$|^(project é|env|words)\b')
    for words in called:
        assert not any(piece.search(whole.sub('', word)) for word in words), words
    left = {p.name for p in home.iterdir()} - {'bin', 'calls.txt'}
    assert left == {SPACED}                                  # and nothing beside it


@pytest.mark.long   # above, without Python itself
def test_make_train_in_a_folder_with_a_space_and_without_output(spaced):
    shutil.rmtree(spaced.out)
    (spaced.root/'.venv').symlink_to(sys.prefix)
    (spaced.root/'.stamp').touch()                           # it has all packages
    words = f'--inject-paths {SMALL}'                        # papermill's own names as well
    done = spaced('make', 'train', 'STAMP=.stamp', 'NEPOCHS=1', f'PARAMS={words}')
    assert done.returncode == 0, done.stderr
    assert 'PAPERMILL_OUTPUT_PATH = ' in (spaced.out/'run.ipynb').read_text()
    assert re.search('^epoch 1/1: ', done.stdout, re.M)      # by IPython's profile in .venv
    assert spaced.metrics()['status'] == 'complete'
    assert (spaced.out/'run.html').stat().st_size > 100_000


def test_the_image_has_what_compiling_needs():
    [installed] = re.findall(r'apt-get install (.+?) &&', (ROOT/'Dockerfile').read_text())
    assert {'gcc', 'libc6-dev'} < set(installed.split())     # Triton compiles C


def test_the_image_makes_the_folder_that_papermill_writes_to(tmp_path):
    [entry] = re.findall(r'^ENTRYPOINT (.+)', (ROOT/'Dockerfile').read_text(), re.M)
    tini, words = json.loads(entry)[:3], json.loads(entry)[3:]
    assert tini == ['tini', '-g', '--']
    said = 'it; "is" $HOME *'
    for _ in range(2):                                       # with the folder, and without
        done = subprocess.run([*words, 'sh', '-c', 'ls; echo "$1"; exit 7', 'sh', said],
                              cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stdout, done.stderr) == (7, f'output\n{said}\n', '')


# the newest of each that was tried and fails, and what fails in it
TOO_OLD = dict(
    filelock='3.20.0',     # a lock that is a link empties what it leads to
    pillow='10.0.1',       # no has_transparency_data
    pydantic='2.6.4',      # no with_config
    onnxscript='0.5.7')    # no export from the torch of the lock


def test_the_versions_asked_for_work_and_the_lock_has_such():
    from packaging.requirements import Requirement
    settings = configparser.ConfigParser(delimiters=['='], interpolation=None)
    settings.read(ROOT/'settings.ini')
    given = settings['DEFAULT']
    words = ' '.join(given[k] for k in given if k.endswith('requirements')).split()
    asked = {r.name: r.specifier for r in map(Requirement, words)}
    for name, version in TOO_OLD.items(): assert version not in asked[name], name
    lines = (ROOT/'requirements.txt').read_text().splitlines()
    locked = [Requirement(line) for line in lines if not line.startswith('#')]
    del asked['mlflow']   # the tests have its client alone
    assert asked.keys() <= {r.name for r in locked}, 'run make lock'
    for r in locked:
        [pin] = r.specifier
        assert pin.version in asked.get(r.name, r.specifier), f'run make lock: {r}'
