# Two commands for a fresh machine with git, make and Python 3.11 to 3.13; each makes its own virtual environment.
PYTHON ?= python3
PIP = .venv/bin/pip install --quiet --disable-pip-version-check --constraint ci/cpu.txt

.PHONY: demo test
demo: .venv
	$(PIP) .
	rm -rf demo
	.venv/bin/mspd protect examples/cat.png -o demo/cat.png
	.venv/bin/mspd verify examples/cat.png demo/cat.png

test: .venv
	$(PIP) --editable '.[dev]'
	PATH="$(CURDIR)/.venv/bin:$$PATH" scripts/check

.venv:
	$(PYTHON) -m venv .venv
