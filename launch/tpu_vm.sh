#!/usr/bin/env bash
# Trains on an existing single-host TPU VM: runs `python -m jaxfm.train` there over ssh and starts it again for as long
# as it ends with exit code 75 (stopped by preemption after a good save). See launch/README.md for setting the VM up.
set -euo pipefail

readonly PREEMPTED=75

usage() {
  cat <<'END'
usage: launch/tpu_vm.sh --name=TPU --zone=ZONE [options] -- --config=FILE --workdir=DIR [more flags of jaxfm.train]

  --name=TPU          an existing TPU VM with ONE host, for example a v5litepod-8
  --zone=ZONE         its zone, for example us-west4-a
  --project=PROJECT   its project (default: the one gcloud is set to)
  --directory=DIR     the checkout of jaxfm on the TPU VM, from the home directory (default: jaxfm)
  --python=PYTHON     the interpreter there, from DIR, that jaxfm is installed for (default: python3)
  --restarts=N        how often to start again after exit code 75 (default: 100)
  --pause=SECONDS     how long to wait before each start after the first (default: 10)
  --dry-run           print the commands, quoted for a shell, and run nothing

Exit code: that of the training; 2 for a mistake in this command. Everything after -- goes to the training as it is.
END
}

fail() {
  printf 'tpu_vm.sh: %s\n' "$1" >&2
  printf 'Run launch/tpu_vm.sh --help for the usage.\n' >&2
  exit 2
}

# Prints the arguments as one line that a shell reads back as the same arguments.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

name='' zone='' project='' directory='jaxfm' python='python3' restarts=100 pause=10 dry_run=false
while (($#)); do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --directory=*) directory="${1#*=}" ;;
    --python=*) python="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
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

# What is checked here would otherwise fail on the TPU VM, minutes later, or reach gcloud as another option.
[[ $name =~ ^[a-z]([-a-z0-9]*[a-z0-9])?$ ]] || fail "--name='$name' is not the name of a TPU VM"
[[ $zone =~ ^[a-z]+-[-a-z0-9]*[a-z0-9]$ ]] || fail "--zone='$zone' is not a zone such as us-west4-a"
[[ $restarts =~ ^[0-9]{1,6}$ ]] || fail "--restarts='$restarts' is not a whole number"
[[ $pause =~ ^[0-9]{1,6}$ ]] || fail "--pause='$pause' is not a whole number of seconds"
[[ -n $directory && -n $python ]] || fail '--directory and --python must not be empty'
[[ " $*" == *' --config='* ]] || fail 'the flags of the training, after --, need --config=FILE'
[[ " $*" == *' --workdir='* ]] || fail 'the flags of the training, after --, need --workdir=DIR; a restart resumes there'

where=("$name" "--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")
describe=(gcloud compute tpus tpu-vm describe "${where[@]}" '--format=value(networkEndpoints.len())')
remote="cd $(quoted "$directory") && $(quoted "$python" -m jaxfm.train "$@")"
train=(gcloud compute tpus tpu-vm ssh "${where[@]}" --worker=all "--command=$remote")

if $dry_run; then
  quoted "${describe[@]}" && echo
  quoted "${train[@]}" && echo
  exit 0
fi

command -v gcloud >/dev/null || fail 'gcloud is not on PATH; install the Google Cloud CLI'
hosts="$("${describe[@]}")" || fail "gcloud cannot describe the TPU VM '$name' in '$zone'; its message is above"
# On more hosts each would train alone, on its own chips, into its own directory.
[[ $hosts == 1 ]] || fail "'$name' has ${hosts:-no} hosts; this script starts one, so use a single-host TPU VM"

for ((start = 0; ; start++)); do
  code=0
  "${train[@]}" || code=$?
  ((code == PREEMPTED)) || exit "$code"
  if ((start == restarts)); then
    printf 'tpu_vm.sh: preempted again after %s restarts; the same command resumes\n' "$restarts" >&2
    exit "$code"
  fi
  printf 'tpu_vm.sh: preempted; start %s in %s s\n' "$((start + 2))" "$pause" >&2
  sleep "$pause"
done
