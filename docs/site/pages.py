"Lays the site's pages out as the repository is laid out, so that links between its files hold: notebooks without what nbdev alone needs, the documents, a page of reference a module."
import shutil, sys
from pathlib import Path

from execnb.nbio import write_nb
from nbdev.config import get_config
from nbdev.processors import hide_
from nbdev.process import NBProcessor

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = 'CHANGELOG.md', 'CONTRIBUTING.md', 'docs/burst.md', 'docs/lab-log.md', 'docs/images', 'docs/results'

def write(path: Path, text: str):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')

def lay_out(
    pages: Path,         # the folder to fill
    executed: list[Path] # notebooks that are shown instead of those of their name in nbs/, which have no outputs
):
    shutil.rmtree(pages, ignore_errors=True)
    for name in DOCUMENTS:
        (pages/name).parent.mkdir(parents=True, exist_ok=True)
        (shutil.copytree if (ROOT/name).is_dir() else shutil.copy)(ROOT/name, pages/name)
    write(pages/'index.md', (ROOT/'docs'/'site'/'index.md').read_text(encoding='utf-8').replace('GIT_URL', get_config().git_url))
    (pages/'nbs').mkdir()
    for path in {p.name: p for p in [*sorted((ROOT/'nbs').glob('[0-9]*.ipynb')), *executed]}.values():
        def default_exp_(cell, module):
            "A line that leads to the module's page, and that page."
            for key in ('outputs', 'execution_count'): cell.pop(key, None)
            cell.update(cell_type='markdown', source=f'*Exported to* [`cifar10_nbdev.{module}`](../api/{module}.rst)')
            title = f'cifar10_nbdev.{module}'
            write(pages/'api'/f'{module}.rst', f'{title}\n{"="*len(title)}\n\n*Its story:* :doc:`/nbs/{path.stem}`\n\n.. automodule:: {title}\n   :members:\n')
        book = NBProcessor(path, procs=[hide_, default_exp_], process=True).nb
        write_nb(book, page := pages/'nbs'/path.name)
        write(page, page.read_text(encoding='utf-8').replace(f'{ROOT}/', ''))   # a run says where it is; a reader is elsewhere

if __name__ == '__main__': lay_out(Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]])
