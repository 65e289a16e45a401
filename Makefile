# visrec: building, installing and testing. `make help` lists the targets.
#
# A PGXS makefile (`make && sudo make install && make installcheck`) with targets for the
# rest around it; those install what is missing, PGXS itself included.

# What may be given on the command line -------------------------------------------------

PG_CONFIG ?= pg_config
export PG_CONFIG

# Everything the server runs; one place for all PostgreSQL versions, as pg_upgrade and
# a function's body expect.
VISREC_HOME = /usr/local/lib/visrec
VISREC_BIN = /usr/local/bin
# Where images and models are looked for, unless visrec.setting says otherwise.
VISREC_DATA = /var/lib/visrec

# torch in the server's Python environment: cpu, cuda, none. Unsaid: what is there; else cuda
# beside an NVIDIA driver, cpu without.
TORCH =
# A test file, or other arguments for pytest: `make test TESTS=tests/unit`.
TESTS =
# For the demo: a directory of pictures instead of drawn ones; a model instead of CLIP.
IMAGES =
MODEL =
# Pictures that `make bench` embeds, instead of 1000.
N =
# The trees of `make matrix`, instead of all; its other arguments.
TREES =
MATRIX =
# How long `make soak` takes, instead of 15; another seed than 1.
MINUTES =
SEED =
# The demo of `pixels` needs no torch.
ifeq ($(MAKECMDGOALS) $(MODEL),demo pixels)
TORCH = any
endif
# `make uninstall PGVECTOR=remove` removes the pgvector that make deps built, used or not.
PGVECTOR =
# How to become root; empty when VISREC_* and PG_CONFIG lie in places of one's own.
AS_ROOT = scripts/as-root.sh

# The extension -------------------------------------------------------------------------

EXTVERSION := $(shell sed -n "s/^default_version = '\(.*\)'/\1/p" extension/visrec.control)
SYSTEM_PYTHON = /usr/bin/python3

