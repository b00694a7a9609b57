package doctor

import (
	"errors"
	"io/fs"
	"os"
)

// tunDevice is where interfaces are made (Documentation/networking/tuntap.rst).
const tunDevice = "/dev/net/tun"

// device judges whether a TUN can be made; nil where only root can tell.
func device() *Finding {
	f, err := os.OpenFile(tunDevice, os.O_RDWR, 0)
	switch {
	case err == nil:
		_ = f.Close()
		return &Finding{Subject: "tunnel", OK: true, Text: tunDevice + " can be opened"}
	case errors.Is(err, fs.ErrPermission) && os.Geteuid() != 0:
		return nil
	case errors.Is(err, fs.ErrNotExist):
		return &Finding{Subject: "tunnel", Text: "there is no " + tunDevice, Fix: "sudo modprobe tun; in a container: let it have that device (--device " + tunDevice + ")"}
	}
	return &Finding{Subject: "tunnel", Text: err.Error(), Fix: "sudo modprobe tun; in a container: let it have that device (--device " + tunDevice + ") and CAP_NET_ADMIN"}
}
