#!/bin/sh
# Verifies this bundle of naru, and installs naru from it. It asks nobody but the cluster, and the registry you name.
set -eu
export LC_ALL=C

usage() {
    cat <<'END'
Installs naru from this bundle, without internet. Every command first verifies the whole bundle.

  sh install.sh verify  --key KEY                        the signature, then every file by its digest
  sh install.sh load    --key KEY [--ctr COMMAND]        the images into the containerd of this node (root; each node)
  sh install.sh push    --key KEY --registry REGISTRY    the images and the model to a registry of yours
  sh install.sh install --key KEY [--registry REGISTRY] [--namespace NAMESPACE] [-- OPTIONS OF HELM]
                                                         push, if a registry is named; then both charts, with Helm

  --key KEY              the public key: a file (minisign.pub), or its 56 characters; had by another way than the bundle
  --registry REGISTRY    HOST[:PORT][/PREFIX]; images become REGISTRY/naru/operator …
  --user NAME            who you are to the registry; the password is asked for at the terminal, or is
  --password-file FILE   the first line of FILE
  --ca-file FILE         the only authority to trust for the registry, in PEM; default: what curl trusts
  --ctr COMMAND          what imports images on this node (default: ctr), for example "k3s ctr"
  --namespace NAMESPACE  where naru is installed (default: naru-system)

The cluster is that of KUBECONFIG (HELM_KUBECONTEXT names another context). What is there already is not pushed
again, and a second install is an upgrade in which nothing changes: give it the same options of Helm as the first.
Needed are openssl 3 or minisign; for a registry curl and tar; for install Helm 3.
END
}

# What is wrong, and then what to do, a line each.
fail() {
    printf 'install.sh: %s\n' "$1" >&2
    shift
    for advice; do printf '  next: %s\n' "$advice" >&2; done
    exit 1
}

misused() {
    printf 'install.sh: %s\n  next: sh install.sh --help\n' "$1" >&2
    exit 2
}

say() { printf '%s\n' "$*"; }

has() { command -v "$1" >/dev/null 2>&1; }

need() { has "$1" || fail "$1 is not in PATH, and is needed $2" "install $1, or run this where it is"; }

again="take the bundle again from who made it, and compare the key with them"

# --- verify

