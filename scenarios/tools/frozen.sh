# shellcheck shell=sh
# Sourced by the scripts that freeze the guest themselves: however such a script ends, it thaws the guest. A thaw that
# fails says that the backup is not to be trusted, and so does the script then.
may_be_frozen=

freeze() {
    # A freeze that libvirt has given up on may still come.
    may_be_frozen=yes
    virsh -q domfsfreeze "$FREEZEFRAME_DOMAIN"
}

thaw() {
    [ -n "$may_be_frozen" ] || return 0
    may_be_frozen=
    virsh -q domfsthaw "$FREEZEFRAME_DOMAIN" && return
    # An agent that libvirt has given up on may still be in its freeze, and answers only afterwards.
    for _ in $(seq 20); do
        sleep 1
        if virsh -q domfsthaw "$FREEZEFRAME_DOMAIN"; then break; fi
    done
    return 1
}

# What else is to be done at the end; a script may replace it.
clean_up() { :; }

at_end() {
    status=$1
    trap - EXIT INT TERM
    thaw || status=1
    clean_up || status=1
    exit "$status"
}
trap 'at_end $?' EXIT
trap 'at_end 130' INT
trap 'at_end 143' TERM

# A text inside XML.
xml() { printf %s "$1" | sed "s/&/\&amp;/g; s/</\&lt;/g; s/'/\&apos;/g"; }
