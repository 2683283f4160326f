"""What is promised of predict and export, whatever pictures, names and networks they are given.
`pytest tests/test_predict.py --long` tries a thousand pictures and a thousand networks."""
import hashlib, io, json, os, random

import pytest
import torch
from PIL import Image
from conftest import ROOT
from safetensors.torch import save

from cifar10_nbdev import predict
from cifar10_nbdev.checkpoint import BLANK, pack
from cifar10_nbdev.model import make_model
from cifar10_nbdev.params import run_command

CLASSES = ['<script>alert(1)</script>', 'a\nError: forged', '\x1b[31mred', '$x_$', '猫',
           '\u202egnp', '_hidden', 'NaN', '&amp;', 'plain']
INFO = dict(model='fast', own=False, dataset='shapes10', classes=CLASSES, input=[3, 32, 32],
            mean=[.5]*3, std=[.25]*3, test_accuracy=.1, weights_sha256='',
            out_of_distribution=dict(score='energy', threshold=-2., fraction=.05, of='test'))
WEIGHTS = make_model('fast', seed=0).state_dict()
NOISE = Image.frombytes('RGB', (48, 40), random.Random(0).randbytes(48*40*3))
REFUSED = 'cannot be read ('


@pytest.fixture
def n(request):
    "How often something is done: the first number in CI, the second one with --long."
    return lambda short, long: long if request.config.getoption('--long') else short


@pytest.fixture
def home(tmp_path):
    "A folder with a network, whose class names are hostile, and a good picture."
    (tmp_path/'model.safetensors').write_bytes(pack(WEIGHTS, INFO))
    NOISE.save(tmp_path/'good.png')
    return tmp_path


def answers(home, *files):
    "The exit code of predict, and what it says, line by line: one for each file, or one error."
    code, text = run_command(predict.main, *files, '--model', home)
    assert 'Traceback' not in text and text.replace('\n', '').isprintable(), text
    lines = text.splitlines()
    errors = [line.startswith('Error: ') for line in lines]
    assert (code, errors) == (2, [True]) or (code, len(lines)) == (any(errors), len(files)), text
    return code, lines


def encoded(im, *args, **options):
    "A picture as a file's content."
    file = io.BytesIO()
    im.copy().save(file, *args, **options)
    return file.getvalue()


def good_pictures():
    "Pictures of many kinds: name -> content."
    exif = Image.Exif()
    exif[0x0112], exif[0x010f], exif[0x8769] = 6, 'maker', {0x9000: b'0220', 0x829a: .5}
    exif[0x8825] = {1: 'N', 2: (1., 2., 3.)}
    exif = exif.tobytes()
    clear, gray = NOISE.copy(), NOISE.convert('L')
    clear.putalpha(100)
    deep, palette = gray.convert('I').point(lambda v: v*99), NOISE.quantize(9)
    frames = dict(save_all=True, append_images=[NOISE.rotate(90), NOISE.rotate(180)])
    kinds = {
        'exif.jpg': (NOISE, 'JPEG', dict(exif=exif)), 'gray.jpg': (gray, 'JPEG', {}),
        'progressive.jpg': (NOISE, 'JPEG', dict(progressive=True)),
        'cmyk.jpg': (NOISE.convert('CMYK'), 'JPEG', {}), 'mpo.jpg': (NOISE, 'MPO', frames),
        'exif.png': (NOISE, 'PNG', dict(exif=exif)), 'clear.png': (clear, 'PNG', {}),
        'palette.png': (palette, 'PNG', dict(transparency=0)),
        'la.png': (clear.convert('LA'), 'PNG', {}), 'one.png': (gray.convert('1'), 'PNG', {}),
        'deep.png': (deep.convert('I;16'), 'PNG', {}), 'animated.png': (NOISE, 'PNG', frames),
        'animated.gif': (NOISE, 'GIF', frames), 'animated.webp': (NOISE, 'WEBP', frames),
        'exif.webp': (clear, 'WEBP', dict(exif=exif)), 'plain.bmp': (NOISE, 'BMP', {}),
        'float.tif': (gray.convert('F'), 'TIFF', {}), 'deep.tif': (deep, 'TIFF', {}),
        'exif.tif': (NOISE, 'TIFF', dict(exif=exif)),
        'lzw.tif': (NOISE, 'TIFF', dict(compression='tiff_lzw')),
        'jpeg.tif': (NOISE, 'TIFF', dict(compression='jpeg')),
        'wide.png': (Image.new('RGB', (100_000, 1)), 'PNG', {}),
        'tall.gif': (Image.new('L', (1, 60_000)), 'GIF', {})}
    return {name: encoded(im, form, **options) for name, (im, form, options) in kinds.items()}


