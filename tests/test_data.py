"""What is promised of CIFAR-10's places and hosts: whatever they hold or send, there is data or one
sentence, soon, in little memory, and no secret in it.
`pytest tests/test_data.py --long` tries 1,000 damaged places."""
import base64, bz2, gzip, http.server, io, json, lzma, os, pickle, random, resource, shutil, signal
import struct, tarfile, threading, time, tracemalloc
from contextlib import contextmanager
from dataclasses import replace
from hashlib import md5, sha256
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from cifar10_nbdev import archive, cifar10
from cifar10_nbdev.archive import CLASSES, OFFICIAL, from_arrays, read_batch
from cifar10_nbdev.core import UserError

from conftest import is_refusal
from forked import Forked

SESAME = 'sesame-5f02'   # the password in addresses
RELEASE = replace(OFFICIAL, urls=(), batches={}, sizes=(100, 20))
RNG = np.random.default_rng(0)
IMAGES = RNG.integers(0, 256, (120, 32, 32, 3), dtype=np.uint8)
LABELS = np.arange(120) % 10
MINI = from_arrays((IMAGES[:100], LABELS[:100], IMAGES[100:], LABELS[100:]), 'random numbers')
BATCHES = [f'data_batch_{i + 1}' for i in range(5)] + ['test_batch']
SPECIAL = (tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.FIFOTYPE,
           tarfile.GNUTYPE_SPARSE, tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME,
           tarfile.GNUTYPE_LONGLINK, b'9')


def batch(x, y, protocol=2):
    "A pickled batch."
    rows = x.transpose(0, 3, 1, 2).reshape(len(x), -1)
    return pickle.dumps({b'data': rows, b'labels': y.tolist()}, protocol=protocol)


def png(image):
    file = io.BytesIO()
    Image.fromarray(image).save(file, 'PNG')
    return file.getvalue()


def split(i): return ('train', i) if i < 100 else ('test', i - 100)


OFFICIAL_FILES = {name: batch(IMAGES[20*i:20*i + 20], LABELS[20*i:20*i + 20])
                  for i, name in enumerate(BATCHES)}
TREE_FILES = {'{0}/{2}/{1}_{2}.png'.format(*split(i), CLASSES[LABELS[i]]): png(IMAGES[i])
              for i in range(120)}


def write(folder, files):
    "Write a folder: names and contents."
    for name, content in files.items():
        path = folder/name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
    return folder


def member(name, content=b'', kind=tarfile.REGTYPE, size=None, form=tarfile.GNU_FORMAT):
    "The bytes of a member of a tar archive; its header may lie about its size."
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, len(content) if size is None else size
    return info.tobuf(form, errors='surrogateescape') + content + bytes(-len(content) % 512)


def tar(files, top='cifar10'):
    "The bytes of a tar archive."
    return b''.join(member(f'{top}/{n}', c) for n, c in files.items()) + bytes(1024)


class Hang(BaseException):
    "Something took too long. No `except Exception` catches it."


@contextmanager
def at_most(seconds):
    def ring(*_): raise Hang(f'after {seconds} s')
    old = signal.signal(signal.SIGALRM, ring)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try: yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, old)


def answer(place, cache, seconds=20):
    "What a run gets from a named place: the data, or the one sentence."
    with at_most(seconds):
        try: return cifar10.get_cifar(place, cache, lambda line: None, RELEASE)
        except UserError as e: sentence = str(e)
    assert sentence.isprintable() and len(sentence) < 1500, sentence
    assert str(place)[:100] in sentence and ('data_dir' in sentence or 'another place' in sentence)
    return sentence


# ---- named places

