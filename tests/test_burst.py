"""The image and burst's own program, on a local Docker engine: `make burst-test`.

That command brings both versions of burst. What is missing here is skipped, and said. The engine is
the one that `docker` finds (DOCKER_HOST). CIFAR-10 is trained on where CIFAR10_DATA names a place
that has it, else shapes10. Containers use the host's network.
"""
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from contextlib import ExitStack
from pathlib import Path

import pytest

from conftest import ROOT

BURST, BURST_NEW = os.environ['BURST'], os.environ['BURST_NEW']   # `make burst-test` names them
DATA = os.environ.get('CIFAR10_DATA')
DATASET = 'cifar10' if DATA and Path(DATA).exists() else 'shapes10'
IMAGE, HOME, PORT = 'burst_image', '/home/burst/work', 8888
JUPYTER = f'http://127.0.0.1:{PORT}'
LOCAL = '--local', '--gpus', 'none'
TRAIN = 'python', '-m', 'cifar10_nbdev.train'
FILES = ('run.ipynb', 'report.ipynb', 'model_losses.png', 'confusion_matrix.png',
         'wrong_examples.png', 'training_example_images.png', 'model_log.txt')


def sh(*args: str, cwd: Path = ROOT, **env: str) -> subprocess.CompletedProcess:
    "Run a program; its error stream goes into its output."
    return subprocess.run(args, cwd=cwd, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                          stdin=subprocess.DEVNULL, text=True, timeout=1800,
                          env={**os.environ, **env})


def version_of(burst: str) -> str:
    return sh(burst, '--version', cwd=Path('/')).stdout if shutil.which(burst) else ''


def needs(burst: str, version: str):
    "Skip a test where that version of burst could not be installed."
    missing = version not in version_of(burst)
    return pytest.mark.skipif(missing, reason=f'burst {version} could not be installed')


needs_old, needs_new = needs(BURST, '0.2.12'), needs(BURST_NEW, '1.2.1')


@pytest.fixture(scope='session')
def checkout(tmp_path_factory):
    "A fresh clone, with the data in data/."
    root = tmp_path_factory.mktemp('burst')/'cifar10_nbdev'
    assert sh('git', 'clone', '-q', str(ROOT), str(root)).returncode == 0
    (root/'data').mkdir()
    if DATASET == 'cifar10' and Path(DATA).is_dir():
        shutil.copytree(DATA, root/'data', dirs_exist_ok=True)
    elif DATASET == 'cifar10': shutil.copy(DATA, root/'data')
    return root


@pytest.fixture(scope='session')
def image(checkout):
    "The image, built from the clone. (`--network host`: some engines have no other.)"
    if not shutil.which('docker') or sh('docker', 'version').returncode:
        pytest.skip('there is no Docker engine here')
    built = sh('docker', 'build', '--network', 'host', '-t', IMAGE, '.', cwd=checkout)
    assert built.returncode == 0, built.stdout[-3000:]
    return IMAGE


def burst(checkout: Path, *words: str, program: str = BURST, **env: str) -> str:
    "What burst shows in a terminal, which it wants to have."
    done = sh('script', '-qec', shlex.join((program, *words)), '/dev/null', cwd=checkout, **env)
    return done.stdout.replace('\r', '')


def complete(checkout: Path, folder: str) -> dict:
    "The record of a run that check calls complete."
    done = sh(sys.executable, '-m', 'cifar10_nbdev.check', folder, cwd=checkout,
              PYTHONPATH=str(checkout))
    assert done.returncode == 0, done.stdout
    return json.loads((checkout/folder/'metrics.json').read_text())


@needs_old
def test_batch_run(image, checkout):
    shutil.rmtree(checkout/'output')                     # the image makes it
    shown = burst(checkout, *LOCAL, 'papermill', 'nbs/03_train.ipynb', 'output/run.ipynb',
                  '-p', 'nepochs', '1', '-p', 'dataset', DATASET)
    print(shown)
    assert re.search(r'^epoch 1/1: training loss', shown, re.M)
    m = complete(checkout, 'output')
    assert (m['nepochs'], m['dataset'], m['device']) == (1, DATASET, 'cpu')
    assert m['data_fingerprint']
    for name in FILES: assert (checkout/'output'/name).stat().st_size > 0, name


