"""The page that runs an exported network in the browser, used as a person would use it. Needs npm,
Chromium and playwright; `.ci/run` has them."""
import shutil, sys
from pathlib import Path

import pytest

CHROMIUM = (shutil.which('chromium') or shutil.which('chromium-browser')
            or shutil.which('google-chrome'))
playwright = pytest.importorskip('playwright.sync_api',
                                 reason='there is no playwright here: pip install playwright')
pytestmark = pytest.mark.skipif(
    not CHROMIUM or not shutil.which('npm'),
    reason='there is no Chromium, or no npm, here: apt install chromium npm')

# names of classes and of a file are text, whatever they look like
NAMES = ['<script>document.title = 1</script>', '<img src=x onerror="document.title = 1">',
         '&lt;b&gt;', '</script><h1>forged', 'PACKED_MODEL', 'ABOUT', '${1}$& $1', "'-->",
         'x'*100, 'two words']
SIZES = ((32, 32), (100, 80), (64, 64), (33, 50), (200, 300),
         (31, 31), (20, 20), (640, 480), (97, 97), (48, 32))


@pytest.fixture
def network(project):
    """A run's folder with a network whose predictions are confident, if not correct: the page and
    PyTorch are to give the same ones."""
    import torch
    from cifar10_nbdev.checkpoint import pack
    from cifar10_nbdev.data import normalize
    from cifar10_nbdev.interpret import OutlierScore
    from cifar10_nbdev.model import make_model, scores_and_features
    from cifar10_nbdev.shapes import make_shapes
    net = make_model('cnn', seed=0).eval()
    x, _ = make_shapes(200, seed=1)
    with torch.no_grad():
        net.head[-1].weight.mul_(15)
        x = normalize(x, torch.tensor([.5]*3), torch.tensor([.25]*3))
        seen = scores_and_features(net, x)
        score = OutlierScore(128).fit(*seen)
    # half are out of distribution, and none is on the edge, where rounding decides
    middle = score(*seen).sort().values[99:101].mean().item()
    info = dict(model='cnn', own=False, dataset='shapes10', classes=NAMES, input=[3, 32, 32],
                mean=[.5]*3, std=[.25]*3, test_accuracy=.1, weights_sha256='',
                out_of_distribution=dict(score='vim', threshold=middle, fraction=.5, of='test'))
    tensors = net.state_dict() | score.state_dict(prefix='outlier_score.')
    (project.out/'model.safetensors').write_bytes(pack(tensors, info))
    (project.root/'.stamp').touch()
    done = project('make', 'demo', f'BIN={Path(sys.executable).parent}', 'STAMP=.stamp',
                   http_proxy='', https_proxy='')
    assert done.returncode == 0, done.stderr
    return project.out


def choose(page, file):
    "Choose a file as a person does, by a click."
    page.evaluate("document.querySelector('#message').textContent = ''")
    with page.expect_file_chooser() as chooser: page.get_by_text('choose a file').click()
    chooser.value.set_files(file)


def compare(page, prediction):
    "Assert that the page shows this prediction; return whether it warns."
    name, _ = prediction['top'][0]
    page.get_by_text(f'Most probably: {name} (').wait_for(timeout=10_000)
    rows = [row.locator('th, td').all_text_contents() for row in page.locator('#classes tr').all()]
    shown = {name: float(number.removesuffix(' %'))/100 for name, _, number in rows}
    for name, p in prediction['top']:
        assert abs(shown[name] - p) < .002, (shown, prediction)      # shown to a thousandth
    warned = 'do not believe' in page.locator('#message').inner_text()
    assert warned == prediction['out_of_distribution']
    return warned


def test_page_predicts_as_pytorch_does(network, tmp_path):
    from PIL import Image
    from cifar10_nbdev.predict import classify, load_model, see
    from cifar10_nbdev.shapes import make_shapes
    model, (x, _) = load_model(network), make_shapes(200, seed=1)
    x = x[model(x)[1].argsort()]
    x = [*x[:5], *x[-5:]]                                   # the first ones are not far out
    problems, warned = [], set()
    def note_request(request):
        if request.url.startswith(('http', 'ws')): problems.append(request.url)
    with playwright.sync_playwright() as p:
        browser = p.chromium.launch(executable_path=CHROMIUM, args=['--no-sandbox'])
        page = browser.new_page(viewport=dict(width=390, height=900))
        page.on('request', note_request)
        page.on('pageerror', lambda e: problems.append(str(e)))
        page.goto(f'file://{network}/demo.html')
        page.get_by_text('Ready.').wait_for(timeout=60_000)
        assert page.get_by_role('table').count() == 0       # nothing is shown before a picture
        for i, (im, size) in enumerate(zip(x, SIZES)):
            file = tmp_path/f'{i}.png'
            picture = Image.fromarray(im.permute(1, 2, 0).numpy())
            picture.resize(size, Image.Resampling.BICUBIC).save(file)
            choose(page, file)
            [expected] = classify(model, [see(file)], k=10)
            warned.add(compare(page, expected))
        assert warned == {True, False}
        page.screenshot(path=tmp_path/'demo.png')
        assert page.evaluate('document.documentElement.scrollWidth') <= 390
        page.locator('#file').focus()                       # what a keyboard reaches
        for name, shown in {'text.png': 'text.png', '<img src=x>.png': '<img src=x>.png',
                            'a\u202egnp.exe': 'a□gnp.exe'}.items():
            (tmp_path/name).write_text('no picture')
            page.set_input_files('#file', tmp_path/name)
            says = f'{shown} is no picture that this browser can read.'
            page.get_by_text(says).wait_for(timeout=10_000)
        assert page.title().startswith('What is it?') and page.locator('img, h1 + h1').count() == 0
        assert not problems, problems                       # no request, no error
