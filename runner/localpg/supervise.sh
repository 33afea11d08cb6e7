# Runs a server for as long as standard input stays open, however our parent ends. Called as: supervise.sh REMOVE SIGNAL SERVER ARGS…
# When the input closes, the server is stopped, with SIGNAL first, and the folder REMOVE is removed where it is not empty text.
remove=$1; signal=$2; shift 2
exec 3<&0 </dev/null
"$@" 3<&- &
server=$!
closed=
trap 'closed=yes' USR1
(
  read -r line <&3
  kill -USR1 $$
  tries=0
  while kill -0 "$server" 2>/dev/null; do
    if [ $tries -lt 100 ]; then kill -"$signal" "$server"
    elif [ $tries -lt 150 ]; then kill -QUIT "$server"
    else kill -KILL "$server"
    fi 2>/dev/null
    tries=$((tries + 1))
    sleep 0.1
  done
) &
watcher=$!
trap '' INT TERM HUP   # only now: the watcher has to mind them
# The signal ends a wait before the server has ended.
while :; do
  wait "$server"; code=$?
  kill -0 "$server" 2>/dev/null || break
done
kill "$watcher" 2>/dev/null
wait "$watcher" 2>/dev/null
if [ -n "$closed" ] && [ -n "$remove" ]; then rm -rf "$remove"; fi
exit "$code"
