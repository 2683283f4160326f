"""The image and burst's own program, on a local Docker engine: `make burst-test`, which brings both versions of burst. What is missing here is skipped, and said.

The engine is the one that `docker` finds (DOCKER_HOST). CIFAR-10 is trained on where CIFAR10_DATA names a place that has it, else shapes10. Containers use the host's network.
"""
import json, os, re, shutil, socket, subprocess, sys, time, urllib.error, urllib.request, uuid
from pathlib import Path

import pytest

from conftest import ROOT

BURST, BURST_NEW = os.environ['BURST'], os.environ['BURST_NEW']   # programs; `make burst-test` names them
DATA = os.environ.get('CIFAR10_DATA')
DATASET = 'cifar10' if DATA and Path(DATA).exists() else 'shapes10'
IMAGE, HOME, PORT = 'burst_image', '/home/burst/work', 8888
JUPYTER = f'http://127.0.0.1:{PORT}'


def sh(*args: str, cwd: Path = ROOT, timeout: int = 1800, **env: str) -> subprocess.CompletedProcess:
    return subprocess.run(args, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=timeout, stdin=subprocess.DEVNULL, env={**os.environ, **env})


def version_of(burst: str) -> str: return sh(burst, '--version', cwd=Path('/')).stdout if shutil.which(burst) else ''


needs_old = pytest.mark.skipif('0.2.12' not in version_of(BURST), reason='burst 0.2.12 could not be installed')
needs_new = pytest.mark.skipif('1.2.1' not in version_of(BURST_NEW), reason='burst 1.2.1 could not be installed')


@pytest.fixture(scope='session')
def checkout(tmp_path_factory):
    "A fresh clone, with the data in data/."
    root = tmp_path_factory.mktemp('burst')/'cifar10_nbdev'
    assert sh('git', 'clone', '-q', str(ROOT), str(root)).returncode == 0
    (root/'data').mkdir()
    if DATASET == 'cifar10': shutil.copytree(DATA, root/'data', dirs_exist_ok=True) if Path(DATA).is_dir() else shutil.copy(DATA, root/'data')
    return root


@pytest.fixture(scope='session')
def image(checkout):
    "The image, built from the clone. (`--network host`: some engines have no other.)"
    if not shutil.which('docker') or sh('docker', 'version').returncode: pytest.skip('there is no Docker engine here')
    built = sh('docker', 'build', '--network', 'host', '-t', IMAGE, '.', cwd=checkout)
    assert built.returncode == 0, built.stdout[-3000:]
    return IMAGE


def burst(checkout: Path, *words: str, program: str = BURST, **env: str) -> str:
    "What burst shows in a terminal, which it wants to have."
    return sh('script', '-qec', ' '.join((program, *words)), '/dev/null', cwd=checkout, **env).stdout.replace('\r', '')


def complete(checkout: Path, folder: str) -> dict:
    "The record of a run that check calls complete."
    done = sh(sys.executable, '-m', 'cifar10_nbdev.check', folder, cwd=checkout, PYTHONPATH=str(checkout))
    assert done.returncode == 0, done.stdout
    return json.loads((checkout/folder/'metrics.json').read_text())


@needs_old
def test_batch_run(image, checkout):
    said = burst(checkout, '--local', '--gpus', 'none', 'papermill', 'nbs/03_train.ipynb', 'output/run.ipynb', '-p', 'nepochs', '1', '-p', 'dataset', DATASET)
    print(said)
    assert re.search(r'^epoch 1/1: training loss', said, re.M)
    m = complete(checkout, 'output')
    assert (m['nepochs'], m['dataset'], m['device']) == (1, DATASET, 'cpu') and m['data_fingerprint']
    for name in ('run.ipynb', 'report.ipynb', 'model_losses.png', 'confusion_matrix.png', 'wrong_examples.png', 'training_example_images.png', 'model_log.txt'): assert (checkout/'output'/name).stat().st_size > 0, name


@needs_old
def test_scripted_run(image, checkout):
    said = burst(checkout, '--local', '--gpus', 'none', 'python', '-m', 'cifar10_nbdev.train', '--nepochs', '1', '--dataset', DATASET, '--output_dir', 'output/scripted')
    print(said)
    assert re.search(r'epoch 1/1: training loss', said)
    assert complete(checkout, 'output/scripted')['nepochs'] == 1


