"What is promised of runs that go wrong: killed, stopped, sick, crowded, damaged. `pytest tests/test_survive.py --long` does each as often as the lab log says."
import json, os, pickle, random, resource, shutil, signal, subprocess, sys, time

import pytest

import cifar10_nbdev.train
from cifar10_nbdev.check import check_run
from cifar10_nbdev.checkpoint import unpack
from cifar10_nbdev.core import UserError
from cifar10_nbdev.data import shapes10
from cifar10_nbdev.fetch import KEPT, Arrays, keep, kept
from cifar10_nbdev.folder import seal, unseal
from cifar10_nbdev.params import SPECS

from conftest import Project

SMALL = dict(dataset='shapes10', subset='300', nepochs='3', seed='7', batch_size='50', shift='2')
WORDS = [w for k, v in SMALL.items() for w in (f'--{k}', v)]
INJECT = [w for k, v in SMALL.items() for w in ('-p', k, v)]
DEFAULTS = {n: getattr(cifar10_nbdev.train, n) for n in SPECS}


def result(m): return [{k: v for k, v in row.items() if k != 'seconds'} for row in m['history']], m['weights_sha256'], m['test_accuracy'], m['confusion']


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
def n(request): return lambda short, long: long if request.config.getoption('--long') else short


def whole(folder):
    "Whether `cifar10_check` would be content."
    try: return bool(check_run(folder))
    except UserError: return False


@pytest.mark.parametrize('seed', (0, pytest.param(1, marks=pytest.mark.long)))
def test_killed_at_random_moments_and_resumed(undisturbed, project, n, seed):
    times, draw, killed, resumed = n(1, 10), random.Random(seed), 0, 0
    while killed < times:
        shutil.rmtree(project.out); project.out.mkdir()
        process = project.begin_train(*WORDS)
        try: process.wait(undisturbed.seconds*draw.uniform(.2, 1.))
        except subprocess.TimeoutExpired: process.kill(); process.wait()
        if whole(project.out): continue                   # it was quicker: no kill
        killed += 1
        done = project.train(*WORDS)
        assert done.returncode == 0, done.stderr
        resumed += 'continuing the run of' in done.stdout
        assert result(project.metrics()) == result(undisturbed.metrics())
        assert whole(project.out) and not list(project.out.glob('.*.tmp'))
    print(f'{killed} of {killed} killed, all as undisturbed; {resumed} had a checkpoint to go on from')
    assert resumed or times == 1


def test_papermill_killed_and_resumed(undisturbed, project, n):
    for _ in range(n(1, 3)):
        shutil.rmtree(project.out); project.out.mkdir()
        process = project.begin(sys.executable, '-m', 'papermill', 'nbs/03_train.ipynb', 'output/run.ipynb', '--log-output', '--no-progress-bar', *INJECT)
        project.wait_for('epoch 2/3')                    # then the first one's checkpoint is whole
        process.kill()                                   # papermill alone: its kernel lives on for a moment, and the next run waits for it
        done = project.papermill(*INJECT)
        assert done.returncode == 0, done.stderr
        assert 'continuing the run of' in done.stderr
        assert result(project.metrics()) == result(undisturbed.metrics())
        assert project.check().returncode == 0
        report = json.loads((project.out/'report.ipynb').read_text())
        code = [c for c in report['cells'] if c['cell_type'] == 'code']
        assert all(c['metadata']['papermill']['status'] == 'completed' for c in code) and code[-1]['outputs'] == json.loads((project.out/'run.ipynb').read_text())['cells'][-1]['outputs']
        assert 'test accuracy' in ''.join(str(c['outputs']) for c in code)
    old = project.metrics()['started']
    assert project.train(*WORDS, '--nepochs', '1').returncode == 0
    assert (project.out/'previous'/old/'report.ipynb').exists() and (project.out/'run.ipynb').exists()


def test_a_new_run_moves_the_finished_one_aside(undisturbed):
    p, old = undisturbed, undisturbed.metrics()
    before = {f: (p.out/f).read_bytes() for f in old['files']}
    done = p.train(*WORDS, '--nepochs', '1', '--lr', '.01')
    assert done.returncode == 0 and 'it is complete' in done.stdout
    assert {f: (p.out/'previous'/old['started']/f).read_bytes() for f in old['files']} == before
    for f in before: (p.out/f).write_bytes(before[f])     # as it was, for the tests after this one


