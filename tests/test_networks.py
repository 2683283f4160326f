"""Networks of one's own, as people write them elsewhere: each is trained, continued and loaded
again, or refused by one sentence before its first epoch, with the folder as it was."""
import importlib, os, re, shutil, subprocess, sys, time
from functools import cache, partial

import pandas as pd
import pytest
import torch
import torch.nn.functional as F
import torchvision
from PIL import Image
from torch import nn
from torch.nn.utils import parametrizations, parametrize

import cifar10_nbdev.train
from cifar10_nbdev import pictures, export, predict
from cifar10_nbdev.check import check_run
from cifar10_nbdev.core import UserError
from cifar10_nbdev.folder import is_locked
from cifar10_nbdev.model import make_model
from cifar10_nbdev.params import defaults_of, run_command
from cifar10_nbdev.predict import load_model
from cifar10_nbdev.recipe import make_learner
from cifar10_nbdev.record import read_record
from cifar10_nbdev.report import (begin, finish, load_data, save_model, show_accuracy, show_model,
                                  start, train)
from cifar10_nbdev.run import weights_sha256

from conftest import DEAD, ROOT
from faults import without_figures
from forked import Forked

PARAMETERS = {**defaults_of(cifar10_nbdev.train), 'dataset': 'shapes10', 'subset': 100,
              'batch_size': 50, 'nepochs': 1, 'seed': 3, 'precision': 'float32', 'device': 'cpu',
              'verbose': 0}
SIZES = 150, 60   # of shapes10
TRAINED, REFUSED, EITHER = {}, {}, {}   # name -> maker, what its refusal says, parameters


def trains(maker, name=None, **parameters):
    "A network that is to be trained."
    TRAINED[name or maker.__name__] = maker, None, parameters
    return maker


def refused(why, **parameters):
    "A network that is to be refused, by a sentence in which this pattern is found."
    def keep(maker, name=None):
        REFUSED[name or maker.__name__] = maker, why, parameters
        return maker
    return keep


def either(maker):
    "A network that is to be trained, or refused by any sentence."
    EITHER[maker.__name__] = maker, '', {}
    return maker


# ---- networks that are correct elsewhere

@trains
def sequential(n): return nn.Sequential(nn.Flatten(), nn.Linear(3072, n))


@trains
class LeNet(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv1, self.conv2, self.pool = nn.Conv2d(3, 6, 5), nn.Conv2d(6, 16, 5), nn.MaxPool2d(2)
        self.fc1, self.fc2, self.fc3 = nn.Linear(16*5*5, 120), nn.Linear(120, 84), nn.Linear(84, n)

    def forward(self, x):
        x = self.pool(F.relu(self.conv1(x)))
        x = self.pool(F.relu(self.conv2(x)))
        x = x.view(-1, 16*5*5)
        return self.fc3(F.relu(self.fc2(F.relu(self.fc1(x)))))


class Small(nn.Module):
    "A convolution and a linear layer, for what is tried below."
    def __init__(self, n=10):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 8, 3, stride=4), nn.Linear(512, n)

    def forward(self, x): return self.fc(self.conv(x).relu().flatten(1))


@trains
class ViewAfterNorm(Small):
    def __init__(self, n):
        super().__init__(n)
        self.norm, self.pool, self.fc = nn.BatchNorm2d(8), nn.MaxPool2d(2), nn.Linear(128, n)

    def forward(self, x):
        x = self.pool(self.norm(self.conv(x)))
        return self.fc(x.view(x.size(0), -1))


