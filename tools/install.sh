#!/usr/bin/env bash
# Copyright (c) KAPAO-MM authors. Licensed under Apache-2.0.
#
# Installs requirements/*.txt and kapao_mm itself (editable) in .venv. Called by the Makefile.
# Returns in less than a second if nothing changed. Environment variables:
#   PYTHON           Python for .venv (default: python3.11, else python3)
#   MMCV             light: without compiled operators, which KAPAO does not use; full: compile them, which takes
#                    16 minutes divided by the number of cores (default: as in .venv, light in a new one)
#   MAX_JOBS         number of compiler processes for MMCV=full (default: one per core)
#   XDG_CACHE_HOME   folder whose subfolder kapao-mm keeps compiled wheels (default: ~/.cache)
set -euo pipefail
cd -P "$(dirname "${BASH_SOURCE[0]}")/.."

readonly python=.venv/bin/python log=.venv/install.log stamp=.venv/install.stamp mmcv_choice=.venv/mmcv
readonly wheels=${XDG_CACHE_HOME:-~/.cache}/kapao-mm/wheels
readonly disk_gb=8 # .venv takes 5.7

exec 3>&1 # for the user; all other output goes to the log
say() { echo "set-up: $*" >&3; }
die() { say "$@"; exit 1; }

# Hash of everything that the set-up depends on.
state() { { "$python" -VV && echo "$mmcv" && cat requirements.txt requirements/*.txt pyproject.toml setup.py tools/install.sh; } | sha256sum; }

# Sets PYTHON to a Python of the version that training was tested with.
choose_python() {
    local name version tried='' candidates=(python3.11 python3)
    [[ -z ${PYTHON:-} ]] || candidates=("$PYTHON")
    for name in "${candidates[@]}"; do
        version=$("$name" -c 'import sys; print("%d.%d" % sys.version_info[:2])' 2>/dev/null) || version=
        if [[ $version == 3.11 ]]; then
            PYTHON=$name
            return
        fi
        tried+=" $name (${version:-does not run})"
    done
    die "needs Python 3.11. Tried:$tried. Name one: make PYTHON=/path/to/python3.11 ..."
}

check_prerequisites() {
    "$PYTHON" -c 'import ensurepip, venv' 2>/dev/null ||
        die "'$PYTHON' has no venv module. Install it (Debian, Ubuntu: apt install python3-venv)."
    (($(df -Pk . | awk 'NR == 2 {print $4}') >= disk_gb * 1000 ** 2)) ||
        die "less than $disk_gb GB free on the disk of $PWD."
}

check_compiler() {
    local include
    include=$("$python" -c 'import sysconfig; print(sysconfig.get_path("include"))')
    [[ -f $include/Python.h ]] ||
        die "MMCV=full needs Python's headers ($include/Python.h). Install them (Debian, Ubuntu: apt install python3-dev)."
    command -v "${CXX:-c++}" >/dev/null ||
        die "MMCV=full needs a C++ compiler ('${CXX:-c++}'). Install one (Debian, Ubuntu: apt install g++)."
}

# A .venv works only in the folder and with the Python that it was created with.
venv_is_usable() {
    "$python" -c '' 2>/dev/null && grep -qF " $PWD/.venv" .venv/pyvenv.cfg || return 1
    [[ -z ${PYTHON:-} || $("$PYTHON" -V 2>/dev/null) == $("$python" -V) ]]
}

pip() { "$python" -m pip --disable-pip-version-check --no-input "$@"; }

# cached_wheel NAME==VERSION: sets $wheel, and compiles it if it is not in the cache.
# pip's cache ignores the torch that a wheel was compiled for, so that importing MMCV may fail with an undefined symbol.
# Therefore wheels are cached here, in a folder for each Python, platform and torch, and pip gets --no-cache-dir.
cached_wheel() {
    local folder key prefix=${1/==/-}
    key=$("$python" -c 'import sys, sysconfig, torch
print(sys.implementation.cache_tag, sysconfig.get_platform(), "torch", torch.__version__, sep="-")')
    folder=$wheels/$key
    if wheel=$(compgen -G "$folder/$prefix-*.whl"); then
        "$python" -m zipfile -t "$wheel" && return
        say "    $wheel is damaged; removing it and compiling it again"
        rm -f "$wheel"
    fi
    if [[ $1 == mmcv==* ]]; then
        say "    compiling $1: about 16 minutes divided by the number of cores, only once; to watch: tail -f $log"
    fi
    mkdir -p "$folder"
    unfinished=$(mktemp -d "$folder/unfinished.XXXX") # moved when it is complete
    # --no-build-isolation: the builds import torch and numpy from .venv.
    # MMCV's CUDA operators are not needed; with the GPU hidden it compiles without nvcc, the same on every machine.
    CUDA_VISIBLE_DEVICES='' FORCE_CUDA=0 MMCV_WITH_OPS=1 MAX_JOBS=${MAX_JOBS:-$(nproc)} \
        pip wheel --verbose --no-deps --no-build-isolation --no-cache-dir --no-binary :all: -w "$unfinished" "$1"
    mv "$unfinished"/*.whl "$folder/"
    rmdir "$unfinished"
    wheel=$(compgen -G "$folder/$prefix-*.whl")
}

install_full_mmcv() {
    check_compiler
    pip install -r requirements/build.txt
    for requirement in $(sed 's/#.*//' requirements/mmcv_full.txt); do
        cached_wheel "$requirement"
        pip install --no-deps --force-reinstall "$wheel" # forced: the same version may have been compiled for another torch
    done
}

# Prints one line on the cause of a failure, found at the end of the log.
cause() {
    local end
    end=$(tail -n 60 "$log")
    case $end in
        *'No space left on device'*) echo "the disk is full: free $disk_gb GB" ;;
        *'NewConnectionError'* | *'name resolution'* | *'Connection refused'* | *'timed out'* | *'from versions: none'*)
            echo 'no package index answers: check the network, the proxy (HTTPS_PROXY) and `pip config list`' ;;
        *'undefined symbol'*) echo "MMCV was compiled for another torch: rm -r $wheels" ;;
        *'Killed'*) echo 'a compiler was killed for lack of memory: make setup MMCV=full MAX_JOBS=1' ;;
        *) echo "see the end of $log, above" ;;
    esac
}

