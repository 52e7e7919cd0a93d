#!/usr/bin/env bash
# Runs the workers of one search on GPU nodes of a SLURM cluster, as a job array. See launch/README.md.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'END'
usage: launch/slurm_workers.sh --name=NAME --workers=N --gpus=N --time=LIMIT [options] -- flags of jaxfm.search

  --name=NAME           of the job
  --workers=N           how many workers: jobs of one array, each on one node
  --gpus=N              GPUs of a worker, all used by each trial
  --cpus=N              CPU cores a GPU (default: 8)
  --time=LIMIT          minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS; a worker that needs longer is
                        requeued as often as it takes
  --partition=NAME, --account=NAME, --qos=NAME      where and on whose account (default: the cluster's)
  --python=PYTHON       the interpreter, as the nodes see it, that jaxfm-encoders[cuda,search] is installed for
                        (default: python3)
  --logs=DIR            where the logs lie, one file a worker (default: logs)
  --grace=SECONDS       how long before the time limit the worker is told to save (default: 120)
  --crashes=N           how often to start again in the same allocation after any end but 0, 2, 75 and 143 (default: 3)
  --environment=FILE    environment of the workers (default: launch/environment/gpu.env)
  --dry-run             print the commands, quoted for a shell, and run nothing

A worker that is stopped saves its trial, requeues itself and goes on; the trial of one that is lost is gone on with by
another one. --workdir must lie on storage that every node sees, and --storage be a database or journal that all reach
(SQLite, the default, is for one machine).
END
}

name='' workers='' gpus='' cpus=8 limit='' partition='' account='' qos='' python='python3' logs='logs' grace=120
crashes=3 environment_file="$here/environment/gpu.env"
while (($#)); do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --workers=*) workers="${1#*=}" ;;
    --gpus=*) gpus="${1#*=}" ;;
    --cpus=*) cpus="${1#*=}" ;;
    --time=*) limit="${1#*=}" ;;
    --partition=*) partition="${1#*=}" ;;
    --account=*) account="${1#*=}" ;;
    --qos=*) qos="${1#*=}" ;;
    --python=*) python="${1#*=}" ;;
    --logs=*) logs="${1#*=}" ;;
    --grace=*) grace="${1#*=}" ;;
    --crashes=*) crashes="${1#*=}" ;;
    --environment=*) environment_file="${1#*=}" ;;
    --dry-run) dry_run=true ;;
    -h | --help) usage && exit 0 ;;
    --)
      shift
      break
      ;;
    *) fail "unknown argument '$1'; write --option=value, and the flags of the search after --" ;;
  esac
  shift
done

check --name "$name" "$NAME" 'a name: small letters, digits and dashes, at most 40'
check --workers "$workers" "$COUNT" 'a number of workers'
check --gpus "$gpus" "$COUNT" 'a number of GPUs a worker'
check --cpus "$cpus" "$COUNT" 'a number of CPU cores a GPU'
check_slurm_options
check --crashes "$crashes" "$NUMBER" 'a whole number'
check_training_flags "$@"
storage=false
for flag; do
  [[ $flag != --storage=?* ]] || storage=true
done
$storage || ((workers == 1)) \
  || fail 'several nodes need --storage=journal:FILE or a database after --; SQLite, the default, is for one machine'
read_environment "$environment_file"
need sbatch 'submit from a machine of the cluster'

batch_script() { # batch_script FLAG ...
  cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --array=0-$((workers - 1))
#SBATCH --nodes=1
# One process with all GPUs of the worker: a trial is no run of several processes.
#SBATCH --ntasks=1
#SBATCH --gpus-per-node=$gpus
#SBATCH --cpus-per-task=$((cpus * gpus))
#SBATCH --time=$limit
#SBATCH --output=$logs/$name-%A-%a.log
# A requeued worker goes on in the same log.
#SBATCH --requeue
#SBATCH --open-mode=append
# To the worker, not to this script (that would be B:TERM): it saves and ends with 75.
#SBATCH --signal=TERM@$grace
$(optional partition "$partition")
$(optional account "$account")
$(optional qos "$qos")
set -u
$(printf 'export %q\n' "${environment[@]}")
trap : TERM  # this script outlives a worker that is told to save, and reads its exit code

for ((crashed = 0; ; crashed++)); do
  code=0
  # --cpus-per-task again: srun no longer takes it from sbatch (SLURM 22.05).
  srun --cpus-per-task=$((cpus * gpus)) $(quoted "$python" -m jaxfm.search "$@") || code=\$?
  case "\$code" in
    0 | $USER_MISTAKE) exit "\$code" ;;
    $PREEMPTED | 143)  # 143: told to stop between two trials, where there was nothing to save
      echo "stopped; requeueing job \$SLURM_JOB_ID"
      scontrol requeue "\$SLURM_JOB_ID" || echo 'scontrol could not requeue the job; submit it again to go on'
      exit $PREEMPTED
      ;;
  esac
  ((crashed < $crashes)) || exit "\$code"
  echo "ended with exit code \$code; restart \$((crashed + 1)) of at most $crashes"
done
END
}

submit "$(batch_script "$@")"