@trains
class ChannelShuffle(Small):
    def forward(self, x):
        x = self.conv(x)
        b, c, h, w = x.shape
        x = x.view(b, 2, c//2, h, w).transpose(1, 2).contiguous().view(b, c, h, w)
        return self.fc(x.view(b, -1))


@trains
class ViewOfInput(Small):
    def forward(self, x): return super().forward(x.view(len(x), 3, 1024).view(-1, 3, 32, 32))


@trains
class LayerTwice(Small):
    def __init__(self, n):
        super().__init__(n)
        self.same = self.conv
        self.layers = nn.ModuleList([nn.Linear(512, 512)]*2)

    def forward(self, x):
        x = (self.conv(x) + self.same(x)).relu().flatten(1)
        for layer in self.layers: x = layer(x).relu()
        return self.fc(x)


@trains
class Tied(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.encoder, self.fc = nn.Linear(3072, 16), nn.Linear(16, n)
        self.a, self.b = nn.Linear(16, 16), nn.Linear(16, 16)
        self.b.weight = self.a.weight

    def forward(self, x):
        code = self.encoder(x.flatten(1)).relu()
        again = self.encoder(F.linear(code, self.encoder.weight.t()))
        return self.fc(self.b(self.a(code).relu()) + again)


@trains
class Lazy(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv, self.norm, self.fc = nn.LazyConv2d(8, 3), nn.LazyBatchNorm2d(), nn.LazyLinear(n)

    def forward(self, x): return self.fc(F.max_pool2d(self.norm(self.conv(x)), 4).flatten(1))


@trains
class LogSoftmax(Small):
    def forward(self, x): return F.log_softmax(super().forward(x), 1)


@trains
class Softmax(Small):
    def forward(self, x): return F.softmax(super().forward(x), 1)


@trains
class FrozenBackbone(Small):
    def __init__(self, n):
        super().__init__(n)
        self.conv.requires_grad_(False)


@trains
class NoArgument(Small):
    def __init__(self): super().__init__()


@trains
class KeywordOnly(Small):
    def __init__(self, *, n_classes=10): super().__init__(n_classes)


@trains
class AnyArguments(Small):
    def __init__(self, *args, **kwargs): super().__init__(*args, **kwargs)


@trains
class ViT(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.patch, self.fc = nn.Conv2d(3, 16, 8, 8), nn.Linear(16, n)
        self.position = nn.Parameter(torch.zeros(1, 16, 4, 4))
        self.token = nn.Parameter(torch.zeros(1, 1, 16))
        layer = nn.TransformerEncoderLayer(16, 2, 32, dropout=.1, batch_first=True)
        self.blocks = nn.TransformerEncoder(layer, 2)

    def forward(self, x):
        x = (self.patch(x) + self.position).flatten(2).transpose(1, 2)
        x = torch.cat([self.token.expand(len(x), -1, -1), x], 1)
        return self.fc(self.blocks(x)[:, 0])


@trains
class Attention(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.attention, self.fc = nn.MultiheadAttention(96, 4, batch_first=True), nn.Linear(96, n)

    def forward(self, x):
        rows = x.permute(0, 2, 1, 3).reshape(len(x), 32, 96)
        return self.fc(self.attention(rows, rows, rows)[0].mean(1))


@trains
class Rows(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.lstm = nn.LSTM(96, 16, 2, batch_first=True, dropout=.3)
        self.drop, self.fc = nn.Dropout(.37), nn.Linear(16, n)

    def forward(self, x):
        y, _ = self.lstm(x.permute(0, 2, 1, 3).flatten(2))
        return self.fc(self.drop(y[:, -1]))


@trains
def depthwise(n):
    return nn.Sequential(
        nn.Conv2d(3, 12, 3, groups=3), nn.Conv2d(12, 12, 3, groups=12), nn.Conv2d(12, 8, 1),
        nn.GroupNorm(2, 8), nn.AdaptiveAvgPool2d(2), nn.Flatten(), nn.LayerNorm(32),
        nn.Linear(32, n))


@trains
def transposed(n):
    return nn.Sequential(
        nn.Conv2d(3, 8, 4, 4), nn.ConvTranspose2d(8, 4, 2, 2), nn.InstanceNorm2d(4, affine=True,
        track_running_stats=True), nn.PReLU(4), nn.Flatten(), nn.Linear(1024, n))


@trains
class WeightNorm(Small):
    def __init__(self, n):
        super().__init__(n)
        parametrizations.weight_norm(self.conv)
        parametrizations.orthogonal(self.fc)


@trains
class OldWeightNorm(Small):
    def __init__(self, n):
        super().__init__(n)
        nn.utils.weight_norm(self.conv)
        nn.utils.spectral_norm(self.fc)


@trains
class SpectralNorm(Small):
    def __init__(self, n):
        super().__init__(n)
        for layer in (self.conv, self.fc): parametrizations.spectral_norm(layer)


class Doubled(nn.Module):
    def forward(self, w): return 2*w


@trains
class Parametrized(Small):
    def __init__(self, n):
        super().__init__(n)
        parametrize.register_parametrization(self.fc, 'weight', Doubled())


@trains
class Embedded(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.values, self.fc = nn.Embedding(16, 4), nn.Linear(12, n)

    def forward(self, x):
        levels = (x*4 + 8).long().clamp(0, 15)
        return self.fc(self.values(levels).mean((2, 3)).flatten(1))


@trains
class StochasticDepth(Small):
    def __init__(self, n):
        super().__init__(n)
        self.blocks = nn.ModuleList(nn.Conv2d(8, 8, 3, padding=1) for _ in range(4))

    def forward(self, x):
        x = self.conv(x)
        for block in self.blocks:
            if not self.training: x = x + .5*block(x)
            elif torch.rand(()) < .5: x = x + block(x)
        return self.fc(x.flatten(1))


class Sign(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x): return x.sign()

    @staticmethod
    def backward(ctx, grad): return grad.clamp(-1, 1)


@trains
class Binary(Small):
    def forward(self, x): return self.fc(Sign.apply(self.conv(x)).flatten(1))


@trains
class Buffers(Small):
    def __init__(self, n):
        super().__init__(n)
        self.register_buffer('across', torch.randn(8, 3).t())
        self.register_buffer('scalar', torch.tensor(.5))
        self.register_buffer('mask', torch.rand(512) < .9)
        self.register_buffer('calls', torch.zeros((), dtype=torch.int64))
        self.register_buffer('empty', torch.zeros(0))
        self.register_buffer('part', torch.arange(20.)[5:15:2])
        self.register_buffer('nothing', None)
        self.register_buffer('grid', torch.linspace(-1, 1, 32), persistent=False)

    def forward(self, x):
        self.calls += self.training
        x = self.conv(x + self.grid).relu().flatten(1)*self.mask*self.scalar
        return self.fc(x) + self.across.sum() + self.part.mean()


@trains
class CausalMask(Attention):
    def __init__(self, n):
        super().__init__(n)
        mask = torch.full((32, 32), float('-inf')).triu(1)
        self.register_buffer('mask', mask)

    def forward(self, x):
        rows = x.permute(0, 2, 1, 3).reshape(len(x), 32, 96)
        return self.fc(self.attention(rows, rows, rows, attn_mask=self.mask)[0].mean(1))


@trains
class WholeNumbers(Small):
    "Its first parameter is an index."
    def __init__(self, n):
        super().__init__(n)
        self.order = nn.Parameter(torch.arange(512).flip(0), requires_grad=False)
        self._parameters = dict(reversed(self._parameters.items()))

    def forward(self, x): return self.fc(self.conv(x).flatten(1)[:, self.order])


@trains
class Monte(Small):
    "Draws in evaluation, too."
    def forward(self, x): return self.fc(F.dropout(self.conv(x).flatten(1), .1, training=True))


@trains
class Unused(Small):
    def __init__(self, n):
        super().__init__(n)
        self.never = nn.Conv2d(8, 8, 3)
        self.nor_this, self.scalar = nn.Linear(4, 4), nn.Parameter(torch.tensor(1.))

    def forward(self, x):
        dead = self.conv(x)*0
        return self.scalar*super().forward(x) + dead.flatten(1)[:, :1]


@trains
class WhitenFlag(Small):
    whiten = True


@trains
class WhitenLayer(Small):
    def __init__(self, n):
        super().__init__(n)
        self.whiten = nn.Linear(512, 512)

    def forward(self, x): return self.fc(self.whiten(self.conv(x).flatten(1)))


@trains
class WhitenOtherwise(Small):
    def whiten(self, x, mean, std): return (x - mean)/std

    def forward(self, x): return super().forward(self.whiten(x, .1, 2.))


@trains
class Volumes(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv3, self.conv1 = nn.Conv3d(1, 4, 3, stride=2), nn.Conv1d(60, 8, 3)
        self.fc = nn.Linear(8*13, n)

    def forward(self, x):
        x = self.conv3(x.unsqueeze(1)).relu()
        return self.fc(self.conv1(x.reshape(len(x), 60, 15)).flatten(1))


@trains
class Lists(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.w = nn.ParameterList([torch.randn(3072, 8)/55, torch.randn(n, 8).t()])
        self.d = nn.ParameterDict(dict(bias=torch.zeros(n), random=torch.ones(())))

    def forward(self, x): return x.flatten(1) @ self.w[0] @ self.w[1]*self.d['random'] + self.d.bias


@trains
class Recomputed(Small):
    def forward(self, x):
        x = torch.utils.checkpoint.checkpoint(self.conv, x, use_reentrant=False)
        return self.fc(x.relu().flatten(1))


@trains
class FrozenNorm(Small):
    "Its `train` gives nothing back."
    def __init__(self, n):
        super().__init__(n)
        self.norm = nn.BatchNorm2d(8)

    def train(self, mode=True):
        super().train(mode)
        self.norm.eval()

    def eval(self): self.train(False)

    def forward(self, x): return self.fc(self.norm(self.conv(x)).flatten(1))


@trains
class TensorState(Small):
    steps = 0

    def get_extra_state(self): return torch.tensor(self.steps)

    def set_extra_state(self, state): self.steps = int(state)

    def forward(self, x):
        self.steps += self.training
        return super().forward(x)


@trains
class Hooked(Small):
    def __init__(self, n):
        super().__init__(n)
        self.conv.register_forward_hook(lambda layer, args, out: out.relu())


@trains
class InPlace(Small):
    "Changes its own input, and activations where that is allowed."
    def forward(self, x): return self.fc(self.conv(x.mul_(2).clamp_(-3, 3)).relu_().flatten(1))


@trains
class Channels(Small):
    "Orders its memory itself."
    def forward(self, x): return super().forward(x.to(memory_format=torch.channels_last))


@trains
class NormOfBatch(Small):
    def __init__(self, n):
        super().__init__(n)
        self.norm = nn.BatchNorm1d(512)

    def forward(self, x): return self.fc(self.norm(self.conv(x).flatten(1)))


@trains
class FourierOfHalf(Small):
    def forward(self, x):
        x = torch.fft.rfft2(self.conv(x)).abs()
        return self.fc(F.pad(x, (0, 3)).flatten(1))


@trains
def parallel(n): return nn.DataParallel(Small(n))


trains(partial(Small), 'partial')
trains(partial(Small, n=10), 'partial with its number')
trains(lambda n: nn.Sequential(Small(n), nn.Identity()), 'lambda')
trains(lambda n: torchvision.models.resnet18(num_classes=n), 'resnet18', batch_size=100)
trains(partial(torchvision.models.shufflenet_v2_x0_5, num_classes=10), 'shufflenet')
for name in ('Rows', 'Embedded', 'Binary', 'WeightNorm', 'ViT', 'LayerTwice', 'Volumes',
             'FourierOfHalf'):
    trains(TRAINED[name][0], f'{name} in bfloat16', precision='bfloat16')
trains(LeNet, 'LeNet in float16', precision='float16')
trains(LeNet, 'LeNet with six views', tta=True)
trains(NormOfBatch, 'batches of two', subset=20, batch_size=2)
trains(NormOfBatch, 'one test image in the last batch', sizes=(150, 501))


# ---- networks that do not fit

@refused('tuple')
class TwoOutputs(Small):
    def forward(self, x): return super().forward(x), x.mean()


@refused('dict')
class DictOutput(Small):
    def forward(self, x): return dict(logits=super().forward(x))


@refused('tuple')
class AuxHead(Small):
    def forward(self, x):
        y = super().forward(x)
        return (y, 2*y) if self.training else y


@refused('tuple')
class FeaturesToo(Small):
    "Two outputs when it is evaluated."
    def forward(self, x):
        y = super().forward(x)
        return y if self.training else (y, x)


@refused('NoneType|nothing|None')
class NoReturn(Small):
    def forward(self, x): self.fc(self.conv(x).flatten(1))


@refused('1,?000')
def thousand_outputs(n): return Small(1000)


@refused(r'\b5\b')
def five_outputs(n): return Small(5)


@refused('10×1×1|10, 1, 1')
def map_output(n): return nn.Sequential(nn.Conv2d(3, n, 3), nn.AdaptiveAvgPool2d(1))


@refused(r'[Nn]o |nothing|frozen|requires_grad')
def everything_frozen(n): return Small(n).requires_grad_(False)


@refused(r'[Nn]o |nothing')
def no_parameters(n): return nn.Sequential(nn.Flatten(), nn.AdaptiveAvgPool1d(n))


@refused(r'[Nn]o |nothing')
class PlainList(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.layers = [nn.Flatten(), nn.Linear(3072, n)]

    def forward(self, x): return self.layers[1](self.layers[0](x))


@refused('no_grad|gradient|detach')
class NoGrad(Small):
    def forward(self, x):
        with torch.no_grad(): return super().forward(x)


@refused('no_grad|gradient|detach')
class Detached(Small):
    def forward(self, x): return super().forward(x).detach()


@refused(r'int64|argmax|\([12],\)')
class Answers(Small):
    def forward(self, x): return super().forward(x).argmax(1)


@refused('int64|whole')
class OneHot(Small):
    def forward(self, x): return F.one_hot(super().forward(x).argmax(1), 10)


@refused('one image|1 image|batch_size', subset=101)
def last_batch_of_one(n): return NormOfBatch(n)


@refused(r'view\(128')
class HardCodedBatch(Small):
    def forward(self, x): return self.fc(self.conv(x).relu().view(128, -1))


@refused(r'4×10|4, 10|twice|images')
class WrongView(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.fc = nn.Linear(1536, n)

    def forward(self, x): return self.fc(x.reshape(-1, 1536))


@refused('channels?')
def gray(n): return nn.Sequential(nn.Conv2d(1, 8, 3), nn.Flatten(), nn.Linear(7200, n))


@refused(r'self\.fc\(x\.flatten')
class LargeImages(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.conv, self.fc = nn.Conv2d(3, 4, 16, 16), nn.Linear(4*14*14, n)

    def forward(self, x):
        x = self.conv(x)
        return self.fc(x.flatten(1))


@refused(r'assert x\.shape\[2\] == 224')
class Asserted(Small):
    def forward(self, x):
        assert x.shape[2] == 224
        return super().forward(x)


@refused('[Dd]ouble|float64')
def float64_weights(n): return Small(n).double()


@refused('[Hh]alf|float16')
def half_weights(n): return Small(n).half()


ONE, BACKBONE = Small(), nn.Linear(3072, 16)


@refused('same|each (time|call)|new')
def same_each_time(n): return ONE


@refused('same|share|each (time|call)|new')
def shared_backbone(n): return nn.Sequential(nn.Flatten(), BACKBONE, nn.Linear(16, n))


@refused('NoneType|None')
def returns_none(n): Small(n)


@refused(r'\bint\b|torch.nn.Module')
def returns_a_number(n): return n


@refused(r"open\('weights\.pt'\)")
def raises(n):
    net = Small(n)
    net.load_state_dict(open('weights.pt'))
    return net


@refused(r'super\(\)\.__init__|self\.conv = nn\.Conv2d\(3, 8, 3\)')
class NoSuper(nn.Module):
    def __init__(self, n):
        self.conv = nn.Conv2d(3, 8, 3)


@refused('forward')
class NoForward(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.fc = nn.Linear(3072, n)


@refused('width|argument')
class TwoArguments(Small):
    def __init__(self, n, width): super().__init__(n)


@refused('finite|NaN|nan')
class NanAtStart(Small):
    def forward(self, x): return super().forward(x)*float('nan')


@refused('finite|NaN|nan')
class InfiniteGradient(Small):
    "Its output is finite."
    def forward(self, x):
        y = super().forward(x)
        return y + (y - y).abs().sqrt()


@refused('in.?place')
class InPlaceBreaks(Small):
    def forward(self, x):
        y = self.conv(x).sigmoid()
        return self.fc(y.relu_().mul_(2).flatten(1))


@refused(r'x\.nothing\(\)')
class FailsInEvaluation(Small):
    def forward(self, x): return super().forward(x if self.training else x.nothing())


@refused('extra_state')
class ExtraState(Small):
    def get_extra_state(self): return dict(a=1)

    def set_extra_state(self, state): pass


@refused('[Ss]parse')
class Sparse(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.values, self.fc = nn.Embedding(16, 4, sparse=True), nn.Linear(12, n)

    def forward(self, x):
        return self.fc(self.values((x*4 + 8).long().clamp(0, 15)).mean((2, 3)).flatten(1))


refused('class|function')(ONE, 'an instance')
refused('1,?000')(torchvision.models.resnet18, 'resnet18 itself')
refused('Module')(dict, 'dict itself')
refused('Module')(Doubled().register_forward_hook, 'a method')


class Odd(Exception):
    "An exception without words."
    def __str__(self): raise self


@refused('raise Odd')
class RaisesOddly(Small):
    def forward(self, x): raise Odd


# ---- networks of which either is right, if nothing else happens

@either
class Fourier(nn.Module):
    def __init__(self, n):
        super().__init__()
        self.filters = nn.Parameter(torch.randn(3, 32, 17, dtype=torch.complex64))
        self.fc = nn.Linear(3072, n)

    def forward(self, x):
        x = torch.fft.irfft2(torch.fft.rfft2(x)*self.filters)
        return self.fc(x.flatten(1))


@either
class Double(Small):
    "Does all in 64 bits, rightly."
    def __init__(self, n):
        super().__init__(n)
        self.double()

    def forward(self, x): return super().forward(x.double())


@either
class BuiltInForward(Small):
    def __init__(self, n):
        super().__init__(n)
        self.late, self.n = None, n

    def forward(self, x):
        x = self.conv(x).flatten(1)
        if self.late is None: self.late = nn.Linear(x.shape[1], self.n)
        return self.late(x)


@either
class BuiltInPlace(BuiltInForward):
    "To torch, what a place without a layer is given is not unexpected."
    def __init__(self, n):
        super().__init__(n)
        del self.late
        self.register_module('late', None)


@either
class Squeezed(Small):
    def forward(self, x): return super().forward(x).unsqueeze(2).squeeze()


NORM = nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3072)).requires_grad_(False)


@either
def shared_statistics(n):
    "What it shares is frozen, and yet changes when it is used."
    return nn.Sequential(NORM, nn.Linear(3072, n))


VECTORS = torch.randn(16, 4, generator=torch.Generator().manual_seed(0))


@either
class Pretrained(Embedded):
    "What it learns is in the memory of `VECTORS`."
    def __init__(self, n):
        super().__init__(n)
        self.values = nn.Embedding.from_pretrained(VECTORS, freeze=False)


@trains
class PretrainedCopy(Embedded):
    def __init__(self, n):
        super().__init__(n)
        self.values = nn.Embedding.from_pretrained(VECTORS.clone(), freeze=False)


@either
def scripted(n): return torch.jit.script(Small(n))


@either
class Meta(Small):
    def __init__(self, n):
        super().__init__(n)
        self.fc = nn.Linear(512, n, device='meta')


@either
class Expanded(Small):
    def __init__(self, n):
        super().__init__(n)
        self.register_buffer('one', torch.ones(1).expand(512))

    def forward(self, x): return self.fc(self.conv(x).flatten(1)*self.one)


@either
class NoRepr(Small):
    def __repr__(self): raise ValueError


@either
class WhitenNothing(Small):
    def whiten(self): pass


@either
class EmptyParameter(Small):
    def __init__(self, n):
        super().__init__(n)
        self.empty = nn.Parameter(torch.zeros(0))
        self.flat = nn.Parameter(torch.zeros(0, 8, 3, 3))


@either
class TiedByView(Small):
    "Two parameters, one memory."
    def __init__(self, n):
        super().__init__(n)
        self.there, self.back = nn.Linear(512, 16), nn.Linear(16, 512)
        self.back.weight = nn.Parameter(self.there.weight.t())

    def forward(self, x): return self.fc(self.back(self.there(self.conv(x).flatten(1))))


@either
class ChangesNames(Small):
    "After its first batch, its state has other names."
    def forward(self, x):
        y = super().forward(x)
        self.added = nn.Parameter(torch.zeros(1))
        return y


@either
class Computed(Small):
    "A plain tensor that is no buffer: its state is lost with the process."
    def __init__(self, n):
        super().__init__(n)
        self.mean = torch.zeros(512)

    def forward(self, x):
        x = self.conv(x).flatten(1)
        if self.training: self.mean = .9*self.mean + .1*x.mean(0).detach()
        return self.fc(x - self.mean)


# ---- how they are run

def begun(maker, folder, sizes=SIZES, **parameters):
    "A run of a network that has begun."
    run = start(PARAMETERS | dict(model=maker, output_dir=str(folder)) | parameters)
    run.shapes_sizes = sizes
    for f in (load_data, begin): f(run)
    return run


def end(run):
    "Take the rest of a run's steps that draw nothing."
    for f in (show_model, train, show_accuracy, save_model, finish): f(run)
    return run


def stop_after_an_epoch(run):
    "Train until Ctrl-C is pressed in the second epoch."
    say = run.say
    def say_and_stop(text, *level):
        say(text, *level)
        run.stop_requested |= text.startswith('epoch 1/')
    run.say = say_and_stop
    train(run)
    assert len(run.record.history) == 1, 'it was to be stopped after an epoch'


def files(folder):
    "All files in a folder, without the lock, and their contents."
    every = sorted(f for f in folder.rglob('*') if f.is_file() and f.name != '.lock')
    return {str(f.relative_to(folder)): f.read_bytes() for f in every}


pictures.shapes10 = cache(pictures.shapes10)   # drawn once, not for each test


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    "Each test works in a folder of its own, without a network."
    monkeypatch.chdir(tmp_path)
    for name in ('http_proxy', 'https_proxy'): monkeypatch.setenv(name, DEAD)
    monkeypatch.setattr(sys, 'dont_write_bytecode', True)


@pytest.fixture(scope='module')
def finished(tmp_path_factory):
    "The folder of a finished run."
    folder = tmp_path_factory.mktemp('finished')/'output'
    end(begun(sequential, folder))
    return folder


def complete_and_alike(run, maker):
    "Assert that a run is complete, and that its network comes back from its folder."
    assert check_run(run.out)
    expected = pd.read_csv(run.out/'predictions.csv').filter(regex='^p_').values
    net = load_model(run.out, maker)
    probs, _ = net(run.data.test_x)
    assert net(run.data.test_x[:1])[0].shape == (1, 10), 'predict gives it pictures one by one'
    if maker is Monte: return   # which draws
    atol = 1e-4 if run.p['precision'] == 'float32' else .1
    torch.testing.assert_close(probs.double(), torch.tensor(expected).double(), rtol=0, atol=atol)


def refusal(maker, folder, finished, **parameters):
    "The sentence by which a network is refused; the finished run in its folder is as it was."
    shutil.copytree(finished, folder)
    before = files(folder)
    with pytest.raises(UserError) as e: begun(maker, folder, **parameters)
    assert files(folder) == before and check_run(folder)
    text = str(e.value)
    assert 20 < len(text) < 700 and 'Traceback' not in text
    assert not is_locked(folder)
    return text


LARGE = pytest.param('resnet18', marks=pytest.mark.long)


@pytest.mark.parametrize('name', [LARGE if name == 'resnet18' else name for name in TRAINED])
def test_it_trains(name, tmp_path, capfd):
    maker, _, parameters = TRAINED[name]
    run = begun(maker, tmp_path/'output', **parameters)
    end(run)
    complete_and_alike(run, maker)
    warned = any('softmax' in line for line in run.log)
    assert warned == (name == 'Softmax'), run.log
    assert name == 'Softmax' or capfd.readouterr() == ('', '')


@pytest.mark.parametrize('name', REFUSED)
def test_it_is_refused(name, tmp_path, finished):
    maker, why, parameters = REFUSED[name]
    text = refusal(maker, tmp_path/'output', finished, **parameters)
    print(text)
    assert re.search(why, text), text


@pytest.mark.parametrize('name', EITHER)
def test_it_trains_or_is_refused(name, tmp_path, finished):
    maker, _, parameters = EITHER[name]
    try: run = begun(maker, tmp_path/'output', **parameters)
    except UserError as e:
        print(e)
        refusal(maker, tmp_path/'again', finished, **parameters)
    else: complete_and_alike(end(run), maker)


@pytest.mark.parametrize('maker', (
    shared_statistics, Pretrained, ViewAfterNorm, StochasticDepth))
def test_the_same_run_twice_in_a_process(maker, tmp_path):
    try: runs = [end(begun(maker, tmp_path/name)) for name in ('first', 'second')]
    except UserError: return
    first, second = (run.record.weights_sha256 for run in runs)
    assert first == second


@pytest.mark.parametrize('name', (
    'ViewAfterNorm', 'Tied', 'LayerTwice', 'Lazy', 'StochasticDepth', 'SpectralNorm', 'Rows',
    'Unused', 'Buffers', 'TensorState'))
def test_it_is_continued(name, tmp_path):
    maker = TRAINED[name][0]
    whole = end(begun(maker, tmp_path/'whole', nepochs=2)).record
    stop_after_an_epoch(begun(maker, tmp_path/'output', nepochs=2))
    rest = begun(maker, tmp_path/'output', nepochs=2, resume=True)
    end(rest)
    complete_and_alike(rest, maker)
    assert rest.record.weights_sha256 == whole.weights_sha256
    assert rest.record.confusion == whole.confusion
    assert any(line.startswith(AGAIN) for line in rest.log)


@pytest.mark.parametrize('name', ('StochasticDepth', 'ViewAfterNorm', 'SpectralNorm', 'Rows'))
def test_trying_it_out_leaves_no_trace(name, tmp_path):
    maker = TRAINED[name][0]
    run = end(begun(maker, tmp_path/'output'))
    net = make_model(maker, 10, seed=run.p['seed'])
    learn = make_learner(net, run.data, run.recipe, run.compute)
    learn.fit(1)
    assert weights_sha256(learn.model) == run.record.weights_sha256


def test_own_dropout_is_what_its_author_wrote(tmp_path):
    rates = set()
    class Watched(Rows):
        def forward(self, x):
            rates.add((self.drop.p, self.lstm.dropout))
            return super().forward(x)
    run = end(begun(Watched, tmp_path/'output', nepochs=2))
    assert rates == {(.37, .3)} and run.record.recipe['dropout_end'] is None


# ---- what another network is

MODULES = {
    'own.py': '''
        import torch

        RATE = 1.
        def half(x): return x/2

        class Base(torch.nn.Module):
            def last(self, x): return self.fc(x)
        ''',
    'package/__init__.py': 'from . import part',
    'package/part.py': 'def third(x): return x/3',
    'package/late.py': 'def fourth(x): return x/4',
    'gain.txt': '1.5',
    'mynet.py': '''
        import functools, logging, math, pathlib, re, sys
        from dataclasses import dataclass

        import numpy as np
        import torch
        from torch import nn

        import own, package
        from own import Base

        @dataclass
        class Config:
            gain: float = 1.
            place: pathlib.Path = pathlib.Path('here')

        SCALE, GAIN, POWER, HOOKED = 1., 1., 1, 1.
        TABLE = {'gains': [1., {'last': 1.}]}
        TENSOR, ARRAY = torch.ones(3), np.ones(3)
        CONFIG, KINDS, PATTERN = Config(gain=1.), {'a', 'b', 'c', 'd', 'e'}, re.compile('net')
        def found(name):
            folders = map(pathlib.Path, sys.path)
            return next(folder for folder in folders if (folder/name).exists())/name
        LOG, MEMO, act = logging.getLogger('mynet'), {}, torch.tanh

        def squash(x): return x.tanh()
        def shrink(x): return x/3
        def through(x): return squash(x)
        steps = [squash, shrink]
        def power(x, n=1): return x**n
        def scaled(by):
            def scale(x): return by*x
            return scale
        whole = scaled(1.)
        LARGE = np.ones(5000)
        LARGE[2500] = 1.

        def decorated(f):
            @functools.wraps(f)
            def wrapped(*args): return 1.*f(*args)
            return wrapped

        @functools.lru_cache
        def cached(n): return n*1.

        class Act:
            slope = 1.
            def __call__(self, x): return self.slope*x.relu()
        ACT = Act()

        class Lambda(nn.Module):
            def __init__(self, func):
                super().__init__()
                self.func = func

            def forward(self, x): return self.func(x)
            def __repr__(self): return f'Lambda({self.func})'

        class Layer(nn.Module):
            gain = 1.
            @functools.cached_property
            def root(self): return 4**.5
            @property
            def third(self): return 1/3
            def forward(self, x): return self.gain*x*self.root*self.third

        def grid(x):
            if x.shape not in MEMO: MEMO[x.shape] = torch.linspace(-1, 1, x.shape[-1])
            return MEMO[x.shape]

        class Net(Base):
            def __init__(self, n, gain):
                super().__init__()
                self.fc, self.layer = nn.Linear(3072, n), Layer()
                self.tuned = float(found('gain.txt').read_text())
                self.flat = Lambda(lambda x: x.view(len(x), -1))
                self.scale, self.power, self.gain = scaled(2.), POWER, gain
                self.layer.register_forward_hook(lambda layer, args, out: HOOKED*out)

            @decorated
            def forward(self, x):
                LOG.debug('x')
                assert 'a' in KINDS and x is not None and PATTERN.match('net')
                x = act(through(x)*SCALE*TABLE['gains'][1]['last']) + grid(x)
                for step in steps: x = step(shrink(squash(x)))
                x = x*TENSOR[:, None, None]*float(ARRAY[0])*CONFIG.gain*cached(1)*LARGE.mean()
                from package.late import fourth
                x = fourth(package.part.third(x))*self.tuned
                x = power(self.scale(whole(x)), self.power) + math.pi + own.RATE
                return self.last(self.layer(own.half(ACT(self.flat(x))))*self.gain)

        make = lambda n: Net(n, GAIN)
        '''}
EDITS = dict(   # what is edited: before, after
    nothing=('', ''),
    a_helper=('squash(x)\n', '2*squash(x)\n'),
    a_helper_of_the_helper=('x.tanh()', 'x.sigmoid()'),
    a_constant=('SCALE, GAIN, POWER, HOOKED = 1.', 'SCALE, GAIN, POWER, HOOKED = 2.'),
    what_the_maker_passes_on=('HOOKED = 1., 1.', 'HOOKED = 1., 2.'),
    what_init_keeps=('HOOKED = 1., 1., 1', 'HOOKED = 1., 1., 2'),
    what_a_hook_uses=('HOOKED = 1., 1., 1, 1.', 'HOOKED = 1., 1., 1, 2.'),
    a_nested_constant=("{'last': 1.}", "{'last': 2.}"),
    a_tensor=('torch.ones(3), np', 'torch.full((3,), 1.5), np'),
    an_array=('np.ones(3)', 'np.full(3, 1.5)'),
    a_large_array=('LARGE[2500] = 1.', 'LARGE[2500] = 2.'),
    a_property=('return 1/3', 'return 1/4'),
    a_cached_property=('return 4**.5', 'return 9**.5'),
    a_function_in_a_layer=('x.view(len(x), -1)', 'x.view(len(x), -1).sin()'),
    an_object=('Config(gain=1.)', 'Config(gain=2.)'),
    a_function_of_torch=('{}, torch.tanh', '{}, torch.sigmoid'),
    a_closure=('whole = scaled(1.)', 'whole = scaled(3.)'),
    a_closure_it_keeps=('scaled(2.)', 'scaled(4.)'),
    a_default=('def power(x, n=1): return x**n', 'def power(x, n=1, a=2.): return a*x**n'),
    a_decorator=('1.*f(*args)', '2.*f(*args)'),
    a_cached_function=('return n*1.', 'return n*2.'),
    a_class_that_is_called=('self.slope*x.relu()', 'self.slope*x.sigmoid()'),
    its_attribute=('slope = 1.', 'slope = 2.'),
    a_layer_s_attribute=('    gain = 1.', '    gain = 2.'),
    a_function_elsewhere=('return x/2', 'return x/3'),
    the_order_in_a_list=('[squash, shrink]', '[shrink, squash]'),
    a_function_in_a_package=('def third(x): return x/3', 'def third(x): return x/5'),
    a_function_imported_in_forward=('x/4', 'x/5'),
    a_file_it_reads=('1.5', '2.5'),
    a_base_class_elsewhere=('return self.fc(x)', 'return self.fc(2*x)'),
    a_constant_elsewhere=('RATE = 1.', 'RATE = 2.'),
    forward_itself=('math.pi', 'math.e'))
AGAIN = 'continuing the run of'


def write_modules(folder, before='', after=''):
    "Write the modules into a folder, one of them edited."
    for name, text in MODULES.items():
        lines = [line.removeprefix(' '*8) for line in text.splitlines()]
        text = '\n'.join(lines) + '\n'
        (folder/name).parent.mkdir(parents=True, exist_ok=True)
        (folder/name).write_text(text.replace(before, after) if before else text)


OURS = 'own', 'mynet', 'package', 'package.part', 'package.late'


def imported(folder, monkeypatch):
    "The module `mynet`, imported anew from a folder."
    monkeypatch.syspath_prepend(folder)
    for name in OURS: sys.modules.pop(name, None)
    return importlib.import_module('mynet')


@pytest.fixture(scope='module')
def unfinished(tmp_path_factory):
    "A folder with the modules, and what a run of their network has left after its first epoch."
    place = tmp_path_factory.mktemp('unfinished')
    write_modules(place/'code')
    with pytest.MonkeyPatch.context() as m:
        maker = imported(place/'code', m).make
        stop_after_an_epoch(begun(maker, place/'output', nepochs=2))
    return place


def anew(run):
    "Whether a run has begun anew, since the network is another one; it has said so."
    text = '\n'.join(run.log)
    said = re.search('is now in .* it is another run, by .*network', text)
    assert bool(said) != (AGAIN in text), text
    return bool(said)


@pytest.mark.parametrize('edit', EDITS)
def test_an_edited_network_is_another_one(edit, unfinished, tmp_path, monkeypatch):
    shutil.copytree(unfinished/'output', tmp_path/'output')
    before, after = EDITS[edit]
    assert not before or sum(text.count(before) for text in MODULES.values()) == 1
    write_modules(unfinished/'code', before, after)
    maker = imported(unfinished/'code', monkeypatch).make
    assert anew(begun(maker, tmp_path/'output', nepochs=2)) == (edit != 'nothing')


def test_a_network_is_the_same_in_another_folder(unfinished, tmp_path, monkeypatch):
    shutil.copytree(unfinished/'output', tmp_path/'output')
    write_modules(tmp_path)
    assert not anew(begun(imported(tmp_path, monkeypatch).make, tmp_path/'output', nepochs=2))


@pytest.mark.parametrize('name, value', (
    ('SCALE', 3.), ('squash', torch.sigmoid), ('act', torch.relu), ('GAIN', 2.)))
def test_a_value_that_is_changed_in_memory_is_another_network(
        name, value, unfinished, tmp_path, monkeypatch):
    shutil.copytree(unfinished/'output', tmp_path/'output')
    write_modules(unfinished/'code')
    module = imported(unfinished/'code', monkeypatch)
    setattr(module, name, value)
    assert anew(begun(module.make, tmp_path/'output', nepochs=2))


@pytest.mark.parametrize('before, after', (
    (partial(Small, n=10), partial(Small, 10)),
    (lambda n: Small(n), lambda n: nn.Sequential(Small(n))),
    (partial(TRAINED['lambda'][0]), TRAINED['lambda'][0])))
def test_a_network_that_is_the_same_or_not_by_its_maker(before, after, tmp_path):
    stop_after_an_epoch(begun(before, tmp_path/'output', nepochs=2))
    shutil.copytree(tmp_path/'output', tmp_path/'copy')
    assert AGAIN in '\n'.join(begun(before, tmp_path/'output', nepochs=2).log)
    log = '\n'.join(begun(after, tmp_path/'copy', nepochs=2).log)
    assert AGAIN in log or 'it is another run, by' in log


CHAIN = """
import torch
PAIRS = [(i,) for i in range(50_000)]*2
def f0(x): return x
{functions}
class Net(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.fc = torch.nn.Linear(3072, n)

    def forward(self, x): return f300(self.fc(x.flatten(1)))*len(PAIRS)/100_000
"""


def test_many_helpers_and_a_large_table(tmp_path, monkeypatch):
    functions = '\n'.join(f'def f{i}(x): return f{i - 1}(x)' for i in range(1, 301))
    (tmp_path/'mynet.py').write_text(CHAIN.format(functions=functions))
    began = time.process_time()
    begun(imported(tmp_path, monkeypatch).Net, tmp_path/'output')
    assert time.process_time() - began < 10


CELLS = '''
import torch
from cifar10_nbdev import train as defaults
from cifar10_nbdev.params import defaults_of
from cifar10_nbdev.report import begin, load_data, start, train
import mynet
%%
SCALE = 1.
def squash(x): return x.tanh()
%%
class Net(torch.nn.Module):
    def __init__(self, n):
        super().__init__()
        self.fc = torch.nn.Linear(3072, n)

    def forward(self, x): return self.fc(squash(x).flatten(1)*SCALE)
%%
def run_of(name, where='unchanged'):
    made = dict(module=mynet.make, cell=Net, function=lambda n: Net(n))
    run = start({**defaults_of(defaults), **GIVEN, 'output_dir': f'{where}/{name}',
                 'model': made[name]})
    run.shapes_sizes = SIZES
    load_data(run)
    begin(run)
    print(where, name, *(line for line in run.log if 'is now in' in line or 'continuing' in line))
    return run
'''
STOP = '''
for name in ('module', 'cell', 'function'):
    run = run_of(name)
    say = run.say
    def say_and_stop(text, *level):
        say(text, *level)
        run.stop_requested |= text.startswith('epoch 1/')
    run.say = say_and_stop
    train(run)
'''
SHELL = '''
import pathlib, sys
from IPython.core.interactiveshell import InteractiveShell

shell = InteractiveShell.instance(colors='nocolor')
for cell in pathlib.Path('cells.txt').read_text().split('%%'):
    if not shell.run_cell(cell).success: sys.exit(1)
'''
CELL_EDITS = dict(nothing=('', ''), a_constant=('SCALE = 1.', 'SCALE = 2.'),
                  a_helper=('x.tanh()', 'x.sigmoid()'),
                  forward_itself=('flatten(1)*SCALE', 'flatten(1)/SCALE'))


def kernel(folder, cells, seed):
    "What the cells print in a new kernel: folder and network -> line. Each has a hash seed."
    text = '%%'.join([CELLS, *cells]).replace('SIZES', repr(SIZES))
    names = 'dataset', 'subset', 'batch_size', 'precision', 'device', 'verbose'
    given = {name: PARAMETERS[name] for name in names}
    (folder/'cells.txt').write_text(text.replace('GIVEN', repr(given)))
    (folder/'shell.py').write_text(SHELL)
    env = {**os.environ, 'PYTHONHASHSEED': seed, 'PYTHONPATH': f'{ROOT}:{folder}'}
    done = subprocess.run([sys.executable, 'shell.py'], cwd=folder, env=env, capture_output=True,
                          text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    lines = re.findall(r'^(\w+ (?:module|cell|function)) ?(.*)$', done.stdout, flags=re.M)
    return dict(lines)


def test_cells_of_a_notebook(tmp_path):
    write_modules(tmp_path)
    kernel(tmp_path, [STOP], seed='1')
    again = ["for name in ('module', 'cell', 'function'): run_of(name)"]
    for edit, (before, after) in CELL_EDITS.items():
        shutil.copytree(tmp_path/'unchanged', tmp_path/edit)
        again += [cell.replace(before, after) for cell in CELLS.split('%%')[1:3] if before]
        again += [f"for name in ('cell', 'function'): run_of(name, {edit!r})"]
        again += CELLS.split('%%')[1:3]
    lines = kernel(tmp_path, again, seed='2')
    assert len(lines) == 3 + 2*len(CELL_EDITS)
    for name, line in lines.items():
        if name.startswith(('unchanged', 'nothing')): assert line.startswith(AGAIN), (name, line)
        else: assert re.search('it is another run, by .*network', line), (name, line)


# ---- on the command line

@pytest.fixture(scope='module')
def own_run(tmp_path_factory):
    "A module with a network, the folder of its run, and a picture."
    place = tmp_path_factory.mktemp('own')
    write_modules(place)
    (place/'broken.py').write_text('1/0\n')
    Image.new('RGB', (40, 30), 'red').save(place/'red.png')
    with pytest.MonkeyPatch.context() as m:
        maker = imported(place, m).make
        end(begun(maker, place/'output'))
    for name in OURS: sys.modules.pop(name)
    return place


def predicted(place, *words):
    "The exit code and the output of `predict` in a folder."
    return run_command(predict.main, place/'red.png', '--model', place/'output', *words)


def test_predict_takes_a_network(own_run, monkeypatch):
    monkeypatch.chdir(own_run)
    assert predicted(own_run, '--network', 'mynet.py:make')[0] == 0
    monkeypatch.chdir(own_run/'output')
    code, printed = predicted(own_run, '--network', f'{own_run}/mynet.py:make')
    assert code == 0 and '%' in printed
    code, printed = predicted(own_run)
    assert code == 2 and '--network' in printed and printed.count('\n') == 1


@pytest.mark.parametrize('words, why', (
    ('nowhere.py:make', 'nowhere.py'), ('mynet.py:Nothing', 'Nothing'), ('mynet.py', ':'),
    ('mynet.py:', ':'), ('broken.py:Net', '1/0|division'), ('mynet.py:SCALE', 'SCALE|float'),
    ('own.py:Base', 'fit|Base'), ('mynet.py:squash', 'squash')))
def test_predict_refuses_what_is_no_network(words, why, own_run, monkeypatch):
    monkeypatch.chdir(own_run)
    code, printed = predicted(own_run, '--network', words)
    assert code == 2 and printed.startswith('Error: ') and printed.count('\n') == 1, printed
    assert re.search(why, printed), printed


@pytest.mark.parametrize('exported', (False, pytest.param(True, marks=pytest.mark.long)))
def test_the_example_of_the_docs(own_run, tmp_path, exported):
    text = (ROOT/'docs'/'own-network.md').read_text(encoding='utf-8')
    (tmp_path/'mynet.py').write_text(re.search('```python\n(.*?)```', text, flags=re.S)[1])
    maker = predict.network_from('mynet.py:Net')
    complete_and_alike(end(begun(maker, tmp_path/'output')), maker)
    words = '--model', tmp_path/'output', '--network', 'mynet.py:Net'
    code, printed = run_command(predict.main, own_run/'red.png', *words)
    assert code == 0, printed
    changed = (tmp_path/'mynet.py').read_text().replace('torch.relu(norm', 'torch.tanh(norm')
    (tmp_path/'other.py').write_text(changed)
    code, printed = run_command(predict.main, own_run/'red.png', *words[:-1], 'other.py:Net')
    assert code == 2 and 'the code of the network has changed' in printed
    if not exported: return
    pytest.importorskip('onnxruntime')
    code, printed = run_command(export.main, *words, '--data_dir', tmp_path)
    assert code == 0 and 'the same as PyTorch' in printed, printed


def test_the_callback_of_the_docs(project, monkeypatch):
    monkeypatch.setattr(Forked, 'child', staticmethod(without_figures))
    text = (ROOT/'docs'/'own-callback.md').read_text(encoding='utf-8')
    own, train = re.findall('```python\n(.*?)```', text, flags=re.S)
    own, append = own.split('run.cbs.append(')
    assert append.strip().removesuffix(')') in train    # in a notebook, and without one
    (project.root/'mycallback.py').write_text(own)
    small = "dataset='shapes10', model='fast', subset=100, batch_size=50, nepochs=1, "
    script = project.root/'train.py'
    script.write_text(train.replace('given = dict(nepochs=10, ', f'given = dict({small}'))
    done = project.forked(str(script))
    assert done.returncode == 0, done.stderr
    m = project.metrics('output/distilled')
    assert (m['status'], m['recipe']['label_smoothing']) == ('complete', 0)
    assert [name.split()[0] for name in m['callbacks']] == ['Distill']


def test_the_record_of_an_own_network_names_it(own_run):
    record = read_record(own_run/'output')
    assert record.status == 'complete' and record.parameters['model'] == record.model
