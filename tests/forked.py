"Programs of the library that start at once: children of one process that has imported it already, since that takes seconds. Otherwise they are what `python -m` makes of them: own process, own folder, own environment."
import multiprocessing, os, runpy, subprocess, sys

FORKS = multiprocessing.get_context('forkserver')
FORKS.set_forkserver_preload(['cifar10_nbdev.train', 'cifar10_nbdev.check'])


def become(module, words, root, env, said, errors):
    "In the child: `python -m module words…`."
    os.chdir(root)
    os.environ.clear(); os.environ.update(env)
    for fd, path in ((0, os.devnull), (1, said), (2, errors)): os.dup2(os.open(path, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o644), fd)
    sys.argv[1:] = words
    sys.modules.pop(module, None)        # it is to be `__main__`
    runpy.run_module(module, run_name='__main__', alter_sys=True)


class Forked:
    "As much of `subprocess.Popen` as the tests need."
    def __init__(self, module, words, root, env, said, errors):
        self.process = FORKS.Process(target=become, args=(module, list(words), str(root), env, str(said), str(errors)), daemon=True)
        self.process.start()
        self.pid, self.kill, self.terminate = self.process.pid, self.process.kill, self.process.terminate

    def send_signal(self, number): os.kill(self.pid, number)

    def poll(self): return self.process.exitcode

    def wait(self, timeout=None):
        self.process.join(timeout)
        if self.poll() is None: raise subprocess.TimeoutExpired(self.process.name, timeout)
        return self.poll()
