# Sourced by tools/check-format and tools/check-tidy.

# Another version of clang-format formats some lines in another way, and another version of clang-tidy
# has other checks.  So both are used in one version only, that of Debian 12.
llvm_version=14

# Sets `llvm_tool` to the command of clang-format or clang-tidy.  If it is not there in this version, says
# so and ends the script: with 0, since nothing is wrong with the tree.
find_llvm_tool() {
    local version=none command

    for command in "$1-$llvm_version" "$1"; do
        command -v "$command" >/dev/null || continue
        version=$("$command" --version | sed -n 's/.*version \([0-9]*\)\..*/\1/p')
        if [ "$version" = "$llvm_version" ]; then
            llvm_tool=$command
            return
        fi
    done

    echo "NOT CHECKED: this check needs $1 $llvm_version; installed: $version"
    exit 0
}