# The install script's parts: their numbers give the order, across both directories.
SQL_PARTS = $(shell ls sql/*.sql plpython/*.sql | LC_ALL=C sort -t/ -k2)

EXTENSION = extension/visrec
# Install scripts of earlier versions, as they were released, and the upgrades between versions.
RELEASED = $(filter-out extension/visrec--$(EXTVERSION).sql,$(wildcard extension/visrec--*.sql))
DATA_built = build/visrec--$(EXTVERSION).sql $(RELEASED:extension/%=build/%)
REGRESS = $(sort $(basename $(notdir $(wildcard tests/regress/sql/*.sql))))
REGRESS_OPTS = --inputdir=tests/regress --outputdir=build/regress
EXTRA_CLEAN = build

.DEFAULT_GOAL := all
.NOTPARALLEL:

# Debian's client package has it: nothing here needs the server's headers.
PGXS := $(shell $(PG_CONFIG) --pgxs 2>/dev/null)
ifneq ($(wildcard $(PGXS)),)
include $(PGXS)
install: install-home
uninstall: uninstall-home
else
# pgxs.mk is missing, or was when this make began.
all install uninstall installcheck:
	@[ -e "$$('$(PG_CONFIG)' --pgxs)" ] || { echo 'error: no pgxs.mk for $(PG_CONFIG)' >&2; \
	    echo '  fix: make deps, or install the files that extensions of that PostgreSQL are built with' >&2; exit 1; }
	@$(MAKE) --no-print-directory $@
clean:
	rm -rf build
endif

build/visrec--$(EXTVERSION).sql: $(SQL_PARTS)
$(RELEASED:extension/%=build/%): build/%: extension/%
$(DATA_built): build/made-for
	sed 's|@VISREC_PYTHON@|$(VISREC_HOME)/python|g' $(filter %.sql,$^) >$@.tmp
	mv $@.tmp $@

# Changes with VISREC_HOME and the version, so that all is then built anew.
build/made-for: FORCE
	@mkdir -p build
	@echo '$(VISREC_HOME) $(EXTVERSION)' | cmp -s - $@ || echo '$(VISREC_HOME) $(EXTVERSION)' >$@

# The Python package, the command, and the directories for images and models. The package
# is copied beside its place first: a session that starts meanwhile finds all or nothing.
home = $(DESTDIR)$(VISREC_HOME)
.PHONY: install-home
install-home:
	umask 022 && mkdir -p '$(home)/python' '$(DESTDIR)$(VISREC_BIN)' \
	    '$(DESTDIR)$(VISREC_DATA)/images' '$(DESTDIR)$(VISREC_DATA)/models'
	rm -rf '$(home)/python/visrec_db.new'
	umask 022 && cp -R python/visrec_db '$(home)/python/visrec_db.new'
	find '$(home)/python/visrec_db.new' -name __pycache__ -exec rm -rf {} +
	chmod -R u=rwX,go=rX '$(home)/python/visrec_db.new'
	rm -rf '$(home)/python/visrec_db'
	mv '$(home)/python/visrec_db.new' '$(home)/python/visrec_db'
	umask 022 && $(SYSTEM_PYTHON) -m compileall -q $(if $(DESTDIR),-s '$(DESTDIR)') '$(home)/python'
	sed 's|@VISREC_HOME@|$(VISREC_HOME)|g' scripts/visrec >'$(DESTDIR)$(VISREC_BIN)/visrec'
	chmod 755 '$(DESTDIR)$(VISREC_BIN)/visrec'
	@[ -n '$(DESTDIR)' ] || [ -e '$(VISREC_HOME)/venv' ] || echo 'Next: make venv'

# For all PostgreSQL versions at once. Images and models stay.
.PHONY: uninstall-home
uninstall-home:
ifeq ($(DESTDIR),)
	@PGVECTOR='$(PGVECTOR)' scripts/uninstall.sh '$(VISREC_HOME)' '$(VISREC_BIN)' '$(VISREC_DATA)'
else
	rm -rf '$(home)' '$(DESTDIR)$(VISREC_BIN)/visrec' '$(DESTDIR)$(VISREC_DATA)'
endif

# What people use -----------------------------------------------------------------------

.PHONY: help deps venv test test-slow soak demo demo-stop bench matrix lint format FORCE

help: ## this list
	@echo 'make; make install; make installcheck; make uninstall; make clean: as with any PGXS extension'
	@awk -F ':.* ## ' '/^[a-z-]+:.* ## / {printf "make %-10s %s\n", $$1, $$2}' $(firstword $(MAKEFILE_LIST))

deps: ## install what is missing: PostgreSQL, PL/Python, pgvector, Python's venv
	@VISREC_HOME='$(VISREC_HOME)' scripts/install-deps.sh

venv: ## make the server's Python environment; TORCH=cpu, cuda or none (compiled models and pixels only)
	@$(if $(DESTDIR),echo 'skipped: an environment is made in its place', \
	    scripts/make-venv.sh '$(VISREC_HOME)/venv' requirements/runtime.txt --torch '$(TORCH)')

test: dev-venv installed ## run all tests but the slow ones; TESTS=tests/unit runs those only
	@scripts/test.sh $(TESTS)

test-slow: dev-venv installed ## run the slow tests
	@scripts/test.sh -m slow

soak: installed ## kill, crowd and fill a server for a quarter of an hour; MINUTES=3 for less
	@scripts/soak.sh '$(VISREC_HOME)/venv/bin/python' $(if $(MINUTES),--minutes '$(MINUTES)') $(if $(SEED),--seed '$(SEED)')

# The names as they were given: a "$" in them is no variable of make's.
demo: export DEMO_IMAGES := $(value IMAGES)
demo: export DEMO_MODEL := $(value MODEL)
demo: ## show it at work, on drawn pictures or those in IMAGES=DIRECTORY
	@scripts/quietly.sh build/demo/install.log 'installing what is missing, and starting a PostgreSQL' \
	    $(MAKE) --no-print-directory demo-server 'TORCH=$(TORCH)'
	@env=$$(scripts/cluster.sh env demo) && eval "$$env" && \
	    PYTHONPATH=python:demo PYTHONDONTWRITEBYTECODE=1 '$(VISREC_HOME)/venv/bin/python' demo/run.py \
	    --output build/demo --images "$$DEMO_IMAGES" --model "$$DEMO_MODEL"

.PHONY: demo-server
demo-server: installed
	@scripts/cluster.sh start demo

demo-stop: ## stop the demo's PostgreSQL and remove it; a model that it fetched stays
	@scripts/cluster.sh stop demo --remove
	@scripts/cluster.sh kept demo

bench: installed ## measure speed, waits, memory and parity; N=200 takes 200 pictures, not 1000
	@scripts/bench.sh '$(VISREC_HOME)/venv/bin/python' $(if $(N),--pictures '$(N)')

matrix: ## install, demo and tests in clean Debian trees (hours); TREES="12 13" for some
	@scripts/matrix.sh $(if $(TORCH),--torch '$(TORCH)') $(if $(TESTS),--tests '$(TESTS)') $(MATRIX) $(TREES)

lint: dev-venv ## check formatting, style, types, shell scripts and versions
	.venv/bin/ruff format --check
	.venv/bin/ruff check
	.venv/bin/mypy
	.venv/bin/shellcheck scripts/* docker/*.sh tests/matrix/*.sh .ci/run
	scripts/check-version.sh '$(EXTVERSION)' $(SQL_PARTS)

format: dev-venv ## format the Python code
	.venv/bin/ruff format
	.venv/bin/ruff check --fix

# How they get there --------------------------------------------------------------------

# The developer's environment. It sees the server's, so that torch is there once.
.PHONY: dev-venv
dev-venv: deps venv
	@scripts/make-venv.sh .venv requirements/dev.txt --seen '$(VISREC_HOME)/venv'

# Installs, unless what is installed is already what would be: then nobody needs root.
.PHONY: installed
installed: deps venv
	@[ ! -e build ] || [ -w build ] || { echo 'error: build/ is not yours: an earlier make ran as root' >&2; \
	    echo '  fix: sudo rm -rf build' >&2; exit 1; }
	@rm -rf build/stage
	@$(MAKE) -s --no-print-directory install DESTDIR='$(CURDIR)/build/stage'
	@scripts/is-installed.sh build/stage '$(VISREC_HOME)' || $(AS_ROOT) \
	    $(MAKE) -s --no-print-directory install "PG_CONFIG=$$(command -v $(PG_CONFIG))" \
	    'VISREC_HOME=$(VISREC_HOME)' 'VISREC_BIN=$(VISREC_BIN)' 'VISREC_DATA=$(VISREC_DATA)'