def hostile_pickles():
    "Pickles that crash, hang or fill the memory of those who unpickle them, or run a command."
    class Evil:
        def __reduce__(self): return os.system, ('touch evil',)
    array = b'cnumpy.core.multiarray\n_reconstruct\n(cnumpy\nndarray\n(K\x00tU\x01btR'
    dtype = b'cnumpy\ndtype\n(U\x02V8K\x00K\x01tR'
    deep = b'(K\x01K\x02tq\x00' + b'h\x00h\x00\x86q\x00'*60   # hashing it takes 2**60 steps
    # an object of a billion bytes behind the array: NumPy crashes the process
    state = (b'(K\x03U\x01|NU\x01a\x85}U\x01acnumpy\ndtype\n(U\x01OK\x00K\x01tR'
             b'J\x00\x00\x00\x7f\x86sK\x08K\x01K\x3ftb')
    return [pickle.dumps(Evil(), 2), pickle.dumps(Evil(), 0), pickle.dumps(Evil(), 4),
            b'\x80\x02' + b']'*100_000 + b'.', b'\x80\x02' + b'('*100_000 + b'.',
            b'\x80\x02' + deep + b'}h\x00K\x01s.', b'\x80\x02Nr\xff\xff\xff\xff.',
            b'\x80\x05\x96' + struct.pack('<Q', 1 << 40) + b'.',
            b'\x80\x04\x8e' + struct.pack('<Q', 1 << 62) + b'.',
            b'\x80\x04\x95' + struct.pack('<Q', 1 << 60) + b'.',
            b'\x80\x02cnumpy\nndarray\n(K\x01\x85' + dtype + state + b'tR.',
            b'\x80\x02' + array + b'(K\x01(J\xff\xff\xff\x7ft' + dtype + b'\x89U\x01xtb.',
            b'\x80\x02cnumpy\nndarray\n(J\xff\xff\xff\x7f\x85tR.', b'I' + b'9'*100_000 + b'\n.',
            b'\x80\x02c' + b'\xff\n\x1b[2J\n.', b'\x80\x02c' + b'x'*99_999, b'', b'.', b'\x80\x63.']