def test_ctrl_c_stops_after_the_step_and_the_rest_still_draws(undisturbed, project):
    process = project.begin_train(*WORDS)
    project.wait_for('epoch 2/3')
    process.send_signal(signal.SIGINT)
    assert process.wait(120) == 130
    m, said = project.metrics(), (project.root/'said.txt').read_text()
    assert m['status'] == 'interrupted' and 'stopped by hand in epoch' in said and 'Traceback' not in said
    assert {'model_losses.png', 'confusion_matrix.png', 'wrong_examples.png'} <= set(project.files()) and project.check().returncode == 1
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
    said = project.check()
    assert said.returncode == 1 and said.stdout.count('\n') == 1 and 'interrupted (train: SIGTERM)' in said.stdout
    assert unpack((project.out/'checkpoint.safetensors').read_bytes())[1]['epoch'] >= 1


LIVE = '''
import sys
from jupyter_client.manager import start_new_kernel
import nbformat
manager, client = start_new_kernel(kernel_name='python3', cwd='.')
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
    if 'parameters' in cell.metadata.get('tags', []): client.execute_interactive("dataset, subset, nepochs, batch_size = 'shapes10', 300, 400, 50", output_hook=hook)
manager.shutdown_kernel()
sys.exit(1 if failed else 0)
'''


def test_stop_button_in_a_live_notebook(project):
    done = project(sys.executable, '-c', LIVE)
    assert done.returncode == 0, done.stdout + done.stderr
    assert 'of 400; what follows is the network as it is now' in done.stdout and done.stdout.count('shown') == 7 + 2 and 'anew text/plain image/png' in done.stdout     # seven figures; the table at the top, the place of the curves
    m = project.metrics()
    assert m['status'] == 'interrupted' and m['parameters']['resume'] is False and 1 <= len(m['history']) < 400


OWN = '''
import torch
from cifar10_nbdev.run import *
from cifar10_nbdev.core import UserError
class Sick(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.layer, self.steps = torch.nn.Linear(3072, n), 0
    def forward(self, x):
        self.steps += self.training
        return self.layer(x.flatten(1))*(float('nan') if self.steps == 37 else 1)
run = start(dict({defaults!r}, dataset='shapes10', subset=1000, batch_size=50, nepochs=3, model=Sick))
try:
    for f in (load_data, begin, show_model, train): f(run)
except UserError as e: print(e)
'''


def test_nan_at_step_37(project):
    done = project(sys.executable, '-c', OWN.format(defaults=DEFAULTS))
    assert done.stdout.splitlines()[-1].startswith('the loss is no finite number at step 37 (epoch 2), with lr 0.0'), done.stdout + done.stderr
    m = project.metrics()
    assert m['status'] == 'failed' and 'step 37' in m['reason'] and len(m['history']) == 1
    tensors, info = unpack((project.out/'checkpoint.safetensors').read_bytes())
    assert info['epoch'] == 1 and all(t.isfinite().all() for t in tensors.values())


def test_out_of_memory_says_what_to_try(project):
    def little(): resource.setrlimit(resource.RLIMIT_DATA, (3 << 30,)*2)
    done = subprocess.run([sys.executable, '-m', 'cifar10_nbdev.train', '--dataset', 'shapes10', '--batch_size', '10000'], cwd=project.root, env=project.env(), capture_output=True, text=True, preexec_fn=little)
    assert done.returncode == 2 and done.stderr.count('\n') == 1, done.stderr
    assert 'not enough memory on cpu with batch_size=10000: try batch_size=5000' in done.stderr
    assert project.metrics()['status'] == 'failed'


def test_two_runs_in_one_folder(project):
    first = project.begin_train(*WORDS, '--nepochs', '200')
    project.wait_for('epoch 1/200')
    before = time.monotonic()
    second = project.train(*WORDS)
    assert second.returncode == 2 and second.stderr.count('\n') == 1 and 'another run is writing into' in second.stderr
    assert time.monotonic() - before > 10
    said = project.check()
    assert said.returncode == 1 and 'is going on' in said.stdout
    assert first.poll() is None and 'epoch' in (project.root/'said.txt').read_text().splitlines()[-1]
    first.kill(); first.wait()
    assert 'was cut off' in project.check().stdout


