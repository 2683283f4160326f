"Every benchmark runs, on a few drawn shapes, prints figures that fit together, and writes nothing."
import csv, json, os, re, subprocess, sys
from dataclasses import asdict

import pytest
import torch
from conftest import DEAD, ROOT
from forked import Forked

from cifar10_nbdev.recipe import recipe
from cifar10_nbdev.record import VERSIONS, Record

BENCHMARKS, RESULTS = ROOT/'benchmarks', ROOT/'docs'/'results'
SCRIPTS = sorted(f for f in BENCHMARKS.glob('*.py') if f.name != 'common.py')
WORDS = dict(trial='fast 1 lr=.17 batch_size=25 normalize_filters=false dropout_end=none '
                   'widths=8,16,24 seed=1')
MACS = dict(cnn=40_740_864, fast=26_271_264, deep=118_476_000)


def numbers(text: str) -> list[float]:
    "All numbers in a text, in order."
    return [float(n) for n in re.findall(r'\d+(?:\.\d+)?', text)]


def cells(line: str) -> list[str]:
    "The cells of a table's line."
    return [cell.strip() for cell in line.strip().strip('|').split('|')]


def is_spread(text: str) -> bool:
    "Whether a text is '4 (3 to 7)': median, least and most."
    median, least, most = numbers(re.search(r'[\d.]+ \([\d.]+ to [\d.]+\)', text)[0])
    return least <= median <= most


def check_airbench(printed):
    seed, mean = printed.splitlines()
    accuracy, seconds = re.fullmatch(r'fast, 1 epochs, seed 0: (\S+) in (\S+) s', seed).groups()
    assert 50*float(accuracy) == pytest.approx(round(50*float(accuracy))) and float(seconds) > 0
    assert mean == (f'fast, 1 epochs: {100*float(accuracy):.2f} % with test-time augmentation '
                    f'in {float(seconds):.0f} s (n=1)')


def check_checkpoint(printed):
    size, *rows = printed.splitlines()
    filters, parameters = 286_560, 2_396_330   # one state of Muon, two of AdamW
    least = 4*(parameters + filters + 2*(parameters - filters))/1e6
    assert least - .05 < numbers(size)[0] < least + .2
    assert [row.split(': ')[0] for row in rows] == [
        'training stands still', 'of which copying', 'meanwhile', 'meanwhile']
    assert all(map(is_spread, rows))
    assert numbers(rows[0])[2] >= numbers(rows[1])[1]   # it is a part of it


def check_data(printed):
    machine, first, later, once, batch = printed.splitlines()
    assert machine.startswith('torch ') and machine.endswith('; cifar10')
    for line, name in ((first, 'first'), (later, 'later')):
        assert line.startswith(f'{name} load: ') and is_spread(line)
        assert numbers(line)[3] > 100   # MiB, with torch
    assert [part.split(':')[0] for part in once.split('; ')] == [
        'channel_stats', 'split(50)', 'shapes10']
    n, plain, cutout, step, percent = numbers(batch)
    assert n == 20 and min(plain, cutout, step) > 0
    assert percent == pytest.approx(100*plain/(plain + step), rel=.02, abs=.1)


def check_example(printed):
    [line] = printed.splitlines()
    assert .01 < float(line) < 120


