#!/usr/bin/env bash
# memory.sh: lowers the memory of a running heph step by step and counts what the kernel killed.
#
#     tests/memory.sh              needs root and a control group that counts memory; says what is missing
#     tests/memory.sh --can-run    only says whether it could
#
# A chat is fed message after message while the limit of its control group comes down to what it holds: once with bits
# that stay, once with bits that may fall. Every answer ends, or is refused with a sentence; nothing is killed.
set -u
cd "$(dirname "$0")/.." || exit 1
heph=target/tests/heph

no() { echo "$1"; exit 2; }
[ "$(id -u)" -eq 0 ] || no "only root may make a control group"
[ -x "$heph" ] || no "no $heph"
if [ -w /sys/fs/cgroup/memory/memory.limit_in_bytes ] || [ -d /sys/fs/cgroup/memory/tasks ]; then
    group=/sys/fs/cgroup/memory/heph-test.$$ limit=memory.limit_in_bytes used=memory.usage_in_bytes
elif grep -qw memory /sys/fs/cgroup/cgroup.controllers 2>/dev/null; then
    group=/sys/fs/cgroup/heph-test.$$ limit=memory.max used=memory.current
else
    no "no control group counts memory here"
fi
mkdir "$group" 2>/dev/null || no "control groups cannot be made here"
[ -w "$group/$limit" ] || { rmdir "$group"; no "memory cannot be limited here"; }
[ "${1:-}" = --can-run ] && { rmdir "$group"; exit 0; }

work=$(mktemp -d)
end() {
    [ -n "${chat:-}" ] && kill "$chat" 2>/dev/null && wait "$chat" 2>/dev/null
    rmdir "$group" 2>/dev/null
    rm -rf "$work"
}
trap end EXIT

# What the kernel killed in the group so far.
killed() {
    awk '$1 == "oom_kill" { print $2; found = 1 } END { if (!found) print 0 }' \
        "$group/memory.oom_control" "$group/memory.events" 2>/dev/null | sort -n | tail -n 1
}

# answered LINES: waits until there are more lines of answers than these, or the chat is over; 30 s at most.
answered() {
    local try
    for ((try = 0; try < 300; try++)); do
        [ "$(wc -l <"$work/out")" -gt "$1" ] && return
        kill -0 "$chat" 2>/dev/null || return
        sleep 0.1
    done
}

# press PRECISION: a chat whose memory comes down. Fails where something was killed or nothing was given up.
press() {
    rm -f "$work/say" && mkfifo "$work/say"
    echo $((256 << 20)) >"$group/$limit"
    HEPH_HOME="$work/home" bash -c 'echo $$ >"$1/cgroup.procs" && exec "$2" chat --max-tokens 60 --mode local --precision "$3"' \
        _ "$group" "$heph" "$1" <"$work/say" >"$work/out" 2>"$work/err" &
    chat=$!
    exec 3>"$work/say"
    for ((step = 0; step < 12; step++)); do
        before=$(wc -l <"$work/out")
        echo "Tell me a story about a fox and a $step." >&3 2>/dev/null || break
        # The first answer shows that the model is loaded; from then on memory comes down while an answer is made.
        [ "$step" -gt 0 ] && sleep 0.1 || answered "$before"
        # A limit below what is held is refused by version 1 and would be a death sentence in version 2: stay above it.
        now=$(cat "$group/$used")
        room=$(((24 - 2 * step) << 20))
        [ "$room" -gt $((2 << 20)) ] || room=$((2 << 20))
        echo $((now + room)) >"$group/$limit" 2>/dev/null
        answered "$before"
        kill -0 "$chat" 2>/dev/null || break
    done
    exec 3>&-
    wait "$chat"
    local code=$? deaths answers refusals given fewer
    chat=
    deaths=$(killed)
    answers=$(wc -l <"$work/out")
    refusals=$(grep -c 'memory is short' "$work/err")
    given=$(grep -c 'Memory became short' "$work/err")
    fewer=$(grep -cE 'kept as q8_0|weights are' "$work/err")
    echo "$1: $answers lines of answers, $given times something given up ($fewer times bits), $refusals refused," \
        "exit $code, $deaths killed by the kernel"
    # 4: the last message was refused for want of memory.
    case $code in 0 | 4) ;; *) tail -n 5 "$work/err"; return 1 ;; esac
    [ "$deaths" -eq 0 ] && [ $((given + refusals)) -gt 0 ] || return 1
    case $1 in exact) [ "$fewer" -eq 0 ] ;; may-fall) [ "$fewer" -gt 0 ] ;; esac
}

trap '' PIPE
press exact && press may-fall
