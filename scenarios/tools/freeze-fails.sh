#!/bin/sh
# A hook that cannot quiesce its database, and says so.
case $1 in
    freeze) echo "the database cannot be locked" >&2 && exit 1 ;;
esac
