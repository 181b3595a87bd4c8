#!/usr/bin/env bash
# Bring this machine to the state that the project needs: system programs, sound fonts, .venv from requirements.lock,
# node_modules from package-lock.json.
# Idempotent: what is there already is left alone. PYTHON names another interpreter (3.11 or newer).
set -euo pipefail
cd "$(dirname "$0")/.."

declare -A package=(
  [ffmpeg]=ffmpeg [ffprobe]=ffmpeg [fluidsynth]=fluidsynth [chromium]=chromium [git]=git [npm]=npm
  [FluidR3_GM.sf2]=fluid-soundfont-gm
  [MuseScore_General_Lite.sf3]=musescore-general-soundfont-small
  [Black_Pearl_4_LV2.sf2]=avldrums.lv2-soundfont
)
missing=()
for need in "${!package[@]}"; do
  case $need in
    *.sf2 | *.sf3)
      found=
      for folder in ${FLOWSEP_SOUNDFONTS:-} /usr/share/sounds/sf2 /usr/share/sounds/sf3 /usr/share/soundfonts; do
        if [ -e "$folder/$need" ]; then found=yes; fi
      done
      if [ -z "$found" ]; then missing+=("${package[$need]}"); fi ;;
    *) command -v "$need" >/dev/null || missing+=("${package[$need]}") ;;
  esac
done
if [ ${#missing[@]} -gt 0 ]; then
  mapfile -t missing < <(printf '%s\n' "${missing[@]}" | sort -u)
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    echo "installing ${missing[*]} (a minute)"
    apt-get update -q >/dev/null
    DEBIAN_FRONTEND=noninteractive apt-get install -y -q --no-install-recommends "${missing[@]}" >/dev/null
  else
    echo "flowsep needs these Debian packages: ${missing[*]}. Install them (sudo apt-get install ${missing[*]}) or their" \
      "like, put sound fonts where FLOWSEP_SOUNDFONTS points, and call make env again." >&2
    exit 1
  fi
fi

python=${PYTHON:-python3.11}
command -v "$python" >/dev/null || python=python3
if ! "$python" -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
  echo "flowsep needs Python 3.11 or newer with venv; $python is not. Set PYTHON to one (Debian: python3-venv)." >&2
  exit 1
fi
stamp=.venv/.stamp
wanted=$(cat requirements.lock package-lock.json pyproject.toml tools/env.sh | sha256sum)
if [ "$(cat "$stamp" 2>/dev/null)" = "$wanted" ]; then exit 0; fi
[ -x .venv/bin/python ] || "$python" -m venv .venv
pip() { .venv/bin/python -m pip --disable-pip-version-check "$@"; }
echo "installing the packages of requirements.lock into .venv (about three minutes)"
pip install -q "$(grep '^torch==' requirements.lock)"
pip install -q --no-deps -r <(grep -v '^torch==' requirements.lock)
pip install -q --no-deps --no-build-isolation -e .
echo "installing the packages of package-lock.json into node_modules, for the page Separate"
npm ci --ignore-scripts --no-audit --no-fund --silent
echo "$wanted" > "$stamp"
echo "ready; next: make book"
