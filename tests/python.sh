#!/bin/sh
# Keeps a private Python environment in the cache directory, and prints where its interpreter is.
#   python.sh NAME [REQUIREMENTS.txt]
# It is made anew when the requirements have changed, and otherwise left as it is.
set -eu

cache=${NARU_CACHE_DIR:-${XDG_CACHE_HOME:-$HOME/.cache}/naru}
environment=$cache/python/$1
requirements=${2:-/dev/null}

if ! cmp -s "$requirements" "$environment/requirements.txt" || ! "$environment/bin/python" -m pip --version >/dev/null 2>&1; then
    rm -rf "$environment"
    mkdir -p "$cache/python"
    python3 -m venv "$environment" >&2
    if [ -s "$requirements" ]; then
        echo "python: installing $requirements" >&2
        "$environment/bin/python" -m pip install --disable-pip-version-check --quiet --requirement "$requirements" >&2 || {
            echo "python: pip could not install $requirements: is the package index reachable?" >&2
            exit 1
        }
    fi
    cat "$requirements" >"$environment/requirements.txt"
fi
echo "$environment/bin/python"
