#!/bin/sh
# heartbeat.sh LABEL COMMAND...: run COMMAND, and say every 5 s that it is still at work.
# COMMAND stays in the foreground, so that Ctrl-C reaches it; its exit code becomes ours.
label=$1
shift

(
    seconds=0
    # A sleep that outlives us must not hold the pipe open that our output goes to.
    while sleep 5 >/dev/null 2>&1 && kill -0 $$ 2>/dev/null; do
        seconds=$((seconds + 5))
        echo "... $label ($seconds s)"
    done
) &
heart=$!
trap 'kill $heart 2>/dev/null' EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

"$@"
