"""Runs in MLflow, in trackio and in Weights & Biases: the real libraries, each with a store on this
machine and a network that is dead, and what they have is read back."""
import json, os, signal, sys, time

import pytest
from filelock import FileLock
from mlflow import MlflowClient
from PIL import Image

from cifar10_nbdev.record import Record

from conftest import DEAD, SECRET

SMALL = ('--dataset shapes10 --subset 100 --batch_size 50 --model fast --precision float32 '
         '--device cpu').split()


class Run:
    "A trial of a sweep that was never trained, but leaves the record of one."
    def __init__(self, project):
        self.project, self.out = project, project.out/'sweep'/'lr=0.1'
        self.out.mkdir(parents=True)
        (self.out/'.sweep.lock').touch()
        Image.new('RGB', (20, 10), 'red').save(self.out/'model_losses.png')
        for name in ('checkpoint.safetensors', 'model_log.txt'): (self.out/name).write_text('text')
        files = dict.fromkeys(('metrics.json', *(f.name for f in self.out.glob('m*'))))
        self.record = Record(
            dataset='shapes10', model='fast', nepochs=3, device='cpu', dtype='float32',
            parameters=dict(seed=3, lr=None, output_dir='output/sweep/lr=0.1'),
            recipe=dict(lr=.1), files=files | {'checkpoint.safetensors': None})

    def reach(self, epoch, status='running', **changes):
        "Write the record of a run that has come so far."
        history = [dict(epoch=e, train_loss=1/e, test_accuracy=.1*e, lr_steps=[.1, .2])
                   for e in range(1, epoch + 1)]
        self.record.update(history=history, status=status, **changes)
        (self.out/'metrics.json').write_text(self.record.to_text())

    def followed_by(self, tracker):
        "Let a tracker follow the run as far as it has come, and see its end."
        done = self.project.forked('cifar10_nbdev.track', tracker, str(self.out))
        assert done.returncode == 0, done.stderr

    def move(self):
        "Move the folders of the sweep."
        there = self.out.parent.rename(self.out.parent.with_name('elsewhere'))
        self.out = there/self.out.name

    def twice(self, tracker, status):
        "The run is killed in its second epoch, moved, continued, and ends."
        self.reach(1)
        self.followed_by(tracker)
        self.move()
        self.reach(3, status, test_accuracy=.3)
        self.followed_by(tracker)
        for name, content in self.project.files('.').items():
            assert SECRET.encode() not in content, name


@pytest.fixture
def run(project): return Run(project)


def runs_in_mlflow(project):
    "The client, and all runs that are there."
    with FileLock(project.root/'mlflow.db.lock'):      # nobody is making the file
        if not (project.root/'mlflow.db').exists(): return None, []
        client = MlflowClient(f'sqlite:///{project.root}/mlflow.db')
        experiment = client.get_experiment_by_name('cifar10_nbdev')
    return client, client.search_runs([experiment.experiment_id])


@pytest.mark.parametrize('status', ['complete', pytest.param('failed', marks=pytest.mark.long)])
def test_mlflow(run, status):
    run.reach(1)
    run.followed_by('mlflow')
    client, [killed] = runs_in_mlflow(run.project)
    assert killed.info.status == 'KILLED' and killed.data.tags['group'] == 'output/sweep'
    run.move()
    run.reach(3, status, test_accuracy=.3)
    run.followed_by('mlflow')
    _, [r] = runs_in_mlflow(run.project)
    assert r.info.run_id == killed.info.run_id and r.info.run_name.startswith('lr=0.1 ')
    assert r.info.status == dict(complete='FINISHED', failed='FAILED')[status]
    assert (r.data.params['lr'], r.data.params['seed']) == ('0.1', '3')
    assert 'output_dir' not in r.data.params
    steps = client.get_metric_history(r.info.run_id, 'test_accuracy')
    assert [(m.step, round(m.value, 6)) for m in steps] == [(1, .1), (2, .2), (3, .3)]
    assert r.data.metrics['result/test_accuracy'] == .3
    files = {f.path for f in client.list_artifacts(r.info.run_id)}
    assert files == {'metrics.json', 'model_log.txt', 'model_losses.png'}   # no checkpoint
    assert (run.project.root/'mlruns').is_dir()
    for name, content in run.project.files('.').items(): assert SECRET.encode() not in content, name


READ_TRACKIO = '''
import json, trackio
from trackio.sqlite_storage import SQLiteStorage
runs = trackio.Api().runs('cifar10_nbdev')
logs = [SQLiteStorage.get_logs(r.project, r.name) for r in runs]
print(json.dumps([dict(name=r.name, config=r.config, alerts=r.alerts(), logs=rows)
                  for r, rows in zip(runs, logs)], default=str))
'''


