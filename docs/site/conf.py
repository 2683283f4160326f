"""The site's settings.

`docs/site/pages.py` lays out the pages; every fact about the project comes from settings.ini.
"""
import re
from configparser import ConfigParser
from inspect import formatannotation
from pathlib import Path

from docutils import nodes
from fastcore.docments import docments, empty
from sphinx.transforms.post_transforms import SphinxPostTransform
from sphinx.util.nodes import make_refnode
from sphinx.util.rst import escape

parser = ConfigParser(delimiters=['='])
parser.read(Path(__file__).parents[2]/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']

project, author = cfg['lib_name'], cfg['author']
release, copyright = cfg['version'], cfg['copyright']
html_title = project
extensions = ['myst_nb', 'sphinx.ext.autodoc', 'sphinx_copybutton']

# notebooks and Markdown
nb_execution_mode = 'off'          # `make docs` executed those that need it
nb_merge_streams = True
nb_render_markdown_format = 'myst'   # tables in outputs
myst_heading_anchors = 3
# reference: types and comments come from docments, below
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'
autodoc_preserve_defaults = True   # as they are written, not as they print
add_module_names = False
toc_object_entries_show_parents = 'hide'
default_role = 'literal'           # backticks are Markdown's, in docstrings too

html_theme = 'sphinx_book_theme'
html_static_path = ['static']
html_css_files = ['site.css']
demo = Path(__file__).parents[2]/'build'/'demo'/'demo.html'    # `make docs` builds it if it can
html_extra_path = [str(demo)] if demo.exists() else []
html_theme_options = dict(
    repository_url=cfg['git_url'], repository_branch=cfg['branch'], path_to_docs='',
    use_repository_button=True,
    launch_buttons=dict(colab_url='https://colab.research.google.com'),
    navbar_persistent=[],          # the sidebar has a search field already
    show_toc_level=2, pygments_dark_style='github-dark')
html_context = dict(default_mode='auto')


def rst(text):
    "Words with Markdown's backticks, and nothing else that reStructuredText would interpret."
    parts = text.split('`')
    return ''.join(f'``{part}``' if i % 2 else escape(part) for i, part in enumerate(parts))


def field(param, about, what):
    "The lines of one parameter, or of what comes back; none where there is nothing to say."
    kind = ''
    if about.anno is not empty:
        kind = rst('`' + re.sub(r'\w+\.', '', formatannotation(about.anno)).strip("'") + '`')
    text = rst(about.docment or '')
    if param != 'return':
        return ['', f':param {param}: {text}', *([f':type {param}: {kind}'] if kind else [])]
    if what == 'class' or about.anno in (empty, None): return []
    return ['', ':returns: ' + ' – '.join(filter(None, (kind, text)))]


def with_docments(app, what, name, obj, options, lines):
    "A docstring, and the comment behind each parameter and behind what comes back, as a list."
    lines[:] = [rst(line) for line in lines]
    if what not in ('function', 'method', 'class'): return
    if what == 'class' and '__init__' not in vars(obj): return   # one that came from elsewhere
    for param, about in docments(obj, full=True, args_kwargs=True).items():
        if param != 'self': lines += field(param, about, what)


class Links(SphinxPostTransform):
    "A notebook's name in backticks leads to its page, an exported name to its reference."
    default_priority = 5

    def run(self):
        pages = (page for page in self.env.found_docs if page.startswith('nbs/'))
        targets = {page.split('/')[1]: (page, '') for page in pages}
        for name, entry in self.env.get_domain('py').objects.items():
            short = name.removeprefix(f'{project}.')
            # one plain word may well be a parameter's name, or a command's
            names = [n for n in (short, short.partition('.')[2]) if re.search('[A-Z_.]', n)]
            targets |= dict.fromkeys([name, *names], (entry.docname, entry.node_id))
        for node in self.document.findall(nodes.literal):
            name = re.sub(r'^nbs/|\.ipynb$|\(\)$', '', node.astext())
            page, anchor = targets.get(name, (None, ''))
            here = (page, anchor) == (self.env.docname, '')
            if not page or here or isinstance(node.parent, (nodes.reference, nodes.title)): continue
            node.replace_self(make_refnode(self.app.builder, self.env.docname, page, anchor,
                                           node.deepcopy()))


def setup(app):
    app.connect('autodoc-process-docstring', with_docments)
    app.add_post_transform(Links)
