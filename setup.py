"Packaging; every fact about the project stands in settings.ini, which nbdev reads too."
from configparser import ConfigParser
from pathlib import Path
from setuptools import setup

here = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(here/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']
link = f"]({cfg['git_url']}/raw/{cfg['branch']}/docs/"   # PyPI knows no relative links

def needs(*names): return ' '.join(cfg[f'{name}_requirements'] for name in names).split()

setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=(here/'README.md').read_text(encoding='utf-8').replace('](docs/', link),
    long_description_content_type='text/markdown',
    keywords=cfg['keywords'],
    author=cfg['author'],
    author_email=cfg['author_email'],
    url=cfg['git_url'],
    license='Apache-2.0',
    license_files=['LICENSE'],
    packages=[cfg['lib_name']],
    package_data={cfg['lib_name']: ['weights/*.safetensors']},
    python_requires=f">={cfg['min_python']}",
    install_requires=cfg['requirements'].split(),
    extras_require=dict(onnx=needs('onnx'), sweep=needs('sweep'), look=needs('look'),
                        mlflow=needs('mlflow'), trackio=needs('trackio'), wandb=needs('wandb'),
                        dev=needs('dev', 'onnx', 'sweep', 'look', 'trackio', 'wandb')),
    entry_points=dict(console_scripts=cfg['console_scripts'].split(),
                      nbdev=[f"{cfg['lib_name']}={cfg['lib_name']}._modidx:d"]),
    zip_safe=False,
)
