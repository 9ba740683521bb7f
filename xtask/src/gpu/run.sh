#!/usr/bin/env bash
# Measures the trainer on this machine's GPU, in less than ten minutes: every operation against the CPU, speed at three
# shapes, and a real training run. Everything goes to $OUT (./results unless set): JSON, curves, a checkpoint, a model.
#   OUT=DIR       where results go
#   DATA=FILE     text to train on instead of the built-in corpus
#   DEVICE=cuda:1 another GPU
set -u
here=$(cd "$(dirname "$0")" && pwd)
out=${OUT:-results}
device=${DEVICE:-cuda}
mkdir -p "$out"
out=$(cd "$out" && pwd)
bitttt=$here/bitttt
chmod +x "$bitttt" 2>/dev/null

# CUDA's libraries: where the loader finds them, in a toolkit, or in the Python packages of another program.
find_libraries() {
  local known found
  known=$(ldconfig -p 2>/dev/null)
  case $known in *libcublas.so*) case $known in *libcurand.so*) case $known in *libnvrtc.so*) return ;; esac ;; esac ;; esac
  found=$(timeout 60 find / -xdev \( -path '*/stubs' -o -path /proc -o -path /sys \) -prune -o \( -name 'libcublas.so*' \
    -o -name 'libcurand.so*' -o -name 'libnvrtc.so*' \) -printf '%h\n' 2>/dev/null | sort -u)
  LD_LIBRARY_PATH=$(echo "$found" | paste -sd: -)${LD_LIBRARY_PATH:+:$LD_LIBRARY_PATH}
  export LD_LIBRARY_PATH
}
find_libraries
{
  nvidia-smi
  echo "LD_LIBRARY_PATH=${LD_LIBRARY_PATH:-}"
  nproc
  "$bitttt" --version
} > "$out/machine.txt" 2>&1

: > "$out/steps.jsonl"
failed=0
# try NAME SECONDS COMMAND…: stdout to NAME.json, the rest to NAME.log, how it ended to steps.jsonl. All of them together
# get nine and a half minutes.
try() {
  local name=$1 limit=$2 start=$SECONDS left=$((570 - SECONDS)) code
  shift 2
  [ "$left" -gt 5 ] || { echo "no time left for $name"; return 124; }
  [ "$limit" -lt "$left" ] || limit=$left
  timeout "$limit" "$@" > "$out/$name.json" 2> "$out/$name.log"
  code=$?
  printf '{"step":"%s","code":%d,"seconds":%d}\n' "$name" "$code" $((SECONDS - start)) |
    tee -a "$out/steps.jsonl"
  [ "$code" = 0 ] || tail -n 2 "$out/$name.log"
  return "$code"
}

step() {
  try "$@" || failed=1
}

# Half as many rows where there is too little memory.
speed() { # SHAPE ROWS
  local rows=$2
  until try "speed-$1" 120 "$bitttt" --json bench-train --shape "$1" --batch "$rows" --seconds 15 --device "$device"; do
    grep -qi 'out.of.memory' "$out/speed-$1.log" && [ "$rows" -gt 1 ] || { failed=1; return; }
    rows=$((rows / 2))
  done
}
step check 120 "$bitttt" --json check-device --device "$device"
speed 15m 32
speed 125m 16
speed 350m 16

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
cat > "$work/train.toml" <<'TOML'
[model]
d_model = 256
n_layers = 4
n_heads = 4
d_ffn = 704
[train]
seconds = 90
batch = 64
context = 512
lr = 4e-3
eval_every = 100
TOML
if [ -n "${DATA:-}" ]; then
  data=$DATA
  held_out=$DATA
  tail_share=0.1
else
  data=$work/corpus.txt
  held_out=$work/held-out.txt
  tail_share=1
  step corpus 60 "$bitttt" --json corpus --out "$data" --bytes 20000000 --seed 1
  step held-out 60 "$bitttt" --json corpus --out "$held_out" --bytes 200000 --seed 2
fi
step tokenizer 60 "$bitttt" --json tokenizer --data "$data" --vocab-size 1024 --out "$work/tokenizer.json"
step prepare 60 "$bitttt" --json prepare --data "$data" --tokenizer "$work/tokenizer.json" --out "$work/corpus.bin"
train() { # NAME SECONDS FLAGS…
  local name=$1 limit=$2
  shift 2
  step "$name" "$limit" "$bitttt" --json train --data "$work/corpus.bin" --tokenizer "$work/tokenizer.json" \
    --config "$work/train.toml" --out "$out/$name" "$@"
}
# The same thirty steps on both, to lay their curves beside each other.
train thirty-steps-cpu 90 --steps 30 --batch 8 --context 128 --device cpu
train thirty-steps-gpu 60 --steps 30 --batch 8 --context 128 --device "$device"
train training 150 --device "$device"
step export 60 "$bitttt" --json export --checkpoint "$out/training" --out "$out/training/model.bttt"
step eval 60 "$bitttt" --json eval --model "$out/training/model.bttt" --data "$held_out" --tail "$tail_share" \
  --plot "$out/training/position.svg"
rm -rf "$out"/thirty-steps-*/checkpoint.safetensors
exit "$failed"
