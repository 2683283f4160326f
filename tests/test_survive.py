"""What is promised of runs that go wrong: killed, stopped, sick, crowded, damaged.
`pytest tests/test_survive.py --long` does each as often as the lab log says."""
import json, os, pickle, random, resource, shutil, signal, subprocess, sys, time

import pytest

import cifar10_nbdev.train
from cifar10_nbdev.check import check_run
from cifar10_nbdev.checkpoint import unpack
from cifar10_nbdev.cifar10 import read_cache, write_cache
from cifar10_nbdev.core import UserError
from cifar10_nbdev.data import shapes10
from cifar10_nbdev.params import defaults_of
from cifar10_nbdev.record import seal, unseal

from conftest import PAPERMILL, Project, is_refusal
from faults import impatient, without_figures
from forked import Forked, become

SMALL = dict(dataset='shapes10', subset='300', nepochs='3', seed='7', batch_size='50', shift='2',
             model='fast')
WORDS = [w for k, v in SMALL.items() for w in (f'--{k}', v)]
INJECT = [w for k, v in SMALL.items() for w in ('-p', k, v)]
CONTINUING = 'continuing the run of'
OLD_RUN = '{"started": "20260101T000000Z", "files": ["metrics.json"]}'


def result(m):
    "What an interrupted run must share with one that nobody touched."
    history = [{k: v for k, v in row.items() if k != 'seconds'} for row in m['history']]
    return history, m['weights_sha256'], m['test_accuracy'], m['confusion']


@pytest.fixture(scope='module', autouse=True)
def quick():
    "No figures, which would take most of the time; those of papermill's runs are drawn."
    Forked.child = staticmethod(without_figures)
    yield
    Forked.child = staticmethod(become)


@pytest.fixture(scope='module')
def undisturbed(tmp_path_factory):
    "The run that nobody touches: its project and its seconds."
    p = Project(tmp_path_factory.mktemp('undisturbed'))
    began = time.monotonic()
    done = p.train(*WORDS)
    assert done.returncode == 0, done.stderr
    p.seconds = time.monotonic() - began
    assert p.check().returncode == 0
    return p


@pytest.fixture
def n(request):
    "How often something is done: the first number in CI, the second one with --long."
    return lambda short, long: long if request.config.getoption('--long') else short


def whole(folder):
    "Whether `cifar10_check` would be content."
    try: return bool(check_run(folder))
    except UserError: return False


def empty(folder):
    shutil.rmtree(folder)
    folder.mkdir()


def kill_after(process, seconds):
    "Kill a program after some time, if it still runs then."
    try: process.wait(seconds)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def wait_for_file(path, process):
    "Wait until a program has written a file, or has ended."
    while not path.exists() and process.poll() is None: time.sleep(.005)


@pytest.mark.long   # test_kills has every file operation
@pytest.mark.parametrize('seed', (0, 1))
def test_killed_at_random_moments_and_resumed(undisturbed, project, n, seed):
    times, draw, resumed = n(1, 10), random.Random(seed), []
    checkpoint = project.out/'checkpoint.safetensors'
    while len(resumed) < times:
        empty(project.out)
        process, moment = project.begin_train(*WORDS), draw.uniform(.2, 1.)
        if not resumed:                       # the first kill comes after the first checkpoint
            wait_for_file(checkpoint, process)
            moment *= .2
        kill_after(process, undisturbed.seconds*moment)
        if whole(project.out): continue       # it was quicker: no kill
        left = checkpoint.exists()
        done = project.train(*WORDS)
        assert done.returncode == 0, done.stderr
        resumed.append(CONTINUING in done.stdout)
        assert resumed[-1] == left            # whatever a checkpoint had is not done twice
        assert result(project.metrics()) == result(undisturbed.metrics())
        assert whole(project.out) and not list(project.out.glob('.*.tmp'))
    print(f'{times} killed, all as undisturbed; {sum(resumed)} had a checkpoint to go on from')
    assert resumed[0]


