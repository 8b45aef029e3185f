# Sourced by the tools that build an nginx with AddressSanitizer and UndefinedBehaviorSanitizer.
# shellcheck shell=bash

. tools/debian.sh

# Left out of UBSan is what nginx itself does on purpose and everywhere: unaligned words (NGX_HAVE_NONALIGNED) and
# memcpy of no bytes from a null pointer.
sanitize='-fsanitize=address,undefined -fno-sanitize=alignment,nonnull-attribute,pointer-overflow'

# Upstream's part of a source alone: an archive has not always the packaging of its newest version.
#   fetch_source DIRECTORY SUITE PACKAGE    leaves PACKAGE_VERSION.orig.tar.gz in the directory
fetch_source() {
    local directory=$1 suite=$2 package=$3

    rm -rf "$directory"
    mkdir -p "$directory"
    quietly with_source "$directory/apt" deb-src "$suite" update || fail 'the index of sources could not be fetched'
    (cd "$directory" && quietly with_source "$directory/apt" deb-src "$suite" --tar-only source "$package") \
        || fail "the source of $package could not be fetched"
}

#   unpack TARBALL DIRECTORY
unpack() {
    rm -rf "$2"
    mkdir "$2"
    tar -xzf "$1" -C "$2" --strip-components=1
}

# This nginx never unloads a module. LeakSanitizer runs at exit: what a library's variables point to is then no leak, and the stack
# of a real leak has the names of its functions. (A library behind image_filter in Debian 13 never frees what it allocates first.)
# NGX_DEBUG_PALLOC makes an allocation of its own of each that a pool gives, so that its bounds and its end are seen.
#   build_nginx SOURCE BINARY FLAG...
build_nginx() (
    cd "$1"
    sed -i 's/^#define ngx_dlclose(handle) .*/#define ngx_dlclose(handle)     ((void) (handle), 0)/' src/os/unix/ngx_dlopen.h
    grep -q '(void) (handle), 0' src/os/unix/ngx_dlopen.h || fail 'ngx_dlclose is defined in another way'
    quietly ./configure "${@:3}" --with-http_sub_module --with-http_addition_module --with-http_gunzip_module \
        --with-cc-opt="-g -O1 -fPIC -fno-omit-frame-pointer $sanitize -DNGX_DEBUG_PALLOC=1" \
        --with-ld-opt="-fPIC $sanitize" || fail 'nginx could not be configured'
    quietly make -j "$(nproc)" || fail 'nginx could not be built'
    mv objs/nginx "$2"
    rm -rf objs Makefile
)
