#!/usr/bin/env bash
# shellcheck disable=SC2054  # commas are part of the options
# Runs every measurement of a GPU, one after the other; what is finished is not run again. See usage() below.
set -euo pipefail

usage() {
  cat <<'END'
usage: [OUT=DIR] [DATA=DIR] [PYTHON=python3] [TOY=1] profiles/gpu_all.sh

  OUT=DIR        where results and logs go, one file a step (default: profiles/results/gpu)
  DATA=DIR       folder of data sets (wnut17, mlm-corpus; default: ../shared/data); steps whose set is absent are left out
  REFERENCE=FILE the torch script of NER (default: hf_ner.py in DATA/../reference)
  PYTHON=PYTHON  the interpreter that jaxfm-encoders[cuda,quickstart,test] is installed for (default: python3)
  LIMIT=SECONDS  after which a step is given up (default: 480)
  TOY=1          the same steps so small that a laptop's CPU runs them: to see that everything works

Run it again after a failure, an interruption, or on a machine that is lent again: only what is missing is run. Correctness
comes first. Exits with 1 when a step failed; its log says why.
END
}

if (($#)); then
  usage
  [[ $1 == --help ]] && exit 0
  exit 2
fi

cd "$(dirname "${BASH_SOURCE[0]}")/.."
toy="${TOY:-}"
out="${OUT:-profiles/results/gpu${toy:+_toy}}"
data="${DATA:-../shared/data}"
reference="${REFERENCE:-$data/../reference/hf_ner.py}"
python="${PYTHON:-python3}"
limit="${LIMIT:-480}"
failed=()

export PYTHONPATH=. HF_HUB_OFFLINE=1 MPLBACKEND=agg
export XLA_PYTHON_CLIENT_MEM_FRACTION="${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.92}" # the device is ours alone
if [[ -n $toy ]]; then
  export JAX_PLATFORMS=cpu
else
  export JAX_PLATFORMS=cuda,cpu
fi
mkdir -p "$out/.done"

say() { printf '%s %s\n' "$(date +%H:%M:%S)" "$1"; }

# step NAME COMMAND...: runs the command once; its output goes to NAME.log.
step() {
  local name="$1" code=0
  shift
  [[ -e $out/.done/$name ]] && return
  say "$name"
  timeout "$limit" "$@" >"$out/$name.log" 2>&1 || code=$?
  if ((code == 0)); then
    touch "$out/.done/$name"
  else
    failed+=("$name")
    say "  failed with $code: see $out/$name.log"
  fi
}

# measure NAME SCRIPT OPTIONS...: a step of profiles/SCRIPT.py that writes NAME.json.
measure() {
  local name="$1" script="$2"
  shift 2
  step "$name" "$python" -m "profiles.$script" "--output=$out/$name.json" "$@"
}

# Sizes: what is measured, and the same as a toy.
if [[ -z $toy ]]; then
  models=(bert_base bert_large)
  bert=(--config.model.tokenizer=train:wordpiece/30522 --vary=data.row_length,train.batch_size=128,512:512,128)
  modern=(--config=configs/mlm.py:modern_base --vary=data.row_length,train.batch_size=1024,64:8192,8)
  lengths=(--config=configs/mlm.py:modern_base --vary=data.row_length,train.batch_size=128,512:512,128:2048,32:8192,8)
  one=(--config.data.row_length=128 --config.train.batch_size=512 --config.model.tokenizer=train:wordpiece/30522)
  ner=(--config.model.preset=bert_base --config.train.batch_size=128)
  against=(--config.model.tokenizer=train:wordpiece/30522 --config.data.packed=False) beside=("128,256" "512,64")
  timing=() most=() ceilings=() pipeline=() grown=(--config.train.batch_size=64)
  scaled=(--models=bert_tiny,bert_mini,bert_small,bert_base,bert_large --row-lengths=64,128,256,512
    --batches=16,32,64,128,256,512) curve=50 seeds=0,1,2 sentences=16 limited=1000
else
  models=(bert_tiny bert_mini)
  bert=(--config.model.tokenizer=train:wordpiece/500 --vary=data.row_length,train.batch_size=16,4:32,2)
  modern=(--config=configs/mlm.py:modern_tiny --vary=data.row_length,train.batch_size=64,2:128,1)
  lengths=(--config=configs/mlm.py:modern_tiny --vary=data.row_length,train.batch_size=32,2:64,1)
  one=(--config.data.row_length=16 --config.train.batch_size=4 --config.model.tokenizer=train:wordpiece/500)
  ner=(--config.model.preset=bert_tiny --config.train.batch_size=2)
  against=(--config.model.tokenizer=train:wordpiece/500 --turns=1 --torch=--no-compile) beside=("16,4")
  timing=(--steps=2 --warm-up=1) most=(--most-rows=16) ceilings=(--sizes=64,128 --copy-mib=1 --calls=2)
  pipeline=(--batches=10 --turns=1 --steps=4 --run-steps=4) grown=(--config.train.batch_size=2)
  scaled=(--models=bert_tiny,bert_mini --row-lengths=16,32 --batches=2,4 --turns=1 --steps=2) curve=3 seeds=0
  sentences=16 limited=64
fi

# 1. Correctness on the device: every path of attention, and the losses of one run beside those of the CPU.
step attention_tests env "JAXFM_TEST_PLATFORMS=$JAX_PLATFORMS" "$python" -m pytest -q -p no:cacheprovider \
  tests/models/test_attention.py tests/models/test_kernels.py tests/models/test_packed_rows.py
curves=(--config=configs/ner.py "--config.train.steps=$curve" --config.log.every_steps=1 --config.train.precision=f32)
step curve_device "$python" -m jaxfm.train "${curves[@]}" "--workdir=$out/runs/curve_device"
step curve_cpu env JAX_PLATFORMS=cpu "$python" -m jaxfm.train "${curves[@]}" "--workdir=$out/runs/curve_cpu"
step curves "$python" -m profiles.loss_curves "$out/runs/curve_device" "$out/runs/curve_cpu" "--output=$out/curves.json"

# 2. Ceilings of this device.
measure ceilings ceilings "${ceilings[@]}"

# 3. Throughput: one example a row without and with padding (fused attention has neither segments nor dropout on its
# weights), packed rows; the largest batch that fits.
for model in "${models[@]}"; do
  mlm=("--config=configs/mlm.py:$model" "${bert[@]}" "${timing[@]}")
  fused=(--config.data.packed=False --vary=model.attention_dropout=0.1:0.0)
  measure "${model}_full" throughput "${mlm[@]}" "${fused[@]}" --rows=full
  measure "${model}_padded" throughput "${mlm[@]}" "${fused[@]}" --rows=padded
  measure "${model}_packed" throughput "${mlm[@]}" --rows=packed
  measure "${model}_auto" throughput "--config=configs/mlm.py:$model" "${one[@]}" "${timing[@]}" "${most[@]}" \
    --config.train.batch_size=auto --config.model.remat=full
done
measure modern_full throughput "${modern[@]}" "${timing[@]}" --config.data.packed=False --rows=full
measure modern_packed throughput "${modern[@]}" "${timing[@]}" --rows=packed
tagger=(--config=configs/ner.py:files --config.model.init=scratch --config.model.tokenizer=train:wordpiece/30522
  "${ner[@]}" "${timing[@]}" --example-tokens=28)
measure ner_packed throughput "${tagger[@]}" --rows=packed
measure ner_padded throughput "${tagger[@]}" --rows=padded --config.data.packed=False

# 4. What of the step is worth what: kernels by length, looped or unrolled layers, recomputation, vocabulary scores.
variants=("--config=configs/mlm.py:${models[0]}" "${one[@]}" "${timing[@]}")
measure attention_one throughput "${lengths[@]}" "${timing[@]}" --config.data.packed=False \
  --vary=model.attention=xla:auto
measure attention_packed throughput "${lengths[@]}" "${timing[@]}" --rows=packed --vary=model.attention=xla:auto
measure layers throughput "${variants[@]}" --vary=model.scan_layers=True:False
measure remat throughput "${variants[@]}" --vary=model.remat=none:dots:full
measure vocabulary throughput "${variants[@]}" --vary=mask.places_at_once=0:4
measure rows throughput "${variants[@]}" --rows=packed
measure scaling scaling "--config=configs/mlm.py:${models[0]}" "${grown[@]}" "${scaled[@]}"

# 5. Traces: where the time above the floor goes.
for model in "${models[@]}"; do
  measure "trace_$model" trace "--config=configs/mlm.py:$model" "${one[@]}"
done

# 6. The same masked-LM steps in torch, at both lengths; then the pipeline, NER's scores as on CPU, NER in torch.
if "$python" -c 'import torch' 2>/dev/null; then
  for model in "${models[@]}"; do
    for shape in "${beside[@]}"; do
      measure "torch_${model}_${shape%,*}" mlm_against_torch "--config=configs/mlm.py:$model" "${timing[@]}" \
        "${against[@]}" "--config.data.row_length=${shape%,*}" "--config.train.batch_size=${shape#*,}"
    done
  done
else
  say "no torch: transformers is not measured"
fi
measure pipeline data --config=configs/ner.py "${pipeline[@]}"
if [[ -d $data/wnut17 ]]; then
  measure ner_quality ner_quality "--source=conll:$data/wnut17" "--seeds=$seeds" "--sentences=$sentences" \
    "--workdir=$out/runs/ner_quality" ${toy:+--config.train.steps=2}
  if [[ -e $reference ]]; then
    measure against_transformers against_transformers "--source=conll:$data/wnut17" "--reference=$reference" \
      "--limit=$limited" --bf16
  else
    say "no $reference: transformers is not measured"
  fi
else
  say "no wnut17 in $data: its steps are left out"
fi

if ((${#failed[@]})); then
  say "failed: ${failed[*]}"
  exit 1
fi
say "all done: $out"
