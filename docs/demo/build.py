"The page that runs a network in the browser, in one file: index.html with the exported network and onnxruntime-web packed into it."
import base64, gzip, json, sys
from configparser import ConfigParser
from pathlib import Path

import onnx

HERE = Path(__file__).resolve().parent

def build(
    model: Path,    # an .onnx file of cifar10_nbdev.export
    runtime: Path,  # the folder dist/ of the npm package onnxruntime-web
    out: Path       # the page
):
    pack = lambda path: base64.b64encode(gzip.compress(path.read_bytes(), 9, mtime=0)).decode()
    about = {p.key: json.loads(p.value) for p in onnx.load(model).metadata_props} | dict(megabytes=round(model.stat().st_size/1e6, 1))
    settings = ConfigParser(delimiters=['='])
    settings.read(HERE.parents[1]/'settings.ini')
    page = (HERE/'index.html').read_text(encoding='utf-8')
    for name, text in dict(GIT_URL=settings['DEFAULT']['git_url'], ABOUT=json.dumps(about).replace('<', r'\u003c'), PACKED_RUNTIME=pack(runtime/'ort.wasm.bundle.min.mjs'),
                           PACKED_WASM=pack(runtime/'ort-wasm-simd-threaded.wasm'), PACKED_MODEL=pack(model)).items(): page = page.replace(name, text, 1)
    out.write_text(page, encoding='utf-8')

if __name__ == '__main__': build(*map(Path, sys.argv[1:]))
