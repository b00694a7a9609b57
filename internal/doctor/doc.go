// Package doctor looks at a host as its programs see it, and says what keeps nodetun from
// working there and what helps.
//
// Facts come first, findings are made of them alone: Host and Names gather, their Findings
// judge. Nothing is changed. Names are asked for through the C library, by the program
// getent, as ssh asks for them; and at the servers of resolv.conf one by one, to tell which
// of them is to blame.
package doctor
