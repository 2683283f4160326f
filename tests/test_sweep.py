"""A sweep on an engine of two workers, which are processes of their own on the loopback, one of
them killed in the middle."""
import csv, os, re, signal, socket, subprocess, sys
from dataclasses import asdict

import psutil
import pytest

import cifar10_nbdev.train
from cifar10_nbdev.params import SPECS, check_params, defaults_of
from cifar10_nbdev.recipe import recipe
from cifar10_nbdev.record import Record

from conftest import is_refusal

SMALL = ('--dataset shapes10 --subset 100 --batch_size 50 --nepochs 1 --valid_size 50 '
         '--lr .01 .03').split()
SWEEP = [sys.executable, '-m', 'cifar10_nbdev.sweep']


class Engine:
    "A Dask scheduler on a free port of this machine, and its workers."
    def __init__(self, project):
        self.project, self.started = project, []
        with socket.socket() as s:
            s.bind(('127.0.0.1', 0))
            port = s.getsockname()[1]
        self.address = f'tcp://127.0.0.1:{port}'
        self.start('distributed.cli.dask_scheduler', '--host', '127.0.0.1', '--port', str(port),
                   '--no-dashboard')

    def start(self, *words):
        "Start a program, whose output goes to a file."
        command = [sys.executable, '-m', *words]
        root, env = self.project.root, self.project.env(OMP_NUM_THREADS='1')
        with open(root/f'engine{len(self.started)}.txt', 'w') as log:
            process = subprocess.Popen(command, cwd=root, env=env, stdout=log,
                                       stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL)
        self.started.append(process)
        return process

    def worker(self):
        "Start a worker."
        return self.start('distributed.cli.dask_worker', self.address, '--nthreads', '1',
                          '--no-nanny', '--no-dashboard', '--host', '127.0.0.1')

    def stop(self):
        "Kill everything that was started, and what that has started."
        for process in self.started:
            if process.poll() is None:
                for child in psutil.Process(process.pid).children(recursive=True): child.kill()
            process.kill()


@pytest.fixture
def engine(project):
    engine = Engine(project)
    yield engine
    engine.stop()


@pytest.mark.long   # three minutes
def test_one_worker_killed(project, engine):
    seeds = ['0', '1', '2', '3']
    n = 2*len(seeds)
    engine.worker()
    second = engine.worker()
    words = [*SWEEP, *SMALL, '--seed', *seeds, '--sweep_dir', 'output/lr']
    sweep = project.begin(*words, '--address', engine.address)
    try:
        project.wait_for(f'done; {n//4} of {n}', 300)
        os.kill(second.pid, signal.SIGKILL)             # its training goes on as an orphan
        assert sweep.wait(400) == 0, project.printed()
    finally:
        if sweep.poll() is None: sweep.kill()
    assert f'{n} of {n} trials are complete' in project.printed()
    with open(project.out/'lr'/'sweep.csv') as f: rows = list(csv.DictReader(f))
    assert len(rows) == len({row['trial'] for row in rows}) == n
    for row in rows:
        assert float(row['accuracy']) >= 0
        assert project.check(f"output/lr/{row['trial']}").returncode == 0
        assert not (project.out/'lr'/row['trial']/'previous').exists()        # each once
    again = project(*words)
    assert again.returncode == 0 and f'{n} trials, {n} of them finished' in again.stdout
    assert 'done;' not in again.stdout


@pytest.mark.long   # one minute and a half
def test_a_trial_that_cannot_be_is_reported(project):
    words = ('--dataset shapes10 --nepochs 1 --batch_size 50 --subset 20000 --workers 1 '
             '--sweep_dir output/s').split()
    done = project(*SWEEP, *words, OMP_NUM_THREADS='1')
    assert done.returncode == 1
    assert 'FAILED run: Error: subset=20000 is more than' in done.stdout
    assert '0 of 1 trials are complete' in done.stdout
    words = '--nepochs 1 --address tcp://127.0.0.1:9 --sweep_dir output/s'.split()
    dead = project(*SWEEP, *words)
    assert dead.returncode == 2
    assert 'no Dask scheduler answers at tcp://127.0.0.1:9' in dead.stderr


def leave_trial(folder, record=(), **parameters):
    "The record of a trial that nobody has trained, and what its settings give today."
    folder.mkdir(parents=True, exist_ok=True)
    p = check_params({**defaults_of(cifar10_nbdev.train), 'dataset': 'shapes10', **parameters})
    chosen = {n: p[n] for n, spec in SPECS.items() if spec.in_recipe}
    values = dict(status='complete', dataset='shapes10', dtype='float32', device='cpu', seconds=2.,
                  test_accuracy=.5, parameters=p,
                  recipe=asdict(recipe('cnn', p['nepochs'], **chosen)))
    (folder/'metrics.json').write_text(Record(**values | dict(record)).to_text())


