#!/bin/bash
# Runs a command with its output in a log file, and shows the log's end if the command fails.
#
#   scripts/quietly.sh LOG WHAT COMMAND [ARGUMENT...]
#
# What takes longer than two seconds is announced with WHAT and the log's name; on a
# terminal a line beneath it shows the time that has passed and what the log says last.
set -uo pipefail

log=$1 what=$2
shift 2
if ! { mkdir -p "$(dirname "$log")" && : >"$log"; } 2>/dev/null; then
    echo "error: $log cannot be written: an earlier make ran as root, or $(dirname "$log") is another's" >&2
    echo "  fix: sudo rm -rf $(dirname "$log")" >&2
    exit 1
fi

# While a password is typed, the terminal does not echo, and sudo's question must stay readable.
asks_password() { { stty -a </dev/tty; } 2>/dev/null | grep -q -- ' -echo '; }

last_line() { tail -c 400 "$log" | tr '\r' '\n' | tr -d '\000-\011\013-\037' | sed '/^ *$/d' | tail -n 1; }

columns() { { stty size </dev/tty; } 2>/dev/null | sed -n 's/.* \([1-9][0-9]*\)$/\1/p' | grep . || echo 80; }

show() {
    local never seconds=0 announced='' text
    exec {never}<> <(:)             # nothing ever comes from it: a wait without a process
    while true; do
        read -rt 1 -u "$never"
        seconds=$((seconds + 1))
        if [ "$seconds" -lt 2 ] || asks_password; then continue; fi
        if [ -z "$announced" ]; then
            echo "$what (log: $log)"
            announced=yes
        fi
        [ -t 1 ] || return
        text=$(printf '  %d:%02d  %s' $((seconds / 60)) $((seconds % 60)) "$(last_line)")
        printf '\r\033[K%s' "${text:0:$(($(columns) - 1))}"
    done
}

show &
shown=$!
"$@" >>"$log" 2>&1
status=$?
kill "$shown" 2>/dev/null
wait "$shown" 2>/dev/null
if [ -t 1 ]; then printf '\r\033[K'; fi
if [ "$status" -ne 0 ]; then
    # Without make's own lines, which would push out what the command said.
    grep -v '^make\(\[[0-9]*\]\)\?: ' "$log" | tail -n 20 >&2
    echo "failed: $what; the whole log: $log" >&2
fi
exit "$status"
