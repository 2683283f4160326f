"""03_train in a live kernel: its cells failed, repeated, swapped, stopped, restarted, by a person
and by a program. Whatever was done, the record is true, and so is what the cells say.
`pytest tests/test_notebook.py --long` does each in more ways."""
import functools, html, json, os, random, re, shutil, signal, subprocess, sys, time
from pathlib import Path
from typing import NamedTuple

import nbformat
import pytest
from jupyter_client import AsyncKernelClient, BlockingKernelClient
from jupyter_client.connect import write_connection_file
from nbclient import NotebookClient
from nbclient.exceptions import DeadKernelError
from nbformat.v4 import new_code_cell, new_notebook

from cifar10_nbdev.check import check_run
from cifar10_nbdev.checkpoint import unpack
from cifar10_nbdev.core import UserError
from cifar10_nbdev.record import unseal

from conftest import PAPERMILL, ROOT, Project
from forked import Forked

BOOK = nbformat.read(ROOT/'nbs'/'03_train.ipynb', 4)
CODE = [c for c in BOOK.cells if c.cell_type == 'code']
IMPORTS, BOARD, PARAMETERS, START = (c.source for c in CODE[1:5])
STEPS = [c.source.removesuffix('(run)') for c in CODE[5:] if c.source.endswith('(run)')]
FIGURES = [s for s in STEPS if s.startswith('show_') and s not in ('show_model', 'show_accuracy')]
BARE = [s for s in STEPS if not s.startswith('show_') or s == 'show_accuracy']   # the quick ones
SMALL = dict(dataset='shapes10', subset=50, nepochs=2, batch_size=25, seed=7)
FILES = set('''metrics.json model_log.txt checkpoint.safetensors .lock history.csv predictions.csv
    training_example_images.png model_losses.png model_losses.svg class_accuracy.png
    confusion_matrix.png wrong_examples.png surest_wrong_examples.png reliability.png
    reliability.svg model.safetensors model.json'''.split())

# in each kernel: fewer shapes, a shorter wait for a lock, and ways to break a cell
HELPERS = '''
import os, signal, sys, time
import cifar10_nbdev.folder, cifar10_nbdev.progress, cifar10_nbdev.report, cifar10_nbdev.run
from matplotlib.figure import Figure

cifar10_nbdev.run.SHAPES_SIZES = 100, 100
cifar10_nbdev.folder.LOCK_WAIT = .5
LIBRARY = os.path.dirname(cifar10_nbdev.run.__file__)
calls = 0
get_ipython().run_line_magic('matplotlib', 'inline')   # as in a kernel that is not a fork

def small_figure(*args, **kwargs):
    fig = Figure(figsize=(1, 1))
    fig.subplots()
    return fig

def small_figures():
    "Most of the time would go into figures otherwise."
    for module in cifar10_nbdev.report, cifar10_nbdev.progress:
        for name in dir(module):
            if name.startswith('plot_'): setattr(module, name, small_figure)

def stop(): signal.raise_signal(signal.SIGINT)

def stop_twice():
    stop()
    stop()

def fault(): raise RuntimeError('a fault')

def die():
    while not os.path.exists(os.path.join(output_dir, 'checkpoint.safetensors')): time.sleep(.01)
    os.kill(os.getpid(), signal.SIGKILL)

def at_call(number, do):
    "Do something in the call with this number of a function of the library; count them all."
    global calls
    calls = 0
    def hook(frame, event, arg):
        global calls
        if event != 'call' or not frame.f_code.co_filename.startswith(LIBRARY): return
        calls += 1
        if do and calls == number: do()
    sys.setprofile(hook)

def at_words(words, do):
    "Do something once, when these words are printed."
    write = sys.stdout.write
    def listen(text):
        if words in text:
            sys.stdout.write = write
            write(text)
            do()
        else: write(text)
    sys.stdout.write = listen
'''


class Said(NamedTuple):
    "What a cell has shown."
    text: str      # what it printed
    error: str     # such as 'UserError: …'; '' if it did not fail
    pictures: int

    @property
    def all(self): return f'{self.text}\n{self.error}'

    @property
    def is_sentence(self):
        "Whether it is refused as people are: in one sentence."
        return self.error.startswith('UserError: ')


def read_outputs(outputs):
    "A cell's outputs as what a person reads."
    text, error, pictures = [], '', 0
    for o in outputs:
        data = o.get('data', {})
        pictures += 'image/png' in data
        page = re.sub('<[^>]*>', '', data.get('text/html', ''))
        text += [o.get('text', ''), html.unescape(page), data.get('text/markdown', '')]
        if o['output_type'] == 'error': error = f"{o['ename']}: {o['evalue']}"
    return Said(''.join(text), error, pictures)


