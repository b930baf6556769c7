#!/bin/sh
# A hook that waits for a long statement to end.
case $1 in
    freeze) sleep 6 ;;
esac
