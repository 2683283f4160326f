"The page that runs an exported network in the browser, asked by a person's click. Needs npm, Chromium and playwright; `.ci/run` has them."
import shutil, sys
from pathlib import Path

import pytest

CHROMIUM = shutil.which('chromium') or shutil.which('chromium-browser') or shutil.which('google-chrome')
playwright = pytest.importorskip('playwright.sync_api', reason='there is no playwright here: pip install playwright')
pytestmark = pytest.mark.skipif(not CHROMIUM or not shutil.which('npm'), reason='there is no Chromium, or no npm, here: apt install chromium npm')


@pytest.fixture
def network(project):
    "A run's folder with a network whose answers are sure, if not right: the page and PyTorch are to give the same ones."
    import torch
    from cifar10_nbdev.checkpoint import pack
    from cifar10_nbdev.data import normalise
    from cifar10_nbdev.interpret import energy
    from cifar10_nbdev.model import make_model
    from cifar10_nbdev.shapes import SHAPES, make_shapes
    torch.manual_seed(0)
    net = make_model('cnn')
    with torch.no_grad():
        net.head[-1].weight.mul_(15)
        middle = energy(net.eval()(normalise(make_shapes(10, 1)[0], torch.tensor([.5]*3), torch.tensor([.25]*3)))).sort().values[4:6].mean().item()   # about half are called unlike; none is on the edge, where rounding decides
    info = dict(model='cnn', own=False, dataset='shapes10', classes=list(SHAPES), input=[3, 32, 32], mean=[.5]*3, std=[.25]*3, unlike=dict(score='energy', threshold=middle, part=.5, of='test'), test_accuracy=.1, weights_sha256='')
    (project.out/'model.safetensors').write_bytes(pack(net.state_dict(), info))
    (project.root/'.stamp').touch()
    done = project('make', 'demo', f'BIN={Path(sys.executable).parent}', 'STAMP=.stamp', http_proxy='', https_proxy='')
    assert done.returncode == 0, done.stderr
    return project.out


def test_page_answers_like_pytorch(network, tmp_path):
    from PIL import Image
    from cifar10_nbdev.predict import answer, load_model, open_picture, prepare
    from cifar10_nbdev.shapes import make_shapes
    sizes = (32, 32), (100, 80), (64, 64), (33, 50), (200, 300), (31, 31), (20, 20), (640, 480), (97, 97), (48, 32)
    model, x, told, warned = load_model(network), make_shapes(10, 1)[0], [], []
    with playwright.sync_playwright() as p:
        page = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox']).new_page(viewport=dict(width=390, height=900))
        page.on('request', lambda r: told.append(r.url) if r.url.startswith(('http', 'ws')) else None)
        page.on('pageerror', lambda e: told.append(str(e)))
        page.goto(f'file://{network}/demo.html')
        page.get_by_text('Ready.').wait_for(timeout=60_000)
        assert page.get_by_role('table').count() == 0                     # nothing is shown before anything was asked
        for i, (im, size) in enumerate(zip(x, sizes)):
            file = tmp_path/f'{i}.png'
            Image.fromarray(im.permute(1, 2, 0).numpy()).resize(size, Image.Resampling.BICUBIC).save(file)
            [right] = answer(model, [prepare(open_picture(file))], k=10)
            page.evaluate("document.querySelector('#said').textContent = ''")
            with page.expect_file_chooser() as chooser: page.get_by_text('choose a file').click()
            chooser.value.set_files(file)
            page.get_by_text(f"Most probably: {right['top'][0][0]} (").wait_for(timeout=10_000)
            rows = [row.inner_text().split() for row in page.locator('#classes tr').all()]
            shown = {name: float(number)/100 for name, number, _ in rows}
            assert max(abs(shown[name] - p) for name, p in right['top']) < .002, (size, shown, right)     # they are shown to a thousandth
            warned.append('do not believe' in page.locator('#said').inner_text())
            assert warned[-1] == right['unlike']
        assert {*warned} == {True, False}
        page.screenshot(path=tmp_path/'demo.png')
        assert page.evaluate('document.documentElement.scrollWidth') <= 390
        (tmp_path/'text.png').write_text('no picture')
        page.locator('#file').focus()                                     # what a keyboard reaches
        page.set_input_files('#file', tmp_path/'text.png')
        page.get_by_text('text.png is no picture that this browser can read.').wait_for(timeout=10_000)
        assert not told, told                                             # no request, no error
