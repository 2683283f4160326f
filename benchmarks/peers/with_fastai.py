"The same in fastai."
# ruff: noqa: F403, F405, as fastai's users write it
import sys

from fastai.vision.all import *

from cifar10_nbdev.model import CNN

if __name__ == '__main__':
    dls = ImageDataLoaders.from_folder(
        sys.argv[1], valid='test', bs=128, item_tfms=RandomCrop(32),
        batch_tfms=[Flip(), Normalize.from_stats(*cifar_stats)])
    learn = Learner(dls, CNN(), loss_func=CrossEntropyLossFlat(), opt_func=Adam, metrics=accuracy)
    learn.fit(int(sys.argv[2]), 1e-3)
