"""A training command that kills itself at one of its file operations.

A point is a thread ('main' or 'other'), the number of the operation in it, and 'before' or 'torn'.
Counted is what changes the output folder: a name made, moved or removed, bytes written. A kill
comes before an operation, which is after the one before it, or with half of a write done."""
import builtins, errno, importlib, io, json, os, signal, sys, threading
from dataclasses import replace

import torch

import cifar10_nbdev.folder
import cifar10_nbdev.report
import cifar10_nbdev.run
import forked

REAL_OPEN, REAL_WRITE = open, os.write


def path_of(path, dir_fd=-1):
    "The absolute path of what an operation is given: a path, or the number of an open file."
    if isinstance(path, int): return os.readlink(f'/proc/self/fd/{path}')
    home = '' if dir_fd in (-1, None) else os.readlink(f'/proc/self/fd/{dir_fd}')
    return os.path.abspath(os.path.join(home, os.fsdecode(path)))


class Faults:
    "Counts the operations below a folder, as lines of a log, and dies at a point."
    def __init__(self, folder, point, log):
        self.folder, self.point = os.path.join(folder, ''), point and tuple(point)
        self.log = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o644)
        self.numbers, self.lock = dict(main=0, other=0), threading.Lock()

    def count(self, name, path, torn=None):
        "One operation comes, on `path`; `torn` does half of it."
        if not path.startswith(self.folder): return
        main = threading.current_thread() is threading.main_thread()
        thread = 'main' if main else 'other'
        with self.lock:
            number = self.numbers[thread]
            self.numbers[thread] += 1
            for kind in ('before', 'torn') if torn else ('before',):
                row = thread, number, kind, name, path.removeprefix(self.folder)
                REAL_WRITE(self.log, json.dumps(row).encode() + b'\n')
                if self.point != (thread, number, kind): continue
                if kind == 'torn': torn()
                os.kill(os.getpid(), signal.SIGKILL)

    def audit(self, event, args):
        "Python tells of each operation on names before it is done, whoever asks for it."
        if event == 'open':
            path, _, flags = args
            if isinstance(path, int) or not flags & (os.O_CREAT | os.O_TRUNC): return
            path = path_of(path)
            size = os.path.getsize(path) if os.path.exists(path) else -1
            if size < 0 and flags & os.O_CREAT or size > 0 and flags & os.O_TRUNC:
                self.count(event, path)
        elif event in ('os.rename', 'os.link'):
            to, source = path_of(args[1], args[3]), path_of(args[0], args[2])
            away = event == 'os.rename' and not to.startswith(self.folder)
            self.count(event, source if away else to)
        elif event == 'os.truncate': self.count(event, path_of(args[0]))
        elif event in ('os.mkdir', 'os.symlink', 'os.remove', 'os.rmdir'):
            path = path_of(args[event == 'os.symlink'], args[-1])
            makes = event in ('os.mkdir', 'os.symlink')
            fails = makes == os.path.lexists(path) or not os.path.isdir(os.path.dirname(path))
            if not fails: self.count(event, path)

    def install(self):
        "From now on, count."
        faults = self

        class Raw(io.FileIO):
            "An open file whose writes are counted."
            def write(self, data):
                half = memoryview(data)[:len(data)//2]
                faults.count('write', path_of(self.fileno()),
                             lambda: REAL_WRITE(self.fileno(), half))
                return super().write(data)

        def counted_open(file, mode='r', buffering=-1, encoding=None, errors=None,   # noqa: PLR0913
                         newline=None, closefd=True, opener=None):
            "As `open`."
            if not set(mode) & set('wax+') or not path_of(file).startswith(self.folder):
                return REAL_OPEN(file, mode, buffering, encoding, errors, newline, closefd, opener)
            raw = Raw(file, mode.replace('b', '').replace('t', ''), closefd, opener)
            if buffering == 0: return raw
            buffer = (io.BufferedRandom if '+' in mode else io.BufferedWriter)(raw)
            return buffer if 'b' in mode else io.TextIOWrapper(buffer, encoding, errors, newline)

        def counted(name, position):
            "A function of `os` that writes into an open file; where its data or their size is."
            real = getattr(os, name)
            def write(fd, *args):
                half, what = [*args], args[position]
                half[position] = what//2 if isinstance(what, int) else what[:len(what)//2]
                faults.count(name, path_of(fd), lambda: real(fd, *half))
                return real(fd, *args)
            return write

        builtins.open = io.open = counted_open
        os.write, os.sendfile = counted('write', 0), counted('sendfile', 2)
        sys.addaudithook(self.audit)


class Picture:
    "In place of a figure, whose drawing takes most of a small run's time."
    def savefig(self, file, **kwargs): file.write(b'a picture')


def draw_nothing():
    "No figures are drawn."
    for name in vars(cifar10_nbdev.report):
        if name.startswith('plot_'):
            setattr(cifar10_nbdev.report, name, lambda *args, **kwargs: Picture())


def make_small():
    "A run takes less than a second: few shapes to train and to test on, no figures drawn."
    assert cifar10_nbdev.run.SHAPES_SIZES
    cifar10_nbdev.run.SHAPES_SIZES = 200, 100
    draw_nothing()


def no_links(*args, **kwargs):
    "As `os.link` where a file cannot have two names."
    raise OSError(errno.EPERM, os.strerror(errno.EPERM))


def make_odd(odd):
    "What the words of `odd` say: a CPU without bfloat16, files that have one name, another recipe."
    torch.cpu.get_capabilities = lambda: dict(avx512_bf16='bfloat16' not in odd)
    if 'links' in odd: os.link = no_links
    recipe = cifar10_nbdev.run.recipe
    if 'recipe' in odd:
        cifar10_nbdev.run.recipe = lambda *args, **own: replace(recipe(*args, **own), warmup=.11)


def become(point, log, odd, *args):
    "In the child: as `forked.become`, but a small run that dies at a point."
    make_small()
    make_odd(odd)
    Faults(os.path.join(args[2], 'output'), point, log).install()
    forked.become(*args)


def without_figures(*args):
    "In the child: as `forked.become`, but no figures are drawn."
    draw_nothing()
    forked.become(*args)


def impatient(*args):
    "In the child: as `without_figures`, but it waits two seconds for a lock, not ten."
    cifar10_nbdev.folder.LOCK_WAIT = 2
    without_figures(*args)


def on_terminal(nohup, *args):
    "In the child: as `forked.become`, but in a session that the terminal in `files` belongs to."
    make_small()
    os.setsid()     # the first terminal that is opened then sends SIGHUP when it is closed
    signal.signal(signal.SIGHUP, signal.SIG_IGN if nohup else signal.SIG_DFL)
    terminal = os.open(args[-1][0], os.O_RDWR)
    for fd in (1, 2): os.dup2(terminal, fd)
    sys.stdout, sys.stderr = (open(fd, 'w', 1, closefd=False) for fd in (1, 2))
    forked.become(*args)


def read_as_nobody(module, words, out):
    "In the child: a command of a user who may only read, from `/`."
    main = importlib.import_module(module).main
    os.dup2(os.open(out, os.O_RDWR | os.O_CREAT | os.O_TRUNC), 1)
    os.dup2(1, 2)
    os.chdir('/')
    if not os.geteuid():
        os.setgroups([])
        os.setresgid(*[65534]*3)
        os.setresuid(*[65534]*3)
    main(words)
