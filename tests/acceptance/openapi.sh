#!/usr/bin/env bash
# The door against its own OpenAPI document: schemathesis asks what the document allows and what it forbids, and looks whether
# each answer is one that the document tells of.
#
#   tests/acceptance/openapi.sh HEPH SCHEMATHESIS [SECONDS]
#
# Left out: downloads, which need a network; meeting machines, which opens sockets to others; and the check that whatever fits the
# document is answered, since names of models, roles and limits of a model stand in no document. Names in an address are drawn until
# one can stand there, however long that takes.
set -u
heph=$(realpath "$1") schemathesis=$(realpath -s "$2") seconds=${3:-40}
home=$(mktemp -d) door=""
trap 'kill $door 2>/dev/null; wait 2>/dev/null; rm -rf "$home"' EXIT

HEPH_HOME="$home" "$heph" serve --no-auth --rate off --listen 127.0.0.1:0 >"$home/said" 2>&1 &
door=$!
address=""
for _ in $(seq 600); do
    address=$(sed -n 's|.* answers at \(http://.*\)/v1$|\1|p' "$home/said")
    [ -n "$address" ] && break
    kill -0 "$door" 2>/dev/null || break
    sleep 0.1
done
[ -n "$address" ] || { cat "$home/said"; exit 1; }

cd "$home" || exit 1
timeout $((seconds + 60)) "$schemathesis" run "$address/openapi.json" --max-time "$seconds" --generation-deterministic --no-shrink \
    --phases examples,coverage,fuzzing --continue-on-failure --max-examples 20 --request-timeout 30 --workers 1 --no-color \
    --exclude-path-regex '(pull|look)$|/machines/' --exclude-checks positive_data_acceptance --suppress-health-check=filter_too_much >"$home/told" 2>&1
code=$?
failed=$(grep -c '^- ST' "$home/told")
[ "$code" -eq 0 ] || cat "$home/told"
generated=$(sed -n 's/^ *\([0-9]*\) generated.*/\1/p' "$home/told" | tail -n 1)
kill -0 "$door" 2>/dev/null || { echo "the door is gone"; code=1; }
echo "${generated:-0} passed, $failed failed"
[ "$code" -eq 0 ] && [ "${generated:-0}" -gt 0 ]
