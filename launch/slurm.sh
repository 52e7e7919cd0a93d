#!/usr/bin/env bash
# Trains on GPU nodes of a SLURM cluster: writes a batch script and submits it with sbatch. See launch/README.md.
# shellcheck source-path=SCRIPTDIR
source "$(dirname "${BASH_SOURCE[0]}")/lib.sh"

usage() {
  cat <<'END'
usage: launch/slurm.sh --name=NAME --nodes=N --gpus=N --time=LIMIT [options] -- flags of jaxfm.train

  --name=NAME           of the job
  --nodes=N             how many nodes
  --gpus=N              GPUs a node; give all that a node has
  --cpus=N              CPU cores a GPU (default: 8)
  --time=LIMIT          minutes, HOURS:MINUTES:SECONDS or DAYS-HOURS:MINUTES:SECONDS; a job that needs longer is
                        requeued as often as it takes
  --partition=NAME, --account=NAME, --qos=NAME      where and on whose account (default: the cluster's)
  --python=PYTHON       the interpreter, as the nodes see it, that jaxfm-encoders[cuda] is installed for (default: python3)
  --logs=DIR            where the log lies, one file a job (default: logs)
  --grace=SECONDS       how long before the time limit the training is told to save (default: 120)
  --wait=SECONDS        how long after the first process ended the others may run on (default: 300)
  --crashes=N           how often to start again in the same allocation after any end but 0, 2 and 75 (default: 3)
  --environment=FILE    environment of the training (default: launch/environment/gpu.env)
  --dry-run             print the commands, quoted for a shell, and run nothing

After exit code 75 (saved, before the time limit or a preemption) the job requeues itself and resumes. The exit code here
is that of sbatch. Submit from the checkout of jaxfm; the job runs there. --workdir must lie on storage that every node
sees.
END
}

name='' nodes='' gpus='' cpus=8 limit='' partition='' account='' qos='' python='python3' logs='logs' grace=120
wait=300 crashes=3 environment_file="$here/environment/gpu.env"
while (($#)); do
  case "$1" in
    --name=*) name="${1#*=}" ;;
    --nodes=*) nodes="${1#*=}" ;;
    --gpus=*) gpus="${1#*=}" ;;
    --cpus=*) cpus="${1#*=}" ;;
    --time=*) limit="${1#*=}" ;;
    --partition=*) partition="${1#*=}" ;;
    --account=*) account="${1#*=}" ;;
    --qos=*) qos="${1#*=}" ;;
    --python=*) python="${1#*=}" ;;
    --logs=*) logs="${1#*=}" ;;
    --grace=*) grace="${1#*=}" ;;
    --wait=*) wait="${1#*=}" ;;
    --crashes=*) crashes="${1#*=}" ;;
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
check --nodes "$nodes" "$COUNT" 'a number of nodes'
check --gpus "$gpus" "$COUNT" 'a number of GPUs a node'
check --cpus "$cpus" "$COUNT" 'a number of CPU cores a GPU'
check_slurm_options
check --wait "$wait" "$COUNT" 'a number of seconds'
check --crashes "$crashes" "$NUMBER" 'a whole number'
check_training_flags "$@"
read_environment "$environment_file"
need sbatch 'submit from a machine of the cluster'

batch_script() { # batch_script FLAG ...
  cat <<END
#!/usr/bin/env bash
#SBATCH --job-name=$name
#SBATCH --nodes=$nodes
# One process a GPU, each seeing all GPUs of its node: JAX gives the process with SLURM_LOCALID i the i-th GPU it sees
# (jax/_src/clusters/slurm_cluster.py). So no --gpus-per-task, which shows each process one GPU, numbered 0.
#SBATCH --ntasks-per-node=$gpus
#SBATCH --gpus-per-node=$gpus
#SBATCH --cpus-per-task=$cpus
#SBATCH --time=$limit
#SBATCH --output=$logs/$name-%j.log
# A requeued job goes on in the same log.
#SBATCH --requeue
#SBATCH --open-mode=append
# To the processes of the training, not to this script (that would be B:TERM): they save and end with 75.
#SBATCH --signal=TERM@$grace
$(optional partition "$partition")
$(optional account "$account")
$(optional qos "$qos")
set -u
$(printf 'export %q\n' "${environment[@]}")
trap : TERM  # this script outlives a training that is told to save, and reads its exit code

for ((crashed = 0; ; crashed++)); do
  code=0
  # Not --kill-on-bad-exit: the first process that ends with 75 would have the others killed while they save.
  # --cpus-per-task again: srun no longer takes it from sbatch (SLURM 22.05).
  srun --cpus-per-task=$cpus --gpu-bind=none --kill-on-bad-exit=0 --wait=$wait \\
    $(quoted "$python" -m jaxfm.train "$@") || code=\$?
  case "\$code" in
    0 | $USER_MISTAKE) exit "\$code" ;;
    $PREEMPTED)
      echo "saved; requeueing job \$SLURM_JOB_ID"
      scontrol requeue "\$SLURM_JOB_ID" || echo 'scontrol could not requeue the job; submit it again to resume'
      exit $PREEMPTED
      ;;
  esac
  ((crashed < $crashes)) || exit "\$code"
  echo "ended with exit code \$code; restart \$((crashed + 1)) of at most $crashes"
done
END
}

submit "$(batch_script "$@")"
