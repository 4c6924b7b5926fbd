# The first process of one host of the bench, inside new net, mount, pid, uts and ipc namespaces; hosts.py starts it with
#   FOLDER: what the host writes, a folder of the machine with one folder per writable place (tmp, root, var/tmp, run, srv)
#   NAME: the host's name
# It says "ready", and ends with its standard input, which is a pipe held by whoever made the host: when that process dies, however it
# dies, the host ends, and with its first process the kernel ends all of its processes, mounts and network devices.
set -eu
FOLDER=$1 NAME=$2
mount --make-rprivate /
echo "$NAME" > /proc/sys/kernel/hostname

# lines of "visible PATH" and "shared PATH": what lies beneath a place that is about to be covered
while read -r kind path; do
    case $kind in
    visible) mkdir -p "$FOLDER$path" && mount --rbind "$path" "$FOLDER$path" && mount -o remount,bind,ro "$FOLDER$path" ;;
    shared) mount --bind "$path" "$FOLDER/srv/results" ;;
    esac
done < "$FOLDER/mounts"
mount --bind "$FOLDER/hosts" /etc/hosts
for place in root srv run tmp var/tmp; do
    test "$place" = var/tmp || mount --rbind "$FOLDER/$place" "/$place"
done
mount --rbind "$FOLDER/var/tmp" /var/tmp  # last: FOLDER lies there
mount -t tmpfs -o size=2g,mode=1777 tmpfs /dev/shm
mount -o remount,bind,ro /  # everything else is seen, and cannot be written to

ip link set lo up
if test "$NAME" != laptop; then
    /usr/sbin/sshd -f /root/.ssh/sshd_config -E /root/sshd.log < /dev/null > /dev/null 2>&1
fi
echo ready
while read -r _; do :; done
