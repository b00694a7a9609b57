package main

// The files follow the commands: one for each subcommand, with its flags in it.
// root.go holds what they share, exit.go the exit codes, output.go the forms of
// output. What a running node knows is asked through internal/localapi; without
// one daemon.Offline answers from the files. Messages are lower case, one line,
// to stderr, and say what to do.
