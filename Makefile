# The commands of the course. The work is done by make.py, which needs nothing but Python 3.11, so that
# `python make.py course` does the same where there is no make.
PYTHON  ?= python3
NAMES   := PRESET SEED NOTEBOOKS CLAIMS SEEDS TESTS CHECK ENV ALL
OPTIONS := $(foreach name,$(NAMES),$(if $($(name)),$(name)="$($(name))"))
COMMANDS := course test lab notebooks claims bench student browser env clean

.PHONY: help $(COMMANDS)
help:
	@$(PYTHON) make.py help
$(COMMANDS):
	@$(PYTHON) make.py $@ $(OPTIONS)