def looked_up(project, folder, *words):
    "A sweep without workers: how many trials it finds finished, of how many, what it says."
    done = project.forked('cifar10_nbdev.sweep', '--dataset', 'shapes10', '--address', 'nowhere://',
                          '--sweep_dir', str(folder), *words)
    print(done.stdout, done.stderr)
    n, found = re.match(r'(\d+) trials, (\d+) of|()()', done.stdout).groups()[:2]
    return int(found or 0), int(n or 0), done


def test_a_trial_counts_wherever_its_folder_is_named_and_once(project):
    home = project.out/'my sweeps'/'lr'
    for lr in (.01, .03): leave_trial(home/f'lr={lr}', lr=lr)
    (project.root/'link').symlink_to(home)
    for folder in (home, 'output/my sweeps/lr', 'link', './output/../link/'):
        found, n, done = looked_up(project, folder, '--lr', '1e-2', '.03')
        assert (found, n, done.returncode) == (2, 2, 0)
        assert 'lr 0.01 1 50.00%' in ' '.join(done.stdout.split())
    assert is_refusal(looked_up(project, home, '--lr', '1e-2', '.01')[2])        # is there twice
    found, n, done = looked_up(project, home, '--lr', '.01', '.03', '--seed', '0', '1')
    assert (found, n, done.returncode) == (0, 4, 2)                    # another grid, other names
    found, n, done = looked_up(project, home, '--lr', '.01', '.03', '--nepochs', '3')
    assert (found, n, done.returncode) == (0, 2, 2)                    # the same names
    assert sorted(f.name for f in home.iterdir() if f.is_dir()) == ['lr=0.01', 'lr=0.03']
    found, n, done = looked_up(project, home, '--lr', '.01')
    assert (found, n) == (0, 1)
    for where in (home/'lr=0.01'/'metrics.json', '/proc/sweep', 'a\nb'):
        assert is_refusal(looked_up(project, where, '--lr', '.01')[2])


def test_an_old_trial_does_not_count_after_an_edit(project):
    old = {**asdict(recipe('cnn', 2, lr=.03)), 'momentum': .5}         # of a recipe before
    leave_trial(project.out/'s'/'lr=0.01', lr=.01)
    leave_trial(project.out/'s'/'lr=0.03', dict(recipe=old), lr=.03)
    words = project.out/'s', '--lr', '.01', '.03'
    assert looked_up(project, *words)[:2] == (1, 2)
    for changes in (dict(dataset='cifar10'), dict(versions={}), dict(status='interrupted')):
        leave_trial(project.out/'s'/'lr=0.03', changes, lr=.03)
        assert looked_up(project, *words)[:2] == (1, 2)
    (project.out/'s'/'lr=0.03'/'metrics.json').write_text('{}')
    assert looked_up(project, *words)[:2] == (1, 2)


def test_what_auto_stood_for_is_not_averaged(project):
    machines = dict(dtype='bfloat16', device='cuda:0'), dict(dtype='float32', device='cpu')
    for seed in (0, 1, 2, 3):
        folder = project.out/'s'/f'seed={seed}'
        leave_trial(folder, dict(machines[seed % 2], test_accuracy=.4 + .1*seed), seed=seed)
    found, n, done = looked_up(project, project.out/'s', '--seed', '0', '1', '2', '3')
    assert (found, n, done.returncode) == (4, 4, 0)
    lines = [' '.join(line.split()) for line in done.stdout.splitlines()]
    assert any(line.startswith('precision float32, device cpu 2 60.00%') for line in lines)
    assert any(line.startswith('precision bfloat16, device cuda 2 50.00%') for line in lines)


@pytest.mark.long   # one minute and a half
def test_two_sweeps_with_folders_of_one_name(project, engine):
    engine.worker()
    words = [*SWEEP, *SMALL[:-1], '--address', engine.address, '--sweep_dir']
    env = project.env(OMP_NUM_THREADS='1')
    both = [subprocess.Popen([*words, f'output/{name}/lr'], cwd=project.root, env=env,
                             stdout=subprocess.PIPE, text=True) for name in ('a', 'b')]
    for sweep in both: assert '1 of 1 trials are complete' in sweep.communicate(timeout=400)[0]
    a, b = (project.metrics(f'output/{name}/lr/run') for name in ('a', 'b'))
    assert a['id'] != b['id'] and a['parameters']['output_dir'] != b['parameters']['output_dir']
