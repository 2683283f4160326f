"Several workers, started by torchrun, train as one process does; one that is killed costs no run."
import os, re, signal, sys, time
from pathlib import Path

import psutil
import pytest

SMALL = ('--dataset shapes10 --subset 300 --batch_size 50 --seed 3 --nepochs 3 '
         '--lr .002').split()
TORCHRUN = [sys.executable, '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2']
TRAIN = ['-m', 'cifar10_nbdev.train', *SMALL]


@pytest.mark.long   # 02l_workers has it in double precision
def test_two_workers_train_as_one_process_does(project):
    start = {'one': [sys.executable], 'two': TORCHRUN}
    one, two = (project(*start[name], *TRAIN, '--output_dir', f'output/{name}',
                        OMP_NUM_THREADS='1') for name in ('one', 'two'))
    assert one.returncode == two.returncode == 0, two.stderr
    assert two.stdout.count('epoch 3/3') == 1                     # only one of them prints
    a, b = project.metrics('output/one'), project.metrics('output/two')
    assert (a['workers'], b['workers']) == (1, 2)
    assert (b['n_test'], b['n_right'] + b['n_wrong']) == (1000, 1000)      # each test image once
    assert a['parameters'] == {**b['parameters'], 'output_dir': 'output/one'}
    assert len(a['history']) == len(b['history']) == 3
    # single precision: sums of 50 images, added in another order, eighteen steps long
    for row, other in zip(a['history'], b['history']):
        print(row, other)
        assert abs(row['train_loss'] - other['train_loss']) < .02
        assert abs(row['test_loss'] - other['test_loss']) < .05
    assert abs(a['test_accuracy'] - b['test_accuracy']) < .02
    assert project.check('output/two').returncode == 0


def second_worker(torchrun):
    "The process of rank 1."
    for p in psutil.Process(torchrun.pid).children(recursive=True):
        if 'cifar10_nbdev.train' in ' '.join(p.cmdline()) and p.environ().get('RANK') == '1':
            return p
    raise AssertionError('there is no second worker')


@pytest.mark.long   # two minutes
def test_a_killed_worker_costs_no_run(project):
    torchrun = project.begin(*TORCHRUN, '--max-restarts', '3', *TRAIN)
    try:
        project.wait_for('epoch 1/3')
        for _ in range(200):
            if (project.out/'checkpoint.safetensors').exists(): break
            time.sleep(.05)
        os.kill(second_worker(torchrun).pid, signal.SIGKILL)
        assert torchrun.wait(400) == 0, project.printed()
    finally:
        if torchrun.poll() is None: torchrun.kill()
    m = project.metrics()
    assert m['status'] == 'complete' and len(m['legs']) >= 2
    assert [row['epoch'] for row in m['history']] == [1, 2, 3]
    assert project.check().returncode == 0


@pytest.mark.long   # 02l_workers has the sentence
def test_too_many_workers_for_a_batch(project):
    # 300 images: one is left over
    done = project(*TORCHRUN, *TRAIN, '--batch_size', '299', OMP_NUM_THREADS='1')
    assert done.returncode != 0
    assert '2 workers cannot share a batch of 1 images' in done.stderr


@pytest.mark.long   # 02l_workers rehearses such layers, in one process
def test_layers_of_ones_own(project):
    done = project(*TORCHRUN, str(Path(__file__).with_name('own_layers.py')), OMP_NUM_THREADS='1')
    print(done.stdout, done.stderr)
    trained = dict(re.findall(r'^(\w+): (\S+)$', done.stdout, re.M))
    assert len(trained) == 8 and all(float(by) < 1e-5 for by in trained.values())
    sentence = (r'^worker ([01]), (\w+): (\S+) s, 2 workers would not train this network as one '
                r'process does \((.+)\): train it with one process$')
    refused = re.findall(sentence, done.stdout, re.M)
    assert len({(rank, name) for rank, name, *_ in refused}) == 2*5     # both end
    for _, name, seconds, why in refused:
        assert float(seconds) < 20
        keeps = name == 'statistics'
        assert why == ('it mixes images, or keeps statistics of its own' if keeps else
                       'it draws random numbers of its own')
    assert done.returncode != 0
    assert 'Error: 2 workers would not train this network' in done.stderr