# Sets `key` to the 56 characters of the public key.
read_key() {
    key=$1
    if [ -e "$1" ]; then
        case $(cd "$(dirname "$1")" && pwd -P)/ in
        "$bundle"/*) fail "the key $1 lies in the bundle, and proves nothing about it" "get the key by another way" ;;
        esac
        key=$(grep -v '^untrusted comment:' "$1" | tr -d ' \r\n')
    fi
    printf '%s\n' "$key" | grep -Eqx 'RW[QRST][A-Za-z0-9+/]{53}' ||
        fail "$1 is neither a public key of minisign's nor a file with one" \
            "give --key minisign.pub, or the line of 56 characters in it"
}

# The bytes of a signature, in the files `signature`, `comment` and `both` of the scratch directory.
take_apart() {
    for file in SHA256SUMS SHA256SUMS.minisig; do
        [ -f "$file" ] || fail "$file is missing: this is no bundle, or not all of it" "$again"
    done
    printf '%s' "$key" | base64 -d >"$scratch/key"
    sed -n 2p SHA256SUMS.minisig | tr -d '\r\n' | base64 -d >"$scratch/line" 2>"$scratch/error" || true
    sed -n 4p SHA256SUMS.minisig | tr -d '\r\n' | base64 -d >"$scratch/global" 2>"$scratch/error" || true
    comment=$(sed -n '3s/^trusted comment: //p' SHA256SUMS.minisig)
    if [ "$(wc -l <SHA256SUMS.minisig)" -ne 4 ] || [ -z "$comment" ] || [ "$(wc -c <"$scratch/line")" -ne 74 ] ||
        [ "$(wc -c <"$scratch/global")" -ne 64 ] || [ "$(head -c 2 "$scratch/line")" != ED ]; then
        fail "SHA256SUMS.minisig is no signature in minisign's format (of a digest, ED)" "$again"
    fi
    if [ "$(id_of "$scratch/key")" != "$(id_of "$scratch/line")" ]; then
        fail "SHA256SUMS was signed by the key $(id_of "$scratch/line"), not by yours, $(id_of "$scratch/key")" \
            "if both may be right, ask who made the bundle by another way; else $again"
    fi
    tail -c 64 "$scratch/line" >"$scratch/signature"
    { cat "$scratch/signature" && printf '%s' "$comment"; } >"$scratch/both"
}

# The number of a key as minisign shows it.
id_of() { od -An -tx1 -j2 -N8 "$1" | awk '{ for (i = NF; i > 0; i--) printf "%s", toupper($i) }'; }

verify_signature() {
    take_apart
    tampered="the signature in SHA256SUMS.minisig does not fit SHA256SUMS: one of them was changed"
    if has minisign; then
        by=minisign
        minisign -V -H -m SHA256SUMS -P "$key" >"$scratch/said" 2>&1 ||
            fail "$tampered (minisign: $(tail -n 1 "$scratch/said"))" "$again"
        return
    fi
    by=openssl
    has openssl || fail "neither minisign nor openssl is in PATH" "install one of them, or verify where it is"
    case $(openssl version) in
    "OpenSSL "[3-9]*) ;;
    *) fail "$(openssl version) cannot verify this: it takes OpenSSL 3, or minisign" "install minisign" ;;
    esac
    # An Ed25519 public key as openssl reads it: a fixed head, and the 32 bytes.
    { printf '\060\052\060\005\006\003\053\145\160\003\041\000' && tail -c 32 "$scratch/key"; } >"$scratch/public"
    openssl dgst -blake2b512 -binary SHA256SUMS >"$scratch/digest" 2>"$scratch/error" ||
        fail "openssl has no BLAKE2b here: $(tail -n 1 "$scratch/error")" "install minisign"
    by_openssl "$scratch/digest" "$scratch/signature" || fail "$tampered" "$again"
    by_openssl "$scratch/both" "$scratch/global" ||
        fail "the trusted comment in SHA256SUMS.minisig was changed" "$again"
}

by_openssl() {
    openssl pkeyutl -verify -pubin -keyform DER -inkey "$scratch/public" -rawin -in "$1" -sigfile "$2" >/dev/null 2>&1
}

# Holds what is here against the list: names what differs, is missing, or is here without being listed.
verify_files() {
    say "checking $(wc -l <SHA256SUMS) files ($(du -sh . | cut -f1)) …"
    : >"$scratch/faults"
    find . ! -type f ! -type d | sed 's/^\.\//is not a plain file: /' >>"$scratch/faults"
    find . -type f ! -path ./SHA256SUMS ! -path ./SHA256SUMS.minisig -exec sha256sum {} + >"$scratch/found" || true
    awk '
        NR == FNR { listed[substr($0, 67)] = $1; next }
        { name = substr($0, 69) }
        !(name in listed) { print "was added, and is not signed: " name; next }
        listed[name] != $1 { print "differs from what was signed: " name }
        { delete listed[name] }
        END { for (name in listed) print "is missing, or cannot be read: " name }
    ' SHA256SUMS "$scratch/found" | sort >>"$scratch/faults"
    [ -s "$scratch/faults" ] || return 0
    tr -cd '[:print:]\n' <"$scratch/faults" | sed 's/^/  /' >&2
    fail "not all files are what was signed; nothing was installed" "$again"
}

verify() {
    need sha256sum "to verify"
    read_key "$key_given"
    cd "$bundle"
    verify_signature
    say "$comment"
    say "signature: good, by the key $(id_of "$scratch/key") (checked by $by)"
    verify_files
    say "files: all are as they were signed"
}

# --- load

load() {
    need "${ctr%% *}" "to import images on this node"
    set -- images/*.tar
    # shellcheck disable=SC2086  # a command with its options
    $ctr --namespace k8s.io images import "$1" ||
        fail "$ctr could not import $1" "run this as root on a node with containerd; --ctr \"k3s ctr\" is for k3s"
    say "loaded; on the other nodes too? Then: sh install.sh install --key …"
}

# --- push: the distribution API of registries, by curl alone

# Talks to the registry; prints the status. Body and headers of the answer are in the scratch directory.
ask() {
    : >"$scratch/body"
    : >"$scratch/error"
    curl "${progress:---silent}" --show-error --config "$scratch/trust" \
        --output "$scratch/body" --dump-header "$scratch/headers" --write-out '%{http_code}' \
        "$@" 2>"${heard:-$scratch/error}" || true
}

# Before `ask`: shows how far it is, to who looks on.
watched() { if [ -t 2 ]; then progress=--progress-bar heard=/dev/stderr; fi; }

header() { tr -d '\r' <"$scratch/headers" | sed -n "s/^$1: *//Ip" | tail -n 1; }

refused() {
    answer=$(head -n 1 "$scratch/error" && head -c 300 "$scratch/body")
    [ "$status" = 000 ] || answer="HTTP $status $answer" # there was an answer
    fail "the registry $registry $1: $answer" \
        "is the address right, may you write there (--user), is its authority trusted (--ca-file)?"
}

open_registry() {
    need curl "to push to a registry"
    need tar "to unpack the images"
    host=${registry%%/*}
    prefix=${registry#"$host"}
    prefix=${prefix#/}
    prefix=${prefix:+$prefix/}
    case $host in
    localhost | localhost:* | 127.* | '[::1]'*) base=http://$host ;; # as docker does
    *) base=https://$host ;;
    esac
    : >"$scratch/trust"
    : >"$scratch/login"
    [ -z "$ca_file" ] || printf 'cacert = "%s"\n' "$(quoted "$ca_file")" >"$scratch/trust"
    : >"$scratch/user"
    if [ -n "$user" ]; then
        word=$(password)
        printf 'user = "%s:%s"\n' "$(quoted "$user")" "$(quoted "$word")" >"$scratch/user"
    fi
    status=$(ask "$base/v2/")
    challenge=$(header www-authenticate)
    case $status:$challenge in
    200:*) scheme=none ;;
    401:[Bb]earer*) scheme=bearer ;;
    401:[Bb]asic*) scheme=basic ;;
    *) refused "does not answer as registries do" ;;
    esac
    if [ $scheme = basic ] && [ -z "$user" ]; then refused "wants to know who you are"; fi
    mkdir "$scratch/images"
    tar -x -f images/*.tar -C "$scratch/images"
}

password() {
    if [ -n "$password_file" ]; then
        head -n 1 "$password_file"
        return
    fi
    [ -t 0 ] || fail "there is no terminal to ask for the password of $user" "put it into a file: --password-file FILE"
    printf 'Password of %s at %s: ' "$user" "$host" >&2
    stty -echo
    read -r typed || true
    stty echo
    printf '\n' >&2
    printf '%s' "$typed"
}

# For a string of curl's configuration.
quoted() { printf '%s' "$1" | sed 's/[\\"]/\\&/g'; }

# Makes `login` what a request for the repository $1 has to show.
authorize() {
    case $scheme in
    basic) cp "$scratch/user" "$scratch/login" ;;
    bearer)
        status=$(ask --config "$scratch/user" --get --data-urlencode "scope=repository:$1:pull,push" \
            --data-urlencode "service=$(of_challenge service)" "$(of_challenge realm)")
        token=$(sed -n 's/.*"\(access_\)\{0,1\}token" *: *"\([^"]*\)".*/\2/p' "$scratch/body" | head -n 1)
        [ "$status" = 200 ] || refused "gives no token for $1"
        [ -n "$token" ] || refused "gives no token for $1 that is understood here"
        printf 'header = "Authorization: Bearer %s"\n' "$token" >"$scratch/login"
        ;;
    esac
}

of_challenge() { printf '%s' "$challenge" | sed -n "s/.*$1=\"\([^\"]*\)\".*/\1/p"; }

# push_blob REPOSITORY DIGEST FILE
push_blob() {
    authorize "$1"
    status=$(ask --config "$scratch/login" --head "$base/v2/$1/blobs/$2")
    [ "$status" != 200 ] || return 0
    status=$(ask --config "$scratch/login" --request POST --data '' "$base/v2/$1/blobs/uploads/")
    [ "$status" = 202 ] || refused "takes nothing for $1"
    location=$(header location)
    with=$scratch/login
    case $location in
    /*) location=$base$location ;;
    *://"$host"/*) location=$base/${location#*://*/} ;; # whatever a proxy made of its scheme
    *://*) with=$scratch/trust ;;                        # another host is not told who you are
    *) refused "says not where to put a part of $1" ;;
    esac
    case $location in *\?*) location="$location&digest=$2" ;; *) location="$location?digest=$2" ;; esac
    say "  $1  $(du -h "$3" | cut -f1)"
    status=$(watched && ask --config "$with" --header 'Content-Type: application/octet-stream' \
        --upload-file "$3" "$location")
    [ "$status" = 201 ] || refused "did not take $3 for $1"
}

