# shellcheck shell=bash
# Shared by the scripts beside it, sourced and never run. A server is a folder
# $STACK_DIR/NAME: its settings as `up` was given them, data, logs, pid file.
set -euo pipefail
umask 022 # nobody runs Elasticsearch and must be able to read what root unpacks

ME=$(basename "$0" .sh)
STACK_SCRIPTS=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
MAVEN_PLUGIN=org.apache.maven.plugins:maven-dependency-plugin:3.8.1

say() { printf '%s: %s\n' "$ME" "$*"; }
die() { printf '%s: error: %s\n' "$ME" "$*" >&2; exit 1; }
usage() { sed -n '2,/^$/s/^# \{0,1\}//p' "$0"; exit 2; }

need() {
  local command
  for command in "$@"; do
    command -v "$command" >/dev/null || die "'$command' is not on PATH"
  done
}

# Elasticsearch refuses to run as root: root runs it as nobody.
as_nobody() {
  if [ "$(id -u)" = 0 ]; then
    setpriv --reuid=nobody --regid=nogroup --clear-groups -- "$@"
  else
    "$@"
  fi
}

# Everything the servers write is in target/stack of this clone, or, where
# nobody cannot enter that (a clone below a 0700 home), in a folder of /tmp that
# belongs to this clone alone; tests/run removes it.
choose_stack_dir() {
  local clone
  clone=$(cd "$STACK_SCRIPTS/../.." && pwd)
  if [ -z "${STACK_DIR:-}" ]; then
    STACK_DIR=$clone/target/stack
    if ! as_nobody test -x "$clone"; then
      STACK_DIR=/tmp/shipper-stack-$(printf '%s' "$clone" | cksum | cut -d' ' -f1)
    fi
  fi
  mkdir -p "$STACK_DIR"
  STACK_DIR=$(cd "$STACK_DIR" && pwd)
  [ -O "$STACK_DIR" ] || die "$STACK_DIR belongs to another user: set STACK_DIR"
  as_nobody test -x "$STACK_DIR" ||
    die "user nobody cannot enter $STACK_DIR: set STACK_DIR to a folder it can"
  export STACK_DIR
}