def damaged(blob, draw):
    "A file's content with some damage, near its beginning more often than not."
    blob, size = bytearray(blob), len(blob)
    place = draw.randrange(min(size, draw.choice((64, 400, size))))
    kind = draw.randrange(6)
    if kind == 0: del blob[place:]
    elif kind == 1: del blob[place:place + draw.randrange(1, 9)]
    elif kind == 2: blob[place:place] = draw.randbytes(draw.randrange(1, 300))
    elif kind == 3: blob[place:place + 4] = draw.choice((b'\xff'*4, bytes(4), b'\x7f\xff\xff\xff'))
    else:
        for i in range(place, min(place + draw.randrange(1, 9), size)):
            blob[i] ^= 1 << draw.randrange(8)
    return bytes(blob)


def test_good_pictures_among_damaged_ones(home, n, capfd):
    draw, kinds, good = random.Random(0), good_pictures(), home/'good.png'
    _, [expected] = answers(home, good)
    for name, content in kinds.items(): (home/name).write_bytes(content)
    code, lines = answers(home, *(home/name for name in kinds))
    assert code == 0, lines
    times, refused = n(60, 1000), 0
    for _ in range(0, times, 20):
        files = [home/f'{i}.{draw.choice(["jpg", "png", "gif"])}' for i in range(20)]
        for file in files: file.write_bytes(damaged(draw.choice([*kinds.values()]), draw))
        code, [first, *lines, last] = answers(home, good, *files, good)
        assert first == last == expected
        for file, line in zip(files, lines):
            bad = line.startswith(f'Error: {file} {REFUSED}')
            assert bad or line.startswith(f'{file}: ') and 'nan%' not in line, line
            refused += bad
    printed = capfd.readouterr()
    assert printed.err == ''           # neither Pillow nor a library below it says anything
    with capfd.disabled(): print(f'{times} damaged pictures: {refused} refused')


def test_whatever_one_picture_does_the_others_are_answered(project):
    home = project.out
    (home/'model.safetensors').write_bytes(pack(WEIGHTS, INFO))
    NOISE.save(home/'good.png')
    os.mkfifo(home/'pipe.png')
    (home/'folder.png').mkdir()
    (home/'zero.png').symlink_to('/dev/zero')
    (home/'loop.png').symlink_to('loop.png')
    (home/'empty.png').write_bytes(b'')
    (home/'text.png').write_text('no picture')
    (home/'page.eps').write_text('%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n{} loop\n')
    bomb = bytearray(encoded(NOISE, 'BMP'))
    bomb[18:26] = (20_000).to_bytes(4, 'little')*2      # its width and height
    (home/'bomb.png').write_bytes(bomb)
    ifd = b'\0\2\1\x0a\0\2\0\0\0\2x\0\0\0\1\x12\0\3\0\0\0\1\0\6\0\0'    # a text for a number
    NOISE.save(home/'exif.jpg', exif=b'Exif\0\0MM\0*\0\0\0\x08' + ifd + bytes(4))
    (home/'half.jpg').write_bytes(encoded(NOISE, 'JPEG')[:900])
    (home/'a\nError: forged.png').write_text('no picture')
    (home/'\x1b[31m.png').write_text('no picture')
    bad = ('pipe.png', 'folder.png', 'zero.png', 'loop.png', 'empty.png', 'text.png', 'page.eps',
           'bomb.png', 'exif.jpg', 'half.jpg', 'a\nError: forged.png', '\x1b[31m.png', 'none.png')
    Image.new('1', (9_000, 10_000)).save(home/'large.png')   # Pillow would warn of its size
    good = ('good.png', '$1$ and $x_$.png', '猫 🐈.png', '_.png', '<b>&amp;.png',
            os.fsdecode(b'\xff\xfe.png'))
    for name in good: NOISE.save(home/name)
    names = [name for pair in zip(bad, [*good]*3) for name in pair]
    words = [f'output/{name}' for name in (*names, 'large.png')]
    done = project.forked('cifar10_nbdev.predict', *words, '--picture', 'seen.png')
    assert (done.returncode, done.stderr) == (1, ''), done
    lines = done.stdout.splitlines()
    assert len(lines) == len(words) and done.stdout.replace('\n', '').isprintable()
    answer = lines[1].removeprefix('output/good.png: ')
    for name, line in zip(names, lines):
        if name in bad: assert line.startswith('Error: output/') and REFUSED in line
        else: assert line.endswith(f'.png: {answer}')
    assert Image.open(project.root/'seen.png').width > 500
    words = [f'{home}/{name}' for name in names[:12]]
    code, text = run_command(predict.main, *words, '--model', home, '--json')
    assert code == 1 and [f['file'] for f in json.loads(text)['pictures']] == words