# push_manifest REPOSITORY TAG DIGEST TYPE FILE
push_manifest() {
    authorize "$1"
    status=$(ask --config "$scratch/login" --request PUT --header "Content-Type: $4" --data-binary "@$5" \
        "$base/v2/$1/manifests/$2")
    [ "$status" = 201 ] || refused "did not take the manifest of $1:$2"
    say "  $host/$1:$2  $3"
}

push() {
    open_registry
    say "pushing to $registry"
    # Each line is a blob or a manifest; see registry/uploads in the bundle.
    while read -r kind repository one two three four; do
        case $kind in
        blob) push_blob "$prefix$repository" "$one" "$(file_of "$two")" ;;
        manifest) push_manifest "$prefix$repository" "$one" "$two" "$three" "$(file_of "$four")" ;;
        esac
    done <registry/uploads
    say "pushed"
}

file_of() { case $1 in images:*) printf '%s' "$scratch/images/${1#images:}" ;; *) printf '%s' "$1" ;; esac; }

# --- install

install() {
    need helm "to install"
    if [ -n "$registry" ]; then
        push
        set -- --set "image.registry=$registry" "$@"
        for image in operator gateway worker; do
            digest=$(awk -v name="naru/$image" '$1 == "manifest" && $2 == name { print $4 }' registry/uploads)
            set -- --set "image.digests.$image=$digest" "$@"
        done
    fi
    chart naru-crds >"$scratch/notes" # which speak of the next chart
    say "naru-crds is installed"
    chart naru "$@"
    [ -z "$registry" ] || say_model
}

chart() {
    name=$1
    shift
    # Files among the options are meant from where the caller stands.
    (cd "$caller" && helm upgrade --install "$name" "$bundle/charts/$name" --namespace "$namespace" --create-namespace \
        --wait --timeout 5m "$@") ||
        fail "Helm could not install $name" "kubectl -n $namespace get pods,events; then the same command again"
}

# How a model deployment names the model that was pushed.
say_model() {
    awk -v registry="$registry" '
        $2 !~ /^naru\/models\// { next }
        $1 == "blob" && $4 ~ /^models\// { files++; digest = substr($3, 8) }
        $1 == "manifest" {
            print "\nThe model, as a ModelDeployment names it (docs/examples/without-internet.yaml is a whole one):\n"
            print "  model:\n    uri: oci://" registry "/" $2 ":" $3
            if (files == 1) print "    sha256: " digest
        }
    ' registry/uploads
}

# --- the command line

caller=$PWD
bundle=$(cd "$(dirname "$0")" && pwd -P)
command=${1:-}
case $command in
verify | load | push | install) shift ;;
-h | --help) usage && exit 0 ;;
'') usage >&2 && exit 2 ;;
*) misused "$command is no command" ;;
esac
from_caller() { case $1 in /*) printf '%s' "$1" ;; *) printf '%s' "$caller/$1" ;; esac; }

key_given='' registry='' user='' password_file='' ca_file='' ctr=ctr namespace=naru-system
while [ $# -gt 0 ]; do
    case $1 in
    --) shift && break ;;
    -h | --help) usage && exit 0 ;;
    --key | --registry | --user | --password-file | --ca-file | --ctr | --namespace) ;;
    *) misused "$1 is no option; those of Helm follow --" ;;
    esac
    if [ $# -lt 2 ] || [ -z "$2" ]; then misused "$1 wants a value"; fi
    case $1 in
    --key) key_given=$2 ;;
    --registry) registry=${2%/} ;;
    --user) user=$2 ;;
    --password-file) password_file=$(from_caller "$2") ;;
    --ca-file) ca_file=$(from_caller "$2") ;;
    --ctr) ctr=$2 ;;
    --namespace) namespace=$2 ;;
    esac
    shift 2
done
[ -n "$key_given" ] || misused "--key is missing: the public key that the bundle has to be signed with"
case $registry in *://*) misused "--registry is HOST[:PORT][/PREFIX], without https://" ;; esac
[ "$command" != push ] || [ -n "$registry" ] || misused "push wants --registry"
[ $# -eq 0 ] || [ "$command" = install ] || misused "only install passes options on to Helm"
for file in "$password_file" "$ca_file"; do
    [ -z "$file" ] || [ -r "$file" ] || fail "$file cannot be read" "look whether it is there"
done

umask 077
scratch=$(mktemp -d)
# Interrupted while a password is typed, the terminal would stay mute.
trap 'rm -rf "$scratch"; [ ! -t 0 ] || stty echo' EXIT
trap 'exit 1' HUP INT TERM

verify
case $command in
load) load ;;
push) push ;;
install) install "$@" ;;
esac
