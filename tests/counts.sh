# shellcheck shell=bash
# The counts of an end-to-end script, which sources this. Its claims end in `pass`, `fail CLAIM` or
# `skip CLAIM`; its last command is `summary`, whose line tests/run.sh reads.

passed=0 failed=0 skipped=0

pass() {
    passed=$((passed + 1))
}
fail() {
    failed=$((failed + 1))
    printf 'FAILED: %s\n' "$*"
    evidence
}
# Shown with a failure: what the last command wrote to stderr, in the file err. A script that keeps
# it elsewhere defines its own.
evidence() {
    [[ ! -s err ]] || sed 's/^/  stderr: /' err
}
skip() {
    skipped=$((skipped + 1))
    printf 'skipped: %s\n' "$*"
}

# `N passed, N failed[, N skipped]`; the status is 0 only when nothing failed.
summary() {
    local line="$passed passed, $failed failed"
    ((skipped == 0)) || line+=", $skipped skipped"
    echo "$line"
    ((failed == 0))
}
