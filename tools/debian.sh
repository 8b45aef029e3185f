# Sourced by the tools that take something from the Debian archive.
# shellcheck shell=bash

fail() {
    printf '%s: %s\n' "${0##*/}" "$*" >&2
    exit 1
}

# Runs a command quietly; what it printed is shown if it fails.
quietly() {
    local log status=0
    log=$(mktemp)
    "$@" >"$log" 2>&1 </dev/null || status=$?
    [ $status -eq 0 ] || cat "$log" >&2
    rm -f "$log"
    return $status
}

require_debian() {
    [ -r /etc/os-release ] && . /etc/os-release
    [ "${ID:-}" = debian ] && [ -n "${VERSION_CODENAME:-}" ] \
        || fail "this is not a release of Debian (12 and 13 are supported)"
    [ "$(id -u)" = 0 ] || fail 'packages can only be installed as root'
}

apt() {
    DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300 -o Acquire::Retries=3 "$@"
}

# The archive that this machine takes its own release from, in whatever form its
# sources are written.
archive() {
    apt-get indextargets --format '$(REPO_URI) $(RELEASE) $(COMPONENT)' 'Created-By: Packages' |
        awk -v release="$VERSION_CODENAME" '$2 == release && $3 == "main" { print $1; exit }'
}

# apt with one source and a directory of its own: the machine's sources and lists
# stay as they are. A mirror that is frozen at a date serves as well as one that is not.
#   with_source DIRECTORY deb|deb-src SUITE apt-get's arguments...
with_source() {
    local directory=$1 type=$2 suite=$3 uri keyring
    shift 3

    uri=$(archive)
    [ -n "$uri" ] || { quietly apt update || true; uri=$(archive); }
    [ -n "$uri" ] || fail "no source of apt has '$VERSION_CODENAME main'"

    for keyring in /usr/share/keyrings/debian-archive-keyring.{pgp,gpg} ''; do
        [ ! -e "$keyring" ] || break
    done

    mkdir -p "$directory"/{lists,cache,state}
    echo "$type ${keyring:+[signed-by=$keyring] }$uri $suite main" >"$directory/sources.list"

    apt -o Dir::Etc::sourcelist="$directory/sources.list" -o Dir::Etc::sourceparts=- \
        -o Dir::State::lists="$directory/lists" -o Dir::Cache="$directory/cache" \
        -o APT::Sandbox::User=root -o Acquire::Languages=none -o Acquire::Check-Valid-Until=false "$@"
}
