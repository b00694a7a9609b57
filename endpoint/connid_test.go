package endpoint

import "testing"

// No packet to us may look like disco, whose magic begins with what could be a
// short header: 54, then 53 f0 9f 92 ac where the connection id stands.
func TestConnectionIDs(t *testing.T) {
	seen := make(map[string]bool)
	for range 20_000 {
		id, err := connIDs{}.GenerateConnectionID()
		if err != nil {
			t.Fatal(err)
		}
		b := id.Bytes()
		switch {
		case len(b) != 17:
			t.Fatalf("%d bytes", len(b))
		case b[0] == discoMagic1:
			t.Fatalf("%x", b)
		case seen[string(b)]:
			t.Fatalf("%x twice", b)
		}
		seen[string(b)] = true
	}
}
