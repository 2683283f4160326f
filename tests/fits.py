"""What make release-check runs in an environment that has the wheel, in an empty folder: every
module, the main job by its commands, and by name what takes more: export, sweep, beside."""
import importlib
import json
import pkgutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import torch
import torch.nn.functional as F
from matplotlib.figure import Figure
from PIL import Image, ImageDraw

import cifar10_nbdev

SMALL = '--dataset', 'shapes10', '--subset', '500', '--nepochs', '1'


def command(*words: str) -> str:
    print('$', *words, flush=True)
    program = Path(sys.executable).parent/words[0]
    done = subprocess.run([program, *words[1:]], stdout=subprocess.PIPE, text=True)
    print(done.stdout, flush=True)
    assert done.returncode == 0, f'{words[0]} ended with {done.returncode}'
    return done.stdout


def installed_wheel():
    "It is the wheel that runs, not the checkout, and all of its modules can be imported."
    assert Path(cifar10_nbdev.__file__).is_relative_to(sys.prefix), cifar10_nbdev.__file__
    names = [module.name for module in pkgutil.iter_modules(cifar10_nbdev.__path__)]
    assert len(names) > 20
    for name in names: importlib.import_module(f'cifar10_nbdev.{name}')


def main_job():
    "Train, check, and predict with the network that comes with the library."
    command('cifar10_train', *SMALL)
    command('cifar10_check', 'output')
    command('cifar10_doctor')
    image = Image.new('RGB', (90, 60), 'skyblue')
    ImageDraw.Draw(image).ellipse((20, 10, 60, 50), fill='red')
    image.save('ball.png')
    said = command('cifar10_predict', '--model', 'cnn', '--json', '--picture', 'seen.png',
                   'ball.png')
    assert json.loads(said)['pictures'][0]['file'] == 'ball.png'
    assert Path('seen.png').stat().st_size


def export():
    command('cifar10_export')
    assert Path('output/model.onnx').stat().st_size


def sweep():
    "Two trainings, compared by tables and figures."
    from cifar10_nbdev import compare
    command('cifar10_sweep', *SMALL, '--seed', '1', '2', '--workers', '1', '--sweep_dir', 'sweep')
    runs = compare.read_runs(['sweep/seed=1', 'sweep/seed=2'])
    for table in (compare.accuracy_table, compare.mcnemar_table, compare.seeds_table):
        print(table(runs))
    for plot in (compare.plot_runs, compare.plot_class_differences):
        assert isinstance(plot(runs), Figure)


def batches():
    images, labels = torch.randn(20, 3, 32, 32), torch.arange(20) % 10
    return torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), 10)


def by_fastai():
    from fastai.data.core import DataLoaders
    from fastai.learner import Learner
    from cifar10_nbdev.model import CNN
    learn = Learner(DataLoaders(batches(), batches()), CNN(), loss_func=F.cross_entropy)
    learn.fit(1)
    assert len(learn.recorder.losses) == 2


def by_lightning():
    import lightning
    from cifar10_nbdev.model import CNN

    class Lit(lightning.LightningModule):
        def __init__(self):
            super().__init__()
            self.net = CNN()

        def training_step(self, batch, i): return F.cross_entropy(self.net(batch[0]), batch[1])

        def configure_optimizers(self): return torch.optim.SGD(self.parameters(), 1e-3)

    trainer = lightning.Trainer(max_epochs=1, accelerator='cpu', logger=False,
                                enable_checkpointing=False, enable_progress_bar=False)
    trainer.fit(Lit(), batches())
    assert trainer.global_step == 2


def by_nbdev():
    from nbdev.export import nb_export
    cells = ['#| default_exp tried', '#| export\nfrom cifar10_nbdev.model import CNN']
    cells = [dict(cell_type='code', metadata={}, outputs=[], execution_count=None, source=s)
             for s in cells]
    book = dict(cells=cells, metadata={}, nbformat=4, nbformat_minor=4)
    Path('tried.ipynb').write_text(json.dumps(book))
    nb_export('tried.ipynb', lib_path='lib')
    assert 'import CNN' in Path('lib/tried.py').read_text()


def beside():
    "Our network in the hands of fastai's Learner, Lightning's Trainer, and nbdev 3."
    for step in (by_fastai, by_lightning, by_nbdev): step()


if __name__ == '__main__':
    versions = sorted(f"{d.metadata['Name']} {d.version}" for d in metadata.distributions())
    shown = [v for v in versions if not v.startswith(('nvidia', 'cuda'))]
    print(f"Python {sys.version.split()[0]}, {', '.join(shown)}", flush=True)
    installed_wheel()
    main_job()
    for name in sys.argv[1:]: dict(export=export, sweep=sweep, beside=beside)[name]()