@pytest.fixture
def mounted(tmp_path):
    "Mounts a tmpfs of a size; skips where that is not allowed."
    places = []
    def mount(options):
        place = tmp_path/f'disk{len(places)}'; place.mkdir()
        if subprocess.run(['mount', '-t', 'tmpfs', '-o', options, 'tmpfs', place], capture_output=True).returncode: pytest.skip('mounting a small disk takes root')
        places.append(place)
        return place
    yield mount
    for place in places: subprocess.run(['umount', '-l', place])


def test_small_and_read_only_disks(project, mounted):
    disk = mounted('size=2m')
    (disk/'metrics.json').write_text('{"started": "20260101T000000Z", "files": ["metrics.json"]}'); (disk/'mine.txt').write_text('mine')
    before = {f.name: f.read_bytes() for f in disk.iterdir()}
    done = project.train(*WORDS, '--output_dir', str(disk))
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'MB are needed' in done.stderr, done.stderr
    assert {f.name: f.read_bytes() for f in disk.iterdir() if f.name != '.lock'} == before
    subprocess.run(['mount', '-o', 'remount,ro', disk], check=True)
    done = project.train(*WORDS, '--output_dir', str(disk))
    assert done.returncode == 2 and done.stderr.count('\n') == 1 and 'Read-only file system' in done.stderr, done.stderr
    assert {f.name: f.read_bytes() for f in disk.iterdir() if f.name != '.lock'} == before


def test_disk_that_fills_up_meanwhile(undisturbed, project, mounted):
    disk = mounted('size=100m')
    process = project.begin_train(*WORDS, '--output_dir', str(disk))
    project.wait_for('epoch 2/3')
    with open(disk/'rubbish', 'wb', buffering=0) as f:      # a buffer would be written once more by close()
        end = time.monotonic() + 120
        while process.poll() is None and time.monotonic() < end:   # what a checkpoint that replaces another gives back is taken too
            try: f.write(bytes(1 << 16))
            except OSError: time.sleep(.01)
    assert process.wait(1) == 2
    last = (project.root/'said.txt').read_text().splitlines()[-1]
    assert last.startswith('Error: ') and 'No space left on device' in last
    assert 1 <= unpack((disk/'checkpoint.safetensors').read_bytes())[1]['epoch'] < 3       # the last good one is whole
    assert unseal((disk/'metrics.json').read_bytes())['status'] in ('running', 'failed')
    (disk/'rubbish').unlink()
    done = project.train(*WORDS, '--output_dir', str(disk))
    assert done.returncode == 0 and 'continuing the run of' in done.stdout, done.stderr
    assert result(unseal((disk/'metrics.json').read_bytes())) == result(undisturbed.metrics())


class Trap:
    "A pickle that makes a folder when it is opened."
    def __init__(self, where): self.where = where
    def __reduce__(self): return os.mkdir, (str(self.where),)


def test_malicious_checkpoint_is_refused(undisturbed, project):
    shutil.copytree(undisturbed.out, project.out, dirs_exist_ok=True)
    m = project.metrics()
    m.pop('sha256'); (project.out/'metrics.json').write_text(seal({**m, 'status': 'running'}))
    (project.out/'checkpoint.safetensors').write_bytes(pickle.dumps(Trap(project.root/'sprung')))
    done = project.train(*WORDS, '--resume', 'true')
    assert done.returncode == 2 and 'checkpoint.safetensors is damaged, or no checkpoint of ours' in done.stderr
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


def test_corruptions_are_noticed(undisturbed, tmp_path, n):
    draw, d = random.Random(1), shapes10((300, 100))
    a = Arrays(*(t.numpy() for t in (d.train_x.permute(0, 2, 3, 1), d.train_y, d.test_x.permute(0, 2, 3, 1), d.test_y)))
    keep(a, tmp_path, 'somewhere')
    checkpoint, record, cache = (f.read_bytes() for f in (undisturbed.out/'checkpoint.safetensors', undisturbed.out/'metrics.json', tmp_path/KEPT))
    silent = 0
    for i in range(200):
        if i % 3 == 2:      # the data's decoded copy: either not taken, or what it was
            (tmp_path/KEPT).write_bytes(damaged(cache, draw))
            got = kept(tmp_path)
            silent += not (got is None or got.fingerprint == a.fingerprint)
            continue
        try: unseal(damaged(record, draw)) if i % 3 else unpack(damaged(checkpoint, draw)); silent += 1
        except UserError: pass
    assert silent == 0
