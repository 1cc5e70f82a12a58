#!/usr/bin/env bash
# Other people's clients against `heph serve` with the bundled model: the official OpenAI clients (Python, Node), LangChain,
# LlamaIndex, LiteLLM and Ollama's client.
#
#   tests/acceptance/api.sh FOLDER HEPH PYTHON [NODE_FOLDER]
#
# FOLDER holds the suites, PYTHON has the clients installed, NODE_FOLDER is one where `npm install openai` was done.
set -u
suites=$(realpath "$1") heph=$(realpath "$2") python=$(realpath -s "$3") node=${4:-}
home=$(mktemp -d) door="" locked=""
trap 'kill $door $locked 2>/dev/null; wait 2>/dev/null; rm -rf "$home"' EXIT

# serve NAME ARGUMENTS...: starts a door on a free port and waits until it answers; its address stands in $address.
serve() {
    local said="$home/$1.said"
    shift
    HEPH_HOME="$home" "$heph" serve --listen 127.0.0.1:0 "$@" >"$said" 2>&1 &
    pid=$!
    for _ in $(seq 600); do
        address=$(sed -n 's|.* answers at \(http://.*\)$|\1|p' "$said")
        [ -n "$address" ] && return
        kill -0 "$pid" 2>/dev/null || break
        sleep 0.1
    done
    cat "$said"
    exit 1
}

serve open --no-auth
door=$pid open=$address
serve locked
locked=$pid closed=$address
token=$(cat "$home/gateway.token")

export HEPH_LEVEL=all HEPH_CTX=1024 HEPH_TOOLS=1 HEPH_EMBED_MODEL=heph-embed HEPH_TIMEOUT=300
passed=0 failed=0
# run COMMAND...: one suite; its last line counts.
run() {
    local out
    out=$("$@" 2>&1)
    echo "$out" | grep -aE '^(FAIL|skip|Traceback)'
    local counts
    counts=$(echo "$out" | grep -aE '^[0-9]+ passed, [0-9]+ failed' | tail -n 1)
    if [ -z "$counts" ]; then
        echo "$out" | tail -n 5
        failed=$((failed + 1))
        return
    fi
    passed=$((passed + $(echo "$counts" | cut -d' ' -f1)))
    failed=$((failed + $(echo "$counts" | cut -d' ' -f3)))
    echo "$(basename "$2"): $counts"
}

export HEPH_BASE_URL=$open
run "$python" "$suites/openai_py.py"
run "$python" "$suites/frameworks_py.py"
run "$python" "$suites/ollama_py.py"
if [ -n "$node" ]; then
    cp "$suites/openai_node.mjs" "$node/suite.mjs"
    run node "$node/suite.mjs"
fi
# The same door with a token: the checks of a wrong key, and that the right one opens.
HEPH_BASE_URL=$closed HEPH_API_KEY=$token HEPH_KEY_REQUIRED=1 HEPH_ONLY="auth" run "$python" "$suites/openai_py.py"
HEPH_BASE_URL=$closed HEPH_API_KEY=$token HEPH_ONLY="chat: shape" run "$python" "$suites/openai_py.py"
echo "$passed passed, $failed failed"
[ "$failed" -eq 0 ] && [ "$passed" -gt 0 ]
