"A folder of one's own pictures: trained on, reported, used and refused, by users' commands."
import json, random, shutil

import pytest
from conftest import is_refusal
from PIL import Image

from cifar10_nbdev.compare import confused_pairs, images_of, read_run
from cifar10_nbdev.core import UserError
from cifar10_nbdev.shapes import make_shapes

ENDINGS = 'png JPG webp gif bmp tiff jpeg'.split()


def draw(place, counts, above=''):
    "A folder of drawn shapes of odd sizes: name of the class -> number of its pictures."
    r = random.Random(0)
    for k, (name, n) in enumerate(counts.items()):
        for i, image in enumerate(make_shapes(n, seed=k)[0]):
            size = r.randint(20, 90), r.randint(20, 90)
            file = place/above/name/f'{i}.{r.choice(ENDINGS)}'
            file.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(image.permute(1, 2, 0).numpy()).resize(size).save(file)
    return place


def train(project, **words):
    words = dict(dataset='folder', data_dir='mine', model='fast', nepochs=1, batch_size=16) | words
    return project.train(*(f'--{name}={value}' for name, value in words.items()))


def test_from_a_folder_to_a_prediction(project):
    mine = draw(project.root/'mine', {'a cat': 30, 'Hund': 9, '猫': 12})
    for junk in '.DS_Store', 'Thumbs.db', '__MACOSX/a cat/._0.png', 'a cat/later.heic':
        (mine/junk).parent.mkdir(parents=True, exist_ok=True)
        (mine/junk).write_bytes(b'junk')
    done = train(project)
    assert done.returncode == 0, done.stderr
    assert 'passed over' in done.stdout and '1 .heic' in done.stdout
    assert 'a fifth of each class' in done.stdout and 'balanced test accuracy' in done.stdout
    r = project.metrics()
    assert (r['dataset'], r['n_train'], r['n_test']) == ('folder', 41, 10)
    assert 0 <= r['balanced_accuracy'] <= 1 and len(r['confusion']) == 3
    assert project.check().returncode == 0
    again = train(project, output_dir='again')
    assert 'reading' not in again.stdout   # the decoded copy is there
    assert project.metrics('again')['weights_sha256'] == r['weights_sha256']

    file = str(next((mine/'Hund').iterdir()))
    said = project.forked('cifar10_nbdev.predict', file, '--model', 'output', '--json')
    top = json.loads(said.stdout)['pictures'][0]['top']
    assert {name for name, _ in top} == {'a cat', 'Hund', '猫'}

    run = read_run(project.out)
    run.record.parameters['data_dir'] = str(mine)
    assert images_of(run, say=print).fingerprint == r['data_fingerprint']
    assert len(confused_pairs(run.preds.confusion(), run.classes)) == 3


def test_many_classes(project):
    draw(project.root/'mine', {f'kind {k}': 3 for k in range(45)})
    done = train(project, subset=60)   # some classes have no training image then
    assert done.returncode == 0, done.stderr
    assert len(project.metrics()['confusion']) == 45
    with Image.open(project.out/'training_example_images.png') as im: assert im.width < 4000


def test_splits_of_ones_own_and_a_picture_in_both(project):
    for part, n in ('train', 20), ('test', 6):
        draw(project.root/'mine', {'a': n, 'b': n}, part)
    (project.root/'mine'/'test'/'a'/'copy.png').write_bytes(b'no picture')
    refused = train(project)
    assert is_refusal(refused), refused.stderr
    assert '1 of the 53 pictures' in refused.stderr and 'test/a/copy.png' in refused.stderr
    assert not (project.out/'metrics.json').exists()
    [first] = (project.root/'mine'/'train'/'a').glob('0.*')
    shutil.copy(first, project.root/'mine'/'test'/'b'/f'same{first.suffix}')
    done = train(project, skip_unreadable=True)
    assert done.returncode == 0, done.stderr
    warning = project.metrics()['warning']
    assert warning.startswith('1 of the 13 test pictures') and warning[:20] in done.stdout
    assert project.metrics()['n_test'] == 13


@pytest.mark.parametrize('counts, says', [
    ({'a': 3}, '2 to 1,000 classes'),
    ({'a': 3, 'val': 3}, 'name its two folders train and test'),
    ({'a': 3, 'b': 1}, 'class b'),
    (None, 'No such file or directory')])
def test_what_is_no_data_set_is_one_sentence(project, counts, says):
    (project.out/'kept').write_text('kept')
    if counts: draw(project.root/'mine', counts)
    refused = train(project)
    assert is_refusal(refused), refused.stderr
    assert says in refused.stderr
    assert [f.name for f in project.out.iterdir()] == ['kept']


def test_a_run_on_a_folder_that_is_gone_says_so(project):
    draw(project.root/'mine', {'a': 10, 'b': 10})
    assert train(project).returncode == 0
    run, lines = read_run(project.out), []
    run.record.parameters['data_dir'] = str(project.root/'gone')
    assert images_of(run, say=lines.append) is None and 'no images: ' in lines[0]
    with pytest.raises(UserError): read_run(project.root/'gone')
