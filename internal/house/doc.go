// Package house holds no code: its test keeps the layout of the project. It
// fails when a package imports against the arrows of ARCHITECTURE.md, when an
// outside module is imported away from its one home, or when a package lacks
// its doc.go.
package house
