#!/bin/sh
# Installs or removes what stands around the commands: manual pages, completions, service units, and their page.
# One list serves both, so that whatever one puts somewhere the other takes away.
# usage: support-files.sh install|uninstall PREFIX COMMAND...
set -eu
action=$1 prefix=$2
shift 2
cd "$(dirname "$0")/.."
share=$prefix/share doc=$prefix/share/doc/hammerfs

# What comes in becomes a file.
put() {
    if [ "$action" = uninstall ]; then rm -f "$1"; return; fi
    mkdir -p "$(dirname "$1")"
    cat >"$1.new"
    chmod "${2:-644}" "$1.new"
    mv -f "$1.new" "$1"
}

# Another name of a file beside it.
name() {
    if [ "$action" = uninstall ]; then rm -f "$2"; else ln -sf "$1" "$2"; fi
}

# The completion script of a shell.
completion() {
    [ "$action" = uninstall ] || "$prefix/bin/hammer" completion "$1"
}

# A unit, with the commands where they are. systemd wants a percent sign twice; quotes and backslashes it takes nowhere.
unit() {
    where=$(printf '%s' "$prefix" | sed -e 's/%/%%/g' -e 's/[\\&|]/\\&/g')
    sed -e "s|\"/usr/local/|\"$where/|" "docs/systemd/$1" | put "$prefix/lib/systemd/system/$1"
}

for page in docs/man/*.[1-9]; do
    put "$share/man/man${page##*.}/${page##*/}" <"$page"
done
name fsck.hammer.8 "$share/man/man8/fsck_hammer.8"
name newfs_hammer.8 "$share/man/man8/mkfs.hammer.8"
name mount.hammer.8 "$share/man/man8/mount.fuse.hammer.8"
name umount.hammer.8 "$share/man/man8/umount.fuse.hammer.8"

# bash and fish look for a file named after the command, zsh for one that names the command
bash=$(completion bash) zsh=$(completion zsh) fish=$(completion fish)
printf '%s\n' "$bash" | put "$share/bash-completion/completions/hammer"
printf '%s\n' "$zsh" | put "$share/zsh/site-functions/_hammer"
printf '%s\n' "$fish" | put "$share/fish/vendor_completions.d/hammer.fish"
for other; do
    [ "$other" != hammer ] || continue
    name hammer "$share/bash-completion/completions/$other"
    name hammer.fish "$share/fish/vendor_completions.d/$other.fish"
done

case "$(uname -s)" in
Linux)
    for unit in docs/systemd/*.service docs/systemd/*.timer; do unit "${unit##*/}"; done ;;
FreeBSD)
    sed -e "s|/usr/local/|$prefix/|" docs/freebsd/hammerfs | put "$prefix/etc/rc.d/hammerfs" 555 ;;
esac
put "$doc/service.md" <docs/service.md
for example in docs/systemd/examples/* docs/freebsd/*; do
    put "$doc/examples/${example##*/}" <"$example"
done
if [ "$action" = uninstall ] && [ -d "$doc" ]; then rmdir "$doc/examples" "$doc"; fi
