#!/usr/bin/env bash
# Fits a host to corelane: shows what it would change, changes it with --apply, takes it back with --undo.
# docs/tuning.md says of each setting why, and how to see what it does.
set -euo pipefail

usage() {
    cat <<'END'
tune.sh --cores LIST            show what would be changed, change nothing
tune.sh --cores LIST --apply    change it, and keep what was there for --undo
tune.sh --undo                  put back what was there before the first --apply

  --cores LIST   data cores, as 0-2,8: those that `corelane plan` prints as shards
  --root DIR     take DIR for / (to try it out)
  --state FILE   where the old values are kept, by default /run/corelane-tuning.undo: they end with the host, too
END
}

fail() {
    echo "error: $*" >&2
    exit 2
}

action=show root='' data_list='' state=/run/corelane-tuning.undo
while [ $# -gt 0 ]; do
    case $1 in
    --apply) action=apply ;;
    --undo) action=undo ;;
    --cores) data_list=${2-} && shift ;;
    --root) root=${2-} && shift ;;
    --state) state=${2-} && shift ;;
    --help) usage && exit ;;
    *) fail "unknown argument $1; --help lists them" ;;
    esac
    shift || fail "a value is missing; --help lists the arguments"
done

# Every core of a list as 0-2,8, one a line.
cores_of() {
    local part
    for part in ${1//,/ }; do
        [[ $part =~ ^[0-9]+(-[0-9]+)?$ ]] || fail "'$1' is no list of cores, as 0-2,8"
        seq "${part%-*}" "${part#*-}"
    done
}

# Cores, one a line, as a mask in the form of one that the kernel shows: hexadecimal words of 32 bits, the highest first.
mask_like() {
    local shown=$1 commas=${1//[^,]/} cores core word bits text=''
    mapfile -t cores
    for ((word = ${#commas}; word >= 0; word--)); do
        bits=0
        for core in "${cores[@]}"; do
            if ((core / 32 == word)); then ((bits |= 1 << core % 32)); fi
        done
        text+=$(printf ',%08x' "$bits")
    done
    echo "${text: -${#shown}}"
}

# Writes a value, and remembers what was there the first time. The kernel may refuse: some interrupts cannot be moved.
change() {
    local path=$1 value=$2 old
    old=$(cat "$root$path")
    if ! echo "$value" 2>/dev/null >"$root$path"; then
        echo "kept    $path: the kernel refuses $value"
        return
    fi
    if ! grep -qsF "$path"$'\t' "$state"; then
        printf '%s\t%s\n' "$path" "$old" >>"$state"
    fi
}

want() {
    local path=$1 value=$2 now
    [ -e "$root$path" ] || return 0
    now=$(tr -s '\t ' ' ' <"$root$path")
    # Of choices as `always [madvise] never`, the one in use.
    [[ $now == *\[*\]* ]] && now=${now#*\[} && now=${now%%\]*}
    if [ "$now" = "$value" ]; then
        echo "ok      $path = $now"
        return
    fi
    echo "change  $path: $now -> $value"
    [ "$action" = show ] || change "$path" "$value"
}

# Raises a number, or the last of several; what is higher already stays.
at_least() {
    local path=$1 value=$2 now
    [ -e "$root$path" ] || return 0
    now=$(tr -s '\t ' ' ' <"$root$path")
    [ "${now##* }" -lt "$value" ] || value=${now##* }
    [[ $now == *' '* ]] && value="${now% *} $value"
    want "$path" "$value"
}

if [ "$action" = undo ]; then
    [ -e "$state" ] || fail "nothing to undo: there is no $state"
    tac "$state" | while IFS=$'\t' read -r path old; do
        [ -e "$root$path" ] || continue
        # Of choices, the one that was in use.
        [[ $old == *\[*\]* ]] && old=${old#*\[} && old=${old%%\]*}
        echo "undo    $path = $old"
        echo "$old" 2>/dev/null >"$root$path" || echo "kept    $path: the kernel refuses $old"
    done
    rm "$state"
    exit
fi

[ -n "$data_list" ] || fail "--cores is missing; --help tells more"
online=$(cores_of "$(cat "$root/sys/devices/system/cpu/online")")
data=$(cores_of "$data_list")
absent=$(grep -vxF "$online" <<<"$data" | paste -sd,) || true
[ -z "$absent" ] || fail "this host has no core $absent"
others=$(grep -vxF "$data" <<<"$online") || others=''

# Connections that come faster than they are taken.
at_least /proc/sys/net/core/somaxconn 4096
at_least /proc/sys/net/ipv4/tcp_max_syn_backlog 8192
want /proc/sys/net/ipv4/tcp_syncookies 1
# Bytes that come faster than they are read.
at_least /proc/sys/net/core/netdev_max_backlog 16384
at_least /proc/sys/net/ipv4/tcp_rmem 16777216
want /proc/sys/kernel/io_uring_disabled 0
# Threads are pinned and their memory is where they are.
want /proc/sys/kernel/numa_balancing 0
want /sys/kernel/mm/transparent_hugepage/enabled madvise

for core in $data; do
    want "/sys/devices/system/cpu/cpu$core/cpufreq/scaling_governor" performance
done

if [ -z "$others" ]; then
    echo "note    every core is a data core: interrupts and other work have nowhere else to go"
else
    for path in /proc/irq/default_smp_affinity /sys/devices/virtual/workqueue/cpumask; do
        [ -e "$root$path" ] || continue
        want "$path" "$(mask_like "$(cat "$root$path")" <<<"$others")"
    done
    for path in "$root"/proc/irq/[0-9]*/smp_affinity_list; do
        [ -e "$path" ] || continue
        allowed=$(cores_of "$(cat "$path")")
        if grep -qxF "$data" <<<"$allowed"; then
            kept=$(grep -vxF "$data" <<<"$allowed") || kept=$others
            want "${path#"$root"}" "$(paste -sd, <<<"$kept")"
        fi
    done
fi

cmdline=$(cat "$root/proc/cmdline")
for parameter in "isolcpus=$data_list" "nohz_full=$data_list" "rcu_nocbs=$data_list"; do
    if [[ " $cmdline " == *" ${parameter%%=*}="* ]]; then
        echo "ok      kernel parameter ${parameter%%=*} is set"
    else
        echo "by hand kernel parameter $parameter (boot loader; after a restart)"
    fi
done
if [ -e "$root/run/irqbalance" ]; then
    echo "by hand IRQBALANCE_BANNED_CPULIST=$data_list in /etc/default/irqbalance, or it moves interrupts back"
fi
[ "$action" = apply ] || echo "nothing was changed; --apply does"
