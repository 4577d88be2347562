"""Outputs of every kind."""

def _chaff_impl(ctx):
    tree = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        inputs = [ctx.file.src],
        outputs = [tree],
        arguments = [ctx.file.src.path, tree.path],
        command = """
mkdir -p "$2/deep/deeper" "$2/name with blanks"
cp "$1" "$2/deep/deeper/grain.txt"
echo '#!/bin/sh' > "$2/name with blanks/run"
chmod +x "$2/name with blanks/run"
: > "$2/empty"
""",
    )
    return [DefaultInfo(files = depset([tree]))]

chaff = rule(
    implementation = _chaff_impl,
    doc = "A tree: nested, with a blank in a name, a program and an empty file.",
    attrs = {"src": attr.label(allow_single_file = True)},
)

def _loaf_impl(ctx):
    out = ctx.actions.declare_file(ctx.label.name + ".txt")
    ctx.actions.run_shell(
        inputs = [ctx.file.tree],
        outputs = [out],
        arguments = [ctx.file.tree.path, out.path],
        command = """
cd "$1"
list=$(find . -type f | LC_ALL=C sort | while read -r file; do
    test -x "$file" && kind=program || kind=text
    echo "$file $kind $(wc -c < "$file")"
done)
cd - > /dev/null
echo "$list" > "$2"
""",
    )
    return [DefaultInfo(files = depset([out]))]

loaf = rule(
    implementation = _loaf_impl,
    doc = "Lists the files of a tree.",
    attrs = {"tree": attr.label(allow_single_file = True)},
)

def _links_impl(ctx):
    tree = ctx.actions.declare_directory(ctx.label.name + "_tree")
    target = ctx.actions.declare_file(ctx.label.name + "_target")
    link = ctx.actions.declare_file(ctx.label.name + "_link")
    ctx.actions.run_shell(
        outputs = [tree, target, link],
        arguments = [tree.path, target.path, link.path],
        command = """
echo straw > "$2"
ln -s "${2##*/}" "$3"
mkdir -p "$1/folder"
echo hay > "$1/folder/file"
ln -s folder/file "$1/to_file"
ln -s folder "$1/to_folder"
ln -s ../folder/./file "$1/folder/odd"
""",
    )
    return [DefaultInfo(files = depset([tree, target, link]))]

links = rule(
    implementation = _links_impl,
    doc = "A file, a link to it, and a tree with links to a file and to a folder.",
)

def _unresolved_impl(ctx):
    link = ctx.actions.declare_symlink(ctx.label.name)
    ctx.actions.run_shell(
        outputs = [link],
        arguments = [link.path],
        command = "ln -s nowhere/at/all $1",
    )
    return [DefaultInfo(files = depset([link]))]

unresolved = rule(
    implementation = _unresolved_impl,
    doc = "A link to nowhere.",
)

def _dangling_impl(ctx):
    tree = ctx.actions.declare_directory(ctx.label.name)
    ctx.actions.run_shell(
        outputs = [tree],
        arguments = [tree.path],
        command = "mkdir -p $1 && ln -s nowhere/at/all $1/dangling",
    )
    return [DefaultInfo(files = depset([tree]))]

dangling = rule(
    implementation = _dangling_impl,
    doc = "A tree with a link to nowhere.",
)