class Kernel:
    """A kernel with the first cells of 03_train in it. A person's gets its cells from
    jupyter_client, as JupyterLab sends them; a program's from nbclient, with small figures."""
    def __init__(self, project, mode):
        self.book, self.place = new_notebook(), project.root/f'kernel-{time.monotonic_ns()}'
        file, _ = write_connection_file(f'{self.place}.json')
        words = '-f', file, f'--IPKernelApp.parent_handle={os.getpid()}'
        env, log = project.env(OMP_NUM_THREADS='1'), f'{self.place}.txt'
        Path(log).touch()
        self.process = Forked('ipykernel_launcher', words, project.root/'nbs', env, log, log)
        self.file, self.mode = file, mode
        if mode == 'program':
            self.driver = NotebookClient(self.book, km=self, allow_errors=True, timeout=300,
                                         startup_timeout=300)
            self.channels = self.driver.start_new_kernel_client()
        else:
            self.channels = self.connect(BlockingKernelClient)
            self.channels.start_channels()
            self.channels.wait_for_ready(timeout=300)
        for source in IMPORTS, HELPERS, BOARD: assert not self(source).error
        if mode == 'program': assert not self('small_figures()').error

    def connect(self, kind):
        "A client of this kernel."
        client = kind(connection_file=self.file)
        client.load_connection_file()
        # the process is asked, since a heartbeat is late on a busy machine
        client.start_channels = functools.partial(client.start_channels, hb=False)
        client.is_alive = self.is_alive
        return client

    def client(self): return self.connect(AsyncKernelClient)       # as nbclient asks a manager

    def is_alive(self): return self.process.poll() is None

    def __call__(self, source):
        "Run a cell."
        return read_outputs(self.run_program(source) if self.mode == 'program'
                            else self.run_person(source))

    def run_program(self, source):
        self.book.cells.append(new_code_cell(source))
        i = len(self.book.cells) - 1
        return self.driver.execute_cell(self.book.cells[i], i).outputs

    def run_person(self, source, stop_at=''):
        "Run a cell; with `stop_at`, press the stop button when it has printed that."
        shown = []
        def hook(message):
            kind = message['msg_type']
            if kind in ('stream', 'display_data', 'execute_result', 'error'):
                shown.append({**message['content'], 'output_type': kind})
            if stop_at and stop_at in message['content'].get('text', ''):
                os.kill(self.process.pid, signal.SIGINT)
        self.channels.execute_interactive(source, output_hook=hook, timeout=300)
        return shown

    def start(self, out, **changes):
        "The parameters cell with other values, and the cell after it, in whose place `run` is."
        self.set(out, **changes)
        return self(START)

    def set(self, out, **changes):
        given = {**SMALL, 'output_dir': str(out), **changes}
        lines = [f'{name} = {value!r}' for name, value in given.items()]
        assert not self('\n'.join([PARAMETERS, *lines])).error

    def step(self, name, run='run'):
        "Run the cell of a step."
        return self(f'{name}({run})')

    def steps(self, names, run='run'):
        "Run the cells of some steps, none of which fails."
        return {name: self.fine(self.step(name, run), name) for name in names}

    def fine(self, said, name):
        assert not said.error, f'{name}: {said}'
        return said

    def broken(self, name, number, do):
        "Run the cell of a step, in which something is done in a call; whether it came to that."
        said = self(f'at_call({number}, {do})\n{name}(run)')
        count = self('sys.setprofile(None)\nprint(calls)').text
        return said, int(count.split()[-1]) >= number

    def value(self, expression):
        "The value of an expression in the kernel."
        return json.loads(self(f'import json\nprint(json.dumps({expression}))').text)

    def killed(self, source):
        "Run a cell that kills its kernel."
        if self.mode == 'program':
            with pytest.raises(DeadKernelError): self.run_program(source)
        else:
            self.channels.execute(source)
            self.process.wait(120)
        self.channels.stop_channels()

    def close(self):
        "Shut the kernel down, as JupyterLab does, so that it leaves by its own door."
        if self.is_alive():
            self.channels.stop_channels()
            client = self.connect(BlockingKernelClient)
            client.start_channels()
            client.shutdown()
            try: self.process.wait(20)
            except subprocess.TimeoutExpired: self.process.kill()
            client.stop_channels()


@pytest.fixture(scope='module')
def place(tmp_path_factory): return Project(tmp_path_factory.mktemp('notebook'))


@pytest.fixture(scope='module')
def kernels(place):
    "Makes kernels, and shuts them down at the end."
    made = []
    def make(mode):
        made.append(Kernel(place, mode))
        return made[-1]
    yield make
    for kernel in made: kernel.close()


@pytest.fixture(scope='module')
def person(kernels): return kernels('person')


MODE = pytest.mark.parametrize('mode', ['program', pytest.param('person', marks=pytest.mark.long)])


@pytest.fixture
def kernel(mode, request): return request.getfixturevalue(mode)


