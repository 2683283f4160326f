"""JupyterLab in a real browser: the notebook opened, run, and watched while it trains.
Needs Chromium (Debian: apt install chromium) and playwright (pip); `.ci/run` installs both.
And the image's server, without one: it ends when nothing works, and not before."""
import json, os, re, shutil, signal, socket, subprocess, sys, time
import urllib.request
from pathlib import Path

import psutil, pytest, websocket   # psutil comes with ipykernel, websocket with jupyter_server

from conftest import ROOT

BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
CHROMIUM = next((path for path in map(shutil.which, BROWSERS) if path), None)
SMALL = dict(nepochs=3, dataset='shapes10', subset=500, batch_size=25)
STEPS = 60                     # 3 epochs of 500 images in batches of 25


def edit_parameters(path):
    "Change the parameters cell of a notebook to a small run, as a person would."
    book = json.loads(path.read_text())
    [cell] = [c for c in book['cells'] if 'parameters' in c['metadata'].get('tags', [])]
    source = ''.join(cell['source'])
    for name, value in SMALL.items():
        source, n = re.subn(rf'^{name} = \S+', f'{name} = {value!r}', source, flags=re.M)
        assert n == 1, name
    cell['source'] = source
    path.write_text(json.dumps(book))


def free_port():
    "A port on which nobody listens."
    with socket.socket() as s:
        s.bind(('127.0.0.1', 0))
        return s.getsockname()[1]


def answers(port):
    "Whether somebody listens on a port."
    with socket.socket() as s: return s.connect_ex(('127.0.0.1', port)) == 0


@pytest.fixture
def lab(project):
    "`make lab` in a copy of the project, on a free port, with a token."
    edit_parameters(project.root/'nbs'/'03_train.ipynb')
    port, log = free_port(), project.root/'lab.txt'
    (project.root/'.stamp').touch()
    flags = f'--no-browser --allow-root --port {port} --ServerApp.port_retries=0'
    command = ['make', 'lab', f'BIN={Path(sys.executable).parent}', 'STAMP=.stamp', f'LAB={flags}']
    env = project.env(JUPYTER_TOKEN='open-sesame', HOME=str(project.root),
                      JUPYTER_PREFER_ENV_PATH='1')
    for name in ('http_proxy', 'https_proxy'): env.pop(name)
    with open(log, 'w') as out:
        process = subprocess.Popen(
            command, cwd=project.root, env=env, stdin=subprocess.DEVNULL, stdout=out,
            stderr=subprocess.STDOUT, start_new_session=True)
    for _ in range(600):
        if answers(port): break
        assert process.poll() is None, log.read_text()
        time.sleep(.1)
    yield project, f'http://127.0.0.1:{port}'
    os.killpg(process.pid, signal.SIGTERM)
    try: process.wait(20)
    except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL)


def open_notebook(page, url):
    "Open 03_train in JupyterLab, and wait until its kernel is there."
    page.goto(f'{url}/lab/tree/nbs/03_train.ipynb?token=open-sesame&reset')
    intro = page.get_by_role('paragraph').filter(has_text='This notebook is the whole experiment')
    intro.wait_for(timeout=90_000)
    news = page.get_by_role('button', name='No', exact=True)   # would you like to be told of news?
    if news.count(): news.click()
    idle = page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first
    idle.wait_for(timeout=90_000)


def code_cell(page, source):
    "The cell with just this source."
    line = re.compile(f'^{re.escape(source)}$')
    return page.locator('.jp-CodeCell', has=page.locator('.cm-content', has_text=line))


def watch(page, train):
    "The different bars and pictures that the training cell shows until it is done."
    bars, pictures, end = set(), set(), time.monotonic() + 400
    while 'trained in' not in (text := train.inner_text()) and time.monotonic() < end:
        # steps done, time gone, time left
        bars |= set(re.findall(rf'\d+/{STEPS} \[[^\]]*<[^\]]*step', text))
        for img in train.locator('img').all():
            src = img.get_attribute('src', timeout=2000)
            if src: pictures.add(src[:20_000])
        page.wait_for_timeout(300)
    return bars, pictures


@pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium here: apt install chromium')
def test_notebook_is_a_pleasure_to_watch(request, tmp_path):
    playwright = pytest.importorskip(
        'playwright.sync_api', reason='there is no playwright here: pip install playwright')
    project, url = request.getfixturevalue('lab')
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1200, height=9000))   # the whole notebook
        assert page.goto(f'{url}/api/contents').status == 403             # no token, no notebook
        open_notebook(page, url)
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_text('Run All Cells', exact=True).click()
        train = code_cell(page, 'train(run)')
        bars, pictures = watch(page, train)
        page.screenshot(path=tmp_path/'training.png')
        page.get_by_text('everything is in').wait_for(timeout=120_000)
        page.wait_for_timeout(1000)
        page.screenshot(path=tmp_path/'done.png')
        assert len(bars) >= 3, bars                       # the bar moved,
        assert len(pictures) >= 2                         # and the curves, in one place
        assert train.locator('img').count() == 1
        top = code_cell(page, "board = Board('*The result will stand here.*')")
        assert re.search(r'shapes10 .*: test accuracy .* after 3 epochs', top.inner_text())
        assert 'The result will stand here' not in top.locator('.jp-OutputArea').inner_text()
        assert top.locator('table').count() == 1 and top.locator('img').count() == 1
        assert page.locator('.jp-OutputArea img').count() == 7 + 2    # figures; curves, twice
        for kind in ('error', 'stderr'):
            bad = page.locator(f'[data-mime-type="application/vnd.jupyter.{kind}"]')
            assert bad.count() == 0
        browser.close()
    m = project.metrics()
    assert (m['status'], m['nepochs'], m['n_train']) == ('complete', 3, 500)
    assert m['n_parameters'] == 2_396_330
    assert m['parameters']['resume'] is False             # the notebook is live


