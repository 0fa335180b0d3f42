#!/usr/bin/env bash
# Three nodes before the reader's eyes: a change, the master killed, a change without it, the node
# back again. Run by: tiebeamd dev --exec etc/tour.sh
set -euo pipefail
PATH=$PATH:$(dirname "$0")/../target/release

# field NAME: that field of every node, from the file in which `dev` describes its cluster.
field() { sed -n "s/^ *\"$1\": \"\?\([^\",]*\)\"\?,\?\$/\1/p" "$TIEBEAM_DEV"; }
say() { printf '\n# %s\n' "$*"; }
# Any member may be asked; the client goes on to the next one, and to the master.
ask() { tiebeam $(field url | sed 's/^/--url /') "$@"; }
show() { printf '$ tiebeam %s\n' "$*"; ask "$@"; }
master() { ask exec cluster_info | sed -n 's/^master: //p'; }
of_node() { paste <(field id) <(field "$2") | sed -n "s/^$1\t//p"; }

say "Three nodes. A change is acknowledged when a majority has it on disk."
show exec node_state
show config set app/colour blue

old=$(master)
say "Node $old is the master. It dies at once: kill -9. The next change finds the new master."
kill -9 "$(of_node "$old" pid)"
show config set app/colour green
show exec node_state

say "Node $(master) is the master now, and nothing that was acknowledged is lost."
show config log

say "Node $old starts as after any stop, and catches up. There is no repair mode."
tiebeamd run --data "$(of_node "$old" data)" 2>/dev/null &
again=$!
trap 'kill $again; wait $again' EXIT
show exec node_wait_ready "nids: [$old]" "timeout: 60"
show exec node_state
show exec history_verify
