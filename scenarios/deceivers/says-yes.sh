#!/bin/sh
# Does nothing, and reports success.
case $1 in
    freeze) echo "all databases locked and flushed" ;;
    thaw) echo "all databases released" ;;
esac
