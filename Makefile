# Nightjar. GNU make; sources are found by wildcard, so a new file needs no line here.
#
#   make              release build in build/release
#   make help         every target
#   make V=1          show the commands
#   make MODE=debug   also: asan, tsan, fuzz; each has its own build/<mode>
#
# CC, CPPFLAGS, CFLAGS, LDFLAGS, LDLIBS, PREFIX and DESTDIR are respected; yours come last and win.

.DEFAULT_GOAL := all
.DELETE_ON_ERROR:
MAKEFLAGS += --no-builtin-rules

MODE         ?= release
BUILD        ?= build
PREFIX       ?= /usr/local
FUZZ_SECONDS ?= 10
CLANG        ?= clang
WERROR       ?= -Werror
JOBS         ?= $(shell nproc 2>/dev/null || echo 1)
# Names of test programs or scripts, without directory; empty: all.
TESTS        ?=

ifeq ($(origin CC),default)
CC := gcc
endif

ifeq ($(filter $(MODE),release debug asan tsan fuzz),)
$(error MODE=$(MODE): want release, debug, asan, tsan or fuzz)
endif

# gcc's OpenMP runtime is opaque to ThreadSanitizer, and libFuzzer is clang's.
ifneq ($(filter $(MODE),tsan fuzz),)
override CC := $(CLANG)
endif

# --- flags -------------------------------------------------------------------------------------

WARNINGS := -Wall -Wextra -Wshadow -Wconversion -Wstrict-prototypes -Wmissing-prototypes \
            -Wvla $(WERROR)

# The same vector file must give the same index with every compiler and instruction set: no
# contraction into FMA but where a kernel asks for it, and never fast-math. assert() stays on.
COMMON_CFLAGS := -std=c17 -g -ffp-contract=off -fno-math-errno -fopenmp -fno-omit-frame-pointer \
                 $(WARNINGS)

MODE_CFLAGS_release := -O3 -fstack-protector-strong -U_FORTIFY_SOURCE -D_FORTIFY_SOURCE=2
MODE_CFLAGS_debug   := -O0
MODE_CFLAGS_asan    := -O1 -fsanitize=address,undefined -fno-sanitize-recover=all
MODE_CFLAGS_tsan    := -O1 -fsanitize=thread
MODE_CFLAGS_fuzz    := -O1 -fsanitize=fuzzer-no-link,address,undefined -fno-sanitize-recover=all
# Clang calls a loop that instrumentation keeps from being a SIMD one a failure of `omp simd`.
MODE_CFLAGS_fuzz    += -Wno-pass-failed

MODE_LDFLAGS_asan := -fsanitize=address,undefined
MODE_LDFLAGS_tsan := -fsanitize=thread
MODE_LDFLAGS_fuzz := -fsanitize=fuzzer,address,undefined

ALL_CPPFLAGS := -D_GNU_SOURCE -I. $(CPPFLAGS)
ALL_CFLAGS    = $(COMMON_CFLAGS) $(MODE_CFLAGS_$(MODE)) $(ISA_CFLAGS) $(CFLAGS)
ALL_LDFLAGS  := -fopenmp $(MODE_LDFLAGS_$(MODE)) $(LDFLAGS)
ALL_LDLIBS   := -luring -lcjson -lmicrohttpd -lxxhash -lhwloc -lm -lpthread $(LDLIBS)

# Instruction sets beyond the baseline go only to the files that are named for them.
AVX2_CFLAGS   := -mavx2 -mfma -mf16c
AVX512_CFLAGS := $(AVX2_CFLAGS) -mavx512f -mavx512bw -mavx512dq -mavx512vl
VNNI_CFLAGS   := $(AVX512_CFLAGS) -mavx512vnni

# --- sources -----------------------------------------------------------------------------------

B := $(BUILD)/$(MODE)

