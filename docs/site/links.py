"Dead links of the built site: pages, files and anchors that are not in it, files that Colab would not find in the repository. (linkchecker takes two minutes for the same, and becomes another user where it is root.)"
import sys
from pathlib import Path
from urllib.parse import unquote, urlsplit

from bs4 import BeautifulSoup

ROOT = Path(__file__).resolve().parents[2]

def dead_links(
    site: Path  # the folder with index.html
) -> list[str]: # 'page: link'
    soups = {page: BeautifulSoup(page.read_text(encoding='utf-8'), 'html.parser') for page in site.resolve().rglob('*.html') if page.parent.name != '_static'}   # the theme's templates
    anchors = {page: {'', *(e['id'] for e in soup.select('[id]'))} for page, soup in soups.items()}
    def alive(page: Path, link: str) -> bool:
        url = urlsplit(link)
        if url.netloc == 'colab.research.google.com': return (ROOT/unquote(url.path.split('/', 6)[6])).is_file()   # /github/user/repository/blob/branch/file
        if url.scheme: return True
        target = (page.parent/unquote(url.path)).resolve() if url.path else page
        return target.is_file() and url.fragment in anchors.get(target, [url.fragment])
    return sorted({f'{page.relative_to(site.resolve())}: {link}' for page, soup in soups.items() for e in soup.select('[href], [src]')
                   if not alive(page, link := e.get('href', e.get('src')))})

if __name__ == '__main__':
    dead = dead_links(Path(sys.argv[1]))
    sys.exit('\n'.join(['Error: dead links', *dead]) if dead else 0)
