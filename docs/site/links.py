"""Dead links of the built site: pages, files and anchors that are not in it.

Links that open a notebook in Colab or Kaggle are followed into the repository. (linkchecker takes
two minutes for the same, and becomes another user where it is root.)
"""
import re
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]


def dead_links(
    site: Path  # the folder with index.html
) -> list[str]: # 'page: link'
    site, soups = site.resolve(), {}
    for page in site.rglob('*.html'):
        if page.parent.name == '_static': continue   # the theme's templates
        soups[page] = BeautifulSoup(page.read_text(encoding='utf-8'), 'html.parser')
    anchors = {page: {'', *(e['id'] for e in soup.select('[id]'))} for page, soup in soups.items()}

    def alive(page: Path, link: str) -> bool:
        url = urlsplit(link)
        opened = re.search(r'/(colab|kaggle)\..*/blob/\w+/(.+\.ipynb)$', link)   # a file of ours
        if opened: return (ROOT/unquote(opened[2])).is_file()
        if url.scheme: return True
        target = (page.parent/unquote(url.path)).resolve() if url.path else page
        return target.is_file() and url.fragment in anchors.get(target, [url.fragment])

    dead = set()
    for page, soup in soups.items():
        links = [e.get('href', e.get('src')) for e in soup.select('[href], [src]')]
        dead |= {f'{page.relative_to(site)}: {link}' for link in links if not alive(page, link)}
    return sorted(dead)


if __name__ == '__main__':
    dead = dead_links(Path(sys.argv[1]))
    sys.exit('\n'.join(['Error: dead links', *dead]) if dead else 0)
