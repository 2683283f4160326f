"""How well a trained network tells pictures that are unlike its data, by several scores that need
no training of their own.

    CIFAR10_DATA=… python benchmarks/outliers.py output [--photos FOLDER] [--tiny]

`output` is the folder of a finished run of the library's own networks on CIFAR-10. Against the
test images stand drawn shapes, noise, smooth noise, stripes, test images upside down, and squares
cut out of the photographs in FOLDER. Printed are the AUROC (the probability that an outlier has the
higher score; .5 is luck) and, in percent, how many are found if one test image in twenty is taken
for one. All scores see the same outputs; KNN and ViM are fitted on 5,000 training images. With
--tiny, the network has seen a few shapes for an epoch.

confidence: Hendrycks and Gimpel 2017; energy: Liu et al. 2020; GEN: Liu et al. 2023; KNN: Sun et
al. 2022, k = 50; ViM: Wang et al. 2022, as in `interpret.OutlierScore`.
"""
import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from PIL import Image
from scipy.stats import rankdata
from torch import Tensor

from cifar10_nbdev.data import channel_stats, normalize, shapes10
from cifar10_nbdev.device import prepare_cpu
from cifar10_nbdev.interpret import OutlierScore, energy
from cifar10_nbdev.model import make_model, scores_and_features
from cifar10_nbdev.predict import load_model
from cifar10_nbdev.recipe import make_learner, recipe

from common import cifar10_or_tiny, options


def smooth_noise(n: int, g: torch.Generator) -> Tensor:
    "Clouds of color: noise of 5×5 pixels, enlarged."
    x = F.interpolate(256*torch.rand(n, 3, 5, 5, generator=g), (32, 32), mode='bicubic')
    return x.clamp(0, 255).byte()


def stripes(n: int, g: torch.Generator) -> Tensor:
    "Waves of two colors, of any direction and 3 to 16 pixels long."
    angle, phase = 2*math.pi*torch.rand(2, n, 1, 1, 1, generator=g)
    length = 3 + 13*torch.rand(n, 1, 1, 1, generator=g)
    y, x = torch.meshgrid(torch.arange(32.), torch.arange(32.), indexing='ij')
    wave = (2*math.pi*(x*angle.cos() + y*angle.sin())/length + phase).sin()/2 + .5
    one, other = 255*torch.rand(2, n, 3, 1, 1, generator=g)
    return torch.lerp(one, other, wave).byte()


def squares(n: int, folder: Path, seed: int = 0) -> Tensor:
    "Squares of 64 pixels or more, cut out of photographs and made small."
    rng, pictures = np.random.default_rng(seed), []
    files = [f for f in sorted(folder.rglob('*')) if f.suffix in ('.jpg', '.png')]
    for i in range(n):
        with Image.open(files[i % len(files)]) as im:
            side = rng.integers(64, min(im.size) + 1)
            left, top = (rng.integers(0, length - side + 1) for length in im.size)
            cut = im.convert('RGB').crop((left, top, left + side, top + side))
        pictures.append(np.asarray(cut.resize((32, 32), Image.Resampling.BICUBIC)))
    return torch.from_numpy(np.stack(pictures)).permute(0, 3, 1, 2)


def strange_pictures(test_x: Tensor, n: int) -> dict[str, Tensor]:
    "Kind -> `n` pictures unlike CIFAR-10's images, and of these, turned upside down."
    g = torch.Generator().manual_seed(0)
    noise = torch.randint(0, 256, (n, 3, 32, 32), generator=g, dtype=torch.uint8)
    return dict(shapes=shapes10((10, n), seed=1).test_x, noise=noise, smooth=smooth_noise(n, g),
                stripes=stripes(n, g), upside_down=test_x[:n].flip(2))


def auroc(inside: Tensor, outside: Tensor) -> float:
    "The probability that an outlier's score is higher than an inlier's (Mann–Whitney)."
    n = len(outside)
    ranks = rankdata(torch.cat([outside, inside]).double().numpy())[:n]
    return (ranks.sum() - n*(n + 1)/2)/(n*len(inside))


def score_functions(scores: Tensor, features: Tensor) -> dict:
    "Functions of scores and features, fitted on those of training images; high for outliers."
    bank, vim = F.normalize(features, dim=1), OutlierScore(features.shape[1])
    vim.fit(scores, features)
    def confidence(s, f): return -s.softmax(1).amax(1)
    def largest(s, f): return -s.amax(1)
    def gen(s, f):
        p = s.softmax(1)
        return (p*(1 - p)).pow(.1).sum(1)
    def knn(s, f): return torch.cdist(F.normalize(f, dim=1), bank).kthvalue(50).values
    def only_energy(s, f): return energy(s)
    return dict(confidence=confidence, largest=largest, GEN=gen, energy=only_energy, KNN=knn,
                ViM=vim)


@torch.no_grad()
def main():
    parser = options(__doc__)
    parser.add_argument('folder', nargs='?', default='output', help='of a finished run')
    parser.add_argument('--photos', type=Path, help='a folder of JPEG and PNG files')
    args = parser.parse_args()
    prepare_cpu()
    data = cifar10_or_tiny(args.tiny)
    if args.tiny:
        with torch.enable_grad():
            learn = make_learner(make_model('fast', seed=0), data, recipe('fast', 1))
            learn.fit(1)
        net, (mean, std) = learn.model.eval(), channel_stats(data.train_x)
    else:
        trained = load_model(args.folder)
        net, mean, std = trained.net, trained.mean, trained.std

    def outputs(x):
        parts = [scores_and_features(net, normalize(xb, mean, std)) for xb in x.split(500)]
        return [torch.cat(part) for part in zip(*parts)]

    n = 50 if args.tiny else 1000   # pictures of a kind
    pictures = strange_pictures(data.test_x, n)
    if args.photos: pictures['photos'] = squares(n, args.photos)
    inside, seen = outputs(data.test_x), {kind: outputs(x) for kind, x in pictures.items()}
    print(f"{'':12}" + ''.join(f'{kind:>16}' for kind in pictures))
    for name, score in score_functions(*outputs(data.train_x[:5000])).items():
        usual = score(*inside)
        edge, cells = usual.quantile(.95), []
        for out in seen.values():
            found = (score(*out) > edge).float().mean().item()
            cells.append(f'{auroc(usual, score(*out)):11.3f} {found:4.0%}')
        print(f'{name:12}' + ''.join(cells), flush=True)


if __name__ == '__main__': main()
