# Everything a developer types. `make` lists the targets.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
.NOTPARALLEL:

PYTHON := /usr/bin/python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.stamp
# On the system's Python: the sandbox needs no environment.
OAR_LXC := $(PYTHON) -Es -m oar_lxc.cli
# The Debian release of the sandbox's machines, and of `make fresh`: bookworm or trixie.
SUITE :=
OF_SUITE = $(if $(SUITE),--suite $(SUITE))
JOBS := 200
SEED := 1
# By another name: a recipe that says MAKE is run by `make -n` too.
SUBMAKE := $(MAKE) --no-print-directory

# What the host needs, and the only place that says so: for the sandbox; and besides, for the virtual
# environment and the Debian package, for what the code imports, for real LXC (fuse3 and strace for
# its tests), and for images. A fresh machine, which is a container, needs less of its host, and a
# virtual one, too.
SANDBOX_PACKAGES := \
	iproute2 lxc mmdebstrap nftables python3 \
	python3-click python3-psutil python3-rich python3-structlog
APT_PACKAGES := \
	$(SANDBOX_PACKAGES) \
	ca-certificates dpkg e2fsprogs make perl python3-venv \
	iperf3 iputils-ping tcpdump \
	python3-lxc \
	fuse3 lxcfs openssh-client procps \
	libcap2-bin skopeo squashfs-tools squashfs-tools-ng strace umoci xz-utils zstd
DEB_PACKAGES := dpkg python3 python3-click
FRESH_PACKAGES := git iproute2 lxc mmdebstrap nftables python3 python3-click
VM_PACKAGES := bc bison dpkg e2fsprogs flex gcc git libc6-dev make mmdebstrap perl python3 python3-click tar xz-utils

.PHONY: help
help: ## List the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# Tells every ten seconds, until the recipe ends, that it goes on.
BEAT := while sleep 10 >/dev/null 2>&1; do echo "… $$SECONDS s"; done & \
	trap "kill $$! 2>/dev/null || true" EXIT

.PHONY: demo
demo: need-host ## Show the main job on a real OAR cluster in containers; SUITE=trixie for Debian 13 (root)
	@$(SUBMAKE) setup APT_PACKAGES="$(SANDBOX_PACKAGES)"
	$(OAR_LXC) sandbox demo $(OF_SUITE)

.PHONY: test
test: need-host setup ## Run every check and test; take down the sandbox if it was not up before (root)
	@was_up=no lanes=()
	if $(OAR_LXC) sandbox status >/dev/null 2>&1; then was_up=yes; fi
	finish() {
		status=$$?
		trap - EXIT
		for lane in "$${lanes[@]}"; do
			kill -INT -- "-$$lane" 2>/dev/null || true
			while kill -0 -- "-$$lane" 2>/dev/null; do sleep 0.2; done
		done
		if [ $$was_up = no ]; then $(OAR_LXC) sandbox down || status=1; fi
		[ $$status = 0 ] || echo "make test: FAILED (status $$status)" >&2
		exit $$status
	}
	trap finish EXIT
	trap 'exit 130' INT
	trap 'exit 143' TERM HUP
	# Make the targets, one after the other; each line that they print begins with the target's name.
	lane() {
		bad=0
		for target in "$$@"; do
			SECONDS=0 word=passed
			$(SUBMAKE) $$target </dev/null 2>&1 | (trap "" INT; exec sed -u "s/^/$$target: /") ||
				word=FAILED bad=1
			echo "make test: $$target $$word after $$SECONDS s"
		done
		return $$bad
	}
	lane lint
	# Tests on real LXC and tests on a real OAR wait more than they compute: run them side by side.
	set -m  # each lane gets a process group
	lane e2e &
	lanes+=($$!)
	lane unit docs deb integration &
	lanes+=($$!)
	set +m
	failed=0
	for lane in "$${lanes[@]}"; do wait $$lane || failed=1; done
	lanes=()
	exit $$failed

.PHONY: lint
lint: venv ## Check style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

.PHONY: unit
unit: venv ## Run the unit tests (no root, no LXC)
	# What they leave in /tmp would be looked through by each destroy that is tested beside.
	$(BIN)/pytest --numprocesses=auto --dist=worksteal -o tmp_path_retention_policy=failed tests/unit

.PHONY: integration
integration: need-root setup venv ## Run the tests on real LXC (root)
	$(BIN)/pytest tests/integration

.PHONY: e2e
e2e: need-host setup venv ## Run the tests on a real OAR, in the sandbox; SUITE=trixie for Debian 13 (root)
	$(OAR_LXC) sandbox up $(OF_SUITE)
	$(BIN)/pytest tests/e2e

.PHONY: matrix
matrix: need-root setup venv ## Let jobs fail in every way, and count what is left; FAULT=name for one (root)
	$(OAR_LXC) sandbox up $(OF_SUITE)
	$(BIN)/python -m tests.matrix $(if $(FAULT),--fault $(FAULT)) $(MATRIX_OPTIONS)

.PHONY: properties
properties: venv ## Try the tests of properties with many examples, by SEED=1
	HYPOTHESIS_PROFILE=deep $(BIN)/pytest --numprocesses=auto --dist=worksteal -m hypothesis \
		--hypothesis-seed=$(SEED) tests/unit

.PHONY: mutation
mutation: venv ## Change the code in small ways, and list what no test notices; MUTANTS=pattern
	# In an environment of its own: it has newer versions of what the package uses.
	$(PYTHON) -m venv --system-site-packages $(VENV)/mutation
	$(VENV)/mutation/bin/python -m pip install -qq --disable-pip-version-check --editable '.[dev,mutation]'
	$(VENV)/mutation/bin/mutmut run $(if $(MUTANTS),'$(MUTANTS)')
	$(VENV)/mutation/bin/mutmut results

