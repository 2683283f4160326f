"""JupyterLab in a real browser: the notebook opened, run, and watched while it trains.
Needs Chromium (Debian: apt install chromium) and playwright (pip); `.ci/run` installs both."""
import json, os, re, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

import pytest

BROWSERS = 'chromium', 'chromium-browser', 'google-chrome'
CHROMIUM = next((path for path in map(shutil.which, BROWSERS) if path), None)
playwright = pytest.importorskip(
    'playwright.sync_api', reason='there is no playwright here: pip install playwright')
pytestmark = pytest.mark.skipif(
    not CHROMIUM, reason='there is no Chromium here: apt install chromium')
SMALL = dict(nepochs=3, dataset='shapes10', subset=2000, batch_size=100)
STEPS = 60                     # 3 epochs of 2,000 images in batches of 100


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


def test_notebook_is_a_pleasure_to_watch(lab, tmp_path):
    project, url = lab
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
    assert (m['status'], m['nepochs'], m['n_train']) == ('complete', 3, 2000)
    assert m['parameters']['resume'] is False             # the notebook is live
