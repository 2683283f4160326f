"""Lays the site's pages out as the repository is laid out, so that links between its files hold.

Notebooks without what only nbdev needs, the documents, and a page of reference for each module.
"""
import re
import shutil
import sys
from pathlib import Path

from execnb.nbio import write_nb
from nbdev.config import get_config
from nbdev.process import NBProcessor
from nbdev.processors import hide_

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = ('CHANGELOG.md', 'CONTRIBUTING.md', 'docs/images', 'docs/results',
             *sorted(f'docs/{p.name}' for p in (ROOT/'docs').glob('*.md')))
REFERENCE = """{title}
{line}

*Its notebook:* :doc:`/nbs/{stem}`

.. automodule:: {title}
   :members:
"""


def write(path: Path, text: str):
    "Write a file, its folder too."
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding='utf-8')


def notebook(path: Path, pages: Path):
    "A notebook's page, and the reference of the module that it exports."
    def default_exp_(cell, module):
        "A line that leads to the module's page, and that page."
        for key in ('outputs', 'execution_count'): cell.pop(key, None)
        link = f'*Exported to* [`cifar10_nbdev.{module}`](../api/{module}.rst)'
        cell.update(cell_type='markdown', source=link)
        title = f'cifar10_nbdev.{module}'
        text = REFERENCE.format(title=title, line='='*len(title), stem=path.stem)
        write(pages/'api'/f'{module}.rst', text)
    book = NBProcessor(path, procs=[hide_, default_exp_], process=True).nb
    page = pages/'nbs'/path.name
    write_nb(book, page)
    text = page.read_text(encoding='utf-8')
    write(page, text.replace(f'{ROOT}/', ''))   # a run says where it is; a reader is elsewhere


def link_demo(page: Path):
    "Where the site has a demo page of its own, links to the published one lead there."
    c = get_config()
    published = re.escape(f'{c.doc_host}{c.doc_baseurl}/demo.html')
    text = page.read_text(encoding='utf-8')
    write(page, re.sub(rf'\[([^]]+)\]\({published}\)', r'<a href="../demo.html">\1</a>', text))


def lay_out(
    pages: Path,          # the folder to fill
    executed: list[Path]  # notebooks shown instead of those of their name in nbs/
):
    shutil.rmtree(pages, ignore_errors=True)
    for name in DOCUMENTS:
        (pages/name).parent.mkdir(parents=True, exist_ok=True)
        copy = shutil.copytree if (ROOT/name).is_dir() else shutil.copy
        copy(ROOT/name, pages/name)
    if (ROOT/'build'/'demo'/'demo.html').exists():
        for page in (pages/'docs').glob('*.md'): link_demo(page)
    index = (ROOT/'docs'/'site'/'index.md').read_text(encoding='utf-8')
    write(pages/'index.md', index.replace('GIT_URL', get_config().git_url))
    (pages/'nbs').mkdir()
    paths = [*sorted((ROOT/'nbs').glob('[0-9]*.ipynb')), *executed]
    for path in {p.name: p for p in paths}.values(): notebook(path, pages)


if __name__ == '__main__': lay_out(Path(sys.argv[1]), [Path(p) for p in sys.argv[2:]])
