"""What the benchmarks share: options, data, timing, and processes of their own.

Functions import what they need themselves: a process imports no more than its own part takes,
since seconds and memory are what is measured.
"""
import argparse, contextlib, io, platform, runpy, statistics, subprocess, sys, time
from collections.abc import Callable, Iterable
from pathlib import Path

TINY = 100, 50   # with --tiny, images to train on and to test on


def options(doc: str) -> argparse.ArgumentParser:
    "A command line with a benchmark's docstring as its help, and the option that all have."
    parser = argparse.ArgumentParser(
        description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--tiny', action='store_true',
                        help='try the code in seconds, on drawn shapes; its figures mean nothing')
    return parser


def to_stderr(line: str):
    "Print a line where it is not taken for a result."
    print(line, file=sys.stderr)


def say_nothing(line: str):
    "Drop a line."


def cifar10_or_tiny(tiny: bool):
    "The `Data` that is trained on: CIFAR-10 as in a run, or a few drawn shapes."
    if tiny:
        from cifar10_nbdev.data import shapes10
        return shapes10(TINY)
    from cifar10_nbdev.cifar10 import load_cifar
    return load_cifar(say=to_stderr)


def tiny_cifar10():
    "A few drawn shapes under the names of CIFAR-10's classes, which a folder must have."
    from dataclasses import replace
    from cifar10_nbdev.archive import CLASSES
    return replace(cifar10_or_tiny(tiny=True), name='cifar10', classes=CLASSES)


def write_tree(data, root: Path):
    "A data set as root/train/<class>/<number>_<class>.png, and root/test likewise."
    from PIL import Image
    for part in ('train', 'test'):
        x, y = getattr(data, f'{part}_x'), getattr(data, f'{part}_y')
        for name in data.classes: (root/part/name).mkdir(parents=True)
        for i, (pixels, label) in enumerate(zip(x.permute(0, 2, 3, 1).numpy(), y.tolist())):
            name = data.classes[label]
            Image.fromarray(pixels).save(root/part/name/f'{i}_{name}.png', compress_level=1)


def write_airbench(data, folder: Path):
    "A data set as airbench reads it."
    import torch
    folder.mkdir()
    for part in ('train', 'test'):
        images = getattr(data, f'{part}_x').permute(0, 2, 3, 1).contiguous()
        labels = getattr(data, f'{part}_y')
        torch.save(dict(images=images, labels=labels, classes=data.classes), folder/f'{part}.pt')


def wait():
    "Wait until a GPU, if there is one, has done all that it was asked for."
    import torch
    if torch.accelerator.is_available(): torch.accelerator.synchronize()


def timed(func: Callable) -> float:
    "Seconds of one call, to the end of what it has started on a GPU."
    start = time.perf_counter()
    func()
    if 'torch' in sys.modules: wait()
    return time.perf_counter() - start


def median_seconds(func: Callable, n: int) -> float:
    "Median of `n` calls, after one that warms up."
    func()
    return statistics.median(timed(func) for _ in range(n))


def spread(values: Iterable[float], digits: int = 0) -> str:
    "Median, least and most, such as '4 (3 to 7)'."
    values = sorted(values)
    shown = statistics.median(values), values[0], values[-1]
    return '{} ({} to {})'.format(*(f'{v:.{digits}f}' for v in shown))


def run_here(args: list[str], cwd: Path) -> str:
    "What a script prints that is run in this process."
    printed, argv = io.StringIO(), sys.argv
    with contextlib.redirect_stdout(printed), contextlib.chdir(cwd):
        sys.argv = args
        try: runpy.run_path(args[0], run_name='__main__')
        finally: sys.argv = argv
    return printed.getvalue()


def run_script(*args: str|Path, cwd: Path = Path(), tiny: bool = False) -> str:
    """What a Python script prints on stdout; stderr is passed on. It gets a process of its own;
    with `tiny` it is run in this one, since importing torch again would take most of the time."""
    args = [str(arg) for arg in args]
    if tiny: return run_here(args, cwd)
    done = subprocess.run([sys.executable, *args], cwd=cwd, stdout=subprocess.PIPE, text=True)
    if done.returncode: sys.exit(f'Error: {args[0]} failed, see above\n{done.stdout[-3000:]}')
    return done.stdout


def last_line(printed: str) -> str:
    "The last line of what was printed."
    return printed.strip().splitlines()[-1]


def machine() -> str:
    "What the figures depend on beside the code."
    import torch
    return f'torch {torch.__version__}, {platform.machine()}, {torch.get_num_threads()} threads'


def begin_epoch(learn, nepochs: int):
    "Make a learner ready for single steps, as `fit` does before the first one."
    learn.nepochs = nepochs
    learn('before_fit')
    learn.model.train()
    learn('before_epoch')


def tta_accuracy(learn, batches: Iterable) -> float:
    "Accuracy with test-time augmentation, 0 to 1."
    from cifar10_nbdev.learner import mirror_shift
    scores, labels = learn.predict(batches, mirror_shift)
    return (scores.argmax(1) == labels).float().mean().item()