@needs_old
def test_scripted_run(image, checkout):
    shown = burst(checkout, *LOCAL, *TRAIN, '--nepochs', '1', '--dataset', DATASET,
                  '--output_dir', 'output/scripted')
    print(shown)
    assert re.search(r'epoch 1/1: training loss', shown)
    assert complete(checkout, 'output/scripted')['nepochs'] == 1


@needs_old
def test_refusal_reaches_the_terminal(image, checkout):
    assert 'did you mean nepochs?' in burst(checkout, *LOCAL, *TRAIN, '--nepoch', '1')


@needs_old
def test_doctor(image, checkout):
    shown = burst(checkout, *LOCAL, 'python', '-m', 'cifar10_nbdev.doctor')
    print(shown)
    assert 'fit to train' in shown and f'{HOME}/output' in shown


def test_stop_is_heard(image, checkout):
    "SIGTERM, as `docker stop` sends it, reaches the training, which says so and ends with 143."
    name = f'stop-{uuid.uuid4().hex[:8]}'
    sh('docker', 'run', '-d', '--name', name, '-v', f'{checkout}:{HOME}', image, *TRAIN,
       '--dataset', 'shapes10', '--nepochs', '1000', '--output_dir', 'output/stopped')
    try:
        for _ in range(1200):
            if 'epoch 1/1000' in sh('docker', 'logs', name).stdout: break
            time.sleep(.1)
        start = time.monotonic()
        sh('docker', 'stop', '-t', '60', name)
        assert time.monotonic() - start < 50
        code = sh('docker', 'inspect', '-f', '{{.State.ExitCode}}', name).stdout.strip()
        assert code == '143'
        m = json.loads((checkout/'output'/'stopped'/'metrics.json').read_text())
        assert m['status'] == 'interrupted'
    finally: sh('docker', 'rm', '-f', name)


def ask(path: str, token: str = '', data: dict|None = None):
    "Jupyter's reply; raises HTTPError where it refuses."
    headers = {'Authorization': f'token {token}'} if token else {}
    body = None if data is None else json.dumps(data).encode()
    request = urllib.request.Request(JUPYTER + path, data=body, headers=headers)
    with urllib.request.urlopen(request, timeout=20) as response:
        return json.loads(response.read() or 'null')


def port_is_open() -> bool: return socket.socket().connect_ex(('127.0.0.1', PORT)) == 0


class Lab:
    "A container with a server, in the host's network."
    def __init__(self, image, checkout, *words, minutes):
        if port_is_open(): pytest.skip(f'port {PORT} is taken')
        self.name = f'lab-{uuid.uuid4().hex[:8]}'
        started = sh('docker', 'run', '-d', '--network', 'host', '--name', self.name,
                     '-e', f'LAB_IDLE_MINUTES={minutes}', '-v', f'{checkout}:{HOME}', image, *words)
        assert started.returncode == 0, started.stdout
        for _ in range(600):
            if port_is_open(): break
            time.sleep(.1)
        self.token = (re.search(r'token=(\w+)', self.logs()) or [None, ''])[1]

    def logs(self): return sh('docker', 'logs', self.name).stdout

    def state(self, what):
        return sh('docker', 'inspect', '-f', f'{{{{.State.{what}}}}}', self.name).stdout.strip()

    def running(self): return self.state('Running') == 'true'

    def __enter__(self): return self

    def __exit__(self, *_): sh('docker', 'rm', '-f', self.name)

    def send(self, name: str, code: str):
        "Ask the kernel of the open tab to run a cell."
        content = dict(code=code, silent=False, store_history=True, user_expressions={},
                       allow_stdin=False, stop_on_error=True)
        header = dict(msg_id=name, msg_type='execute_request', username='', session='s',
                      version='5.3', date='')
        self.tab.send(json.dumps(dict(header=header, parent_header={}, metadata={}, content=content,
                                      channel='shell', buffers=[])))


def refused(path: str, token: str = '') -> int:
    with pytest.raises(urllib.error.HTTPError) as e: ask(path, token)
    return e.value.code