@needs_old
def test_refusal_reaches_the_terminal(image, checkout):
    assert 'did you mean nepochs?' in burst(checkout, '--local', '--gpus', 'none', 'python', '-m', 'cifar10_nbdev.train', '--nepoch', '1')


@needs_old
def test_doctor(image, checkout):
    said = burst(checkout, '--local', '--gpus', 'none', 'python', '-m', 'cifar10_nbdev.doctor')
    print(said)
    assert 'fit to train' in said and '/home/burst/work/output' in said


def test_stop_is_heard(image, checkout):
    "SIGTERM, as `docker stop` sends it, reaches the training, which says so and ends with 143; process 1 alone would not hear it."
    name = f'stop-{uuid.uuid4().hex[:8]}'
    sh('docker', 'run', '-d', '--name', name, '-v', f'{checkout}:{HOME}', image, 'python', '-m', 'cifar10_nbdev.train', '--dataset', 'shapes10', '--nepochs', '1000', '--output_dir', 'output/stopped')
    try:
        for _ in range(1200):
            if 'epoch 1/1000' in sh('docker', 'logs', name).stdout: break
            time.sleep(.1)
        began = time.monotonic()
        sh('docker', 'stop', '-t', '60', name)
        assert time.monotonic() - began < 50
        assert sh('docker', 'inspect', '-f', '{{.State.ExitCode}}', name).stdout.strip() == '143'
        assert json.loads((checkout/'output'/'stopped'/'metrics.json').read_text())['status'] == 'interrupted'
    finally: sh('docker', 'rm', '-f', name)


def ask(path: str, token: str = '', data: dict|None = None):
    "Jupyter's answer; raises HTTPError where it refuses."
    request = urllib.request.Request(JUPYTER + path, data=None if data is None else json.dumps(data).encode(), headers={'Authorization': f'token {token}'} if token else {})
    with urllib.request.urlopen(request, timeout=20) as response: return json.loads(response.read() or 'null')


class Lab:
    "A container with a server, in the host's network."
    def __init__(self, image, checkout, *words, minutes):
        if socket.socket().connect_ex(('127.0.0.1', PORT)) == 0: pytest.skip(f'port {PORT} is taken')
        self.name = f'lab-{uuid.uuid4().hex[:8]}'
        began = sh('docker', 'run', '-d', '--network', 'host', '-e', f'LAB_IDLE_MINUTES={minutes}', '--name', self.name, '-v', f'{checkout}:{HOME}', image, *words)
        assert began.returncode == 0, began.stdout
        for _ in range(600):
            if socket.socket().connect_ex(('127.0.0.1', PORT)) == 0: break
            time.sleep(.1)
        self.token = (re.search(r'token=(\w+)', self.logs()) or [None, ''])[1]
    def logs(self): return sh('docker', 'logs', self.name).stdout
    def running(self): return sh('docker', 'inspect', '-f', '{{.State.Running}}', self.name).stdout.strip() == 'true'
    def __enter__(self): return self
    def __exit__(self, *_): sh('docker', 'rm', '-f', self.name)


def refused(path: str, token: str = '') -> int:
    with pytest.raises(urllib.error.HTTPError) as e: ask(path, token)
    return e.value.code


def run_cell(lab: Lab, source: str) -> str:
    "What a cell in a new kernel, beside nbs/03_train.ipynb, prints; the connection stays open."
    import websocket   # a dependency of jupyter_server
    kernel = ask('/api/sessions', lab.token, dict(path='nbs/03_train.ipynb', name='03_train.ipynb', type='notebook', kernel=dict(name='python3')))['kernel']['id']
    lab.tab = websocket.create_connection(f'ws://127.0.0.1:{PORT}/api/kernels/{kernel}/channels?token={lab.token}', timeout=120)
    content = dict(code=source, silent=False, store_history=True, user_expressions={}, allow_stdin=False, stop_on_error=True)
    lab.tab.send(json.dumps(dict(header=dict(msg_id='a', msg_type='execute_request', username='', session='s', version='5.3', date=''), parent_header={}, metadata={}, content=content, channel='shell', buffers=[])))
    said = ''
    while True:
        message = json.loads(lab.tab.recv())
        if message['parent_header'].get('msg_id') != 'a': continue
        if message['msg_type'] == 'stream': said += message['content']['text']
        if message['msg_type'] == 'error': raise AssertionError('\n'.join(message['content']['traceback']))
        if message['msg_type'] == 'status' and message['content']['execution_state'] == 'idle': return said