@pytest.fixture
def n(request):
    "What is done in CI, and what with --long."
    return lambda short, long: long if request.config.getoption('--long') else short


@pytest.fixture
def out(tmp_path): return tmp_path/'out'


def counted_run(kernel, out):
    "A run that nobody touches, with what its cells said, and the calls that they took."
    assert not kernel.start(out).error
    kernel.calls, said = {}, {}
    for name in STEPS:
        said[name] = kernel.fine(kernel.broken(name, 0, 'None')[0], name)
        kernel.calls[name] = kernel.value('calls')
    return said


@pytest.fixture(scope='module')
def undisturbed(person, tmp_path_factory):
    "The run that nobody touches, by a person; it stays in that kernel as `ended`."
    out = tmp_path_factory.mktemp('undisturbed')/'out'
    said = counted_run(person, out)
    person('ended = run')
    assert all(said[name].pictures == (name in FIGURES) for name in STEPS)
    return dict(out=out, said=said, record=record(out))


@pytest.fixture(scope='module')
def program(kernels, undisturbed, tmp_path_factory):
    kernel, out = kernels('program'), tmp_path_factory.mktemp('program')/'out'
    counted_run(kernel, out)
    assert_complete(out, undisturbed)
    return kernel


def record(out): return unseal((out/'metrics.json').read_bytes())


def files(out):
    "Every file of a folder, those of earlier runs too, and its content."
    return {str(f.relative_to(out)): f.read_bytes() for f in out.rglob('*') if f.is_file()}


def names(out): return {f.name for f in out.iterdir() if f.is_file()}


def numbers(m): return [{k: v for k, v in row.items() if k != 'seconds'} for row in m['history']]


def result(m):
    "What runs with the same parameters must share, whatever was done to them."
    return numbers(m), m['weights_sha256'], m['test_accuracy'], m['confusion']


def assert_true(out, undisturbed):
    "What the record and the checkpoint say is what was computed, however far it is."
    m, same = record(out), undisturbed['record']
    epochs = [row['epoch'] for row in m['history']]
    assert epochs == [*range(1, len(epochs) + 1)]
    assert numbers(m) == numbers(same)[:len(epochs)]
    if m['status'] == 'complete': assert_complete(out, undisturbed)
    else:
        with pytest.raises(UserError): check_run(out)
    if m['weights_sha256'] == same['weights_sha256'] and m['test_accuracy'] is not None:
        assert m['test_accuracy'] == same['test_accuracy']
    if (out/'checkpoint.safetensors').exists():
        info = unpack((out/'checkpoint.safetensors').read_bytes())[1]
        assert info['started'] == m['started']


def assert_complete(out, undisturbed):
    "The run is complete, intact, and the same as the one that nobody touched."
    m = record(out)
    assert (m['status'], m['reason']) == ('complete', None)
    assert check_run(out)
    assert result(m) == result(undisturbed['record'])
    assert not list(out.glob('.*.tmp'))
    assert_model_is_the_runs(out)


def assert_model_is_the_runs(out):
    "A run that has ended has its own network, or none."
    m = record(out)
    if 'model.json' in m['files']:
        assert json.loads((out/'model.json').read_text())['weights_sha256'] == m['weights_sha256']


def assert_whole(folder, undisturbed):
    "A run that was moved aside is there with every file."
    assert FILES - {'.lock'} <= names(folder)
    assert check_run(folder) and result(record(folder)) == result(undisturbed['record'])


# ---------------------------------------------------------------- each cell, failed once

@pytest.mark.parametrize('mode, do', [
    ('person', 'fault'), ('program', 'stop'),
    pytest.param('person', 'stop', marks=pytest.mark.long),
    pytest.param('program', 'fault', marks=pytest.mark.long)])
def test_each_cell_fails_and_is_run_again(kernel, do, undisturbed, out, n):
    "In the middle of its work, by an exception or the stop button; a finished run is in the way."
    shutil.copytree(undisturbed['out'], out)
    assert not kernel.start(out).error
    failed = []
    for name in STEPS:
        for part in n([.5], [.01, .1, .3, .5, .7, .9, .99]):
            number = max(1, int(kernel.calls[name]*part))
            said, hit = kernel.broken(name, number, do)
            if hit and not (name == 'train' and do == 'stop'):
                assert 'a fault' in said.error or 'KeyboardInterrupt' in said.error, (name, said)
            failed.append(hit)
            assert_true(out, undisturbed)
        kernel.steps([name])
    assert sum(failed) > .8*len(failed), failed
    assert_complete(out, undisturbed)
    assert names(out) >= FILES
    [aside] = (out/'previous').iterdir()
    assert_whole(aside, undisturbed)


