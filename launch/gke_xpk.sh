#!/usr/bin/env bash
# Trains on a GKE cluster of TPUs that xpk made: submits a workload with `xpk workload create`. See launch/README.md.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'END'
usage: launch/gke_xpk.sh --name=NAME --cluster=CLUSTER --zone=ZONE --tpu-type=TYPE --image=IMAGE [options]
           -- flags of jaxfm.train

  --name=NAME           of the workload
  --cluster=CLUSTER     a cluster that `xpk cluster create` made
  --zone=ZONE           its zone, for example us-west4-a
  --project=PROJECT     its project (default: the one gcloud is set to)
  --tpu-type=TYPE       for example v5litepod-16
  --slices=N            how many slices of that type (default: 1)
  --image=IMAGE         a container image with jaxfm-encoders[tpu] and the configuration in it
  --python=PYTHON       the interpreter in that image (default: python3)
  --priority=LEVEL      very-low, low, medium, high or very-high (default: medium)
  --restarts=N          how often to start again, preemptions and crashes counted together (default: 50)
  --grace=SECONDS       what a preempted host is given to save (default: 120)
  --environment=FILE    environment of the training (default: launch/environment/tpu.env)
  --dry-run             print the command, quoted for a shell, and run nothing

xpk starts a workload again after exit code 75 and after crashes, and not after 2. The exit code here is xpk's, and says
whether the workload was accepted; `xpk workload list` shows how it goes.
END
}

name='' cluster='' zone='' project='' tpu_type='' slices=1 image='' python='python3' priority='medium'
restarts=50 grace=120 environment_file="$here/environment/tpu.env"
while (($#)); do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --cluster=*) cluster="${1#*=}" ;;
    --zone=*) zone="${1#*=}" ;;
    --project=*) project="${1#*=}" ;;
    --tpu-type=*) tpu_type="${1#*=}" ;;
    --slices=*) slices="${1#*=}" ;;
    --image=*) image="${1#*=}" ;;
    --python=*) python="${1#*=}" ;;
    --priority=*) priority="${1#*=}" ;;
    --restarts=*) restarts="${1#*=}" ;;
    --grace=*) grace="${1#*=}" ;;
    --environment=*) environment_file="${1#*=}" ;;
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
check --cluster "$cluster" "$NAME" 'the name of a cluster'
check_zone_and_project "$zone" "$project"
check --tpu-type "$tpu_type" 'v[0-9]+[a-z]*-[0-9]+' 'a type of TPU such as v5litepod-16'
check --slices "$slices" "$COUNT" 'a number of slices'
check --image "$image" "$IMAGE" 'the name of a container image'
check --priority "$priority" 'very-low|low|medium|high|very-high' 'one of very-low, low, medium, high and very-high'
check --restarts "$restarts" "$NUMBER" 'a whole number'
check --grace "$grace" "$COUNT" 'a number of seconds'
[[ -n $python ]] || fail '--python must not be empty'
check_training_flags "$@"
read_environment "$environment_file"
for variable in "${environment[@]}"; do
  # xpk writes the value between double quotes into YAML.
  [[ $variable != *[\"\\]* ]] || fail "xpk cannot pass on a double quote or a backslash: $variable"
done
need xpk 'see https://github.com/AI-Hypercomputer/xpk'

where=("--cluster=$cluster" "--zone=$zone")
[[ -z $project ]] || where+=("--project=$project")
# exec: xpk runs the command in a shell of its own, and sends that shell the signal to save.
# Exit codes: xpk starts again after 42 and 127-255 (signals) by itself; 1 is a Python program that crashed.
perform xpk workload create "--workload=$name" "${where[@]}" "--tpu-type=$tpu_type" "--num-slices=$slices" \
  "--docker-image=$image" "--priority=$priority" "--max-restarts=$restarts" \
  "--restart-on-exit-codes=1,$LOST,$PREEMPTED" \
  "--termination-grace-period-seconds=$grace" "${environment[@]/#/--env=}" \
  "--command=exec $(quoted "$python" -m jaxfm.train "$@")"
