"Several workers, started by torchrun, train as one process does; one that is killed costs no run."
import os, signal, sys, time

import psutil
import pytest

SMALL = ['--dataset', 'shapes10', '--subset', '300', '--batch_size', '50', '--seed', '3', '--nepochs', '3', '--lr', '.002']
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
TRAIN = ['-m', 'cifar10_nbdev.train', *SMALL]


@pytest.mark.long   # 02ca_workers has it in double precision
def test_two_workers_train_as_one_process_does(project):
    one, two = project(sys.executable, *TRAIN, '--output_dir', 'output/one', OMP_NUM_THREADS='1'), project(*TORCHRUN, *TRAIN, '--output_dir', 'output/two', OMP_NUM_THREADS='1')
    assert one.returncode == two.returncode == 0, two.stderr
    assert two.stdout.count('epoch 3/3') == 1                     # one of them speaks
    a, b = project.metrics('output/one'), project.metrics('output/two')
    assert (a['workers'], b['workers'], b['n_test'], b['n_right'] + b['n_wrong']) == (1, 2, 1000, 1000)      # each test image once
    assert a['parameters'] == {**b['parameters'], 'output_dir': 'output/one'}
    for row, other in zip(a['history'], b['history']): print(row, other)
    for row, other in zip(a['history'], b['history']):            # single precision: sums of 50 images, added in another order, eighteen steps long
        assert abs(row['train_loss'] - other['train_loss']) < .02 and abs(row['test_loss'] - other['test_loss']) < .05, (row, other)
    assert abs(a['test_accuracy'] - b['test_accuracy']) < .02
    assert project.check('output/two').returncode == 0


@pytest.mark.long   # two minutes
def test_a_killed_worker_costs_no_run(project):
    whole = project.begin(*TORCHRUN, '--max-restarts', '3', *TRAIN)
    try:
        project.wait_for('epoch 1/3')
        for _ in range(200):
            if (project.out/'checkpoint.safetensors').exists(): break
            time.sleep(.05)
        [second] = [p for p in psutil.Process(whole.pid).children(recursive=True) if 'cifar10_nbdev.train' in ' '.join(p.cmdline()) and p.environ().get('RANK') == '1']
        os.kill(second.pid, signal.SIGKILL)
        assert whole.wait(400) == 0, (project.root/'said.txt').read_text()
    finally:
        if whole.poll() is None: whole.kill()
    m = project.metrics()
    assert m['status'] == 'complete' and len(m['resumed']) >= 1 and [row['epoch'] for row in m['history']] == [1, 2, 3]
    assert project.check().returncode == 0


def test_too_many_workers_for_a_batch(project):
    done = project(*TORCHRUN, *TRAIN, '--batch_size', '299', OMP_NUM_THREADS='1')      # 300 images: one is left over
    assert done.returncode != 0 and '2 workers cannot share a batch of 1 images' in done.stderr
