"""A sweep on an engine of two workers, which are processes of their own on the loopback, one of
them killed in the middle."""
import csv, os, signal, socket, subprocess, sys

import psutil
import pytest

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
