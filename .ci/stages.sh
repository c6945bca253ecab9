# The stages of .ci/run, one after the other, or beside others where these leave a core idle.
#
#   stage NAME                 says where the run is
#   beside NAME COMMAND...     starts a stage, and keeps what it prints
#   finish NAME...             waits for stages, prints all that, and ends the run where one failed
#
# To be sourced under `set -euo pipefail`. What still runs when the run ends is ended too.

declare -A processes=()
scratch=$(mktemp -d)

end_all() {
  for process in "${processes[@]}"; do
    kill -- "-$process" 2>/dev/null || true
  done
  rm -rf "$scratch"
}
trap end_all EXIT

stage() {
  printf '\n=== %s  (%d s since the start)\n' "$1" "$SECONDS"
}

beside() {
  local name=$1 start=$SECONDS
  shift
  # With job control a stage is a group of processes, which end_all can end as a whole.
  set -m
  (
    set -e
    "$@"
    printf '(%d s, beside others)\n' $((SECONDS - start))
  ) </dev/null >"$scratch/stage-$name" 2>&1 &
  set +m
  processes[$name]=$!
}

finish() {
  local name status
  for name; do
    status=0
    wait "${processes[$name]}" || status=$?
    unset "processes[$name]"
    stage "$name"
    cat "$scratch/stage-$name"
    if [[ $status != 0 ]]; then
      printf '\n=== failed with status %d: %s\n' "$status" "$name" >&2
      exit "$status"
    fi
  done
}
