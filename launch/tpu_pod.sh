#!/usr/bin/env bash
# Trains on Cloud TPU VMs, one host or many, one slice or several, by way of a queued resource. See launch/README.md.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'END'
usage: launch/tpu_pod.sh COMMAND --name=NAME --zone=ZONE [options] [-- flags of jaxfm.train]

commands, in the order of use:
  create   ask for the TPUs: a queued resource, which waits in Google's queue until there are some
  install  wait until they are there; build jaxfm here, install it and configs/ on every host
  run      start `python -m jaxfm.train` on every host at once, show the log of the first, and start again what was
           preempted. Ends with the training's exit code. Interrupted here, the training goes on: `run` again attaches
  follow   show the log of the first host
  status   show the state of the queued resource and of the training on every host
  stop     let the training save and end, with exit code 75
  delete   give the TPUs back, whatever runs on them

options of every command:
  --name=NAME               of the queued resource, and of its TPU VMs
  --zone=ZONE               for example us-west4-a
  --project=PROJECT         default: the one gcloud is set to
  --directory=DIR           where jaxfm lies on the hosts, from the home directory (default: jaxfm)
  --dry-run                 print the commands, quoted for a shell, and run nothing

options of create; given to run as well, run asks anew for TPUs that were taken away, and installs on them:
  --accelerator-type=TYPE   for example v5litepod-16, v5p-128, v6e-256
  --runtime-version=IMAGE   for example v2-alpha-tpuv5-lite, v2-alpha-tpuv5, v2-alpha-tpuv6e
  --slices=N                how many slices of that type (default: 1)
  --spot                    cheaper, may be taken away at any time
  --reserved                from the project's reservation

options of install, and of run where it installs anew:
  --python=PYTHON           the interpreter on the hosts to make the environment with (default: python3.11)
  --setup=COMMAND           run on every host before that, for example to install PYTHON or to mount storage

options of run:
  --environment=FILE        environment of the training (default: launch/environment/tpu.env)
  --restarts=N              how often to start again after a preemption (default: 100)
  --crashes=N               how often to start again after any other end but 0 and 2 (default: 3)
  --pause=SECONDS           between two looks at something that is waited for (default: 30)

Exit code of run: 0 done; 2 a mistake of yours, here or in the flags of the training; 75 preempted and not started
again; anything else as the training or gcloud left it. --workdir must lie on storage that every host sees and that
outlives the TPU VMs.
END
}

command="${1-}"
case "$command" in
  create | install | run | follow | status | stop | delete) shift ;;
  -h | --help) usage && exit 0 ;;
  *) fail "the first argument must be a command, not '$command'" ;;
esac

name='' zone='' project='' directory='jaxfm' accelerator_type='' runtime_version='' slices=1 tier=''
python='python3.11' setup='' environment_file="$here/environment/tpu.env" restarts=100 crashes=3 pause=30
while (($#)); do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --directory=*) directory="${1#*=}" ;;
    --accelerator-type=*) accelerator_type="${1#*=}" ;;
    --runtime-version=*) runtime_version="${1#*=}" ;;
    --slices=*) slices="${1#*=}" ;;
    --spot | --reserved)
      [[ -z $tier ]] || fail 'give one of --spot and --reserved, once'
      tier="$1"
      ;;
    --python=*) python="${1#*=}" ;;
    --setup=*) setup="${1#*=}" ;;
    --environment=*) environment_file="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --crashes=*) crashes="${1#*=}" ;;
    --pause=*) pause="${1#*=}" ;;
    --dry-run) dry_run=true ;;
    -h | --help) usage && exit 0 ;;
    --)
      shift
      break
      ;;
    *) fail "unknown argument '$1'; write --option=value, and the flags of the training after --" ;;
  esac
  shift
done

check --name "$name" "$NAME" 'a name: small letters, digits and dashes, at most 40'
check_zone_and_project "$zone" "$project"
check --directory "$directory" '[A-Za-z0-9_][A-Za-z0-9_./-]*' 'a plain path from the home directory'
check --slices "$slices" "$COUNT" 'a number of slices'
check --restarts "$restarts" "$NUMBER" 'a whole number'
check --crashes "$crashes" "$NUMBER" 'a whole number'
check --pause "$pause" "$NUMBER" 'a whole number of seconds'
[[ -n $python ]] || fail '--python must not be empty'
if [[ $command == create || -n $accelerator_type$runtime_version ]]; then
  check --accelerator-type "$accelerator_type" 'v[0-9]+[a-z]*-[0-9]+' 'a type of TPU such as v5litepod-16'
  check --runtime-version "$runtime_version" '[a-z0-9][a-z0-9.-]*' 'an image such as v2-alpha-tpuv5-lite'