def open_tab(stack, lab):
    "A browser that shows the notebook, if there is one: JupyterLab in it goes on asking the server things."
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    try: from playwright.sync_api import sync_playwright
    except ImportError: chromium = None
    if not chromium: return print('no browser here: the forgotten server was tested with an open connection only')
    page = stack.enter_context(sync_playwright()).chromium.launch(executable_path=chromium, args=['--no-sandbox']).new_page()
    page.goto(f'{JUPYTER}/lab/tree/nbs/03_train.ipynb?token={lab.token}')
    page.get_by_role('paragraph').filter(has_text='This notebook is the whole experiment').wait_for(timeout=90_000)
    return page


def test_bare_lab_serves_and_a_forgotten_one_ends_itself(image, checkout):
    from contextlib import ExitStack
    with Lab(image, checkout, 'jupyter', 'lab', minutes=.5) as lab, ExitStack() as stack:
        assert len(lab.token) >= 32, lab.logs()
        assert (refused('/api/contents'), refused('/api/contents', 'guess')) == (403, 403)
        assert ask('/api/contents/nbs/03_train.ipynb', lab.token)['content']['nbformat'] == 4
        said = run_cell(lab, "import cifar10_nbdev, os; from cifar10_nbdev.core import in_root\n(in_root('output')/'hello.txt').write_text('from the lab'); print(cifar10_nbdev.__file__, os.getcwd())")
        assert said == f'{HOME}/cifar10_nbdev/__init__.py {HOME}/nbs\n'
        assert (checkout/'output'/'hello.txt').read_text() == 'from the lab'
        open_tab(stack, lab)
        began = time.monotonic()
        while lab.running() and time.monotonic() < began + 300: time.sleep(2)
        print(lab.logs())
        assert not lab.running(), 'it was left idle, and did not end'
        assert sh('docker', 'inspect', '-f', '{{.State.ExitCode}}', lab.name).stdout.strip() == '0'


def test_lab_that_works_does_not_end(image, checkout):
    with Lab(image, checkout, 'jupyter', 'lab', '--ip', '0.0.0.0', '--allow-root', minutes=.1) as lab:      # the words of the example that this project succeeds
        run_cell(lab, 'import time; print(1)')
        lab.tab.send(json.dumps(dict(header=dict(msg_id='b', msg_type='execute_request', username='', session='s', version='5.3', date=''), parent_header={}, metadata={}, channel='shell', buffers=[],
                                     content=dict(code='time.sleep(1000)', silent=False, store_history=True, user_expressions={}, allow_stdin=False, stop_on_error=True))))
        time.sleep(130)                                  # Jupyter looks once a minute
        assert lab.running() and len(ask('/api/kernels', lab.token)) == 1


@needs_new
@pytest.mark.parametrize('words, runs', [
    (['run', '--', 'papermill', 'nbs/03_train.ipynb', 'output/run.ipynb', '-p', 'nepochs', '40'], 'papermill nbs/03_train.ipynb output/run.ipynb -p nepochs 40'),
    (['run', '--', 'python', '-m', 'cifar10_nbdev.train', '--nepochs', '40'], 'python -m cifar10_nbdev.train --nepochs 40'),
    (['-p', '8888', 'run', '--', 'jupyter', 'lab'], 'jupyter lab')])
def test_new_grammar(checkout, tmp_path, words, runs):
    "burst 1.2.1 takes the documented words; a program in docker's place says what it was asked to run."
    (tmp_path/'docker').write_text('#!/bin/sh\necho "docker $*"\n')
    (tmp_path/'docker').chmod(0o755)
    said = burst(checkout, '--local', '--no-gpu', *words, program=BURST_NEW, PATH=f'{tmp_path}:{os.environ["PATH"]}', HOME=str(tmp_path))
    assert re.search(rf'^docker .*run .*-v {checkout}:{HOME} burst_image {re.escape(runs)}$', said, re.M), said