def test_the_picture_goes_to_its_place_or_nothing_is_done(project):
    home = project.out
    (home/'model.safetensors').write_bytes(pack(WEIGHTS, INFO))
    NOISE.save(home/'good.png')
    before = (home/'good.png').read_bytes()
    os.mkfifo(home/'pipe')
    (home/'link.png').symlink_to('behind.png')
    (home/'same.png').symlink_to('good.png')
    for place in ('/dev/full', 'output/pipe', 'output', 'nowhere/seen.png', 'output/same.png'):
        code, text = run_command(predict.main, home/'good.png', '--model', home,
                                 '--picture', project.root/place)
        assert code == 2 and text.startswith('Error: ') and text.count('\n') == 1, text
        assert 'name another file' in text
    words = 'output/good.png', '--picture', 'output/link.png'
    done = project.forked('cifar10_nbdev.predict', *words)
    assert done.returncode == 0, done.stderr
    assert (home/'link.png').is_symlink() and Image.open(home/'behind.png').width > 200
    assert (home/'good.png').read_bytes() == before


MYNET = """
import argparse
from torch import nn
from parts import size

def make(n): return nn.Sequential(nn.Flatten(), nn.Linear(size, n))
class NoArgument(nn.Sequential):
    def __init__(self): super().__init__(nn.Flatten(), nn.Linear(size, 10))
class Viewed(NoArgument):
    def forward(self, x): return self[1](x.view(-1, size))
class Picky(NoArgument):
    def forward(self, x):
        if x.mean() > 1: raise RuntimeError('too bright')
        return super().forward(x)
class Wide(NoArgument):
    def forward(self, x): return super().forward(x)[:, :9]
class Pair(NoArgument):
    def forward(self, x): return super().forward(x), 1
def fails(n): return 1/0
number = 3
if __name__ == '__main__': argparse.ArgumentParser().parse_args()
"""


def test_own_network_on_the_command_line(project):
    weights = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3072, 10)).state_dict()
    info = dict(INFO, model='make', own=True)
    (project.out/'model.safetensors').write_bytes(pack(weights, info))
    (project.root/'nets').mkdir()
    (project.root/'nets'/'my-net.py').write_text(MYNET)
    (project.root/'nets'/'parts.py').write_text('size = 3072')
    (project.root/'nets'/'broken.py').write_text('import no_such_thing')
    (project.root/'mymodule.py').write_text('from torch import nn\n'
        'def make(n): return nn.Sequential(nn.Flatten(), nn.Linear(3072, n))')
    NOISE.save(project.root/'dark.png')
    Image.new('RGB', (32, 32), 'white').save(project.root/'bright.png')
    def run(network, *files):
        return run_command(predict.main, *files, '--model', project.out, '--network', network)

    dark, file = project.root/'dark.png', project.root/'nets'/'my-net.py'
    code, text = run_command(predict.main, dark, '--model', project.out)
    assert code == 2 and '--network FILE.py:make' in text
    _, expected = run(f'{file}:make', dark)
    assert expected.startswith(f'{dark}: ')
    for name in ('NoArgument', 'Viewed'): assert run(f'{file}:{name}', dark) == (0, expected), name
    code, text = run(f'{file}:Picky', project.root/'bright.png', dark)
    assert code == 1 and 'too bright' in text and text.endswith(expected)
    wrong = {f'{file}:Wide': 'not a score for each class', f'{file}:Pair': 'does not fit',
             f'{file}:fails': 'division by zero', f'{file}:number': 'not callable',
             f'{file}:Nothing': "KeyError: 'Nothing'", file: 'FILE.py:NAME',
             file.with_name('broken.py:make'): 'no_such_thing', 'none.py:make': 'No such file'}
    for network, why in wrong.items():
        code, text = run(network, dark)
        assert code == 2 and why in text and text.count('\n') == 1, text
    done = project.forked('cifar10_nbdev.predict', str(dark), '--network', 'mymodule:make')
    assert (done.returncode, done.stdout, done.stderr) == (0, expected, '')
    done = project.forked('cifar10_nbdev.export', '--network', 'nets/my-net.py:Viewed')
    assert done.returncode == 0 and 'the same as PyTorch' in done.stdout, done.stderr


ODD = (None, True, -1, 0, 1e400, float('nan'), 10**400, '', ' ', 'x'*200, '\ud800', '\x1b[2J', [],
       {}, [None], ['a', 'b'], [[.5], .5, .5], [.5, .5], [0, 0, 0], [.5, 'x', .5], [1e-320]*3,
       [1e308]*3, {'threshold': float('nan')}, {'threshold': 'x'}, [*map(str, range(2000))], 'cnn',
       'deep', 'no_such', [3, 64, 64], [4, 32, 32])
