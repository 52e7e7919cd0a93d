#!/usr/bin/env bash
# Runs on every host of a TPU pod, where `tpu_pod.sh install` puts it: keeps one training running after the ssh connection
# that started it has ended, and records its exit code. Its files are in run/ beside this script.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

# Prints none (nothing was started), running, lost (ended without an exit code, as when the host restarts) or the code.
outcome() {
  local pid
  if [[ -f run/exit ]]; then
    cat run/exit
  elif [[ ! -f run/pid ]]; then
    echo none
  else
    pid="$(<run/pid)"
    # After a restart of the host another program may have this number.
    if [[ -r /proc/$pid/cmdline ]] && tr '\0' ' ' <"/proc/$pid/cmdline" | grep -q tpu_worker.sh; then
      echo running
    elif [[ -f run/exit ]]; then # it ended between the first look and this one
      cat run/exit
    else
      echo lost
    fi
  fi
}

case "${1-}" in
  start) # start NAME=value ... COMMAND ARGUMENT ...
    shift
    if [[ $(outcome) == running ]]; then
      printf '%s: the training that was started before still runs; left as it is\n' "$(hostname)"
      exit 0
    fi
    mkdir -p run
    rm -f run/exit run/pid
    [[ ! -f run/log ]] || mv run/log run/log.previous
    # A separate session: the end of the ssh connection does not reach it, and `stop` reaches all of its processes.
    setsid bash "$PWD/tpu_worker.sh" hold "$@" </dev/null >>run/log 2>&1 &
    until [[ -s run/pid || -s run/exit ]]; do sleep 0.1; done
    printf '%s: started\n' "$(hostname)"
    ;;
  hold)
    shift
    echo "$$" >run/pid.new && mv run/pid.new run/pid
    trap : TERM # reaches the training too, which saves; this shell stays to record its exit code
    code=0
    env "$@" || code=$?
    echo "$code" >run/exit.new && mv run/exit.new run/exit
    ;;
  follow) # follow LINES: shows the log, from that line of it on (tail's -n), until the training ends
    [[ -f run/log ]] || { echo 'nothing was started here' >&2 && exit 1; }
    if [[ $(outcome) == running ]]; then
      tail -n "$2" -F --pid="$(<run/pid)" run/log
    else
      tail -n "$2" run/log
    fi
    ;;
  outcome) printf 'jaxfm-worker %s %s\n' "$(hostname)" "$(outcome)" ;;
  stop)
    [[ $(outcome) != running ]] || kill -TERM -- "-$(<run/pid)"
    ;;
  *)
    echo 'usage: tpu_worker.sh start|follow|outcome|stop' >&2
    exit 2
    ;;
esac
