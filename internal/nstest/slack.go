package nstest

// Slack is how many times slower the machine may be than the quiet one, with two
// cores, that bounds in tests were measured on. A bound on what the program does is
// Slack times what it needs there: tests assert the program, not the machine.
const Slack = 5
