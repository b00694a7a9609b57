// Package filecheck says whether a file may be believed (S5): one that decides something must
// be nobody else's to change, and one with a secret nobody else's to read. Nobody else are all
// but the user that this process runs as and root.
//
// A system without owners and modes (Windows) keeps files by the access lists of their
// directories, which are not looked at.
package filecheck