def test_hostile_pickles_have_no_effect(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    seconds = []
    for i, content in enumerate(hostile_pickles()):
        place = write(tmp_path/str(i), {**OFFICIAL_FILES, 'data_batch_3': content})
        began = time.monotonic()
        assert 'data_batch_3' in answer(place, tmp_path/'cache')
        seconds.append(time.monotonic() - began)
    assert not (tmp_path/'evil').exists() and max(seconds) < 5
    print(f'{len(seconds)} hostile pickles refused, {max(seconds):.2f} s at most')


def test_real_batches_are_read_at_once():
    x = RNG.integers(0, 256, (10_000, 32, 32, 3), dtype=np.uint8)
    y = RNG.integers(0, 10, 10_000)
    for protocol in 2, 4:
        content = batch(x, y, protocol)
        began = time.process_time()
        got = read_batch(content)
        assert time.process_time() - began < .7
        assert (got[0] == x).all() and (got[1] == y).all()


ODD_FILES = {
    'a pipe': os.mkfifo,
    'a link to nothing': lambda p: p.symlink_to('nowhere'),
    'a link to itself': lambda p: p.symlink_to(p.name),
    'a link to a folder': lambda p: p.symlink_to('/tmp'),
    'an endless device': lambda p: p.symlink_to('/dev/zero'),
    'a terminal': lambda p: p.symlink_to('/dev/tty'),
    'a file without size': lambda p: p.symlink_to('/proc/self/pagemap'),
    'a folder': Path.mkdir,
    'a huge file': lambda p: os.truncate(os.open(p, os.O_CREAT | os.O_RDWR), 1 << 40),
    'an empty file': Path.touch}


@pytest.mark.parametrize('where', ('.', 'cifar10.tgz', 'data_batch_1', 'train/cat/3_cat.png'))
@pytest.mark.parametrize('what', ODD_FILES)
def test_an_odd_file_is_a_sentence(tmp_path, where, what):
    place = tmp_path/'place'
    files = dict(data_batch_1=OFFICIAL_FILES).get(where, TREE_FILES)
    if '.' not in where or '/' in where: write(place, files)
    elif where != '.': place.mkdir()
    path = place/where
    path.unlink() if path.is_file() else None
    ODD_FILES[what](path)
    assert isinstance(answer(place, tmp_path/'cache', 5), str)


def test_links_to_files_are_followed_and_hidden_folders_passed_over(tmp_path):
    for files, shape in ((OFFICIAL_FILES, 'batches'), (TREE_FILES, 'tree')):
        store, place = write(tmp_path/shape/'store', files), tmp_path/shape/'place'
        for name in files:
            (place/name).parent.mkdir(parents=True, exist_ok=True)
            (place/name).symlink_to(store/name)
        for hidden in '.ipynb_checkpoints', '.cache', 'train/.cache', 'train/cat/.cache':
            write(place/hidden, {'0_cat.png': b'', 'data_batch_1': b'', 'train/cat/0.png': b''})
        assert answer(place, tmp_path/shape/'cache').fingerprint == MINI.fingerprint
        more = {'.cache/train/cat/1.png': b'', 'train/.ipynb_checkpoints/a.png': b'',
                './.x/data_batch_1': b'', 'test/dog/.a.png': b'', '._test_batch': b''}
        packed = tmp_path/f'{shape}.tgz'
        packed.write_bytes(gzip.compress(tar({**more, **files})))
        assert answer(packed, tmp_path/shape/'cache').fingerprint == MINI.fingerprint


NAMES = {b'caf\xe9': 'caf\\udce9', b'a\nb': 'a\\nb', b'\x1b[2J': '\\x1b[2J',
         'a\u202eb'.encode(): 'a\\u202eb', b'x'*5000: 'too long'}


@pytest.mark.parametrize('name', NAMES)
def test_a_place_with_an_odd_name_is_a_sentence(project, name):
    out, err = project.root/'out', project.root/'err'
    named = os.fsdecode(name)
    env = project.env(CIFAR10_DATA=named)
    process = Forked('cifar10_nbdev.train', ['--dataset', 'cifar10'], project.root, env, out, err)
    assert process.wait(60) == 2
    text = err.read_text()
    assert text.startswith('Error: ') and text[:-1].isprintable() and NAMES[name] in text
    assert 'CIFAR10_DATA' in text or 'another place' in text
    with pytest.raises(UserError): cifar10.named_place(named + '\0')


def test_an_odd_place_ends_a_command_in_one_sentence(project):
    write(project.root/'tree', TREE_FILES)
    (project.root/'tree/test/dog/5_dog.png').unlink()
    os.mkfifo(project.root/'tree/test/dog/5_dog.png')
    (project.root/'lost').symlink_to('nowhere')
    os.mkfifo(project.root/'pipe')
    for place in ('tree', 'lost', 'pipe', '/dev/zero'):
        for done in (project.train('--dataset', 'cifar10', '--data_dir', place),
                     project.forked('cifar10_nbdev.doctor', '--data_dir', place)):
            assert 'Traceback' not in done.stderr + done.stdout
            assert Path(place).name in done.stderr + done.stdout
        assert is_refusal(project.train('--dataset', 'cifar10', '--data_dir', place))


MB = 1 << 20


def zeros(megabytes):
    "Zeros, compressed: a thousandth of their size, and made at once."
    return gzip.compress(bytes(64*MB), 1)*(megabytes//64)


@pytest.mark.parametrize('what', ('pax', 'gnu', 'pictures', 'batches', 'tail', 'negative'))
def test_an_archive_cannot_fill_the_memory(tmp_path, what):
    bombs = {
        'pax': gzip.compress(member('x', kind=tarfile.XHDTYPE, size=2240*MB)) + zeros(2240),
        'gnu': gzip.compress(member('x', kind=tarfile.GNUTYPE_LONGNAME, size=448*MB)) + zeros(448),
        'pictures': (gzip.compress(member('train/cat/1.png', size=64*MB)) + zeros(64))*40,
        'batches': (gzip.compress(member('data_batch_1', size=64*MB)) + zeros(64))*40,
        'tail': gzip.compress(tar({})) + zeros(2240),
        'negative': gzip.compress(member('a')[:124] + struct.pack('>q', -1).rjust(12, b'\xff')
                                  + member('a')[136:])}
    bomb = tmp_path/'bomb.tgz'
    bomb.write_bytes(bombs[what])
    assert len(bombs[what]) < 12*MB
    tracemalloc.start()
    try:
        assert isinstance(answer(bomb, tmp_path/'cache', 60), str)
        assert tracemalloc.get_traced_memory()[1] < 300*MB
    finally: tracemalloc.stop()


def test_an_archive_of_endless_members_is_given_up(tmp_path, monkeypatch):
    monkeypatch.setattr(archive, 'MAX_MEMBERS', 1000)
    place = tmp_path/'many.tgz'
    place.write_bytes(gzip.compress(member('cifar10/x')*1000 + tar(TREE_FILES)))
    assert 'no training images' in answer(place, tmp_path/'cache')
    place.write_bytes(gzip.compress(member('cifar10/x')*800 + tar(TREE_FILES)))
    assert answer(place, tmp_path/'cache').fingerprint == MINI.fingerprint


# ---- a fuzz of named places

def flip(content, r):
    "One to eight bytes are others."
    content = bytearray(content)
    for _ in range(r.randint(1, 8)): content[r.randrange(len(content))] ^= r.randint(1, 255)
    return bytes(content)


DAMAGE = (
    flip,
    lambda c, r: c[:r.randrange(len(c))],
    lambda c, r: c + r.randbytes(r.randint(1, 2000)),
    lambda c, r: c[:(at := r.randrange(len(c)))] + r.randbytes(40) + c[at:],
    lambda c, r: r.choice(hostile_pickles()),
    lambda c, r: b'',
    lambda c, r: r.randbytes(500),
    lambda c, r: gzip.compress(c))
ODD_NAMES = ('train/cat/\x1b[2J.png', 'train/cat/a\nb.png', 'train/\udcff/1.png',
             'train/cat/\udce9.png', 'train/\u202etac/1.png', '.cache/train/cat/1.png',
             'train/.ipynb_checkpoints/1_cat.png', 'data_batch_6', '._data_batch_1',
             'test/dog/x.jpeg', 'x'*200, 'train/cat/7_cat.PNG')


def damaged_folder(place, files, r):
    "A folder, a few of whose files are damaged, renamed, gone, or something else."
    write(place, files)
    for _ in range(r.choice((0, 1, 1, 2, 5))):
        path = place/r.choice(list(files))
        if not path.is_file() or path.is_symlink() or path.stat().st_size > MB: continue
        kind = r.choice(('damage', 'damage', 'odd', 'odd', 'rename', 'mode', 'new', 'move'))
        if kind == 'damage': path.write_bytes(r.choice(DAMAGE)(path.read_bytes() or b'x', r))
        elif kind == 'odd':
            path.unlink()
            r.choice(list(ODD_FILES.values()))(path)
        elif kind == 'rename': path.rename(path.with_name(Path(r.choice(ODD_NAMES)).name))
        elif kind == 'mode': path.parent.chmod(r.choice((0, 0o444, 0o555, 0o755)))
        elif kind == 'new': write(place, {r.choice(ODD_NAMES): path.read_bytes()})
        else: shutil.move(path, place/r.choice(('x', 'test', 'train', 'cifar10')))
    return place


def damaged_archive(place, files, r):
    "An archive, a few of whose members are damaged, renamed, repeated, or something else."
    parts, form = [], r.choice((tarfile.GNU_FORMAT, tarfile.PAX_FORMAT))
    top = r.choice(('', './', 'cifar10/', 'x'*120 + '/', 'café/'))
    odd = set(r.sample(list(files), r.choice((0, 0, 1, 2))))
    for name, content in files.items():
        kind = r.choice(('damage', 'name', 'kind', 'size', 'again', 'gone')) if name in odd else ''
        if kind == 'damage': content = r.choice(DAMAGE)(content, r)
        if kind == 'name':
            name = r.choice((*ODD_NAMES, '../' + name, '/' + name, name + '/', 'y'*300))
        special = r.choice(SPECIAL) if kind == 'kind' else tarfile.REGTYPE
        size = r.choice((0, 1, 1 << 33, len(content) + 512)) if kind == 'size' else None
        block = member(top + name, content, special, size, form)
        if kind != 'gone': parts += [block]*(1 + (kind == 'again'))
    content = b''.join(parts) + bytes(r.choice((0, 1024, 10_240)))
    pack = r.choice((gzip.compress, bz2.compress, lzma.compress, bytes))
    content = pack(content)
    if r.random() < .5: content = r.choice(DAMAGE[:4])(content, r)
    place.write_bytes(content)
    return place


def test_a_fuzz_of_named_places(tmp_path, monkeypatch, request):
    monkeypatch.chdir(tmp_path)
    times = 1000 if request.config.getoption('--long') else 60
    read, slowest, changed = 0, 0, 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for seed in range(times):
        r = random.Random(seed)
        files = r.choice((OFFICIAL_FILES, TREE_FILES))
        make = r.choice((damaged_folder, damaged_archive))
        here = tmp_path/str(seed)
        here.mkdir()
        place = make(here/'place', files, r)
        began = time.monotonic()
        try: got = answer(place, here/'cache')
        except BaseException as e:
            raise AssertionError(f'seed {seed}: {make.__name__}: {type(e).__name__}: {e}') from e
        slowest = max(slowest, time.monotonic() - began)
        if not isinstance(got, str):
            read += 1
            changed += got.fingerprint != MINI.fingerprint
            again = answer(place, here/'cache')     # from the decoded copy
            assert again.fingerprint == got.fingerprint
        for folder, _, _ in os.walk(here): os.chmod(folder, 0o755)
        shutil.rmtree(here)
    more = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)//1024
    print(f'{times} places: {read} read ({changed} with other images), {times - read} refused; '
          f'{slowest:.1f} s at most, {more} MB more')
    assert 0 < read < times and more < 600 and not (tmp_path/'evil').exists()


@pytest.mark.filterwarnings('ignore:invalid escape sequence')
def test_a_fuzz_of_batches(n_batches):
    "A damaged batch is read or refused by a ValueError, and never run."
    small = batch(IMAGES[:2], LABELS[:2])
    for seed in range(n_batches):
        r = random.Random(seed)
        content = flip(small, r) if seed % 2 else flip(small[:-6300], r) + small[-6300:]
        try: x, y = read_batch(content)
        except ValueError: continue
        assert x.shape == (len(y), 32, 32, 3) and x.dtype == np.uint8


@pytest.fixture
def n_batches(request): return 20_000 if request.config.getoption('--long') else 1000


# ---- hosts

class Handler(http.server.BaseHTTPRequestHandler):
    "Answers as the server's function `reply` does."
    protocol_version = 'HTTP/1.0'
    def do_GET(self):
        self.server.asked.append(dict(self.headers))
        self.server.reply(self)

    def log_message(self, *args): ...


@contextmanager
def host(reply):
    "An HTTP server; `asked` has the headers of the requests to it."
    server = http.server.ThreadingHTTPServer(('127.0.0.1', 0), Handler)
    server.reply, server.asked, server.handle_error = reply, [], lambda *args: None
    server.address = f'127.0.0.1:{server.server_port}'
    threading.Thread(target=server.serve_forever, args=(.02,), daemon=True).start()
    try: yield server
    finally:
        server.shutdown()
        server.server_close()


def send(content, status=200, stop=None, **headers):
    "A reply: from the byte that was asked for, at most `stop` bytes at a time."
    def reply(handler):
        start = int(handler.headers.get('Range', 'bytes=0-')[6:-1])
        sent = {**headers, 'Content-Length': str(len(content) - start)}
        if start: sent['Content-Range'] = f'bytes {start}-{len(content) - 1}/{len(content)}'
        handler.send_response(206 if start else status, f'{SESAME}\x1b[2J')
        for name, value in sent.items(): handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(content[start:][:stop])
    return reply


@pytest.fixture
def fetch(tmp_path, monkeypatch):
    "`load_cifar` with CIFAR10_URL and hosts: returns the data or the sentence, and the lines."
    packed = gzip.compress(tar({'noise': RNG.bytes(3_000_000), **TREE_FILES}))
    monkeypatch.setattr(cifar10, 'in_root', lambda path: tmp_path/path)
    for name in ('http_proxy', 'https_proxy', 'HTTP_PROXY', 'HTTPS_PROXY'):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv('CIFAR10_DATA', '')
    for name, value in dict(ANSWER_SECONDS=.5, SILENCE_SECONDS=1, LINE_SECONDS=.3).items():
        monkeypatch.setattr(cifar10, name, value)

    def load(url, *hosts):
        urls = [f'http://{h.address}/x' for h in hosts]
        monkeypatch.setenv('CIFAR10_URL', url)
        monkeypatch.setattr(cifar10, 'OFFICIAL', replace(
            RELEASE, urls=tuple(urls), n_bytes=len(packed), md5=md5(packed).hexdigest(),
            sha256=sha256(packed).hexdigest()))
        shutil.rmtree(tmp_path/'data', ignore_errors=True)
        lines = []
        with at_most(60):
            try: result = cifar10.load_cifar(say=lines.append)
            except UserError as e: result = str(e)
        for text in (*lines, result if isinstance(result, str) else ''):
            assert text.isprintable() or not text
            assert 'sesame' not in text.lower() and '@' not in text, text
        return result, lines
    load.archive = packed
    return load


def test_a_password_reaches_its_host_and_nothing_else(project):
    "By the training command: not the terminal, and no file of the run."
    out, err = project.root/'out', project.root/'err'
    words = '--dataset auto --subset 100 --nepochs 1 --batch_size 50'.split()
    with host(send(b'', status=404)) as asks:
        url = f'http://me:{SESAME}%21@{asks.address}/x?token={SESAME}'
        env = project.env(CIFAR10_URL=url, no_proxy='127.0.0.1')
        assert Forked('cifar10_nbdev.train', words, project.root, env, out, err).wait(300) == 0
    assert '127.0.0.1: 404 Not Found' in out.read_text()
    assert '127.0.0.1: 404 Not Found' in json.dumps(project.metrics())
    printed = dict(out=out.read_bytes(), err=err.read_bytes())
    for name, content in {**printed, **project.files('output'), **project.files('data')}.items():
        assert SESAME.encode() not in content, name
    sent = asks.asked[0]['Authorization'].removeprefix('Basic ')
    assert base64.b64decode(sent).decode() == f'me:{SESAME}!'


def test_a_password_is_not_sent_to_another_host(fetch):
    with host(send(fetch.archive)) as good:
        moved = send(b'', status=302, Location=f'http://{good.address}/?{SESAME}')
        with host(moved) as moves:
            result, _ = fetch(f'http://me:{SESAME}@{moves.address}/x?{SESAME}')
            assert result.fingerprint == MINI.fingerprint
            assert 'Authorization' in moves.asked[0] and 'Authorization' not in good.asked[0]


UNCLEAR = ('', ' ', 'sesame', '/x', 'me:sesame@127.0.0.1/x', '//me:sesame@127.0.0.1/x', 'http://',
           'http://[::1', 'http://me:sesame@[::1', 'http://[sesame]/', 'http://sesame@x:abc/',
           'http://127.0.0.1:99999/', 'http://me:ses ame@127.0.0.1:9/x y', 'http://127.0.0.1:9/\x1b[2J',
           'http://127.0.0.1:9/sesame\r\nX: y', 'http://127.0.0.1:9/caf\xe9', 'http://caf\xe9..x/',
           'http://' + 'x'*300 + '/', 'ftp://me:sesame@127.0.0.1:9/x', 'file:///sesame', 'file:///',
           'file:///dev/zero', 'data:,sesame', 'HTTP://ME:SESAME@127.0.0.1:9', 'http:/me:sesame@x',
           'http://me%3Asesame%40127.0.0.1/', 'http://\udcff/', 'gopher://host', 'http://@:@/',
           'http://me:sesame@127.0.0.1:9?sesame', 'http://\u2100/', 'javascript:sesame')


def test_an_address_that_is_none_is_a_host_that_failed(fetch):
    with host(send(fetch.archive)) as good:
        for url in UNCLEAR:
            result, lines = fetch(url, good)
            assert result.fingerprint == MINI.fingerprint, url
            if url: assert len([line for line in lines if line.startswith('  ')]) == 1, (url, lines)


def test_a_host_that_fails_in_any_way_leaves_the_next_its_chance(fetch):
    whole, half = fetch.archive, 1_600_000
    length = f'Content-Length: {len(whole)}\r\n\r\n'.encode()

    def raw(*pieces, seconds=.0):
        def reply(handler):
            for piece in pieces:
                handler.wfile.write(piece)
                handler.wfile.flush()
                time.sleep(seconds)
        return reply

    ok = b'HTTP/1.1 200 sesame\r\n'
    ways = {
        'wrong': send(whole[::-1]), 'wrong and breaks off': send(whole[::-1], stop=half),
        'one byte': raw(ok + length, *[b'x']*400, seconds=.02),
        'headers': raw(ok, *[b'A: b\r\n']*400, seconds=.02),
        'status': raw(*[b'H']*400, seconds=.02),
        'continue': raw(*[b'HTTP/1.1 100 sesame\r\n\r\n']*400, seconds=.02),
        'chunks': raw(ok + b'Transfer-Encoding: chunked\r\n\r\n', *[b'1']*400, seconds=.02),
        'no length': raw(ok + b'\r\n', whole), 'odd length': raw(ok + b'Content-Length: x\r\n\r\n'),
        'more': raw(ok + length, whole, whole), 'less': raw(ok + length, whole[:half]),
        'range': raw(b'HTTP/1.1 206 x\r\nContent-Range: bytes x\r\n' + length, whole[::-1]),
        'silence': raw(b'', seconds=3), 'not http': raw(b'\x1b[2J sesame'), 'nothing': raw(b'')}
    for way, reply in ways.items():
        with host(reply) as bad, host(send(whole)) as good:
            began = time.monotonic()
            result, lines = fetch('', bad, good)
            assert result.fingerprint == MINI.fingerprint, (way, result)
            assert len(bad.asked) <= 4 and time.monotonic() - began < 10, (way, lines)
            if good.asked: assert f'{lines}'.count('127.0.0.1: ') >= 1, (way, lines)


def test_a_host_that_redirects_to_itself_is_given_up(fetch):
    def loop(handler): send(b'', status=302, Location=f'http://{handler.headers["Host"]}/x')(handler)
    with host(loop) as loops:
        result, _ = fetch('', loops)
        assert '127.0.0.1: 302 Found' in result and len(loops.asked) < 12
