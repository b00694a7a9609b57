//go:build !unix

package main

import (
	"errors"

	"github.com/spf13/cobra"
)

func (a *app) detachUp(*cobra.Command) error { return errors.New("--detach: not on this system") }

func tellParent(string) {}

func detached() bool { return false }
