#!/usr/bin/env bash
# Creates .venv and installs requirements.txt into it. Idempotent: once a stamp inside .venv equals
# requirements.txt it returns at once and needs no network. PYTHON=python3.12 chooses the interpreter.
case "${1:-}" in -h | --help) sed -n '2,3s/^# //p' "$0"; exit ;; esac
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stamp=.venv/.installed_requirements
installed() { cmp -s requirements.txt "$stamp" && [ -x .venv/bin/python ]; }
if installed; then exit 0; fi

fail() { echo "setup: $*" >&2; exit 1; }
# torch, numpy, scipy and scikit-learn have left 3.10 behind
fits() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
python="${PYTHON:-}"
for name in ${PYTHON:-python3 python3.14 python3.13 python3.12 python3.11}; do
  if fits "$name"; then python="$name"; break; fi
done
version() { command -v "$1" >/dev/null && "$1" --version 2>&1 || echo "no $1"; }
fits "${python:=python3}" || fail "$(version "$python") here; wanted Python 3.11 or newer (PYTHON=... names another)"

# Two at once would write into one folder: the second waits, and finds everything done. The lock belongs to the open
# file, so it lasts as long as this shell, however that ends.
exec 9<requirements.txt
"$python" - <<'LOCK'
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("setup: another setup is at work here; waiting for it", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
LOCK
if installed; then exit 0; fi

echo "setup: installing requirements.txt into .venv with $("$python" --version) (one to four minutes, about 8 GB)"
rm -f "$stamp"
# one that an interrupted set-up left is completed; one whose Python is gone or too old is made anew
clear=; fits .venv/bin/python || clear=--clear
"$python" -m venv $clear .venv || fail "could not create .venv (see above); on Debian and Ubuntu: apt install python3-venv"
# uv is several times faster and shares files between clones; pip does the same job where uv cannot be had.
# Bytecode is compiled now: importing torch and diffusers without it takes three times as long.
if .venv/bin/python -m pip install --quiet uv \
  && .venv/bin/uv pip install --quiet --python .venv/bin/python --compile-bytecode -r requirements.txt; then :; else
  echo "setup: uv did not succeed, using pip"
  .venv/bin/python -m pip install --quiet -r requirements.txt \
    || fail "could not install (see above); $(df -Ph . | awk 'END {print $4}') are free here, about 8 GB wanted." \
      "Run it again: what is there is kept"
fi
cp requirements.txt "$stamp.partial" && mv "$stamp.partial" "$stamp"
