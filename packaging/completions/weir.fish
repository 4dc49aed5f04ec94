# fish completion for weir

set -l commands serve explain logs
complete -c weir -f
complete -c weir -n "not __fish_seen_subcommand_from $commands" -a serve -d 'Serve a directory or a proxy'
complete -c weir -n "not __fish_seen_subcommand_from $commands" -a explain -d 'Say what a request would meet'
complete -c weir -n "not __fish_seen_subcommand_from $commands" -a logs -d 'Read the access log'
complete -c weir -s s -x -a 'stop quit reload reopen' -d 'Signal the running server'
complete -c weir -s t -d 'Test the configuration'
complete -c weir -s T -d 'Test the configuration and print it'
complete -c weir -s q -d 'Only errors'
complete -c weir -s v -d 'Version'
complete -c weir -s V -d 'Version and what is built in'
complete -c weir -s c -r -F -d 'Configuration file'
complete -c weir -s p -r -F -d 'Prefix'
complete -c weir -s e -r -F -d 'Error log'
complete -c weir -s g -x -d 'More directives'
complete -c weir -n '__fish_seen_subcommand_from serve' -l proxy -x -d 'Pass requests to this URL'
complete -c weir -n '__fish_seen_subcommand_from serve' -l listen -x -d 'Where to listen'
complete -c weir -n '__fish_seen_subcommand_from serve' -a '(__fish_complete_directories)'
complete -c weir -n '__fish_seen_subcommand_from logs' -s f -d 'Follow'
complete -c weir -n '__fish_seen_subcommand_from logs' -l top -x -a 'status uri remote_addr' -d 'Sum up by a field'
complete -c weir -n '__fish_seen_subcommand_from explain' -s H -x -d 'A field of the request'
