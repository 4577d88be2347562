"""A tree artifact and an action that consumes one."""

def _sheaves_impl(ctx):
    directory = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        inputs = [ctx.file.src],
        outputs = [directory],
        arguments = [ctx.file.src.path, directory.path],
        mnemonic = "Sheaves",
        progress_message = "Binding %s into sheaves" % ctx.file.src.short_path,
        command = """
set -euo pipefail
number=0
while read -r first rest; do
    number=$((number + 1))
    mkdir -p "$2/$first/row $number"
    echo "$rest" > "$2/$first/row $number/line.txt"
done < "$1"
: > "$2/empty.txt"
""",
    )
    return [DefaultInfo(
        files = depset([directory]),
        runfiles = ctx.runfiles(files = [directory]),
    )]

sheaves = rule(
    implementation = _sheaves_impl,
    doc = """Sorts the lines of a file into directories named by their first word, one file for each line.

The number of files is known only once the action has run, hence the tree artifact. It has nested
directories, a name with a blank and an empty file.""",
    attrs = {"src": attr.label(
        allow_single_file = True,
        mandatory = True,
    )},
)

def _inventory_impl(ctx):
    list_file = ctx.actions.declare_file(ctx.label.name + ".txt")
    directory = ctx.file.sheaves
    ctx.actions.run_shell(
        inputs = [directory],
        outputs = [list_file],
        arguments = [directory.path, list_file.path],
        mnemonic = "Inventory",
        progress_message = "Listing %s" % directory.short_path,
        # Bazel's local sandbox shows inputs as symbolic links, a remote worker as files.
        command = """
set -euo pipefail
list=$PWD/$2
cd "$1"
find -L . -type f | LC_ALL=C sort | while read -r file; do
    echo "$file holds '$(cat "$file")'"
done > "$list"
""",
    )
    return [DefaultInfo(
        files = depset([list_file]),
        runfiles = ctx.runfiles(files = [list_file]),
    )]

inventory = rule(
    implementation = _inventory_impl,
    doc = "Lists the files of a tree artifact with what they hold.",
    attrs = {"sheaves": attr.label(
        allow_single_file = True,
        mandatory = True,
    )},
)
