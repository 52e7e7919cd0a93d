# shellcheck shell=bash disable=SC2034,SC2154  # what seems unused or unset here is for, or of, the scripts
# What the launch scripts share. Sourced by them: it sets -euo pipefail, `here`, `program`, the exit codes, and expects
# the script to define usage().
set -euo pipefail

if ((BASH_VERSINFO[0] * 100 + BASH_VERSINFO[1] < 404)); then
  printf '%s needs bash 4.4 or newer, this is %s\n' "${0##*/}" "$BASH_VERSION" >&2
  exit 2
fi

# What a training ends with, see jaxfm/programs/program.py. Any other code but 0 is a crash, of another host where it is LOST.
readonly USER_MISTAKE=2 LOST=69 PREEMPTED=75
here="$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)"
program="${0##*/}"
readonly here program
dry_run=false

say() {
  printf '%s: %s\n' "$program" "$1" >&2
}

# Ends the script with the user's mistake, in one message.
fail() {
  say "$1"
  printf 'Run launch/%s --help for the usage.\n' "$program" >&2
  exit "$USER_MISTAKE"
}

# Prints the arguments as one line that a shell reads back as the same arguments.
quoted() {
  local line
  printf -v line '%q ' "$@"
  printf '%s' "${line% }"
}

# Runs the arguments as a command; in a dry run prints them instead.
perform() {
  if $dry_run; then
    quoted "$@" && echo
  else
    "$@"
  fi
}

# check OPTION VALUE PATTERN MEANING: the whole value matches the pattern, or the script ends. What is checked here
# would otherwise fail minutes later, on another machine, or reach a command as another option.
check() {
  [[ $2 =~ ^($3)$ ]] || fail "$1='$2' is not $4"
}

readonly NUMBER='[0-9]{1,6}' COUNT='[1-9][0-9]{0,4}'
readonly NAME='[a-z]([-a-z0-9]{0,38}[a-z0-9])?' # at most 40 letters: Kubernetes and Cloud TPU add to it, and allow 63
readonly ZONE='[a-z]+-[a-z]+[0-9]+-[a-z0-9]+'
readonly PROJECT='([a-z0-9.-]+:)?[a-z][-a-z0-9]{4,28}[a-z0-9]'
readonly IMAGE='[a-z0-9][A-Za-z0-9._:/@-]*'

check_zone_and_project() {
  check --zone "$1" "$ZONE" 'a zone such as us-west4-a'
  [[ -z $2 ]] || check --project "$2" "$PROJECT" 'the id of a project, such as my-project'
}

# need COMMAND WHERE-FROM: the command is there, or the script ends; a dry run needs none.
need() {
  $dry_run || command -v "$1" >/dev/null || fail "$1 is not on PATH; $2"
}

# The flags of the training are what follows --.
check_training_flags() {
  local flag config=false workdir=false
  for flag; do
    case "$flag" in
      *$'\n'*) fail "a flag of the training holds a line break: $(quoted "$flag")" ;;
      --config=?*) config=true ;;
      --workdir=?*) workdir=true ;;
    esac
  done
  $config || fail 'the flags of the training, after --, need --config=FILE'
  $workdir || fail 'the flags of the training, after --, need --workdir=DIR; a restart resumes there'
}

# Reads an environment file (environment/tpu.env says how it is written) into the array `environment` of NAME=value.
read_environment() {
  local line index number=0
  environment=()
  [[ -f $1 && -r $1 ]] || fail "--environment='$1' is not a file that can be read"
  while IFS= read -r line || [[ -n $line ]]; do
    ((number += 1))
    [[ $line =~ ^[[:space:]]*(#|$) ]] && continue
    [[ $line =~ ^[A-Za-z_][A-Za-z0-9_]*= ]] || fail "$1:$number: '$line' is not NAME=value; start a comment with #"
    for index in "${!environment[@]}"; do
      if [[ ${environment[index]} == "${line%%=*}="* ]]; then
        environment[index]+=" ${line#*=}"
        continue 2
      fi
    done
    environment+=("$line")
  done <"$1"
}

# What the scripts of SLURM share: options that both have, in variables of their names.
check_slurm_options() {
  local option
  check --time "$limit" '[0-9]+|[0-9]+:[0-9]{2}:[0-9]{2}|[0-9]+-[0-9]+(:[0-9]{2}){0,2}' 'a time limit such as 12:00:00'
  check --grace "$grace" "$COUNT" 'a number of seconds'
  check --logs "$logs" '[A-Za-z0-9_./-]+' 'a plain path'
  for option in partition account qos; do
    # Left away where empty. What reaches a line of #SBATCH must not start another option.
    check "--$option" "${!option}" '([A-Za-z0-9_][A-Za-z0-9_.,-]*)?' 'a plain name'
  done
  [[ -n $python ]] || fail '--python must not be empty'
}

optional() { # optional NAME VALUE: a line of #SBATCH where there is a value
  [[ -z $2 ]] || printf '#SBATCH --%s=%s\n' "$1" "$2"
}

# submit SCRIPT: gives a batch script to sbatch, or prints how.
submit() {
  if $dry_run; then
    quoted mkdir -p "$logs" && echo
    printf "sbatch <<'END_OF_BATCH_SCRIPT'\n%s\nEND_OF_BATCH_SCRIPT\n" "$1"
  else
    # SLURM makes no folder for the log, and fails the job without a word.
    mkdir -p "$logs"
    sbatch <<<"$1"
  fi
}