.PHONY: soak
soak: need-root setup venv properties ## Run JOBS=200 jobs with faults at random, by SEED=1 (root)
	HYPOTHESIS_PROFILE=deep $(BIN)/pytest -m hypothesis --hypothesis-seed=$(SEED) tests/integration
	$(OAR_LXC) sandbox up
	$(BIN)/python -m tests.matrix.soak --jobs $(JOBS) --seed $(SEED)

.PHONY: bench
bench: need-root setup venv ## Measure, and print a table; BENCH=row for one (root)
	# For the stock tools that it measures beside.
	@$(SUBMAKE) setup APT_PACKAGES=uidmap
	$(BIN)/python -m tests.bench $(BENCH) $(BENCH_OPTIONS)

.PHONY: fresh
fresh: need-root ## Run FRESH='make demo; make test' on a fresh Debian, by SUITE=bookworm, in a clone of HEAD (root)
	@$(SUBMAKE) setup APT_PACKAGES="$(FRESH_PACKAGES)"
	$(PYTHON) -m tests.fresh $(OF_SUITE) $${PLACE:+--place "$$PLACE"} $${FRESH:+"$$FRESH"}

.PHONY: vm
vm: ## Run VM='command', or the tests that need another kernel, in a virtual Debian 13 (root)
	@if [ -x $(PYTHON) ]; then $(PYTHON) -Es -m tests.vm.needs; fi
	$(SUBMAKE) setup APT_PACKAGES="$(VM_PACKAGES)"
	$(PYTHON) -m tests.vm --tools="$(APT_PACKAGES)" $(VM_OPTIONS) $${VM:+"$$VM"}

.PHONY: docs
docs: venv ## Build the documentation in docs/_build/html, and run its examples
	$(BIN)/python docs/rooms.py --check
	$(BIN)/python docs/topologies.py --check
	$(BIN)/sphinx-build -q -W --keep-going -b html docs docs/_build/html
	$(BIN)/sphinx-build -q -W --keep-going -b doctest docs docs/_build/doctest

.PHONY: deb
deb: ## Build the Debian package in dist/
	@$(SUBMAKE) setup APT_PACKAGES="$(DEB_PACKAGES)"
	$(PYTHON) -Es -m oar_lxc.setup.deb --output dist

.PHONY: venv
venv: $(STAMP) ## Make the virtual environment .venv

# System site packages: pip takes what apt installed, and sees the LXC bindings, which it must not
# try to build. The stamp comes last, so that what was interrupted is done again.
$(STAMP): pyproject.toml setup.py
	@if ! $(PYTHON) -c 'import ensurepip, venv' 2>/dev/null; then
		if [ "$$(id -u)" != 0 ]; then
			echo "make: python3-venv is missing; as root: apt-get install python3-venv" >&2
			exit 1
		fi
		$(SUBMAKE) setup
	fi
	echo "making the virtual environment $(VENV)"
	$(BEAT)
	$(PYTHON) -m venv --system-site-packages $(VENV)
	$(BIN)/python -m pip install -qq --disable-pip-version-check --editable '.[dev]'
	touch $(STAMP)

.PHONY: setup
setup: ## Install the Debian packages that the host needs (root)
	@missing=()
	for package in $(APT_PACKAGES); do
		status="$$(dpkg-query --show --showformat='$${db:Status-Status}' $$package 2>/dev/null || true)"
		if [ "$$status" != installed ]; then missing+=($$package); fi
	done
	if [ $${#missing[@]} = 0 ]; then exit 0; fi
	if [ "$$(id -u)" != 0 ]; then
		echo "make: missing on this machine: $${missing[*]}; run \`make setup\` as root" >&2
		exit 1
	fi
	echo "installing $${missing[*]}"
	# Nothing here needs a service to be started, and LXC's waits half a minute for a bridge where
	# it is started in a container.
	export DEBIAN_FRONTEND=noninteractive SYSTEMD_OFFLINE=1
	$(BEAT)
	for step in update "install -y --no-install-recommends $${missing[*]}"; do
		said="$$(apt-get -qq $$step </dev/null 2>&1)" || { echo "$$said" >&2; exit 1; }
	done

.PHONY: need-root
need-root:
	@if [ "$$(id -u)" != 0 ]; then echo "make: this target needs root" >&2; exit 1; fi

# Before anything else is installed or built: whether this machine can do it, and if not, what can.
.PHONY: need-host
need-host: need-root
	@if command -v apt-get >/dev/null && [ ! -x $(PYTHON) ]; then
		$(SUBMAKE) setup APT_PACKAGES=python3
	fi
	if [ ! -x $(PYTHON) ] || ! command -v apt-get >/dev/null ||
		! $(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
		echo "make: this machine is not Debian 12 or later, which has apt-get and Python 3.11:" \
			"run it on one, such as a virtual machine" >&2
		exit 1
	fi
	$(PYTHON) -Es -m oar_lxc.sandbox.check_host $(OF_SUITE)

.PHONY: clean
clean: ## Take the sandbox down; remove the virtual environment and all build outputs
	@if [ -e /var/lib/oar-lxc-sandbox ]; then $(OAR_LXC) sandbox down; fi
	rm -rf $(VENV) build dist mutants docs/_build docs/_generated *.egg-info .mypy_cache .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# A recipe is one shell script.
.ONESHELL:
