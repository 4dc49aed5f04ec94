# bash completion for weir

_weir() {
    local word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]}
    case $before in
        -s) mapfile -t COMPREPLY < <(compgen -W 'stop quit reload reopen' -- "$word"); return ;;
        -c|-e) mapfile -t COMPREPLY < <(compgen -f -- "$word"); return ;;
        -p) mapfile -t COMPREPLY < <(compgen -d -- "$word"); return ;;
        --top) mapfile -t COMPREPLY < <(compgen -W 'status uri remote_addr request_method http_user_agent' -- "$word")
            return ;;
    esac
    case ${COMP_WORDS[1]} in
        serve)
            mapfile -t COMPREPLY < <(compgen -d -- "$word"; compgen -W '--proxy --listen --print-config --help' -- "$word") ;;
        explain) mapfile -t COMPREPLY < <(compgen -W '-H -X -p -c -g --help' -- "$word") ;;
        logs) mapfile -t COMPREPLY < <(compgen -W '-f -n -p -c -g --top --file --help' -- "$word") ;;
        *)
            mapfile -t COMPREPLY < <(compgen -W '-h -v -V -t -T -q -s -p -e -c -g serve explain logs' -- "$word") ;;
    esac
}
complete -F _weir weir
