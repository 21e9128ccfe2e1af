# The newcomer's door; meson does the work. `make help` lists the targets.
BUILD   ?= build
PREFIX  ?= /usr/local
DESTDIR ?=
MESON   ?= meson

.PHONY: all demo check nightly install format clean help

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

$(BUILD)/build.ninja:
	@scripts/packages build
	@$(MESON) setup $(BUILD) --prefix=$(abspath $(PREFIX)) >/dev/null

demo: all
	@$(BUILD)/svq-demo

# Everything that this machine can run; ends with "N passed, N failed, N skipped".
check: $(BUILD)/build.ninja
	@scripts/packages build check
	@$(MESON) configure $(BUILD) -Dtests=enabled
	@ninja -C $(BUILD)
	@/usr/bin/python3 scripts/check.py --build $(BUILD)

# What takes hours: ten million chains through the model, ten million rounds of every combination.
nightly: $(BUILD)/build.ninja
	@scripts/packages build check
	@$(MESON) configure $(BUILD) -Dtests=enabled
	@ninja -C $(BUILD)
	@$(MESON) test -C $(BUILD) --no-rebuild --setup nightly --suite nightly

install: all
	@$(MESON) configure $(BUILD) --prefix=$(abspath $(PREFIX))
	@DESTDIR=$(DESTDIR) $(MESON) install -C $(BUILD) --quiet

format:
	@git ls-files '*.c' '*.h' | xargs clang-format -i

clean:
	@rm -rf $(BUILD)

help:
	@echo 'make            build into $(BUILD)/'
	@echo 'make demo       see what svqd does: no VM, no privileges, 20 seconds'
	@echo 'make check      run all the tests that this machine can run'
	@echo 'make nightly    the long versions of the model test and the stress: hours'
	@echo 'make install    PREFIX=$(PREFIX), DESTDIR='
	@echo 'make format     clang-format the sources'
	@echo 'make clean      remove $(BUILD)/'
