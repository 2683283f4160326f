"""Parameters, right and wrong: any of them is taken as documented, or refused in one sentence
before a file is touched."""
import keyword, os

from hypothesis import HealthCheck, given, settings, strategies as st

import cifar10_nbdev.train
from conftest import is_refusal
from cifar10_nbdev.core import UserError
from cifar10_nbdev.params import SPECS, check_params, defaults_of
from cifar10_nbdev.run import start

DEFAULTS = defaults_of(cifar10_nbdev.train)

known = st.sampled_from([
    '', ' ', 'nan', 'inf', '1e400', '-0', '0x10', '1_000', '٣', '\0', 'None', 'true', 'x'*10_000,
    10**400, -1, 0, 1, 2, 0.5, 1e-3, 'auto', 'cnn', 'cuda:0', '\ud800', '../..', '~nobody'])
odd = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=50),
    st.binary(max_size=5), st.lists(st.integers(), max_size=2), known)
names = st.one_of(
    st.sampled_from(list(SPECS)), st.sampled_from(list(SPECS)).map(lambda n: n[:-1]),
    st.text(max_size=20), st.just('x'*10_000))


def allowed(name, value):
    "Whether a parameter's value, once accepted, is one of those that are documented."
    return value is None or isinstance(value, (str, bool)) or SPECS[name].ok(value)


def papermill_cell(names):
    "The cell that papermill injects."
    return '# Parameters\n' + ''.join(f'{n} = 1\n' for n in names)


@settings(max_examples=500, deadline=None, derandomize=True,
          suppress_health_check=list(HealthCheck))
@given(st.dictionaries(names, odd, max_size=4))
def test_any_parameters_are_accepted_or_refused_in_one_sentence(tmp_path_factory, given):
    home = tmp_path_factory.getbasetemp()/'empty'
    home.mkdir(exist_ok=True)
    injected = [n for n in given if n.isidentifier() and not keyword.iskeyword(n)]
    fixed = dict(device='cpu', verbose=0)
    before = os.getcwd()
    os.chdir(home)
    try: run = start({**DEFAULTS, **fixed, **given, 'In': [papermill_cell(injected)]})
    except UserError as e: assert 10 < len(str(e)) < 500 and '\n' not in str(e), e
    else:
        assert all(n in SPECS for n in injected)
        for n, v in run.p.items(): assert allowed(n, v), (n, v)
        assert check_params(run.p) == run.p                 # what was accepted stays what it is
    finally: os.chdir(before)
    assert not list(home.iterdir())


MISSPELLED = ['--nepoch', '3']
BAD = [
    MISSPELLED, ['--nepochs', 'many'], ['--lr', 'nan', '--seed', '-1'], ['--output_dir', ''],
    ['--output_dir', '\udcff'*300], ['--model', 'x'*5000], ['--precision', 'float8'],
    ['--batch_size'], ['--resume', 'perhaps'], ['--' + 'n'*5000, '1']]


def test_a_process_refuses_in_one_sentence(project):
    before = project.files('.')
    ended = [project.train('--dataset', 'shapes10', *words) for words in BAD]
    assert ended[0].stderr == "Error: there is no parameter 'nepoch': did you mean nepochs?\n"
    for done in ended: assert is_refusal(done) and len(done.stderr) < 500, done.stderr
    assert project.files('.') == before
