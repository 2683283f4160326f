"A copy of the project for each test that runs it as a whole, so that no test touches output/ or data/."
import json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

import pytest

if 'PYTEST_XDIST_WORKER' in os.environ: os.environ.setdefault('OMP_NUM_THREADS', '1')   # several tests at a time
from forked import Forked

ROOT = Path(__file__).resolve().parents[1]
DEAD = 'http://127.0.0.1:9'   # a proxy where nobody listens: the network is dead, at once
SECRET = 'sesame-8c1f'        # in every environment below, and in no file that a run leaves


class Project:
    "A copy of the project in a temporary folder, and how to run things in it."
    def __init__(self, root: Path):
        self.root, self.out = root, root/'output'
        for name in ('nbs', 'cifar10_nbdev'): shutil.copytree(ROOT/name, root/name, ignore=shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints'))
        for name in ('settings.ini', 'setup.py', 'Makefile', 'requirements.txt', 'README.md'): shutil.copy(ROOT/name, root)
        shutil.copytree(ROOT/'docs', root/'docs')
        self.out.mkdir()

    def env(self, **env: str) -> dict:
        "This project's code, no data and no network."
        env = {**os.environ, 'PATH': f'{Path(sys.executable).parent}:{os.environ["PATH"]}', 'PYTHONPATH': str(self.root), 'http_proxy': DEAD, 'https_proxy': DEAD, 'no_proxy': '', 'CIFAR10_DATA': '', 'AWS_SECRET_ACCESS_KEY': SECRET, **env}
        env.pop('IN_TEST', None)
        return env

    def __call__(self, *args: str, cwd: str = '.', **env: str) -> subprocess.CompletedProcess:
        "Run a program to its end."
        return subprocess.run(args, cwd=self.root/cwd, env=self.env(**env), capture_output=True, text=True, timeout=600, stdin=subprocess.DEVNULL)

    def begin(self, *args: str) -> subprocess.Popen:
        "Start a program; what it says goes to a file."
        with open(self.root/'said.txt', 'w') as said: return subprocess.Popen(args, cwd=self.root, env=self.env(), stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def wait_for(self, text: str, seconds: float = 120) -> str:
        "Wait until what was started has said something."
        for _ in range(int(seconds*20)):
            if text in (said := (self.root/'said.txt').read_text()): return said
            time.sleep(.05)
        raise AssertionError(f'{text!r} was not said in {seconds} s: {said}')

    def begin_train(self, *words: str) -> Forked:
        "Start the command line's program; what it says goes to a file."
        (said := self.root/'said.txt').write_text('')
        return Forked('cifar10_nbdev.train', words, self.root, self.env(), said, said)

    def forked(self, module: str, *words: str) -> subprocess.CompletedProcess:
        "Run a program of the library to its end."
        with tempfile.TemporaryDirectory() as place:
            said, errors = Path(place, 'said'), Path(place, 'errors')
            process = Forked(module, words, self.root, self.env(), said, errors)
            try: code = process.wait(600)
            finally: process.kill()
            return subprocess.CompletedProcess([module, *words], code, said.read_text(), errors.read_text())

    def check(self, folder: str = 'output') -> subprocess.CompletedProcess: return self.forked('cifar10_nbdev.check', folder)

    def train(self, *words: str) -> subprocess.CompletedProcess: return self.forked('cifar10_nbdev.train', *words)

    def papermill(self, *args: str, notebook: str = 'nbs/03_train.ipynb', out: str = 'output/run.ipynb', **kwargs) -> subprocess.CompletedProcess:
        return self(sys.executable, '-m', 'papermill', notebook, out, '--log-output', '--no-progress-bar', *args, **kwargs)

    def metrics(self, folder: str = 'output') -> dict: return json.loads((self.root/folder/'metrics.json').read_text())

    def files(self, folder: str = 'output') -> dict:
        "Every file below a folder, and its content."
        return {str(f.relative_to(self.root/folder)): f.read_bytes() for f in sorted((self.root/folder).rglob('*')) if f.is_file()}


collect_ignore = [] if 'BURST' in os.environ else ['test_burst.py']   # it builds an image: `make burst-test`


def pytest_configure(config): config.addinivalue_line('markers', 'long: only with --long')


def pytest_addoption(parser): parser.addoption('--long', action='store_true', help='as often as the lab log says, not as often as CI has time for')


def pytest_collection_modifyitems(config, items):
    "`@pytest.mark.long` is for --long alone."
    if not config.getoption('--long'): items[:] = [item for item in items if not item.get_closest_marker('long')]


@pytest.fixture
def project(tmp_path): return Project(tmp_path)


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    "A project without data or network in which the command line has trained one epoch: on shapes10, since it was told `auto`."
    p = Project(tmp_path_factory.mktemp('trained'))
    p.done = p(sys.executable, '-m', 'cifar10_nbdev.train', '--dataset', 'auto', '--nepochs', '1', '--seed', '5', '--batch_size', '25', '--subset', '2000', '--precision', 'float32')
    return p