def test_papermill_killed_and_resumed(undisturbed, project, n):
    words = 'nbs/03_train.ipynb', 'output/run.ipynb', '--log-output', '--no-progress-bar'
    for _ in range(n(1, 3)):
        empty(project.out)
        process = project.begin(*PAPERMILL, *words, *INJECT)
        project.wait_for('epoch 2/3')     # then the first one's checkpoint is whole
        process.kill()    # papermill alone: its kernel lives a moment more, the next run waits
        done = project.papermill(*INJECT)
        assert done.returncode == 0, done.stderr
        assert CONTINUING in done.stderr
        assert result(project.metrics()) == result(undisturbed.metrics())
        assert project.check().returncode == 0
        books = [json.loads((project.out/f).read_text()) for f in ('report.ipynb', 'run.ipynb')]
        code = [c for c in books[0]['cells'] if c['cell_type'] == 'code']
        assert all(c['metadata']['papermill']['status'] == 'completed' for c in code)
        assert code[-1]['outputs'] == books[1]['cells'][-1]['outputs']
        assert 'test accuracy' in ''.join(str(c['outputs']) for c in code)
    old = project.metrics()['started']
    assert project.train(*WORDS, '--nepochs', '1').returncode == 0
    assert (project.out/'previous'/old/'report.ipynb').exists()
    assert (project.out/'run.ipynb').exists()


def test_a_new_run_moves_the_finished_one_aside(undisturbed):
    p, old = undisturbed, undisturbed.metrics()
    before = {f: (p.out/f).read_bytes() for f in old['files']}
    done = p.train(*WORDS, '--nepochs', '1', '--lr', '.01')
    assert done.returncode == 0 and 'it is complete' in done.stdout
    aside = p.out/'previous'/old['started']
    assert {f: (aside/f).read_bytes() for f in old['files']} == before
    for f in before: (p.out/f).write_bytes(before[f])     # for the tests after this one


def test_ctrl_c_stops_after_the_step_and_the_rest_still_draws(undisturbed, project, monkeypatch):
    monkeypatch.setattr(Forked, 'child', staticmethod(become))   # with figures
    process = project.begin_train(*WORDS)
    project.wait_for('epoch 2/3')
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    printed = project.printed()
    assert project.metrics()['status'] == 'interrupted'
    assert 'stopped by hand in epoch' in printed and 'Traceback' not in printed
    figures = {'model_losses.png', 'confusion_matrix.png', 'wrong_examples.png'}
    assert figures <= set(project.files()) and project.check().returncode == 1
    monkeypatch.undo()
    done = project.train(*WORDS, '--resume', 'true')
    assert done.returncode == 0, done.stderr
    assert result(project.metrics()) == result(undisturbed.metrics())


def test_sigterm_ends_with_143(project):
    process = project.begin_train(*WORDS)
    project.wait_for('epoch 2/3')
    process.terminate()
    assert process.wait(60) == 143
    m = project.metrics()
    assert (m['status'], m['reason']) == ('interrupted', 'train: SIGTERM')
    done = project.check()
    assert is_refusal(done, 1) and 'interrupted (train: SIGTERM)' in done.stderr
    assert unpack((project.out/'checkpoint.safetensors').read_bytes())[1]['epoch'] >= 1


LIVE = '''
import sys
import nbformat
from jupyter_client.manager import start_new_kernel

manager, client = start_new_kernel(kernel_name='python3', cwd='.')
small = "dataset, subset, nepochs, batch_size = 'shapes10', 300, 400, 50"
failed = []

def hook(message):
    kind, c = message['msg_type'], message['content']
    if kind == 'error': failed.append(c['evalue'])
    if kind in ('display_data', 'execute_result'): print('shown', *c['data'], flush=True)
    if kind == 'update_display_data': print('anew', *c['data'], flush=True)
    if kind == 'stream':
        print(c['text'], flush=True)
        if 'epoch 1/' in c['text']: manager.interrupt_kernel()     # JupyterLab's stop button

for cell in nbformat.read('nbs/03_train.ipynb', 4).cells:
    if cell.cell_type != 'code': continue
    client.execute_interactive(cell.source, output_hook=hook, timeout=300)
    if 'parameters' in cell.metadata.get('tags', []):
        client.execute_interactive(small, output_hook=hook)
manager.shutdown_kernel()
sys.exit(1 if failed else 0)
'''