def test_trackio(run):
    run.twice('trackio', 'failed')
    env = dict(TRACKIO_DIR=str(run.project.root/'trackio'))
    done = run.project(sys.executable, '-c', READ_TRACKIO, **env)
    [r] = json.loads(done.stdout)
    assert r['name'].startswith('lr=0.1 ') and r['config']['lr'] == .1
    assert r['config']['group'] == 'output/elsewhere'
    rows = r['logs']
    assert [row['step'] for row in rows if 'test_accuracy' in row] == [1, 2, 3]
    assert rows[-1]['result/test_accuracy'] == .3 and rows[-1]['result/status'] == 'failed'
    assert rows[-1]['model_losses']['_type'] == 'trackio.image'
    assert {a['title'] for a in r['alerts']} == {'The run is interrupted', 'The run is failed'}


def test_wandb_offline(run):
    run.twice('wandb', 'complete')
    legs = sorted((run.project.root/'wandb').glob('offline-run-*'))
    assert len(legs) == 2 and all(leg.name.endswith(run.record.id) for leg in legs)
    [log] = legs[1].glob('*.wandb')
    for word in (b'result/test_accuracy', b'output/elsewhere', b'lr=0.1 '):
        assert word in log.read_bytes(), word
    assert len([*legs[1].glob('files/media/images/model_losses*.png')]) == 1


def test_a_dead_server_stops_nothing(project):
    env = project.env(MLFLOW_TRACKING_URI=DEAD)
    project.env = lambda **more: env | more
    done = project.train(*SMALL, '--nepochs', '1', '--tracker', 'mlflow', '--verbose', '0')
    assert done.returncode == 0 and project.metrics()['status'] == 'complete', done.stderr
    [line] = done.stdout.splitlines()                    # said once, whatever `verbose` is
    assert line.startswith('!! mlflow does not track this run any more: mlflow.exceptions')
    assert project.check().returncode == 0               # the log's digest is the last one


def wait_for(what, seconds=60):
    "Wait until something is true."
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end
        time.sleep(.5)


@pytest.mark.long   # a minute
def test_a_killed_run_is_seen_and_continued(project):
    words = [*SMALL, '--nepochs', '12']
    training = project.begin_train(*words, '--tracker', 'mlflow')
    project.wait_for('epoch 2/12')
    training.kill()
    wait_for(lambda: [r.info.status for r in runs_in_mlflow(project)[1]] == ['KILLED'])
    done = project.train(*words, '--tracker', 'mlflow')
    assert done.returncode == 0, done.stderr
    client, [r] = runs_in_mlflow(project)
    assert r.info.status == 'FINISHED'
    steps = client.get_metric_history(r.info.run_id, 'train_loss')
    assert [m.step for m in steps] == [*range(1, 13)]
    assert project.train(*words, '--output_dir', 'output/untracked').returncode == 0
    sha = [project.metrics(folder)['weights_sha256'] for folder in ('output', 'output/untracked')]
    assert sha[0] == sha[1]                               # a tracker changes nothing


@pytest.mark.long   # a minute
def test_signals_and_two_workers(project):
    words = [*SMALL, '--nepochs', '8', '--tracker', 'mlflow']
    training = project.begin_train(*words)
    project.wait_for('epoch 1/8')
    os.kill(training.pid, signal.SIGTERM)
    assert training.wait(120) == 143
    _, [r] = runs_in_mlflow(project)
    assert r.info.status == 'KILLED'                      # there when the program ends
    start = '-m', 'torch.distributed.run', '--standalone', '--nproc-per-node', '2'
    done = project(sys.executable, *start, '-m', 'cifar10_nbdev.train', *words, OMP_NUM_THREADS='1')
    assert done.returncode == 0, done.stderr
    _, [r] = runs_in_mlflow(project)                      # one run, though there are two workers
    assert r.info.status == 'FINISHED'


@pytest.mark.long   # half a minute
def test_your_own_in_a_changed_cell(project):
    notebooks = [project.root/'nbs'/name for name in ('02pa_track.ipynb', '03_train.ipynb')]
    track, train = (json.loads(path.read_text()) for path in notebooks)
    sources = [''.join(c['source']) for c in track['cells'] if c['cell_type'] == 'code']
    [cell] = [s for s in sources if s.startswith('class InSQLite')]
    assert len(cell.splitlines()) <= 12
    [start] = [c for c in train['cells'] if ''.join(c['source']).startswith('run = start(')]
    start['source'] = f'''import sqlite3
from cifar10_nbdev.learner import Callback
{''.join(start['source'])}
{cell}
run.cbs.append(InSQLite())'''
    notebooks[1].write_text(json.dumps(train))
    values = dict(dataset='shapes10', subset=100, batch_size=50, model='fast', nepochs=2,
                  tracker='trackio')
    words = [word for name, value in values.items() for word in ('-p', name, str(value))]
    done = project.papermill(*words)
    assert done.returncode == 0, done.stderr
    query = 'SELECT epoch FROM epochs'
    script = f"import sqlite3; print(sqlite3.connect('runs.db').execute({query!r}).fetchall())"
    assert project(sys.executable, '-c', script).stdout == '[(1,), (2,)]\n'
    assert (project.root/'trackio'/'cifar10_nbdev.db').exists()
