// Command bench compares nodetun with wireguard-go and with a bare cable, in
// network namespaces of one machine. scripts/bench builds and calls it.
//
// Every contender is set up once, in two namespaces of its own, and stays until
// the end. Then each round measures each of them, one after the other, so that
// what the machine does besides touches all alike. The table shows medians, and
// their ratios to wireguard-go of the same run; figures of two runs cannot be
// compared.
//
// The programs: wireguard-go from the module that is a dependency already,
// iperf3 for throughput, ping, and for connections and requests this program
// itself (`bench serve`, `bench ask`), started inside the namespaces.
package main