def test_the_example_keeps_its_network_when_ours_change(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from example import network
    net = network()
    assert sum(p.numel() for p in net.parameters()) == 2_396_330
    assert [type(layer).__name__ for layer in net].count('MaxPool2d') == 3


def test_slices_of_the_example_make_an_epoch(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from common import tiny_cifar10
    from example import Example
    example, seen = Example(tiny_cifar10()), []
    monkeypatch.setattr(example, 'loss', lambda xb, yb: seen.append(len(xb)) or xb.sum()*0)
    monkeypatch.setattr(example.opt, 'step', lambda: None)
    monkeypatch.setattr(torch.Tensor, 'backward', lambda self: None)
    whole = example.slice(1)
    assert seen == [100, 50] and whole > 0   # one batch of each part
    seen.clear()
    example.train_dl = range(40)             # an epoch of 40 batches, and one to evaluate
    example.slice(10)
    assert len(seen) == 4 + 1


def check_gpu(printed):
    rows = [json.loads(line) for line in printed.splitlines()]
    assert not [row for row in rows if 'error' in row]
    parts = {}
    for row in rows: parts.setdefault(row['part'], []).append(row)
    assert list(parts) == ('doctor waits timing phases repeats accuracy peers switches').split()
    assert parts['doctor'][0]['device'] == 'cpu'
    assert [row['precision'] for row in parts['timing']] == ['bfloat16', 'float32']
    for row in parts['timing']:
        assert row['least'] <= row['epoch'] <= row['most'] and row['n'] == 1
        assert row['tflops'] == pytest.approx(6*100*MACS['fast']/row['epoch']/1e12)
        assert row['of_peak'] == pytest.approx(row['tflops']/row['peak_tflops'])
    assert all(row['same_again'] and row['same_resumed'] for row in parts['repeats'])
    [phases] = parts['phases']
    assert set(phases['milliseconds']) == {'data', 'forward', 'backward', 'optimizer'}
    [accuracy] = parts['accuracy']
    assert 0 < accuracy['training_seconds'] < accuracy['seconds'] and accuracy['n'] == 1
    assert parts['peers'][0]['seconds'] > 0 and parts['peers'][-1]['skipped']
    assert len(parts['switches']) == 6 and all(row['epoch'] > 0 for row in parts['switches'])


def check_peers(printed):
    head, _, *rows = map(cells, printed.splitlines())
    assert head == ['script', 'an epoch', 'start-up', 'lines']
    rows = {name: rest for name, *rest in rows}
    assert {'ours', 'plain'} <= rows.keys()
    for name in ('ours', 'plain'):
        epoch, start, n_lines = (float(cell.removesuffix(' s')) for cell in rows[name])
        assert .1 < epoch + start < 120   # of one epoch
        source = (BENCHMARKS/'peers'/f'{name}.py').read_text()
        assert n_lines == len(re.findall(r'^.*\S', source, flags=re.M)) - 1   # the docstring


def check_step(printed):
    machine, _, head, _, *rows = printed.splitlines()
    assert machine.startswith('torch ') and cells(head)[:3] == ['network', 'precision', 'batch']
    rows = list(map(cells, rows))
    assert {row[0] for row in rows} == MACS.keys()
    for name, precision, batch, *parts, images, speed, of_peak in rows:
        ms, percents = zip(*map(numbers, parts))
        assert len(parts) == 4 and sum(percents) == pytest.approx(100, abs=2)
        a_second = 1e3*float(batch)/sum(ms)
        assert float(images) == pytest.approx(a_second, rel=.02, abs=.6)
        assert float(speed) == pytest.approx(3*a_second*MACS[name]/1e9, rel=.02, abs=.06)
        percent, peak = numbers(of_peak)
        assert percent == pytest.approx(100*float(speed)/peak, rel=.05, abs=1)


def check_train(printed):
    lines = printed.splitlines()
    at = next(i for i, line in enumerate(lines) if line.startswith('started,'))
    assert lines[at] == (RESULTS/'bench.csv').read_text().splitlines()[0], 'other columns'
    rows = list(csv.DictReader(lines[at:at + 3]))
    assert [(row['target'], row['model'], row['nepochs'], row['seed']) for row in rows] == [
        ('90', 'fast', '1', '0'), ('90', 'fast', '1', '1')]
    for row in rows:
        assert (int(row['macs']), int(row['n_parameters'])) == (MACS['fast'], 614_256)
        assert float(row['E']) > 0 and float(row['E_std']) > 0 and row['E_slices'] == '2'
        assert float(row['in_E']) == pytest.approx(float(row['seconds'])/float(row['E']))
        assert float(row['images_per_second']) == pytest.approx(100/float(row['seconds']))
        for name in ('accuracy', 'tta'):   # of 50 test images
            n_correct = 50*float(row[name])
            assert 0 <= n_correct <= 50 and n_correct == pytest.approx(round(n_correct), abs=1e-4)
    a, b = (100*float(row['accuracy']) for row in rows)
    spread = f'{(a + b)/2:.2f} % ± {abs(a - b)/2**.5:.2f} %'
    assert lines[-1].startswith(f'TARGET 90: accuracy {spread} in ')
    assert lines[-1].endswith(' E (n=2)')


def check_trial(printed):
    [line] = printed.splitlines()
    result = json.loads(line)
    assert result['args'] == [*WORDS['trial'].split(), '--tiny']
    assert result['epochs'] == [result['valid']]
    for name in ('valid', 'tta', 'train'):   # of 50 images each
        assert 0 <= result[name] <= 1 and 50*result[name] == pytest.approx(round(50*result[name]))
    recipe = result['recipe'].split(', ')
    assert {'lr 0.17', 'batch_size 25', 'normalize_filters 0', 'dropout_end own'} <= set(recipe)
    assert 'adam_lr 0.015' in recipe   # does not follow lr
    convolutions = [(31, 24, 8), (15, 8, 8), (15, 8, 16), (7, 16, 16), (7, 16, 24), (3, 24, 24)]
    macs = sum(9*size**2*ni*nf for size, ni, nf in convolutions)
    assert result['macs'] == 31**2*12*24 + macs + 24*10


def check_outliers(printed):
    header, *rows = printed.splitlines()
    assert header.split() == ['shapes', 'noise', 'smooth', 'stripes', 'upside_down']
    assert [row.split()[0] for row in rows] == [
        'confidence', 'largest', 'GEN', 'energy', 'KNN', 'ViM']
    for row in rows:
        aurocs, found = row.split()[1::2], row.split()[2::2]
        assert len(aurocs) == len(found) == 5
        assert all(0 <= float(v) <= 1 for v in aurocs)
        assert all(0 <= float(v.removesuffix('%')) <= 100 for v in found)
    assert float(rows[-1].split()[3]) > .9   # noise, after an epoch of shapes


def check_results(printed):
    line, shipped = printed.splitlines()
    accuracy, tta, ece, n = numbers(line)
    assert line.startswith('tiny: accuracy ') and n == 1
    assert 0 < accuracy < 100 and 0 < tta < 100 and 0 <= ece <= 100
    size, in_half, before = numbers(shipped)
    assert shipped.startswith('fast.safetensors: ') and size == 1.3
    assert before == accuracy and abs(in_half - accuracy) < 1


def results() -> dict[str, bytes]:
    "The files of docs/results."
    return {f.name: f.read_bytes() for f in RESULTS.iterdir()}


@pytest.mark.parametrize('script', SCRIPTS, ids=lambda script: script.stem)
def test_benchmark(script, tmp_path):
    check = globals().get(f'check_{script.stem}')
    assert check, f'write check_{script.stem}(printed), which checks what it prints with --tiny'
    before = results()
    env = dict(PYTHONPATH=str(ROOT), OMP_NUM_THREADS='1', CIFAR10_DATA=str(tmp_path/'none'),
               http_proxy=DEAD, https_proxy=DEAD)
    words = [*WORDS.get(script.stem, '').split(), '--tiny']
    folder, out, err = (tmp_path/name for name in ('folder', 'out', 'err'))
    folder.mkdir()
    if script.stem == 'peers':   # its loaders have workers, which a forked process cannot have
        with open(out, 'w') as f, open(err, 'w') as g:
            code = subprocess.run([sys.executable, script, *words], cwd=folder, stdout=f, stderr=g,
                                  env=os.environ | env, timeout=600).returncode
    else:
        process = Forked(str(script), words, folder, os.environ | env, out, err)
        try: code = process.wait(600)
        finally: process.kill()
    assert code == 0, err.read_text()
    check(out.read_text())
    assert results() == before, f'{script.name} --tiny has written to docs/results'
    assert not list(folder.iterdir())


def test_settings_of_a_trial(monkeypatch):
    monkeypatch.syspath_prepend(str(BENCHMARKS))
    from trial import read_settings
    words = 'batch_size=250 lr=.17 normalize_filters=False dropout_end=.2 widths=8,16 threads=1'
    assert read_settings(words.split()) == (
        dict(batch_size=250, lr=.17, normalize_filters=False, dropout_end=.2),
        dict(seed=0, precision='auto', widths=(8, 16), threads=1))
    assert read_settings(['normalize_filters=TRUE'])[0] == dict(normalize_filters=True)
    assert read_settings(['dropout_end=none'])[0] == dict(dropout_end=None)
    for word, problem in {'grow=2': "no setting 'grow'", 'shift=1.5': "shift cannot be '1.5'",
                          'normalize_filters=2': "normalize_filters cannot be '2'",
                          'lr': "lr cannot be ''"}.items():
        with pytest.raises(SystemExit, match=problem): read_settings([word])


def test_auroc(monkeypatch):
    monkeypatch.syspath_prepend(BENCHMARKS)
    from outliers import auroc
    few, many = torch.tensor([1., 2., 2.]), torch.tensor([2., 3.])
    assert auroc(few, many) == pytest.approx(5/6)   # 2 against 1, 2, 2; 3 against all: 2 + 3 of 6
    assert auroc(many, many) == .5


def test_results_are_kept_and_not_made_again(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(BENCHMARKS)
    import results as script
    trained = []
    def train(trial, folder):
        trained.append(folder.name)
        version = dict(cifar10_nbdev=VERSIONS['cifar10_nbdev'])
        return Record(status='complete', dataset='cifar10', model='fast', nepochs=2,
                      parameters=trial, recipe=asdict(recipe('fast', 2)), versions=version,
                      test_accuracy=.8)
    monkeypatch.setattr(script, 'RESULTS', tmp_path)
    monkeypatch.setattr(script, 'train', train)
    for _ in range(2): assert script.result('fast-2', seed=4).test_accuracy == .8
    assert trained == ['fast-2-epochs-seed-4']
    kept = tmp_path/'fast-2-epochs-seed-4.json'
    older = Record.from_text(kept.read_text())
    older.recipe['lr'] = .123
    kept.write_text(older.to_text())
    script.result('fast-2', seed=4)
    assert len(trained) == 2   # by another recipe
