#!/usr/bin/env bash
# Creates .venv and installs requirements.txt into it. Idempotent: once a stamp inside .venv equals
# requirements.txt it returns at once and needs no network. PYTHON=python3.12 chooses the interpreter.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

python="${PYTHON:-python3}"
stamp=.venv/.installed_requirements
if cmp -s requirements.txt "$stamp"; then exit 0; fi

command -v "$python" >/dev/null || { echo "setup: $python not found; install Python 3.10 or newer, or set PYTHON" >&2; exit 1; }
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' \
  || { echo "setup: $("$python" --version 2>&1) is too old; Python 3.10 or newer is wanted (set PYTHON)" >&2; exit 1; }

echo "setup: installing requirements.txt into .venv (one to four minutes, about 8 GB)"
rm -f "$stamp"
"$python" -m venv .venv || { echo "setup: could not create .venv; on Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
# uv is several times faster and shares files between clones; pip does the same job where uv cannot be had.
# Bytecode is compiled now: importing torch and diffusers without it takes three times as long.
if .venv/bin/python -m pip install --quiet uv \
  && .venv/bin/uv pip install --quiet --python .venv/bin/python --compile-bytecode -r requirements.txt; then :; else
  echo "setup: uv did not succeed, using pip"
  .venv/bin/python -m pip install --quiet -r requirements.txt
fi
cp requirements.txt "$stamp"