IDLE = 2   # seconds after which the server below ends itself; it looks once a second


class Idle:
    "The image's server in an empty folder, with few seconds of patience."
    def __init__(self, home):
        self.port, self.log = free_port(), home/'log.txt'
        (home/'config').mkdir()
        shutil.copy(ROOT/'docker'/'jupyter_server_config.py', home/'config')
        env = {n: v for n, v in os.environ.items() if not n.lower().endswith('_proxy')}
        env |= dict(JUPYTER_CONFIG_DIR=str(home/'config'), LAB_IDLE_MINUTES=str(IDLE/60),
                    JUPYTER_TOKEN='open-sesame', JUPYTER_PREFER_ENV_PATH='1', HOME=str(home),
                    SHELL='/bin/sh')
        command = [sys.executable, '-m', 'jupyterlab', '--ip=127.0.0.1', f'--port={self.port}']
        with open(self.log, 'w') as out:
            self.process = subprocess.Popen(command, cwd=home, env=env, stdin=subprocess.DEVNULL,
                                            stdout=out, stderr=subprocess.STDOUT)
        end = time.monotonic() + 60
        while not answers(self.port):
            assert self.process.poll() is None and time.monotonic() < end, self.log.read_text()
            time.sleep(.1)

    def new(self, kind):
        "Start a terminal or a kernel; its id, or name."
        headers = dict(Authorization='token open-sesame')
        request = urllib.request.Request(f'http://127.0.0.1:{self.port}/api/{kind}',
                                         data=b'{}', headers=headers)
        with urllib.request.urlopen(request, timeout=20) as response:
            model = json.loads(response.read())
        return model.get('id') or model['name']

    def socket(self, path):
        "A connection, as a tab has it."
        address = f'ws://127.0.0.1:{self.port}/{path}?token=open-sesame'
        return websocket.create_connection(address, timeout=60)

    def type(self, line):
        "Type a line in a new terminal, and close the tab."
        tab = self.socket(f'terminals/websocket/{self.new("terminals")}')
        tab.send(json.dumps(['stdin', line + '\r']))
        while line not in ''.join(map(str, json.loads(tab.recv()))): pass   # its echo
        tab.close()

    def run(self, code):
        "Run a cell in a new kernel, wait for its first output, and close the tab."
        tab = self.socket(f'api/kernels/{self.new("kernels")}/channels')
        header = dict(msg_id='a', msg_type='execute_request', username='', session='s',
                      version='5.3', date='')
        content = dict(code=code, silent=False, store_history=True, user_expressions={},
                       allow_stdin=False, stop_on_error=True)
        tab.send(json.dumps(dict(header=header, parent_header={}, metadata={}, content=content,
                                 channel='shell', buffers=[])))
        while json.loads(tab.recv())['msg_type'] != 'stream': pass
        tab.close()

    def keeps(self, word):
        "Whether server and program are there after more than twice the time."
        try: self.process.wait(2*IDLE + 2)
        except subprocess.TimeoutExpired: return bool(running(word))
        return False

    def ends_by_itself(self):
        "Whether it ends soon, well."
        try: return self.process.wait(30) == 0
        except subprocess.TimeoutExpired: return False


# the last words of programs that are started below, which no other process has
LONG, COMPUTES = f'600.{os.getpid()}', f'while True: {os.getpid()}'


def running(word):
    "The processes of programs with this last word."
    found = psutil.process_iter(['cmdline'])
    return [process for process in found if (process.info['cmdline'] or [''])[-1] == word]


def end(word):
    "Kill them."
    for process in running(word): process.kill()


@pytest.fixture
def idle(tmp_path):
    lab = Idle(tmp_path)
    yield lab
    lab.process.terminate()
    try: lab.process.wait(20)
    except subprocess.TimeoutExpired: lab.process.kill()
    for word in (LONG, COMPUTES): end(word)


def test_a_silent_program_in_a_terminal_keeps_the_server(idle):
    idle.type('')                               # one terminal at its prompt
    idle.type(f'sleep {LONG}')
    assert idle.keeps(LONG), idle.log.read_text()
    end(LONG)
    assert idle.ends_by_itself(), idle.log.read_text()


CHILDREN = f"""import subprocess, sys
helper = subprocess.Popen(['sleep', '{LONG}'])
child = subprocess.Popen([sys.executable, '-c', {COMPUTES!r}])
print('started')"""


@pytest.mark.long
def test_what_an_idle_kernel_has_started_keeps_the_server_while_it_computes(idle):
    idle.run(CHILDREN)
    assert idle.keeps(COMPUTES), idle.log.read_text()
    end(COMPUTES)
    assert idle.ends_by_itself(), idle.log.read_text()   # a helper that waits is no work


@pytest.mark.long
@pytest.mark.parametrize('line, word', [
    (f'sleep {LONG} &', LONG), (f'(sleep {LONG} &)', LONG),
    (f'nohup sleep {LONG} > nohup.txt 2>&1 &', LONG),
    (f"nohup '{sys.executable}' -c '{COMPUTES}' > nohup.txt 2>&1 & exit", COMPUTES)],
    ids=['job', 'orphan', 'nohup', 'without its terminal'])
def test_a_job_in_the_background_keeps_the_server(idle, line, word):
    idle.type(line)
    assert idle.keeps(word), idle.log.read_text()
    end(word)
    assert idle.ends_by_itself(), idle.log.read_text()


@pytest.mark.long
def test_a_silent_cell_keeps_the_server(idle):
    idle.run(f"print(1, flush=True)\nimport os; os.system('sleep {LONG}')")
    assert idle.keeps(LONG), idle.log.read_text()
