"A copy of the project for each test that runs it as a whole, so no test touches output/ or data/."
import json, os, shutil, subprocess, sys, tempfile, time
from pathlib import Path

import pytest

if 'PYTEST_XDIST_WORKER' in os.environ:   # several tests at a time
    os.environ.setdefault('OMP_NUM_THREADS', '1')
from forked import Forked

ROOT = Path(__file__).resolve().parents[1]
DEAD = 'http://127.0.0.1:9'   # a proxy where nobody listens: the network is dead, at once
SECRET = 'sesame-8c1f'        # in every environment below, and in no file that a run leaves
PAPERMILL = [sys.executable, '-m', 'papermill']
COPIED = 'settings.ini', 'setup.py', 'Makefile', 'requirements.txt', 'README.md'


class Project:
    "A copy of the project in a temporary folder, and how to run things in it."
    def __init__(self, root: Path):
        self.root, self.out, self.log = root, root/'output', root/'printed.txt'
        ignore = shutil.ignore_patterns('__pycache__', '.ipynb_checkpoints')
        for name in ('nbs', 'cifar10_nbdev'): shutil.copytree(ROOT/name, root/name, ignore=ignore)
        for name in COPIED: shutil.copy(ROOT/name, root)
        shutil.copytree(ROOT/'docs', root/'docs')
        self.out.mkdir()

    def env(self, **env: str) -> dict:
        "This project's code, no data and no network."
        path = f'{Path(sys.executable).parent}:{os.environ["PATH"]}'
        ours = dict(PATH=path, PYTHONPATH=str(self.root), http_proxy=DEAD, https_proxy=DEAD,
                    no_proxy='', CIFAR10_DATA='', AWS_SECRET_ACCESS_KEY=SECRET)
        env = {**os.environ, **ours, **env}
        env.pop('IN_TEST', None)
        return env

    def __call__(self, *args: str, cwd: str = '.', **env: str) -> subprocess.CompletedProcess:
        "Run a program to its end."
        return subprocess.run(
            args, cwd=self.root/cwd, env=self.env(**env), capture_output=True, text=True,
            timeout=600, stdin=subprocess.DEVNULL)

    def begin(self, *args: str) -> subprocess.Popen:
        "Start a program; what it prints goes to the file `log`."
        with open(self.log, 'w') as log:
            return subprocess.Popen(args, cwd=self.root, env=self.env(), stdout=log,
                                    stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)

    def printed(self) -> str:
        "What the program has printed that was started."
        return self.log.read_text()

    def wait_for(self, text: str, seconds: float = 120) -> str:
        "Wait until the program that was started has printed something."
        for _ in range(int(seconds*20)):
            if text in (printed := self.printed()): return printed
            time.sleep(.05)
        raise AssertionError(f'{text!r} was not printed in {seconds} s: {printed}')

    def begin_train(self, *words: str) -> Forked:
        "Start the training command; what it prints goes to the file `log`."
        self.log.write_text('')
        return Forked('cifar10_nbdev.train', words, self.root, self.env(), self.log, self.log)

    def forked(self, module: str, *words: str) -> subprocess.CompletedProcess:
        "Run a program of the library to its end."
        with tempfile.TemporaryDirectory() as place:
            out, err = Path(place, 'out'), Path(place, 'err')
            process = Forked(module, words, self.root, self.env(), out, err)
            try: code = process.wait(600)
            finally: process.kill()
            command = [module, *words]
            return subprocess.CompletedProcess(command, code, out.read_text(), err.read_text())

    def check(self, folder: str = 'output') -> subprocess.CompletedProcess:
        "Run `cifar10_check`."
        return self.forked('cifar10_nbdev.check', folder)

    def train(self, *words: str) -> subprocess.CompletedProcess:
        "Run `cifar10_train`."
        return self.forked('cifar10_nbdev.train', *words)

    def papermill(self, *args: str, notebook: str = 'nbs/03_train.ipynb',
                  out: str = 'output/run.ipynb', **kwargs) -> subprocess.CompletedProcess:
        "Run a notebook by papermill."
        words = notebook, out, '--log-output', '--no-progress-bar', *args
        return self(*PAPERMILL, *words, **kwargs)

    def metrics(self, folder: str = 'output') -> dict:
        "The record of a run."
        return json.loads((self.root/folder/'metrics.json').read_text())

    def files(self, folder: str = 'output') -> dict:
        "Every file below a folder, and its content."
        home = self.root/folder
        files = sorted(f for f in home.rglob('*') if f.is_file())
        return {str(f.relative_to(home)): f.read_bytes() for f in files}


def is_refusal(done: subprocess.CompletedProcess, code: int = 2) -> bool:
    "Whether a program has ended with this exit code, and with one sentence on stderr."
    return done.returncode == code and done.stderr.startswith('Error: ') and (
        done.stderr.count('\n') == 1)


# test_burst builds an image: `make burst-test`
collect_ignore = [] if 'BURST' in os.environ else ['test_burst.py']


def pytest_configure(config):
    config.addinivalue_line('markers', 'long: only with --long')


def pytest_addoption(parser):
    what = 'as often as the lab log says, not as often as CI has time for'
    parser.addoption('--long', action='store_true', help=what)


# the longest first, so that two at a time end together
FIRST = 'survive notebook runs lab benchmarks kills networks demo look track data'.split()


def pytest_collection_modifyitems(config, items):
    "`@pytest.mark.long` is for --long alone; files that take long are begun first."
    rank = {name: i for i, name in enumerate(FIRST)}
    items.sort(key=lambda item: rank.get(item.path.stem.removeprefix('test_'), len(FIRST)))
    if config.getoption('--long'): return
    items[:] = [item for item in items if not item.get_closest_marker('long')]


@pytest.fixture
def project(tmp_path): return Project(tmp_path)


@pytest.fixture(scope='session')
def trained(tmp_path_factory):
    """A project without data or network in which the command line has trained one epoch: on
    shapes10, since it was told `auto`."""
    p = Project(tmp_path_factory.mktemp('trained'))
    words = ('--dataset auto --model fast --nepochs 1 --seed 5 --batch_size 25 --subset 1000 '
             '--tta true --label_smoothing None --precision float32')
    p.done = p.train(*words.split())
    return p