# java_home MIN MAX: prints the home of a JDK of a version in between: of
# JAVA_HOME, else of PATH, else the newest in /usr/lib/jvm.
java_home() {
  local home version
  for home in "${JAVA_HOME:-}" "$(readlink -f "$(command -v java)" | sed 's:/bin/java$::')" \
    $(printf '%s\n' /usr/lib/jvm/*/ | sort -rV); do
    version=$(sed -n 's/^JAVA_VERSION="\([0-9]*\).*/\1/p' "$home/release" 2>/dev/null) || continue
    if [ "${version:-0}" -ge "$1" ] && [ "$version" -le "$2" ] && as_nobody test -x "$home/bin/java"; then
      printf '%s\n' "${home%/}"
      return
    fi
  done
  die "no JDK $1 to $2 in JAVA_HOME, PATH or /usr/lib/jvm"
}

# class_path NAME GROUP:ARTIFACT:VERSION...: prints the class path of these and
# all they depend on, in Maven's own repository. Asks Maven once.
class_path() {
  local dir=$STACK_DIR/classpath/$1 want group artifact version jar missing=
  shift
  want="$*"
  if [ "$(cat "$dir/want" 2>/dev/null)" = "$want" ]; then
    while IFS= read -r -d: jar; do
      [ -e "$jar" ] || missing=1
    done <"$dir/classpath"
    if [ -z "$missing" ]; then
      cat "$dir/classpath"
      return
    fi
  fi
  need mvn
  mkdir -p "$dir"
  {
    echo '<project><modelVersion>4.0.0</modelVersion>'
    echo '<groupId>stack</groupId><artifactId>stack</artifactId><version>1</version><dependencies>'
    while IFS=: read -r group artifact version; do
      echo "<dependency><groupId>$group</groupId><artifactId>$artifact</artifactId><version>$version</version></dependency>"
    done < <(printf '%s\n' "$@")
    echo '</dependencies></project>'
  } >"$dir/pom.xml"
  mvn -B -q -f "$dir/pom.xml" "$MAVEN_PLUGIN:build-classpath" -Dmdep.outputFile="$dir/classpath" \
    >"$dir/maven.log" 2>&1 </dev/null || die "Maven cannot resolve $*: see $dir/maven.log"
  printf ':' >>"$dir/classpath" # so that the loop above sees the last one too
  printf '%s' "$want" >"$dir/want"
  cat "$dir/classpath"
}

# unpack GROUP:ARTIFACT:VERSION DIR: unpacks the zip into DIR, once.
unpack() {
  [ "$(cat "$2/.unpacked" 2>/dev/null)" = "$1" ] && return
  need mvn
  rm -rf "$2"
  mkdir -p "$2"
  # From DIR: the goal leaves a marker below its working directory, in a folder
  # named '${project.basedir}', and from there would never unpack again.
  (cd "$2" && mvn -B -q "$MAVEN_PLUGIN:unpack" -Dartifact="$1:zip" -DoutputDirectory="$2") \
    >"$2.maven.log" 2>&1 </dev/null || die "Maven cannot fetch $1: see $2.maven.log"
  rm -rf "$2/\${project.basedir}"
  printf '%s\n' "$1" >"$2/.unpacked"
}

ports_must_be_free() {
  local port
  for port in "$@"; do
    if (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then
      die "port $port of 127.0.0.1 is taken by another process"
    fi
  done
}

# pid_of PIDFILE MARK: prints the pid if that process lives and has MARK in its
# command line, so that a pid used again by another is never signalled.
pid_of() {
  local pid
  pid=$(cat "$1" 2>/dev/null) && [ -n "$pid" ] || return 1
  tr '\0' ' ' 2>/dev/null <"/proc/$pid/cmdline" | grep -qF -- "$2" || return 1
  printf '%s\n' "$pid"
}

# has_ended PID: whether it holds no port any more: its command line goes before its sockets do.
has_ended() { ! grep -q '^State:.[^ZX]' "/proc/$1/status" 2>/dev/null; }

# wait_ready SECONDS WHAT PIDFILE MARK LOG COMMAND...: polls COMMAND.
wait_ready() {
  local limit=$1 what=$2 pidfile=$3 mark=$4 log=$5 began=$SECONDS
  shift 5
  until "$@" >/dev/null 2>&1; do
    if ! pid_of "$pidfile" "$mark" >/dev/null; then
      tail -n 25 "$log" >&2
      die "$what stopped while it started: see $log"
    fi
    if [ $((SECONDS - began)) -ge "$limit" ]; then
      tail -n 25 "$log" >&2
      die "$what is not ready after $limit s: see $log"
    fi
    sleep 0.2
  done
  say "$what is ready after $SECONDS s"
}

# stop_process WHAT PIDFILE MARK SECONDS: TERM, and KILL after that time.
stop_process() {
  local pid began=$SECONDS
  if pid=$(pid_of "$2" "$3"); then
    kill -TERM "$pid"
    kill -CONT "$pid" # a paused process would not see the TERM
    until has_ended "$pid"; do
      if [ $((SECONDS - began)) -ge "$4" ] && pid_of "$2" "$3" >/dev/null; then
        kill -KILL "$pid" 2>/dev/null || true
      fi
      sleep 0.1
    done
    say "$1 stopped"
  fi
  rm -f "$2"
}

# signal_process SIGNAL WHAT PIDFILE MARK
signal_process() {
  local pid
  pid=$(pid_of "$3" "$4") || die "$2 is down"
  kill "-$1" "$pid"
  [ "$1" != KILL ] || until has_ended "$pid"; do sleep 0.1; done
}

# show_process WHAT PIDFILE MARK: prints one line, fails where it is down.
show_process() {
  local pid state=up
  if ! pid=$(pid_of "$2" "$3"); then
    say "$1 is down"
    return 1
  fi
  if grep -q '^State:.T' "/proc/$pid/status"; then state=paused; fi
  say "$1 is $state, pid $pid, $(awk '/^VmRSS/ { printf "%d", $2 / 1024 }' "/proc/$pid/status") MiB resident"
}

# The settings of `up` are kept in the server's folder, so that other commands
# need nothing but the name; a variable that is given wins over the kept one.
remember() { declare -p "$@" | sed 's/^declare -[^ ]* //' >"$ROOT/settings"; }
recall() {
  local given
  [ -f "$ROOT/settings" ] || return 0
  given=$(declare -p "$@" 2>/dev/null | sed 's/^declare -[^ ]* //') || true # unset ones fail
  # shellcheck disable=SC1091
  . "$ROOT/settings"
  eval "$given"
}

choose_stack_dir
