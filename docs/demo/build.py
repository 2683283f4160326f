"""The page that runs a network in the browser, as one file: index.html with the exported network
and onnxruntime-web packed into it."""
import base64, gzip, json, re, sys
from configparser import ConfigParser
from pathlib import Path

import onnx

from cifar10_nbdev.core import write_atomic

HERE = Path(__file__).resolve().parent


def pack(path: Path) -> str:
    "A file as base64 of gzip, which the page unpacks."
    return base64.b64encode(gzip.compress(path.read_bytes(), 9, mtime=0)).decode()


def about(model: Path) -> str:
    "What the page has to know of the network, as JSON that is safe inside a script element."
    facts = {p.key: json.loads(p.value) for p in onnx.load(model).metadata_props}
    facts['megabytes'] = round(model.stat().st_size/1e6, 1)
    return json.dumps(facts).replace('<', r'\u003c')


def git_url() -> str:
    "The project's address."
    settings = ConfigParser(delimiters=['='])
    settings.read(HERE.parents[1]/'settings.ini')
    return settings['DEFAULT']['git_url']


def build(
    model: Path,    # an .onnx file of cifar10_nbdev.export
    runtime: Path,  # the folder dist/ of the npm package onnxruntime-web
    out: Path       # the page
):
    "Write the page: index.html with its marks replaced, all at once: what they bring is no mark."
    marks = dict(GIT_URL=git_url(), ABOUT=about(model), PACKED_MODEL=pack(model),
                 PACKED_RUNTIME=pack(runtime/'ort.wasm.bundle.min.mjs'),
                 PACKED_WASM=pack(runtime/'ort-wasm-simd-threaded.wasm'))
    page = (HERE/'index.html').read_text(encoding='utf-8')
    page = re.sub('|'.join(marks), lambda found: marks[found[0]], page)
    write_atomic(out, page)


if __name__ == '__main__': build(*map(Path, sys.argv[1:]))
