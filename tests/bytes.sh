# shellcheck shell=bash
# Bytes for the files that end-to-end scripts make up; sourced by them.

# u32 NUMBER...: little-endian
u32() {
    local n
    for n in "$@"; do
        # shellcheck disable=SC2059 # the format is the bytes
        printf "$(printf '\\x%02x\\x%02x\\x%02x\\x%02x' $((n & 255)) $((n >> 8 & 255)) \
            $((n >> 16 & 255)) $((n >> 24 & 255)))"
    done
}
# zeros COUNT
zeros() {
    head -c "$1" /dev/zero
}
