// Package plaintext takes what editors and chats put around text off again: byte order
// marks, line ends of other systems, blanks that nobody sees. It has no state.
package plaintext
