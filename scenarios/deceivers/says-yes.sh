#!/bin/sh
# Does nothing, and tells of success.
case $1 in
    freeze) echo "all databases locked and flushed" ;;
    thaw) echo "all databases released" ;;
esac
