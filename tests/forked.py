"""Programs of the library that start at once: children of one process that has imported it already,
since that takes seconds. Otherwise they are what `python -m` makes of them: a process, a folder and
an environment of their own."""
import multiprocessing, os, runpy, subprocess, sys
from unittest import mock

FORKS = multiprocessing.get_context('forkserver')
# torch imports the last one, for more than a second, when the first optimizer is made
FORKS.set_forkserver_preload(['cifar10_nbdev.train', 'cifar10_nbdev.check', 'drawn',
                              'torch._dynamo'])


def begin(process):
    "Start a process; the first one starts the process that it is forked from."
    path = os.pathsep.join(filter(None, [os.path.dirname(__file__), os.environ.get('PYTHONPATH')]))
    with mock.patch.dict(os.environ, PYTHONPATH=path): process.start()   # else it finds no `drawn`


def become(module, words, root, env, files):
    """In the child: `python -m module words…`, or `python module words…` if it is a script, with
    `files` as its stdin, stdout and stderr."""
    os.chdir(root)
    os.environ.clear()
    os.environ.update(env)
    for fd, path in enumerate(files):
        os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644), fd)
    sys.argv[1:] = words
    if module.endswith('.py'):
        sys.path.insert(0, os.path.dirname(module))
        runpy.run_path(module, run_name='__main__')
        return
    sys.modules.pop(module, None)        # it is to be `__main__`
    runpy.run_module(module, run_name='__main__', alter_sys=True)


class Forked:
    "As much of `subprocess.Popen` as the tests need."
    child = staticmethod(become)   # what it does

    def __init__(self, module, words, root, env, out, err):   # noqa: PLR0913
        files = [os.devnull, str(out), str(err)]
        args = module, list(words), str(root), env, files
        self.process = FORKS.Process(target=self.child, args=args, daemon=True)
        begin(self.process)
        self.pid = self.process.pid
        self.kill = self.process.kill
        self.terminate = self.process.terminate

    def send_signal(self, number): os.kill(self.pid, number)

    def poll(self): return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.poll() is None: raise subprocess.TimeoutExpired(self.process.name, timeout)
        return self.poll()