BASE_SRC    := $(wildcard common/*.c layout/*.c)
BUILDER_SRC := $(wildcard builder/*.c)
QUERY_SRC   := $(filter-out query/daemon_main.c,$(wildcard query/*.c))
CLIENT_SRC  := $(wildcard query/client.c query/protocol.c query/socket_path.c common/*.c)
BENCH_SRC   := $(wildcard tools/bench_*.c)
TOOL_SRC    := $(filter-out tools/nightjar.c tools/build_main.c $(BENCH_SRC),$(wildcard tools/*.c))
TEST_SRC    := $(wildcard tests/test_*.c)
FUZZ_SRC    := $(wildcard tests/fuzz_*.c)
SOAK_SRC    := $(wildcard tests/soak_*.c)
# What soak programs take of what tests share: that which needs no cmocka.
SOAK_PARTS  := tests/answer_check.c tests/daemon_facts.c tests/key_files.c
SUPPORT_SRC := $(filter-out $(TEST_SRC) $(FUZZ_SRC) $(SOAK_SRC),$(wildcard tests/*.c))
ALL_SRC     := $(wildcard common/*.c layout/*.c builder/*.c query/*.c tools/*.c tests/*.c)
ALL_HEADERS := $(wildcard common/*.h layout/*.h builder/*.h query/*.h tools/*.h tests/*.h)
SCRIPTS     := $(wildcard tools/scripts/*.sh tests/*.sh .ci/run)

objects = $(patsubst %.c,$(B)/%.o,$(1))

PROGRAMS := $(if $(wildcard tools/nightjar.c),$(B)/nightjar) \
            $(if $(wildcard tools/build_main.c),$(B)/nightjar-build) \
            $(if $(wildcard query/daemon_main.c),$(B)/nightjard)
LIBRARIES := $(B)/libnightjar.a $(B)/libnightjar-client.a
BENCHES  := $(patsubst %.c,$(B)/%,$(BENCH_SRC))
TEST_PROGRAMS := $(patsubst %.c,$(B)/%,$(TEST_SRC))
FUZZ_PROGRAMS := $(patsubst %.c,$(B)/%,$(FUZZ_SRC))
SOAK_PROGRAMS := $(patsubst %.c,$(B)/%,$(SOAK_SRC))

BASE_LIB    := $(B)/libnightjar-base.a
BUILDER_LIB := $(B)/libnightjar-builder.a
QUERY_LIB   := $(B)/libnightjar-query.a
TOOL_LIB    := $(B)/libnightjar-tools.a
SUPPORT_LIB := $(B)/libnightjar-testing.a

$(BASE_LIB): $(call objects,$(BASE_SRC))
$(BUILDER_LIB): $(call objects,$(BUILDER_SRC))
$(QUERY_LIB): $(call objects,$(QUERY_SRC))
$(TOOL_LIB): $(call objects,$(TOOL_SRC))
$(SUPPORT_LIB): $(call objects,$(SUPPORT_SRC))
# The two that are installed carry what they need.
$(B)/libnightjar.a: $(call objects,$(BASE_SRC) $(QUERY_SRC))
$(B)/libnightjar-client.a: $(call objects,$(CLIENT_SRC))

$(B)/nightjar: $(B)/tools/nightjar.o $(TOOL_LIB) $(BUILDER_LIB) $(QUERY_LIB) $(BASE_LIB)
$(B)/nightjar-build: $(B)/tools/build_main.o $(TOOL_LIB) $(BUILDER_LIB) $(QUERY_LIB) $(BASE_LIB)
$(B)/nightjard: $(B)/query/daemon_main.o $(QUERY_LIB) $(BASE_LIB)
EVERYTHING := $(TOOL_LIB) $(QUERY_LIB) $(BUILDER_LIB) $(BASE_LIB)
$(BENCHES) $(FUZZ_PROGRAMS): $(B)/%: $(B)/%.o $(EVERYTHING)
$(TEST_PROGRAMS): $(B)/%: $(B)/%.o $(SUPPORT_LIB) $(EVERYTHING)
$(SOAK_PROGRAMS): $(B)/%: $(B)/%.o $(call objects,$(SOAK_PARTS)) $(EVERYTHING)

$(TEST_PROGRAMS): private PROGRAM_LDLIBS := -lcmocka
# --- rules -------------------------------------------------------------------------------------

ifeq ($(V),1)
Q :=
say = @:
else
Q := @
say = @printf '  %-7s %s\n' $(1) $(2)
endif

.PHONY: all test soak overload soak-frames numa-test bench bench-questions bench-kernels asan tsan fuzz lint format \
        format-check install install-operations uninstall clean demo deps help build-tests build-fuzz \
        run-tests FORCE

all: $(PROGRAMS) $(LIBRARIES) ## the three programs and two libraries (default)

build-tests: all $(TEST_PROGRAMS) $(SOAK_PROGRAMS)
build-fuzz: $(FUZZ_PROGRAMS)

%_avx2.o: private ISA_CFLAGS := $(AVX2_CFLAGS)
%_avx512.o: private ISA_CFLAGS := $(AVX512_CFLAGS)
%_vnni.o: private ISA_CFLAGS := $(VNNI_CFLAGS)

$(B)/%.o: %.c $(B)/flags Makefile | $(B)/deps
	$(call say,CC,$<)
	@mkdir -p $(@D)
	$(Q)$(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) -MMD -MP -c -o $@ $<

# Rebuilt from nothing, so that an object whose source is gone does not live on in it.
$(B)/%.a:
	$(call say,AR,$@)
	@mkdir -p $(@D)
	@rm -f $@
	$(Q)$(AR) rcs $@ $^

$(PROGRAMS) $(BENCHES) $(TEST_PROGRAMS) $(SOAK_PROGRAMS) $(FUZZ_PROGRAMS):
	$(call say,LINK,$@)
	@mkdir -p $(@D)
	$(Q)$(CC) $(CFLAGS) -o $@ $(filter %.o,$^) -Wl,--start-group $(filter %.a,$^) -Wl,--end-group \
		$(ALL_LDFLAGS) $(ALL_LDLIBS) $(PROGRAM_LDLIBS)

# Changes only when the compiler or a flag does; then everything is stale.
FLAGS_NOW = $(CC) $(ALL_CPPFLAGS) $(ALL_CFLAGS) $(ALL_LDFLAGS) $(ALL_LDLIBS)
$(B)/flags: FORCE
	@mkdir -p $(@D)
	@printf '%s\n' '$(FLAGS_NOW)' | cmp -s - $@ || printf '%s\n' '$(FLAGS_NOW)' > $@

# Once a build directory: a missing header is named with its remedy before the compiler fails.
$(B)/deps: tools/scripts/install-deps.sh
	@mkdir -p $(@D)
	@CC='$(CC)' tools/scripts/install-deps.sh --check build
	@touch $@

-include $(patsubst %.c,$(B)/%.d,$(ALL_SRC))

deps: ## install what building, testing and linting need (apt; sudo when not root)
	@tools/scripts/install-deps.sh build test sanitizers lint

# --- tests -------------------------------------------------------------------------------------

test: ## install what is missing, build, run all tests (TESTS="test_block e2e_daemon": only these)
	@tools/scripts/install-deps.sh build test
	@$(MAKE) --no-print-directory -j$(JOBS) build-tests
	@$(MAKE) --no-print-directory run-tests

run-tests:
	@CC='$(CC)' tests/run.sh $(B) $(MODE) $(TESTS)

asan: ## the tests under AddressSanitizer, LeakSanitizer and UndefinedBehaviorSanitizer
	@tools/scripts/install-deps.sh build test sanitizers
	@$(MAKE) --no-print-directory MODE=asan -j$(JOBS) build-tests
	@$(MAKE) --no-print-directory MODE=asan run-tests

tsan: ## the tests under ThreadSanitizer (clang, with OpenMP's runtime made visible by Archer)
	@tools/scripts/install-deps.sh build test sanitizers
	@$(MAKE) --no-print-directory MODE=tsan -j$(JOBS) build-tests
	@$(MAKE) --no-print-directory MODE=tsan run-tests

fuzz: ## each fuzz target for FUZZ_SECONDS (10)
	@tools/scripts/install-deps.sh build sanitizers
	@$(MAKE) --no-print-directory MODE=fuzz -j$(JOBS) build-fuzz
	@tests/fuzz.sh $(BUILD)/fuzz $(FUZZ_SECONDS) $(TESTS)

# Settings: SOAK_SECONDS, SWAP_SECONDS, FRAMES, MEMORY; tests/soak.sh tells them.
soak: all $(SOAK_PROGRAMS) ## queries without pause while generations are swapped: DATA=DIR (else made up)
	@tests/soak.sh $(B) swaps $(DATA)

overload: all $(SOAK_PROGRAMS) ## more queries than the daemon can answer: DATA=DIR (else made up)
	@tests/soak.sh $(B) overload $(DATA)

soak-frames: all $(SOAK_PROGRAMS) ## FRAMES (10000000) random and mutated frames beside good queries
	@tests/soak.sh $(B) frames $(DATA)

numa-test: ## where memory lies on a machine of two NUMA nodes, which qemu emulates (minutes)
	@tools/scripts/install-deps.sh build test
	@tools/scripts/install-deps.sh numa || true
	@$(MAKE) --no-print-directory -j$(JOBS) all $(B)/tests/test_topology
	@tools/scripts/numa-test.sh $(B) || [ $$? -eq 77 ]

bench: all ## measure builds and searches: DATA=DIR (base, queries, truth; else made up), QUICK=1
	@tools/scripts/bench.sh $(B) $(BUILD)/bench $(DATA)

bench-questions: all ## measure filters, radii, types, metrics, hard queries: DATA=DIR (base, queries)
	@tools/scripts/bench-questions.sh $(B) $(BUILD)/bench $(DATA)

bench-kernels: $(BENCHES) ## measure the distance and codec kernels of this CPU
	@$(B)/tools/bench_kernels
	@$(B)/tools/bench_codec

demo: ## generate vectors, build, publish, serve and query an index in a temporary directory
	@tools/scripts/install-deps.sh build
	@$(MAKE) --no-print-directory -j$(JOBS) all
	@tools/scripts/demo.sh $(B)

# --- style -------------------------------------------------------------------------------------

lint: ## formatting, include directions, sizes, clang-tidy, cppcheck, shellcheck, mypy
	@tools/scripts/install-deps.sh build test lint
	@CPPFLAGS='$(ALL_CPPFLAGS)' AVX2_CFLAGS='$(AVX2_CFLAGS)' AVX512_CFLAGS='$(AVX512_CFLAGS)' \
		VNNI_CFLAGS='$(VNNI_CFLAGS)' JOBS='$(JOBS)' tools/scripts/lint.sh

format: ## rewrite sources with clang-format
	$(Q)clang-format -i $(ALL_SRC) $(ALL_HEADERS)

format-check: ## fail if clang-format would change a file
	$(Q)clang-format --dry-run --Werror $(ALL_SRC) $(ALL_HEADERS)

# --- installation ------------------------------------------------------------------------------

bindir     := $(DESTDIR)$(PREFIX)/bin
libdir     := $(DESTDIR)$(PREFIX)/lib
includedir := $(DESTDIR)$(PREFIX)/include/nightjar
unitdir    := $(DESTDIR)$(PREFIX)/lib/systemd/system
sharedir   := $(DESTDIR)$(PREFIX)/share/nightjar
# As installed, without folder and ending: nightjar-NAME is tools/scripts/NAME.sh.
INSTALLED_SCRIPTS := nightly standby
UNITS := $(wildcard tools/systemd/*.service tools/systemd/*.socket tools/systemd/*.timer)
PUBLIC_HEADERS := $(filter-out %_internal.h,$(wildcard common/*.h layout/*.h query/*.h))

install: all install-operations ## into $(DESTDIR)$(PREFIX)
	$(Q)install -d $(bindir) $(libdir) $(addprefix $(includedir)/,common layout query)
	$(Q)install -m 755 $(PROGRAMS) $(bindir)
	$(Q)install -m 644 $(LIBRARIES) $(libdir)
	$(Q)for header in $(PUBLIC_HEADERS); do install -m 644 $$header $(includedir)/$$header || exit 1; done

# What is not compiled. Units name the programs by their paths.
install-operations:
	$(Q)install -d $(bindir) $(unitdir) $(sharedir)
	$(Q)for name in $(INSTALLED_SCRIPTS); do \
		install -m 755 tools/scripts/$$name.sh $(bindir)/nightjar-$$name || exit 1; done
	$(Q)install -m 644 $(UNITS) $(unitdir)
	$(Q)sed -i 's|/usr/local/bin/|$(PREFIX)/bin/|' $(addprefix $(unitdir)/,$(notdir $(UNITS)))
	$(Q)install -m 644 tools/systemd/nightjar.conf $(sharedir)

uninstall: ## remove what install put there
	$(Q)rm -f $(addprefix $(bindir)/,nightjar nightjar-build nightjard)
	$(Q)rm -f $(addprefix $(libdir)/,libnightjar.a libnightjar-client.a)
	$(Q)rm -rf $(includedir)
	$(Q)rm -f $(addprefix $(bindir)/nightjar-,$(INSTALLED_SCRIPTS))
	$(Q)rm -f $(addprefix $(unitdir)/,$(notdir $(UNITS)))
	$(Q)rm -rf $(sharedir)

clean: ## remove the build directory
	$(Q)rm -rf $(BUILD)

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  %-14s %s\n", $$1, $$2 }' $(firstword $(MAKEFILE_LIST))
	@echo "  MODE=release|debug|asan|tsan|fuzz (now: $(MODE))  V=1  CC=...  PREFIX=$(PREFIX)"