JSON = ('['*10**5, '['*490 + ']'*490, '[', 'null', '3', '"x"', '[]', '{}', '{"a":'*10**4, '')
DTYPES = (torch.bool, torch.uint8, torch.int64, torch.float16, torch.bfloat16, torch.float64,
          torch.complex64, torch.float8_e4m3fn)


def sealed(tensors, text):
    "As `pack`, with any text for the information."
    blob = save(tensors, dict(info=text, digest=f'sha256:{BLANK.decode()}'))
    return blob.replace(BLANK, hashlib.sha256(blob).hexdigest().encode(), 1)


def strange_info(draw):
    "The information of a model as a stranger might write it: text."
    info = json.loads(json.dumps(INFO))
    kind, key = draw.randrange(6), draw.choice([*info])
    if kind == 0: return draw.choice(JSON)
    if kind == 1: del info[key]
    elif kind == 2: info['mean'] = ODD          # ragged
    elif kind == 3: info['classes'] = draw.sample(CLASSES, draw.randrange(11))
    else: info[key] = draw.choice(ODD)
    return json.dumps(info)


def strange_weights(draw):
    "Weights with one of them changed: another type, shape, name or value."
    weights = dict(WEIGHTS)
    key = draw.choice([*weights])
    v, kind = weights[key].float().clone(), draw.randrange(8)
    if kind == 0: v = torch.nan_to_num(v).to(draw.choice(DTYPES))
    elif kind == 1: v = v.new_zeros(draw.choice(((), (0,), (3,), v.shape + (1,), (1,)*9)))
    elif kind == 2: v = torch.full_like(v, draw.choice((float('nan'), float('inf'), -1e38, 1e38)))
    elif kind == 3: v = torch.where(torch.rand(v.shape) < .01, float('-inf'), v)
    elif kind == 4: v = v.flip(0) if v.ndim else v
    elif kind == 5: key = draw.choice(('', '\x1b[31m', 'a.b.c', key + '.x', '$', 'é'*100))
    elif kind == 6: del weights[key]
    if kind != 6: weights[key] = v
    return weights if kind < 7 else {}


def test_models_of_strangers(home, n):
    draw, times, refused = random.Random(1), n(60, 1000), 0
    for _ in range(times):
        text, weights = json.dumps(INFO), WEIGHTS
        if draw.random() < .6: text = strange_info(draw)
        else: weights = strange_weights(draw)
        (home/'model.safetensors').write_bytes(sealed(weights, text))
        code, [line] = answers(home, home/'good.png')
        assert 'nan%' not in line and len(line) < 1500, line
        assert code in (0, 2) or 'not finite' in line, line
        refused += code > 0
    print(f"{times} strangers' networks: {refused} refused, the others answered")
    assert 0 < refused < times


def test_a_network_that_is_no_file(home):
    (home/'model.safetensors').unlink()
    for make in (os.mkfifo, lambda path: path.symlink_to('/dev/zero'), lambda path: path.mkdir(),
                 lambda path: path.write_bytes(b''), lambda path: path.symlink_to(path)):
        make(home/'model.safetensors')
        code, [line] = answers(home, home/'good.png')
        assert code == 2 and ('train a network first' in line or 'is damaged' in line)
        if (home/'model.safetensors').is_dir(): (home/'model.safetensors').rmdir()
        else: (home/'model.safetensors').unlink()


def test_networks_that_come_with_the_library(project):
    "They are intact, as the page about them says, and speak where no run has finished."
    page = (ROOT/'docs'/'networks.md').read_text(encoding='utf-8')
    files = sorted(predict.SHIPPED.glob('*.safetensors'))
    assert 'cnn' in [f.stem for f in files] and sum(f.stat().st_size for f in files) < 12e6
    for file in files:
        assert hashlib.sha256(file.read_bytes()).hexdigest() in page, f'{file.name}: ship it again'
        model = predict.load_model(file.stem)
        assert (model.info.model, model.info.dataset) == (file.stem, 'cifar10')
        assert f'{model.info.test_accuracy:.2%}' in page
    NOISE.save(project.out/'noise.png')
    done = project.forked('cifar10_nbdev.predict', 'output/noise.png')
    assert done.returncode == 0 and 'out of distribution' in done.stdout
    assert 'comes with the library' in done.stderr and done.stderr.count('\n') == 1
    named = project.forked('cifar10_nbdev.predict', 'output/noise.png', '--model', 'cnn')
    assert (named.stdout, named.stderr) == (done.stdout, '')
    (project.out/'model.safetensors').write_bytes(pack(WEIGHTS, INFO))   # a run has finished
    own = project.forked('cifar10_nbdev.predict', 'output/noise.png')
    assert own.returncode == 0 and own.stderr == '' and own.stdout != done.stdout
