"Parameters, right and wrong: any of them is taken as documented, or refused in one sentence before a file is touched."
import keyword, os

from hypothesis import HealthCheck, given, settings, strategies as st

import cifar10_nbdev.train
from cifar10_nbdev.core import UserError
from cifar10_nbdev.params import SPECS, check
from cifar10_nbdev.run import start

DEFAULTS = {n: getattr(cifar10_nbdev.train, n) for n in SPECS}

odd = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=50), st.binary(max_size=5), st.lists(st.integers(), max_size=2),
                st.sampled_from(['', ' ', 'nan', 'inf', '1e400', '-0', '0x10', '1_000', '٣', '\0', 'None', 'true', 'x'*10_000, 10**400, -1, 0, 1, 2, 0.5, 1e-3, 'auto', 'cnn', 'cuda:0', '\ud800', '../..', '~nobody']))
names = st.one_of(st.sampled_from(list(SPECS)), st.sampled_from(list(SPECS)).map(lambda n: n[:-1]), st.text(max_size=20), st.just('x'*10_000))


@settings(max_examples=500, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@given(st.dictionaries(names, odd, max_size=4))
def test_any_parameters_are_accepted_or_refused_in_one_sentence(tmp_path_factory, given):
    home = tmp_path_factory.getbasetemp()/'empty'
    home.mkdir(exist_ok=True)
    injected = [n for n in given if n.isidentifier() and not keyword.iskeyword(n)]
    before = os.getcwd(); os.chdir(home)
    try: run = start({**DEFAULTS, 'device': 'cpu', 'verbose': 0, **given, 'In': ['# Parameters\n' + ''.join(f'{n} = 1\n' for n in injected)]})
    except UserError as e: assert 10 < len(str(e)) < 500 and '\n' not in str(e), e
    else:
        assert all(n in SPECS for n in injected)
        for n, v in run.p.items(): assert v is None or isinstance(v, str) or v in (True, False) or SPECS[n].ok(v)
        assert check(run.p) == run.p                                    # what was accepted stays what it is
    finally: os.chdir(before)
    assert not list(home.iterdir())


BAD = [['--nepochs', 'many'], ['--lr', 'nan', '--seed', '-1'], ['--nepoch', '3'], ['--output_dir', ''], ['--output_dir', '\udcff'*300], ['--model', 'x'*5000], ['--precision', 'float8'],
       ['--batch_size'], ['--resume', 'perhaps'], ['--' + 'n'*5000, '1']]


def test_a_process_refuses_in_one_sentence(project):
    before = project.files('.')
    ended = [project.train('--dataset', 'shapes10', *words) for words in BAD]
    assert ended[BAD.index(['--nepoch', '3'])].stderr == "Error: there is no parameter 'nepoch': did you mean nepochs?\n"
    for done in ended:
        said = done.stderr
        assert done.returncode == 2 and said.startswith('Error: ') and said.count('\n') == 1 and len(said) < 500, said
    assert project.files('.') == before