@pytest.mark.long   # test_notebook has it, too
def test_stop_button_in_a_live_notebook(project):
    done = project(sys.executable, '-c', LIVE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'of 400; what follows is the network as it is now' in done.stdout
    # seven figures; the result's place and the curves' place, each for a text and a picture
    assert done.stdout.count('shown') == 7 + 2*2
    assert 'anew text/plain image/png' in done.stdout
    m = project.metrics()
    assert m['status'] == 'interrupted' and m['parameters']['resume'] is False
    assert 1 <= len(m['history']) < 400


SICK = '''
import torch
from cifar10_nbdev.core import UserError
from cifar10_nbdev.report import begin, load_data, show_model, start, train

class Sick(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.layer, self.steps = torch.nn.Linear(3072, n), 0

    def forward(self, x):
        self.steps += self.training
        return self.layer(x.flatten(1))*(float('nan') if self.steps == 37 else 1)

small = dict(dataset='shapes10', subset=1000, batch_size=50, nepochs=3, model=Sick)
run = start(dict({defaults!r}, **small))
try:
    for f in (load_data, begin, show_model, train): f(run)
except UserError as e: print(e)
'''


def test_nan_at_step_37(project):
    script = project.root/'sick.py'
    script.write_text(SICK.format(defaults=defaults_of(cifar10_nbdev.train)))
    done = project.forked(str(script))
    sentence = 'the loss is no finite number at step 37 (epoch 2), with lr 0.0'
    assert done.stdout.splitlines()[-1].startswith(sentence), done.stdout + done.stderr
    m = project.metrics()
    assert m['status'] == 'failed' and 'step 37' in m['reason'] and len(m['history']) == 1
    tensors, info = unpack((project.out/'checkpoint.safetensors').read_bytes())
    assert info['epoch'] == 1 and all(t.isfinite().all() for t in tensors.values())


def test_out_of_memory_says_what_to_try(project):
    def limit_memory(): resource.setrlimit(resource.RLIMIT_DATA, (3 << 30, 3 << 30))
    words = [sys.executable, '-m', 'cifar10_nbdev.train', '--dataset', 'shapes10',
             '--batch_size', '10000']
    done = subprocess.run(words, cwd=project.root, env=project.env(), capture_output=True,
                          text=True, preexec_fn=limit_memory)
    assert is_refusal(done), done.stderr
    assert 'not enough memory on cpu with batch_size=10000: try batch_size=5000' in done.stderr
    assert project.metrics()['status'] == 'failed'


def test_two_runs_in_one_folder(project, monkeypatch):
    first = project.begin_train(*WORDS, '--nepochs', '200')
    project.wait_for('epoch 1/200')
    monkeypatch.setattr(Forked, 'child', staticmethod(impatient))
    before = time.monotonic()
    second = project.train(*WORDS)
    assert is_refusal(second) and 'another run is writing into' in second.stderr
    assert time.monotonic() - before > 2
    done = project.check()
    assert is_refusal(done, 1) and 'is going on' in done.stderr
    assert first.poll() is None and 'epoch' in project.printed().splitlines()[-1]
    first.kill()
    first.wait()
    assert 'was cut off' in project.check().stderr


@pytest.fixture
def mounted(tmp_path):
    "Mounts a tmpfs of a size; skips where that is not allowed."
    places = []
    def mount(options):
        place = tmp_path/f'disk{len(places)}'
        place.mkdir()
        command = ['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', place]
        if subprocess.run(command, capture_output=True).returncode:
            pytest.skip('mounting a small disk takes root')
        places.append(place)
        return place
    yield mount
    for place in places: subprocess.run(['umount', '-l', place])


def contents(disk):
    "The files in a folder, without the lock."
    return {f.name: f.read_bytes() for f in disk.iterdir() if f.name != '.lock'}


def test_small_and_read_only_disks(project, mounted):
    disk = mounted('size=2m')
    (disk/'metrics.json').write_text(OLD_RUN)
    (disk/'mine.txt').write_text('mine')
    before = contents(disk)
    done = project.train(*WORDS, '--output_dir', str(disk))
    assert is_refusal(done) and 'MB are needed' in done.stderr, done.stderr
    assert contents(disk) == before
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    done = project.train(*WORDS, '--output_dir', str(disk))
    assert is_refusal(done) and 'Read-only file system' in done.stderr, done.stderr
    assert contents(disk) == before


def fill(disk, process, seconds):
    "Fill a disk while a program runs, and take what it gives back too."
    end = time.monotonic() + seconds
    with open(disk/'rubbish', 'wb', buffering=0) as f:   # close() would write a buffer once more
        while process.poll() is None and time.monotonic() < end:
            try: f.write(bytes(1 << 16))
            except OSError: time.sleep(.01)


def test_disk_that_fills_up_meanwhile(undisturbed, project, mounted):
    disk = mounted('size=100m')
    process = project.begin_train(*WORDS, '--output_dir', str(disk))
    project.wait_for('epoch 2/3')
    fill(disk, process, 120)
    assert process.wait(1) == 2
    last = project.printed().splitlines()[-1]
    assert last.startswith('Error: ') and 'No space left on device' in last
    info = unpack((disk/'checkpoint.safetensors').read_bytes())[1]
    assert 1 <= info['epoch'] < 3                        # the last good one is whole
    assert unseal((disk/'metrics.json').read_bytes())['status'] in ('running', 'failed')
    (disk/'rubbish').unlink()
    done = project.train(*WORDS, '--output_dir', str(disk))
    assert done.returncode == 0 and CONTINUING in done.stdout, done.stderr
    record = unseal((disk/'metrics.json').read_bytes())
    assert result(record) == result(undisturbed.metrics())


class Trap:
    "A pickle that makes a folder when it is opened."
    def __init__(self, where): self.where = where
    def __reduce__(self): return os.mkdir, (str(self.where),)


def test_malicious_checkpoint_is_refused(undisturbed, project):
    shutil.copytree(undisturbed.out, project.out, dirs_exist_ok=True)
    m = project.metrics()
    m.pop('sha256')
    (project.out/'metrics.json').write_text(seal({**m, 'status': 'running'}))
    trap = pickle.dumps(Trap(project.root/'sprung'))
    (project.out/'checkpoint.safetensors').write_bytes(trap)
    done = project.train(*WORDS, '--resume', 'true')
    assert is_refusal(done)
    assert 'checkpoint.safetensors is damaged, or no checkpoint of ours' in done.stderr
    assert not (project.root/'sprung').exists()


def damaged(blob, draw):
    "A copy with one damage, which does change it."
    while True:
        b, kind = bytearray(blob), draw.choice(('truncate', 'flip', 'zero', 'swap'))
        i, j, size = draw.randrange(len(b)), draw.randrange(len(b)), draw.randint(1, 64)
        if kind == 'truncate': del b[i:]
        if kind == 'flip': b[i] ^= 1 << draw.randrange(8)
        if kind == 'zero': b[i:i + size] = bytes(len(b[i:i + size]))
        if kind == 'swap': b[i:i + 1], b[j:j + 1] = b[j:j + 1], b[i:i + 1]
        if b != blob: return bytes(b)


def test_corruptions_are_noticed(undisturbed, tmp_path):
    draw, data, path = random.Random(1), shapes10((300, 100)), tmp_path/'shapes10.npz'
    write_cache(data, tmp_path, made_from='somewhere')
    assert read_cache(tmp_path, name='shapes10').fingerprint == data.fingerprint

    def read_copy(blob):
        "The data's decoded copy, once damaged, is either not taken or what it was."
        path.write_bytes(blob)
        copy = read_cache(tmp_path, name='shapes10')
        if copy is None or copy.fingerprint == data.fingerprint: raise UserError('noticed')

    readers = {undisturbed.out/'checkpoint.safetensors': unpack,
               undisturbed.out/'metrics.json': unseal, path: read_copy}
    blobs = {file: file.read_bytes() for file in readers}
    unnoticed = []
    for i in range(200):
        file = list(readers)[i % 3]
        try: readers[file](damaged(blobs[file], draw))
        except UserError: continue
        unnoticed.append((i, file.name))
    assert unnoticed == []
