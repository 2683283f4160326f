"JupyterLab in a real browser: the notebook opened, run, and watched while it trains. Needs Chromium (Debian: apt install chromium) and `pip install playwright`; `.ci/run` installs both."
import json, os, re, shutil, signal, socket, subprocess, sys, time
from pathlib import Path

import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
playwright = pytest.importorskip('playwright.sync_api', reason='there is no playwright here: pip install playwright')
pytestmark = pytest.mark.skipif(not CHROMIUM, reason='there is no Chromium here: apt install chromium')
SMALL = dict(nepochs=3, dataset='shapes10', subset=2000, batch_size=100)


@pytest.fixture
def lab(project):
    "`make lab` in a copy of the project, on a free port, with a token; the parameters cell changed to a small run, as a person would."
    path = project.root/'nbs'/'03_train.ipynb'
    book = json.loads(path.read_text())
    [cell] = [c for c in book['cells'] if 'parameters' in c['metadata'].get('tags', [])]
    source = ''.join(cell['source'])
    for n, v in SMALL.items(): source = re.sub(rf'^{n} = \S+', f'{n} = {v!r}', source, flags=re.M)
    cell['source'] = source
    path.write_text(json.dumps(book))
    with socket.socket() as s: s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]
    (project.root/'.stamp').touch()
    flags = f'--no-browser --allow-root --port {port} --ServerApp.port_retries=0'
    env = project.env(JUPYTER_TOKEN='open-sesame', HOME=str(project.root), JUPYTER_PREFER_ENV_PATH='1')
    for name in ('http_proxy', 'https_proxy'): env.pop(name)
    with open(project.root/'lab.txt', 'w') as said:
        process = subprocess.Popen(['make', 'lab', f'BIN={Path(sys.executable).parent}', 'STAMP=.stamp', f'LAB={flags}'], cwd=project.root, env=env, stdout=said, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True)
    for _ in range(600):
        if socket.socket().connect_ex(('127.0.0.1', port)) == 0: break
        assert process.poll() is None, (project.root/'lab.txt').read_text()
        time.sleep(.1)
    yield project, f'http://127.0.0.1:{port}'
    os.killpg(process.pid, signal.SIGTERM)
    try: process.wait(20)
    except subprocess.TimeoutExpired: os.killpg(process.pid, signal.SIGKILL)


def test_notebook_is_a_pleasure_to_watch(lab, tmp_path):
    project, url = lab
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=1200, height=9000))        # high enough for the whole notebook
        assert page.goto(f'{url}/api/contents').status == 403                  # no token, no notebook
        page.goto(f'{url}/lab/tree/nbs/03_train.ipynb?token=open-sesame&reset')
        page.get_by_role('paragraph').filter(has_text='This notebook is the whole experiment').wait_for(timeout=90_000)
        news = page.get_by_role('button', name='No', exact=True)               # would you like to be told of news?
        if news.count(): news.click()
        page.locator('.jp-Notebook-ExecutionIndicator[data-status="idle"]').first.wait_for(timeout=90_000)
        page.get_by_role('menuitem', name='Run', exact=True).click()
        page.get_by_text('Run All Cells', exact=True).click()
        train = page.locator('.jp-CodeCell', has=page.locator('.cm-content', has_text=re.compile(r'^train\(run\)$')))
        bars, pictures, end = set(), set(), time.monotonic() + 400
        while 'trained in' not in (text := train.inner_text()) and time.monotonic() < end:
            bars |= set(re.findall(r'\d+/60 \[[^\]]*<[^\]]*step', text))        # steps done, time gone, time left
            pictures |= {src[:20_000] for img in train.locator('img').all() if (src := img.get_attribute('src', timeout=2000))}
            page.wait_for_timeout(300)
        page.screenshot(path=tmp_path/'training.png')
        page.get_by_text('everything is in').wait_for(timeout=120_000)
        page.wait_for_timeout(1000)
        page.screenshot(path=tmp_path/'done.png')
        assert len(bars) >= 3, bars                                            # the bar moved,
        assert len(pictures) >= 2                                              # the curves were drawn anew, in one place
        assert train.locator('img').count() == 1
        assert page.locator('.jp-OutputArea img').count() == 8                 # and the figures are there
        assert page.locator('[data-mime-type="application/vnd.jupyter.error"], [data-mime-type="application/vnd.jupyter.stderr"]').count() == 0
        assert page.get_by_text(re.compile(r'^shapes10 .*: test accuracy .* after 3 epochs')).first.is_visible()     # the result, in the table at the top
        browser.close()
    m = project.metrics()
    assert (m['status'], m['nepochs'], m['n_train'], m['parameters']['resume']) == ('complete', 3, 2000, False)
