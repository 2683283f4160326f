"""What can be said of a GPU where there is none. A training step is taken with tensors that have
shapes and types but no values: reading one, which on a GPU makes Python wait for it, raises. (What
else makes it wait, `benchmarks/gpu.py --only waits` sees.) And each operation that Python asks for
is counted; on a GPU each costs the start of a program at least, whatever its size."""
from collections import Counter
from types import SimpleNamespace

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from cifar10_nbdev import optim
from cifar10_nbdev.data import shapes10
from cifar10_nbdev.learner import Callback, FiniteLoss
from cifar10_nbdev.model import make_model, whitening
from cifar10_nbdev.recipe import Compute, make_learner, recipe

# what starts nothing on a GPU, besides views
FREE = '''empty empty_like empty_strided empty_permuted new_empty detach lift_fresh device
    _unsafe_view _record_function_enter_new _record_function_exit'''.split()
AT_ONCE = 16
# operations of a step, its share of the batches made at once included
MOST = {('cnn', 'bfloat16'): 200, ('cnn', 'float16'): 220, ('fast', 'bfloat16'): 175,
        ('deep', 'bfloat16'): 210}


class Operations(TorchDispatchMode):
    "Counts operations by name."
    def __init__(self):
        super().__init__()
        self.seen = Counter()

    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        name = f.overloadpacket.__name__
        if not f.is_view and name not in FREE: self.seen[name] += 1
        return f(*args, **(kwargs or {}))


@pytest.fixture(scope='module')
def data(): return shapes10(((AT_ONCE + 2)*250, 10))


def valueless(data, name, dtype, convert, fused=True, cbs=()):
    "A learner as on a GPU, whose tensors have been converted to ones without values."
    r = recipe(name, 40 if name == 'deep' else 10)
    learn = make_learner(make_model(name, seed=0), data, r, Compute(dtype=dtype),
                         (FiniteLoss(), *cbs))
    train, learn.nepochs = learn.dls.train, 1
    learn('before_fit')
    learn('before_epoch')
    for k in ('x', 'y', 'mean', 'std', 'flips'): setattr(train, k, convert(getattr(train, k)))
    learn.model._apply(convert)
    learn.opt = optim.make_optimizer(learn.model, r, fused)
    train.at_once, learn.device = AT_ONCE, SimpleNamespace(type='cuda')
    return learn


@pytest.fixture
def padded(monkeypatch):
    "Filters are brought into batches as on a GPU."
    own = optim._moves
    monkeypatch.setattr(optim, '_moves', lambda updates, factor, padded: own(updates, factor, True))


def take_steps(learn):
    "Operations of a step and of its data, after a first one, which makes the optimizer's sums."
    batches, data = iter(learn.dls.train), Operations()
    with data:
        todo = [next(batches) for _ in range(AT_ONCE)]
    learn.one_batch(*todo[0])
    with Operations() as step: learn.one_batch(*todo[1])
    return step.seen, data.seen.total()/AT_ONCE


@pytest.mark.parametrize('name, dtype', MOST)
def test_a_step_reads_nothing_and_asks_for_little(data, padded, name, dtype):
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    learn = valueless(data, name, getattr(torch, dtype), mode.from_tensor)
    with mode: step, batch = take_steps(learn)
    most = MOST[name, dtype]
    n = step.total() + batch
    print(f'{name}, {dtype}: {n:.0f} operations a step', step.most_common())
    assert .9*most < n <= most, f'{n:.0f} operations; the budget is for {most}'
    assert step['_fused_adamw_'] == 2 and batch < 8


class Asks(Callback):
    def after_batch(self, learn): float(learn.loss)


class Copies(Callback):
    def after_batch(self, learn): learn.loss.cpu()


def test_a_step_that_waits_is_noticed(data):
    mode = FakeTensorMode(allow_non_fake_inputs=True)
    learn = valueless(data, 'fast', torch.float32, mode.from_tensor, cbs=[Asks()])
    with mode, pytest.raises(DataDependentOutputException): take_steps(learn)


class NoDoubles(TorchDispatchMode):
    "A device without float64, such as Apple's GPUs."
    def __torch_dispatch__(self, f, types, args=(), kwargs=None):
        out = f(*args, **(kwargs or {}))
        for t in tree_leaves(out):
            there = isinstance(t, torch.Tensor) and t.device.type == 'cuda'
            if there and t.dtype == torch.float64: raise TypeError(f'{f} makes float64 there')
        return out


def test_the_first_filters_need_no_float64_on_the_device():
    with FakeTensorMode(), NoDoubles():
        x = torch.empty(64, 3, 32, 32, device='cuda')
        filters = whitening(x, 12)
        assert (filters.device, filters.dtype) == (x.device, torch.float32)
        with pytest.raises(TypeError): x.double()


def to_meta(t): return t.to('meta')


@pytest.mark.parametrize('name', ('cnn', 'fast', 'deep'))
def test_a_step_copies_nothing_from_the_device(data, name):
    take_steps(valueless(data, name, torch.float32, to_meta, fused=False))


def test_a_copy_is_noticed(data):
    learn = valueless(data, 'fast', torch.float32, to_meta, fused=False, cbs=[Copies()])
    with pytest.raises(NotImplementedError): take_steps(learn)