def run_cell(lab: Lab, code: str) -> str:
    "What a cell in a new kernel, beside nbs/03_train.ipynb, prints; the connection stays open."
    import websocket   # a dependency of jupyter_server
    session = dict(path='nbs/03_train.ipynb', name='03_train.ipynb', type='notebook',
                   kernel=dict(name='python3'))
    kernel = ask('/api/sessions', lab.token, session)['kernel']['id']
    address = f'ws://127.0.0.1:{PORT}/api/kernels/{kernel}/channels?token={lab.token}'
    lab.tab = websocket.create_connection(address, timeout=120)
    lab.send('a', code)
    printed = ''
    while True:
        message = json.loads(lab.tab.recv())
        if message['parent_header'].get('msg_id') != 'a': continue
        kind, content = message['msg_type'], message['content']
        if kind == 'stream': printed += content['text']
        if kind == 'error': raise AssertionError('\n'.join(content['traceback']))
        if kind == 'status' and content['execution_state'] == 'idle': return printed


def open_tab(stack, lab):
    "A browser that shows the notebook, if there is one: its JupyterLab goes on asking the server."
    chromium = shutil.which('chromium') or shutil.which('google-chrome')
    try: from playwright.sync_api import sync_playwright
    except ImportError: chromium = None
    if not chromium: return print('no browser here: tested with an open connection only')
    browser = stack.enter_context(sync_playwright()).chromium
    page = browser.launch(executable_path=chromium, args=['--no-sandbox']).new_page()
    page.goto(f'{JUPYTER}/lab/tree/nbs/03_train.ipynb?token={lab.token}')
    page.locator('.jp-Notebook h1').first.wait_for(timeout=90_000)
    return page


HELLO = """import cifar10_nbdev, os
from cifar10_nbdev.core import in_root
_ = (in_root('output')/'hello.txt').write_text('from the lab')
print(cifar10_nbdev.__file__, os.getcwd())"""


def test_bare_lab_serves_and_a_forgotten_one_ends_itself(image, checkout):
    with Lab(image, checkout, 'jupyter', 'lab', minutes=.5) as lab, ExitStack() as stack:
        assert len(lab.token) >= 32, lab.logs()
        assert (refused('/api/contents'), refused('/api/contents', 'guess')) == (403, 403)
        book = ask('/api/contents/nbs/03_train.ipynb', lab.token)
        assert book['content']['nbformat'] == 4
        assert run_cell(lab, HELLO) == f'{HOME}/cifar10_nbdev/__init__.py {HOME}/nbs\n'
        assert (checkout/'output'/'hello.txt').read_text() == 'from the lab'
        open_tab(stack, lab)
        end = time.monotonic() + 300
        while lab.running() and time.monotonic() < end: time.sleep(2)
        print(lab.logs())
        assert not lab.running(), 'it was left idle, and did not end'
        assert lab.state('ExitCode') == '0'


def test_lab_that_works_does_not_end(image, checkout):
    words = 'jupyter', 'lab', '--ip', '0.0.0.0', '--allow-root'   # those of the example
    with Lab(image, checkout, *words, minutes=.1) as lab:
        run_cell(lab, 'import time; print(1)')
        lab.send('b', 'time.sleep(1000)')
        time.sleep(30)                                   # five times as long as it waits
        assert lab.running() and len(ask('/api/kernels', lab.token)) == 1


PAPERMILL = 'papermill nbs/03_train.ipynb output/run.ipynb -p nepochs 40'
SCRIPT = 'python -m cifar10_nbdev.train --nepochs 40'


@needs_new
@pytest.mark.parametrize('words, runs', [
    ('run -- ' + PAPERMILL, PAPERMILL),
    ('run -- ' + SCRIPT, SCRIPT),
    ('-p 8888 run -- jupyter lab', 'jupyter lab')])
def test_new_grammar(checkout, tmp_path, words, runs):
    "burst 1.2.1 takes the documented words; a program in docker's place says what it was asked."
    (tmp_path/'docker').write_text('#!/bin/sh\necho "docker $*"\n')
    (tmp_path/'docker').chmod(0o755)
    shown = burst(checkout, '--local', '--no-gpu', *words.split(), program=BURST_NEW,
                  PATH=f'{tmp_path}:{os.environ["PATH"]}', HOME=str(tmp_path))
    asked = rf'^docker .*run .*-v {checkout}:{HOME} burst_image {re.escape(runs)}$'
    assert re.search(asked, shown, re.M), shown
