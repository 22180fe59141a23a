# What `scripts/test --long` adds. Sourced by scripts/test: uses its step, logs and summary.

# Ten minutes of mixed requests, some given up: nothing fails, memory is flat, every block comes back. The KV cache is
# small, so that the prefix cache has filled it (and its pages are resident) long before the first look at the memory.
soak() {
  need_python sdk openai==3.54.0
  start_server --model "$MODEL" --set engine.kv_cache_mib=256
  "$CACHE/venv-sdk/bin/python" tests/sdk/soak.py --seconds "${SOAK_SECONDS:-600}"
  stop_server
}

# Starts the server again and again and ends it at a random moment under load. SIGTERM must drain
# and end with status 0; after SIGKILL the next start must be as good as the first.
kill_loop() {
  local round load
  for round in $(seq "${KILL_ROUNDS:-20}"); do
    start_server --model "$MODEL"
    python3 tests/sdk/press.py "$SERVER_URL" >/dev/null 2>&1 &
    load=$!
    sleep "0.$((RANDOM % 900 + 100))"
    if [ $((round % 2)) = 0 ]; then
      kill -KILL "$server"
      wait "$server" 2>/dev/null || true
    else
      stop_server
    fi
    kill "$load" 2>/dev/null || true
    wait "$load" 2>/dev/null || true
  done
}

# Every fuzz body for longer, from new seeds.
fuzz() {
  FUZZ_SECONDS=${FUZZ_SECONDS:-120} test_workspace --test fuzz
}

# Tests that measure times: ignored elsewhere, for they need a machine that has nothing else to do.
timings() {
  test_workspace -- --ignored --test-threads 1
}

peers() {
  ROUNDS=1 scripts/bench-serve
}

step "Soak" soak
streams() {
  scripts/soak
}

step "A thousand streams" streams
step "Kill loop" kill_loop
step "Fuzzing" fuzz
step "Timings" timings
step "CUDA kernels under sanitizers" scripts/cuda/sanitize
step "Peers" peers