finish() {
    local status=$?
    [[ -z ${unfinished:-} ]] || rm -rf "$unfinished"
    ((status == 0)) || {
        tail -n 12 "$log" >&3
        say "failed while $doing; $(cause). Then run the same command again; finished steps are kept."
    }
}

# --- is there anything to do? -----------------------------------------------------------------------------------------
exec 9<tools/install.sh
flock 9 2>/dev/null || true # set-ups of the same checkout wait for each other
mmcv=${MMCV:-$(cat "$mmcv_choice" 2>/dev/null || echo light)}
[[ $mmcv == light || $mmcv == full ]] || die "MMCV=$mmcv is neither light nor full."
venv_is_usable && [[ -f $stamp && $(state) == "$(<"$stamp")" ]] && exit

# --- the environment -------------------------------------------------------------------------------------------------
if ! venv_is_usable; then
    choose_python
    check_prerequisites
    say "making .venv with $("$PYTHON" -V) (10 seconds)"
    output=$("$PYTHON" -m venv --clear .venv 2>&1) || die "$PYTHON -m venv failed: $output"
fi
rm -f "$stamp"
doing='preparing .venv'
exec >"$log" 2>&1
trap finish EXIT

if [[ $mmcv != "$(cat "$mmcv_choice" 2>/dev/null)" ]]; then # both packages have the same files
    pip uninstall --yes mmcv mmcv-lite
    echo "$mmcv" >"$mmcv_choice"
fi

doing='installing PyTorch, MMDetection, ONNX Runtime, OpenVINO and tools for tests and docs'
say "1/3 $doing (a minute or two, 3 GB to download the first time)"
readonly requirements=(-r requirements/runtime.txt -r requirements/deploy.txt -r requirements/tests.txt -r requirements/docs.txt)
if [[ $mmcv == light ]]; then
    pip install "${requirements[@]}" -r requirements/mmcv_light.txt
else
    pip install "${requirements[@]}"
    doing='compiling MMCV and xtcocotools'
    say "    $doing (seconds if they are in $wheels)"
    install_full_mmcv
fi

doing='installing MMPose and kapao_mm'
say "2/3 $doing (10 seconds)"
pip install --no-deps -r requirements/no_deps.txt
pip install --no-deps --no-build-isolation -e .

doing='importing everything once'
say "3/3 $doing (10 seconds)"
"$python" -c 'import kapao_mm; kapao_mm.register_all_modules()'
state >"$stamp"
say "done, with MMCV $mmcv"
