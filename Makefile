# Two commands for a fresh machine with git, make and Python 3.11 to 3.13; each makes its own virtual environment.
PYTHON ?= python3
PIP = .venv/bin/pip install --quiet --disable-pip-version-check --constraint ci/cpu.txt

.PHONY: demo extras test
demo: .venv
	@echo "installing about 1 GB, which takes some minutes"
	$(PIP) .
	rm -rf demo
	.venv/bin/mspd protect examples/bee.jpg -o demo/bee.png
	.venv/bin/mspd verify examples/bee.jpg demo/bee.png
	@echo "now one of yours: .venv/bin/mspd protect PICTURE"

# so that the tests skip nothing: the libraries behind the optional extras, and the static page (needs Node and npm)
extras: .venv
	$(PIP) --editable '.[dev,scale,pipelines]'
	$(PIP) --no-deps 'robustbench>=1.1.1'
	PATH="$(CURDIR)/.venv/bin:$$PATH" web/build.sh

test: .venv
	$(PIP) --editable '.[dev]'
	PATH="$(CURDIR)/.venv/bin:$$PATH" scripts/check

.venv:
	$(PYTHON) -m venv .venv || { rm -rf .venv; exit 1; }