fi
environment=()
if [[ $command == run ]]; then
  check_training_flags "$@"
  read_environment "$environment_file"
elif (($#)); then
  fail "only run takes flags of the training, not $command"
fi
need gcloud 'install the Google Cloud CLI'

where=("--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")

# Ends the script after a command that failed and has said why.
broken() {
  say "$1; its message is above"
  exit 1
}

queued() { # queued VERB ARGUMENT ...: one call about this queued resource
  perform gcloud compute tpus queued-resources "$1" "$name" "${where[@]}" "${@:2}"
}

# On every host of every slice; all at once, because a training waits at its start for all of its hosts.
everywhere() {
  queued ssh --node=all --worker=all --batch-size=all "--command=$1"
}

worker() { # worker VERB ARGUMENT ...: the command line that calls tpu_worker.sh on a host
  quoted bash "$directory/tpu_worker.sh" "$@"
}

create() {
  local nodes=("--node-id=$name")
  ((slices == 1)) || nodes=("--node-count=$slices" "--node-prefix=$name")
  queued create "${nodes[@]}" "--accelerator-type=$accelerator_type" "--runtime-version=$runtime_version" \
    ${tier:+"$tier"} || broken "gcloud could not create '$name'"
}

delete() {
  queued delete --force --quiet || broken "gcloud could not delete '$name'"
}

state() {
  queued describe '--format=value(state.state)'
}

# Waits for the TPUs. Returns 1 where they were taken away for good, which only a new request changes.
wait_until_active() {
  local now last=''
  if $dry_run; then
    state
    return
  fi
  while true; do
    now="$(state)" || broken "gcloud cannot describe '$name' in '$zone'"
    [[ $now == "$last" ]] || say "the queued resource is ${now:-in no state}"
    last="$now"
    case "$now" in
      ACTIVE) return 0 ;;
      SUSPENDED) return 1 ;;
      FAILED)
        say "Google could not grant it: quota, no TPUs in time, or a wrong request; '$program status' says more"
        exit 1
        ;;
    esac
    sleep "$pause"
  done
}

# Leaves with the TPUs ready and returns 0, or 1 where they are new ones, with nothing installed.
get_ready() {
  if wait_until_active; then return 0; fi
  if [[ -z $accelerator_type ]]; then
    say "the TPUs of '$name' were taken away; delete and create it, or give run the options of create"
    exit "$PREEMPTED"
  fi
  delete
  create
  wait_until_active || { say "the TPUs of '$name' were taken away before anything ran" && exit "$PREEMPTED"; }
  return 1
}

install() {
  local root="${here%/*}" version wheel pip="$directory/venv/bin/pip"
  [[ -f $root/pyproject.toml ]] || fail 'install builds jaxfm from its checkout: start it as launch/tpu_pod.sh from there'
  version="$(sed -n 's/^__version__ = "\(.*\)"$/\1/p' "$root/jaxfm/__init__.py")"
  wheel="jaxfm_encoders-$version-py3-none-any.whl"
  # setuptools keeps what it once built, and would pack modules that are gone.
  perform rm -rf "$root/build/lib"
  perform python3 -m pip wheel --quiet --no-deps "--wheel-dir=$root/dist" "$root" || broken 'pip could not build jaxfm'
  everywhere "mkdir -p $(quoted "$directory")" || broken "a host of '$name' could not be reached"
  perform gcloud compute tpus queued-resources scp --recurse "$root/dist/$wheel" "$root/constraints.txt" \
    "$root/configs" "$here/tpu_worker.sh" "$name:$directory/" "${where[@]}" --node=all --worker=all --batch-size=all ||
    broken "gcloud could not copy jaxfm to every host of '$name'"
  [[ -z $setup ]] || everywhere "$setup" || broken "the command of --setup failed on a host of '$name'"
  # The same versions on every host, or the hosts refuse each other before the first step. The wheel once more, because
  # pip leaves an installed one alone while its version stays.
  everywhere "$(quoted "$python" -m venv "$directory/venv") && $(
    quoted "$pip" install --quiet -c "$directory/constraints.txt" "$directory/${wheel}[tpu]"
  ) && $(quoted "$pip" install --quiet --force-reinstall --no-deps "$directory/$wheel")" ||
    broken "a host of '$name' could not install jaxfm"
}

