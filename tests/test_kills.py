"""What is promised of a run that is killed at any of its file operations, and what `cifar10_check`
then says. `pytest tests/test_kills.py --long` does each one of them, otherwise a few."""
import fcntl, json, os, pty, random, re, select, shutil, signal, subprocess, sys, tempfile, termios
import time
from contextlib import nullcontext
from functools import cache
from hashlib import sha256
from pathlib import Path

import pytest
from filelock import FileLock
from PIL import Image

import faults
from cifar10_nbdev.check import check_run, main as check_main
from cifar10_nbdev.checkpoint import unpack
from cifar10_nbdev.core import UserError
from cifar10_nbdev.folder import FILES
from cifar10_nbdev.params import run_command
from cifar10_nbdev.predict import load_model
from cifar10_nbdev.record import read_record, seal, unseal

from conftest import Project, is_refusal
from forked import FORKS, Forked

WORDS = '--dataset shapes10 --subset 100 --nepochs 2 --batch_size 50 --model fast'.split()
B, C = ([*WORDS, '--seed', seed] for seed in '23')
CHECKPOINT = 'checkpoint.safetensors'
MADE_LATER = 'run.html', 'model.onnx', 'demo.html'   # from a run, and moved with it
CONTINUING, ASIDE = 'continuing the run of', 'the run that was in'


@pytest.fixture
def n(request):
    "How many: the first number in CI, the second one with --long."
    return lambda short, long: long if request.config.getoption('--long') else short


class Process(Forked):
    "A child that runs a function of `faults`."
    def __init__(self, function, *args):
        self.process = FORKS.Process(target=function, args=args, daemon=True)
        self.process.start()
        self.pid, self.kill = self.process.pid, self.process.kill


@cache
def digest_of(path, *state):
    "The SHA-256 of a file in a state."
    return sha256(path.read_bytes()).hexdigest()


def digests(folder):
    "The SHA-256 of each file below a folder but the lock, by its path there."
    files = {f: f.stat() for f in folder.rglob('*') if f.is_file() and f.name != '.lock'}
    return {str(f.relative_to(folder)): digest_of(f, s.st_ino, s.st_mtime_ns, s.st_ctime_ns)
            for f, s in files.items()}


def record_of(folder):
    "The record of a run, or None."
    try: return read_record(folder)
    except (OSError, UserError): return None


def whole(folder):
    "Whether `cifar10_check` would be content."
    try: return bool(check_run(folder))
    except UserError: return False


def run(project, words, point=None, odd='no bfloat16'):
    "A small run, killed at a point or not; exit code, and operations as (point, name, path)."
    log = project.root/'operations'
    project.log.unlink(missing_ok=True)
    files = [os.devnull, str(project.log), str(project.log)]
    forked = 'cifar10_nbdev.train', words, str(project.root), project.env(), files
    code = Process(faults.become, point, str(log), odd, *forked).wait(120)
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    return code, [((thread, number, kind), name, path)
                  for thread, number, kind, name, path in rows]


def copy(source, target):
    "A folder, with its times."
    shutil.rmtree(target, ignore_errors=True)
    subprocess.run(['cp', '-a', source, target], check=True)


def points(operations, name='', path=''):
    "The points of those operations, all or some."
    return [point for point, n, p in operations if name in n and re.search(path, p)]


def checkpoints(operations):
    "The points before checkpoints are there, the first epoch's first."
    return points(operations, 'rename', f'^{CHECKPOINT}$')


def moves(operations):
    "The points at which a run is moved aside: before the first file of the next one."
    return points(operations[:next(i for i, (*_, path) in enumerate(operations)
                                   if re.match(r'\..*\.tmp$', path))])


