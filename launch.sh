#!/usr/bin/env bash
# The entry point: makes the environment if it is missing or out of date, then runs an experiment,
# an idea of yours, the comparison or the tests. `./launch.sh --help` lists what there is.
#
#   RECURRENT_VENV         where the environment lives (default: .venv beside this file)
#   RECURRENT_PYTHON       the interpreter to make it with (default: the first Python >= 3.11 that runs)
#   RECURRENT_EXTRAS       more of pyproject.toml's extras, comma separated, e.g. bench,explain
#   RECURRENT_ACCELERATOR  cpu, cuda12, cuda13 or tpu (default: what nvidia-smi shows at set-up)
set -euo pipefail
unset CDPATH
export RECURRENT_STARTED=${EPOCHREALTIME:-$(date +%s)} # a run says how long its start took

directory_of() { # follows links by hand: readlink -f is missing on older systems
  local path=$1 target
  while [[ -L $path ]]; do
    target=$(readlink "$path")
    [[ $target == /* ]] || target=$(dirname "$path")/$target
    path=$target
  done
  cd -P "$(dirname "$path")" && pwd -P
}

root=$(directory_of "${BASH_SOURCE[0]}")
venv=${RECURRENT_VENV:-$root/.venv}
venv=${venv%/}
[[ $venv == /* ]] || venv=$PWD/$venv
stamp=$venv/.recurrent-setup
extras=
accelerator=${RECURRENT_ACCELERATOR:-}
python=
installer=

say() { printf 'recurrent: %s\n' "$*" >&2 || true; } # stderr may be closed

fail() {
  say "$*"
  exit 1
}

# --- what is wanted

add_extra() {
  case $1 in
    cpu | cuda12 | cuda13 | tpu) choose_accelerator "$1" ;;
    '') ;;
    *[!a-z0-9]*) fail "RECURRENT_EXTRAS holds '$1'; expected names such as bench,explain" ;;
    *) [[ ,$extras, == *",$1,"* ]] || extras=${extras:+$extras,}$1 ;;
  esac
}

choose_accelerator() {
  [[ -z $accelerator || $accelerator == "$1" ]] ||
    fail "both $accelerator and $1 are asked for; an environment holds one accelerator, so ask for one"
  accelerator=$1
}

add_extras() { # a comma-separated list
  local names name
  IFS=', ' read -ra names <<<"$1"
  for name in ${names[@]+"${names[@]}"}; do add_extra "$name"; done
}

is_extra() { [[ $'\n'$manifest == *$'\n'"$1 = ["* ]]; }

check_extras() {
  local name names
  IFS=, read -ra names <<<"$extras"
  for name in "${names[@]}"; do
    is_extra "$name" ||
      fail "there is no extra '$name'; the extras are those under optional-dependencies in pyproject.toml"
  done
}

keep_recorded_extras() { # so that `test` and a run do not undo each other's installation
  local name names
  IFS=, read -ra names <<<"$recorded_extras"
  for name in ${names[@]+"${names[@]}"}; do
    if is_extra "$name"; then add_extra "$name"; fi
  done
}

check_accelerator() {
  case $accelerator in
    '' | cpu | cuda12 | cuda13 | tpu) ;;
    *) fail "RECURRENT_ACCELERATOR is '$accelerator'; expected cpu, cuda12, cuda13 or tpu" ;;
  esac
}

detect_accelerator() {
  local driver
  driver=$(nvidia-smi --query-gpu=driver_version --format=csv,noheader 2>/dev/null) || driver=
  driver=${driver%%.*}
  if [[ ! $driver =~ ^[0-9]+$ ]] || ((driver < 525)); then
    echo cpu
  elif ((driver < 580)); then
    echo cuda12
  else
    echo cuda13
  fi
}

# --- what is there: the stamp holds everything that a finished set-up depended on

read_manifest() { manifest=$(cat "$root/pyproject.toml" "$root/requirements.lock"); }

read_stamp() {
  recorded_root='' recorded_python='' recorded_accelerator='' recorded_extras='' recorded_manifest=''
  [[ -s $stamp && -x $venv/bin/python ]] || return 0
  {
    IFS= read -r recorded_root
    IFS= read -r recorded_python
    read -r recorded_accelerator
    read -r recorded_extras
    recorded_manifest=$(cat)
  } <"$stamp" || true
}

write_stamp() {
  local interpreter
  interpreter=$(probe "$venv/bin/python")
  printf '%s\n' "$root" "${interpreter#* }" "$accelerator" "$extras" "$manifest" >"$stamp.new"
  mv "$stamp.new" "$stamp"
}

is_sound() { # complete, not moved, and of the interpreter and accelerator asked for, if any
  [[ $recorded_root == "$root" ]] &&
    [[ -z $python || $python == "$recorded_python" ]] &&
    [[ -z $accelerator || $accelerator == "$recorded_accelerator" ]]
}

is_ready() {
  local name names
  is_sound && [[ $recorded_manifest == "$manifest" ]] || return 1
  IFS=, read -ra names <<<"$extras"
  for name in "${names[@]}"; do [[ ,$recorded_extras, == *",$name,"* ]] || return 1; done
}

# --- interpreters: chosen by running them, since a name on the PATH may be a shim of nothing

probe() { # prints "MINOR PATH" of a Python >= 3.11
  "$1" -I -c '
import os, sys
if sys.version_info < (3, 11): sys.exit(1)
print(sys.version_info[1], os.path.realpath(sys._base_executable))' 2>/dev/null
}

makes_venvs() { "$1" -I -c 'import ensurepip, venv' 2>/dev/null; }

candidates() {
  printf '%s\n' python3 python3.12 python3.13 python3.11 python3.14
  local path
  for path in "${PYENV_ROOT:-${HOME-}/.pyenv}"/versions/3.1[1-9]*/bin/python; do
    [[ ! -x $path ]] || printf '%s\n' "$path"
  done
}

use_named_python() {
  local found
  found=$(probe "$1") ||
    fail "RECURRENT_PYTHON is '$1', which does not run as a Python >= 3.11; name another interpreter"
  python=${found#* }
}

find_python() {
  local candidate found
  while read -r candidate; do
    found=$(probe "$candidate") || continue
    [[ $installer == uv ]] || makes_venvs "${found#* }" || continue
    python=${found#* }
    return
  done < <(candidates)
  [[ $installer == uv ]] || # which brings a Python of its own
    fail "no Python >= 3.11 with venv and ensurepip was found; install one (on Debian: python3-venv)," \
      "or uv, or name one with RECURRENT_PYTHON=/path/to/python"
}

# --- set-up

set_up() {
  mkdir -p "$(dirname "$venv")" && [[ -w $(dirname "$venv") ]] ||
    fail "cannot write to $(dirname "$venv"); set RECURRENT_VENV to a path that can be written"
  exec 9>"$venv.lock"
  wait_for_lock
  read_stamp
  is_ready || build
  exec 9>&-
}

wait_for_lock() {
  command -v flock >/dev/null || return 0
  flock -n 9 && return
  say "waiting for another set-up of $venv to end"
  flock 9 || say "could not lock $venv.lock; going on without"
}

build() {
  check_extras
  keep_recorded_extras
  build_with_uv || build_with_pip
  write_stamp
  say "ready"
}

build_with_uv() {
  uv --version >/dev/null 2>&1 || return 1
  installer=uv
  prepare && logged uv pip install --quiet --python "$venv/bin/python" "${requirements[@]}" && return
  say "uv could not set up the environment (its words are above); trying venv and pip"
  recorded_root=
  return 1
}

build_with_pip() {
  installer=pip
  prepare && install_with_pip && return
  fail "set-up failed (pip's words are above). Is there a network connection? The next launch starts over."
}

install_with_pip() {
  [[ -x $venv/bin/pip ]] || logged "$venv/bin/python" -m ensurepip || return 1
  logged "$venv/bin/python" -m pip install --quiet --disable-pip-version-check "${requirements[@]}"
}

prepare() {
  if is_sound; then
    accelerator=$recorded_accelerator
    : >"$stamp" # until the end of the installation the environment is not to be trusted
  else
    make_venv || return 1
  fi
  requirements=(--constraint "$root/requirements.lock" --editable "${root}[$(extras_to_install)]")
  say "installing $(extras_to_install) with $installer; this can take a minute or two"
}

extras_to_install() {
  [[ $accelerator == cpu ]] && echo "$extras" || echo "$extras,$accelerator"
}

make_venv() {
  [[ -n ${RECURRENT_PYTHON:-} ]] || find_python
  accelerator=${accelerator:-$(detect_accelerator)}
  say "making $venv for ${python:-a Python that uv brings} ($accelerator)"
  empty_venv
  if [[ $installer == uv ]]; then
    logged uv venv --quiet --allow-existing --python "${python:->=3.11}" "$venv"
  else
    logged "$python" -m venv "$venv"
  fi
}

empty_venv() { # what this script did not make, it does not delete; the stamp goes last, being the proof
  mkdir -p "$venv" || fail "cannot make $venv; set RECURRENT_VENV to another path"
  [[ -e $stamp || -z $(ls -A "$venv") ]] ||
    fail "$venv was not made by launch.sh; move it away, or set RECURRENT_VENV to another path"
  [[ -z $recorded_root || $recorded_root == "$root" || ! -e $recorded_root/launch.sh ]] ||
    fail "$venv belongs to $recorded_root; set RECURRENT_VENV to another path"
  : >"$stamp"
  find "$venv" -mindepth 1 -maxdepth 1 ! -path "$stamp" -exec rm -rf {} +
}

logged() { # quiet, unless it fails
  "$@" >"$venv/setup.log" 2>&1 && return
  tail -n 20 "$venv/setup.log" >&2
  return 1
}

ensure_environment() { # the extras that this command needs
  add_extras "$1,${RECURRENT_EXTRAS:-}"
  check_accelerator
  [[ -z ${RECURRENT_PYTHON:-} ]] || use_named_python "$RECURRENT_PYTHON"
  read_manifest
  read_stamp
  is_ready || set_up
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
}

# --- commands

run_experiment() { # -P: a folder of the user's called recurrent or experiments is not ours
  exec "$venv/bin/python" -P -m experiments "$@"
}

run_tests() {
  local status=0 types=
  cd "$root"
  if (($# == 0)); then
    "$venv/bin/python" -m ruff check || status=1
    "$venv/bin/python" -m ruff format --check || status=1
    types=$venv/types.$$
    # It takes one core for half a minute, and the tests do not keep two of them busy to the end.
    "$venv/bin/python" -m basedpyright --pythonpath "$venv/bin/python" &>"$types" &
    trap "$(printf 'kill %q 2>/dev/null || :; rm -f %q' $! "$types")" EXIT # where it is interrupted
  fi
  if [[ ${1-} == --faults ]]; then set -- -m fault -p tests.faults.table "${@:2}"; fi
  # A file stays in one process, so that its tests share fixtures and compiled programs.
  "$venv/bin/python" -m pytest -n 2 --dist loadfile "$@" || status=1
  if [[ $types ]]; then
    wait $! || status=1
    cat "$types"
    trap - EXIT
    rm "$types"
  fi
  if ((status && $# == 0)); then say "a check has failed (above)"; fi
  return "$status"
}

asks_for_help() {
  local word
  for word in "$@"; do case $word in --help | -h) return 0 ;; esac; done
  return 1
}

show() { # what needs no package is shown before anything is installed
  if [[ -x $venv/bin/python ]]; then
    python=$venv/bin/python
  elif (find_python) 2>/dev/null; then
    find_python
  else # only uv can bring one
    ensure_environment experiments
    python=$venv/bin/python
  fi
  export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}"
  exec "$python" -P -m experiments "$@"
}

tests_help() {
  cat <<'EOF'
./launch.sh test                     lints, checks types and runs the tests
./launch.sh test -m long             runs those that take longer, as CI does
./launch.sh test -m slow             runs the exhaustive tests, which take long
./launch.sh test --faults            kills, damages and fuzzes: docs/reliability.md, in a table
./launch.sh test tests/recurrent     runs the tests of a folder or file
./launch.sh test -k gated            runs those with a word in their name
./launch.sh test [anything of pytest's]   see https://docs.pytest.org
EOF
}

main() {
  case ${1-} in
    help | --help | -h | list | new) show "$@" ;;
    test)
      if asks_for_help "${@:2}"; then
        tests_help
        return
      fi
      ensure_environment experiments,dev
      run_tests "${@:2}"
      ;;
    bench)
      if asks_for_help "${@:2}"; then show "$@"; fi
      ensure_environment experiments # which is quick, and refuses flags that contradict each other
      "$venv/bin/python" -P -m experiments "$@" --check
      ensure_environment experiments,bench
      run_experiment "$@"
      ;;
    *)
      ensure_environment experiments
      run_experiment "${@:-sequential_digits}"
      ;;
  esac
}

if [[ ${BASH_SOURCE[0]} == "$0" ]]; then main "$@"; fi