# Prints how the training stands on all hosts together: running, a code, preempted, or unreachable.
outcome() {
  local answer codes code crash='' preempted=false lines=0
  answer="$(everywhere "$(worker outcome)")" || { echo unreachable && return; }
  codes="$(sed -n 's/^jaxfm-worker [^ ]* \([a-z0-9]*\)\r\{0,1\}$/\1/p' <<<"$answer")"
  for code in $codes; do
    ((lines += 1))
    case "$code" in
      running) echo running && return ;;
      "$USER_MISTAKE") echo "$USER_MISTAKE" && return ;;
      "$PREEMPTED" | lost | none) preempted=true ;;
      0) ;;
      "$LOST") crash="${crash:-$LOST}" ;; # the host that crashed has more to say
      *) crash="$code" ;;
    esac
  done
  if ((lines == 0)); then
    echo unreachable
  elif [[ -n $crash ]]; then
    echo "$crash"
  elif $preempted; then
    echo preempted
  else
    echo 0
  fi
}

# Shows the log until the training has ended on all hosts; leaves how in `ended`.
watch() {
  local lines='+1' silent=0
  ended=unreachable
  while true; do
    # A connection that breaks is no news of the training; what has become of it is asked next.
    queued ssh --node=0 --worker=0 "--command=$(worker follow "$lines")" || true
    lines=0
    ended="$(outcome)"
    case "$ended" in
      running) silent=0 ;;
      unreachable)
        [[ $(state || true) == ACTIVE ]] || { ended=preempted && return; }
        ((silent += 1))
        ((silent < 10)) || { say "no host answers; the training may go on, 'run' again attaches to it" && exit 1; }
        ;;
      *) return ;;
    esac
    sleep "$pause"
  done
}

run() {
  local start preemptions=0 crashed=0 ended=''
  start="cd $(quoted "$directory") && $(quoted bash tpu_worker.sh start "${environment[@]}" \
    venv/bin/python -m jaxfm.train "$@")"
  if $dry_run; then
    state
    everywhere "$start"
    queued ssh --node=0 --worker=0 "--command=$(worker follow +1)"
    everywhere "$(worker outcome)"
    return
  fi
  while true; do
    get_ready || install
    if everywhere "$start"; then
      watch
    elif [[ $(state || true) == ACTIVE ]]; then
      say "not every host could start the training; where it is not installed, '$program install' does that"
      ended=1
    else
      ended=preempted
    fi
    case "$ended" in
      0 | "$USER_MISTAKE") exit "$ended" ;;
      preempted)
        ((preemptions += 1))
        ((preemptions <= restarts)) ||
          { say "preempted again after $restarts restarts; the same command resumes" && exit "$PREEMPTED"; }
        say "preempted; restart $preemptions of at most $restarts"
        ;;
      *)
        ((crashed += 1))
        ((crashed <= crashes)) || { say "ended with exit code $ended after $crashes restarts" && exit "$ended"; }
        say "ended with exit code $ended; restart $crashed of at most $crashes"
        ;;
    esac
    sleep "$pause"
  done
}

case "$command" in
  create) create ;;
  install)
    wait_until_active || { say "the TPUs of '$name' were taken away; delete and create it" && exit "$PREEMPTED"; }
    install
    ;;
  run) run "$@" ;;
  follow) queued ssh --node=0 --worker=0 "--command=$(worker follow +1)" ;;
  status)
    answer="$(queued describe '--format=yaml(name,state)')" || broken "gcloud cannot describe '$name' in '$zone'"
    printf '%s\n' "$answer"
    # Only then are there hosts to ask.
    if $dry_run || [[ $answer == *'state: ACTIVE'* ]]; then everywhere "$(worker outcome)"; fi
    ;;
  stop) everywhere "$(worker stop)" ;;
  delete) delete ;;
esac
