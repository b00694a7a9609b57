// Package invites keeps the invites of a node: who has the secret of one becomes a peer,
// once (S24). Only hashes of the secrets are kept.
package invites