def test_cells_that_failed_may_be_left_behind(program, undisturbed, out):
    "What nothing else needs can fail, and the run goes on to its end."
    assert not program.start(out).error
    for name in STEPS:
        if name not in BARE:
            said, hit = program.broken(name, program.calls[name]//2, 'fault')
            assert hit and said.error
            assert_true(out, undisturbed)
        else: said = program.steps([name])[name]
    assert_complete(out, undisturbed)
    assert 'test accuracy' in said.text and str(out) in said.text


@pytest.mark.parametrize('name', [
    'train', pytest.param('show_accuracy', marks=pytest.mark.long)])
def test_what_others_need_fails_late(program, undisturbed, out, name, n):
    "Nearly done, yet not run again: what follows asks for it, or is true all the same."
    assert not program.start(out).error
    program.steps(BARE[:BARE.index(name)])
    for _ in range(2): program.fine(program.broken(name, 0, 'None')[0], name)
    calls = program.value('calls')           # of a cell that is run again
    for left in n([1, 20], [1, 2, 3, 5, 8, 13, 20, 30, 40, 60, 80]):
        said, hit = program.broken(name, calls - left, 'fault')
        assert hit and 'a fault' in said.error
        for later in BARE[BARE.index(name) + 1:]:
            said = program.step(later)
            assert not said.error or said.is_sentence, (left, later, said)
            assert_true(out, undisturbed)
        if not said.error:
            assert_complete(out, undisturbed)
            assert not program.start(out).error
            program.steps(BARE[:BARE.index(name) + 1])
    program.steps(BARE[BARE.index(name):])
    assert_complete(out, undisturbed)


@MODE
def test_what_is_missing_is_named(kernel, undisturbed, out):
    "Every later cell too early, at each stage of a run."
    assert not kernel.start(out).error
    for i, name in enumerate(STEPS):
        if name not in BARE and name != 'show_examples': continue
        for later in STEPS[i + 1:] if name in ('load_data', 'begin', 'train') else ():
            before = files(out) if out.exists() else {}
            said = kernel.step(later)
            if not said.error: continue          # it needs nothing that is missing
            assert said.is_sentence, (name, later, said)
            needed = re.search(rf'{later} needs .*: run (\w+)\(run\) first', said.error)
            assert needed and needed[1] in STEPS[i:], (name, later, said)
            after = files(out) if out.exists() else {}
            assert after == before, (name, later)
        kernel.steps([name])
    assert_complete(out, undisturbed)


def test_the_stop_button_for_real(person, undisturbed, out):
    "A signal from outside, in a cell that does not expect it, and in the training."
    assert not person.start(out, nepochs=400).error
    person.steps(['load_data', 'begin'])
    slow = "at_call(5, lambda: (print('here', flush=True), time.sleep(60)))\nshow_model(run)"
    said = read_outputs(person.run_person(slow, stop_at='here'))
    assert 'KeyboardInterrupt' in said.error
    person('sys.setprofile(None)')
    person.steps(['show_model'])
    said = read_outputs(person.run_person('train(run)', stop_at='epoch 2/400'))
    assert 'stopped by hand' in said.text and not said.error
    m = record(out)
    assert m['status'] == 'interrupted' and 'stopped by hand' in m['reason']
    assert 2 <= len(m['history']) < 400
    last = person.steps(['show_accuracy', 'finish'])['finish']
    assert re.search('stopped|interrupted|of 400', last.text.splitlines()[-1]), last
    assert record(out)['status'] == 'interrupted' and record(out)['reason'] == m['reason']


# ---------------------------------------------------------------- each cell, run twice

def rival(out):
    "Another notebook that papermill writes into the folder, newer than whatever comes."
    book = new_notebook(cells=[new_code_cell('print()')])
    book.metadata['papermill'] = dict(output_path=str(out/'other.ipynb'))
    nbformat.write(book, out/'other.ipynb')
    later = time.time() + 3600
    os.utime(out/'other.ipynb', (later, later))


@MODE
def test_each_cell_twice(kernel, undisturbed, out):
    assert not kernel.start(out).error
    for name in STEPS:
        first, before = kernel.steps([name])[name], files(out) if name == 'finish' else None
        second = kernel.steps([name])[name]
        if name in FIGURES: assert first.pictures == second.pictures == 1
        if name == 'begin': assert 'begun already' in second.text
        if name != 'load_data': assert_true(out, undisturbed)
        if before: assert files(out) == before
    assert_complete(out, undisturbed)
    assert names(out) >= FILES


@pytest.mark.long
def test_all_cells_twice(program, undisturbed, out):
    "Run > Run All Cells, and once more: two runs, of which the first one is moved aside."
    for _ in range(2):
        assert not program.start(out).error
        said = program.steps(BARE)
        assert_complete(out, undisturbed)
        rival(out)           # of the next run
    assert 'is now in' in said['begin'].text
    [aside] = (out/'previous').iterdir()
    assert result(record(aside)) == result(undisturbed['record']) and check_run(aside)
    assert 'report.ipynb' not in names(out)           # this notebook is not papermill's


@pytest.mark.parametrize('verbose', [0, pytest.param(1, marks=pytest.mark.long)])
def test_after_the_end(person, undisturbed, verbose):
    "Figures are shown still, nothing is written any more, and the cells say so."
    out = undisturbed['out']
    before = files(out)
    person.set(out)
    person(f"ended.p['verbose'] = {verbose}")
    for name in STEPS:
        said = person.step(name, 'ended')
        assert files(out) == before, name
        if name == 'train':
            assert said.is_sentence and 'has ended' in said.error, said
            continue
        assert not said.error, (name, said)
        assert said.pictures == undisturbed['said'][name].pictures, name
        if name in (*FIGURES, 'show_accuracy', 'save_model'):
            assert 'has ended' in said.text, (name, said)
    person('run, other = ended, run')
    said, hit = person.broken('show_curves', person.calls['show_curves']//2, 'fault')
    person('run = other')
    assert hit and said.error and files(out) == before
    assert_complete(out, undisturbed)


@MODE
def test_trained_again_after_a_stop(kernel, undisturbed, out):
    "What was known of the stopped network is not said of the one after it."
    assert not kernel.start(out).error
    kernel.steps(['load_data', 'begin'])
    said = kernel.fine(kernel("at_words('epoch 1/2', stop)\ntrain(run)"), 'train')
    assert 'stopped by hand' in said.text
    kernel.steps(['show_accuracy', 'save_model'])
    m = record(out)
    assert m['status'] == 'interrupted' and m['reason'] and len(m['history']) == 1
    assert_true(out, undisturbed)
    kernel.steps(['train'])
    m = record(out)
    assert m['reason'] is None and m['status'] == 'running' and len(m['history']) == 2
    assert m['weights_sha256'] == undisturbed['record']['weights_sha256']
    assert m['test_accuracy'] in (None, undisturbed['record']['test_accuracy'])
    for name in ('show_classes', 'save_model', 'finish'):
        said = kernel.step(name)
        assert said.is_sentence and 'run show_accuracy(run) first' in said.error, (name, said)
    last = kernel.steps(['show_accuracy', 'finish'])['finish'].text.splitlines()[-1]
    assert_complete(out, undisturbed)          # with no model of the stopped network in it
    assert not re.search('stopped|interrupted|1 of 2', last), last


def test_stopped_and_left_there(program, undisturbed, out):
    assert not program.start(out).error
    program.steps(['load_data', 'begin'])
    program.fine(program("at_words('epoch 1/2', stop)\ntrain(run)"), 'train')
    last = program.steps(['show_accuracy', 'save_model', 'finish'])['finish']
    assert re.search('stopped|interrupted|1 of 2', last.text.splitlines()[-1]), last
    m = record(out)
    assert m['status'] == 'interrupted' and 'stopped by hand' in m['reason']
    assert_true(out, undisturbed)


@MODE
def test_training_broken_twice_and_trained_again(kernel, undisturbed, out):
    "By a fault in its second epoch, by the stop button pressed twice; each time from the seed."
    assert not kernel.start(out).error
    kernel.steps(['load_data', 'begin'])
    for do, status in ('fault', 'failed'), ('stop_twice', 'interrupted'):
        said = kernel(f"at_words('epoch 1/2', {do})\ntrain(run)")
        assert said.error
        m = record(out)
        assert m['status'] == status and m['reason']
        assert_true(out, undisturbed)
        said = kernel.step('show_accuracy')
        assert said.is_sentence and 'run train(run) first' in said.error
    kernel.steps(BARE[BARE.index('train'):])
    assert_complete(out, undisturbed)


# ---------------------------------------------------------------- orders swapped

@MODE
def test_neighbours_swapped(kernel, undisturbed, out):
    "Each cell one place too early: a sentence or the truth; then the normal order works."
    assert not kernel.start(out).error
    for name, early in zip(STEPS[:-1], STEPS[1:]):
        said = kernel.step(early)
        assert not said.error or said.is_sentence and f'{early} needs' in said.error, (early, said)
        if early == 'begin': assert said.error and not out.exists()
        if early != 'load_data' and out.exists(): assert_true(out, undisturbed)
        if early != 'finish': kernel.steps([name])
    assert not kernel.start(out).error
    kernel.steps([name for name in BARE if name != 'save_model'])
    before = files(out)
    assert 'model.json' not in record(out)['files']
    assert 'has ended' in kernel.step('save_model').all and files(out) == before
    assert_complete(out, undisturbed)


@MODE
def test_any_order(kernel, undisturbed, tmp_path, n):
    "Drawn by chance, some cells broken on their way: a sentence or the truth; then as usual."
    some = [*BARE[1:], 'show_examples', 'show_classes', 'train']
    for seed in n([1], range(20)):
        draw, out = random.Random(seed), tmp_path/str(seed)
        assert not kernel.start(out).error
        kernel.steps(BARE[:2])
        for _ in range(n(8, 15)):
            name, do = draw.choice(some), draw.choice(['None', 'None', 'fault', 'stop'])
            number = draw.randint(1, int(kernel.calls[name]*1.2))
            said, hit = kernel.broken(name, number, do)
            known = said.is_sentence or hit and re.search('a fault|KeyboardInt', said.error)
            assert not said.error or known, (seed, name, do, said)
            assert_true(out, undisturbed)
            if name == 'finish' and not said.error:
                assert_model_is_the_runs(out)
                assert not kernel.start(out).error
                kernel.steps(BARE[:2])
        kernel.steps(BARE)
        assert_complete(out, undisturbed)


# ---------------------------------------------------------------- two runs, one folder

def assert_left_alone(kernel, out, run, says, names=BARE):
    "The cells of a run whose folder is another one's say so, and change nothing in it."
    before = files(out)
    for name in names:
        said = kernel.step(name, run)
        assert files(out) == before, name
        assert not said.error or said.is_sentence, (name, said)
        if name not in ('load_data', 'begin'):
            assert re.search(f'{says}|needs', said.all), (name, said)
        if name == 'train': assert said.is_sentence and says in said.error, said


@MODE
def test_a_new_start_takes_the_folder_over(kernel, undisturbed, out):
    "At two stages of the old run, whose cells are run at two stages of the new one."
    for stage in (BARE[:2], BARE[:4]):
        assert not kernel.start(out, verbose=0, resume=False).error
        kernel.steps(stage)
        kernel('old = run')
        assert not kernel.start(out, resume=False).error
        kernel.steps(['load_data', 'begin'])
        assert_left_alone(kernel, out, 'old', 'another run')
        kernel.steps(['train'])
        assert_left_alone(kernel, out, 'old', 'another run')
        kernel.steps(['show_accuracy', 'save_model', 'finish'])
        assert_complete(out, undisturbed)
        assert_left_alone(kernel, out, 'old', 'another run')
        assert_complete(out, undisturbed)


@pytest.mark.long
def test_two_notebooks_and_one_folder(person, program, undisturbed, out):
    "The second one waits its turn; the first one, still open, leaves the second one's alone."
    assert not person.start(out).error
    person.steps(['load_data', 'begin', 'train'])
    before = files(out)
    assert not program.start(out).error
    program.steps(['load_data'])
    said = program.step('begin')
    assert said.is_sentence and 'another run is writing into' in said.error, said
    said = program.step('train')
    assert said.is_sentence and 'begin(run)' in said.error, said
    assert files(out) == before
    person.steps(['show_accuracy', 'save_model', 'finish'])
    assert_complete(out, undisturbed)
    first = record(out)
    program.steps(['begin', 'train'])
    assert record(out/'previous'/first['started']) == first
    assert_left_alone(person, out, 'run', 'has ended')
    program.steps(['show_accuracy', 'save_model', 'finish'])
    assert_complete(out, undisturbed)
    assert_left_alone(person, out, 'run', 'has ended')
    assert check_run(out/'previous'/first['started'])


def test_folder_removed_under_an_open_notebook(person, program, undisturbed, out):
    "`rm -rf output` takes the lock with it: the next run's folder is not the first one's."
    assert not person.start(out).error
    person.steps(['load_data', 'begin', 'train'])
    shutil.rmtree(out)
    assert not program.start(out).error
    program.steps(['load_data', 'begin', 'train'])
    assert_left_alone(person, out, 'run', str(out), ['train', 'show_accuracy', 'save_model'])
    program.steps(['show_accuracy', 'save_model', 'finish'])
    assert_complete(out, undisturbed)


# ---------------------------------------------------------------- parameters edited

EDITS = dict(nepochs=3, seed=8, model='fast', batch_size=10, subset=40, precision='bfloat16',
             label_smoothing=.3)


@MODE
def test_parameters_edited_after_start(kernel, undisturbed, out):
    "They are in the notebook, but not in the run: said, rather than trained without them."
    assert not kernel.start(out).error
    kernel.steps(['load_data', 'begin'])
    for name, value in EDITS.items():
        old = kernel.value(name)
        kernel(f'{name} = {value!r}')
        said = kernel.step('train')
        assert said.is_sentence and name in said.error and 'start' in said.error, (name, said)
        kernel(f'{name} = {old!r}')
        assert_true(out, undisturbed)
    kernel('nepochs = 2.0')                    # the same
    kernel.steps(['train'])
    kernel('import numpy\nlr = numpy.ones(2)')     # nothing that one can compare
    said = kernel.step('train')
    assert said.is_sentence and 'lr' in said.error, said
    kernel('lr = None')
    kernel('# Parameters\nmine = 5')          # as papermill begins its cell, but a person's
    said = kernel.step('train')
    kernel('# Parameters\nnepochs = 1')
    assert not said.error or said.is_sentence, said
    assert not kernel(START).error
    kernel.steps(BARE)
    m = record(out)
    assert (m['status'], m['nepochs'], len(m['history'])) == ('complete', 1, 1) and check_run(out)


# ---------------------------------------------------------------- who is there

DRIVER = '''
import sys
import nbformat
from jupyter_client.manager import start_new_kernel

cells = [c.source for c in nbformat.read('nbs/03_train.ipynb', 4).cells if c.cell_type == 'code']
first, (parameters, start) = cells[1:3], cells[3:5]
manager, client = start_new_kernel(kernel_name='python3', cwd='nbs')
failed = []

def hook(message):
    kind, c = message['msg_type'], message['content']
    if kind == 'error': failed.append(c['evalue'])
    if kind == 'stream': print(c['text'], end='')

for source in first: client.execute_interactive(source, output_hook=hook, timeout=100)
for allow_stdin in (True, False):
    edited = f"{parameters}\\ndataset, output_dir = 'shapes10', 'output/{allow_stdin}'"
    for source in (edited, start, 'load_data(run)', 'begin(run)', "print(run.p['resume'])"):
        client.execute_interactive(
            source, output_hook=hook, timeout=100, allow_stdin=allow_stdin)
manager.shutdown_kernel()
sys.exit(len(failed))
'''


@pytest.mark.long   # the next test has it, without odd paths
def test_who_is_there_is_known_from_the_kernel(place, tmp_path):
    "Not from the words papermill or nbconvert in a path."
    environment = tmp_path/'papermill-course'
    environment.symlink_to(sys.prefix)
    (tmp_path/'nbconvert.py').write_text(DRIVER)
    done = place(str(environment/'bin'/'python'), str(tmp_path/'nbconvert.py'))
    assert done.returncode == 0, done.stdout + done.stderr
    assert place.metrics('output/True')['parameters']['resume'] is False        # a person's
    assert place.metrics('output/False')['parameters']['resume'] == 'auto'      # a program's


def test_nbclient_as_a_library_is_a_program(program, person, out):
    for kernel, resume in ((program, 'auto'), (person, False)):
        folder = out/kernel.mode
        assert not kernel.start(folder).error
        kernel.steps(['load_data', 'begin'])
        assert record(folder)['parameters']['resume'] == resume
        assert not kernel.start(folder, resume=True).error
        kernel.steps(['load_data'])
        said = kernel.step('begin')
        assert said.is_sentence and 'resume=True, but there is nothing to continue' in said.error


# ---------------------------------------------------------------- the report

@pytest.mark.long
def test_report_is_the_copy_of_this_run(place):
    "Another notebook of papermill's is written meanwhile, with the same cells, and is newer."
    book = nbformat.from_dict(BOOK)
    keep = {*BARE, 'show_curves'}
    code = [c for c in book.cells if c.cell_type == 'code'
            and (not c.source.endswith('(run)') or c.source[:-5] in keep)]
    [last] = [c for c in code if c.source == 'finish(run)']
    last.source = ('import json, os, pathlib, time\n'
                   "book = json.loads(pathlib.Path('../run-out/run.ipynb').read_text())\n"
                   "pathlib.Path('../run-out/backup.ipynb').write_text(json.dumps(book))\n"
                   "for c in book['cells']: c['outputs'] = [dict(output_type='stream', "
                   "name='stdout', text='RIVAL')]\n"
                   "other = pathlib.Path('../run-out/other.ipynb')\n"
                   'other.write_text(json.dumps(book))\n'
                   'os.utime(other, (time.time() + 3600,)*2)\n'
                   'finish(run)')
    book.cells = code
    nbformat.write(book, place.root/'nbs'/'03_rival.ipynb')
    (place.root/'run-out').mkdir()
    words = {**SMALL, 'output_dir': 'run-out'}.items()
    done = place(*PAPERMILL, '../nbs/03_rival.ipynb', '../run-out/run.ipynb', '--no-progress-bar',
                 *[w for k, v in words for w in ('-p', k, str(v))], cwd='nbs')
    assert done.returncode == 0, done.stderr
    folder = place.root/'run-out'
    assert check_run(folder)
    report = json.loads((folder/'report.ipynb').read_text())
    assert 'RIVAL' not in json.dumps([c['outputs'] for c in report['cells']])
    run = json.loads((folder/'run.ipynb').read_text())
    assert [c['outputs'] for c in report['cells']] == [c['outputs'] for c in run['cells']]


# ---------------------------------------------------------------- restarted; the last ones

def test_kernel_restarted_in_the_middle(kernels, person, undisturbed, out):
    "Killed twice: a person begins anew, with the old run moved aside whole; a program goes on."
    killed = "at_words('epoch 2/2', die)\ntrain(run)"
    first = kernels('program')
    assert not first.start(out).error
    first.steps(['load_data', 'begin', 'show_examples'])
    first.killed(killed)
    assert_true(out, undisturbed)
    left = {f: files(out)[f] for f in names(out) - {'.lock'}}

    second = kernels('person')
    assert not second.start(out).error
    said = second.steps(['load_data', 'begin'])['begin']
    [aside] = (out/'previous').iterdir()
    assert files(aside) == left
    assert 'is now in' in said.text and str(aside) in said.text, said
    second.killed(killed)
    assert len(list((out/'previous').iterdir())) == 1

    third = kernels('program')
    assert not third.start(out).error
    third.steps(['load_data'])
    _, hit = third.broken('begin', person.calls['begin']//2, 'fault')
    assert hit
    said = third.steps(['begin'])['begin']
    assert 'continuing the run of' in said.text
    third.steps(BARE[2:])
    assert_complete(out, undisturbed)
    m = record(out)
    assert len(m['legs']) == 2 and len(list((out/'previous').iterdir())) == 1


OWN = """
import torch
from cifar10_nbdev.learner import Callback

class Dim(Callback):
    def __init__(self, factor): self.factor = factor
    def before_batch(self, learn): learn.xb = learn.xb*self.factor

class Count(Callback):
    watches, steps = True, 0
    def after_batch(self, learn): self.steps += len(run.log) > 0

class Keeps(torch.nn.Module):
    "Its network changes what it holds, without a callback."
    def __init__(self, n):
        super().__init__()
        self.layer, self.seen = torch.nn.Linear(3072, n), 0
    def forward(self, x):
        self.seen += 1
        return self.layer(x.flatten(1))
"""


def test_own_callbacks_are_part_of_the_run(program, out):
    assert not program(OWN).error

    def begun(*callbacks):
        "A new start with callbacks; what its beginning says."
        assert not program.start(out).error
        for cb in callbacks: assert not program(f'run.cbs.append({cb})').error
        program.steps(['load_data'])
        return program.step('begin')

    def stopped():
        "Train an epoch of two; the callbacks on record."
        program.fine(program("at_words('epoch 1/2', stop)\ntrain(run)"), 'train')
        return record(out)['callbacks']

    begun('Dim(.5)')
    [first] = stopped()
    assert 'continuing the run of' in begun('Dim(.5)', 'Count()').text
    assert not program('run.cbs.append(Dim(.5))').error
    said = program.step('train')
    assert said.is_sentence and 'since then the callbacks changed' in said.error, said
    assert record(out)['callbacks'] == [first]
    assert 'it is another run, by the callbacks' in begun('Dim(.25)').text
    [second] = stopped()
    assert [name.split()[0] for name in (first, second)] == ['Dim']*2 and first != second
    assert 'it is another run, by the callbacks' in begun('Count()').text
    assert stopped() == [] and program.value('run.cbs[0].steps') > 0
    assert 'continuing the run of' in begun().text
    assert not program.start(out).error
    program.steps(['load_data'])
    assert not program('run.data.train_y[:] = 0').error           # as with other labels
    assert 'it is another run, by the data' in program.step('begin').text
    stopped()
    m = record(out)
    assert m['edited_data'] and m['data_fingerprint'] != m['edited_data']
    assert 'it is another run, by the data' in begun().text
    assert not program.start(out).error
    program('model = Keeps')
    assert not program('run = start(globals(), board)').error
    program.steps(['load_data', 'begin', 'show_model'])
    stopped()
    assert not program('run = start(globals(), board)').error
    assert 'continuing the run of' in program.steps(['load_data', 'begin'])['begin'].text
    program.fine(program('train(run)\nmodel = "cnn"'), 'train')
    for cb, says in {'Dim': 'append Dim(…), not the class', 'print': 'derive its class'}.items():
        said = begun(cb)
        assert said.is_sentence and says in said.error, said


@pytest.mark.long
def test_trained_twice_after_a_restart(program, undisturbed, out):
    "The second training begins where the run was continued, not where the first one ended."
    assert not program.start(out).error
    program.steps(['load_data', 'begin'])
    program.fine(program("at_words('epoch 1/2', stop)\ntrain(run)"), 'train')
    assert not program.start(out).error                 # the same run, in the same kernel
    said = program.steps(['load_data', 'begin'])['begin']
    assert 'continuing the run of' in said.text
    for _ in range(2):
        program.steps(['train'])
        assert_true(out, undisturbed)
    program.steps(['show_accuracy', 'save_model', 'finish'])
    assert_complete(out, undisturbed)
