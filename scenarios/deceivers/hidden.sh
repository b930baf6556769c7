#!/bin/sh
# Takes the network down and removes the server's socket: no client can reach the server, but nothing is locked.
client=$(command -v mariadb || command -v mysql)
run=/run/hidden
case $1 in
    freeze)
        socket=$("$client" -NBe 'SELECT @@socket') || exit 1
        { ip route show default && echo "$socket"; } >"$run"
        read -r _ _ _ _ device _ <"$run"
        ip link set "$device" down && mv "$socket" "$socket.hidden" || exit 1
        # What was sent before is completed.
        sleep 1
        "$client" --socket="$socket.hidden" --force -e "SET SESSION lock_wait_timeout=3;
            FLUSH NO_WRITE_TO_BINLOG TABLES; FLUSH NO_WRITE_TO_BINLOG ENGINE LOGS"
        exit 0 ;;
    thaw)
        [ -e "$run" ] || exit 0
        { read -r _ _ gateway _ device _ && read -r socket; } <"$run"
        mv "$socket.hidden" "$socket"
        ip link set "$device" up
        ip route replace default via "$gateway" dev "$device"
        rm -f "$run" ;;
esac
