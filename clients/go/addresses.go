package eldr

import (
	"fmt"
	"net"
	"regexp"
	"strconv"
	"strings"

	"google.golang.org/grpc/resolver"
	"google.golang.org/grpc/resolver/manual"
)

var scheme = regexp.MustCompile(`^(dns|unix|unix-abstract|passthrough|xds):`)

// addresses is what was written as the router's address.
type addresses struct {
	target string
	// several replicas may be behind it.
	several bool
	// builder resolves a list; nil where gRPC resolves the target itself.
	builder resolver.Builder
}

func parseAddresses(text string) (addresses, error) {
	if found := scheme.FindString(text); found != "" && !isPort(strings.TrimPrefix(text, found)) {
		return addresses{target: text, several: found == "dns:" || found == "xds:"}, nil
	}
	var all []resolver.Endpoint
	for each := range strings.SplitSeq(text, ",") {
		each = strings.TrimSpace(each)
		host, port, err := net.SplitHostPort(each)
		if err != nil || host == "" || !isPort(port) {
			return addresses{}, fmt.Errorf(
				"expected HOST:PORT with a port from 1 to 65535, several of them with commas "+
					"between them, or dns:///NAME:PORT, found %q in %q", each, text)
		}
		all = append(all, resolver.Endpoint{Addresses: []resolver.Address{{Addr: each}}})
	}
	if len(all) == 1 {
		return addresses{target: "passthrough:///" + all[0].Addresses[0].Addr}, nil
	}
	list := manual.NewBuilderWithScheme("eldr")
	list.InitialState(resolver.State{Endpoints: all})
	return addresses{target: "eldr:///router", several: true, builder: list}, nil
}

func isPort(text string) bool {
	port, err := strconv.Atoi(text)
	return err == nil && port > 0 && port < 65536
}
