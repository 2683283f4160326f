"A sweep on an engine of two workers, which are processes of their own on the loopback, one of them killed in the middle."
import csv, os, signal, socket, subprocess, sys

import psutil
import pytest

SMALL = ['--dataset', 'shapes10', '--subset', '100', '--batch_size', '50', '--nepochs', '1', '--valid_size', '50', '--lr', '.01', '.03']


@pytest.fixture
def engine(project):
    "The address of a scheduler, and its workers' processes."
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    address, started = f'tcp://127.0.0.1:{port}', []
    env = project.env(OMP_NUM_THREADS='1')
    def start(*words):
        with open(project.root/f'engine{len(started)}.txt', 'w') as log:
            started.append(subprocess.Popen([sys.executable, '-m', *words], cwd=project.root, env=env, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL))
        return started[-1]
    start('distributed.cli.dask_scheduler', '--host', '127.0.0.1', '--port', str(port), '--no-dashboard')
    worker = lambda: start('distributed.cli.dask_worker', address, '--nthreads', '1', '--no-nanny', '--no-dashboard', '--host', '127.0.0.1')
    yield address, worker
    for process in started:
        for child in psutil.Process(process.pid).children(recursive=True) if process.poll() is None else (): child.kill()
        process.kill()


@pytest.mark.long   # three minutes
def test_one_worker_killed(project, engine):
    seeds = ['0', '1', '2', '3']
    n = 2*len(seeds)
    address, worker = engine
    first, second = worker(), worker()
    whole = project.begin(sys.executable, '-m', 'cifar10_nbdev.sweep', *SMALL, '--seed', *seeds, '--sweep_dir', 'output/lr', '--address', address)
    try:
        project.wait_for(f'done; {n//4} of {n}', 300)
        os.kill(second.pid, signal.SIGKILL)             # its training goes on as an orphan
        assert whole.wait(400) == 0, (project.root/'said.txt').read_text()
    finally:
        if whole.poll() is None: whole.kill()
    said = (project.root/'said.txt').read_text()
    assert f'{n} of {n} trials are complete' in said
    rows = list(csv.DictReader((project.out/'lr'/'sweep.csv').read_text().splitlines()))
    assert len(rows) == len({row['trial'] for row in rows}) == n and all(float(row['accuracy']) >= 0 for row in rows)
    for row in rows:
        assert project.check(f"output/lr/{row['trial']}").returncode == 0
        assert not (project.out/'lr'/row['trial']/'previous').exists()        # each once
    again = project(sys.executable, '-m', 'cifar10_nbdev.sweep', *SMALL, '--seed', *seeds, '--sweep_dir', 'output/lr')
    assert again.returncode == 0 and f'{n} trials, {n} of them finished' in again.stdout and 'done;' not in again.stdout


@pytest.mark.long   # one minute and a half
def test_a_trial_that_cannot_be_is_said(project):
    done = project(sys.executable, '-m', 'cifar10_nbdev.sweep', '--dataset', 'shapes10', '--nepochs', '1', '--batch_size', '50', '--subset', '20000', '--sweep_dir', 'output/s', '--workers', '1', OMP_NUM_THREADS='1')
    assert done.returncode == 1 and 'FAILED run: Error: subset=20000 is more than' in done.stdout and '0 of 1 trials are complete' in done.stdout
    dead = project(sys.executable, '-m', 'cifar10_nbdev.sweep', '--nepochs', '1', '--address', 'tcp://127.0.0.1:9', '--sweep_dir', 'output/s')
    assert dead.returncode == 2 and 'no Dask scheduler answers at tcp://127.0.0.1:9' in dead.stderr
