#!/bin/sh
# The guest's first process: loads the modules, then runs the commands that arrive on the second
# serial port. Each is "ID COMMAND"; its output is followed by a line "@ID EXIT-STATUS".
# The first serial port is the kernel's console: the tests look for I/O errors there.

run_commands() {
    stty -F /dev/ttyS1 raw -echo
    exec < /dev/ttyS1 > /dev/ttyS1
    echo "@ready"
    while read -r id command; do
        sh -c "$command" > /tmp/output 2>&1 < /dev/null
        status=$?
        cat /tmp/output
        printf '\n@%s %s\n' "$id" "$status"
    done
}

if [ "$1" = commands ]; then
    run_commands
    exit
fi

mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mkdir -p /scratch
mount -t tmpfs -o size=128m scratch /scratch
export PATH=/bin

while read -r module; do
    insmod "/modules/$module" || echo "init: cannot load $module"
done < /modules/order

# The reader is a process of its own: background commands become children of this one when their
# shell ends, and a SIGCHLD in the middle of a line makes busybox's read forget what it had.
sh "$0" commands
poweroff -f
