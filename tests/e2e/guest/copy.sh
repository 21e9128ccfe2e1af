#!/bin/sh
# copy.sh: copies the shared folder's tree in and out until told to stop, checking every copy.
# /mnt/in and its checksums come from the host, which compares /mnt/out with it at the end.

stop=
trap 'stop=1' TERM
round=0
while [ -z "$stop" ]; do
    round=$((round + 1))
    rm -rf /scratch/copy "/mnt/out.new"
    cp -a /mnt/in /scratch/copy || exit 1
    (cd /scratch/copy && md5sum -c -s ../../mnt/sums) || exit 2
    cp -a /scratch/copy /mnt/out.new || exit 3
    (cd /mnt/out.new && md5sum -c -s ../sums) || exit 4
    rm -rf /mnt/out
    mv /mnt/out.new /mnt/out || exit 5
    echo "round $round"
done
echo "copied $round times"