class States:
    "What a run finds in its folder when it begins, made once; and what it should come to."
    def __init__(self, reported):
        self.p, self.folder = reported, reported.root/'states'
        self.folder.mkdir()
        self.weights, self.operations = {}, {}
        self.make_finished()
        finished = self['finished']
        self.operations['finished'] = self.result(B)
        first, second = checkpoints(self.operations['finished'])
        self.keep('continued', finished, B, second)        # the first checkpoint is there
        last = points(self.operations['finished'], 'rename', '^metrics.json$')[-1]
        self.keep('leftovers', finished, B, last)          # the record may not list all files
        moving = moves(self.operations['finished'])
        self.keep('split', finished, B, moving[len(moving)//2])
        self['empty'].mkdir()
        copy(self['empty'], self.p.out)
        self.result(C)

    def __getitem__(self, name): return self.folder/name

    def result(self, words):
        "Note the result of a run to the end; its operations."
        code, operations = run(self.p, words)
        assert code == 0, self.p.printed()
        self.weights[words[-1]] = self.p.metrics()['weights_sha256']
        return operations

    def make_finished(self):
        "Keep the run that is in the folder, with all that can be beside it."
        out = self.p.out
        self.a = digests(out)
        del self.a['run.ipynb']
        for name in MADE_LATER: (out/name).write_text(f'{name} of A')
        (out/'notes.txt').write_text('notes')
        self.later = {f: d for f, d in digests(out).items() if f in MADE_LATER}
        self.users = {f: d for f, d in digests(out).items() if f in ('notes.txt', 'run.ipynb')}
        assert whole(out) and 'report.ipynb' in self.a
        copy(out, self['finished'])

    def keep(self, name, before, words, point):
        "Keep what is there when a run has been killed."
        copy(before, self.p.out)
        assert run(self.p, words, point)[0] == -signal.SIGKILL
        copy(self.p.out, self[name])

    def homes_of_a(self):
        "The folders in which the finished run is whole, with what was made of it later."
        out = self.p.out
        homes = [out, *(f for f in out.glob('previous/*') if not f.name.startswith('.'))]
        a = (self.a | self.later).items()
        return [h for h in homes if a <= digests(h).items() and whole(h)]

    def problems(self, state):
        "What is wrong in the folder, at any time."
        out, found = self.p.out, digests(self.p.out)
        before = {} if state == 'empty' else digests(self[state])
        if state != 'empty':
            homes = self.homes_of_a()
            if not homes: yield 'the finished run is whole nowhere'
            if len([h for h in homes if h != out]) > 1: yield 'it is in two previous folders'
            if not self.users.items() <= found.items(): yield 'a file of the user is changed'
        if state == 'leftovers':
            lost = {f for f, d in before.items() if d not in found.values()
                    and not f.endswith('.tmp')}
            if lost: yield f'lost of the run before: {sorted(lost)}'
        try: load_model(out)
        except UserError: return
        info, record = unpack((out/'model.safetensors').read_bytes())[1], record_of(out)
        if not record: yield 'predict answers, but there is no run'
        elif (info['started'], info['parameters']['seed']) != (
                record.started, record.parameters['seed']) or (
                info['weights_sha256'] != (record.weights_sha256 or info['weights_sha256'])):
            yield 'predict answers by the network of another run'

    def problems_at_end(self, state, words, code):
        "What is wrong in the folder after the run that was not killed."
        out = self.p.out
        if code: yield f'exit code {code}: {self.p.printed()[-300:]}'
        record = record_of(out)
        if not (record and whole(out)): return (yield 'it is not whole')
        if record.weights_sha256 != self.weights[words[-1]]: yield 'the result is another one'
        if state != 'empty' and (homes := [str(h) for h in self.homes_of_a()])[1:]:
            yield f'the finished run is in several places: {homes}'
        if rest := [str(f.relative_to(out)) for f in out.rglob('*.tmp')]: yield f'left: {rest}'
        known = {*FILES, *MADE_LATER} & {f.name for f in out.iterdir()}
        if other := known - {*record.files}: yield f'files of another run: {sorted(other)}'

    def to_continue(self, words):
        "Whether there is a checkpoint from which this command should go on."
        record = record_of(self.p.out)
        if not record or record.status == 'complete': return False
        try: about = unpack((self.p.out/CHECKPOINT).read_bytes())[1]
        except (OSError, UserError): return False
        return str(about['identity']['seed']) == words[-1]

    def kill(self, state, words, point, then, odd='no bfloat16'):   # noqa: PLR0913
        "Kill a run at a point, and run another one, or the same: continued or not, problems."
        copy(self[state], self.p.out)
        code, operations = run(self.p, words, point, odd)
        wrong = [] if code == -signal.SIGKILL else [f'not killed: exit code {code}']
        wrong += [f'killed: {problem}' for problem in self.problems(state)]
        goes_on = self.to_continue(then)
        code, _ = run(self.p, then, odd=odd)
        wrong += [f'then: {p}' for p in (*self.problems_at_end(state, then, code),
                                         *self.problems(state))]
        continued = CONTINUING in self.p.printed()
        if continued != goes_on: wrong.append(f'continued: {continued}, should be {goes_on}')
        where = ' '.join(map(str, (point, *operations[-1][1:])))
        return continued, [f'{state}, {where}: {problem}' for problem in wrong]


@pytest.fixture(scope='module')
def reported(tmp_path_factory):
    "A project in which papermill has made a run."
    p = Project(tmp_path_factory.mktemp('reported'))
    given = [w for pair in zip(WORDS[::2], WORDS[1::2]) for w in ('-p', pair[0][2:], pair[1])]
    done = p.papermill(*given, '-p', 'seed', '1')
    assert done.returncode == 0, done.stderr
    return p


@pytest.fixture(scope='module')
def finished(reported):
    "A copy of its folder, which no test changes."
    copy(reported.out, reported.root/'finished')
    return reported.root/'finished'


@pytest.fixture(scope='module')
def states(reported, finished): return States(reported)


def spread(values, n):
    "`n` of some values, evenly, the last one included; or all of them."
    return values if n >= len(values) else [values[(i + 1)*len(values)//n - 1] for i in range(n)]


def report(state, operations, done):
    "Say how it went, and fail if anything is wrong."
    continued = sum(continued for continued, _ in done)
    good = sum(not wrong for _, wrong in done)
    says = (f'{state}: killed at {len(done)} of {len(operations)} points: {good} whole, of these '
            f'{continued} continued')
    print(says)
    assert good == len(done), '\n'.join([says, *sum((wrong for _, wrong in done), [])])


@pytest.mark.parametrize('state, words, until', [
    ('finished', B, 'the end'), ('continued', B, 'the end'),
    *(pytest.param(state, words, 'a checkpoint', marks=pytest.mark.long)
      for state, words in (('empty', B), ('leftovers', C), ('split', C)))])
def test_killed_at_every_file_operation(states, n, state, words, until):
    copy(states[state], states.p.out)
    operations = run(states.p, words)[1]
    if until != 'the end':
        last = checkpoints(operations)[1]
        operations = operations[:points(operations).index(last) + 1]
    chosen = spread(points(operations), n(2, 10**6))
    report(state, operations, [states.kill(state, words, point, words) for point in chosen])


def test_killed_in_the_move_and_another_run_begins(states, n):
    moving = moves(states.operations['finished'])
    chosen = spread(moving, n(3, 10**6))
    report('finished', moving, [states.kill('finished', B, point, C) for point in chosen])


@pytest.mark.long
def test_killed_in_the_move_where_files_have_one_name(states, n):
    copy(states['finished'], states.p.out)
    odd = 'no links, no bfloat16'
    moving = moves(run(states.p, B, odd=odd)[1])
    chosen = spread(moving, n(1, 10**6))
    report('without links', moving, [states.kill('finished', B, p, B, odd) for p in chosen])


@pytest.mark.long
def test_killed_time_and_again(states, n):
    draw = random.Random(0)
    times, kills = n(1, 25), 0
    every = states.operations['finished']
    for i in range(times):
        copy(states['finished'], states.p.out)
        for _ in range(4):
            some = moves(every) if draw.random() < .7 else points(every)
            code, _ = run(states.p, draw.choice((B, C)), draw.choice(some))
            kills += code == -signal.SIGKILL
            assert not [*states.problems('finished')], f'round {i}, kill {kills}'
        code, _ = run(states.p, C)
        wrong = [*states.problems_at_end('finished', C, code), *states.problems('finished')]
        assert not wrong, f'round {i}: {wrong}'
    print(f'{times} times, {kills} kills')


def damages(blob, draw):
    "What may become of a file: (in words, its content or None)."
    flipped, i = bytearray(blob), draw.randrange(len(blob))
    flipped[i] ^= 1 << draw.randrange(8)
    return [('gone', None), ('empty', b''), ('cut', blob[:len(blob)//2]), ('longer', blob + b'\n'),
            (f'bit {i} flipped', bytes(flipped))]


def check(folder):
    "The exit code of `cifar10_check`, and what it says."
    return run_command(check_main, folder)


def test_check_notices_each_damaged_file(finished, tmp_path, n):
    out, draw, missed, tried = tmp_path/'run', random.Random(0), [], 0
    copy(finished, out)
    assert check(out)[0] == 0
    record = read_record(out)
    assert {'report.ipynb', CHECKPOINT, 'confusion_matrix.png', 'metrics.json'} <= {*record.files}
    for name in record.files:
        blob = (out/name).read_bytes()
        more = 20 if name in ('report.ipynb', CHECKPOINT, 'metrics.json') else 1
        for what, content in sum((damages(blob, draw) for _ in range(n(more, 10*more))), []):
            if content is None: (out/name).unlink()
            else: (out/name).write_bytes(content)
            code, says = check(out)
            tried += 1
            if not code or says.count('\n') != 1 or 'Traceback' in says:
                missed.append((name, what, code, says))
        (out/name).write_bytes(blob)
    assert check(out)[0] == 0
    print(f'{tried} damages')
    assert not missed, missed


RESEALED = {   # of a record whose digest is right: what else is changed
    'no files': lambda m: m.update(files={}),
    'no files at all': lambda m: m.pop('files'),
    'files: null': lambda m: m.update(files=None),
    'the network is not listed': lambda m: m['files'].pop('model.safetensors'),
    'the checkpoint is not listed': lambda m: m['files'].pop(CHECKPOINT),
    'a file of another folder': lambda m: m['files'].update({'../secret': '0'*64}),
    'no history': lambda m: m.update(history=[]),
    'NaN': lambda m: m.update(test_accuracy=float('nan'))}

@pytest.mark.parametrize('what', RESEALED)
def test_check_notices_a_sealed_record_that_is_not_true(finished, tmp_path, what):
    out = tmp_path/'run'
    copy(finished, out)
    record = unseal((out/'metrics.json').read_bytes())
    RESEALED[what](record)
    (out/'metrics.json').write_text(seal(record))
    code, says = check(out)
    assert code == 1 and says.startswith('Error: ') and says.count('\n') == 1, says


FORGED = 'fine\x1b[2J\nx: complete'
STRANGE = {   # of a folder from somewhere else
    'status': lambda m, out: m.update(status=FORGED),
    'start': lambda m, out: m.update(started=FORGED),
    'data set': lambda m, out: m.update(dataset=FORGED),
    'network': lambda m, out: m.update(model=FORGED),
    'reason': lambda m, out: m.update(status='failed', reason=FORGED),
    'file': lambda m, out: m['files'].update({FORGED: None}),
    'a pipe for a lock': lambda m, out: (
        m.update(status='running'), (out/'.lock').unlink(), os.mkfifo(out/'.lock')),
    'a pipe for a record': lambda m, out: ((out/'metrics.json').unlink(),
                                           os.mkfifo(out/'metrics.json'))}

@pytest.mark.parametrize('what', STRANGE)
def test_check_says_one_line_of_whatever_it_is_given(finished, shown, tmp_path, what):
    copy(finished, shown)
    record = unseal((shown/'metrics.json').read_bytes())
    STRANGE[what](record, shown)
    if (shown/'metrics.json').is_file(): (shown/'metrics.json').write_text(seal(record))
    code, says = as_nobody('cifar10_nbdev.check', [shown], tmp_path)
    assert code in (0, 1) and says.endswith('\n') and says[:-1].isprintable(), says


def listing(folder):
    "Everything that a reader could change."
    stats = {f: os.lstat(f) for f in (folder, *folder.rglob('*'))}
    return {str(f): (s.st_mode, s.st_uid, s.st_size, s.st_mtime_ns, s.st_ctime_ns, s.st_ino)
            for f, s in stats.items()}


@pytest.fixture
def shown():
    "A folder that everyone may read."
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield Path(folder)/'run'


def as_nobody(command, words, tmp_path):
    "The exit code of a command, such as cifar10_nbdev.check, and what it says."
    out = tmp_path/'says'
    process = Process(faults.read_as_nobody, command, [str(w) for w in words], str(out))
    try: return process.wait(20), out.read_text()
    finally: process.kill()


@pytest.mark.parametrize('locked', (False, True))
def test_check_only_reads(states, shown, tmp_path, locked):
    for state, says in dict(finished=': complete: ', continued='cut off').items():
        copy(states[state], shown)
        if locked and state == 'continued': says = 'is going on'
        elif not locked: (shown/'.lock').unlink()
        with FileLock(shown/'.lock') if locked else nullcontext():
            for f in (*shown.rglob('*'), shown): f.chmod(0o555 if f.is_dir() else 0o444)
            before = listing(shown)
            code, said = as_nobody('cifar10_nbdev.check', [shown], tmp_path)
            assert says in said and code == int(state != 'finished'), said
            assert listing(shown) == before
            code, said = check(shown)                 # by its owner, who might write
            assert says in said and code == int(state != 'finished'), said
            assert listing(shown) == before
        for f in (shown, *shown.rglob('*')): f.chmod(0o755)


def test_predict_only_reads(states, shown, tmp_path):
    copy(states['finished'], shown)
    (shown/'.lock').unlink()
    Image.new('RGB', (32, 32)).save(shown/'one.png')
    for f in (*shown.rglob('*'), shown): f.chmod(0o555 if f.is_dir() else 0o444)
    before = listing(shown)
    words = [shown/'one.png', '--model', shown]
    code, said = as_nobody('cifar10_nbdev.predict', words, tmp_path)
    assert code in (0, None) and 'one.png: ' in said, said
    assert listing(shown) == before
    for f in (shown, *shown.rglob('*')): f.chmod(0o755)


def test_check_while_a_run_goes_on(project):
    process = project.begin_train(*B, '--nepochs', '500')
    project.wait_for('epoch 1/500')
    os.kill(process.pid, signal.SIGSTOP)      # so that nothing else changes the folder,
    threads = Path(f'/proc/{process.pid}/task').glob('*/stat')
    for thread in threads:                    # each of them ends what it is writing first
        while ') T ' not in thread.read_text(): time.sleep(.01)
    before = listing(project.out)
    done = project.check()
    assert is_refusal(done, 1) and 'is going on' in done.stderr
    assert listing(project.out) == before
    os.kill(process.pid, signal.SIGCONT)
    process.kill()
    process.wait()
    assert 'was cut off' in project.check().stderr
    left = {name for name in listing(project.out) if not name.endswith('.tmp')}
    assert left == {name for name in before if not name.endswith('.tmp')}


def test_legs_of_a_run_killed_twice(project):
    words = [*WORDS, '--nepochs', '4', '--price_per_hour', '3600']
    second = checkpoints(run(project, words)[1])[1]
    shutil.rmtree(project.out)
    seconds = []                                      # of the processes
    for point in second, second, None:
        began = time.monotonic()
        code, _ = run(project, words, point)
        seconds.append(time.monotonic() - began)
    m, printed = project.metrics(), project.printed()
    assert code == 0 and len(m['legs']) == 3 and CONTINUING in printed
    for leg, most in zip(m['legs'], seconds):
        assert leg['cost'] == pytest.approx(leg['elapsed']) and leg['seconds'] > 0
        assert leg['seconds'] < leg['elapsed'] < most and leg['elapsed'] > most/4
        assert leg['threads'] >= 1 and leg['device_name'] and leg['versions']['torch']
        assert re.fullmatch(r'\d{8}T\d{6}Z', leg['started']) and 'commit' in leg
    *before, last = (leg['elapsed'] for leg in m['legs'])
    assert m['cost'] == pytest.approx(sum(before) + last)
    said = re.search(r'([\d.]+) s from start to end cost ([\d.]+) at 3600 an hour', printed)
    for number in said.groups():    # a little before the record was written
        assert sum(before) + last/2 - .5 < float(number) < sum(before) + last + .5
    assert m['seconds'] == pytest.approx(sum(row['seconds'] for row in m['history']))
    assert len(m['history']) == 4 and m['started'] == m['legs'][0]['started']


def begun_anew(project):
    "The line that says why the run that was there is not continued, or ''."
    lines = [line for line in project.printed().splitlines() if ASIDE in line]
    assert len(lines) + (CONTINUING in project.printed()) == 1, project.printed()
    return lines[0] if lines else ''


@pytest.mark.long
def test_what_continues_a_run_and_what_does_not(project):
    words = [*WORDS, '--precision', 'float32']
    second = checkpoints(run(project, words)[1])[1]
    default = read_record(project.out).recipe
    shutil.rmtree(project.out)
    assert run(project, words, second)[0] == -signal.SIGKILL
    copy(project.out, project.root/'before')
    own = [f'--{name} {default[name]}' for name in ('batch_size', 'lr', 'wd', 'label_smoothing')]
    both = "'float32', now 'bfloat16'"
    cases = [('--precision auto', 'no bfloat16', ''), ('--device cpu', '', ''),
             *((words, '', '') for words in own), ('--output_dir ./output', '', ''),
             ('--precision auto', '', both), ('--precision bfloat16', '', both),
             ('--seed 9', '', 'seed (0, now 9)'), ('--shift 0', '', 'shift ('),
             ('--lr .02', '', ' lr ('), ('', 'another recipe', 'warmup (0.1, now 0.11)')]
    wrong = []
    for more, odd, why in cases:
        copy(project.root/'before', project.out)
        code, _ = run(project, [*words, *more.split()], odd=odd)
        line = begun_anew(project)
        if code or bool(line) != bool(why) or why not in line: wrong.append((more, odd, code, line))
    assert not wrong, wrong


@pytest.mark.long
def test_an_edited_recipe_begins_anew(project):
    command = sys.executable, '-m', 'cifar10_nbdev.train', *B, '--nepochs', '50'
    process = project.begin(*command)
    project.wait_for('epoch 2/50')
    process.kill()
    process.wait()
    recipe = project.root/'cifar10_nbdev/recipe.py'
    before = recipe.read_text()
    recipe.write_text(before.replace('warmup=.1,', 'warmup=.11,'))
    assert recipe.read_text() != before
    process = project.begin(*command)
    project.wait_for('epoch 1/50')
    process.kill()
    process.wait()
    assert 'warmup (0.1, now 0.11)' in begun_anew(project)


def read_until(text, fd):
    "Read what is printed until there is a text."
    printed = b''
    while text not in printed:
        assert select.select([fd], [], [], 60)[0], printed.decode()
        printed += os.read(fd, 4096)


def went_away(process, project, nohup):
    "Whether a run has done what it should when its terminal was closed."
    code, m = process.wait(120), project.metrics()
    if nohup: assert (code, m['status'], m['reason']) == (0, 'complete', None)
    else: assert (code, m['status'], m['reason']) == (129, 'interrupted', 'train: SIGHUP')
    assert project.check().returncode == (0 if nohup else 1)
    assert unpack((project.out/CHECKPOINT).read_bytes())[1]['epoch'] >= (1, 30)[nohup]


@pytest.mark.parametrize('nohup', (True, False))
def test_terminal_goes_away(project, nohup):
    ours, its = pty.openpty()
    words = [*B, '--nepochs', '30' if nohup else '900']
    args = 'cifar10_nbdev.train', words, str(project.root), project.env(), [os.ttyname(its)]*3
    process = Process(faults.on_terminal, nohup, *args)
    read_until(b'epoch 1/', ours)
    os.close(its)
    os.close(ours)
    went_away(process, project, nohup)


@pytest.mark.long
@pytest.mark.parametrize('nohup', (True, False))
def test_terminal_of_python_goes_away(project, nohup):
    def prepare():
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
        signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    ours, its = pty.openpty()
    words = [sys.executable, '-m', 'cifar10_nbdev.train', *B, '--nepochs', '30' if nohup else '900']
    process = subprocess.Popen(words, stdin=its, stdout=its, stderr=its, cwd=project.root,
                               env=project.env(), start_new_session=True, preexec_fn=prepare)
    os.close(its)
    read_until(b'epoch 1/', ours)
    os.close(ours)
    went_away(process, project, nohup)


@pytest.mark.long
def test_reader_goes_away(project):
    command = [sys.executable, '-m', 'cifar10_nbdev.train', *B]
    process = subprocess.Popen(command, cwd=project.root, env=project.env(),
                               stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert b'cifar10_nbdev' in process.stdout.readline()
    process.stdout.close()                    # as `| head -1`
    assert process.wait(120) == 0
    assert project.check().returncode == 0


def test_disk_full_where_the_output_goes(project):
    for words, expected in {(*B, '--verbose', '2'): 0, (*B, '--nepochs', '0'): 2}.items():
        files = 'cifar10_nbdev.train', words, project.root, project.env(), '/dev/full', '/dev/full'
        assert Forked(*files).wait(60) == expected
    assert project.check().returncode == 0
    assert 'epoch 2/2' in (project.out/'model_log.txt').read_text()
    assert unpack((project.out/CHECKPOINT).read_bytes())[1]['epoch'] == 2


@pytest.mark.long
@pytest.mark.parametrize('where', ('> /dev/full 2>&1', '>&- 2>&-', '2>&-', '<&- >&- 2>&-'))
def test_nobody_can_read(project, where):
    ours = f'{sys.executable} -m cifar10_nbdev.train'
    done = project('sh', '-c', f'{ours} {" ".join(B)} --verbose 2 {where}')
    assert done.returncode == 0 and project.check().returncode == 0
    assert 'epoch 2/2' in (project.out/'model_log.txt').read_text()
    assert project('sh', '-c', f'{ours} --nepochs 0 {where}').returncode == 2   # a reason is lost
